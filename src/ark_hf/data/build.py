"""Builders: radiographs on disk to a task dataset, that is parquet shards and a card (layout: DESIGN, "Data")."""

import csv
import hashlib
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import yaml
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from tqdm.auto import tqdm

from ..files import replace_folder, write_json
from ..models.ark.configuration_ark import ArkTask
from .dicom import UnreadableImageError, read_radiograph
from .phantom import SITES, PhantomSite, draw_phantom_images
from .task_dataset import CARD_KEY, SPLITS

SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
LABEL_VALUES = {"": math.nan, "0": 0.0, "1": 1.0, "-1": -1.0, "0.0": 0.0, "1.0": 1.0, "-1.0": -1.0}
OPTIONAL_COLUMNS = {"patient_id": str, "study_id": str, "sex": str, "age": float, "view": str}
SHOWN_PROBLEMS = 10
MIN_SIZE = 32


@dataclass
class GenericSource:
    """
    A folder with `labels.csv` and the images that its `image` column names.

    Args:
        folder: The folder.
        name: Name of the task.
        labels: Label columns, each 0, 1, -1 (uncertain) or blank (unknown), for a multi-label task.
        label_column: Instead of `labels`: the one column that holds a class name (or nothing: unknown).
        classes: The class names in order; by default those that occur, sorted.
    """

    folder: Path
    name: str
    labels: list[str] = field(default_factory=list)
    label_column: str | None = None
    classes: list[str] = field(default_factory=list)


@dataclass
class Row:
    """One line of a label file, checked; `line` counts from 1, the header being line 1."""

    line: int
    path: Path
    split: str
    labels: list[float] | int
    metadata: dict[str, Any]


def build_generic(source: GenericSource, output_dir: Path, size: int = 1024, skip_unreadable: bool = False) -> dict:
    """
    Builds a task dataset from a folder of images and a `labels.csv`.

    The file has the columns `image` (path from the folder) and `split` (train, val or test), the label columns, and
    where known `patient_id`, `study_id`, `sex`, `age`, `view`. All rows are checked before any image is read.

    Args:
        source: The folder and how its labels are read.
        output_dir: New folder of the dataset.
        size: Images are shrunk, never enlarged, to this longer side, at least 32 pixels.
        skip_unreadable: Whether to leave unreadable images out instead of stopping. Either way they are listed in
            `build_report.json` beside (or in) the dataset.

    Returns:
        The report: rows per split, skipped images.

    Raises:
        ValueError: Rows of the file are wrong (the message names them), or images cannot be read.
    """
    _check_output(output_dir, size)
    task, rows = read_label_file(source)
    label_file = source.folder / "labels.csv"
    unreadable, pictures = _check_images(rows, size)
    kept = [row for row in rows if row.line in pictures]
    report: dict[str, Any] = {
        "unreadable": [{"line": row.line, "image": str(row.path), "reason": reason} for row, reason in unreadable],
        "rows": {split: sum(row.split == split for row in kept) for split in SPLITS},
    }
    if unreadable and not skip_unreadable:
        report_file = output_dir.with_name(f"{output_dir.name}.build_report.json")
        report_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(report_file, report)
        lines = [f"line {row.line}: {reason}" for row, reason in unreadable]
        raise ValueError(
            f"{label_file}: {len(unreadable)} of {len(rows)} images cannot be read (list: {report_file}):\n"
            + _first(lines)
            + "\nMend or remove them, or pass --skip_unreadable to leave them out."
        )
    if not report["rows"]["train"]:
        raise ValueError(f"{label_file}: none of the images of split train can be read.")
    _check_same_pictures(kept, pictures, label_file)

    def images(split: str) -> Iterator[dict]:
        for row in kept:
            if row.split == split:
                yield {
                    "image": encode_png(shrink(read_radiograph(row.path), size)),
                    "labels": row.labels,
                    **row.metadata,
                }

    columns = [name for name in OPTIONAL_COLUMNS if any(row.metadata[name] is not None for row in kept)]
    readers = {split: partial(images, split) for split, count in report["rows"].items() if count}
    write_task_dataset(output_dir, task, readers, columns, report)
    return report


