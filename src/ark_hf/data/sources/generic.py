"""Any folder of radiographs as a release: with a table of labels, or with a folder for each class."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...cells import fold, plain_text
from ...files import printable
from ...labels import normalise
from ...models.ark.configuration_ark import ArkTask
from ..rows import Problem, Release, Row, hashed_split
from .columns import find_column
from .labelled import (
    ClassNames,
    LabelledSource,
    LabelReader,
    joined_names,
    metadata_remarks,
    places,
    read_metadata,
)
from .raw_folder import RawFolder
from .tables import Record, Table
from .volume_folder import VolumeFolder

SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
SPLIT_NAMES |= {"validation": "validation", "test": "test", "testing": "test"}
SPLIT_HEADERS = ("split", "set", "subset", "fold", "partition")
LABEL_TABLES = ("labels.csv", "labels.tsv", "labels.xlsx")
TABLE_OPTIONS = ("image_column", "split_column", "patient_column", "sex_column", "age_column", "view_column")
MASKS = "its folder has 'mask' in the name, as segmentations have; rename the folder if these are radiographs"
SHARES = {"validation": 0.1, "test": 0.2}  # of the patients, where the source has no splits


@dataclass
class GenericSource(LabelledSource):
    """
    A folder of radiographs and how its labels are read, see [`LabelledSource`].

    With a table, each row names an image (path from the folder, or a name that occurs once below it). Without one, the
    folders of the images are their classes: `NORMAL/1.png`, or `train/NORMAL/1.png`.

    Args:
        folder: The folder.
        name: Name of the task.
        csv: Table of the labels, CSV, TSV or an Excel sheet; by default `labels.csv`, `.tsv` or `.xlsx` in the folder.
        split_column: The column of the splits (train, val, test); without it, a tenth of the patients become
            validation and a fifth test.
    """

    folder: Path
    name: str
    csv: Path | None = None
    split_column: str = "split"


def read_generic(source: GenericSource) -> Release:
    """
    The rows of a folder of radiographs; wrong ones are among its problems, by line.

    Raises:
        ValueError: The table cannot be read or lacks columns, or the options do not fit together.
    """
    table = source.csv or find_table(source.folder)
    if table is None and (source.labels or source.label_column is not None):
        table = source.folder / LABEL_TABLES[0]  # which is refused by its name
    release = _read_class_folders(source) if table is None else _read_labelled_table(source, table)
    release.task = replace(release.task, modality=source.modality)
    return release


def find_table(folder: Path) -> Path | None:
    """The folder's table of labels. Raises `ValueError` if there are several."""
    found = [path for path in sorted(folder.glob("*")) if path.name.lower() in LABEL_TABLES]
    if len(found) > 1:
        raise ValueError(f"{folder} has {[path.name for path in found]}; say with --csv which one holds the labels.")
    return found[0] if found else None


def _read_labelled_table(source: GenericSource, path: Path) -> Release:
    source.check_label_options()
    table = ImageTable(source, path, source.labels or [source.label_column or ""])
    names = None
    if source.label_column is not None:
        names = ClassNames(source, is_list=source.separator is not None)
        names.learn(record[source.label_column] for _, record in table.rows)
    labels = LabelReader(source.name, source, names)
    images = RawFolder(source.folder)
    rows, problems = table.read(images, labels.read)
    remarks = [*metadata_remarks(table.columns), *(names.remarks if names else [])]
    release = Release(labels.task, rows, problems, remarks=remarks)
    release.left_out = left_out(images, release)
    if table.split_column is None:
        derive_splits(release)
    return release


