"""The appearance of a crop, distorted (specification of the originals, section 9): what restoration undoes."""

import random

import numpy as np
import torch

from ..distortion import map_intensities, paint_inside, paint_outside, shuffle_blocks

SHUFFLED_BLOCKS = 40
MAPPED, PAINTED, PAINTED_OUTSIDE = 0.9, 0.9, 0.8  # probabilities; the last that of painting outside if any
CURVE_POINTS = 500


def distort(
    picture: np.ndarray, python: random.Random, numbers: np.random.RandomState, uniform: torch.Generator
) -> np.ndarray:
    """
    Small blocks are shuffled; grey values mapped along a curve, with probability 0.9; and, with 0.9, all but a few
    blocks, or a few blocks, painted over with noise.

    Everything drawn comes from the generators, in the order of the originals, whose three were global.

    Args:
        picture: (C, H, W) of at least 14 x 14 pixels, float in [0, 1], or uint8; it stays as it is.
        python: Source of places, sizes and curves.
        numbers: Source of shuffles and noise.
        uniform: Source of whether there is painting.
    """
    distorted = shuffle_blocks(picture, python, numbers, SHUFFLED_BLOCKS)
    if python.random() < MAPPED:
        distorted = map_intensities(distorted, python, CURVE_POINTS)
    if torch.rand(1, generator=uniform).item() > PAINTED:
        return distorted
    paint = paint_outside if python.random() < PAINTED_OUTSIDE else paint_inside
    return paint(distorted, python, numbers)
