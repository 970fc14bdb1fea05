"""
The deformation of cubes from the distribution of [`deform`], in a small part of its time.

All 10,000 blocks are shuffled at once: their voxels are listed block by block, sorted at random within each, and
written in the order of the blocks. Values have 65,536 levels (each is 0.03 of the 2,000 Hounsfield units of a CT), for
which a curve is looked up in a table.
"""

import functools
import itertools
import math
import random

import numpy as np

from ..distortion import largest_sides
from .deformation import FLIPPED, SHUFFLED_BLOCKS, Axes, check_cube, distort, flip

LEVELS = np.float32(2**16 - 1)
CURVE_POINTS = 1_000  # what straight lines between them change is less than what rounding to levels does


def deform_fast(cube: np.ndarray, generator: np.random.Generator, axes: Axes = "zyx") -> tuple[np.ndarray, np.ndarray]:
    """
    What is seen of a cube, and what is to be restored: of the distribution of [`deform`].

    Args:
        cube: (C, and three axes) of at least 14 voxels each, float32 in [0, 1]; it stays as it is.
        generator: Source of all that is drawn.
        axes: Which the three are, in their order.

    Returns:
        The deformed cube, of 65,536 levels, and the cube, both flipped alike, of its shape and kind.

    Raises:
        ValueError: Not such a cube, or one with NaN.
    """
    check_cube(cube)
    python = random.Random(int(generator.integers(2**63)))  # as the exact path draws all but blocks
    target = flip(cube, python, FLIPPED, axes)
    levels = np.rint(target * LEVELS).astype(np.uint16)
    deformed = distort(levels, python, generator, functools.partial(shuffle_drawn, generator=generator), CURVE_POINTS)
    return (deformed / LEVELS).astype(cube.dtype, copy=False), target


def shuffle_drawn(cube: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As [`shuffle_blocks`] with the blocks of [`draw_blocks`]."""
    return shuffle_at_once(cube, *draw_blocks(cube.shape, generator), generator)


def draw_blocks(shape: tuple[int, ...], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sides and first voxels of the blocks to shuffle, both int64 (blocks, axes), in a (C, ...) of this shape."""
    largest = largest_sides(shape)
    sides = generator.integers(1, largest, (SHUFFLED_BLOCKS, len(largest)), endpoint=True)
    return sides, generator.integers(0, np.array(shape[1:]) - sides, endpoint=True)


def shuffle_at_once(
    cube: np.ndarray, sides: np.ndarray, starts: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """The values of each block, all channels together, are shuffled; later blocks cover earlier."""
    places, blocks = _voxels(cube.shape, sides, starts)
    sources = places[np.argsort(blocks + generator.random(len(blocks)))]  # at random within a block
    shuffled = cube.flatten()
    shuffled[places] = cube.ravel()[sources]  # of several values for one place numpy keeps the last
    return shuffled.reshape(cube.shape)


def _voxels(shape: tuple[int, ...], sides: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat numbers of the voxels of one block after the other, and the number of the block of each."""
    offsets, firsts = _offsets(shape)
    sizes = shape[0] * sides.prod(axis=1)
    kinds = firsts[tuple(sides.T - 1)]
    ends = sizes.cumsum()
    within = np.arange(ends[-1]) + np.repeat(kinds - ends + sizes, sizes)
    corners = starts @ _strides(shape)[1:]
    return np.repeat(corners, sizes) + offsets[within], np.repeat(np.arange(len(sides)), sizes)


@functools.lru_cache(maxsize=4)
def _offsets(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """
    How far the voxels of a block lie from its first in a flat cube: those of blocks of all sides, one after the other.

    Returns:
        These, and an array (largest side, ...) of where those of a block begin, by its sides less one.
    """
    largest = largest_sides(shape)
    kinds = list(itertools.product(*(range(1, side + 1) for side in largest)))
    offsets = [np.tensordot(_strides(shape), np.indices((shape[0], *sides)), 1).ravel() for sides in kinds]
    firsts = np.cumsum([0, *(len(each) for each in offsets[:-1])]).reshape(largest)
    return np.concatenate(offsets), firsts


def _strides(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([math.prod(shape[axis + 1 :]) for axis in range(len(shape))])
