"""Somebody else's Hub dataset as a release, through the names of its columns."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, LargeList, List

from ...models.ark.configuration_ark import DEFAULT_MODALITY
from ..rows import OPTIONAL_COLUMNS, Problem, Release, Row
from ..task_dataset import load_splits
from .generic import (
    SPLIT_NAMES,
    LabelReader,
    check_label_options,
    derive_splits,
    names_that_occur,
    parse_names,
    read_age,
    without_nothing,
)
from .hub_pictures import HubPictures


@dataclass
class HubSource:
    """
    A dataset with an image column that `datasets.load_dataset` can load, and how its labels are read.

    Args:
        dataset: Hub id ("someone/cxr", "someone/cxr@v1") or folder.
        name: Name of the task.
        labels: Label columns, each 0, 1, -1 (uncertain) or nothing (unknown), for a multi-label task.
        label_column: Instead of `labels`, the one column that holds a class (a name or a `ClassLabel`), or for a
            multi-label task a list of them; with `separator` a text that is such a list.
        classes, separator, image_column, patient_column, modality: As in [`GenericSource`].
        config: The dataset's configuration, if it has several.
    """

    dataset: str
    name: str
    labels: list[str] = field(default_factory=list)
    label_column: str | None = None
    classes: list[str] = field(default_factory=list)
    separator: str | None = None
    image_column: str = "image"
    patient_column: str = "patient_id"
    config: str | None = None
    modality: str = DEFAULT_MODALITY


def read_hub(source: HubSource) -> Release:
    """
    The rows of a Hub dataset; wrong ones are among its problems, by split and row. One that has a single split gets
    others derived.

    Raises:
        ValueError: It cannot be loaded, lacks columns, or the options do not fit together.
    """
    check_label_options(source.labels, source.label_column, source.classes, source.separator)
    splits = load_splits(source.dataset, source.config)
    first = next(iter(splits.values()))
    if len(splits) > 1 and any(split.lower() not in SPLIT_NAMES for split in splits):
        raise ValueError(f"{source.dataset} has the splits {list(splits)}; only train, validation and test are known.")
    needed = [source.image_column, *(source.labels or [source.label_column or ""])]
    needed += [source.patient_column] * (source.patient_column != "patient_id")
    missing = [column for column in needed if column not in first.column_names]
    if missing:
        raise ValueError(f"{source.dataset} has no columns {missing}; it has {first.column_names}.")

    labels = _label_reader(source, splits)
    task = replace(labels.task, modality=source.modality)
    release = Release(task, [], read_image=HubPictures(source.image_column))
    for name, dataset in splits.items():
        split = SPLIT_NAMES[name.lower()] if len(splits) > 1 else ""
        for number, (path, record) in enumerate(zip(_places(dataset), _records(source, dataset), strict=True)):
            where = f"{name}, row {number}"
            try:
                if source.label_column is None:
                    values: Any = labels.from_values(_text(record[label]) for label in source.labels)
                else:
                    values = labels.from_names(_names(source, dataset, record[source.label_column]))
                metadata = {"image_id": f"{name}/{number}", **_metadata(source, record)}
                release.rows.append(Row(where, path, split, values, metadata))
            except ValueError as error:
                release.problems.append(Problem(where, str(error)))
    if len(splits) == 1:
        derive_splits(release)
    return release


def _places(dataset: Dataset) -> Iterator[Path]:
    for file in dataset.cache_files:
        for number in range(Dataset.from_file(file["filename"]).num_rows):
            yield Path(file["filename"], str(number))


def _records(source: HubSource, dataset: Dataset) -> list[dict[str, Any]]:
    """What the rows say of labels and metadata."""
    wanted = {*source.labels, source.label_column, source.patient_column, *OPTIONAL_COLUMNS} - {source.image_column}
    return dataset.select_columns([name for name in dataset.column_names if name in wanted]).to_list()


def _label_reader(source: HubSource, splits: dict[str, Dataset]) -> LabelReader:
    if source.label_column is None:
        return LabelReader(source.name, source.labels)
    feature, is_list = _class_feature(source, next(iter(splits.values())))
    classes = source.classes
    if isinstance(feature, ClassLabel) and not classes:
        classes = without_nothing(feature.names) if is_list else feature.names
    if not classes:
        classes = names_that_occur(
            (
                _names(source, dataset, record[source.label_column])
                for dataset in splits.values()
                for record in _records(source, dataset)
            ),
            is_list,
        )
    return LabelReader(source.name, classes, source.label_column, is_list)


def _class_feature(source: HubSource, dataset: Dataset) -> tuple[Any, bool]:
    """The type of what the label column holds, and whether it holds lists of it."""
    feature = dataset.features[source.label_column]
    if isinstance(feature, (List, LargeList)):
        return feature.feature, True
    return feature, source.separator is not None


def _names(source: HubSource, dataset: Dataset, value: Any) -> list[str]:
    """The class in a cell of the label column, or the findings of a list."""
    if isinstance(value, str):
        return parse_names(value, source.separator)
    feature, _ = _class_feature(source, dataset)
    values = value if isinstance(value, list) else [value]
    if isinstance(feature, ClassLabel):
        values = [feature.int2str(index) for index in values if index is not None and index >= 0]
    return [text for text in map(_text, values) if text]


def _metadata(source: HubSource, record: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for column, kind in OPTIONAL_COLUMNS.items():
        text = _text(record.get(source.patient_column if column == "patient_id" else column))
        metadata[column] = None if not text else text if kind is str else read_age(text)
    return metadata


def _text(value: Any) -> str:
    """A value as a table of texts would have it."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    return f"{value:g}" if isinstance(value, (bool, float)) else str(value).strip()
