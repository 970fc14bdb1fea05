"""Reads a radiograph from MetaImage (.mha), the format of ITK and NODE21: lines of text, then raw or zlib pixels."""

import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .image_files import UnreadableImageError, check_size

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
    if header.get("binarydata", "True").lower() == "false":
        raise UnreadableImageError("its pixels are written as text; save it with BinaryData = True")
    if _numbers(header.get("elementnumberofchannels", "1")) != [1]:
        raise UnreadableImageError("it has several channels; save it in grey")
    sizes = _numbers(header.get("dimsize", ""))
    if len(sizes) < 2 or [len(sizes)] != _numbers(header.get("ndims", "")):
        raise UnreadableImageError("its header names no size (NDims, DimSize); the file is damaged")
    if any(size != 1 for size in sizes[2:]):
        raise UnreadableImageError("it holds several slices; save the one that is the radiograph")
    width, height = sizes[:2]
    check_size(height, width)
    kind = ELEMENT_TYPES.get(header.get("elementtype", ""))
    if kind is None:
        raise UnreadableImageError(f"its ElementType is none of {', '.join(ELEMENT_TYPES)}")
    big_endian = header.get("binarydatabyteordermsb", header.get("elementbyteordermsb", "False")).lower() == "true"
    dtype = np.dtype(kind).newbyteorder(">" if big_endian else "<")

    expected = height * width * dtype.itemsize
    content = file.read(2 * expected + 1024)  # more than zlib makes of pixels that it cannot compress
    if header.get("compresseddata", "False").lower() == "true":
        content = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(content, expected + 1)
    if len(content) != expected:
        raise UnreadableImageError("its pixels are not as many as its size needs; the file is damaged or cut short")
    return _grey(np.frombuffer(content, dtype).reshape(height, width))


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
