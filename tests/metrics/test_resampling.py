"""Resamples of patients and intervals over repeats."""

import numpy as np
import pytest
from scipy.stats import t as student_t

from ark_hf.metrics.resampling import patient_weights, resampled_means, t_interval


def test_each_resample_draws_as_many_patients_as_there_are():
    found = np.full((50, 9), np.nan)
    for rows, weights in patient_weights(9, 50, seed=3):
        assert np.isnan(found[rows]).all()
        found[rows] = weights
    assert (found.sum(axis=1) == 9).all() and (found == found.astype(int)).all() and found.max() > 1
    expected = np.random.default_rng(3).integers(0, 9, (50, 9))  # in the order of drawing, whatever the block size
    assert (found == [np.bincount(draw, minlength=9) for draw in expected]).all()
    assert not list(patient_weights(1, 50, 0)) and not list(patient_weights(9, 0, 0))


def test_the_interval_of_repeats_is_student_s():
    mean, low, high, number = t_interval([0.7, 0.8, np.nan, None, 0.9])
    assert mean == pytest.approx(0.8) and number == 3
    assert (low, high) == pytest.approx(student_t.interval(0.95, 2, loc=0.8, scale=0.1 / np.sqrt(3)))
    assert t_interval([0.7, 0.9], 0.5)[1:3] == pytest.approx(student_t.interval(0.5, 1, loc=0.8, scale=0.1))
    assert t_interval([np.nan, 0.5])[0] == 0.5 and np.isnan(t_interval([np.nan, 0.5])[1:3]).all()
    assert np.isnan(t_interval([])[:3]).all() and t_interval([])[3] == 0


def test_a_pair_counts_as_often_as_both_its_patients_are_drawn():
    table = np.array([[1.0, np.nan], [5.0, 2.0], [7.0, 4.0]])
    pairs = [("p", "q"), ("q", "r"), ("r", "r")]
    found = resampled_means(table, pairs, 40, seed=2)
    (weights,) = [np.concatenate([each for _, each in patient_weights(3, 40, 2)])]
    p, q, r = weights.T
    times = np.stack([p * q, q * r, r])
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found[:, 0], [1, 5, 7] @ times / times.sum(axis=0))
        np.testing.assert_allclose(found[:, 1], [2, 4] @ times[1:] / times[1:].sum(axis=0))
    assert np.isnan(found).any()


def test_an_image_counts_as_often_as_its_patient_is_drawn():
    table = np.array([[1.0], [5.0], [7.0]])
    found = resampled_means(table, ["p", "q", "p"], 40, seed=2)
    (p, q) = np.concatenate([each for _, each in patient_weights(2, 40, 2)]).T
    np.testing.assert_allclose(found[:, 0], (8 * p + 5 * q) / (2 * p + q))
    assert np.array_equal(resampled_means(table, None, 9), resampled_means(table, [1, 2, 3], 9))
