"""Numbers, intervals and Markdown tables, as every report writes them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any


def format_number(value: float | None, scale: float = 1, digits: int = 3, sign: str = "") -> str:
    """Empty for None and NaN; with `sign="+"` a sign before a positive number too."""
    return "" if value is None or math.isnan(value) else f"{scale * value:{sign}.{digits}f}"


def format_defined(value: float | None, digits: int = 3, sign: str = "") -> str:
    """As [`format_number`], but "undefined" for None and NaN."""
    return format_number(value, digits=digits, sign=sign) or "undefined"


def format_interval(low: float | None, high: float | None, scale: float = 1, digits: int = 3, sign: str = "") -> str:
    """Empty unless both bounds are known."""
    bounds = [format_number(bound, scale, digits, sign) for bound in (low, high)]
    return " to ".join(bounds) if all(bounds) else ""


def markdown_table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines of a Markdown table; the cells are Markdown, see [`markdown_cell`]."""
    dashes = f"|{'---|' * len(header)}"
    return [_markdown_row(header), dashes, *map(_markdown_row, rows)]


def _markdown_row(cells: Sequence[Any]) -> str:
    return "".join(f"| {text} " if text else "| " for text in map(markdown_cell, cells)) + "|"


def markdown_cell(text: Any) -> str:
    """In one line, and with nothing that would end a table's cell."""
    return " ".join(str(text).split()).replace("|", "\\|")
