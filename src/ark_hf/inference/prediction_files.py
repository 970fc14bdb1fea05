"""Files of predictions: CSV or JSON lines; a row an image, or a row an image and label."""

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import numpy as np

from ..files import printable, replacing
from ..models.ark.configuration_ark import ArkConfig, SegmentationTask
from .measurements import Measurements, VolumeMeasurements, heart_and_lungs
from .task_labels import DEFAULT_THRESHOLD, labels_by_task

SUFFIXES = (".csv", ".jsonl")
LONG_COLUMNS = ["image", "task", "label", "probability", "threshold", "positive", "warnings"]
LONG_AREA_COLUMNS = ["image", "task", "label", "pixels", "mm2", "score", "threshold", "cardiothoracic_ratio", "mask",
                     "warnings"]  # fmt: skip
LONG_VOLUME_COLUMNS = ["image", "task", "label", "voxels", "ml", "threshold", "mask", "value", "warnings"]
DIGITS, DIGITS_OF_UNITS = 6, {"mm2": 1, "ml": 3}

T = TypeVar("T")
Result = tuple[Path | str, np.ndarray | str]
Format = Literal["wide", "long"]


@dataclass
class Predictions:
    """
    What [`predict`] wrote: `images` rows in `out`, nothing if there are none; `unreadable`, the list of the files that
    could not be read; `second_opinion`, the table of that name, and `disagreements`, a text of what is in it; `masks`
    and `overlays`, the folders of a segmenter's pictures or label maps. None where there is no such file. `warnings`
    are reasons to doubt an image, a line each; `left_out` are files of the given folders that one may take for images,
    and that are none; `kinds` counts the images by the endings of their names; `computed` is where the model ran, and
    in which precision; `what` the images are, "images" or "volumes"; `not_asked` counts by the names of heads of
    another modality the images, by theirs, on which they were not asked.
    """

    out: Path
    images: int = 0
    unreadable: Path | None = None
    second_opinion: Path | None = None
    disagreements: str | None = None
    masks: Path | None = None
    overlays: Path | None = None
    warnings: list[str] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    computed: str = ""
    what: str = "images"
    not_asked: dict[str, Counter[str]] = field(default_factory=dict)


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
    return write_rows(path, ["image", *labels], results, wide_row(labels))


def wide_row(labels: Sequence[str]) -> Callable[[str, np.ndarray], list[dict[str, Any]]]:
    """What makes the one row of an image of its probabilities, a column a label; None of a head that is not asked."""
    return lambda image, probabilities: [
        {"image": image, **{name: _defined(float(each)) for name, each in zip(labels, probabilities, strict=True)}}
    ]


def long_rows(config: ArkConfig, warnings: Callable[[], list[str]]) -> Callable[[str, np.ndarray], list[dict]]:
    """
    What makes the rows of an image of its probabilities: one a label of a head that is asked, with the columns
    `LONG_COLUMNS`.

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
            if not np.isnan(probabilities[label.column])
        ]

    return rows


def area_columns(task: SegmentationTask) -> list[str]:
    """Of a segmenter's table with a row an image: the areas, and where there are heart and lungs their ratio."""
    areas = [f"{task.name}/{label} {unit}" for label in task.labels for unit in ("pixels", "mm2")]
    ratio = [] if heart_and_lungs(task.name, tuple(task.labels)) is None else ["cardiothoracic_ratio"]
    return ["image", *areas, *ratio]


def area_row(task: SegmentationTask, image: str, measured: Measurements) -> dict[str, Any]:
    """An image's, with the columns of [`area_columns`]; None for what is not known or not defined."""
    row: dict[str, Any] = {"image": image, "cardiothoracic_ratio": _defined(measured.cardiothoracic_ratio)}
    for number, label in enumerate(task.labels):
        row[f"{task.name}/{label} pixels"] = measured.pixels[number]
        row[f"{task.name}/{label} mm2"] = measured.mm2 and measured.mm2[number]
    return row


def long_area_rows(
    task: SegmentationTask, image: str, measured: Measurements, masks: Sequence[Path], warnings: list[str]
) -> list[dict[str, Any]]:
    """
    An image's, one a label, with the columns `LONG_AREA_COLUMNS`; None for what is not known or not defined.

    Args:
        masks: The file of each label's mask.
        warnings: Reasons to doubt the image.
    """
    thresholds = task.thresholds or {}
    return [
        {
            "image": image,
            "task": task.name,
            "label": label,
            "pixels": measured.pixels[number],
            "mm2": measured.mm2 and measured.mm2[number],
            "score": _defined(measured.scores[number]),
            "threshold": thresholds.get(label, DEFAULT_THRESHOLD) if task.overlapping else None,
            "cardiothoracic_ratio": _defined(measured.cardiothoracic_ratio),
            "mask": masks[number].as_posix(),
            "warnings": warnings,
        }
        for number, label in enumerate(task.labels)
    ]


def volume_columns(task: SegmentationTask) -> list[str]:
    """Of the table of a segmenter of volumes with a row a volume."""
    return ["image", *(f"{task.name}/{label} {unit}" for label in task.labels for unit in ("voxels", "ml"))]


def volume_row(task: SegmentationTask, image: str, measured: VolumeMeasurements) -> dict[str, Any]:
    """A volume's, with the columns of [`volume_columns`]."""
    row: dict[str, Any] = {"image": image}
    for number, label in enumerate(task.labels):
        row[f"{task.name}/{label} voxels"] = measured.voxels[number]
        row[f"{task.name}/{label} ml"] = measured.ml[number]
    return row


def long_volume_rows(
    task: SegmentationTask, image: str, measured: VolumeMeasurements, masks: Sequence[Path], warnings: list[str]
) -> list[dict[str, Any]]:
    """
    A volume's, one a label, with the columns `LONG_VOLUME_COLUMNS`.

    Args:
        masks: The file of each label's mask, in which it has the `value`.
        warnings: Reasons to doubt the volume.
    """
    thresholds = task.thresholds or {}
    return [
        {
            "image": image,
            "task": task.name,
            "label": label,
            "voxels": measured.voxels[number],
            "ml": measured.ml[number],
            "threshold": thresholds.get(label, DEFAULT_THRESHOLD) if task.overlapping else None,
            "mask": masks[number].as_posix(),
            "value": 1 if task.overlapping else number + 1,
            "warnings": warnings,
        }
        for number, label in enumerate(task.labels)
    ]


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def write_rows(
    path: Path,
    columns: Sequence[str],
    results: Iterator[tuple[Path | str, T | str]],
    rows_of: Callable[[str, T], list[dict[str, Any]]],
) -> tuple[int, Path | None]:
    """As [`write_predictions`], with the rows that `rows_of` makes of an image's name and result."""
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
    digits = _digits(column, value)
    return value if digits is None else round(value, digits)


def _cell(column: str, value: Any) -> Any:
    if isinstance(value, list):
        return "; ".join(value)
    digits = _digits(column, value)
    return value if digits is None else f"{value:.{digits}f}"


def _digits(column: str, value: Any) -> int | None:
    if not isinstance(value, float) or column == "threshold":  # of which a digit less may call another label positive
        return None
    return DIGITS_OF_UNITS.get(column.rpartition(" ")[2], DIGITS)
