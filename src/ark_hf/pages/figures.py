"""What the figures of the reports share: SVG to stand in a page, whose colours are the page's own, light or dark."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# matplotlib knows no CSS: each of these stands for a colour of the page
INK, SOFT, BLUE, ORANGE, GREEN, FAINT = (f"#00000{number}" for number in range(1, 7))
_PAGE_COLOURS = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    FAINT: "var(--faint)",
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
WIDTH = 4.2  # inches: as wide as a phone's screen, so that the text is never shrunk there


def interval_plot(
    name: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[Sequence[float | None]]],
    colours: Mapping[str, str],
    axis: str,
    mark: float,
) -> str:
    """[`draw_intervals`] as SVG for a page; `name`, unique in it, precedes every id."""
    with style():
        return to_svg(draw_intervals(labels, series, colours, axis, mark).figure, name)


def draw_intervals(
    labels: Sequence[str],
    series: Mapping[str, Sequence[Sequence[float | None]]],
    colours: Mapping[str, str],
    axis: str,
    mark: float,
):
    """
    Axes with a dot and its interval a label and series.

    Args:
        series: By its name, (value, low, high) a label; None or NaN: nothing is drawn.
        colours: One a series.
        axis: What the values are.
        mark: The value of nothing: a line stands there.
    """
    axes = new_axes(0.5 + len(labels) * (0.1 + 0.11 * len(series)))
    for number, (each, rows) in enumerate(series.items()):
        values = np.array(rows, dtype=float).reshape(-1, 3)
        heights = np.arange(len(labels)) + (number - (len(series) - 1) / 2) * 0.8 / max(len(series), 2)
        drawn = ~np.isnan(values[:, 0])
        value, low, high = values[drawn].T
        errors = np.nan_to_num(np.maximum([value - low, high - value], 0))
        axes.errorbar(value, heights[drawn], xerr=errors, fmt="o", ms=3, lw=1.2, color=colours[each], label=each)
    axes.axvline(mark, color=SOFT, lw=1)
    name_rows(axes, labels)
    axes.set_xlabel(axis)
    legend(axes, len(series))
    return axes


def style():
    """The figures' settings of matplotlib, as a context."""
    from matplotlib import rc_context

    return rc_context(_STYLE)


def new_axes(height: float, width: float = WIDTH):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def name_rows(axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.tick_params(length=0)


def legend(axes, columns: int) -> None:
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns)


def short(name: str, longest: int = 28) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def to_png(figure) -> bytes:
    """The figure on white, 150 dots an inch; what is not drawn in a colour of its own is black."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that matplotlib's font lacks
        figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure, name: str) -> str:
    """The figure as text for a page; `name`, unique in it, precedes every id."""
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
