"""The report of probes: JSON, Markdown, one HTML page, and the figure of the few-shot curves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_json, write_text
from ...metrics.auroc import LabelResult, MeanResult
from ...pages.formats import format_defined, format_interval
from ..report.tables import TextTable
from ..report.text import table_lines
from .few_shot import ShotResult, draw_curve
from .neighbours import Similar
from .probe_page import render_page
from .probe_task import ProbeReport
from .retrieval import RetrievalResult
from .shortcut_probe import ShortcutResult

FEW_SHOT, SHORTCUTS = "Few-shot", "What else the embeddings know"
FOOTNOTE = (
    "Probe: logistic regression on standardised embeddings, fitted on train, its regularisation chosen by "
    "cross-validation over patients; test was scored once. Shortcut baseline: logistic regression on ten global image "
    "statistics, fitted on train."
)


def write_probe_report(
    reports: list[ProbeReport],
    sources: ShortcutResult | None,
    output_dir: Path,
    facts: dict[str, Any],
    similar: Mapping[str, Sequence[Similar]] | None = None,
) -> Path:
    """
    Writes `probe.json`, `probe.md`, `probe.html` and, with few-shot curves, `few_shot.png`; returns the page's path.

    Args:
        similar: By dataset, pictures and their neighbours for the page.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    curves = {report.dataset: report.few_shot for report in reports if report.few_shot}
    if curves:
        draw_curve(curves, output_dir / "few_shot.png")
    results = [asdict(report) for report in reports]
    write_json(
        output_dir / "probe.json", {**facts, "tasks": results, "sources": None if sources is None else asdict(sources)}
    )
    write_text(output_dir / "probe.md", "# Linear probes\n\n" + probe_text(reports, sources))
    tables = {report.dataset: probe_tables(report) for report in reports}
    last = [] if sources is None else [_sources_table(sources)]
    page = render_page(reports, tables, last, facts, FOOTNOTE, similar or {})
    write_text(output_dir / "probe.html", page)
    return output_dir / "probe.html"


def probe_text(reports: Sequence[ProbeReport], sources: ShortcutResult | None) -> str:
    """The reports as Markdown."""
    parts = []
    for report in reports:
        first, *others = probe_tables(report)
        parts.append("\n".join([f"## {first.title}", "", *table_lines(first)]))
        for table in others:
            figure = ["", "![Curve](few_shot.png)"] if table.title == FEW_SHOT else []
            parts.append("\n".join([f"### {table.title}", "", *table_lines(table), *figure]))
    if sources is not None:
        table = _sources_table(sources)
        parts.append("\n".join([f"## {table.title}", "", *table_lines(table)]))
    return "\n\n".join([*parts, FOOTNOTE]) + "\n"


def probe_tables(report: ProbeReport) -> list[TextTable]:
    """What a report holds; the first is of the probes themselves."""
    tables = [_probe_table(report)]
    if report.few_shot is not None:
        tables.append(_few_shot_table(report.few_shot))
    if report.retrieval is not None:
        tables.append(_retrieval_table(report.retrieval, report.neighbours or 0))
    if report.shortcuts == []:
        note = "The dataset knows neither sex nor view of its patients in both splits."
        tables.append(TextTable(SHORTCUTS, ["attribute"], [["none"]], note))
    for result in report.shortcuts or []:
        tables.append(_shortcut_table(f"{SHORTCUTS}: {result.attribute}", result))
    return tables


def _sources_table(sources: ShortcutResult) -> TextTable:
    return _shortcut_table("Which dataset an image is of", sources)


def _probe_table(report: ProbeReport) -> TextTable:
    patients = "" if report.num_test_patients is None else f" of {report.num_test_patients} patients"
    title = f"{report.dataset}, {report.task} (test: {report.num_test} images{patients}; train: {report.num_train})"
    header = ["label", "positives", "AUROC", "95 % interval", "shortcut baseline", "95 % interval", "regularisation"]
    rows = []
    single = len(report.choices) < len(report.labels)
    for number, (result, baseline) in enumerate(zip(report.labels, report.baseline_labels, strict=True)):
        strength = report.choices[0 if single else number].strength
        counts = f"{result.num_positive}/{result.num_known}"
        shown = "none" if np.isnan(strength) else f"{strength:.2g}"
        rows.append([result.label, counts, *_cells(result), *_cells(baseline), shown])
    rows.append([_mean_name(report.mean), "", *_cells(report.mean), *_cells(report.baseline_mean), ""])
    unit = "images" if report.num_test_patients is None else "patients"
    named = [report.task] if single else [result.label for result in report.labels]
    notes = [
        f" {name}: {choice.note} ({choice.num_known} known images in train"
        + ("" if choice.num_positive is None else f", {choice.num_positive} positive")
        + ")."
        for name, choice in zip(named, report.choices, strict=True)
        if choice.note
    ]
    note = f"Intervals: percentile bootstrap over {unit}. Positives and known images are those of test."
    return TextTable(title, header, rows, note + "".join(notes))


def _few_shot_table(curve: Sequence[ShotResult]) -> TextTable:
    rows = []
    for shot in curve:
        if shot.aurocs:
            mean = [format_defined(shot.mean), format_interval(shot.ci_low, shot.ci_high)]
            rows.append([shot.name, f"{shot.num_rows:.0f}", str(len(shot.aurocs)), *mean])
        else:
            rows.append([shot.name, "", f"none: {shot.note}", "", ""])
    header = ["training images", "in all", "probes", "mean AUROC", "95 % interval of the mean"]
    return TextTable(FEW_SHOT, header, rows, "Intervals: Student's t over the random subsets.")


def _retrieval_table(results: Sequence[RetrievalResult], neighbours: int) -> TextTable:
    rows = [
        [each.label, str(each.num_queries), format_defined(each.precision), format_defined(each.chance)]
        for each in results
    ]
    header = ["label", "test images with it", "precision", "chance"]
    return TextTable(f"Neighbours: precision at {neighbours}", header, rows)


def _shortcut_table(title: str, result: ShortcutResult) -> TextTable:
    header = [result.attribute, "test images", "AUROC", "95 % interval"]
    if result.note is not None:
        return TextTable(title, header, [["undefined", "", "", ""]], f"{result.attribute}: {result.note}.")
    rows = [[each.label, f"{each.num_positive}/{each.num_known}", *_cells(each)] for each in result.classes]
    rows.append([_mean_name(result.mean), "", *_cells(result.mean)])
    return TextTable(title, header, rows, "Chance is 0.5.")


def _cells(result: LabelResult | MeanResult) -> list[str]:
    return [format_defined(result.auroc), format_interval(result.ci_low, result.ci_high)]


def _mean_name(mean: MeanResult) -> str:
    return f"**mean of {mean.num_defined} of {mean.num_labels}**"
