"""A task's dataset, opened: its splits, checked once, and their labels, read once. What every job works on."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from ..cells import is_blank, stored_value
from ..metrics.auroc import one_vs_rest
from ..models.ark.configuration_ark import ArkTask, SegmentationTask
from ..models.ark.tasks_ark import DEFAULT_MODALITY
from ..names import key_of
from ..provenance import shown_name
from .colours import check_colours
from .masks import read_presence
from .streaming import StreamedRows
from .summary import split_facts, training_data_facts
from .task_dataset import (
    CARD_KEY,
    KIND_KEY,
    SMOOTHED,
    SPLITS,
    load_task_splits,
    named_class,
    read_any_task,
    read_card,
    read_dataset_task,
    split_names,
)
from .unlabelled import Unlabelled
from .volume_rows import read_label_presence

IMAGE_HASHES = "image_hashes.parquet"


@dataclass
class TaskDataset:
    """
    One task with the splits of its dataset.

    Args:
        source: Folder or Hub id.
        task: What the labels or masks mean; of images whose labels do not count an [`Unlabelled`], whose name stands
            in its place.
        splits: Rows by name, in the order of `SPLITS`; not all are always there.
        uncertain: What an uncertain label (-1) counts as in training, see [`resolve_labels`].
        facts: What the card of a model that is trained on it tells of it, see [`training_data_facts`].
    """

    source: str
    task: Any  # AnyTask, and the jobs know which kind they ask for
    splits: dict[str, Dataset | StreamedRows]
    uncertain: str = "ignore"
    facts: dict[str, Any] = field(default_factory=dict)
    _columns: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The dataset's, without the path of a folder."""
        return shown_name(self.source)

    def columns(self, split: str) -> list[str]:
        """Names of the columns that a split has."""
        return list(self.splits[split].column_names)

    @property
    def has_volumes(self) -> bool:
        """Whether rows have a `volume` in the place of an `image`."""
        return any("volume" in rows.column_names for rows in self.splits.values())

    def column(self, split: str, name: str) -> list | None:
        """
        A small column of a split, a value or None a row; None where the dataset has no such column.

        Metadata are as our readers would have stored them, whoever did: unknown patients are None, sexes M and F.
        """
        if name not in self.columns(split):
            return None
        return self._once(split, name, lambda: self._read_column(split, name))

    def _read_column(self, split: str, name: str) -> list:
        values = self._arrow_column(split, name).to_pylist()
        if name == "image_id":
            return values
        feature = getattr(self.splits[split], "features", {}).get(name)
        return [stored_value(name, named_class(feature, value)) for value in values]

    def stored_labels(self, split: str) -> np.ndarray:
        """
        The labels as they are stored: float32 (rows, labels) in 0, 1, -1 (uncertain), NaN (unknown), or int64 (rows,)
        class indices, -1 unknown, of a single-label task. Of a segmentation whether each label has a pixel in the
        image, for which all masks are read and checked. Of unlabelled images (rows, 0).

        Raises:
            ValueError: A row's labels or masks do not fit the task; the message names the first.
        """
        where = f"{self.source}, split {split!r}"
        if isinstance(self.task, Unlabelled):
            return np.empty((len(self.splits[split]), 0), dtype=np.float32)
        if isinstance(self.task, SegmentationTask):
            read = read_label_presence if self.has_volumes else read_presence
            return self._once(split, "masks", lambda: read(self.splits[split], self.task, where))
        return self._once(split, "labels", lambda: read_labels(self._arrow_column(split, "labels"), self.task, where))

    def labels(self, split: str) -> np.ndarray:
        """Float32 (rows, labels), NaN unknown or uncertain; or int64 (rows,), -100 unknown, of a single-label task."""
        stored = self.stored_labels(split)
        if stored.ndim == 1:
            return np.where(stored < 0, -100, stored)
        return np.where(stored == -1, np.float32(np.nan), stored)

    def targets(self, split: str, uncertain: str = "ignore") -> np.ndarray:
        """
        Float64 (rows, labels) in [0, 1], NaN unknown, a column per class for single-label tasks.

        Args:
            uncertain: What -1 counts as; of the two `lsr` policies, which draw anew for each view, their mean.
        """
        stored = self.stored_labels(split)
        if stored.ndim == 1:
            return one_vs_rest(self.labels(split), len(self.task.labels)).astype(np.float64)
        counts_as = {"ignore": np.nan, "ones": 1.0, "zeros": 0.0} | {
            policy: (low + high) / 2 for policy, (low, high) in SMOOTHED.items()
        }
        return np.where(stored == -1, counts_as[uncertain], stored.astype(np.float64))

    def patients(self, split: str) -> list | None:
        """A patient id or None an image; None where the dataset knows no patients."""
        return self.column(split, "patient_id")

    def has_known_label(self, split: str) -> bool:
        """Whether any label of a split is known; uncertain ones do not count."""
        return split in self.splits and not np.isnan(self.targets(split)).all()

    def select(self, split: str, rows: Sequence[int] | np.ndarray) -> "TaskDataset":
        """The same with some rows of a split, by number, in the place of all."""
        chosen = np.asarray(rows, dtype=np.int64)
        found = self.splits[split]
        if isinstance(found, StreamedRows):
            raise ValueError(f"{self.source} is streamed, so that rows cannot be chosen: load it.")
        columns = dict(self._columns)
        for at, values in self._columns.items():
            if at[0] == split:
                columns[at] = values[chosen] if isinstance(values, np.ndarray) else [values[row] for row in chosen]
        return replace(self, splits=self.splits | {split: found.select(chosen)}, _columns=columns)

    def digest(self) -> str:
        """A sha256 of what rows hold: the task, labels or masks, names of images and patients, the stored pictures."""
        digest = hashlib.sha256(repr(self.task.to_dict()).encode())
        for split in self.splits:
            digest.update(split.encode() + self.stored_labels(split).tobytes())
            for name in ("image_id", "patient_id"):
                digest.update(repr(self.column(split, name)).encode())
            if isinstance(self.task, SegmentationTask):
                name = "mask" if self.has_volumes else "masks"
                for masks in self._arrow_column(split, name):  # one by one: all as Python objects take gigabytes
                    digest.update(repr(masks.as_py()).encode())
        pictures = Path(self.source, IMAGE_HASHES)
        if pictures.is_file():
            digest.update(pictures.read_bytes())
        return digest.hexdigest()

    def _arrow_column(self, split: str, name: str) -> pa.ChunkedArray:
        rows = self.splits[split]
        if isinstance(rows, StreamedRows):
            rows = self._once(split, "small columns", rows.without_images)
        column = rows.select_columns([name]).with_format("arrow")[:][name]
        return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])

    def _once(self, split: str, name: str, read: Any) -> Any:
        if (split, name) not in self._columns:
            self._columns[split, name] = read()
        return self._columns[split, name]


