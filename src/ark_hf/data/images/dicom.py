"""Reads the radiograph in a DICOM file as a viewer would show it, and of its other tags only what is asked for."""

import logging
import math
import os
import re
import struct
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...cells import METADATA_READERS
from ...models.ark.tasks_ark import DEFAULT_MODALITY, MODALITIES
from .image_files import UnreadableImageError, check_size, doubt, open_image_file

# Everything that decides which values are stored, and of a radiograph which grey they are. Nothing else of a DICOM
# file is kept, so no patient tag can get out.
STORED_TAGS = """
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns BitsAllocated BitsStored
    HighBit PixelRepresentation PixelData
""".split()
BURNED_IN_TAG = "BurnedInAnnotation"
_GREY_TAGS = f"""
    {BURNED_IN_TAG}
    PixelPaddingValue PixelPaddingRangeLimit ModalityLUTSequence RescaleSlope RescaleIntercept VOILUTSequence
    VOILUTFunction WindowCenter WindowWidth PresentationLUTShape PresentationLUTSequence
""".split()

BURNED_IN = "its header says that text is burned into its pixels, which may name the patient: black it out before use"

# In mm at the patient where that was calibrated, else at the detector, on which shadows are larger (PS3.3 10.7.1.3)
_SPACING_TAGS = ["PixelSpacing", "ImagerPixelSpacing"]

# Start of frame: SOF0 to SOF15 without the three table markers among them, and SOF55 of JPEG-LS.
_JPEG_FRAME_MARKERS = (set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}

_RADIOGRAPHY = {"DX": DEFAULT_MODALITY, "RG": DEFAULT_MODALITY}  # digital, and scanned films
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # which pydicom makes RGB of

# The defined terms of View Position, PS3.3 C.8.7.1 and C.8.1.2, and two words that releases write in their place
VIEWS = ("AP", "PA", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAT", "LATERAL")


@cache
def _silence_pydicom() -> None:
    """pydicom quotes damaged values in its log and warnings, and one may have swallowed the patient's name."""
    import pydicom  # sets its level when imported

    logging.getLogger(pydicom.__name__).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=pydicom.__name__)


def is_dicom(path: Path, head: bytes) -> bool:
    """Whether a file is DICOM by its first 132 bytes or its name."""
    return _has_preamble(head) or path.suffix.lower() in (".dcm", ".dicom")


def _has_preamble(head: bytes) -> bool:
    return head[128:132] == b"DICM"


class _NoFurther:
    """
    An open file that is asked for no more than it has: a header may claim gigabytes, which Python would set aside
    before it reads.
    """

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self._read = file.seek, file.tell, file.read
        at = file.tell()
        self._end = file.seek(0, os.SEEK_END)
        file.seek(at)

    def read(self, size: int = -1) -> bytes:
        left = max(self._end - self.tell(), 0)
        return self._read(left if size < 0 else min(size, left))


