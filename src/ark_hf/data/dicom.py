"""Reads a radiograph from PNG, JPEG, TIFF or DICOM into the grey values that a viewer would show."""

import logging
import os
import struct
import warnings
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

# The largest scanned films, 14 x 17 inches at 50 micrometres, have 61 million pixels.
MAX_PIXELS = 2**26

# Everything that decides a pixel's grey value. Nothing else of a DICOM file is kept, so no patient tag can get out.
_DICOM_TAGS = """
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns BitsAllocated BitsStored
    HighBit PixelRepresentation PixelData PixelPaddingValue PixelPaddingRangeLimit ModalityLUTSequence RescaleSlope
    RescaleIntercept VOILUTSequence VOILUTFunction WindowCenter WindowWidth
""".split()

# Start of frame: SOF0 to SOF15 without the three table markers among them, and SOF55 of JPEG-LS.
_JPEG_FRAME_MARKERS = (set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}


class UnreadableImageError(ValueError):
    """An image file that cannot be read. The message names the file, the reason and what to do, never a patient."""


def read_radiograph(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads one greyscale picture as a viewer would show it, ready for the image processor.

    PNG, JPEG and TIFF keep their values: nothing is clipped, colour becomes luminance, EXIF orientation is applied.
    DICOM goes through the modality LUT or rescale, then the first VOI LUT or else the first window, onto the whole
    range of the type. Without either, 8 bits keep their full scale and deeper images are stretched over the values
    that occur. MONOCHROME1 is inverted; padding counts for nothing and is black. A file is DICOM by its content or by
    a name in `.dcm` or `.dicom`.

    Args:
        path: a PNG, JPEG, TIFF or DICOM file.

    Returns:
        (1, H, W) uint8 for up to 8 stored bits, uint16 for more.

    Raises:
        UnreadableImageError: the file is absent, empty, damaged, cut short, of another kind, larger than `MAX_PIXELS`,
            or holds several frames, DICOM colour, more than 16 bits or float values outside [0, 1].
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UnreadableImageError("this is a folder; name the files in it")
        if not path.is_file() or not os.access(path, os.R_OK):
            raise UnreadableImageError("there is no such file, or no permission to read it")
        with path.open("rb") as file:
            head = file.read(132)
            file.seek(0)
            if not head:
                raise UnreadableImageError("the file is empty; fetch it again")
            has_preamble = head[128:] == b"DICM"
            if has_preamble or path.suffix.lower() in (".dcm", ".dicom"):
                return _read_dicom(path, has_preamble)[None]
            return _read_picture(file)[None]
    except UnreadableImageError as refusal:
        raise UnreadableImageError(f"{path}: {refusal}") from None
    except Exception as error:
        # The libraries' own words may quote the file, so only the kind of their complaint is passed on.
        raise UnreadableImageError(
            f"{path}: cannot be read ({type(error).__name__}); the file is damaged, cut short or of a rare kind: "
            "fetch it again, or export it as PNG"
        ) from None


def _check_size(height: int, width: int) -> None:
    if not 0 < height * width <= MAX_PIXELS:
        raise UnreadableImageError(f"it claims {width} x {height} pixels; 1 to {MAX_PIXELS:,} pixels can be read")


def _read_picture(file: BinaryIO) -> np.ndarray:
    try:
        # Not by name: Pillow 13 maps uncompressed TIFFs that it opens by name, and garbles those with an orientation.
        opened = Image.open(file, formats=("PNG", "JPEG", "TIFF"))
    except UnidentifiedImageError:
        raise UnreadableImageError("this is no PNG, JPEG, TIFF or DICOM file, or its header is damaged") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImageError(f"it claims more than the {MAX_PIXELS:,} pixels that can be read") from None
    _check_size(opened.height, opened.width)
    white_is_zero = False
    if isinstance(opened, TiffImageFile):
        if opened.n_frames > 1:
            raise UnreadableImageError("this TIFF has several pages; save the radiograph's page alone")
        white_is_zero = opened.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0

    picture = ImageOps.exif_transpose(opened)
    if picture.mode == "F":
        values = np.asarray(picture)
        if not (values.min() >= 0 and values.max() <= 1):
            raise UnreadableImageError("its float values are not all in [0, 1]; export it with 8 or 16 bits")
        grey = np.rint(values * 65535).astype(np.uint16)
    elif picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImageError("its values are not all in 0..65535; export it with 8 or 16 bits")
        grey = values.astype(np.uint16)
    else:
        return np.array(picture.convert("L"))
    # Pillow inverts such a TIFF of 8 bits only.
    return np.uint16((1 << int(grey.max()).bit_length()) - 1) - grey if white_is_zero else grey


@cache
def _silence_pydicom() -> None:
    """pydicom quotes damaged values in its log and warnings, and one may have swallowed the patient's name."""
    import pydicom  # sets its level when imported

    logging.getLogger(pydicom.__name__).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=pydicom.__name__)


