"""The figures of a task's test: SVG to stand in its page. Curves are small multiples, a panel a label."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...metrics.curves import LabelCurves
from ...metrics.operating_point import OperatingPointResult
from ...metrics.subgroups import SubgroupResult
from ...pages.figures import (
    BLUE,
    GREEN,
    ORANGE,
    SOFT,
    WIDTH,
    draw_intervals,
    interval_plot,
    name_rows,
    new_axes,
    short,
    style,
    to_png,
    to_svg,
)
from .task_report import LabelCalibration, TaskReport

MOST_NUMBERED_CLASSES = 8
Place = Callable[[Any, Any], tuple[np.ndarray, np.ndarray]]  # coordinates within a panel to those of the figure


def task_figures(key: str, report: TaskReport) -> dict[str, str]:
    """All figures of a report by caption; `key` is unique in the page."""
    figures = {"AUROC": auroc_plot(f"{key}-auroc", report)}
    figures["ROC, with the operating point"] = roc_panels(f"{key}-roc", report.curves, report.operating_points)
    figures["Precision and recall, with the share of positives"] = precision_panels(
        f"{key}-precision", report.curves, report.operating_points
    )
    before = "" if report.calibration_before is None else "; orange: before the temperature"
    figures[f"Calibration{before}"] = calibration_panels(
        f"{key}-calibration", report.calibration, report.calibration_before
    )
    if report.confusion is not None:
        names = [result.label for result in report.labels]
        caption = "Confusion: of the row's class, % called the column's"
        figures[caption] = confusion_map(f"{key}-confusion", names, report.confusion)
    else:
        figures["At the operating points"] = operating_point_plot(f"{key}-points", report.operating_points)
    overall = [group.auroc.value for results in report.subgroups.values() for group in results[-1].groups]
    if not np.isnan(overall).all():
        figures["Subgroups"] = subgroup_plot(f"{key}-subgroups", report.subgroups)
    return figures


def auroc_plot(name: str, report: TaskReport) -> str:
    colours = {"model": BLUE, "shortcut baseline": ORANGE}
    return interval_plot(name, [r.label for r in report.labels], _auroc_series(report), colours, "AUROC", 0.5)


def auroc_picture(report: TaskReport) -> bytes:
    """The same as a PNG on white, for where pages may not style a figure."""
    colours = {"model": "#2f6fb7", "shortcut baseline": "#c2691a"}
    with style():
        axes = draw_intervals([r.label for r in report.labels], _auroc_series(report), colours, "AUROC", 0.5)
        return to_png(axes.figure)


def _auroc_series(report: TaskReport) -> dict[str, list[list[float]]]:
    series = {"model": [[r.auroc, r.ci_low, r.ci_high] for r in report.labels]}
    if report.baseline_labels is not None:
        series["shortcut baseline"] = [[r.auroc, r.ci_low, r.ci_high] for r in report.baseline_labels]
    return series


def operating_point_plot(name: str, points: Sequence[OperatingPointResult]) -> str:
    series = {
        "sensitivity": [[p.sensitivity, p.sensitivity_low, p.sensitivity_high] for p in points],
        "specificity": [[p.specificity, p.specificity_low, p.specificity_high] for p in points],
    }
    colours = {"sensitivity": BLUE, "specificity": GREEN}
    return interval_plot(name, [point.label for point in points], series, colours, "share called rightly", 1)


def subgroup_plot(name: str, subgroups: Mapping[str, Sequence[SubgroupResult]]) -> str:
    """AUROC of each group, on the mean of the labels or on the only label; a line stands at 0.5."""
    groups = {
        f"{attribute} {group.group}": group.auroc
        for attribute, results in subgroups.items()
        for group in results[-1].groups
    }
    series = {"AUROC": [[each.value, each.low, each.high] for each in groups.values()]}
    what = "AUROC" if all(len(results) == 1 for results in subgroups.values()) else "mean AUROC"
    return interval_plot(name, list(groups), series, {"AUROC": BLUE}, what, 0.5)


def roc_panels(name: str, curves: Sequence[LabelCurves], points: Sequence[OperatingPointResult]) -> str:
    def draw(axes, at: Place, number: int) -> None:
        curve, point = curves[number], points[number]
        axes.plot(*at([0, 1], [0, 1]), color=SOFT, lw=0.7)
        axes.plot(*at(curve.false_positive_rate, curve.true_positive_rate), color=BLUE, lw=1.3)
        axes.plot(*at([1 - point.specificity], [point.sensitivity]), "o", ms=3.5, color=ORANGE)

    drawn = [bool(curve.recall) for curve in curves]
    return _panels(name, [curve.label for curve in curves], drawn, draw, "false positive rate", "true positive rate")


def precision_panels(name: str, curves: Sequence[LabelCurves], points: Sequence[OperatingPointResult]) -> str:
    def draw(axes, at: Place, number: int) -> None:
        curve, point = curves[number], points[number]
        axes.plot(*at([0, 1], [point.num_positive / point.num_known] * 2), color=SOFT, lw=0.7)
        axes.plot(*at(curve.recall, curve.precision), drawstyle="steps-pre", color=BLUE, lw=1.3)
        axes.plot(*at([point.sensitivity], [point.ppv]), "o", ms=3.5, color=ORANGE)

    drawn = [bool(curve.recall) for curve in curves]
    return _panels(name, [curve.label for curve in curves], drawn, draw, "recall", "precision")


def calibration_panels(
    name: str, calibration: Sequence[LabelCalibration], before: Sequence[LabelCalibration] | None = None
) -> str:
    """Observed share over claimed probability in ten bins; the larger a dot, the more images in its bin."""

    def draw(axes, at: Place, number: int) -> None:
        axes.plot(*at([0, 1], [0, 1]), color=SOFT, lw=0.7)
        for results, colour in ((before, ORANGE), (calibration, BLUE)):
            if results is not None:
                counts = np.array(results[number].curve_count)
                filled = counts > 0
                curve = results[number].curve_probability, results[number].curve_share
                across, up = at(*(np.array(each)[filled] for each in curve))
                axes.plot(across, up, color=colour, lw=1)
                axes.scatter(across, up, 3 + 25 * counts[filled] / counts.sum(), color=colour)

    drawn = [any(each.curve_count) for each in calibration]
    names = [each.label for each in calibration]
    return _panels(name, names, drawn, draw, "probability", "share of positives")


def confusion_map(name: str, classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Shares of each row; the counts stand in it if they fit."""
    from matplotlib.patches import Rectangle

    counts = np.array(confusion)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    upright = max(map(len, classes)) > 40 / len(classes)
    with style():
        axes = new_axes(min(WIDTH, 1.2 + 0.5 * len(classes)) + (0.9 if upright else 0))
        for row, column in np.argwhere(counts > 0):
            colour = BLUE if row == column else ORANGE
            alpha = 0.08 + 0.67 * shares[row, column]
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=colour, ec="none", alpha=alpha))
            text = f"{100 * shares[row, column]:.0f}"
            if len(classes) <= MOST_NUMBERED_CLASSES:
                text += f" %\n{counts[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5)
        axes.set_xlim(-0.5, len(classes) - 0.5)
        axes.set_xticks(range(len(classes)), [short(each, 20) for each in classes], rotation=90 if upright else 0)
        axes.set_xlabel("called")
        axes.grid(False)
        name_rows(axes, classes)
        return to_svg(axes.figure, name)


