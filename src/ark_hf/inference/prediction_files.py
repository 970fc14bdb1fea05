"""Files of predictions: CSV or JSON lines; a row an image, or a row an image and label."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..files import printable, replacing
from ..models.ark.configuration_ark import ArkConfig
from .task_labels import labels_by_task

SUFFIXES = (".csv", ".jsonl")
LONG_COLUMNS = ["image", "task", "label", "probability", "threshold", "positive", "warnings"]
DIGITS = 6

Result = tuple[Path | str, np.ndarray | str]


def check_prediction_file(path: Path) -> None:
    """Raises `ValueError` if predictions cannot be written there, or the suffix names no format that is known."""
    if path.is_dir():
        raise ValueError(f"out {path} is a folder; name a CSV file, such as {path / 'predictions.csv'}.")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"out {path}: predictions are written as {' or '.join(SUFFIXES)}; name a file of that suffix."
        )


def write_predictions(path: Path, labels: Sequence[str], results: Iterator[Result]) -> tuple[int, Path | None]:
    """
    Writes one row per image, one column per label; files that cannot be read go to `<name>.unreadable.csv` beside it.

    If none can be read, nothing is written to `path`, and a file that is there stays. Names are as [`printable`] has
    them.

    Args:
        path: A `.csv` file, or `.jsonl` for an object a line.
        labels: Names of the columns.
        results: As [`predict_files`] yields them.

    Returns:
        The number of images, and the path of the second file if there is one.
    """

    def row(image: str, probabilities: np.ndarray) -> list[dict[str, Any]]:
        return [{"image": image, **dict(zip(labels, map(float, probabilities), strict=True))}]

    return write_rows(path, ["image", *labels], results, row)


def long_rows(config: ArkConfig, warnings: Callable[[], list[str]]) -> Callable[[str, np.ndarray], list[dict]]:
    """
    What makes the rows of an image of its probabilities: one a label, with the columns `LONG_COLUMNS`.

    Args:
        config: The model's.
        warnings: Gives the reasons to doubt the image whose rows are made.
    """
    tasks = labels_by_task(config)

    def rows(image: str, probabilities: np.ndarray) -> list[dict]:
        doubts = warnings()
        return [
            {
                "image": image,
                "task": task,
                "label": label.name,
                "probability": float(probabilities[label.column]),
                "threshold": label.threshold,
                "positive": None if label.threshold is None else bool(probabilities[label.column] >= label.threshold),
                "warnings": doubts,
            }
            for task, labels in tasks.items()
            for label in labels
        ]

    return rows


def write_rows(
    path: Path,
    columns: Sequence[str],
    results: Iterator[Result],
    rows_of: Callable[[str, np.ndarray], list[dict[str, Any]]],
) -> tuple[int, Path | None]:
    """As [`write_predictions`], with the rows that `rows_of` makes of an image's name and probabilities."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unreadable_path = path.with_name(f"{path.stem}.unreadable.csv")
    read, unreadable = 0, []
    with replacing(path) as new:
        with open(new, "w", newline="", encoding="utf-8") as file:
            write = _writer(file, path.suffix.lower(), columns)
            for image, result in results:
                if isinstance(result, str):
                    unreadable.append([printable(image), result])
                    continue
                for row in rows_of(printable(image), result):
                    write(row)
                read += 1
        if not read:
            new.unlink()
    unreadable_path.unlink(missing_ok=True)
    if not unreadable:
        return read, None
    with open(unreadable_path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "reason"], *unreadable])
    return read, unreadable_path


def _writer(file: IO[str], suffix: str, columns: Sequence[str]) -> Callable[[Mapping[str, Any]], object]:
    if suffix == ".jsonl":
        return lambda row: file.write(json.dumps({name: _json(name, row[name]) for name in columns}) + "\n")
    table = csv.writer(file)
    table.writerow(columns)
    return lambda row: table.writerow([_cell(name, row[name]) for name in columns])


def _json(column: str, value: Any) -> Any:
    return round(value, DIGITS) if _is_probability(column, value) else value


def _cell(column: str, value: Any) -> Any:
    if isinstance(value, list):
        return "; ".join(value)
    return f"{value:.{DIGITS}f}" if _is_probability(column, value) else value


def _is_probability(column: str, value: Any) -> bool:
    return isinstance(value, float) and column != "threshold"  # of which a digit less may call another label positive
