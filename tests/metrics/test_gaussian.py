"""The Gaussian of main directions: what it is at full rank, what moves it along, and what it does with flat clouds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import chi

from ark_hf.metrics.gaussian import FLOOR, fit_gaussian

WIDTH = 6
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def cloud(seed: int, images: int = 60, width: int = WIDTH) -> np.ndarray:
    """Points of as many scales as directions, off the origin."""
    generator = np.random.default_rng(seed)
    turned = np.linalg.qr(generator.normal(size=(width, width)))[0]
    return generator.normal(size=(images, width)) * np.geomspace(10, 0.1, width) @ turned + generator.normal(
        size=width
    )


def turn(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))[0]


@few
@given(seeds, st.integers(WIDTH, WIDTH + 5))
def test_of_full_rank_it_is_the_full_gaussian(seed, rank):
    points, others = cloud(seed), cloud(seed + 1)
    ours = fit_gaussian(points, rank).distances(others)
    inverse = np.linalg.inv(np.cov(points, rowvar=False))
    np.testing.assert_allclose(ours, cdist(others, points.mean(axis=0)[None], "mahalanobis", VI=inverse)[:, 0])


@few
@given(seeds, st.integers(1, WIDTH - 1))
def test_of_lower_rank_it_is_the_gaussian_whose_other_variances_are_their_mean(seed, rank):
    points, others = cloud(seed), cloud(seed + 1)
    variances, vectors = np.linalg.eigh(np.cov(points, rowvar=False))
    variances[: WIDTH - rank] = variances[: WIDTH - rank].mean()
    inverse = vectors / variances @ vectors.T
    found = fit_gaussian(points, rank)
    expected = cdist(others, points.mean(axis=0)[None], "mahalanobis", VI=inverse)[:, 0]
    np.testing.assert_allclose(found.distances(others), expected)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(rank), atol=1e-9)
    assert (np.diff(found.variances) <= 0).all()  # the largest ones are kept


@few
@given(seeds, st.integers(1, WIDTH), st.floats(0.01, 100), st.integers(-5, 5))
def test_turning_moving_and_scaling_the_space_changes_no_distance(seed, rank, scale, offset):
    points, others, matrix = cloud(seed), cloud(seed + 1), scale * turn(seed)
    before = fit_gaussian(points, rank).distances(others)
    after = fit_gaussian(points @ matrix + offset, rank).distances(others @ matrix + offset)
    np.testing.assert_allclose(after, before, rtol=1e-6)


@few
@given(seeds)
def test_at_full_rank_no_affine_map_changes_a_distance(seed):
    points, others = cloud(seed), cloud(seed + 1)
    matrix = turn(seed) * np.geomspace(0.2, 5, WIDTH) @ turn(seed + 1)
    before = fit_gaussian(points, WIDTH).distances(others)
    np.testing.assert_allclose(fit_gaussian(points @ matrix, WIDTH).distances(others @ matrix), before, rtol=1e-6)


def test_distances_of_a_gaussian_s_own_points_are_chi_distributed():
    drawn = cloud(0, 4000)
    distances = fit_gaussian(drawn[:2000], WIDTH).distances(drawn[2000:])
    assert (distances > chi(WIDTH).ppf(0.95)).mean() == pytest.approx(0.05, abs=0.015)


def test_more_numbers_than_points_and_flat_clouds_have_distances():
    points = cloud(1, images=10, width=40)
    found = fit_gaussian(points, 20)
    assert np.isfinite(found.distances(cloud(2, width=40))).all() and (found.variances > 0).all()
    flat = np.zeros((50, 4))
    flat[:, 0] = np.arange(50)
    off = fit_gaussian(flat, 2).distances(np.array([[25.0, 0, 0, 0], [25.0, 1, 0, 0], [25.0, 0, 0, 1]]))
    mean_variance = np.arange(50).var(ddof=1) / 4
    assert off[0] < 1
    np.testing.assert_allclose(off[1:], 1 / np.sqrt(FLOOR * mean_variance), rtol=1e-3)


@pytest.mark.parametrize("points", [np.ones((1, 3)), np.empty((0, 3)), np.ones((9, 3))])
def test_what_has_no_spread_is_refused(points):
    with pytest.raises(ValueError, match="two points|the same"):
        fit_gaussian(points, 2)
