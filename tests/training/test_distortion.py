"""What distortions of pictures and volumes have in common, for any seed."""

import functools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf.training.distortion import (
    MARGIN,
    SMALLEST,
    largest_sides,
    map_intensities,
    paint_inside,
    paint_outside,
    shuffle_blocks,
)

PICTURES = st.tuples(st.integers(1, 3), *[st.integers(SMALLEST, 70)] * 2)
VOLUMES = st.tuples(st.integers(1, 2), *[st.integers(SMALLEST, 32)] * 3)
SHAPES = PICTURES | VOLUMES
SEEDS = st.integers(0, 2**32 - 1)


def generators(seed: int) -> tuple[random.Random, np.random.RandomState]:
    return random.Random(seed), np.random.RandomState(seed)


def drawn(shape, kind: type = np.float32) -> np.ndarray:
    levels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    return levels if kind == np.uint8 else (levels / 255).astype(kind)


def shuffled(picture, python, numbers):
    return shuffle_blocks(picture, python, numbers, 40)


def mapped(picture, python, numbers):
    return map_intensities(picture, python, 500)


@settings(max_examples=30)
@given(SHAPES, SEEDS)
def test_every_shuffled_block_has_its_own_values(shape, seed):
    """Blocks may cover each other: a value that stands anywhere is one of no farther than a block's side."""
    places = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    came_from = np.unravel_index(shuffled(places, *generators(seed)).astype(int), shape)
    for axis, largest in enumerate(largest_sides(shape), start=1):
        assert np.abs(came_from[axis] - np.indices(shape)[axis]).max() < largest


@settings(max_examples=30)
@given(SEEDS, st.sampled_from([21, 500]))
def test_intensities_are_mapped_by_one_monotone_curve_or_inverted(seed, points):
    levels = np.linspace(0, 1, 400, dtype=np.float32).reshape(1, 20, 20)
    after = map_intensities(levels, random.Random(seed), points).ravel()
    assert {after[0], after[-1]} == {0, 1}
    assert (np.diff(after) * (after[-1] - after[0]) >= -1e-6).all()


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
@settings(max_examples=30)
@given(SHAPES, SEEDS)
def test_painting_keeps_to_blocks_off_the_border(kind, shape, seed):
    picture = drawn(shape, kind)
    at_border = np.ones(shape, bool)
    at_border[:, *[slice(MARGIN, -MARGIN)] * (len(shape) - 1)] = False
    painted = paint_inside(picture, *generators(seed))
    np.testing.assert_array_equal(painted[at_border], picture[at_border])
    outside = paint_outside(picture.astype(np.float64), *generators(seed))  # in which no noise is a grey level
    kept = (outside == picture).all(axis=0)
    assert not kept[at_border[0]].any()
    assert kept.sum() >= functools.reduce(int.__mul__, (length - 4 * length // 7 for length in shape[1:]))


@settings(max_examples=30)
@given(SHAPES, SEEDS, st.sampled_from([shuffled, mapped, paint_inside, paint_outside]))
def test_eight_bits_are_distorted_as_floats_are_and_the_source_stays(shape, seed, change):
    changed = []
    for picture in (drawn(shape), drawn(shape, np.uint8)):
        changed.append(change(picture, *generators(seed)))
        np.testing.assert_array_equal(picture, drawn(shape, picture.dtype))
        assert changed[-1].shape == shape and changed[-1].dtype == picture.dtype
    of_floats, of_bytes = changed
    assert 0 <= of_floats.min() and of_floats.max() <= 1
    np.testing.assert_allclose(of_bytes / 255, of_floats, rtol=0, atol=0.501 / 255)
