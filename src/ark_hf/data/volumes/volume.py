"""A volume: voxels and where they lie in the patient, whatever file they came from. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from ..images.image_files import UnreadableImageError

MAX_BYTES = 2**31  # as stored; 512 x 512 x 2048 voxels of 16 bits, the longest CT of a whole body, have half of it
_KEPT = tuple(map(np.dtype, ("u1", "i1", "u2", "i2", "i4", "f4")))


@dataclass(frozen=True, eq=False)
class Volume:
    """
    A volume, as NIfTI has them: axes in the order in which they are stored, places in RAS.

    Args:
        voxels: (I, J, K) numbers; of CT Hounsfield units.
        affine: float64 (4, 4): (i, j, k, 1) of a voxel to the place of its centre in mm, (x, y, z, 1), x growing to
            the patient's right, y to the front, z to the head.

    Raises:
        UnreadableImageError: Either has another shape, or the affine is not finite or flat.
    """

    voxels: np.ndarray
    affine: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "affine", np.array(self.affine, dtype=np.float64))
        if self.voxels.ndim != 3 or min(self.voxels.shape) < 1:
            raise UnreadableImageError(f"a volume has voxels (I, J, K), not {self.voxels.shape}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise UnreadableImageError("what places its voxels is not 4 x 4 finite numbers")
        sides = np.linalg.norm(self.affine[:3, :3], axis=0)
        if sides.min() <= 0 or abs(np.linalg.det(self.affine[:3, :3])) < 1e-3 * sides.prod():
            raise UnreadableImageError(
                "its voxels have no extent: spacing or direction of an axis is zero, or two axes lead the same way"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        i, j, k = self.voxels.shape
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between the centres of neighbours along each axis."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return i, j, k

    @property
    def orientation(self) -> str:
        """
        Where each axis leads, the nearest of Right, Left, Anterior, Posterior, Superior and Inferior: "LPS" of a CT as
        DICOM has it, (columns, rows, slices).
        """
        return "".join(nibabel().aff2axcodes(self.affine))


def nibabel() -> ModuleType:
    """The library of NIfTI, which the extra `volumes` brings. Raises `ValueError` without it."""
    try:
        import nibabel
    except ImportError:
        raise ValueError('Volumes need nibabel: pip install "ark-hf[volumes]"') from None
    return nibabel


def check_claim(shape: Sequence[int], dtype: np.dtype) -> None:
    """
    Raises `UnreadableImageError` if what a header claims is no volume of several slices, holds no plain numbers, or is
    more than `MAX_BYTES`: before anything is allocated for it.
    """
    if dtype.kind not in "iuf":
        raise UnreadableImageError("its voxels are colours or complex, no plain numbers; save it in grey")
    sides = " x ".join(map(str, shape))
    count = 1
    for side in shape:
        count *= int(side)
    if len(shape) > 3:
        raise UnreadableImageError(f"it is {len(shape)}D, {sides}: several volumes in one file; save each alone")
    if len(shape) < 3 or min(shape) < 2:
        raise UnreadableImageError(f"it is 2D, {sides}: one slice, and a volume has several; name the whole series")
    if count * dtype.itemsize > MAX_BYTES:
        raise UnreadableImageError(
            f"it claims {sides} voxels, {count * dtype.itemsize / 1e9:,.1f} GB; up to {MAX_BYTES / 1e9:.1f} GB are "
            "read: crop it, or save it with fewer bits"
        )


def plain(values: np.ndarray) -> np.ndarray:
    """
    Stored values in a type that a stored volume keeps: uint8, int8, uint16, int16, int32 or float32, in the machine's
    own order of bytes. Larger ones are narrowed to int32 and float32.

    Raises:
        UnreadableImageError: They are too large for that, or not finite.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "f":
        low, high = values.min(), values.max()  # either is NaN if one voxel is, and no mask of all is needed
        if not (np.isfinite(low) and np.isfinite(high)):
            wrong = values.size - np.count_nonzero(np.isfinite(values))
            raise UnreadableImageError(
                f"{wrong:,} of its {values.size:,} voxels are NaN or infinite; set them to what is outside (-1000 HU "
                "of a CT) and save it again"
            )
        if max(abs(float(low)), abs(float(high))) > np.finfo(np.float32).max:
            raise UnreadableImageError("its values are too large for 32 bits; it is damaged, or of another unit")
        return values.astype(np.float32, copy=False)
    if values.dtype in _KEPT:
        return values
    limits = np.iinfo(np.int32)
    if int(values.min()) < limits.min or int(values.max()) > limits.max:
        raise UnreadableImageError("its values are too large for 32 bits; it is damaged, or of another unit")
    return values.astype(np.int32)


def rescaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """
    stored * slope + intercept. Where all are whole numbers it is so in int16, or if that is too small int32; else, and
    beyond that, in float32. With 1 and 0 it is what is stored.
    """
    if slope == 1 and intercept == 0:
        return stored
    whole = stored.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer()
    dtype = whole_type(stored.min() * float(slope) + intercept, stored.max() * float(slope) + intercept)
    if not whole or dtype is None:
        values = stored.astype(np.float32)
        values *= np.float32(slope)
        values += np.float32(intercept)
        return values
    wide = stored.astype(np.int64 if stored.itemsize > 2 else np.int32)
    np.multiply(wide, int(slope), out=wide)
    np.add(wide, int(intercept), out=wide)
    return wide.astype(dtype)


def whole_type(one: float, other: float) -> np.dtype | None:
    """The smaller of int16 and int32 that holds whole numbers between these; None if neither does."""
    low, high = sorted((one, other))
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return None
