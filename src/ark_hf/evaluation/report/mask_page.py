"""Tests of segmenters as files: JSON with every number, Markdown, and one HTML page with tables, figures, pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ...data.open_dataset import TaskDataset
from ...files import replacing, write_json, write_text
from ...metrics.overlap import OverlapResult, PairedOverlap
from ...pages.figures import BLUE, ORANGE, draw_intervals, interval_plot, style, to_png
from ...pages.formats import format_defined, format_interval, format_number, markdown_table
from ...pages.html import document, escape, html_figures, html_table, look_at
from ...provenance import package_version
from ..mask_scoring import ScoredMasks
from .mask_gallery import ShownMasks, mask_gallery
from .mask_report import MaskComparison, MaskReport
from .stored import MASK_KIND, VERSION
from .tables import TextTable
from .text import NOTICE, how_it_was_made

PRIOR = "mean-mask prior"
HOW = (
    "Dice, IoU and distances are of each image at its stored size, then means over images, then over labels. Where "
    "neither mask has a pixel all are undefined and left out; where one alone has, Dice and IoU are 0 and the "
    "distance is undefined. HD95 is the larger of the two directed 95th percentiles of the distances between borders. "
    "The prior is the mean mask of the training images, whatever the picture shows."
)


def write_mask_report(
    reports: Sequence[MaskReport],
    galleries: Sequence[Sequence[ShownMasks]],
    output_dir: Path,
    facts: Mapping[str, Any],
) -> Path:
    """
    Writes `report.json`, `report.md` and `report.html`; returns the last one's path.

    Args:
        galleries: Of each report the pictures, from [`draw_masks`]; in the page alone.
        facts: As of [`write_report`].
    """
    facts = {"date": datetime.now(UTC).date().isoformat(), "ark_hf": package_version(), **facts}
    output_dir.mkdir(parents=True, exist_ok=True)
    tasks = [asdict(report) for report in reports]
    values = {"kind": MASK_KIND, "version": VERSION, "notice": NOTICE, **facts, "tasks": tasks}
    write_json(output_dir / "report.json", values)
    write_text(output_dir / "report.md", _markdown(reports, facts))
    write_text(output_dir / "report.html", _page(reports, galleries, facts))
    return output_dir / "report.html"


def mask_text(reports: Sequence[MaskReport]) -> str:
    """The reports in short, to be printed."""
    lines = []
    for report in reports:
        lines += [
            *_table_lines(_title(report), _score_table(report)),
            *[f"- {sentence}" for sentence in things_to_look_at(report)],
        ]
        if report.comparison is not None:
            table = _comparison_table(report.task["name"], report.comparison)
            lines += ["", *_table_lines(table.title, table)]
        lines.append("")
    return "\n".join([*lines, HOW]) + "\n"


def things_to_look_at(report: MaskReport) -> list[str]:
    """Sentences on what a reader of the mean Dice alone would miss."""
    found = list(report.leaks)
    never = [each.label for each in report.dice[:-1] if not each.num_defined]
    if never:
        found.append(f"In no image, neither in the truth nor found: {', '.join(never)}.")
    missed = [
        f"{ours.label} ({ours.num_defined - theirs.num_defined:,} of {ours.num_defined:,} images)"
        for ours, theirs in zip(report.dice[:-1], report.hd95[:-1], strict=True)
        if ours.num_defined > theirs.num_defined
    ]
    if missed:
        found.append(f"Missed as a whole, or found where there is none, without a distance: {', '.join(missed)}.")
    no_better = [each.label for each in report.gain or () if not each.ci_low > 0 and not math.isnan(each.ci_low)]
    if no_better:
        found.append(f"Not shown to be better than the mean mask of training: {', '.join(no_better)}.")
    return found


def tables(report: MaskReport) -> list[TextTable]:
    """All tables of a report."""
    found = [_score_table(report)]
    if report.comparison is not None:
        found.append(_comparison_table(report.task["name"], report.comparison))
    if report.gain is not None:
        found.append(_paired_table("Against the mean-mask prior", "prior", "model", report.gain))
    for attribute, groups in report.subgroups.items():
        rows = [[each.group, str(each.num_images), *_cells(each.dice)] for each in groups]
        found.append(TextTable(f"Mean Dice by {attribute}", [attribute, "images", "Dice", "95 % interval"], rows))
    return found


def _score_table(report: MaskReport) -> TextTable:
    header = ["label", "images", "Dice", "95 % interval", "median", "IoU", f"HD95 ({report.distance_unit})"]
    header += ["its interval", "images with a distance"] + ["prior's Dice"] * (report.prior_dice is not None)
    rows = []
    for number, (of_dice, of_iou, distance) in enumerate(zip(report.dice, report.iou, report.hd95, strict=True)):
        row = [of_dice.label, f"{of_dice.num_defined:,}", *_cells(of_dice), format_defined(of_dice.median)]
        row += [format_defined(of_iou.mean), *_cells(distance, 1), f"{distance.num_defined:,}"]
        rows.append(row + ([format_defined(report.prior_dice[number].mean)] if report.prior_dice else []))
    return TextTable("Overlap", header, rows)


def _comparison_table(task: str, comparison: MaskComparison) -> TextTable:
    title = f"{task}: {comparison.model} against {comparison.other}"
    return _paired_table(title, comparison.other, comparison.model, comparison.results)


def _paired_table(title: str, other: str, model: str, results: Sequence[PairedOverlap]) -> TextTable:
    header = ["label", "images", f"Dice of {other}", f"of {model}", "difference", "95 % interval", "p"]
    rows = [
        [each.label, f"{each.num_defined:,}", format_defined(each.mean_a), format_defined(each.mean_b)]
        + [format_defined(each.difference, sign="+"), format_interval(each.ci_low, each.ci_high, sign="+")]
        + [format_number(each.p_value)]
        for each in results
    ]
    return TextTable(title, header, rows, "Paired: both on the same resampled patients.")


def _cells(result: OverlapResult, digits: int = 3) -> list[str]:
    return [format_defined(result.mean, digits), format_interval(result.ci_low, result.ci_high, digits=digits)]


def _title(report: MaskReport) -> str:
    patients = "" if report.num_patients is None else f" of {report.num_patients:,} patients"
    return f"{report.task['name']} on {report.dataset}, {report.split}: {report.num_images:,} images{patients}"


def _table_lines(title: str, table: TextTable) -> list[str]:
    note = [table.note, ""] if table.note else []
    return [f"## {title}", "", *markdown_table(table.header, table.rows), "", *note]


def _markdown(reports: Sequence[MaskReport], facts: Mapping[str, Any]) -> str:
    lines = ["# Evaluation", "", NOTICE]
    for line in (*how_it_was_made(facts), HOW):
        lines += ["", line]
    for report in reports:
        lines += ["", f"## {_title(report)}", "", *[f"- {sentence}" for sentence in things_to_look_at(report)]]
        for table in tables(report):
            lines += ["", f"### {table.title}", "", *markdown_table(table.header, table.rows)]
            lines += ["", table.note] if table.note else []
    return "\n".join(lines) + "\n"


def _page(reports: Sequence[MaskReport], galleries: Sequence[Sequence[ShownMasks]], facts: Mapping[str, Any]) -> str:
    title = f"Evaluation: {facts['model']}" if "model" in facts else "Evaluation"
    parts = [f"<h1>{escape(title)}</h1>", f"<p><strong>{escape(NOTICE)}</strong></p>"]
    parts += [f"<p>{escape(line)}</p>" for line in (*how_it_was_made(facts), HOW)]
    for number, (report, shown) in enumerate(zip(reports, galleries, strict=True)):
        parts += [f"<h2>{escape(_title(report))}</h2>", look_at(things_to_look_at(report))]
        for table in tables(report):
            parts += [f"<h3>{escape(table.title)}</h3>", html_table(table.header, table.rows)]
            parts += [f'<p class="note">{escape(table.note)}</p>'] if table.note else []
        parts += [html_figures({"Dice, with 95 % intervals": _figure(f"d{number}", report)}), mask_gallery(shown)]
    return document(title, parts)


def dice_picture(report: MaskReport) -> bytes:
    """The page's figure as a PNG on white, for where pages may not style one."""
    colours = {"model": "#2f6fb7", PRIOR: "#c2691a"}
    with style():
        axes = draw_intervals([each.label for each in report.dice], _series(report), colours, "Dice", 0.0)
        return to_png(axes.figure)


