"""
Volumes in another space: other axes, another spacing, and back into the space that they came from. Needs no torch.

Axes are turned without touching a value. New grids begin at the edge where the old one begins and cover all of it, so
that what is drawn in one of them can be laid over the other.
"""

import re
from collections.abc import Sequence

import numpy as np
import scipy.ndimage

from .volume import Volume, nibabel

# Where a model's axes lead, by what its configuration calls them: as those of DICOM, or in the reverse order
AXES = {"xyz": "LPS", "zyx": "SPL"}
TOLERANCE = 0.1  # of a voxel, by which two grids may differ that are one: NIfTI keeps 24 bits of a place
ROUNDING = 1e-4  # of a voxel


def reorient(volume: Volume, orientation: str) -> Volume:
    """
    The same voxels with the axes in another order and direction; a view, no copy.

    Args:
        orientation: Where the axes are to lead, as in [`Volume.orientation`]: "LPS" or a model's, see `AXES`.

    Raises:
        ValueError: It is not one of right and left, one of front and back, one of up and down.
    """
    if not re.fullmatch(r"(?=.*[RL])(?=.*[AP])(?=.*[SI])...", orientation):
        raise ValueError(f"orientation {orientation!r}: use one letter of RL, AP and SI each, such as 'LPS'.")
    orientations = nibabel().orientations
    there = orientations.io_orientation(volume.affine)
    change = orientations.ornt_transform(there, orientations.axcodes2ornt(orientation))
    affine = volume.affine @ orientations.inv_ornt_aff(change, volume.shape)
    return Volume(orientations.apply_orientation(volume.voxels, change), affine)


def resample(volume: Volume, spacing: Sequence[float], nearest: bool = False) -> Volume:
    """
    The volume on a grid of another spacing along its own axes.

    Args:
        spacing: In mm, along each axis.
        nearest: Whether a voxel gets the value of the nearest one, as of label maps, and not what lies between its
            neighbours.

    Returns:
        It begins at the old one's first edge, and its last voxels may reach beyond the last. With the same spacing it
        is the volume itself. Float32, or with `nearest` of the volume's own type.

    Raises:
        ValueError: A spacing is not positive, or so small that the result could not be held.
    """
    steps = np.asarray(spacing, dtype=np.float64)
    if steps.shape != (3,) or not np.isfinite(steps).all() or steps.min() <= 0:
        raise ValueError(f"spacing must be three positive numbers in mm, got {spacing!r}.")
    factors = steps / volume.spacing
    shape = np.maximum(np.ceil(volume.shape / factors - ROUNDING), 1)
    if shape.prod() > 2**31:
        raise ValueError(f"spacing {spacing!r} makes {' x '.join(f'{side:.0f}' for side in shape)} voxels; use more.")
    to_old = np.diag([*factors, 1.0])
    to_old[:3, 3] = (factors - 1) / 2
    return Volume(_sampled(volume, to_old, [*map(int, shape)], nearest, "nearest"), volume.affine @ to_old)


def in_space_of(volume: Volume, reference: Volume, nearest: bool = True) -> Volume:
    """
    A volume on the grid of another one: of a label map drawn on a turned or resampled volume that of the original.

    Args:
        nearest: As in [`resample`]. Then, beyond the volume, there are zeros; else the values at its border.
    """
    turned = reorient(volume, reference.orientation)
    to_old = np.linalg.inv(turned.affine) @ reference.affine
    beyond = "grid-constant" if nearest else "nearest"
    return Volume(_sampled(turned, to_old, reference.shape, nearest, beyond), reference.affine)


def lie_alike(volume: Volume, shape: Sequence[int], affine: np.ndarray) -> bool:
    """Whether a grid is the volume's: as many voxels, and the corners in the same places."""
    if volume.shape != tuple(shape):
        return False
    corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*(np.array(shape) - 1), 1]
    apart = corners @ (np.linalg.inv(volume.affine) @ affine).T - corners
    return bool(np.abs(apart).max() <= TOLERANCE)


def on_grid_of(mask: Volume, shape: Sequence[int], affine: np.ndarray) -> Volume:
    """
    A label map with the axes of the volume whose shape and affine are given: tools store them otherwise, which loses
    nothing. Raises `ValueError` if it lies elsewhere.
    """
    reference = Volume(np.broadcast_to(np.uint8(0), tuple(shape)), affine)
    turned = reorient(mask, reference.orientation)
    if not lie_alike(turned, shape, affine):
        raise ValueError(
            f"it lies elsewhere than the volume: {_described(mask)}, and the volume {_described(reference)}"
        )
    return Volume(turned.voxels, reference.affine)


def _described(volume: Volume) -> str:
    sides = " x ".join(map(str, volume.shape))
    spacing = " x ".join(f"{each:.4g}" for each in volume.spacing)
    origin = ", ".join(f"{each:.5g}" for each in volume.affine[:3, 3])
    return f"{sides} voxels of {spacing} mm, {volume.orientation}, the first at {origin} mm"


def _sampled(volume: Volume, to_old: np.ndarray, shape: Sequence[int], nearest: bool, beyond: str) -> np.ndarray:
    """
    The values at the voxels of a grid of this shape, whose indices `to_old` turns into those of the volume; `beyond`
    it as scipy's `mode` says.
    """
    if volume.shape == tuple(shape) and np.abs(to_old - np.eye(4)).max() * max(shape) < ROUNDING:
        return volume.voxels
    matrix, offset, values = to_old[:3, :3], to_old[:3, 3], volume.voxels
    if turned := abs(values.strides[0]) < abs(values.strides[2]):  # scipy takes six times as long against the grain
        matrix, offset, values, shape = matrix[::-1, ::-1], offset[::-1], values.T, shape[::-1]
    scale = np.diag(matrix)
    if np.abs(matrix - np.diag(scale)).max() * max(shape) < ROUNDING:
        matrix = scale  # which scipy samples an axis at a time
    dtype, order = (values.dtype, 0) if nearest else (np.dtype(np.float32), 1)
    sampled = scipy.ndimage.affine_transform(
        values, matrix, offset, tuple(shape), dtype, order=order, mode=beyond, prefilter=False
    )
    return sampled.T if turned else sampled