class ImageTable:
    """
    A table with a row an image: where it is, its split and its metadata.

    Args:
        source: The folder of the images, and how the columns are called.
        path: The table.
        needed: Further columns that it must have.

    Raises:
        ValueError: It cannot be read or lacks columns, or it is not clear which column is which.
    """

    def __init__(self, source: GenericSource, path: Path, needed: Sequence[str]):
        self.source = source
        needed = [source.image_column, *needed]
        advice = {source.image_column: "Which column has the paths of the images, --image_column says."}
        header = Table(path, needed, advice).header
        given = source.split_column != "split"
        self.split_column = (
            source.split_column if given else find_column(header, "split", ("split",), "the split", str(path))
        )
        others = [name for name in header if normalise(name) in SPLIT_HEADERS]
        if others and self.split_column is None:
            raise ValueError(f"{path} has no column 'split', but {others}; pass --split_column if that is the split.")
        self.columns = source.metadata_columns(header, str(path))
        needed += [column for column in (self.split_column, *self.columns.values()) if column is not None]
        self.rows = Table(path, list(dict.fromkeys(needed)))

    def read(
        self, images: RawFolder | VolumeFolder, read_labels: Callable[[Record], list[float] | int]
    ) -> tuple[list[Row], list[Problem]]:
        """Its rows, and those that cannot be used, of which `read_labels` may be the reason by a `ValueError`."""
        rows, problems = [], []
        path, root = self.rows.path, self.source.folder
        for line, record in self.rows:
            where = f"{path.name}, line {line}"
            try:
                split = "" if self.split_column is None else read_split(record[self.split_column])
                image = plain_text(record[self.source.image_column])
                if not image:
                    raise ValueError(f"{self.source.image_column} is blank: it must be a path from the folder")
                found = images.find_image(image)
                metadata = {"image_id": found.relative_to(root).as_posix(), **read_metadata(record, self.columns)}
                rows.append(Row(where, found, split, read_labels(record), metadata))
            except ValueError as error:
                problems.append(Problem(where, str(error)))
        problems += [Problem(f"{path.name}, line {line}", reason) for line, reason in self.rows.problems]
        if not rows and not problems:
            raise ValueError(f"{path} has no rows.")
        return rows, problems


def read_split(text: str) -> str:
    """The split that a word stands for. Raises `ValueError`."""
    if text.strip().lower() not in SPLIT_NAMES:
        raise ValueError(f"split {text!r}: use one of {sorted(SPLIT_NAMES)}")
    return SPLIT_NAMES[text.strip().lower()]


def derive_splits(release: Release) -> None:
    """Gives all rows a split, by patient where patients are known, and says so among the facts."""
    keys = [row.metadata["patient_id"] or row.metadata["image_id"] for row in release.rows]
    for row, key in zip(release.rows, keys, strict=True):
        row.split = hashed_split(release.task.name, key, SHARES)
    shares = ", ".join(f"{share:.0%} for {split}" for split, share in SHARES.items())
    one = "image" if release.read_volume is None else "volume"
    patients = "patient" if all(row.metadata["patient_id"] for row in release.rows) else one
    release.facts["splits"] = f"The source has none; derived by a hash of the {patients}: {shares}."
    empty = [split for split in ("train", *SHARES) if all(row.split != split for row in release.rows)]
    if empty:
        release.facts["splits"] += (
            f" None of the {len(set(keys)):,} {patients}s fell to {' and '.join(empty)}: give splits of your own."
        )
    if patients == one:
        release.facts["splits"] += (
            f" Not all patients are known, so {one}s of one may stand in two splits: do not trust results before that "
            "is ruled out."
        )


def left_out(folder: RawFolder, release: Release) -> dict[str, list[str]]:
    """The files that one may take for radiographs, and of which neither a row nor a problem tells, by the reason."""
    told = {printable(row.metadata["image_id"]) for row in release.rows}
    told |= {problem.where for problem in release.problems}
    files = {
        "no row that can be used names it": folder.images(),
        MASKS: folder.masks,
        "it is no image, by name and content": folder.others,
    }
    return {reason: [path for path in paths if printable(path) not in told] for reason, paths in files.items()}


