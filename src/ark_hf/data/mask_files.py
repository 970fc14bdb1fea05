"""
Reads masks from picture files: their values say what a pixel belongs to, so nothing may be smoothed or guessed.

A mask is 0 outside and one other value inside; a label map has a value for each label. Needs no torch.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from ..files import printable
from .images.image_files import UnreadableImageError, check_size, doubt, kind_of_content, open_image_file
from .radiograph import all_bits, open_picture
from .rows import Row

MASK_SUFFIXES = (".png", ".gif", ".tif", ".tiff", ".bmp", ".webp", ".jpg", ".jpeg")
_SHOWN = 8  # values in a message


def read_mask(path: Path) -> np.ndarray:
    """
    Reads the mask of one label, bool (H, W).

    Black is outside, and whatever one other value or colour of a palette there is, inside; EXIF orientation is
    applied, as it is to radiographs.

    Raises:
        UnreadableImageError: The file cannot be read, is in colour, transparent or 3D, or has other values than these
            two, such as those between them that smoothed borders and JPEG have.
    """
    with open_image_file(path) as file:
        values = _pixels(file, colours=True)
        found = _occurring(values)
        if len(found) > 2:
            raise UnreadableImageError(
                f"it holds {len(found)} values, from {found[0]} to {found[-1]}, and a mask two, 0 outside and one "
                "other inside: save it without smoothed borders, and not as JPEG"
            )
        if len(found) == 2 and found[0] != 0:
            raise UnreadableImageError(
                f"it holds {found[0]} and {found[1]}, and a mask 0 outside and one other inside"
            )
        return values != 0


def read_label_map(path: Path, legend: Mapping[int, str]) -> dict[str, np.ndarray]:
    """
    Reads a label map: for each label of the legend the pixels that have its value, bool (H, W).

    What is 0, unless the legend names it, belongs to no label. Of a palette the indices count, not the colours.

    Raises:
        UnreadableImageError: As for [`read_mask`], or a value is not in the legend.
    """
    with open_image_file(path) as file:
        values = _pixels(file, colours=False)
        found = _occurring(values)
        unknown = [value for value in found if value not in legend and value != 0]
        if unknown:
            more = ", ..." if len(unknown) > _SHOWN else ""
            raise UnreadableImageError(
                f"it holds {', '.join(map(str, unknown[:_SHOWN]))}{more}, which the legend does not name; it names "
                f"{', '.join(map(str, legend))}"
            )
        return {label: values == value for value, label in legend.items()}


@dataclass(frozen=True)
class MaskFiles:
    """
    Reads the masks of a row, whose `masks` are a file or None for each folder.

    Args:
        labels: The labels, in order.
        folders: One for each, or the one of the label maps; errors name files by their paths from there.
        legend: Of label maps what their values stand for.
    """

    labels: Sequence[str]
    folders: Sequence[Path]
    legend: dict[int, str] | None = None

    def __call__(self, row: Row) -> list[np.ndarray | None]:
        if self.legend is not None:
            (path,) = row.masks
            with _naming(f"its label map {shown_path(path, self.folders[0])}", path):
                found = read_label_map(path, self.legend)
            _compare_orientation(row.path, path)
            return [found[label] for label in self.labels]
        masks: list[np.ndarray | None] = []
        for label, folder, path in zip(self.labels, self.folders, row.masks, strict=True):
            if path is None:
                masks.append(None)
                continue
            with _naming(f"its mask of {label!r}, {shown_path(path, folder)}", path):
                mask = read_mask(path)
            _compare_orientation(row.path, path)
            if mask.all():
                doubt(f"the mask of {label!r} covers all of it")
            masks.append(mask)
        return masks


@contextmanager
def _naming(what: str, path: Path) -> Iterator[None]:
    """Errors about a mask say whose it is, and not where on this machine it lies."""
    try:
        yield
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{what}: {str(error).removeprefix(f'{printable(path)}: ')}") from None


def shown_path(path: Path, folder: Path) -> str:
    return printable(os.path.relpath(path, folder).replace(os.sep, "/"))


def _compare_orientation(image: Path, mask: Path) -> None:
    if _orientation(image) not in (1, _orientation(mask)):
        doubt("its EXIF orientation turns it, and not its masks; check that they fit")


def _orientation(path: Path) -> int:
    """How EXIF says that a picture is to be turned: 1, not at all, also where it does not say."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "TIFF", "WEBP")) as opened:
            return opened.getexif().get(Base.Orientation, 1)
    except Exception:  # no picture, or none that can be read, of which its reader tells
        return 1


def _pixels(file: BinaryIO, colours: bool) -> np.ndarray:
    """(H, W) values of an open mask file; of a palette its colours, as one number each, or its indices."""
    head = file.read(132)
    file.seek(0)
    if not head.startswith((b"GIF87a", b"GIF89a")) and kind_of_content(head) in (None, "DICOM", "MetaImage"):
        raise UnreadableImageError(f"masks are read from pictures ({', '.join(MASK_SUFFIXES)}); export it as PNG")
    opened: Any = open_picture(file, masks=True)
    if getattr(opened, "n_frames", 1) > 1:
        raise UnreadableImageError("it has several pages or frames; a mask is of one picture")
    if opened.format == "GIF":
        check_size(opened.height, opened.width)
    else:
        opened = all_bits(opened)
    if isinstance(opened, np.ndarray):  # of 16 bits
        return _equal_channels(opened)
    inverted = isinstance(opened, TiffImageFile) and opened.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    if inverted and opened.mode.startswith(("I", "F")):
        raise UnreadableImageError("in this TIFF white is zero; export it as PNG")
    picture = ImageOps.exif_transpose(opened)
    if picture.has_transparency_data:
        channels = np.asarray(picture.convert("RGBA"))
        if channels[..., 3].min() < 255:
            raise UnreadableImageError("it is transparent in places, which says neither in nor out; save it without")
        picture = picture if picture.mode == "P" else picture.convert("RGB" if picture.mode == "RGBA" else "L")
    if picture.mode == "P":
        if not colours and opened.format == "GIF":
            raise UnreadableImageError("GIF numbers its colours anew when it is saved; save the label map as PNG")
        if not colours:
            return np.asarray(picture)
        red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(np.int32), -1, 0)
        return red << 16 | green << 8 | blue
    values = np.asarray(picture)
    if values.ndim == 3:
        return _equal_channels(np.moveaxis(values, -1, 0))
    if values.dtype == np.float32:
        if not np.array_equal(values, np.rint(values)):  # neither of NaN
            raise UnreadableImageError("its values are no whole numbers; save it with 8 or 16 bits")
        values = values.astype(np.int64)
    return values


def _equal_channels(values: np.ndarray) -> np.ndarray:
    """The one plane of (channels, H, W) that are the same, or of (H, W)."""
    if values.ndim == 2:
        return values
    if len(values) != 3 or (values[1:] != values[0]).any():
        raise UnreadableImageError("it is in colour; save it in grey, with a value for each label")
    return values[0]


def _occurring(values: np.ndarray) -> list[int]:
    if values.dtype in (np.uint8, np.bool_, np.uint16):
        return np.flatnonzero(np.bincount(values.ravel())).tolist()
    return np.unique(values).tolist()
