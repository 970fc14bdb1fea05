"""Test results as files: JSON with every number, Markdown, and one HTML page with tables and figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_json, write_text
from ...inference.task_labels import DEFAULT_THRESHOLD
from ...metrics.auroc import LabelResult, MeanResult
from ...metrics.subgroups import SubgroupResult
from ...pages.formats import format_defined, format_interval, format_number
from ...pages.html import document, escape, html_figures, html_table, look_at
from ...provenance import package_version
from .figures import task_figures
from .gallery import Error, gallery
from .stored import KIND, VERSION
from .tables import TextTable, subgroup_tables, task_tables
from .task_report import TaskReport
from .text import NOTICE, full_text, how_it_was_made, matched_labels, subgroup_line

BADLY_CALIBRATED = 0.1
NUMBERS = "ten numbers of size, shape and grey levels reach"
# Where a label's AUROC lies of the baseline's interval, and where 0.5 lies of its own
AGAINST_THE_BASELINE = {
    "below": f"Worse than what {NUMBERS}",
    "within": f"Within the interval of what {NUMBERS}, which proves nothing",
}
AGAINST_CHANCE = {
    "above": "AUROC below 0.5, so that the opposite of the score tells more than the score (are labels swapped?)",
    "within": "Cannot be told from chance, as the interval holds 0.5",
}


def write_report(
    reports: Sequence[TaskReport],
    output_dir: Path,
    facts: Mapping[str, Any],
    sites: Mapping[str, list[SubgroupResult]] | None = None,
    errors: Sequence[Sequence[Error]] = (),
) -> Path:
    """
    Writes `report.json`, `report.md` and `report.html`; returns the last one's path.

    Args:
        facts: What else stands at the top of the JSON, such as the name of the `model`, the `command`, and the number
            of resamples, `bootstrap`. The day and the version of ark-hf are added.
        sites: Results by dataset of heads that were tested on several, from [`compare_sites`].
        errors: Of each report what its gallery shows, from [`draw_errors`]; in the page alone.
    """
    sites = sites or {}
    facts = {"date": datetime.now(UTC).date().isoformat(), "ark_hf": package_version(), **facts}
    output_dir.mkdir(parents=True, exist_ok=True)
    values = {
        "kind": KIND,
        "version": VERSION,
        "notice": NOTICE,
        **facts,
        "tasks": [asdict(report) for report in reports],
        "sites": {task: [asdict(result) for result in results] for task, results in sites.items()},
    }
    write_json(output_dir / "report.json", values)
    write_text(output_dir / "report.md", full_text(reports, sites, facts))
    write_text(output_dir / "report.html", render_page(reports, facts, sites, errors))
    return output_dir / "report.html"


def render_page(
    reports: Sequence[TaskReport],
    facts: Mapping[str, Any],
    sites: Mapping[str, list[SubgroupResult]],
    errors: Sequence[Sequence[Error]] = (),
) -> str:
    """The page; a function of its arguments to the byte."""
    title = f"Evaluation: {facts['model']}" if "model" in facts else "Evaluation"
    parts = [f"<h1>{escape(title)}</h1>", f"<p><strong>{escape(NOTICE)}</strong></p>"]
    parts += [f"<p>{escape(line)}</p>" for line in how_it_was_made(facts)]
    if len(reports) > 1:
        parts.append(_overview(reports))
    for number, report in enumerate(reports):
        parts += [*_task(f"t{number}", report), gallery(errors[number] if errors else ())]
    for task, results in sites.items():
        parts.append(f"<h2>{escape(task)}, dataset against dataset</h2>")
        parts += [_html(table) for table in subgroup_tables("dataset", results)]
    return document(title, parts)


def things_to_look_at(report: TaskReport) -> list[str]:
    """Sentences on what a reader of the mean AUROC alone would miss."""
    found = list(report.leaks)
    undefined = [each.label for each in report.labels if each.num_positive in (0, each.num_known)]
    if undefined:
        found.append(f"Only one class is known, so that nothing can be said: {', '.join(undefined)}.")
    if report.baseline_labels is not None:
        pairs = list(zip(report.labels, report.baseline_labels, strict=True))
        for side, sentence in AGAINST_THE_BASELINE.items():
            on_it = [
                f"{ours.label} ({format_number(ours.auroc, digits=2)}, they {format_number(theirs.auroc, digits=2)})"
                for ours, theirs in pairs
                if _side(ours.auroc, theirs) == side
            ]
            if on_it:
                found.append(f"{sentence}: {', '.join(on_it)}.")
    for side, sentence in AGAINST_CHANCE.items():
        there = [each for each in report.labels if _side(0.5, each) == side]
        on_it = [f"{each.label} ({format_number(each.auroc, digits=2)})" for each in there]
        if on_it:
            found.append(f"{sentence}: {', '.join(on_it)}.")
    for attribute, results in report.subgroups.items():
        overall = results[-1]  # not each label: of many, some differ by chance
        gaps = {
            "AUROC": overall.auroc_gap,
            "Sensitivity": overall.sensitivity_gap,
            "Specificity": overall.specificity_gap,
        }
        found += [
            f"{metric} differs by {attribute}: gap {format_number(gap.value)} ({format_interval(gap.low, gap.high)})."
            for metric, gap in gaps.items()
            if gap.low > 0
        ]
    badly = [
        f"{each.label} ({format_number(each.ece, digits=2)})"
        for each in report.calibration
        if each.ece >= BADLY_CALIBRATED
    ]
    if badly:
        found.append(f"Probabilities are far from the shares of positives (ECE): {', '.join(badly)}.")
    if not report.thresholds_saved:
        found.append(
            f"The model has no operating points for this task; what is called positive is {DEFAULT_THRESHOLD}."
        )
    return found


def _side(value: float, interval: LabelResult | MeanResult) -> str:
    """Where a value lies of an AUROC's interval, or of the AUROC where it has none: "below", "within" or "above"."""
    if math.isnan(value) or math.isnan(interval.auroc):
        return ""
    low, high = np.fmin(interval.auroc, interval.ci_low), np.fmax(interval.auroc, interval.ci_high)
    return "below" if value < low else "above" if value > high else "within"