def list_images(source: GenericSource, images: RawFolder, release: Release) -> bool:
    """Makes a row without labels of every image below the folder; whether they lie in folders of splits."""
    for option in TABLE_OPTIONS:
        if getattr(source, option) != GenericSource.__dataclass_fields__[option].default:
            raise ValueError(
                f"{source.folder} has no labels.csv, of which --{option} names a column: give the table with --csv."
            )
    paths = [Path(path) for path in images.images()]
    if not paths:
        beside = " beside masks, as folders with 'mask' in their names hold" * bool(images.masks)
        raise ValueError(f"{source.folder} holds no images{beside}; --raw names the folder of the radiographs.")
    depth, has_splits = split_folders(source.folder, paths)
    for path in paths:
        where = printable(path.as_posix())
        if has_splits and len(path.parts) <= depth + 1:
            release.problems.append(Problem(where, "it lies in no folder of a split"))
            continue
        split = SPLIT_NAMES[path.parts[depth].lower()] if has_splits else ""
        metadata = {"image_id": path.as_posix(), "patient_id": None}
        release.rows.append(Row(where, source.folder / path, split, [], metadata))
    return has_splits


def _read_class_folders(source: GenericSource) -> Release:
    """Images whose folder is their class, within a folder for each split or not."""
    for option in ("image_column", "split_column", "patient_column", "separator"):
        if getattr(source, option) != GenericSource.__dataclass_fields__[option].default:
            raise ValueError(
                f"{source.folder} has no labels.csv, so its folders are the classes and --{option} has no effect: "
                "name the table with --csv and the labels with --labels or --label_column."
            )
    folder = RawFolder(source.folder)
    paths = [Path(path) for path in folder.images()]
    depth, in_splits = split_folders(source.folder, paths)
    level = depth + in_splits
    counts = Counter(path.parts[level] for path in paths if len(path.parts) > level + 1)
    for name in counts:
        if printable(name) != name:
            raise ValueError(
                f"{source.folder}: the name of the folder {printable(name)} is no plain UTF-8 text; rename it."
            )
    found, remarks = (sorted(counts), []) if source.classes else joined_names(counts)
    classes = source.classes or found
    place = places(classes)
    if len(found) < 2 or not {fold(name) for name in found} <= set(place):
        raise ValueError(
            f"{source.folder} has no labels.csv, so its folders must be the classes; it has {found}, expected are "
            f"{source.classes or 'at least two'}. --csv names a table of another name."
            + f" {len(folder.masks)} images do not count: {MASKS}."
            * bool(folder.masks)
        )
    task = ArkTask(source.name, classes, "single_label_classification")
    release = Release(task, [], remarks=remarks)
    for path in map(Path, folder.masks):
        if any("mask" in part.lower() for part in path.parts[: level + 1]):
            release.problems.append(Problem(printable(path.as_posix()), MASKS))
    for path in paths:
        where, image = printable(path.as_posix()), path.as_posix()
        if len(path.parts) <= level + 1:
            release.problems.append(Problem(where, "it lies in no folder of a class"))
            continue
        split = SPLIT_NAMES[path.parts[depth].lower()] if in_splits else ""
        metadata = {"image_id": image, "patient_id": None}
        label = place[fold(path.parts[level])]
        release.rows.append(Row(where, source.folder / path, split, label, metadata))
    release.left_out = left_out(folder, release)
    if not in_splits:
        derive_splits(release)
    return release


def split_folders(root: Path, paths: Sequence[Path]) -> tuple[int, bool]:
    """
    How many folders all paths have in common, and whether the ones below these are the splits.

    Raises:
        ValueError: Some of them are.
    """
    depth = 0
    while len({path.parts[: depth + 1] for path in paths}) == 1 and len(paths[0].parts) > depth + 1:
        depth += 1  # into the release's own folder
    tops = {path.parts[depth] for path in paths if len(path.parts) > depth + 1}
    splits = {top for top in tops if top.lower() in SPLIT_NAMES}
    if splits and splits != tops:
        raise ValueError(f"{root} has folders of splits, {sorted(splits)}, beside {sorted(tops)}.")
    return depth, bool(splits)