def read_label_file(source: GenericSource) -> tuple[ArkTask, list[Row]]:
    """
    Reads and checks `labels.csv`.

    Raises:
        ValueError: The file or a column is missing, or rows are wrong: the message names the first ten by line.
    """
    path = source.folder / "labels.csv"
    if bool(source.labels) == bool(source.label_column):
        raise ValueError("Give either --labels (0/1 columns of a multi-label task) or --label_column (class names).")
    header, records, problems = _read_table(path)
    needed = ["image", "split", *source.labels, *([source.label_column] if source.label_column else [])]
    missing = [column for column in needed if column not in header]
    if missing:
        # A first line without `image` may be a patient's row, which must not be quoted.
        has = f"it has {header}" if "image" in header else "its first line must name the columns"
        raise ValueError(f"{path} has no columns {missing}; {has}.")
    repeated = sorted({column for column in [*needed, *OPTIONAL_COLUMNS] if header.count(column) > 1})
    if repeated:
        raise ValueError(f"{path} has several columns {repeated}; each column needs a name of its own.")
    if not records and not problems:
        raise ValueError(f"{path} has no rows.")

    classes = source.classes
    if source.label_column and not classes:
        classes = sorted({record[source.label_column].strip() for _, record in records} - {""})
    task = ArkTask(
        name=source.name,
        labels=classes if source.label_column else source.labels,
        problem_type="single_label_classification" if source.label_column else "multi_label_classification",
    )
    rows = []
    for line, record in records:
        try:
            rows.append(_read_row(line, record, source, task))
        except ValueError as error:
            problems.append((line, str(error)))
    problems += _find_overlaps(rows)
    if problems:
        lines = [f"line {line}: {problem}" for line, problem in sorted(problems)]
        raise ValueError(f"{path} has {len(problems)} wrong rows:\n" + _first(lines))
    if not any(row.split == "train" for row in rows):
        raise ValueError(f"{path} has no rows with split train.")
    return task, rows


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]], list[tuple[int, str]]]:
    """The header of a CSV file; its records with the line on which each starts; the lines of another width."""
    header, records, problems, line = None, [], [], 1
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for values in reader:
                if header is None:
                    header = values
                elif values and len(values) != len(header):
                    problems.append((line, f"{len(values)} values, but the header names {len(header)} columns"))
                elif values:
                    records.append((line, dict(zip(header, values, strict=True))))
                line = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"Cannot read {path}: {error}. The folder needs a UTF-8 file labels.csv.") from None
    return header or [], records, problems


def _read_row(line: int, record: dict[str, str], source: GenericSource, task: ArkTask) -> Row:
    split = record["split"].strip().lower()
    if split not in SPLIT_NAMES:
        raise ValueError(f"split {record['split']!r}: use one of {sorted(SPLIT_NAMES)}")
    if not record["image"].strip():
        raise ValueError("image is blank: it must be a path from the folder")
    path = source.folder / record["image"].strip()
    if not os.path.isfile(path):  # unlike Path.is_file, False for impossible names
        raise ValueError(f"image {record['image']!r} does not exist in {source.folder}")
    labels: list[float] | int
    if source.label_column:
        name = record[source.label_column].strip()
        if name and name not in task.labels:
            raise ValueError(f"{source.label_column} {name!r} is not a class; the classes are {task.labels}")
        labels = task.labels.index(name) if name else -1
    else:
        labels = []
        for label in source.labels:
            value = record[label].strip()
            if value not in LABEL_VALUES:
                raise ValueError(f"{label} is {record[label]!r}: use 0, 1, -1 (uncertain) or blank (unknown)")
            labels.append(LABEL_VALUES[value])
    metadata: dict[str, Any] = {"image_id": record["image"].strip()}
    for name, kind in OPTIONAL_COLUMNS.items():
        value = (record.get(name) or "").strip()
        try:
            metadata[name] = kind(value) if value else None
        except ValueError:
            raise ValueError(f"{name} is {value!r}: it must be a number or blank") from None
    return Row(line, path, SPLIT_NAMES[split], labels, metadata)


def _find_overlaps(rows: list[Row]) -> list[tuple[int, str]]:
    problems = []
    images: dict[Path, Row] = {}
    patients: dict[str, Row] = {}
    for row in rows:
        first = images.setdefault(row.path, row)
        if first is not row:
            name = row.metadata["image_id"]
            problems.append(
                (row.line, f"image {name!r} ({row.split}) stands in line {first.line} ({first.split}) too")
            )
        patient = row.metadata["patient_id"]
        first = patients.setdefault(patient, row) if patient is not None else row
        if first.split != row.split:
            other = f"line {first.line} ({first.split})"
            problems.append(
                (row.line, f"its patient ({row.split}) stands in {other} too; keep each patient in one split")
            )
    return problems


def _check_images(rows: list[Row], size: int) -> tuple[list[tuple[Row, str]], dict[int, bytes]]:
    unreadable, pictures = [], {}
    for row in tqdm(rows, desc="checking images", unit="image"):
        try:
            pictures[row.line] = hashlib.sha256(shrink(read_radiograph(row.path), size).tobytes()).digest()
        except UnreadableImageError as error:
            unreadable.append((row, str(error)))
    return unreadable, pictures


def _check_same_pictures(rows: list[Row], pictures: dict[int, bytes], label_file: Path) -> None:
    first_rows: dict[bytes, Row] = {}
    problems = []
    for row in rows:
        first = first_rows.setdefault(pictures[row.line], row)
        if first.split != row.split:
            name, first_name = row.metadata["image_id"], first.metadata["image_id"]
            problems.append(
                f"line {row.line}: {name!r} ({row.split}) is the same picture as {first_name!r} ({first.split}), "
                f"line {first.line}"
            )
    if problems:
        raise ValueError(f"{label_file} has pictures in two splits; keep each in one:\n" + _first(problems))


