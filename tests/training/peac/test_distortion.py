"""The appearance distortion: that of the originals for their seeds, and what holds for any."""

import functools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from ark_hf.training.peac.distortion import (
    MARGIN,
    distort,
    map_intensities,
    paint_inside,
    paint_outside,
    shuffle_blocks,
)

MEAN, STD = 0.5056, 0.252
SHAPES = st.tuples(st.integers(1, 3), st.integers(14, 70), st.integers(14, 70))
SEEDS = st.integers(0, 2**32 - 1)


def generators(seed: int) -> tuple[random.Random, np.random.RandomState, torch.Generator]:
    return random.Random(seed), np.random.RandomState(seed), torch.Generator().manual_seed(seed)


def drawn(shape, kind: type = np.float32) -> np.ndarray:
    levels = np.random.default_rng(0).integers(256, size=shape)
    return levels.astype(np.uint8) if kind == np.uint8 else (levels / 255).astype(kind)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_distortions_of_the_original(shared, seed):
    cases = np.load(shared / "golden" / "peac" / "appearance_aug.npz")
    picture = cases["image_u8"].transpose(2, 0, 1) / np.float32(255)

    def assert_same(name, made):
        np.testing.assert_allclose(made, cases[f"{name}_s{seed}"], rtol=0, atol=1e-6, err_msg=name)

    python, numbers, _ = generators(seed)
    assert_same("nonlinear", map_intensities(picture, python))
    for name, change in [("local_shuffle", shuffle_blocks), ("inpaint", paint_inside), ("outpaint", paint_outside)]:
        assert_same(name, change(picture, *generators(seed)[:2]))
    assert_same("full_train", (distort(picture, *generators(seed)) - MEAN) / STD)


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
@settings(max_examples=30)
@given(SHAPES, SEEDS)
def test_distorted_pictures_are_pictures_and_their_source_stays(kind, shape, seed):
    picture = drawn(shape, kind)
    distorted = distort(picture, *generators(seed))
    assert distorted.shape == shape and distorted.dtype == kind
    assert distorted.min() >= 0 and distorted.max() <= (255 if kind == np.uint8 else 1)
    np.testing.assert_array_equal(picture, drawn(shape, kind))


@settings(max_examples=30)
@given(SHAPES, SEEDS)
def test_eight_bits_are_distorted_as_floats_are(shape, seed):
    of_floats, of_bytes = (distort(drawn(shape, kind), *generators(seed)) for kind in (np.float32, np.uint8))
    np.testing.assert_allclose(of_bytes / 255, of_floats, rtol=0, atol=0.501 / 255)


@settings(max_examples=30)
@given(SHAPES, SEEDS)
def test_every_shuffled_block_has_its_own_values(shape, seed):
    """Blocks may cover each other: a value that stands anywhere is one of no farther than a block's side."""
    places = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    _, rows, columns = np.unravel_index(shuffle_blocks(places, *generators(seed)[:2]).astype(int), shape)
    here = np.indices(shape)
    assert np.abs(rows - here[1]).max() < shape[1] // 10
    assert np.abs(columns - here[2]).max() < shape[2] // 10


@settings(max_examples=30)
@given(SEEDS)
def test_intensities_are_mapped_by_one_monotone_curve_or_inverted(seed):
    levels = np.linspace(0, 1, 400, dtype=np.float32).reshape(1, 20, 20)
    python = random.Random(seed)
    mapped = map_intensities(levels, python).ravel()
    assert {mapped[0], mapped[-1]} == {0, 1}
    if mapped[0] == 0:
        assert (np.diff(mapped) >= -1e-6).all()


@settings(max_examples=30)
@given(SHAPES, SEEDS)
def test_painting_keeps_to_blocks_off_the_border(shape, seed):
    picture = drawn(shape)
    inside = (slice(None), *[slice(MARGIN, -MARGIN)] * 2)
    at_border = np.ones(shape, bool)
    at_border[inside] = False
    painted = paint_inside(picture, *generators(seed)[:2])
    np.testing.assert_array_equal(painted[at_border], picture[at_border])
    kept = (paint_outside(picture, *generators(seed)[:2]) == picture).all(axis=0)
    assert not kept[at_border[0]].any()
    assert kept.sum() >= functools.reduce(int.__mul__, (length - 4 * length // 7 for length in shape[1:]))


def test_probabilities_are_the_published_ones():
    picture = np.full((1, 14, 14), 0.25, dtype=np.float32)
    seeds = range(1, 301)
    distorted = [distort(picture, *generators(seed)) for seed in seeds]
    outside = sum(len(np.unique(each[:, :MARGIN])) > 1 for each in distorted)
    inside = sum(len(np.unique(each)) > 1 for each in distorted) - outside
    mapped = sum((map_intensities(picture, random.Random(seed)) != picture).all() for seed in seeds)
    for count, probability in [(outside, 0.9 * 0.8), (inside, 0.9 * 0.2 * 0.95), (mapped, 0.9)]:
        assert binomtest(count, len(seeds), probability).pvalue > 0.001