def open_dataset(
    source: str | Path,
    splits: Sequence[str] | None = None,
    task: ArkTask | SegmentationTask | None = None,
    name: str | None = None,
    columns: Mapping[str, Any] | None = None,
    uncertain: str = "ignore",
    streaming: bool = False,
    modality: str | None = None,
) -> TaskDataset:
    """
    Opens a task dataset, and checks labels and splits before any time is spent on its images.

    Args:
        source: Folder or Hub id; an id may name a revision, "someone/nih14@v1".
        splits: Those to open; all that there are of train, validation and test unless set.
        task: What the labels mean, for instance a model's head; what the card says unless set.
        name: Of the task, in place of its own; needed with `columns`.
        columns: For a dataset whose card has no task, as for [`load_task_dataset`].
        uncertain: What an uncertain label counts as in training.
        streaming: Whether images are read from the parquet files as they are needed, without a copy on disk. The
            checks read the columns of labels, patients and images' names.
        modality: What its images were taken with, where its card does not tell.

    Raises:
        ValueError: The dataset cannot be read, a split is missing or empty, labels do not fit the task, its card tells
            another modality, or a patient or an image stands in two of the splits.
    """
    if columns is not None and name is None:
        raise ValueError(f"{source}: a dataset that is read through named columns needs a `name` for its task.")
    if columns is None and task is None:
        task = read_dataset_task(source)
    if task is not None and modality not in (None, task.modality) and task.modality != DEFAULT_MODALITY:
        raise ValueError(f"{source}: its card says modality {task.modality}, not {modality}; leave modality out.")
    rows = _load(source, splits, columns, streaming, images_only=False)
    if task is None:
        task = _task_of_columns(str(name), columns or {}, next(iter(rows.values())))
    elif name is not None:
        task = replace(task, name=name)
    if modality is not None:
        task = replace(task, modality=modality)
    return _checked(TaskDataset(str(source), task, rows, uncertain))


def open_images(
    source: str | Path,
    splits: Sequence[str] | None = None,
    columns: Mapping[str, Any] | None = None,
    streaming: bool = False,
    name: str | None = None,
) -> TaskDataset:
    """
    Opens the images of any dataset for training without labels: of a task dataset whose labels or masks are not read,
    of one without labels, or of a Hub dataset whose card tells of no task.

    Args:
        source: Folder or Hub id; an id may name a revision, "someone/nih14@v1".
        splits: Those to open; all that there are of train, validation and test unless set.
        columns: `{"image": COLUMN}` where the images' column is not called "image".
        streaming: As for [`open_dataset`].
        name: What the images are called together; unless set as the task in the card, or else as the dataset.

    Returns:
        The dataset with an [`Unlabelled`] for its task. Its splits have images, `image_id` and metadata alone.

    Raises:
        ValueError: The dataset cannot be read, a split or the column of images is missing, a split is empty, or a
            patient or an image stands in two of the splits.
    """
    task = _images_task(source, name)
    rows = _load(source, splits, columns, streaming, images_only=True)
    return _checked(TaskDataset(str(source), task, rows))