def read_tags(file: BinaryIO, tags: list[str], with_pixels: bool = False) -> Any:
    """The data set of these tags of an open DICOM file, the pixels not read, or read and not decoded."""
    from pydicom import dcmread
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    _silence_pydicom()
    file.seek(0)
    source: Any = _NoFurther(file)
    if _has_preamble(file.read(132)):
        meta = read_dataset(source, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        # pydicom inflates without a limit, a thousandfold if the file wants it.
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise UnreadableImageError("deflated DICOM is not read; convert it to Explicit VR Little Endian")
    file.seek(0)
    return dcmread(source, force=True, specific_tags=tags, stop_before_pixels=not with_pixels)


def read_dicom_metadata(
    path: str | os.PathLike[str], fields: Sequence[str] = ("age", "sex", "view")
) -> dict[str, float | str | None]:
    """
    What a DICOM file says of age, sex and view, by the names of a task dataset's columns, and of nothing else; in the
    values that tables give, see [`METADATA_READERS`].

    Args:
        path: A DICOM file, by its content or by a name in `.dcm` or `.dicom`.
        fields: Which of the three to read.

    Returns:
        A value per field, None where the file does not say or says something else than
        - age: float years, from days, weeks, months ("006M" is 0.5), years, or a number without unit, which some
          releases write and which counts as years; no more than a human age, because larger ones are typing errors;
        - sex: "M" or "F";
        - view: of `VIEWS`, "lateral" for all that are lateral, decubitus and oblique ones aside.

    Raises:
        ValueError: `fields` names something else.
        UnreadableImageError: The file is absent, damaged or no DICOM.
    """
    check_fields(fields)
    path = Path(path)
    with open_image_file(path) as file:
        return read_open_metadata(file, path, fields)


def read_open_metadata(file: BinaryIO, path: Path, fields: Sequence[str]) -> dict[str, float | str | None]:
    """[`read_dicom_metadata`] of an open file of this name; errors other than its own are pydicom's."""
    if not is_dicom(path, file.read(132)):
        raise UnreadableImageError("this is no DICOM file, so it has no tags to read")
    dataset = read_tags(file, [_METADATA[name][0] for name in fields])
    found = {}
    for name in fields:
        tag, known = _METADATA[name]
        text = str(dataset.get(tag) or "").strip().upper()
        found[name] = METADATA_READERS[name](text) if known.fullmatch(text) else None
    return found


def read_pixel_spacing(file: BinaryIO, path: Path) -> tuple[float, float] | None:
    """
    Distance of the rows and of the columns of an open file of this name, in mm: DICOM's Pixel Spacing, or else its
    Imager Pixel Spacing. None if the file is no DICOM, or says neither or something else than two positive numbers.
    """
    file.seek(0)
    if not is_dicom(path, file.read(132)):
        return None
    for tag in _SPACING_TAGS:
        try:
            rows, columns = map(float, read_tags(file, [tag]).get(tag))
        except Exception:  # pydicom has its own for each kind of damage, and a picture is no worse for it
            continue
        if 0 < rows < math.inf and 0 < columns < math.inf:
            return rows, columns
    return None


def read_modality(file: BinaryIO, path: Path) -> str | None:
    """
    What an open file of this name was taken with, one of `MODALITIES`, by DICOM's Modality; "CR" of all radiographs.
    None if the file is no DICOM, or says nothing that tells, as "OT" and copies of a screen.
    """
    file.seek(0)
    if not is_dicom(path, file.read(132)):
        return None
    try:
        told = str(read_tags(file, ["Modality"]).get("Modality") or "").strip().upper()
    except Exception:  # as of the spacing
        return None
    return _RADIOGRAPHY.get(told, told if told in MODALITIES and told != "OT" else None)


def doubt_modality(tag: str | None, modality: str) -> None:
    """Tells of an image whose header, see [`read_modality`], says another modality than it is read as."""
    if tag not in (None, modality):
        doubt(f"its header says that it is of modality {tag}, and it is read as {modality}")


def check_fields(fields: Sequence[str]) -> None:
    """Raises `ValueError` if a field is none of "age", "sex" and "view"."""
    unknown = sorted(set(fields) - set(_METADATA))
    if unknown:
        raise ValueError(f"A DICOM file is asked for {sorted(_METADATA)} alone, not for {unknown}.")


# Each column's tag, and what is read of it. Only known words pass, so that damage lets no other tag's text through.
_METADATA: dict[str, tuple[str, re.Pattern]] = {
    "age": ("PatientAge", re.compile(r"\d{1,3}[DWMY]?")),
    "sex": ("PatientSex", re.compile("[MF]")),
    "view": ("ViewPosition", re.compile("|".join(VIEWS))),
}


def read_stored(file: BinaryIO, tags: Sequence[str] = ()) -> tuple[Any, np.ndarray]:
    """
    Further tags of an open DICOM file, and the (H, W) values that its one grey picture stores.

    Raises:
        UnreadableImageError: It holds no such picture, or none that can be read; other errors are pydicom's.
    """
    dataset = _read_pixels(file, tags)
    bits = int(dataset.get("BitsStored") or 0)
    if "PixelData" not in dataset:
        raise UnreadableImageError("it holds no pixel data: no DICOM image, or one cut short")
    if dataset.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImageError("it is not greyscale (MONOCHROME1 or 2); export a colour capture as PNG to read it")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnreadableImageError("it holds several frames; export the one that is the radiograph")
    if not 1 <= bits <= 16 or int(dataset.BitsAllocated) > 16:
        raise UnreadableImageError("it does not store 1 to 16 bits a pixel; export it with 16")
    if int(dataset.get("HighBit", bits - 1)) != bits - 1:
        raise UnreadableImageError("its stored bits are not the lowest ones (HighBit); export it with a current tool")
    check_size(int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0))

    stored = _decode(dataset)
    if stored.ndim != 2 or stored.itemsize > 2:
        raise UnreadableImageError("it does not hold one sample of up to 16 bits a pixel; export it as PNG")
    return dataset, stored


