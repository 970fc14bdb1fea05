"""The appearance distortion of PEAC: that of the originals for their seeds, and what holds for any."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.stats import binomtest

from ark_hf.training.distortion import MARGIN, map_intensities, paint_inside, paint_outside, shuffle_blocks
from ark_hf.training.peac.distortion import CURVE_POINTS, MAPPED, SHUFFLED_BLOCKS, distort

from ..test_distortion import PICTURES, SEEDS, drawn

MEAN, STD = 0.5056, 0.252


def generators(seed: int) -> tuple[random.Random, np.random.RandomState, torch.Generator]:
    return random.Random(seed), np.random.RandomState(seed), torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_distortions_of_the_original(shared, seed):
    cases = np.load(shared / "golden" / "peac" / "appearance_aug.npz")
    picture = cases["image_u8"].transpose(2, 0, 1) / np.float32(255)

    def assert_same(name, made):
        np.testing.assert_allclose(made, cases[f"{name}_s{seed}"], rtol=0, atol=1e-6, err_msg=name)

    python, numbers, _ = generators(seed)
    mapped = map_intensities(picture, python, CURVE_POINTS) if python.random() < MAPPED else picture
    assert_same("nonlinear", mapped)
    assert_same("local_shuffle", shuffle_blocks(picture, *generators(seed)[:2], SHUFFLED_BLOCKS))
    for name, change in [("inpaint", paint_inside), ("outpaint", paint_outside)]:
        assert_same(name, change(picture, *generators(seed)[:2]))
    assert_same("full_train", (distort(picture, *generators(seed)) - MEAN) / STD)


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
@settings(max_examples=30)
@given(PICTURES, SEEDS)
def test_distorted_pictures_are_pictures_and_their_source_stays(kind, shape, seed):
    picture = drawn(shape, kind)
    distorted = distort(picture, *generators(seed))
    assert distorted.shape == shape and distorted.dtype == kind
    assert distorted.min() >= 0 and distorted.max() <= (255 if kind == np.uint8 else 1)
    np.testing.assert_array_equal(picture, drawn(shape, kind))


def test_probabilities_are_the_published_ones():
    levels = np.linspace(0, 1, 14 * 14, dtype=np.float32).reshape(1, 14, 14)
    seeds = range(1, 301)
    distorted = [distort(levels, *generators(seed)) for seed in seeds]
    # Blocks of one pixel alone are shuffled: what is not painted or mapped stays
    border = np.ones(levels.shape, bool)
    border[:, MARGIN:-MARGIN, MARGIN:-MARGIN] = False
    monotone = [len(np.unique(np.sign(np.diff(each[border])))) == 1 for each in distorted]
    outside = len(seeds) - sum(monotone)
    same = [np.array_equal(each[border], levels[border]) for each in distorted]
    inside = sum(len(np.unique(np.sign(np.diff(each)))) > 1 for each in map(np.ravel, distorted)) - outside
    for count, of, probability in [
        (outside, len(seeds), 0.9 * 0.8),
        (inside, len(seeds), 0.9 * 0.2 * 0.95),
        (sum(same), sum(monotone), 0.1),
    ]:
        assert binomtest(count, of, probability).pvalue > 0.001
