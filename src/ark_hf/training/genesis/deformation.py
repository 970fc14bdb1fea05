"""
The deformation of cubes that Models Genesis restores (specification of the originals, section 10), for their seeds.

Everything drawn comes from generators that are handed over, in the order of the originals, whose two were global.
[`deform_fast`] draws from the same distribution in a small part of the time.
"""

import random
from collections.abc import Callable
from typing import Literal

import numpy as np

from ..distortion import SMALLEST, map_intensities, paint_inside, paint_outside, shuffle_blocks

Axes = Literal["xyz", "zyx"]

# Probabilities; the last that of painting inside if any, which in the originals is what another leaves
FLIPPED, SHUFFLED, MAPPED, PAINTED, PAINTED_INSIDE = 0.4, 0.5, 0.9, 0.9, 1 - 0.8
FLIPS = 3  # the most there are
SHUFFLED_BLOCKS = 10_000
CURVE_POINTS = 100_000
# Which axis of (C, and these) the originals' three flips are along: none, as theirs is that of the only channel; x; y.
# So no body is upside down
FLIPPED_AXES: dict[str, tuple[int | None, int, int]] = {"xyz": (None, 1, 2), "zyx": (None, 3, 2)}


def deform(
    cube: np.ndarray, python: random.Random, numbers: np.random.RandomState, axes: Axes = "zyx"
) -> tuple[np.ndarray, np.ndarray]:
    """
    What is seen of a cube, and what is to be restored.

    Args:
        cube: (C, and three axes) of at least 14 voxels each, float in [0, 1]; it stays as it is.
        python: Source of choices, places, sizes and curves.
        numbers: Source of shuffles and noise.
        axes: Which the three are, in their order.

    Returns:
        The deformed cube and the cube, both flipped alike, of its shape and kind.

    Raises:
        ValueError: Not such a cube, or one with NaN.
    """
    check_cube(cube)
    target = flip(cube, python, FLIPPED, axes)
    deformed = distort(
        target.copy(),
        python,
        numbers,
        lambda values: shuffle_blocks(values, python, numbers, SHUFFLED_BLOCKS),
        CURVE_POINTS,
    )
    return deformed, target


def check_cube(cube: np.ndarray) -> None:
    """Raises `ValueError` if a cube cannot be deformed; the message says why."""
    if cube.ndim != 4 or min(cube.shape[1:]) < SMALLEST:
        raise ValueError(
            f"Cubes must be (channels, and three axes of at least {SMALLEST} voxels) to be deformed, got {cube.shape}."
        )
    if cube.dtype.kind != "f":
        raise ValueError(f"Cubes must be float in [0, 1] to be deformed, got {cube.dtype}.")
    if not (cube.min() >= 0 and cube.max() <= 1):  # NaN is neither
        raise ValueError(
            f"Cubes must lie in [0, 1] to be deformed, got values from {cube.min():.6g} to {cube.max():.6g}: clip and "
            "scale them as the volume processor does."
        )


def flip(cube: np.ndarray, python: random.Random, probability: float, axes: Axes) -> np.ndarray:
    """A copy, flipped up to three times, each with `probability` and along x, y or not at all."""
    flipped, remaining = cube, FLIPS
    while python.random() < probability and remaining:  # drawn once more after the last
        axis = python.choice(FLIPPED_AXES[axes])
        if axis is not None:
            flipped = np.flip(flipped, axis)
        remaining -= 1
    return np.array(flipped, order="C")


def distort(
    cube: np.ndarray,
    python: random.Random,
    numbers: np.random.RandomState | np.random.Generator,
    shuffle: Callable[[np.ndarray], np.ndarray],
    curve_points: int,
) -> np.ndarray:
    """
    Small blocks are shuffled, with probability 0.5; values mapped along a curve, with 0.9; and, with 0.9, all but a
    few blocks, or a few blocks, painted over with noise. Where nothing of it happens the cube itself is returned.
    """
    if python.random() < SHUFFLED:
        cube = shuffle(cube)
    if python.random() < MAPPED:
        cube = map_intensities(cube, python, curve_points)
    if python.random() >= PAINTED:
        return cube
    paint = paint_inside if python.random() < PAINTED_INSIDE else paint_outside
    return paint(cube, python, numbers)
