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
from ...models.ark.configuration_ark import ArkTask, SegmentationTask
from ...models.ark.tasks_ark import is_in_colour
from ..masks import read_masks
from ..open_dataset import read_labels
from ..radiograph import read_picture
from ..task_dataset import BUILD_REPORT, SPLITS, read_any_task
from ..unlabelled import AnyTask, Unlabelled

METADATA = ("patient_id", "image_id", "sex", "view", "age")


class _VolumesError(ValueError):
    """A dataset of volumes, with which nothing is wrong."""


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
        stored: Labels as stored: float (rows, labels), or int (rows,) with -1 unknown for a single-label task. Of a
            segmentation whether each label has a pixel. Of unlabelled images (rows, 0), as `labels` are.
        labels: float32 (rows, labels) in 0, 1, -1 (uncertain), NaN (unknown), one column per class.
        metadata: Each of `METADATA`, a value or None a row.
        areas: Of a segmentation the share of the image that each label covers, (rows, labels), NaN unknown.
    """

    name: str
    stored: np.ndarray
    labels: np.ndarray
    metadata: dict[str, list]
    groups: list[Group]
    areas: np.ndarray | None = None


def open_splits(folder: Path) -> tuple[AnyTask, list[Split]]:
    """
    The task of a dataset on disk, and its splits without their images.

    Raises:
        ValueError: As in [`describe_dataset`].
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the folder of a task dataset that `ark-hf data build` wrote.")
    task = read_any_task(folder)
    files = {split: sorted((folder / "data").glob(f"{split}-*.parquet")) for split in SPLITS}
    splits = [_load_split(name, paths, task) for name, paths in files.items() if paths]
    if not any(len(split.labels) for split in splits):
        raise ValueError(f"{folder} has no rows: there is none in data/SPLIT-*.parquet, SPLIT one of {SPLITS}.")
    return task, splits


def _load_split(name: str, paths: list[Path], task: AnyTask) -> Split:
    told = {ArkTask: {"labels"}, SegmentationTask: {"masks"}, Unlabelled: set()}[type(task)]
    groups: list[Group] = []
    metadata: dict[str, list] = {column: [] for column in METADATA}
    stored, rows = [], 0
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                if "volume" in file.schema_arrow.names:
                    raise _VolumesError(
                        f"{path} holds volumes, of which there is no report; see {BUILD_REPORT} and the card."
                    )
                missing = {"image", *told} - set(file.schema_arrow.names)
                if missing:
                    raise ValueError(f"it lacks the columns {sorted(missing)}.")
                table = file.read([column for column in ("labels", *METADATA) if column in file.schema_arrow.names])
                of_rows = np.empty((file.metadata.num_rows, 0), np.float32)
                if isinstance(task, SegmentationTask):
                    of_rows = _read_areas(file, task)
                counts = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        except _VolumesError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"Cannot read {path}: {' '.join(str(error).split())} Rebuild the dataset.") from None
        if isinstance(task, ArkTask):
            of_rows = read_labels(table["labels"], task, str(path))
        stored.append(of_rows)
        for column, values in metadata.items():
            found = table[column].to_pylist() if column in table.column_names else [None] * len(table)
            values += found if column == "image_id" else [stored_value(column, value) for value in found]
        for index, count in enumerate(counts):
            groups.append(Group(path, index, rows, count))
            rows += count
    labels = np.concatenate(stored)
    if isinstance(task, SegmentationTask):
        present = np.where(np.isnan(labels), np.nan, labels > 0).astype(np.float32)
        return Split(name, present, present, metadata, groups, labels)
    if labels.ndim == 1:
        columns = np.where(labels[:, None] < 0, np.nan, labels[:, None] == np.arange(len(task.labels)))
    else:
        columns = labels
    return Split(name, labels, columns.astype(np.float32), metadata, groups)


def _read_areas(file: pq.ParquetFile, task: SegmentationTask) -> np.ndarray:
    areas, row = [], 0
    for batch in file.iter_batches(batch_size=16, columns=["masks"]):
        for cells in batch.column(0):
            try:
                masks = read_masks(cells.as_py(), task)
            except ValueError as error:
                raise ValueError(f"row {row}: {error}.") from None
            areas.append([np.nan if mask is None else mask.mean() for mask in masks])
            row += 1
    return np.array(areas).reshape(-1, len(task.labels))


def read_images(
    split: Split, rows: list[int], task: AnyTask
) -> Iterator[tuple[int, np.ndarray | None, list[np.ndarray | None]]]:
    """
    The (H, W) grey values of the rows in order, or None where they cannot be decoded, and their masks, if they have
    any; a part of a file at a time.

    Raises:
        ValueError: A file is damaged.
    """
    wanted = set(rows)
    columns = ["image", "masks"] if isinstance(task, SegmentationTask) else ["image"]
    for group in split.groups:
        if wanted.isdisjoint(range(group.start, group.start + group.count)):
            continue
        row = group.start
        try:
            with pq.ParquetFile(group.path) as file:
                for batch in file.iter_batches(batch_size=16, row_groups=[group.index], columns=columns):
                    for number in range(len(batch)):
                        if row in wanted:
                            (stored,) = batch.slice(number, 1).to_pylist()
                            masks = read_masks(stored["masks"], task) if isinstance(task, SegmentationTask) else []
                            yield row, _decode(stored["image"], is_in_colour(task.modality)), masks
                        row += 1
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"Cannot read the images of {group.path}: {reason} Rebuild the dataset.") from None


def _decode(image: dict[str, Any] | None, in_colour: bool = False) -> np.ndarray | None:
    try:
        return read_picture(io.BytesIO((image or {})["bytes"]), in_colour)
    except Exception:  # Pillow's codecs raise anything on a damaged file
        return None