def _images_task(source: str | Path, name: str | None) -> Unlabelled:
    try:
        card = read_card(source).data.to_dict()
    except ValueError:  # a foreign dataset may have no card; that there is none of this name shows when it is loaded
        card = {}
    if CARD_KEY in card or KIND_KEY in card:
        task = read_any_task(source)
        return Unlabelled(name or task.name, task.modality)
    try:
        return Unlabelled(name or key_of(shown_name(source)))
    except ValueError as error:
        raise ValueError(f"{source}: {error} Give a `name`.") from None


def _load(
    source: str | Path,
    splits: Sequence[str] | None,
    columns: Mapping[str, Any] | None,
    streaming: bool,
    images_only: bool,
) -> dict[str, Dataset | StreamedRows]:
    if splits is None:
        there = split_names(source)
        splits = [split for split in SPLITS if split in there]
        if not splits:
            raise ValueError(f"{source} has none of the splits {SPLITS}, only {there}: name its splits so.")
    if streaming:
        return {split: StreamedRows(source, split, columns, images_only) for split in splits}
    return {**load_task_splits(source, splits, columns, images_only)}


def _checked(opened: TaskDataset) -> TaskDataset:
    """With its facts, once labels are read and splits are known to be disjoint; raises `ValueError` otherwise."""
    for split in opened.splits:
        opened.stored_labels(split)
    check_disjoint(opened)
    opened.facts = training_data_facts(opened.source, opened.task)
    opened.facts["splits"] = {
        split: split_facts(opened.task, opened.stored_labels(split), opened.patients(split)) for split in opened.splits
    }
    check_colours(opened.source, opened.task.modality, next(iter(opened.splits.values())))
    return opened


def _task_of_columns(name: str, columns: Mapping[str, Any], rows: Dataset | StreamedRows) -> ArkTask:
    feature = rows.features["labels"] if isinstance(rows, Dataset) else None
    if isinstance(feature, ClassLabel):
        return ArkTask(name, feature.names, "single_label_classification")
    return ArkTask(name, columns["labels"])


def check_disjoint(data: TaskDataset) -> None:
    """Raises `ValueError` if a patient or an image stands in two splits; names the rows, not the patient."""
    for column, what in {"patient_id": "patient", "image_id": "image"}.items():
        first_rows: dict[str, tuple[str, int]] = {}
        for split in data.splits:
            for row, value in enumerate(data.column(split, column) or []):
                if is_blank(value):
                    continue
                other_split, other_row = first_rows.setdefault(value, (split, row))
                if other_split != split:
                    raise ValueError(
                        f"{data.source}: row {row} of split {split!r} and row {other_row} of split {other_split!r} "
                        f"are of one {what}. Splits must be patient-disjoint: rebuild it with each {what} in one "
                        "split."
                    )


def read_labels(column: pa.ChunkedArray, task: ArkTask, where: str) -> np.ndarray:
    """
    A column of stored labels as [`TaskDataset.stored_labels`] gives it.

    Raises:
        ValueError: They are of another type than the task's, or a row's do not fit; the message names the first.
    """
    column = column.combine_chunks()
    count, kind = len(task.labels), column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    is_single = task.problem_type == "single_label_classification"
    if not _is_number(kind.value_type if is_list else kind) or is_single and is_list:
        stored, wrong = np.empty(0), np.full(len(column), True)
    elif is_single:
        values = pc.fill_null(pc.cast(column, pa.float64()), -1.0).to_numpy(zero_copy_only=False)
        wrong = ~np.isin(values, range(-1, count))
        stored = np.where(wrong, -1, values).astype(np.int64)
    else:
        stored, wrong = _label_lists(column, count) if is_list else _single_labels(column, count)
        wrong |= ~(np.isnan(stored) | np.isin(stored, (-1, 0, 1))).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{where}, row {row}: labels {column[row].as_py()!r}; task {task.name!r} takes {_allowed(task)}. "
            f"{wrong.sum()} rows are wrong."
        )
    return stored


def _allowed(task: ArkTask) -> str:
    count = len(task.labels)
    if task.problem_type == "single_label_classification":
        return f"a class index from 0 to {count - 1}, or -1 for unknown"
    return f"{count} values, each 0, 1, -1 (uncertain) or NaN (unknown)"


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _label_lists(column: pa.Array, count: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 (rows, count), and which rows have another number of labels."""
    stored = np.full((len(column), count), np.nan, dtype=np.float32)
    lengths = pc.list_value_length(column).fill_null(1).to_numpy(zero_copy_only=False)
    wrong = lengths != count
    if not wrong.any():
        values = pc.cast(column.flatten(), pa.float32()).to_numpy(zero_copy_only=False)
        stored[column.is_valid().to_numpy(zero_copy_only=False)] = values.reshape(-1, count)
    return stored, wrong


def _single_labels(column: pa.Array, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels of a task of one label, a number per row, as [`_label_lists`] gives them."""
    values = pc.cast(column, pa.float32()).to_numpy(zero_copy_only=False)
    return np.repeat(values[:, None], count, axis=1), np.full(len(values), count != 1)
