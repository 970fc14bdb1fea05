"""What cards of all models share: results as the Hub has them, and names that stay text in Markdown."""

import html
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry

from ..evaluation.report.tables import TextTable
from ..evaluation.report.text import table_lines
from ..pages.formats import markdown_cell

PROSE = Path(__file__).parent / "templates" / "model_card.yaml"
INTERVAL = re.compile(r"\(([\d.]+) to ([\d.]+)\)")
SHA1 = re.compile(r"[0-9a-f]{40}")


@cache
def read_prose() -> dict[str, Any]:
    """What cards say that no run can know."""
    return yaml.safe_load(PROSE.read_text(encoding="utf-8"))


def defined_results(
    kind: str, task: str, dataset: str, split: str, metric: str, values: Mapping[str, float]
) -> list[EvalResult]:
    """
    For the card's header, of the values by name that are defined.

    Args:
        kind: The Hub's name of what the model does, such as "image-classification".
        metric: The Hub's name of what the values are.
    """
    return [
        EvalResult(
            task_type=kind,
            task_name=task,
            dataset_type=dataset.partition("@")[0],
            dataset_name=dataset,
            dataset_split=split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in values.items()
        if not math.isnan(value)
    ]


def leaderboard_entries(task: str, dataset: str, value: float, notes: str) -> list[EvalResultEntry]:
    """The one entry in a dataset's leaderboard; none for datasets on this machine, and undefined values."""
    name, _, revision = dataset.partition("@")
    if name.count("/") != 1 or math.isnan(value):
        return []
    return [
        EvalResultEntry(
            dataset_id=name,
            task_id=task,
            value=round(value, 4),
            dataset_revision=revision if SHA1.fullmatch(revision) else None,
            notes=notes,
        )
    ]


def sizes(report: Any) -> list[str]:
    """Images and patients of a report's split."""
    return [f"{report.num_images:,}", "unknown" if report.num_patients is None else f"{report.num_patients:,}"]


def with_interval(value: str, interval: str) -> str:
    """A cell's text."""
    return f"{value} ({interval})" if interval else value


def overview_text(table: TextTable) -> str:
    """As [`table_text`]; narrow cells are broken before an interval, not in it."""
    return INTERVAL.sub("(\\1\u00a0to\u00a0\\2)", table_text(table))


def table_text(table: TextTable) -> str:
    """As Markdown, in which names from labels and datasets stay text."""
    rows = [[escaped(cell) for cell in row] for row in table.rows]
    header = [escaped(cell) for cell in table.header]
    return "\n".join(table_lines(replace(table, header=header, rows=rows, note=escaped(table.note))))


def escaped(text: str) -> str:
    return html.escape(text, quote=False)


def cell(text: Any) -> str:
    """In one line, and with nothing that would end a table's cell or start a tag."""
    return markdown_cell(escaped(str(text)))
