"""The deformation of cubes: that of the originals for their seeds, and what holds for any."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf.training.distortion import bezier_curve, map_intensities, paint_inside, paint_outside, shuffle_blocks
from ark_hf.training.genesis.deformation import CURVE_POINTS, SHUFFLED_BLOCKS, deform, flip

SEEDS = st.integers(0, 2**32 - 1)


def generators(seed: int) -> tuple[random.Random, np.random.RandomState]:
    return random.Random(seed), np.random.RandomState(seed)


@pytest.fixture(scope="module")
def golden(shared):
    return shared / "golden" / "genesis"


@pytest.mark.parametrize("seed", [8, 13])
def test_deformations_of_the_original(golden, seed):
    cases = np.load(golden / "transforms_48x56x32.npz")
    cube = cases["input"].astype(np.float64)

    def assert_same(name, made):
        np.testing.assert_allclose(made, cases[f"{name}_s{seed}"], rtol=0, atol=1e-6, err_msg=name)

    assert_same("flip80", flip(cube, generators(seed)[0], 0.8, "xyz"))
    for name, change in [("inpaint", paint_inside), ("outpaint", paint_outside)]:
        assert_same(name, change(cube, *generators(seed)))
    python, numbers = generators(seed)
    python.random()  # whether, which was certain
    assert_same("local_p1", shuffle_blocks(cube, python, numbers, SHUFFLED_BLOCKS))
    python, _ = generators(seed)
    python.random()
    assert_same("nonlinear_p1", map_intensities(cube, python, CURVE_POINTS))


def test_curve_of_the_original(golden):
    cases = np.load(golden / "transforms_48x56x32.npz")
    made = bezier_curve(cases["bezier_points"], 21)
    np.testing.assert_allclose(made, [cases["bezier_x21"], cases["bezier_y21"]], rtol=0, atol=1e-12)


def test_batches_of_the_original(golden):
    cases = np.load(golden / "pairs_a.npz")
    python, numbers = generators(int(cases["seed"]))
    for batch in ("0", "1"):
        order = list(range(len(cases["volumes"])))
        python.shuffle(order)
        for number, chosen in enumerate(order[: int(cases["batch_size"])]):
            seen, target = deform(cases["volumes"][chosen], python, numbers, "xyz")
            np.testing.assert_array_equal(target, cases[f"y{batch}"][number])
            np.testing.assert_allclose(seen, cases[f"x{batch}"][number], rtol=0, atol=1e-6)


@settings(max_examples=10)
@given(st.tuples(st.integers(1, 2), *[st.integers(14, 24)] * 3), SEEDS, st.sampled_from(["xyz", "zyx"]))
def test_deformed_cubes_are_cubes_and_their_source_stays(shape, seed, axes):
    cube = np.random.default_rng(0).random(shape, dtype=np.float32)
    seen, target = deform(cube, *generators(seed), axes)
    for made in (seen, target):
        assert made.shape == shape and made.dtype == np.float32 and made.flags.c_contiguous
        assert 0 <= made.min() and made.max() <= 1
        assert not np.shares_memory(made, cube)
    assert not np.shares_memory(seen, target)
    np.testing.assert_array_equal(cube, np.random.default_rng(0).random(shape, dtype=np.float32))


@settings(max_examples=40)
@given(SEEDS, st.floats(0.3, 1))
def test_a_flip_is_along_x_or_y_and_the_same_in_both_orders_of_axes(seed, probability):
    cube = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    flipped = flip(cube, random.Random(seed), probability, "xyz")
    allowed = [cube, cube[:, ::-1], cube[:, :, ::-1], cube[:, ::-1, ::-1]]
    assert any(np.array_equal(flipped, each) for each in allowed)
    turned = flip(cube.transpose(0, 3, 2, 1), random.Random(seed), probability, "zyx")
    np.testing.assert_array_equal(turned, flipped.transpose(0, 3, 2, 1))
