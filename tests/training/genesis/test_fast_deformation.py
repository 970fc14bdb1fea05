"""The fast deformation: block by block what it must be, and of the distribution of the exact one."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare, ks_2samp

from ark_hf.training.distortion import MARGIN, largest_sides, map_intensities, shuffle_blocks
from ark_hf.training.genesis import deformation, fast_deformation
from ark_hf.training.genesis.deformation import CURVE_POINTS, deform
from ark_hf.training.genesis.fast_deformation import (
    LEVELS,
    deform_fast,
    draw_blocks,
    shuffle_at_once,
    shuffle_drawn,
)

from .test_deformation import SEEDS, generators

WAYS = ["exact", "fast"]
FEWER = 400


def deformed(way: str, cube: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return deform(cube, *generators(seed)) if way == "exact" else deform_fast(cube, np.random.default_rng(seed))


@pytest.fixture
def fewer(monkeypatch):
    """Fewer blocks, and points of curves, for small cubes."""
    for module in (deformation, fast_deformation):
        monkeypatch.setattr(module, "SHUFFLED_BLOCKS", FEWER)
        monkeypatch.setattr(module, "CURVE_POINTS", 200)


# The shuffle -------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.tuples(st.integers(1, 2), *[st.integers(14, 40)] * 3), SEEDS, st.integers(1, 60))
def test_each_voxel_is_of_the_last_block_there(shape, seed, count):
    generator = np.random.default_rng(seed)
    places = np.arange(np.prod(shape)).reshape(shape)
    sides, starts = (each[:count] for each in draw_blocks(shape, generator))
    shuffled = shuffle_at_once(places, sides, starts, generator)
    owners = np.full(shape, -1)
    blocks = [
        (slice(None), *(slice(low, low + side) for low, side in zip(*each, strict=True)))
        for each in zip(starts, sides, strict=True)
    ]
    for number, block in enumerate(blocks):
        owners[block] = number
    np.testing.assert_array_equal(shuffled[owners < 0], places[owners < 0])
    for number, block in enumerate(blocks):
        seen = shuffled[owners == number]
        assert len(set(seen)) == len(seen) and set(seen) <= set(places[block].flat)


def test_every_order_of_a_blocks_values_is_as_likely():
    """4,000 blocks of two voxels in each of two channels, none over another."""
    shape = (2, 20, 20, 20)
    places = np.arange(np.prod(shape)).reshape(shape)
    starts = np.indices((20, 20, 10)).reshape(3, -1).T * [1, 1, 2]
    sides = np.broadcast_to([1, 1, 2], starts.shape)
    shuffled = shuffle_at_once(places, sides, starts, np.random.default_rng(0))
    here, there = (
        each.reshape(2, 20, 20, 10, 2).transpose(1, 2, 3, 0, 4).reshape(-1, 4) for each in (places, shuffled)
    )
    orders = (there[:, :, None] == here[:, None]).argmax(axis=-1)
    np.testing.assert_array_equal(np.sort(there), np.sort(here))
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and chisquare(counts).pvalue > 0.001


def test_sides_and_places_of_blocks_are_evenly_drawn():
    shape = (1, 64, 56, 32)
    sides, starts = draw_blocks(shape, np.random.default_rng(1))
    assert sides.shape == starts.shape == (10_000, 3)
    for axis, (length, largest) in enumerate(zip(shape[1:], largest_sides(shape), strict=True)):
        counts = np.bincount(sides[:, axis])[1:]
        assert len(counts) == largest and chisquare(counts).pvalue > 0.001
        for side in range(1, largest + 1):
            counts = np.bincount(starts[sides[:, axis] == side, axis])
            assert len(counts) == length - side + 1 and chisquare(counts).pvalue > 0.001
    assert np.abs(np.corrcoef(np.hstack([sides, starts]), rowvar=False) - np.eye(6)).max() < 0.06


def shifts(shuffled: np.ndarray) -> list[float]:
    """Of a shuffled cube of places: the share that came from elsewhere, and how far they came, by axis."""
    came_from = np.unravel_index(shuffled.astype(int), shuffled.shape)
    steps = [np.abs(there - here) for there, here in zip(came_from, np.indices(shuffled.shape), strict=True)][1:]
    return [np.mean(np.any(steps, axis=0)), *map(np.mean, steps), *(np.mean(step**2) for step in steps)]


def assert_same_shuffle(shape, cubes, count):
    places = np.arange(np.prod(shape)).reshape(shape)
    exact = [shifts(shuffle_blocks(places, *generators(seed), count)) for seed in range(cubes)]
    fast = [shifts(shuffle_drawn(places, np.random.default_rng([7, seed]))) for seed in range(cubes)]
    for one, other in zip(np.transpose(exact), np.transpose(fast), strict=True):
        assert ks_2samp(one, other).pvalue > 0.001
        error = np.hypot(one.std(), other.std()) / np.sqrt(cubes)
        assert abs(one.mean() - other.mean()) < 3.3 * error


def test_shuffles_are_of_one_distribution(fewer):
    assert_same_shuffle((1, 30, 24, 20), cubes=120, count=FEWER)


@pytest.mark.slow_ci
def test_shuffles_of_whole_cubes_are_of_one_distribution():
    assert_same_shuffle((1, 64, 64, 32), cubes=20, count=10_000)


# The whole ---------------------------------------------------------------------------------------------------------


def test_mapped_values_are_those_of_the_curve_but_for_levels():
    values = np.sort(np.append(np.random.default_rng(0).random(2_000) ** 3, [0, 1])).astype(np.float32)
    levels = np.rint(values * LEVELS).astype(np.uint16)
    errors = []
    for seed in range(60):
        exact = map_intensities(values, random.Random(seed), CURVE_POINTS)
        errors.append(map_intensities(levels, random.Random(seed), fast_deformation.CURVE_POINTS) / LEVELS - exact)
    errors = np.abs(errors)
    assert not errors[:, [0, -1]].any()  # air and metal
    assert np.median(errors.max(axis=1)) < 5e-5 and errors.max() < 3e-3  # of curves that are steep at an end


@pytest.fixture(scope="module")
def quarters():
    """A cube (1, z, y, x) of four levels, of which x and y tell."""
    _, _, y, x = np.indices((1, 20, 20, 20))
    return (0.2 + 0.2 * (x >= 10) + 0.4 * (y >= 10)).astype(np.float32)


def traits(seen: np.ndarray, target: np.ndarray) -> list[bool]:
    """What was done to the cube of [`quarters`]: x and y flipped, all but blocks painted, blocks painted, and if the
    first was not, mapped and shuffled."""
    at_border = np.ones(target.shape, bool)
    at_border[:, *[slice(MARGIN, -MARGIN)] * 3] = False
    seen = np.round(seen, 5)
    levels = np.unique(target)
    values = np.unique(seen[at_border])
    flipped = [target[0, 0, 0, 0] > target[0, 0, 0, -1], target[0, 0, 0, 0] > target[0, 0, -1, 0]]
    if len(values) > 4:
        return [*flipped, True, False, False, False]
    inside = len(np.unique(seen)) > 4
    mapped = np.abs(values - levels).max() > 1e-3
    shuffled = any(len(np.unique(seen[at_border & (target == level)])) > 1 for level in levels)
    return [*flipped, False, inside, mapped, shuffled]


@pytest.mark.parametrize("way", WAYS)
def test_probabilities_are_the_published_ones(way, fewer, quarters):
    found = np.array([traits(*deformed(way, quarters, seed)) for seed in range(250)])
    outside = found[:, 2]
    odd = sum(0.4**n * (0.6 if n < 3 else 1) * (1 - 3.0**-n) / 2 for n in range(4))  # an odd number of flips in x
    for name, hits, probability in [
        ("x", found[:, 0], odd),
        ("y", found[:, 1], odd),
        ("outside", outside, 0.9 * 0.8),
        ("inside", found[~outside, 3], 0.9 * 0.2 * 0.95 / (1 - 0.9 * 0.8)),
        ("mapped", found[~outside, 4], 0.9),
        ("shuffled", found[~outside, 5], 0.5),
    ]:
        assert binomtest(int(hits.sum()), len(hits), probability).pvalue > 0.001, name


def looks(seen: np.ndarray, target: np.ndarray) -> list[float]:
    """Statistics of a deformed cube, beside what it is made of."""
    change = np.abs(seen - target)
    rough = [np.abs(np.diff(seen, axis=axis)).mean() for axis in (1, 2, 3)]
    kept = (change < 0.01).mean()
    return [seen.mean(), seen.std(), *np.quantile(seen, [0.1, 0.5, 0.9]), change.mean(), kept, *rough]


def assert_same_deformation(cube, cubes):
    exact, fast = (np.transpose([looks(*deformed(way, cube, seed)) for seed in range(cubes)]) for way in WAYS)
    for one, other in zip(exact, fast, strict=True):
        assert ks_2samp(one, other).pvalue > 0.001


def smooth(shape):
    z, y, x = (np.linspace(0, 1, length) for length in shape)
    return (0.25 * (1 + np.sin(5 * z)[:, None, None] * np.cos(4 * y)[:, None]) + 0.5 * x**2)[None].astype(np.float32)


def test_deformed_cubes_are_of_one_distribution(fewer):
    assert_same_deformation(smooth((20, 24, 22)), cubes=150)


@pytest.mark.slow_ci
def test_whole_deformed_cubes_are_of_one_distribution():
    assert_same_deformation(smooth((32, 64, 64)), cubes=50)


@settings(max_examples=10)
@given(st.tuples(st.integers(1, 2), *[st.integers(14, 40)] * 3), SEEDS, st.sampled_from([np.float32, np.float64]))
def test_a_deformed_cube_is_one_and_a_function_of_its_generator(shape, seed, kind):
    cube = np.random.default_rng(0).random(shape).astype(kind)
    seen, target = deform_fast(cube, np.random.default_rng(seed))
    for made in (seen, target):
        assert made.shape == shape and made.dtype == kind and made.flags.c_contiguous
        assert 0 <= made.min() and made.max() <= 1
        assert not np.shares_memory(made, cube)
    np.testing.assert_array_equal(cube, np.random.default_rng(0).random(shape).astype(kind))
    again = deform_fast(cube, np.random.default_rng(seed))
    np.testing.assert_array_equal(again, (seen, target))
    assert not np.array_equal(deform_fast(cube, np.random.default_rng([seed, 1]))[0], seen)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "cube, message",
    [
        (np.zeros((20, 20, 20), np.float32), r"Cubes must be \(channels.*at least 14.*got \(20, 20, 20\)"),
        (np.zeros((1, 20, 8, 20), np.float32), r"at least 14 voxels.*got \(1, 20, 8, 20\)"),
        (np.full((1, 20, 20, 20), -1000, np.float32), r"in \[0, 1\].*from -1000 to -1000.*clip"),
        (np.full((1, 20, 20, 20), np.nan, np.float32), r"in \[0, 1\].*from nan to nan"),
        (np.zeros((1, 20, 20, 20), np.uint8), "float.*uint8"),
    ],
)
def test_what_is_no_cube_is_refused(way, cube, message):
    with pytest.raises(ValueError, match=message):
        deformed(way, cube, 0)
