"""
The appearance of a crop, distorted (specification of the originals, sections 9 and 10): what restoration undoes.

Everything drawn comes from generators that are handed over, in the order of the originals, whose three were global.
Pictures are (C, H, W), float in [0, 1], or uint8, of which the same is made but for rounding to grey levels.
"""

import math
import random
from collections.abc import Sequence

import numpy as np
import torch

SHUFFLED_BLOCKS = 40
MAPPED, PAINTED, PAINTED_OUTSIDE = 0.9, 0.9, 0.8  # probabilities; the last that of painting outside if any
BLOCKS, MORE = 5, 0.95  # of painting: the most there are, and the probability that one more comes
CURVE_POINTS = 500
MARGIN = 3  # pixels at the border that no block of painting touches
SMALLEST = 14  # pixels along a side, for blocks and margins to find room


def distort(
    picture: np.ndarray, python: random.Random, numbers: np.random.RandomState, uniform: torch.Generator
) -> np.ndarray:
    """
    Small blocks are shuffled; grey values mapped along a curve, with probability 0.9; and, with 0.9, all but a few
    blocks, or a few blocks, painted over with noise.

    Args:
        picture: (C, H, W) of at least 14 x 14 pixels; it stays as it is.
        python: Source of places, sizes and curves.
        numbers: Source of shuffles and noise.
        uniform: Source of whether there is painting.
    """
    distorted = map_intensities(shuffle_blocks(picture, python, numbers), python)
    if torch.rand(1, generator=uniform).item() > PAINTED:
        return distorted
    paint = paint_outside if python.random() < PAINTED_OUTSIDE else paint_inside
    return paint(distorted, python, numbers)


def shuffle_blocks(picture: np.ndarray, python: random.Random, numbers: np.random.RandomState) -> np.ndarray:
    """The values of each block of the picture, all channels together, are shuffled; later blocks cover earlier."""
    shuffled = picture.copy()
    for _ in range(SHUFFLED_BLOCKS):
        sides = [python.randint(1, length // 10) for length in picture.shape[1:]]
        block = _place(sides, picture.shape, python)
        values = picture[block].flatten()
        numbers.shuffle(values)
        shuffled[block] = values.reshape(-1, *sides)
    return shuffled


def map_intensities(picture: np.ndarray, python: random.Random) -> np.ndarray:
    """Grey values along a cubic Bezier curve, rising or falling; with probability 0.1 as they are."""
    if python.random() >= MAPPED:
        return picture
    controls = np.array([[0, 0], *([python.random(), python.random()] for _ in range(2)), [1, 1]])
    t = np.linspace(0, 1, CURVE_POINTS)
    terms = [math.comb(3, k) * t ** (3 - k) * (1 - t) ** k for k in range(4)]
    before, after = controls.T @ terms  # from (1, 1) to (0, 0)
    if python.random() >= 0.5:
        after = np.sort(after)
    before = np.sort(before)
    if picture.dtype == np.uint8:
        return _stored(np.interp(np.arange(256) / 255, before, after), picture.dtype)[picture]
    return np.interp(picture, before, after).astype(picture.dtype)


def paint_inside(picture: np.ndarray, python: random.Random, numbers: np.random.RandomState) -> np.ndarray:
    """Up to five blocks become noise, the same in all channels."""
    painted = picture.copy()
    remaining = BLOCKS
    while remaining and python.random() < MORE:
        sides = [python.randint(length // 6, length // 3) for length in picture.shape[1:]]
        block = _place(sides, picture.shape, python, MARGIN)
        painted[block] = _stored(numbers.random_sample(sides), picture.dtype)
        remaining -= 1
    return painted


def paint_outside(picture: np.ndarray, python: random.Random, numbers: np.random.RandomState) -> np.ndarray:
    """All becomes noise, of each channel another, but for one to five blocks."""
    painted = _stored(numbers.random_sample(picture.shape), picture.dtype)
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
    return (values * 255 + 0.5).astype(np.uint8) if kind == np.uint8 else values.astype(kind)