def _overview(reports: Sequence[TaskReport]) -> str:
    rows = []
    for report in reports:
        patients = "unknown" if report.num_patients is None else f"{report.num_patients:,}"
        baseline = None if report.baseline_mean is None else report.baseline_mean.auroc
        mean, count = format_defined(report.mean.auroc), f"{report.num_images:,}"
        labels = f"{report.mean.num_defined} of {report.mean.num_labels}"
        rows.append(
            [report.task, report.dataset, report.split, count, patients, labels, mean, format_number(baseline)]
        )
    header = ["task", "dataset", "split", "images", "patients", "labels", "mean AUROC", "shortcut baseline"]
    return html_table(header, rows)


def _task(key: str, report: TaskReport) -> list[str]:
    patients = "" if report.num_patients is None else f" of {report.num_patients:,} patients"
    kind = report.problem_type.replace("_classification", "").replace("_", "-")
    zero_shot = "" if report.matches is None else ", zero-shot"
    parts = [
        f"<h2>{escape(report.task)}{zero_shot}</h2>",
        f"<p>Dataset {escape(report.dataset)}, split {escape(report.split)}: {report.num_images:,} images{patients}. "
        f"Task {kind}, {len(report.labels)} labels.</p>",
        look_at(things_to_look_at(report)),
    ]
    if report.comparison is not None and report.comparison.results is None:
        parts.append(f"<p>New: {escape(report.comparison.other)} has no such head to compare with.</p>")
    parts += [f"<p>{escape(subgroup_line(attribute, results))}</p>" for attribute, results in report.subgroups.items()]
    parts.append(html_figures(task_figures(key, report)))
    parts += [_html(table) for table in task_tables(report)]
    lines = [line.removeprefix("- ") for line in matched_labels(report) if line]
    if lines:
        parts.append("<h3>What scored each label</h3>")
        parts += [f"<p>{escape(line)}</p>" for line in lines]
    return parts


def _html(table: TextTable) -> str:
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    body = html_table(table.header, table.rows)
    if table.folded:
        return f"<details><summary>{escape(table.title)}</summary>{body}{note}</details>"
    return f"<h3>{escape(table.title)}</h3>{body}{note}"
