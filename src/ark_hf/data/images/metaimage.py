"""
Reads MetaImage (.mha, .mhd with .raw), the format of ITK, NODE21 and LUNA16: lines of text, then raw or zlib pixels.

Ours reads volumes too, in eighty lines beside those for radiographs: SimpleITK, which would do it, is 264 MB.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...files import printable
from .image_files import MOST_PACKED, UnreadableImageError, check_size

ELEMENT_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
MAX_LINES, MAX_LINE = 200, 4096


def is_metaimage(path: Path, head: bytes) -> bool:
    """Whether a file is a MetaImage by its first bytes or its name."""
    return head.startswith((b"ObjectType", b"NDims")) or path.suffix.lower() in (".mha", ".mhd")


def read_metaimage(file: BinaryIO) -> np.ndarray:
    """
    The one slice of an open MetaImage file, rows downwards as stored; spacing and direction are ignored.

    Returns:
        (H, W): uint8 for bytes, signed ones shifted up by 128; else uint16: whole numbers from 0 to 65535 (of any
        type) as they are, other values stretched over those that occur.

    Raises:
        UnreadableImageError: The file is damaged or cut short, its pixels lie in another file or are written as text,
            or it holds several slices or channels, values that are not finite, or more than `MAX_PIXELS`.
    """
    header = _read_header(file)
    if header["elementdatafile"] != "LOCAL":
        raise UnreadableImageError("its pixels lie in another file; save it as one .mha file")
    sizes, dtype = _described(header)
    if any(size != 1 for size in sizes[2:]):
        raise UnreadableImageError("it holds several slices; save the one that is the radiograph")
    width, height = sizes[:2]
    check_size(height, width)
    return _grey(_read_elements(file, header, height * width, dtype).reshape(height, width))


def read_metaimage_volume(
    file: BinaryIO, folder: Path | None, check_claim: Callable[[Sequence[int], np.dtype], object]
) -> tuple[np.ndarray, np.ndarray]:
    """
    The volume of an open MetaImage file, whose voxels may lie in a file beside it.

    Args:
        folder: In which the other one lies; without it there may be none.
        check_claim: Refuses sizes (x, y, z) and types before anything is read.

    Returns:
        Values (x, y, z), as stored; and float64 (4, 4), their indices to places in mm in LPS, as ITK has them.

    Raises:
        UnreadableImageError: As of [`read_metaimage`], or the other file is not there, or lies in another folder.
    """
    header = _read_header(file)
    sizes, dtype = _described(header)
    check_claim(sizes, dtype)
    matrix = _placed(header)
    count = math.prod(sizes)
    name = header["elementdatafile"]
    if name == "LOCAL":
        values = _read_elements(file, header, count, dtype)
    else:
        if name.split()[0:1] == ["LIST"] or "%" in name:
            raise UnreadableImageError("its slices lie in a file each; save it as one .mha file")
        if Path(name).name != name or "\\" in name:
            raise UnreadableImageError("its voxels lie in another folder; put both files into one")
        beside = None if folder is None else folder / name
        if beside is None or not beside.is_file():
            raise UnreadableImageError(
                f"there is no {printable(name)} beside it, which holds its voxels; save it as .mha"
            )
        with beside.open("rb") as data:
            values = _read_elements(data, header, count, dtype)
    return values.reshape(sizes, order="F"), matrix


def _described(header: dict[str, str]) -> tuple[list[int], np.dtype]:
    """Sizes, x first, and the type of the elements."""
    if header.get("binarydata", "True").lower() == "false":
        raise UnreadableImageError("its pixels are written as text; save it with BinaryData = True")
    if _numbers(header.get("elementnumberofchannels", "1")) != [1]:
        raise UnreadableImageError("it has several channels; save it in grey")
    if header.get("headersize", "0") != "0":
        raise UnreadableImageError("its pixels begin after a header of another kind; save it as one .mha file")
    sizes = _numbers(header.get("dimsize", ""))
    if len(sizes) < 2 or [len(sizes)] != _numbers(header.get("ndims", "")):
        raise UnreadableImageError("its header names no size (NDims, DimSize); the file is damaged")
    kind = ELEMENT_TYPES.get(header.get("elementtype", ""))
    if kind is None:
        raise UnreadableImageError(f"its ElementType is none of {', '.join(ELEMENT_TYPES)}")
    big_endian = header.get("binarydatabyteordermsb", header.get("elementbyteordermsb", "False")).lower() == "true"
    return sizes, np.dtype(kind).newbyteorder(">" if big_endian else "<")


def _placed(header: dict[str, str]) -> np.ndarray:
    """(4, 4) of a 3D header: each line of its matrix is where an axis leads."""

    def read(keys: tuple[str, ...], count: int, default: str | None = None) -> np.ndarray:
        text = next((header[key] for key in keys if key in header), default)
        try:
            values = np.array((text or "").split(), dtype=np.float64)
        except ValueError:
            values = np.empty(0)
        if values.shape != (count,) or not np.isfinite(values).all():
            raise UnreadableImageError(f"its header has no {keys[0]} of {count} numbers, which places its voxels")
        return values

    directions = read(("transformmatrix", "rotation", "orientation"), 9, "1 0 0 0 1 0 0 0 1").reshape(3, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = directions.T * read(("elementspacing", "elementsize"), 3)
    matrix[:3, 3] = read(("offset", "position", "origin"), 3, "0 0 0")
    return matrix


def _read_elements(file: BinaryIO, header: dict[str, str], count: int, dtype: np.dtype) -> np.ndarray:
    """So many elements, inflated no further; nothing is allocated for what the file cannot hold."""
    expected = count * dtype.itemsize
    at = file.tell()
    length = file.seek(0, 2) - at
    file.seek(at)
    packed = header.get("compresseddata", "False").lower() == "true"
    content = b""
    if packed and expected <= length * MOST_PACKED:
        content = file.read(min(length, 2 * expected + 1024))  # more than zlib makes of what it cannot pack
        content = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(content, expected + 1)
    elif length == expected:
        content = file.read()
    if len(content) != expected:
        raise UnreadableImageError("its pixels are not as many as its size needs; the file is damaged or cut short")
    return np.frombuffer(content, dtype)


def _read_header(file: BinaryIO) -> dict[str, str]:
    """Values by key in lower case, down to ElementDataFile, the last line before the pixels."""
    header: dict[str, str] = {}
    for _ in range(MAX_LINES):
        key, separator, value = file.readline(MAX_LINE).decode("latin-1").partition("=")
        header[key.strip().lower()] = value.strip()
        if not separator:
            break
        if "elementdatafile" in header:
            return header
    raise UnreadableImageError("it has no MetaImage header that ends in ElementDataFile; the file is damaged")


def _numbers(text: str) -> list[int]:
    words = text.split()
    return [int(word) for word in words] if all(word.isdecimal() and len(word) < 10 for word in words) else []


def _grey(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "u" and values.itemsize == 1:
        return values.copy()
    if values.itemsize == 1:
        return (values.astype(np.int16) + 128).astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        raise UnreadableImageError("its values are not finite or differ too much; export it with 8 or 16 bits")
    if low >= 0 and high <= 65535 and (values.dtype.kind in "iu" or (values == np.rint(values)).all()):
        return values.astype(np.uint16)
    return np.rint((values.astype(np.float64) - low) / ((high - low) or 1) * 65535).astype(np.uint16)
