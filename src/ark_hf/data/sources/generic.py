"""Any folder of radiographs as a release: with a table of labels, or with a folder for each class."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...files import printable
from ...labels import normalise
from ...models.ark.configuration_ark import DEFAULT_MODALITY, ArkTask
from ..images.dicom import age_in_years
from ..rows import OPTIONAL_COLUMNS, Problem, Release, Row, hashed_split
from .raw_folder import RawFolder
from .tables import LABEL_WORDS, Table

SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
SPLIT_NAMES |= {"validation": "validation", "test": "test", "testing": "test"}
SPLIT_HEADERS = ("split", "set", "subset", "fold", "partition")
NOTHING = normalise("No Finding")
SHARES = {"validation": 0.1, "test": 0.2}  # of the patients, where the source has no splits


@dataclass
class GenericSource:
    """
    A folder of radiographs and how its labels are read.

    With a table, each row names an image (path from the folder, or a name that occurs once below it). Without one, the
    folders of the images are their classes: `NORMAL/1.png`, or `train/NORMAL/1.png`.

    Args:
        folder: The folder.
        name: Name of the task.
        labels: Label columns, each 0, 1, -1 (uncertain) or blank (unknown), for a multi-label task.
        label_column: Instead of `labels`, the one column that holds a class name, or with `separator` a list of
            findings. Blank is unknown.
        classes: The class names in order; by default those that occur, sorted.
        separator: What stands between the findings of `label_column`. "No Finding" is none of them, unless it is
            among `classes`.
        csv: Table of the labels, CSV or TSV; by default `labels.csv` in the folder.
        image_column: The column of the images.
        split_column: The column of the splits (train, val, test); without it, a tenth of the patients become
            validation and a fifth test.
        patient_column: The column of the patients.
        modality: What the images are taken with, as of an [`ArkTask`].
    """

    folder: Path
    name: str
    labels: list[str] = field(default_factory=list)
    label_column: str | None = None
    classes: list[str] = field(default_factory=list)
    separator: str | None = None
    csv: Path | None = None
    image_column: str = "image"
    split_column: str = "split"
    patient_column: str = "patient_id"
    modality: str = DEFAULT_MODALITY


def read_generic(source: GenericSource) -> Release:
    """
    The rows of a folder of radiographs; wrong ones are among its problems, by line.

    Raises:
        ValueError: The table cannot be read or lacks columns, or the options do not fit together.
    """
    has_table = source.csv is not None or (source.folder / "labels.csv").exists()
    by_folder = not has_table and not source.labels and source.label_column is None
    release = _read_class_folders(source) if by_folder else _read_labelled_table(source)
    release.task = replace(release.task, modality=source.modality)
    return release


def _read_labelled_table(source: GenericSource) -> Release:
    path = source.csv or source.folder / "labels.csv"
    check_label_options(source.labels, source.label_column, source.classes, source.separator)
    header = Table(path).header
    has_splits = "split" in header or source.split_column != "split"
    others = [name for name in header if normalise(name) in SPLIT_HEADERS]
    if others and not has_splits:
        raise ValueError(f"{path} has no column 'split', but {others}; pass --split_column if that is the split.")
    needed = [source.image_column, *(source.labels or [source.label_column or ""])]
    needed += [source.split_column] * has_splits + [source.patient_column] * (source.patient_column != "patient_id")
    table = Table(path, list(dict.fromkeys([*needed, *(name for name in OPTIONAL_COLUMNS if name in header)])))

    is_list = source.separator is not None
    classes = source.classes
    if source.label_column is not None and not classes:
        cells = (parse_names(record[source.label_column], source.separator) for _, record in table)
        classes = names_that_occur(cells, is_list)
    labels = LabelReader(source.name, source.labels or classes, source.label_column, is_list)
    images = RawFolder(source.folder)
    rows, problems = [], []
    for line, record in table:
        where = f"{path.name}, line {line}"
        try:
            rows.append(_read_row(where, record, source, labels, images))
        except ValueError as error:
            problems.append(Problem(where, str(error)))
    problems += [Problem(f"{path.name}, line {line}", reason) for line, reason in table.problems]
    if not rows and not problems:
        raise ValueError(f"{path} has no rows.")
    release = Release(labels.task, rows, problems)
    if not has_splits:
        derive_splits(release)
    return release


def _read_row(
    where: str, record: dict[str, str], source: GenericSource, labels: "LabelReader", images: RawFolder
) -> Row:
    split = read_split(record[source.split_column]) if source.split_column in record else ""
    name = record[source.image_column].strip()
    if not name:
        raise ValueError(f"{source.image_column} is blank: it must be a path from the folder")
    path = source.folder / name
    if not os.path.isfile(path):  # unlike Path.is_file, False for impossible names
        path = images.find_image(name)
    metadata: dict[str, Any] = {"image_id": os.path.relpath(path, source.folder).replace(os.sep, "/")}
    for column, kind in OPTIONAL_COLUMNS.items():
        text = record.get(source.patient_column if column == "patient_id" else column, "").strip()
        metadata[column] = None if not text else text if kind is str else read_age(text)
    if source.label_column is None:
        values: Any = labels.from_values(record[label] for label in source.labels)
    else:
        values = labels.from_names(parse_names(record[source.label_column], source.separator))
    return Row(where, path, split, values, metadata)


def read_split(text: str) -> str:
    """The split that a word stands for. Raises `ValueError`."""
    if text.strip().lower() not in SPLIT_NAMES:
        raise ValueError(f"split {text!r}: use one of {sorted(SPLIT_NAMES)}")
    return SPLIT_NAMES[text.strip().lower()]


def read_age(text: str) -> float | None:
    """Years; None of more than a human age, see [`age_in_years`]. Raises `ValueError`, which does not quote them."""
    try:
        age = float(text)
    except ValueError:
        age = math.nan
    if not 0 <= age < math.inf:
        raise ValueError("age must be a number of years or blank")
    return age_in_years(age)


def check_label_options(
    labels: Sequence[str], label_column: str | None, classes: Sequence[str], separator: str | None
) -> None:
    """Raises `ValueError` if the options do not say how labels are read."""
    if bool(labels) == (label_column is not None):
        raise ValueError(
            "Give either --labels (0/1 columns of a multi-label task) or --label_column (one column of class names; "
            "of lists of findings with --separator)."
        )
    if labels and (classes or separator is not None):
        raise ValueError("--classes and --separator go with --label_column, not with --labels.")
    if separator == "":
        raise ValueError("--separator must not be empty.")


def parse_names(text: str, separator: str | None) -> list[str]:
    """The class in a cell, or the findings if it is a list; [] for a blank one."""
    names = [text] if separator is None else text.split(separator)
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def names_that_occur(cells: Iterable[list[str]], is_list: bool) -> list[str]:
    """The classes, sorted; of lists of findings, without the one for none."""
    names = sorted({name for cell in cells for name in cell})
    return without_nothing(names) if is_list else names


def without_nothing(names: Sequence[str]) -> list[str]:
    return [name for name in names if normalise(name) != NOTHING]


class LabelReader:
    """
    Makes stored labels of what a row says.

    Args:
        name: Name of the task.
        labels: Its labels.
        label_column: The column of classes or lists of findings; None: each label has its own column.
        is_list: Whether that column holds lists, which makes a multi-label task of it.
    """

    def __init__(self, name: str, labels: Sequence[str], label_column: str | None = None, is_list: bool = False):
        self.label_column, self.is_list = label_column, is_list
        single = label_column is not None and not is_list
        self.task = ArkTask(
            name, list(labels), "single_label_classification" if single else "multi_label_classification"
        )

    def from_values(self, texts: Iterable[str]) -> list[float]:
        """A text per label. Raises `ValueError` that says what is allowed."""
        values = []
        for label, text in zip(self.task.labels, texts, strict=True):
            if text.strip() not in LABEL_WORDS:
                raise ValueError(f"{label} is {text!r}: use 0, 1, -1 (uncertain) or blank (unknown)")
            values.append(LABEL_WORDS[text.strip()])
        return values

    def from_names(self, names: Sequence[str]) -> list[float] | int:
        """The class, or the findings of a list; [] is unknown. Raises `ValueError` that says what is allowed."""
        labels = self.task.labels
        wrong = [name for name in names if name not in labels]
        if self.is_list:
            wrong = without_nothing(wrong)
        if wrong:
            raise ValueError(f"{self.label_column} {wrong[0]!r} is not a class; the classes are {labels}")
        if not self.is_list:
            return labels.index(names[0]) if names else -1
        return [float(label in names) if names else math.nan for label in labels]


def derive_splits(release: Release) -> None:
    """Gives all rows a split, by patient where patients are known, and says so among the facts."""
    keys = [row.metadata["patient_id"] or row.metadata["image_id"] for row in release.rows]
    for row, key in zip(release.rows, keys, strict=True):
        row.split = hashed_split(release.task.name, key, SHARES)
    shares = ", ".join(f"{share:.0%} for {split}" for split, share in SHARES.items())
    patients = "patient" if all(row.metadata["patient_id"] for row in release.rows) else "image"
    release.facts["splits"] = f"The source has none; derived by a hash of the {patients}: {shares}."
    empty = [split for split in ("train", *SHARES) if all(row.split != split for row in release.rows)]
    if empty:
        release.facts["splits"] += (
            f" None of the {len(set(keys)):,} {patients}s fell to {' and '.join(empty)}: give splits of your own."
        )
    if patients == "image":
        release.facts["splits"] += (
            " Not all patients are known, so images of one may stand in two splits: do not trust results before that "
            "is ruled out."
        )


def _read_class_folders(source: GenericSource) -> Release:
    """Images whose folder is their class, within a folder for each split or not."""
    paths = [Path(path) for path in RawFolder(source.folder).images()]
    depth = 0
    while len({path.parts[: depth + 1] for path in paths}) == 1 and len(paths[0].parts) > depth + 1:
        depth += 1  # into the release's own folder
    tops = {path.parts[depth] for path in paths if len(path.parts) > depth + 1}
    split_folders = {top for top in tops if top.lower() in SPLIT_NAMES}
    if split_folders and split_folders != tops:
        raise ValueError(f"{source.folder} has folders of splits, {sorted(split_folders)}, beside {sorted(tops)}.")
    level = depth + bool(split_folders)
    found = sorted({path.parts[level] for path in paths if len(path.parts) > level + 1})
    for name in found:
        if printable(name) != name:
            raise ValueError(f"{source.folder}: the name of the folder {printable(name)} is not UTF-8; rename it.")
    classes = source.classes or found
    if len(found) < 2 or set(found) - set(classes):
        raise ValueError(
            f"{source.folder} has no labels.csv, so its folders must be the classes; it has {found}, expected are "
            f"{source.classes or 'at least two'}. --csv names a table of another name."
        )
    task = ArkTask(source.name, classes, "single_label_classification")
    release = Release(task, [])
    for path in paths:
        where, image = printable(path.as_posix()), path.as_posix()
        if len(path.parts) <= level + 1:
            release.problems.append(Problem(where, "it lies in no folder of a class"))
            continue
        split = SPLIT_NAMES[path.parts[depth].lower()] if split_folders else ""
        metadata = {"image_id": image, "patient_id": None}
        label = classes.index(path.parts[level])
        release.rows.append(Row(where, source.folder / path, split, label, metadata))
    if not split_folders:
        derive_splits(release)
    return release
