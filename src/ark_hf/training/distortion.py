"""
How the originals distort what a network then restores (specification of the originals, sections 9 and 10).

Pictures (C, H, W) and volumes (C and three axes) are both called pictures here: float in [0, 1], or unsigned integers,
of which the same is made but for rounding to their levels. They stay as they are. All that is drawn comes from
generators that are handed over: sizes, places and curves from `python`, shuffles and noise from `numbers`.
"""

import math
import random
from collections.abc import Sequence

import numpy as np

BLOCKS, MORE = 5, 0.95  # of painting: the most there are, and the probability that one more comes
MARGIN = 3  # places at the border that no block of painting touches
SMALLEST = 14  # places along a side, for blocks and margins to find room


def shuffle_blocks(
    picture: np.ndarray, python: random.Random, numbers: np.random.RandomState, count: int
) -> np.ndarray:
    """The values of each of `count` blocks, all channels together, are shuffled; later blocks cover earlier."""
    shuffled = picture.copy()
    for _ in range(count):
        sides = [python.randint(1, largest) for largest in largest_sides(picture.shape)]
        block = _place(sides, picture.shape, python)
        values = picture[block].flatten()
        numbers.shuffle(values)
        shuffled[block] = values.reshape(-1, *sides)
    return shuffled


def largest_sides(shape: Sequence[int]) -> list[int]:
    """Of shuffled blocks of a picture of this shape, along each axis but that of the channels."""
    return [length // 10 for length in shape[1:]]


def map_intensities(picture: np.ndarray, python: random.Random, points: int) -> np.ndarray:
    """Values along a cubic Bezier curve, drawn with `points` points, that rises or falls."""
    controls = np.array([[0, 0], *([python.random(), python.random()] for _ in range(2)), [1, 1]])
    before, after = bezier_curve(controls, points)
    if python.random() >= 0.5:
        after = np.sort(after)
    before = np.sort(before)
    if picture.dtype.kind == "u":
        levels = np.iinfo(picture.dtype).max
        return _stored(np.interp(np.arange(levels + 1) / levels, before, after), picture.dtype)[picture]
    return np.interp(picture, before, after).astype(picture.dtype)


def bezier_curve(controls: np.ndarray, points: int) -> np.ndarray:
    """Float64 (2, points): places on the cubic curve of four control points (4, 2), from the last to the first."""
    t = np.linspace(0, 1, points)
    terms = [math.comb(3, k) * t ** (3 - k) * (1 - t) ** k for k in range(4)]
    return controls.T @ terms


def paint_inside(
    picture: np.ndarray, python: random.Random, numbers: np.random.RandomState | np.random.Generator
) -> np.ndarray:
    """Up to five blocks become noise, the same in all channels."""
    painted = picture.copy()
    remaining = BLOCKS
    while remaining and python.random() < MORE:
        sides = [python.randint(length // 6, length // 3) for length in picture.shape[1:]]
        block = _place(sides, picture.shape, python, MARGIN)
        painted[block] = _stored(numbers.random(sides), picture.dtype)
        remaining -= 1
    return painted


def paint_outside(
    picture: np.ndarray, python: random.Random, numbers: np.random.RandomState | np.random.Generator
) -> np.ndarray:
    """All becomes noise, of each channel another, but for one to five blocks."""
    painted = _stored(numbers.random(picture.shape), picture.dtype)
    remaining = BLOCKS
    while remaining == BLOCKS or (remaining and python.random() < MORE):
        sides = [length - python.randint(3 * length // 7, 4 * length // 7) for length in picture.shape[1:]]
        block = _place(sides, picture.shape, python, MARGIN)
        painted[block] = picture[block]
        remaining -= 1
    return painted


def _place(sides: Sequence[int], shape: Sequence[int], python: random.Random, margin: int = 0) -> tuple:
    """A block of these sides, in all channels of a picture of this shape."""
    starts = [python.randint(margin, length - side - margin) for length, side in zip(shape[1:], sides, strict=True)]
    return slice(None), *(slice(start, start + side) for start, side in zip(starts, sides, strict=True))


def _stored(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    return (values * np.iinfo(kind).max + 0.5).astype(kind) if kind.kind == "u" else values.astype(kind)