def _panels(
    name: str,
    labels: Sequence[str],
    drawn: Sequence[bool],
    draw: Callable[[Any, Place, int], None],
    across: str,
    up: str,
) -> str:
    """
    A square panel a label, from 0 to 1 both ways; a label that cannot be drawn says so.

    All panels share one pair of axes, each moved to its place: a pair for each would take matplotlib many seconds.
    """
    columns = next(number for number, most in ((1, 1), (2, 4), (3, 9), (4, math.inf)) if len(labels) <= most)
    rows = math.ceil(len(labels) / columns)
    size, longest = (8, 60 // columns) if columns < 4 else (6.5, 17)
    with style():
        axes = new_axes(3.1 if columns == 1 else 0.2 + rows * WIDTH / columns * 1.02)
        axes.set_axis_off()
        axes.set_aspect("equal")
        for number, label in enumerate(labels):
            row, column = divmod(number, columns)
            corner = np.array([column * 1.2, -row * 1.25])
            axes.plot(*(corner[:, None] + [[0, 0, 1], [1, 0, 0]]), color=SOFT, lw=0.8)
            axes.text(*(corner + [0.5, 1.03]), short(label, longest), ha="center", va="bottom", fontsize=size)
            if column == 0:
                axes.text(*(corner + [-0.04, 0]), "0", ha="right", va="center", fontsize=6.5)
                axes.text(*(corner + [-0.04, 1]), "1", ha="right", va="center", fontsize=6.5)
            if number + columns >= len(labels):
                axes.text(*(corner + [0, -0.04]), "0", ha="center", va="top", fontsize=6.5)
                axes.text(*(corner + [1, -0.04]), "1", ha="center", va="top", fontsize=6.5)
            if drawn[number]:
                draw(axes, partial(_shift, corner), number)
            else:
                axes.text(*(corner + 0.5), "undefined", ha="center", va="center", fontsize=6.5)
        middle = (columns - 1) * 1.2 / 2 + 0.5, -(rows - 1) * 1.25 / 2 + 0.5
        axes.text(middle[0], -(rows - 1) * 1.25 - 0.15, across, ha="center", va="top")
        axes.text(-0.15, middle[1], up, ha="right", va="center", rotation=90)
        return to_svg(axes.figure, name)


def _shift(corner: np.ndarray, across: Sequence[float], up: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    return corner[0] + np.asarray(across), corner[1] + np.asarray(up)
