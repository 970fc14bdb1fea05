"""NIfTI: its voxels, read no further than its header has announced, and volumes as bytes of it. Needs no torch."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...files import replacing
from ..images.image_files import MOST_PACKED, UnreadableImageError, doubt, naming_the_image
from .volume import Volume, check_claim, nibabel, plain, rescaled

SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}  # of the header in bytes, which is its first number
MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
MAX_EXTENSIONS = 2**24  # bytes between header and voxels
PIECE = 2**20
LEVEL = 1  # of gzip: with 6 a CT of the chest is 1.4 % smaller, and takes 2.4 times as long


@dataclass(frozen=True)
class NiftiSpace:
    """What a header says of the voxels after it; `skip` is how many bytes lie between."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    affine: np.ndarray
    slope: float
    intercept: float
    skip: int


def is_nifti(head: bytes) -> bool:
    """Whether a file is NIfTI by its first bytes, unpacked."""
    return _header_type(head) is not None


def read_nifti(file: BinaryIO) -> Volume:
    """
    The volume of an open NIfTI file, packed by gzip or not.

    Values are as [`plain`] gives them, after the header's slope and intercept. Where the header says nothing of
    orientation, that is told as a doubt.

    Raises:
        UnreadableImageError: It is 2D, 4D, in colour, of two files, larger than `MAX_BYTES`, cut short or damaged, or
            has voxels that are not finite. Other errors are nibabel's and gzip's.
    """
    length = file.seek(0, 2)
    file.seek(0)
    with _unpacked(file) as (stream, is_packed):
        space = _read_header(stream)
        stream.read(space.skip)
        count = int(np.prod(space.shape, dtype=np.int64))
        if count * space.dtype.itemsize > (length * MOST_PACKED if is_packed else length - file.tell()):
            raise UnreadableImageError("its header claims more voxels than the file holds; it is cut short or damaged")
        stored = _read_values(stream, count, space.dtype)
    voxels = plain(rescaled(stored, space.slope, space.intercept))
    return Volume(voxels.reshape(space.shape, order="F"), space.affine)


def read_nifti_space(file: BinaryIO) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of an open NIfTI file, of which little is read. Raises as [`read_nifti`]."""
    file.seek(0)
    with _unpacked(file) as (stream, _):
        space = _read_header(stream)
    return space.shape, space.affine


def encode_nifti(volume: Volume) -> bytes:
    """
    A volume as the bytes of a `.nii.gz` file: its type, shape, affine (float32, as NIfTI has it) and nothing else, so
    the same bytes for the same volume. `ValueError` if NIfTI has no such type.
    """
    if volume.voxels.dtype.kind not in "iuf":
        raise ValueError(f"a volume of {volume.voxels.dtype} cannot be stored; give it numbers, such as uint8")
    image = nibabel().Nifti1Image(volume.voxels, volume.affine, dtype=volume.voxels.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner", strip_shears=True)
    if not np.allclose(image.get_qform(), volume.affine, atol=1e-3):  # a quaternion has no shear
        image.set_qform(None)
    return gzip.compress(image.to_bytes(), compresslevel=LEVEL, mtime=0)


def write_nifti(path: str | Path, volume: Volume) -> None:
    """
    Writes a volume as a `.nii.gz` file, whole or not at all.

    Raises:
        ValueError: The name ends otherwise, or NIfTI has no such type.
    """
    path = Path(path)
    if not path.name.endswith(".nii.gz"):
        raise ValueError(f"{path}: volumes are written as NIfTI; give it a name in .nii.gz.")
    content = encode_nifti(volume)
    with replacing(path) as new:
        new.write_bytes(content)


@contextmanager
def _unpacked(file: BinaryIO) -> Iterator[tuple[BinaryIO, bool]]:
    """The bytes of an open file, and whether gzip had packed them: names tell wrongly."""
    is_packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    try:
        yield (gzip.GzipFile(fileobj=file) if is_packed else file, is_packed)  # type: ignore[misc]
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UnreadableImageError("it is damaged or cut short within its gzip packing; fetch it again") from None


def _read_header(stream: BinaryIO) -> NiftiSpace:
    first = stream.read(4)
    kind = _header_type(first)
    if kind is None:
        raise UnreadableImageError("this is no NIfTI file, by its first bytes; name files by what they are")
    header_type = getattr(nibabel(), kind)
    block = first + stream.read(header_type.template_dtype.itemsize - 4)
    if len(block) < header_type.template_dtype.itemsize:
        raise UnreadableImageError("it ends within its header; fetch it again")
    header: Any = header_type(block, check=False)  # nibabel's own check logs what it finds, and goes on
    magic = bytes(header["magic"])[:3]
    if magic in (b"ni1", b"ni2"):
        raise UnreadableImageError("its voxels lie in another file (.img); save it as one .nii.gz file")
    if magic not in (b"n+1", b"n+2") or not 1 <= int(header["dim"][0]) <= 7:
        raise UnreadableImageError("its header is damaged, or of Analyze; save it as NIfTI")
    shape = tuple(map(int, header.get_data_shape()))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = header.get_data_dtype()
    check_claim(shape, dtype)
    skip = (int(header["vox_offset"]) or len(block) + 4) - len(block)
    if not 0 <= skip <= MAX_EXTENSIONS:
        raise UnreadableImageError("its header says that voxels begin where none can be; the file is damaged")
    slope, intercept = header.get_slope_inter()
    if not (header["qform_code"] or header["sform_code"]):
        doubt("its header does not say how it is oriented; it is taken to lead left, front and up")
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= MM.get(header.get_xyzt_units()[0], 1.0)
    return NiftiSpace(shape, dtype, affine, 1.0 if slope is None else slope, intercept or 0.0, skip)  # type: ignore[arg-type]


def _header_type(head: bytes) -> str | None:
    """The header's class by its first number, in either order of bytes."""
    return SIZES.get(int.from_bytes(head[:4], "little")) or SIZES.get(int.from_bytes(head[:4], "big"))


def _read_values(stream: BinaryIO, count: int, dtype: np.dtype) -> np.ndarray:
    """So many values; what is read by pieces takes no more memory than there is of it."""
    values = np.empty(count, dtype)
    view = values.view(np.uint8).data.cast("B")
    at = 0
    while at < len(view):
        read = stream.readinto(view[at : at + PIECE])  # type: ignore[attr-defined]
        if not read:
            raise UnreadableImageError("it has fewer voxels than its header says; it is cut short: fetch it again")
        at += read
    stream.read(1)  # at its end gzip compares the checksum
    return values


def stored_volume(cell: Any) -> Volume:
    """
    The volume in a cell of a task dataset's `volume` or `mask` column.

    Args:
        cell: What `rows[0]["volume"]` is, a nibabel image; or, of a column cast to `Nifti(decode=False)`, its bytes.

    Raises:
        ValueError: It holds no bytes, or they are no volume; see [`read_nifti`].
    """
    nibabel()
    with naming_the_image("The stored volume", "build the dataset anew"):
        if not isinstance(cell, dict):
            return Volume(plain(np.asanyarray(cell.dataobj)), cell.affine)
        if cell.get("bytes") is None:
            raise UnreadableImageError(
                "the dataset names files in place of holding them, as `to_parquet` leaves them; embed them first "
                "(`datasets.table.embed_table_storage`), or build it with `ark-hf data build hub`"
            )
        return read_nifti(BytesIO(cell["bytes"]))