def _read_pixels(file: BinaryIO, tags: Sequence[str]) -> Any:
    """The data set of these tags and of stored pixels, which are not decoded, with the syntax that they are in."""
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    dataset = read_tags(file, [*STORED_TAGS, *tags], with_pixels=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return dataset


def is_burned_in(dataset: Any) -> bool:
    """Whether a DICOM file says that its pixels show text, such as a patient's name. Many say nothing."""
    return str(dataset.get(BURNED_IN_TAG) or "").strip().upper() == "YES"


def read_dicom(file: BinaryIO) -> np.ndarray:
    """(H, W) uint8 or uint16 of an open DICOM file, as in [`read_radiograph`].

    Raises:
        UnreadableImageError: The file holds no radiograph that can be shown; other errors are pydicom's.
    """
    dataset, stored = read_stored(file, _GREY_TAGS)
    if is_burned_in(dataset):
        doubt(BURNED_IN)
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
    if _is_negative(dataset):
        brightness = 1 - brightness
    brightness[padded] = 0
    dtype = np.uint8 if int(dataset.BitsStored) <= 8 else np.uint16
    return np.rint(brightness * np.iinfo(dtype).max).astype(dtype)[patterns]


def read_dicom_colours(file: BinaryIO) -> np.ndarray | None:
    """(3, H, W) uint8, red, green and blue, of an open DICOM file; None if it is in grey. Errors as above."""
    dataset = _read_pixels(file, [BURNED_IN_TAG])
    if dataset.get("PhotometricInterpretation") not in _COLOURS or "PixelData" not in dataset:
        return None
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnreadableImageError("it holds several frames; export the one that is meant")
    if (int(dataset.get("BitsStored") or 0), int(dataset.get("BitsAllocated") or 0)) != (8, 8):
        raise UnreadableImageError("its colours do not have 8 bits a channel; export it as PNG")
    check_size(int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0))
    if is_burned_in(dataset):
        doubt(BURNED_IN)
    stored = _decode(dataset)
    if stored.ndim != 3 or stored.shape[-1] != 3 or stored.dtype != np.uint8:
        raise UnreadableImageError("it does not hold three channels of 8 bits; export it as PNG")
    return np.ascontiguousarray(np.moveaxis(stored, -1, 0))


def _decode(dataset: Any) -> np.ndarray:
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array
    from pydicom.uid import HTJ2K, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    lossy = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
    if not syntax.is_encapsulated:
        return pixel_array(dataset, index=0)
    try:
        if syntax != RLELossless:
            _check_codestream(get_frame(dataset.PixelData, 0, number_of_frames=1), dataset.Rows, dataset.Columns)
        decoded = pixel_array(dataset, index=0)
    except Exception:
        raise UnreadableImageError(
            f"its pixels, compressed as {syntax.name}, cannot be decoded: "
            "either the decoder is missing (pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg) "
            "or the file is damaged"
        ) from None
    return _stored_bits(decoded, int(dataset.BitsStored), exact=syntax not in lossy)


def _stored_bits(decoded: np.ndarray, bits: int, exact: bool) -> np.ndarray:
    """
    What a stream of more than `bits` bits stores in the lowest of them, signed or not, as for uncompressed pixels.

    Above them old systems kept overlays, which are no pixels (PS3.5, 8.1.1). In a lossy stream it is its error that
    goes beyond.
    """
    unused = 8 * decoded.itemsize - bits
    if unused <= 0:
        return decoded
    if exact:
        return decoded << unused >> unused
    limits = np.iinfo(decoded.dtype)
    return np.clip(decoded, limits.min >> unused, limits.max >> unused)


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


def _is_negative(dataset: Any) -> bool:
    """
    Whether low values are bright: so says MONOCHROME1, and so says the Presentation LUT Shape INVERSE.

    They speak of the same inversion (PS3.3, C.11.6; where an image has the tag, C.8.11.3 demands INVERSE with
    MONOCHROME1 and IDENTITY with MONOCHROME2), so there is one, never two. Either alone is believed, and since devices
    write the tag wrongly too, tags that contradict each other are told.
    """
    photometric = dataset.PhotometricInterpretation
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    if (photometric, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        doubt(f"its tags say {photometric}, but Presentation LUT {shape}: it is inverted; check that bones are white")
    if dataset.get("PresentationLUTSequence"):
        doubt("it has a Presentation LUT of its own, which is not applied: check its contrast")
    return photometric == "MONOCHROME1" or shape == "INVERSE"


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
