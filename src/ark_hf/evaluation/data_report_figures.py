"""The figures of a data report: SVG to stand in a page, whose colours are the page's own, light or dark."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# matplotlib knows no CSS: each of these stands for a colour of the page
INK, SOFT = "#000001", "#000002"
SPLIT_COLOURS = {"train": "#000003", "validation": "#000004", "test": "#000005"}
STATE_COLOURS = {"positive": "#000003", "negative": "#000002", "uncertain": "#000004", "unknown": "#000006"}
_PAGE_COLOURS = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    "#000003": "var(--blue)",
    "#000004": "var(--orange)",
    "#000005": "var(--green)",
    "#000006": "var(--faint)",
}
_STYLE: Any = {
    "svg.hashsalt": "ark-hf",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": SOFT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
}
_WIDTH = 4.2  # inches: as wide as a phone's screen, so that the text is never shrunk there
_LONGEST_NAME = 28


def interval_plot(
    name: str, labels: Sequence[str], series: Mapping[str, Sequence[Sequence[float | None]]], axis: str, mark: float
) -> str:
    """
    A dot with its interval a label and split.

    Args:
        series: By split, (value, low, high) a label; None or NaN: nothing is drawn.
        axis: What the values are.
        mark: The value of nothing: a line stands there.
    """
    with _style():
        axes = _axes(0.5 + len(labels) * (0.1 + 0.11 * len(series)))
        for number, (split, rows) in enumerate(series.items()):
            values = np.array(rows, dtype=float).reshape(-1, 3)
            heights = np.arange(len(labels)) + (number - (len(series) - 1) / 2) * 0.8 / max(len(series), 2)
            drawn = ~np.isnan(values[:, 0])
            value, low, high = values[drawn].T
            errors = np.nan_to_num(np.maximum([value - low, high - value], 0))
            colour = SPLIT_COLOURS[split]
            axes.errorbar(value, heights[drawn], xerr=errors, fmt="o", ms=3, lw=1.2, color=colour, label=split)
        axes.axvline(mark, color=SOFT, lw=1)
        _name_rows(axes, labels)
        axes.set_xlabel(axis)
        _legend(axes, len(series))
        return _svg(axes.figure, name)


def state_bars(name: str, counts: Mapping[str, Mapping[str, int]]) -> str:
    """For each label, the shares of images on which it is positive, negative, uncertain and unknown."""
    with _style():
        axes = _axes(0.6 + 0.2 * len(counts))
        totals = np.array([max(sum(states.values()), 1) for states in counts.values()])
        left = np.zeros(len(counts))
        for state, colour in STATE_COLOURS.items():
            shares = 100 * np.array([states[state] for states in counts.values()]) / totals
            axes.barh(np.arange(len(counts)), shares, 0.7, left, color=colour, label=state)
            left = left + shares
        _name_rows(axes, list(counts))
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of images")
        _legend(axes, 4)
        return _svg(axes.figure, name)


def share_map(name: str, labels: Sequence[str], shares: np.ndarray) -> str:
    """A square of (labels, labels) shares; NaN and the diagonal stay empty. Numbers stand in it if they fit."""
    from matplotlib.patches import Rectangle

    with _style():
        side = max(_WIDTH, 1.4 + 0.21 * len(labels))
        axes = _axes(side, side)
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
        axes.set_xticks(range(len(labels)), [_short(label) for label in labels], rotation=90)
        axes.grid(False)
        _name_rows(axes, labels)
        return _svg(axes.figure, name)


def age_lines(name: str, ages: Mapping[str, Mapping[str, int]]) -> str:
    """By split, the share of images in each decade of age."""
    with _style():
        axes = _axes(2.4)
        last = max(int(decade) for counts in ages.values() for decade in counts)
        decades = range(0, last + 10, 10)
        for split, counts in ages.items():
            shares = [100 * counts.get(str(decade), 0) / max(sum(counts.values()), 1) for decade in decades]
            axes.stairs(shares, [*decades, last + 10], color=SPLIT_COLOURS[split], lw=1.4, label=split)
        axes.set_xlabel("age in years")
        axes.set_ylabel("% of images")
        axes.set_ylim(0)
        _legend(axes, len(ages))
        return _svg(axes.figure, name)


def box_plots(name: str, title: str, boxes: Mapping[str, Mapping[str, float]]) -> str:
    """By split, a box from the 25th to the 75th percentile with the median, and whiskers from the 5th to the 95th."""
    with _style():
        axes = _axes(0.55 + 0.25 * len(boxes))
        for number, (split, box) in enumerate(boxes.items()):
            line = {"color": SPLIT_COLOURS[split], "lw": 1.2}
            statistics: dict[str, Any] = {
                "whislo": box["p5"], "q1": box["p25"], "med": box["median"], "q3": box["p75"], "whishi": box["p95"],
            }  # fmt: skip
            axes.bxp(
                [statistics], positions=[number], widths=0.5, orientation="horizontal", showfliers=False,
                boxprops=line, medianprops=line | {"lw": 2.2}, whiskerprops=line, capprops=line,
            )  # fmt: skip
        _name_rows(axes, list(boxes))
        axes.set_xlabel(title)
        return _svg(axes.figure, name)


def _style():
    from matplotlib import rc_context

    return rc_context(_STYLE)


def _axes(height: float, width: float = _WIDTH):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def _name_rows(axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.tick_params(length=0)


def _legend(axes, columns: int) -> None:
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _svg(figure, name: str) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that matplotlib's font lacks; the browser's has them
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for stand_in, colour in _PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg.strip()
