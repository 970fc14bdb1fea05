"""The results of a segmenter in its card."""

from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry

from ..evaluation.report.mask_page import HOW as HOW_SCORED
from ..evaluation.report.mask_page import dice_picture, tables, things_to_look_at
from ..evaluation.report.mask_report import MaskReport
from ..evaluation.report.stored import MASK_KIND
from ..evaluation.report.tables import TextTable
from ..metrics.overlap import OverlapResult
from ..pages.formats import format_defined, format_interval
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

REPORT_KIND, METRIC, TAG = MASK_KIND, "dice", "image-segmentation"
FIGURE = "Dice of each label with its interval, beside the mean-mask prior"
HOW = (
    "Mean Dice with its 95 % interval, resampled by patient where patients are known. Mean-mask prior: the Dice of "
    "the training images' mean mask, whatever the picture shows."
)
WHOLE = "with paired comparisons and subgroups"


def figures(reports: Sequence[MaskReport]) -> dict[str, MaskReport]:
    """Each report by the path of its figure."""
    return {f"figures/dice-{number}-{each.task['name']}.png": each for number, each in enumerate(reports, start=1)}


def picture(report: MaskReport) -> bytes:
    """The figure."""
    return dice_picture(report)


def entries(report: MaskReport) -> list[EvalResultEntry]:
    """The mean Dice, for the leaderboard of the dataset."""
    notes = f"mean Dice of {len(report.labels)} labels, split {report.split}"
    return leaderboard_entries(report.task["name"], report.dataset, report.dice[-1].mean, notes)


def results(report: MaskReport) -> list[EvalResult]:
    """The mean Dice of the test and that of each label."""
    values = {"mean Dice": report.dice[-1].mean} | {f"Dice, {each.label}": each.mean for each in report.dice[:-1]}
    return defined_results(TAG, report.task["name"], report.dataset, report.split, METRIC, values)


def section(figure: str, report: MaskReport) -> dict[str, Any]:
    """What the template tells of one report, whose figure has this path."""
    return {
        "title": f"{report.task['name']} on {cell(report.dataset)}, {report.split}",
        "leaks": [escaped(each) for each in report.leaks],
        "look_at": [escaped(each) for each in things_to_look_at(report) if each not in report.leaks],
        "figure": figure,
        "table": table_text(tables(report)[0]),
        "matched_labels": "",
        "how": HOW_SCORED,
    }


def overview(reports: Sequence[MaskReport]) -> str:
    """One row per report."""
    header = ["task", "mean Dice", "mean-mask prior", "labels", "images", "patients", "dataset"]
    rows = [
        [
            f"`{report.task['name']}`",
            _cell(report.dice[-1]),
            "not computed" if report.prior_dice is None else _cell(report.prior_dice[-1]),
            f"{len(report.labels)}",
            *sizes(report),
            f"{report.dataset}, {report.split}",
        ]
        for report in reports
    ]
    return overview_text(TextTable("", header, rows))


def _cell(result: OverlapResult) -> str:
    return with_interval(format_defined(result.mean), format_interval(result.ci_low, result.ci_high))
