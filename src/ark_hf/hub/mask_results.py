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
from .card_parts import cell, defined_results, escaped, leaderboard_entries, shown_tables, table_text

REPORT_KIND, METRIC, TAG = MASK_KIND, "dice", "image-segmentation"
FIGURE = "Dice of each label with its interval, beside the mean-mask prior"
HOW = f"Mean Dice with 95 % intervals, resampled by patient where patients are known. {HOW_SCORED}"
WHOLE = "with each label's subgroups"


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
    count = f"{report.num_images:,} images"
    count += "" if report.num_patients is None else f" of {report.num_patients:,} patients"
    return {
        "title": f"{report.task['name']}: {cell(report.dataset)}, {report.split}, {count}",
        "look_at": [escaped(each) for each in things_to_look_at(report)],
        "figure": figure,
        "tables": shown_tables(tables(report)),
        "matched_labels": "",
    }


def overview(reports: Sequence[MaskReport]) -> str:
    """One row a report."""
    header = ["task", "dataset", "split", "images", "labels", "mean Dice", "95 % interval", "mean-mask prior",
              "95 % interval"]  # fmt: skip
    rows = [
        [
            f"`{report.task['name']}`",
            report.dataset,
            report.split,
            f"{report.num_images:,}",
            f"{len(report.labels)}",
            *_cells(report.dice[-1]),
            *(["not computed", ""] if report.prior_dice is None else _cells(report.prior_dice[-1])),
        ]
        for report in reports
    ]
    return table_text(TextTable("", header, rows))


def _cells(result: OverlapResult) -> list[str]:
    return [format_defined(result.mean), format_interval(result.ci_low, result.ci_high)]