def _read_dicom(path: Path, has_preamble: bool) -> np.ndarray:
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    _silence_pydicom()
    # pydicom inflates without a limit, a thousandfold if the file wants it.
    if has_preamble and read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise UnreadableImageError("deflated DICOM is not read; convert it to Explicit VR Little Endian")
    dataset = dcmread(path, force=True, specific_tags=_DICOM_TAGS)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian

    photometric = dataset.get("PhotometricInterpretation")
    bits = int(dataset.get("BitsStored") or 0)
    if "PixelData" not in dataset:
        raise UnreadableImageError("it holds no pixel data: no DICOM image, or one cut short")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImageError("it is not greyscale (MONOCHROME1 or 2); export a colour capture as PNG to read it")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnreadableImageError("it holds several frames; export the one that is the radiograph")
    if not 1 <= bits <= 16 or int(dataset.BitsAllocated) > 16:
        raise UnreadableImageError("it does not store 1 to 16 bits a pixel; export it with 16")
    if int(dataset.get("HighBit", bits - 1)) != bits - 1:
        raise UnreadableImageError("its stored bits are not the lowest ones (HighBit); export it with a current tool")
    _check_size(int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0))

    stored = _decode(dataset)
    if stored.ndim != 2 or stored.itemsize > 2:
        raise UnreadableImageError("it does not hold one sample of up to 16 bits a pixel; export it as PNG")

    # A grey value depends on the stored one alone: work them out for every bit pattern, then look the pixels up.
    patterns = stored.astype(f"u{stored.itemsize}")
    values = np.arange(256**stored.itemsize).astype(f"{stored.dtype.kind}{stored.itemsize}")
    padded = _is_padding(dataset, values)
    occurs = np.bincount(patterns.ravel(), minlength=len(values)).astype(bool) & ~padded
    if not occurs.any():
        raise UnreadableImageError("it holds nothing but padding")
    with np.errstate(all="ignore"):
        brightness = _brightness(dataset, values, occurs)
    if not np.isfinite(brightness).all():
        raise UnreadableImageError("its rescale slope or intercept makes no finite values; export it as PNG")
    if photometric == "MONOCHROME1":
        brightness = 1 - brightness
    brightness[padded] = 0
    dtype = np.uint8 if bits <= 8 else np.uint16
    return np.rint(brightness * np.iinfo(dtype).max).astype(dtype)[patterns]


def _decode(dataset: Any) -> np.ndarray:
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return pixel_array(dataset, index=0)
    try:
        if syntax != RLELossless:
            _check_codestream(get_frame(dataset.PixelData, 0, number_of_frames=1), dataset.Rows, dataset.Columns)
        return pixel_array(dataset, index=0)
    except Exception:
        raise UnreadableImageError(
            f"its pixels, compressed as {syntax.name}, cannot be decoded: "
            'either the decoder is missing (pip install "ark-hf[dicom]") or the file is damaged'
        ) from None


def _check_codestream(stream: bytes, rows: int, columns: int) -> None:
    """Raises ValueError if a JPEG, JPEG-LS or JPEG 2000 stream is cut short or of another size than announced.

    The decoders for the rarer kinds fill what is missing with grey, and take gigabytes for whatever size they read.
    """
    if (start := stream.find(b"\xff\x4f\xff\x51", 0, 1024)) >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", stream, start + 8)
        size = bottom - top, right - left
    else:
        at = 2
        while stream[at + 1] not in _JPEG_FRAME_MARKERS:
            at += 1 if stream[at + 1] == 0xFF else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        size = struct.unpack_from(">2H", stream, at + 5)
        if b"\xff\xd9" not in stream[-64:]:
            raise ValueError("no end of image")
    if size != (rows, columns):
        raise ValueError("the stream's size is not the image's")


def _is_padding(dataset: Any, values: np.ndarray) -> np.ndarray:
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(len(values), dtype=bool)
    last = dataset.get("PixelPaddingRangeLimit")
    # The cast also mends negative numbers written as unsigned.
    low, high = np.sort(np.array([first, first if last is None else last]).astype(f"{values.dtype.kind}2"))
    return (values >= low) & (values <= high)


def _brightness(dataset: Any, values: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    """Brightness in [0, 1] of every stored value, MONOCHROME1 not yet inverted; not finite where the tags are not."""
    if dataset.get("ModalityLUTSequence"):
        modality, _ = _look_up(dataset.ModalityLUTSequence[0], values)
    else:
        slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
        modality = values * (1.0 if slope is None else float(slope)) + float(intercept or 0)

    if dataset.get("VOILUTSequence"):
        shown, top = _look_up(dataset.VOILUTSequence[0], modality)
        return shown / (top or 1)

    centre, width = (_first_number(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if np.isfinite(centre) and np.isfinite(width) and width > 0:
        function = dataset.get("VOILUTFunction") or "LINEAR"
        if function == "SIGMOID":
            return 1 / (1 + np.exp(-4 * (modality - centre) / width))
        if function == "LINEAR":  # the standard's own half grey level, PS3.3 C.11.2.1.2
            centre, width = centre - 0.5, max(width - 1, 1e-6)
        return np.clip((modality - centre) / width + 0.5, 0, 1)

    bits = int(dataset.BitsStored)
    if bits <= 8:
        lowest = -(2 ** (bits - 1)) if values.dtype.kind == "i" else 0
        occurs = (values >= lowest) & (values < lowest + 2**bits)
    low, high = modality[occurs].min(), modality[occurs].max()
    return np.clip((modality - low) / ((high - low) or 1), 0, 1)


def _first_number(value: Any) -> float:
    return float("nan") if value is None else float(np.ravel(value)[0])


def _look_up(item: Any, values: np.ndarray) -> tuple[np.ndarray, float]:
    """The entries for `values`, and the table's largest: the depth it announces is often larger than its own."""
    count, first, _ = item.LUTDescriptor
    if first > 32767 and values.min() < 0:  # a negative number written as unsigned
        first -= 65536
    table = item.LUTData
    if isinstance(table, bytes):
        word = "<u2" if item.original_encoding[1] else ">u2"
        table = np.frombuffer(table, "u1" if len(table) < 2 * (count or 2**16) else word)
    table = np.atleast_1d(np.asarray(table, dtype=float))[: count or 2**16]
    return table[np.clip(values - float(first), 0, len(table) - 1).astype(int)], table.max()
