"""The figures of a data report: SVG to stand in its page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...pages.figures import BLUE, FAINT, GREEN, ORANGE, SOFT, WIDTH, legend, name_rows, new_axes, short, style, to_svg

SPLIT_COLOURS = {"train": BLUE, "validation": ORANGE, "test": GREEN}
STATE_COLOURS = {"positive": BLUE, "negative": SOFT, "uncertain": ORANGE, "unknown": FAINT}


def state_bars(name: str, counts: Mapping[str, Mapping[str, int]]) -> str:
    """For each label, the shares of images on which it is positive, negative, uncertain and unknown."""
    with style():
        axes = new_axes(0.6 + 0.2 * len(counts))
        totals = np.array([max(sum(states.values()), 1) for states in counts.values()])
        left = np.zeros(len(counts))
        for state, colour in STATE_COLOURS.items():
            shares = 100 * np.array([states[state] for states in counts.values()]) / totals
            axes.barh(np.arange(len(counts)), shares, 0.7, left, color=colour, label=state)
            left = left + shares
        name_rows(axes, list(counts))
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of images")
        legend(axes, 4)
        return to_svg(axes.figure, name)


def share_map(name: str, labels: Sequence[str], shares: np.ndarray) -> str:
    """A square of (labels, labels) shares; NaN and the diagonal stay empty. Numbers stand in it if they fit."""
    from matplotlib.patches import Rectangle

    with style():
        side = max(WIDTH, 1.4 + 0.21 * len(labels))
        axes = new_axes(side, side)
        for row, column in np.argwhere(shares > 0):
            if row != column:
                alpha = 0.08 + 0.67 * shares[row, column]
                axes.add_patch(
                    Rectangle((column - 0.5, row - 0.5), 1, 1, fc=SPLIT_COLOURS["train"], ec="none", alpha=alpha)
                )
                if len(labels) <= 16:
                    text = f"{100 * shares[row, column]:.0f}"
                    axes.text(column, row, text, ha="center", va="center", fontsize=6.5)
        axes.set_aspect("equal")
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_xticks(range(len(labels)), [short(label) for label in labels], rotation=90)
        axes.grid(False)
        name_rows(axes, labels)
        return to_svg(axes.figure, name)


def age_lines(name: str, ages: Mapping[str, Mapping[str, int]]) -> str:
    """By split, the share of images in each decade of age."""
    with style():
        axes = new_axes(2.4)
        last = max(int(decade) for counts in ages.values() for decade in counts)
        decades = range(0, last + 10, 10)
        for split, counts in ages.items():
            shares = [100 * counts.get(str(decade), 0) / max(sum(counts.values()), 1) for decade in decades]
            axes.stairs(shares, [*decades, last + 10], color=SPLIT_COLOURS[split], lw=1.4, label=split)
        axes.set_xlabel("age in years")
        axes.set_ylabel("% of images")
        axes.set_ylim(0)
        legend(axes, len(ages))
        return to_svg(axes.figure, name)


def box_plots(name: str, title: str, boxes: Mapping[str, Mapping[str, float]]) -> str:
    """By split, a box from the 25th to the 75th percentile with the median, and whiskers from the 5th to the 95th."""
    with style():
        axes = new_axes(0.55 + 0.25 * len(boxes))
        for number, (split, box) in enumerate(boxes.items()):
            line = {"color": SPLIT_COLOURS[split], "lw": 1.2}
            statistics: dict[str, Any] = {
                "whislo": box["p5"], "q1": box["p25"], "med": box["median"], "q3": box["p75"], "whishi": box["p95"],
            }  # fmt: skip
            axes.bxp(
                [statistics], positions=[number], widths=0.5, orientation="horizontal", showfliers=False,
                boxprops=line, medianprops=line | {"lw": 2.2}, whiskerprops=line, capprops=line,
            )  # fmt: skip
        name_rows(axes, list(boxes))
        axes.set_xlabel(title)
        return to_svg(axes.figure, name)
