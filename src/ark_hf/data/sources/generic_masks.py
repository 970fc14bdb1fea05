"""Any folder of radiographs with masks as a release: files of masks for each label, or a label map an image."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...models.ark.tasks_ark import BACKGROUND, SegmentationTask
from ..images.image_files import walk
from ..mask_files import MASK_SUFFIXES, MaskFiles, shown_path
from ..rows import Problem, Release, Row
from .generic import (
    MASKS,
    GenericSource,
    ImageTable,
    derive_splits,
    find_table,
    left_out,
    list_images,
)
from .labelled import metadata_remarks, places
from .raw_folder import RawFolder, composed, without_suffix

# What a mask's name may have more than its image's, and folders that tell masks from images and nothing else
ENDINGS = ("mask", "masks", "seg", "segmentation", "label", "labels")
KIND_FOLDERS = ("image", "images", "img", "imgs", "mask", "masks")
NO_IMAGE = "it is a mask, and no image that can be used has it"
BESIDE = "it lies beside the masks that are asked for"


@dataclass
class MaskedSource(GenericSource):
    """
    A folder of radiographs, see [`GenericSource`], whose labels are outlined. The labels of a table do not count, and
    without a table every image below the folder does, within a folder for each split or not.

    A mask belongs to the image of its name, whatever their suffixes are; `1_mask.png`, or with any other of `ENDINGS`
    or its label, is 1.png's. Images of one name in several folders need masks in folders called like theirs; folders
    called "images" or "masks" do not count.

    Args:
        masks: A folder for each label, in the order of the labels: LABEL=FOLDER.
        label_maps: Or the folder of label maps, one an image.
        legend: What their values stand for: VALUE=LABEL. 0 is background unless it is named.
        overlapping: Whether a pixel may belong to several labels.
        allow_missing_masks: Whether an image may lack files of some masks, not of all: these labels are unknown then.
    """

    masks: list[str] = field(default_factory=list, kw_only=True)
    label_maps: Path | None = field(default=None, kw_only=True)
    legend: list[str] = field(default_factory=list, kw_only=True)
    overlapping: bool = field(default=False, kw_only=True)
    allow_missing_masks: bool = field(default=False, kw_only=True)


def read_masked(source: MaskedSource) -> Release:
    """
    The rows of a folder of radiographs and where their masks are; wrong ones are among its problems.

    Raises:
        ValueError: The table cannot be read, a folder is none or holds no masks, or the options do not fit together.
    """
    folders, legend = _read_options(source)
    labels = list(folders if legend is None else legend.values())
    places(labels)  # which refuses twins
    task = SegmentationTask(source.name, labels, source.overlapping, modality=source.modality)
    images = RawFolder(source.folder, mask_folders=list(folders.values()))
    table = source.csv or find_table(source.folder)
    release = Release(task, [], read_masks=MaskFiles(labels, list(folders.values()), legend))
    if table is None:
        _check_apart(source.folder, folders)
        has_splits = list_images(source, images, release)
    else:
        rows = ImageTable(source, table, [])
        release.rows, release.problems = rows.read(images, lambda record: [])
        release.remarks, has_splits = metadata_remarks(rows.columns), rows.split_column is not None
    pictures = {os.path.realpath(row.path) for row in release.rows}
    found = [MaskFolder(label, folder, pictures, is_map=legend is not None) for label, folder in folders.items()]
    _give_masks(source, release, found)
    release.left_out = _left_out(images, release, found)
    if not has_splits:
        derive_splits(release)
    release.facts["semantics"] = _semantics(source, legend)
    return release


def _semantics(source: MaskedSource, legend: dict[int, str] | None) -> str:
    if legend is not None:
        values = ", ".join(f"{value} {label}" for value, label in legend.items())
        return f"From a label map for each image, of the values {values}."
    missing = " Where there is no file, the label is unknown." if source.allow_missing_masks else ""
    return f"From a mask file for each image and label.{missing}"


def _left_out(images: RawFolder, release: Release, folders: Sequence["MaskFolder"]) -> dict[str, list[str]]:
    """As [`left_out`], for masks too."""
    used = {path for row in release.rows for path in row.masks}
    masks = {os.path.realpath(path) for folder in folders for path in folder.files}
    files = left_out(images, release)
    files[BESIDE] = [path for path in files.pop(MASKS) if os.path.realpath(images.root / path) not in masks]
    files[NO_IMAGE] = [
        f"{folder.folder.name}/{shown_path(path, folder.folder)}"
        for folder in folders
        for path in folder.files
        if path not in used
    ]
    return files


def _read_options(source: MaskedSource) -> tuple[dict[str, Path], dict[int, str] | None]:
    """The folders of the masks by label; or the one of the label maps, and the legend."""
    for option in ("labels", "label_column", "classes", "separator", "label_map"):
        if getattr(source, option):
            raise ValueError(f"--{option} is of labels in a table; --masks or --label_maps say what the labels are.")
    if bool(source.masks) == (source.label_maps is not None):
        raise ValueError(
            "Give either --masks LABEL=FOLDER ... (a file for each image and label) or --label_maps FOLDER."
        )
    if bool(source.legend) != (source.label_maps is not None):
        raise ValueError("--label_maps and --legend VALUE=LABEL ... go together: the legend names their values.")
    if source.label_maps is not None:
        if source.allow_missing_masks or source.overlapping:
            raise ValueError("--allow_missing_masks and --overlapping go with --masks: a label map holds all labels.")
        folders, legend = {"label map": source.label_maps}, read_legend(source.legend)
    else:
        folders, legend = {}, None
        for entry in source.masks:
            label, equals, path = entry.partition("=")
            if not (label and equals and path):
                raise ValueError(f"--masks {entry!r}: write LABEL=FOLDER.")
            if label in folders:
                raise ValueError(f"--masks gives {label!r} two folders; unite them, or give the second another name.")
            folders[label] = Path(path)
    for folder in folders.values():
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; --{'masks' if source.masks else 'label_maps'} names it.")
    same = Counter(os.path.realpath(folder) for folder in folders.values())
    if max(same.values()) > 1:
        raise ValueError(f"--masks gives {same.most_common(1)[0][0]} to two labels; each has masks of its own.")
    return folders, legend


def read_legend(entries: Sequence[str]) -> dict[int, str]:
    legend: dict[int, str] = {}
    for entry in entries:
        value, equals, label = entry.partition("=")
        if not equals or not label or not re.fullmatch(r"\d{1,9}", value):
            raise ValueError(f"--legend {entry!r}: write VALUE=LABEL, the value being one of the label maps' pixels.")
        if int(value) in legend:
            raise ValueError(f"--legend names the value {int(value)} twice.")
        if label in legend.values():
            raise ValueError(f"--legend gives {label!r} two values; each label has one.")
        legend[int(value)] = label
    if legend.get(0) == BACKGROUND:
        del legend[0]
    if not legend:
        raise ValueError(f"--legend names no label beside {BACKGROUND}.")
    return legend


def _check_apart(folder_of_images: Path, folders: dict[str, Path]) -> None:
    """Raises `ValueError` if the images lie in a folder of masks."""
    for label, folder in folders.items():
        if folder_of_images.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"{folder}, the folder of {label!r}, holds the images, too: give the masks a folder of their own, or "
                "name the images in a table (--csv)."
            )


class MaskFolder:
    """
    The mask files below a folder, found by the names of their images, see [`MaskedSource`].

    Args:
        label: What they outline.
        folder: The folder.
        pictures: Real paths of files that are images, and no masks.
        is_map: Whether they are label maps.
    """

    def __init__(self, label: str, folder: Path, pictures: set[str], is_map: bool):
        self.label, self.folder = label, folder
        self.what = "label map" if is_map else f"mask of {label!r}"
        endings = ENDINGS if is_map else (*ENDINGS, label)
        self._with_ending = re.compile(rf"(.+)[_ -](?:{'|'.join(map(re.escape, endings))})", re.IGNORECASE)
        self._by_name: dict[str, list[Path]] = {}
        self.files: list[Path] = []
        for inside, names in walk(folder):
            for name in names:
                path = folder / inside / name
                if name.lower().endswith(MASK_SUFFIXES) and os.path.realpath(path) not in pictures:
                    self.files.append(path)
                    stem = composed(path.stem)
                    shorter = self._with_ending.fullmatch(stem)
                    for reading in (stem, shorter[1]) if shorter else (stem,):
                        self._by_name.setdefault(reading, []).append(path)
        if not self.files:
            raise ValueError(f"{folder}, the folder of {label!r}, holds no masks ({', '.join(MASK_SUFFIXES)}).")

    def find(self, image_id: str) -> Path | None:
        """The mask of an image, by its path; None if there is none. Raises `ValueError` of several."""
        *folders, name = image_id.split("/")
        folders = _telling(folders)
        found = [
            path
            for path in self._by_name.get(without_suffix(name), [])
            if _end_alike(folders, _telling(path.parent.relative_to(self.folder).parts))
        ]
        if len(found) > 1:
            several = " and ".join(shown_path(path, self.folder) for path in found[:2])
            raise ValueError(f"{several} may both be its {self.what}; keep one, or name it as the image is named")
        return found[0] if found else None


def _telling(folders: Sequence[str]) -> list[str]:
    return [folder for folder in folders if folder.lower() not in KIND_FOLDERS]


def _end_alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether the shorter is the end of the longer."""
    length = min(len(one), len(other))
    return not length or list(one[-length:]) == list(other[-length:])


