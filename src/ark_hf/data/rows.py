"""What a builder knows of a dataset before it reads any image: its task, its rows, and what is wrong with them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .images.dicom import doubt_modality, read_dicom_metadata, read_modality
from .images.image_files import open_image_file
from .radiograph import read_radiograph

if TYPE_CHECKING:  # the builder's processes do without torch
    from .unlabelled import AnyTask
    from .volumes.volume import Volume

# Columns beside image, labels and image_id that a task dataset may have, in this order
OPTIONAL_COLUMNS = {"patient_id": str, "study_id": str, "sex": str, "age": float, "view": str}


@dataclass(slots=True)
class Row:
    """
    One image and its labels, checked.

    Args:
        where: File and line that the row comes from, such as "labels.csv, line 7"; never a patient's data.
        path: The image file.
        split: "train", "validation" or "test".
        labels: A value per label in 0, 1, -1 (uncertain) or NaN (unknown); or a class index, -1 for unknown. Of a
            segmentation whether each label has a pixel, in 0, 1 or NaN, which its builder finds out. Of unlabelled
            images an empty list.
        metadata: `image_id`, unique in the dataset, and what is known of `OPTIONAL_COLUMNS`.
        masks: Of a segmentation where its masks are, for [`Release.read_masks`]; of a part of a volume where that
            lies; picklable. A build that continues looks whether the paths in a list have changed.
    """

    where: str
    path: Path
    split: str
    labels: list[float] | int
    metadata: dict[str, Any]
    masks: Any = None


@dataclass(slots=True)
class Problem:
    """A row or file that cannot be used, and why; `where` as in [`Row`]."""

    where: str
    reason: str


def read_image_file(row: Row, modality: str) -> np.ndarray:
    """As [`read_radiograph`] gives it of the row's file. Raises `UnreadableImageError`."""
    with open_image_file(row.path) as file:
        doubt_modality(read_modality(file, row.path), modality)
    return read_radiograph(row.path, modality)


def read_file_tags(row: Row, fields: Sequence[str]) -> dict[str, float | str | None]:
    """What [`read_dicom_metadata`] finds in the row's file. Raises `UnreadableImageError`."""
    return read_dicom_metadata(row.path, fields)


@dataclass
class Release:
    """
    A dataset's release as read from disk, ready to be built.

    Args:
        task: The task, labels in the order of the rows' values or masks.
        rows: The rows that can be used, in the order of the release's own files.
        problems: Rows and files that cannot.
        left_out: Files, by the reason why they were not looked at.
        facts: What the dataset's card says of it: `title`, `homepage`, `license`, `access`, `citation`, ...
        read_image: Reads a row's image as [`read_radiograph`] gives it; picklable, because other processes call it.
            Unless set its file is read, in the modality of the task.
        read_masks: Of a segmentation reads a row's masks, each bool (H, W) of the image's size, or None where the
            label is unknown for the image; picklable. Raises `UnreadableImageError`.
        read_volume: Of volumes, in place of `read_image`: reads a row's; picklable. Raises `UnreadableImageError`.
        read_label_map: Of a segmentation of volumes, in place of `read_masks`: reads a row's label map, 0 the
            background, else numbers of the task's labels from 1, in whatever orientation; likewise.
        rows_per_shard: How many rows a file has at most; as many as of pictures unless set.
        read_tags: Reads age, sex or view from the row's DICOM file, as [`read_dicom_metadata`].
        remarks: What whoever builds it must know, in sentences: how names were joined, columns found.
    """

    task: "AnyTask"
    rows: list[Row]
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    read_image: Callable[[Row], np.ndarray] | None = None
    read_masks: Callable[[Row], list[np.ndarray | None]] | None = None
    read_volume: "Callable[[Row], Volume] | None" = None
    read_label_map: "Callable[[Row], Volume] | None" = None
    rows_per_shard: int | None = None
    read_tags: Callable[[Row, Sequence[str]], dict[str, float | str | None]] = read_file_tags
    remarks: list[str] = field(default_factory=list)


def hashed_split(seed: str | int, key: str, shares: Mapping[str, float]) -> str:
    """
    The split of a patient (or of an image whose patient is not known), where the source has none.

    A function of its arguments alone, never of who else is there: the same on every machine, in every order, for a
    part of the source as for the whole, and when others are added. So shares are met on average only, and nothing can
    promise a small source that each split gets someone: whatever would, must move patients when others come.

    Args:
        shares: Of the splits but "train", which takes the rest.
    """
    digest = hashlib.sha256(f"{seed}/{key}".encode(errors="surrogatepass")).digest()
    place, edge = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split, share in shares.items():
        edge += share
        if place < edge:
            return split
    return "train"
