"""Opening image files that others made: what each must keep to, and refusals that quote nothing of its content."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

from ...files import printable

# The largest scanned films, 14 x 17 inches at 50 micrometres, have 61 million pixels.
MAX_PIXELS = 2**26
MOST_PACKED = 1032  # bytes that zlib can make one of
# Which files of a folder are images; a file that is named itself is read whatever its name is.
IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom", ".mha", ".mhd",
)  # fmt: skip
# Images that are not read. In a folder they count as images, so that they are refused by name and not left out.
UNREAD_SUFFIXES = (
    ".nii", ".nii.gz", ".nrrd", ".gif", ".jp2", ".j2k", ".jpx", ".jxl", ".heic", ".heif", ".avif", ".pgm", ".ppm",
    ".pnm", ".tga", ".psd", ".dng",
)  # fmt: skip
# What lies beside images and is none, and nobody wonders that it is left out; it need not be opened to see that
_OTHER_SUFFIXES = (
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".md", ".yaml", ".yml", ".pdf", ".xls", ".xlsx",
    ".gz", ".zip", ".tar", ".parquet", ".db", ".ini",
)  # fmt: skip
_BEGINNINGS = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "BMP": rb"BM.{4}\0{4}.{4}[\x0c(48@lx|]\0\0\0",
    "WebP": rb"RIFF.{4}WEBP",
    "DICOM": rb".{128}DICM",
    "MetaImage": rb"ObjectType *=|NDims *=",
}


class UnreadableImageError(ValueError):
    """An image file that cannot be read. The message names the file, the reason and what to do, never a patient."""


def kind_of_content(head: bytes) -> str | None:
    """Which kind of image that is read a file is by its first 132 bytes, None if it is none."""
    return next((kind for kind, begins in _BEGINNINGS.items() if re.match(begins, head, re.DOTALL)), None)


def image_files_in(folder: Path) -> list[Path]:
    """The image files below a folder, see [`is_image_file`] and [`walk`]; sorted."""
    return sort_files(folder)[0]


def sort_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The image files below a folder, and what else is there that one may take for images; each sorted."""
    found = sorted(folder / parent / name for parent, names in walk(folder) for name in names)
    images = [is_image_file(path) for path in found]
    return (
        [path for path, is_image in zip(found, images, strict=True) if is_image],
        [path for path, is_image in zip(found, images, strict=True) if not is_image and not is_other_file(path)],
    )


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """
    Folders below `root`, itself being "", and the files in each, in a fixed order. Hidden ones are left out; links are
    followed, to each folder once.
    """
    linked = set()
    for path, folders, files in os.walk(root, followlinks=True):
        kept = []
        for name in sorted(folders):
            folder = os.path.join(path, name)
            if name.startswith((".", "__MACOSX")):
                continue
            if os.path.islink(folder):
                target = os.path.realpath(folder)
                if target in linked or f"{os.path.realpath(path)}{os.sep}".startswith(f"{target}{os.sep}"):
                    continue
                linked.add(target)
            kept.append(name)
        folders[:] = kept
        relative = os.path.relpath(path, root).replace(os.sep, "/")
        yield "" if relative == "." else relative, sorted(name for name in files if not name.startswith("."))


def is_image_file(path: Path) -> bool:
    """
    Whether a file is an image by its name, also of a kind that is not read, or by its content where the name does not
    tell: so archives and CDs have DICOM, and browsers what they save.
    """
    if path.name.lower().endswith(IMAGE_SUFFIXES + UNREAD_SUFFIXES):
        return True
    if is_other_file(path) or not os.path.isfile(path):  # a pipe would be read for ever
        return False
    try:
        with path.open("rb") as file:
            return kind_of_content(file.read(132)) is not None
    except OSError:
        return False


def is_other_file(path: Path) -> bool:
    """Whether a file is known to be no image by its name: a text, a table, an archive, an index."""
    name = path.name.lower()
    return name.endswith(_OTHER_SUFFIXES) or name in ("dicomdir", "readme", "license")  # the first: of a CD


def image_suffix(name: str) -> str:
    """The suffix of an image's file name, "" if it has none."""
    suffix = name[name.rfind(".") :] if "." in name else ""
    return suffix if suffix.lower() in IMAGE_SUFFIXES else ""


def is_address(source: Any) -> bool:
    """Whether it is to be fetched from the network."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


@contextmanager
def open_image_file(path: Path, rescue: str = "export it as PNG") -> Iterator[BinaryIO]:
    """The open file; whatever goes wrong with it inside becomes an `UnreadableImageError` that names it."""
    with naming_the_image(str(path), rescue):
        if path.is_dir():
            raise UnreadableImageError("this is a folder; name the files in it")
        if not path.is_file() or not os.access(path, os.R_OK):
            raise UnreadableImageError("there is no such file, or no permission to read it")
        if not path.stat().st_size:
            raise UnreadableImageError("the file is empty; fetch it again")
        with path.open("rb") as file:
            yield file


@contextmanager
def naming_the_image(name: str, rescue: str = "export it as PNG") -> Iterator[None]:
    """Whatever goes wrong with an image inside becomes an `UnreadableImageError` that names it, and a remedy."""
    try:
        yield
    except UnreadableImageError as refusal:
        raise UnreadableImageError(f"{printable(name)}: {refusal}") from None
    except Exception as error:
        # The libraries' own words may quote the file, so only the kind of their complaint is passed on.
        raise UnreadableImageError(
            f"{printable(name)}: cannot be read ({type(error).__name__}); the file is damaged, cut short or of a rare "
            f"kind: fetch it again, or {rescue}"
        ) from None


_doubts: ContextVar[list[str] | None] = ContextVar("_doubts", default=None)


@contextmanager
def collecting_doubts() -> Iterator[list[str]]:
    """The reasons to doubt a picture that its reader has inside, see [`doubt`]."""
    doubts: list[str] = []
    token = _doubts.set(doubts)
    try:
        yield doubts
    finally:
        _doubts.reset(token)


def doubt(reason: str) -> None:
    """Tells of an image that can be read, but may not be as it should: to who collects doubts, or as a warning."""
    doubts = _doubts.get()
    if doubts is None:
        warnings.warn(f"Check this image: {reason}.", stacklevel=2)
    else:
        doubts.append(reason)


def check_size(height: int, width: int) -> None:
    """Raises `UnreadableImageError` for an image without pixels or of more than `MAX_PIXELS`."""
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise UnreadableImageError(f"it claims {width} x {height} pixels; 1 to {MAX_PIXELS:,} pixels can be read")