def _give_masks(source: MaskedSource, release: Release, folders: Sequence[MaskFolder]) -> None:
    """Finds the masks of the rows; those for which this fails become problems."""
    users: dict[Path, list[Row]] = {}
    faults: dict[int, str] = {}
    lacking = 0
    for number, row in enumerate(release.rows):
        row.masks = []
        try:
            row.masks = [folder.find(row.metadata["image_id"]) for folder in folders]
        except ValueError as error:
            faults[number] = str(error)
            continue
        lacking += not any(row.masks)
        missing = [folder.what for folder, path in zip(folders, row.masks, strict=True) if path is None]
        if len(missing) == len(folders) or missing and not source.allow_missing_masks:
            faults[number] = f"there is no file of its {' and '.join(missing)}"
            if len(missing) < len(folders):
                faults[number] += "; --allow_missing_masks makes it unknown"
        for path in row.masks:
            if path is not None:
                users.setdefault(path, []).append(row)
    if release.rows and lacking == len(release.rows):
        image, file = release.rows[0].metadata["image_id"], shown_path(folders[0].files[0], folders[0].folder)
        raise ValueError(
            f"{folders[0].folder}: no image has a {folders[0].what} there. Masks must be called as the images are, "
            f"such as {image!r}; there is {file!r}."
        )
    for number, row in enumerate(release.rows):
        for path in row.masks:
            other = next((other for other in users.get(path, ()) if other.path != row.path), None)
            if other is not None:
                faults[number] = f"{path.name} may be its mask, and that of {other.metadata['image_id']} as well"
    release.problems += [Problem(release.rows[number].where, fault) for number, fault in sorted(faults.items())]
    release.rows = [row for number, row in enumerate(release.rows) if number not in faults]
