"""Somebody else's Hub dataset as a release, through the names of its columns."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, LargeList, List, Nifti, config
from huggingface_hub.constants import HF_HUB_CACHE

from ..build.volumes import VOLUMES_PER_SHARD
from ..rows import Problem, Release, Row
from ..task_dataset import MODALITY_KEY, load_splits, named_class, read_card
from ..volumes.volume import nibabel
from .columns import column_key, find_column
from .generic import SPLIT_NAMES, derive_splits
from .generic_volumes import check_has_modality
from .hub_pictures import HubPictures
from .labelled import ClassNames, LabelledSource, LabelReader, metadata_remarks, read_metadata


@dataclass
class HubSource(LabelledSource):
    """
    A dataset of the Hub, and how its labels are read, see [`LabelledSource`].

    Images are volumes where their column is one of NIfTI. A label column may hold numbers, a `label_column` a
    `ClassLabel`, texts, or lists of either. Metadata may be `ClassLabel`s too.

    Args:
        dataset: Id or folder of anything that `datasets` loads.
        name: Name of the task.
        config: The dataset's configuration, if it has several.
    """

    dataset: str
    name: str
    config: str | None = None


def read_hub(source: HubSource) -> Release:
    """
    The rows of a Hub dataset; wrong ones are among its problems, by split and row. One that has a single split gets
    others derived.

    Raises:
        ValueError: It cannot be loaded, lacks columns, its card tells of another modality, or the options do not fit
            together.
    """
    source.check_label_options()
    _check_modality(source)
    splits = load_splits(source.dataset, source.config)
    first = next(iter(splits.values()))
    if len(splits) > 1 and any(split.lower() not in SPLIT_NAMES for split in splits):
        raise ValueError(f"{source.dataset} has the splits {list(splits)}; only train, validation and test are known.")
    header = first.column_names
    needed = [source.image_column, *(source.labels or [source.label_column or ""])]
    found = {name: find_column(header, name, (column_key(name),), repr(name), source.dataset) for name in needed}
    missing = [name for name, column in found.items() if column is None]
    if missing:
        raise ValueError(f"{source.dataset} has no columns {missing}; it has {header}.")
    metadata = source.metadata_columns(header, source.dataset)
    _check_ids(splits, [metadata[name] for name in ("patient_id", "study_id") if name in metadata], source.dataset)
    columns = {name: str(column) for name, column in found.items() if name != source.image_column}
    columns |= {column: column for column in metadata.values()}

    names = None if source.label_column is None else _class_names(source, splits, columns[source.label_column])
    labels = LabelReader(source.name, source, names)
    task = replace(labels.task, modality=source.modality)
    remarks = [*metadata_remarks(metadata), *(names.remarks if names else [])]
    pictures = HubPictures(str(found[source.image_column]), _allowed_folders(source.dataset), source.modality)
    release = Release(task, [], read_image=pictures, read_tags=pictures.read_tags, remarks=remarks)
    if isinstance(first.features[pictures.column], Nifti):
        check_has_modality(source.modality)
        nibabel()
        release.read_volume, release.rows_per_shard = pictures.read_volume, VOLUMES_PER_SHARD
    for name, dataset in splits.items():
        split = SPLIT_NAMES[name.lower()] if len(splits) > 1 else ""
        for number, (path, record) in enumerate(zip(_places(dataset), _records(dataset, columns), strict=True)):
            where = f"{name}, row {number}"
            try:
                values = {"image_id": f"{name}/{number}", **read_metadata(record, metadata)}
                release.rows.append(Row(where, path, split, labels.read(record), values))
            except ValueError as error:
                release.problems.append(Problem(where, str(error)))
    if len(splits) == 1:
        derive_splits(release)
    return release


def _check_modality(source: HubSource) -> None:
    """Raises `ValueError` if the dataset's own card says that it is of another modality."""
    try:
        told = read_card(source.dataset).data.to_dict().get(MODALITY_KEY, source.modality)
    except ValueError:  # most have no card of ours
        return
    if told != source.modality:
        raise ValueError(
            f"{source.dataset}: its card says {MODALITY_KEY} {told!r}, and --modality is {source.modality}; pass "
            f"--modality {told}, or correct the card."
        )


def _check_ids(splits: Mapping[str, Dataset], columns: list[str], where: str) -> None:
    """Raises `ValueError` if ids are floats too short for them, so that several have become one."""
    for dataset in splits.values():
        for column in columns:
            if getattr(dataset.features[column], "dtype", "") != "float32":
                continue
            largest = pc.max(dataset.data.column(column)).as_py()
            if largest is not None and largest >= 2**24:
                raise ValueError(
                    f"{where}: the ids in {column!r} are float32, which rounds those beyond {2**24:,}, so that "
                    "several patients or studies are one; store them as text or whole numbers."
                )


def _allowed_folders(dataset: str) -> tuple[str, ...]:
    """Where pictures may lie that a dataset has by their paths: its folder, and where downloads go."""
    folders = [config.HF_DATASETS_CACHE, HF_HUB_CACHE, *([dataset] if Path(dataset).is_dir() else [])]
    return tuple({read(folder) for folder in folders for read in (os.path.abspath, os.path.realpath)})


def _places(dataset: Dataset) -> Iterator[Path]:
    for file in dataset.cache_files:
        for number in range(Dataset.from_file(file["filename"]).num_rows):
            yield Path(file["filename"], str(number))


def _records(dataset: Dataset, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What the rows say in some columns, under the names that these are asked for by; classes by their names."""
    read = dataset.select_columns(list(dict.fromkeys(columns.values())))
    features = {name: read.features[column] for name, column in columns.items()}
    for record in read.to_list():
        yield {name: _named(features[name], record[column]) for name, column in columns.items()}


def _named(feature: Any, value: Any) -> Any:
    """The value, or for the index of a class its name, None for an index that stands for none."""
    if isinstance(value, list):
        inner = feature.feature if isinstance(feature, (List, LargeList)) else None
        return [_named(inner, each) for each in value]
    return named_class(feature, value)


def _class_names(source: HubSource, splits: Mapping[str, Dataset], column: str) -> ClassNames:
    """The names in the column of classes, in the order of its type or as they occur."""
    feature = next(iter(splits.values())).features[column]
    is_list = isinstance(feature, (List, LargeList))
    feature = feature.feature if is_list else feature
    names = ClassNames(source, is_list or source.separator is not None)
    if isinstance(feature, ClassLabel) and not source.classes:
        names.know(feature.names)
    else:
        names.learn(record[column] for dataset in splits.values() for record in _records(dataset, {column: column}))
    return names