def _figure(name: str, report: MaskReport) -> str:
    colours = {"model": BLUE, PRIOR: ORANGE}
    return interval_plot(name, [each.label for each in report.dice], _series(report), colours, "Dice", 0.0)


def _series(report: MaskReport) -> dict[str, list[tuple[float, float, float]]]:
    series = {"model": [_values(each) for each in report.dice]}
    return series if report.prior_dice is None else series | {PRIOR: [_values(each) for each in report.prior_dice]}


def _values(result: OverlapResult) -> tuple[float, float, float]:
    return result.mean, result.ci_low, result.ci_high


def write_mask_table(path: Path, data: TaskDataset, scored: ScoredMasks, groups: Mapping[str, Sequence[str]]) -> None:
    """
    Writes a CSV file with a row per image of the split: its row, `image_id` and `patient_id` where they are known, its
    groups, and of each label `dice/LABEL`, `iou/LABEL` and `hd95/LABEL`, blank where undefined or unknown.

    It names patients: it is for whoever may see the dataset.
    """
    columns: dict[str, Any] = {"row": np.arange(len(scored.dice))}
    columns |= {
        name: values for name in ("image_id", "patient_id") if (values := data.column(scored.split, name)) is not None
    }
    columns |= {name: list(values) for name, values in groups.items()}
    for what in ("dice", "iou", "hd95"):
        for label, column in zip(data.task.labels, getattr(scored, what).T, strict=True):
            columns[f"{what}/{label}"] = pa.array(column, from_pandas=True)  # NaN is blank
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        pa.csv.write_csv(pa.table(columns), new)
