"""The report of probes: JSON, Markdown and the figure of the few-shot curves."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_json, write_text
from ...metrics.auroc import LabelResult, MeanResult
from ...pages.formats import format_defined, format_interval, markdown_table
from .few_shot import ShotResult, draw_curve
from .probe_task import ProbeReport
from .retrieval import RetrievalResult
from .shortcut_probe import ShortcutResult

FOOTNOTE = (
    "Probe: logistic regression on standardised embeddings, fitted on train, its regularisation chosen by "
    "cross-validation over patients; test was scored once. Shortcut baseline: logistic regression on ten global image "
    "statistics, fitted on train."
)


def write_probe_report(
    reports: list[ProbeReport], sources: ShortcutResult | None, output_dir: Path, facts: dict[str, Any]
) -> Path:
    """Writes `probe.json`, `probe.md` and, with few-shot curves, `few_shot.png`; returns the second's path."""
    output_dir.mkdir(parents=True, exist_ok=True)
    curves = {report.dataset: report.few_shot for report in reports if report.few_shot}
    if curves:
        draw_curve(curves, output_dir / "few_shot.png")
    results = [asdict(report) for report in reports]
    write_json(
        output_dir / "probe.json", {**facts, "tasks": results, "sources": None if sources is None else asdict(sources)}
    )
    write_text(output_dir / "probe.md", "# Linear probes\n\n" + probe_text(reports, sources))
    return output_dir / "probe.md"


def probe_text(reports: Sequence[ProbeReport], sources: ShortcutResult | None) -> str:
    """The reports as Markdown."""
    parts = []
    for report in reports:
        parts.append(_probe_table(report))
        if report.few_shot is not None:
            parts.append(_few_shot_table(report.few_shot))
        if report.retrieval is not None:
            parts.append(_retrieval_table(report.retrieval, report.neighbours or 0))
        if report.shortcuts is not None:
            known = (
                "" if report.shortcuts else " The dataset knows neither sex nor view of its patients in both splits."
            )
            parts.append(f"### What else the embeddings know\n\nChance is 0.5.{known}")
            parts += map(_shortcut_table, report.shortcuts)
    if sources is not None:
        parts += ["## Which dataset an image is of\n\nChance is 0.5.", _shortcut_table(sources)]
    return "\n\n".join([*parts, FOOTNOTE]) + "\n"


def _probe_table(report: ProbeReport) -> str:
    patients = "" if report.num_test_patients is None else f" of {report.num_test_patients} patients"
    lines = [
        f"## {report.dataset}, {report.task} (test: {report.num_test} images{patients}; train: {report.num_train})",
        "",
    ]
    header = ["label", "positives", "AUROC", "95 % interval", "shortcut baseline", "95 % interval", "regularisation"]
    rows = []
    single = len(report.choices) < len(report.labels)
    for number, (result, baseline) in enumerate(zip(report.labels, report.baseline_labels, strict=True)):
        strength = report.choices[0 if single else number].strength
        counts = f"{result.num_positive}/{result.num_known}"
        shown = "none" if np.isnan(strength) else f"{strength:.2g}"
        rows.append([result.label, counts, *_cells(result), *_cells(baseline), shown])
    rows.append([_mean_name(report.mean), "", *_cells(report.mean), *_cells(report.baseline_mean), ""])
    lines += markdown_table(header, rows)
    unit = "images" if report.num_test_patients is None else "patients"
    lines += ["", f"Intervals: percentile bootstrap over {unit}. Positives and known images are those of test."]
    named = [report.task] if single else [result.label for result in report.labels]
    notes = [
        f"- {name}: {choice.note} ({choice.num_known} known images in train"
        + ("" if choice.num_positive is None else f", {choice.num_positive} positive")
        + ")."
        for name, choice in zip(named, report.choices, strict=True)
        if choice.note
    ]
    return "\n".join([*lines, *([""] + notes if notes else [])])


def _few_shot_table(curve: Sequence[ShotResult]) -> str:
    rows = []
    for shot in curve:
        if shot.aurocs:
            mean = [format_defined(shot.mean), format_interval(shot.ci_low, shot.ci_high)]
            rows.append([shot.name, f"{shot.num_rows:.0f}", len(shot.aurocs), *mean])
        else:
            rows.append([shot.name, "", f"none: {shot.note}", "", ""])
    header = ["training images", "in all", "probes", "mean AUROC", "95 % interval of the mean"]
    note = "Intervals: Student's t over the random subsets. ![Curve](few_shot.png)"
    return "\n".join(["### Few-shot", "", *markdown_table(header, rows), "", note])


def _retrieval_table(results: Sequence[RetrievalResult], neighbours: int) -> str:
    rows = [
        [each.label, each.num_queries, format_defined(each.precision), format_defined(each.chance)] for each in results
    ]
    header = ["label", "test images with it", "precision", "chance"]
    return "\n".join([f"### Neighbours: precision at {neighbours}", "", *markdown_table(header, rows)])


def _shortcut_table(result: ShortcutResult) -> str:
    if result.note is not None:
        return f"{result.attribute}: undefined, {result.note}."
    rows = [[each.label, f"{each.num_positive}/{each.num_known}", *_cells(each)] for each in result.classes]
    rows.append([_mean_name(result.mean), "", *_cells(result.mean)])
    return "\n".join(markdown_table([result.attribute, "test images", "AUROC", "95 % interval"], rows))


def _cells(result: LabelResult | MeanResult) -> list[str]:
    return [format_defined(result.auroc), format_interval(result.ci_low, result.ci_high)]


def _mean_name(mean: MeanResult) -> str:
    return f"**mean of {mean.num_defined} of {mean.num_labels}**"
