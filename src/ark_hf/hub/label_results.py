"""The results of a classifier in its card."""

from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry

from ..evaluation.report.figures import auroc_picture
from ..evaluation.report.page import things_to_look_at
from ..evaluation.report.stored import KIND
from ..evaluation.report.tables import TextTable, auroc_cells, task_tables
from ..evaluation.report.task_report import TaskReport
from ..evaluation.report.text import matched_labels
from .card_parts import (
    cell,
    defined_results,
    escaped,
    leaderboard_entries,
    overview_text,
    sizes,
    table_text,
    with_interval,
)

REPORT_KIND, METRIC, TAG = KIND, "roc_auc", "image-classification"
FIGURE = "AUROC of each label with its interval, beside the shortcut baseline"
HOW = (
    "Mean AUROC with its 95 % interval, resampled by patient where patients are known. Shortcut baseline: logistic "
    "regression on ten global image statistics (of a volume eleven), fitted on train."
)
WHOLE = "with operating points, calibration, curves and subgroups"


def figures(reports: Sequence[TaskReport]) -> dict[str, TaskReport]:
    """Each report by the path of its figure."""
    return {f"figures/auroc-{number}-{each.task}.png": each for number, each in enumerate(reports, start=1)}


def picture(report: TaskReport) -> bytes:
    """The figure."""
    return auroc_picture(report)


def entries(report: TaskReport) -> list[EvalResultEntry]:
    """The mean AUROC, for the leaderboard of the dataset."""
    notes = f"mean AUROC of {report.mean.num_defined} labels, split {report.split}"
    return leaderboard_entries(report.task, report.dataset, report.mean.auroc, notes)


def results(report: TaskReport) -> list[EvalResult]:
    """The mean test AUROC and that of each label."""
    values = {"mean AUROC": report.mean.auroc} | {f"AUROC, {each.label}": each.auroc for each in report.labels}
    return defined_results(TAG, report.task, report.dataset, report.split, METRIC, values)


def section(figure: str, report: TaskReport) -> dict[str, Any]:
    """What the template tells of one report, whose figure has this path."""
    zero_shot = "" if report.matches is None else ", zero-shot"
    return {
        "title": f"{report.task}{zero_shot} on {cell(report.dataset)}, {report.split}",
        "leaks": [escaped(each) for each in report.leaks],
        "look_at": [escaped(each) for each in things_to_look_at(report) if each not in report.leaks],
        "figure": figure,
        "table": table_text(task_tables(report)[0]),
        "matched_labels": escaped("\n".join(matched_labels(report)).strip()),
    }


def overview(reports: Sequence[TaskReport]) -> str:
    """One row per report."""
    header = ["task", "mean AUROC", "shortcut baseline", "labels", "images", "patients", "dataset"]
    rows = [
        [
            f"`{report.task}`{'' if report.matches is None else ', zero-shot'}",
            with_interval(*auroc_cells(report.mean)),
            with_interval(*auroc_cells(report.baseline_mean)),
            _labels(report),
            *sizes(report),
            f"{report.dataset}, {report.split}",
        ]
        for report in reports
    ]
    return overview_text(TextTable("", header, rows))


def _labels(report: TaskReport) -> str:
    """How many the mean is over."""
    defined, evaluated = report.mean.num_defined, report.mean.num_labels
    return f"{defined}" if defined == evaluated else f"{defined} of {evaluated}"
