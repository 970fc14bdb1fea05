"""A task dataset on disk as a report reads it: all rows without their images, and the images of some."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...cells import stored_value
from ...models.ark.configuration_ark import ArkTask
from ..open_dataset import read_labels
from ..radiograph import read_picture
from ..task_dataset import SPLITS, read_task

METADATA = ("patient_id", "image_id", "sex", "view", "age")


@dataclass
class Group:
    """A row group of a parquet file: rows `start` to `start + count` of the split."""

    path: Path
    index: int
    start: int
    count: int


@dataclass
class Split:
    """
    One split without its images.

    Args:
        stored: Labels as stored: float (rows, labels), or int (rows,) with -1 unknown for a single-label task.
        labels: float32 (rows, labels) in 0, 1, -1 (uncertain), NaN (unknown), one column per class.
        metadata: Each of `METADATA`, a value or None a row.
    """

    name: str
    stored: np.ndarray
    labels: np.ndarray
    metadata: dict[str, list]
    groups: list[Group]


def open_splits(folder: Path) -> tuple[ArkTask, list[Split]]:
    """
    The task of a dataset on disk, and its splits without their images.

    Raises:
        ValueError: As in [`describe_dataset`].
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the folder of a task dataset that `ark-hf data build` wrote.")
    task = read_task(folder)
    files = {split: sorted((folder / "data").glob(f"{split}-*.parquet")) for split in SPLITS}
    splits = [_load_split(name, paths, task) for name, paths in files.items() if paths]
    if not any(len(split.labels) for split in splits):
        raise ValueError(f"{folder} has no rows: there is none in data/SPLIT-*.parquet, SPLIT one of {SPLITS}.")
    return task, splits


def _load_split(name: str, paths: list[Path], task: ArkTask) -> Split:
    groups: list[Group] = []
    metadata: dict[str, list] = {column: [] for column in METADATA}
    stored, rows = [], 0
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                missing = {"image", "labels"} - set(file.schema_arrow.names)
                if missing:
                    raise ValueError(f"it lacks the columns {sorted(missing)}.")
                table = file.read([column for column in ("labels", *METADATA) if column in file.schema_arrow.names])
                counts = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"Cannot read {path}: {' '.join(str(error).split())} Rebuild the dataset.") from None
        stored.append(read_labels(table["labels"], task, str(path)))
        for column, values in metadata.items():
            found = table[column].to_pylist() if column in table.column_names else [None] * len(table)
            values += found if column == "image_id" else [stored_value(column, value) for value in found]
        for index, count in enumerate(counts):
            groups.append(Group(path, index, rows, count))
            rows += count
    labels = np.concatenate(stored)
    if labels.ndim == 1:
        columns = np.where(labels[:, None] < 0, np.nan, labels[:, None] == np.arange(len(task.labels)))
    else:
        columns = labels
    return Split(name, labels, columns.astype(np.float32), metadata, groups)


def read_images(split: Split, rows: list[int]) -> Iterator[tuple[int, np.ndarray | None]]:
    """
    The (H, W) grey values of the rows in order, or None where they cannot be decoded; a part of a file at a time.

    Raises:
        ValueError: A file is damaged.
    """
    wanted = set(rows)
    for group in split.groups:
        if wanted.isdisjoint(range(group.start, group.start + group.count)):
            continue
        row = group.start
        try:
            with pq.ParquetFile(group.path) as file:
                for batch in file.iter_batches(batch_size=16, row_groups=[group.index], columns=["image"]):
                    for image in batch.column(0):
                        if row in wanted:
                            yield row, _decode(image.as_py())
                        row += 1
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"Cannot read the images of {group.path}: {reason} Rebuild the dataset.") from None


def _decode(image: dict[str, Any] | None) -> np.ndarray | None:
    try:
        return read_picture(io.BytesIO((image or {})["bytes"]))
    except Exception:  # Pillow's codecs raise anything on a damaged file
        return None