def _first(lines: list[str]) -> str:
    more = f"\n... and {len(lines) - SHOWN_PROBLEMS} more" if len(lines) > SHOWN_PROBLEMS else ""
    return "\n".join(lines[:SHOWN_PROBLEMS]) + more


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """(1, H, W) uint8 or uint16 to (H, W) of the same kind with a longer side of at most `size`, aspect kept."""
    plane = image[0]
    scale = size / max(plane.shape)
    if scale >= 1:
        return plane
    target = tuple(max(round(side * scale), 1) for side in plane.shape[::-1])
    resized = PIL.Image.fromarray(plane.astype(np.float32)).resize(target, PIL.Image.Resampling.LANCZOS)
    return np.clip(np.rint(np.asarray(resized)), plane.min(), plane.max()).astype(plane.dtype)


def encode_png(plane: np.ndarray) -> dict:
    """(H, W) uint8 or uint16 as a lossless grey PNG, in the form of a `datasets` image."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(plane).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def build_phantom_sites(
    output_dir: Path, counts: dict[str, int] | None = None, size: int = 256, seed: int = 0
) -> dict[str, Path]:
    """
    Writes the built-in phantom sites as task datasets; returns their folders in the order of training.

    Args:
        output_dir: New folder; each site gets a folder in it.
        counts: Images a split and site; 300 for training, 60 for validation and 150 for test by default.
        size: Longer side in pixels, at least 32.
        seed: Seed of everything drawn.
    """
    _check_output(output_dir, size)
    counts = counts or {"train": 300, "validation": 60, "test": 150}

    def rows(site: PhantomSite, split: str) -> Iterator[dict]:
        for drawn in tqdm(
            draw_phantom_images(site, split, counts[split], size, seed),
            total=counts[split],
            desc=f"drawing {site.name}, {split}",
            leave=False,
        ):
            drawn |= {"image": encode_png(np.asarray(drawn["image"])), "image_id": drawn["sample_id"]}
            yield {key: drawn[key] for key in ("image", "labels", "image_id", "patient_id", "sex", "age", "view")}

    def write(folder: Path) -> None:
        for site in SITES.values():
            task = ArkTask(site.name, list(site.labels), site.problem_type)
            readers = {split: partial(rows, site, split) for split in counts}
            columns = ["patient_id", "sex", "age", "view"]
            write_task_dataset(folder / site.name, task, readers, columns, {"phantom": True})

    replace_folder(output_dir, write)
    return {name: output_dir / name for name in SITES}


def write_task_dataset(
    output_dir: Path,
    task: ArkTask,
    rows: Mapping[str, Callable[[], Iterable[dict]]],
    optional_columns: list[str],
    report: dict[str, Any],
) -> None:
    """
    Writes parquet files, the card and `build_report.json` into `output_dir`, whole or not at all.

    Every split in `rows` must have rows.
    """
    single = task.problem_type == "single_label_classification"
    features = Features(
        {
            "image": Image(),
            "labels": ClassLabel(names=task.labels) if single else List(Value("float32")),
            "image_id": Value("string"),
            **{name: Value("float32" if OPTIONAL_COLUMNS[name] is float else "string") for name in optional_columns},
        }
    )

    def write(folder: Path) -> None:
        counts = {}
        (folder / "data").mkdir()
        for split, read in rows.items():

            def select(read=read) -> Iterator[dict]:
                for row in read():
                    yield {name: row[name] for name in features}

            with tempfile.TemporaryDirectory(dir=folder) as cache:
                dataset = Dataset.from_generator(select, features=features, cache_dir=cache, split=split)
                dataset.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
                counts[split] = _count_labels(task, dataset)
        (folder / "README.md").write_text(_card(task, counts, report), encoding="utf-8")
        write_json(folder / "build_report.json", report | {"counts": counts})

    replace_folder(output_dir, write)


def _count_labels(task: ArkTask, dataset: Dataset) -> dict[str, int]:
    labels = dataset.select_columns(["labels"])["labels"][:]
    if task.problem_type == "single_label_classification":
        values = {label: sum(row == i for row in labels) for i, label in enumerate(task.labels)}
    else:
        values = {label: sum(row[i] == 1 for row in labels) for i, label in enumerate(task.labels)}
    return {"images": len(dataset), **values}


def _card(task: ArkTask, counts: dict[str, dict[str, int]], report: dict[str, Any]) -> str:
    header = {
        "task_categories": ["image-classification"],
        "tags": ["chest-x-ray", "ark"] + (["phantom"] if report.get("phantom") else []),
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in counts],
            }
        ],
        CARD_KEY: task.to_dict(),
    }
    names = list(counts)
    table = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for label in ["images", *task.labels]:
        table.append(f"| {label} | " + " | ".join(str(counts[split][label]) for split in names) + " |")
    notice = (
        "Procedural phantom data for demos and tests, never evidence about patients."
        if report.get("phantom")
        else "Research use only. Check the licence of the source before sharing."
    )
    return (
        "---\n" + yaml.safe_dump(header, sort_keys=False, allow_unicode=True) + "---\n\n"
        f"# {task.name}\n\nA task dataset for Ark ({task.problem_type}). {notice}\n\n" + "\n".join(table) + "\n"
    )


def _check_output(output_dir: Path, size: int) -> None:
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} pixels, got {size}.")
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} exists and is not empty; delete it or choose another --out.")
