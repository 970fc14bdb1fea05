"""Measures of calibration against scikit-learn, and temperatures that are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from ark_hf.metrics.calibration import (
    TEMPERATURE_RANGE,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_curve,
)

NAN = float("nan")
MULTI, SINGLE = "multi_label_classification", "single_label_classification"


@st.composite
def forecasts(draw):
    """Labels, some unknown, and probabilities of which many lie on the edges of ten bins."""
    n = draw(st.integers(1, 40))
    labels = draw(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=n, max_size=n))
    probabilities = draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))
    return np.array(labels), np.array(probabilities) / 20


@settings(max_examples=50)
@given(forecasts())
def test_measures_equal_to_scikit_learn(forecast):
    labels, probabilities = forecast
    known = ~np.isnan(labels)
    mean_probability, observed_share, counts = reliability_curve(labels, probabilities)
    assert counts.sum() == known.sum() and len(counts) == 10
    empty = counts == 0
    assert np.isnan(mean_probability[empty]).all() and np.isnan(observed_share[empty]).all()
    if not known.any():
        assert math.isnan(brier_score(labels, probabilities))
        assert math.isnan(expected_calibration_error(labels, probabilities))
        return
    share, mean = calibration_curve(labels[known], probabilities[known], n_bins=10)
    np.testing.assert_allclose(observed_share[~empty], share, atol=1e-12)
    np.testing.assert_allclose(mean_probability[~empty], mean, atol=1e-12)
    expected = brier_score_loss(labels[known], probabilities[known], pos_label=1)
    assert brier_score(labels, probabilities) == pytest.approx(expected, abs=1e-12)


def test_measures_by_hand():
    labels = [[0, 1], [1, NAN], [0, 1], [NAN, 0]]
    probabilities = [[0.1, 0.9], [0.3, 0.5], [0.2, 0.4], [0.6, 0.8]]
    # Two bins: 0.1, 0.2, 0.3, 0.4 of labels 0, 0, 1, 1 (claimed 0.25, true 0.5); 0.8, 0.9 of 0, 1 (0.85, 0.5)
    assert expected_calibration_error(labels, probabilities, 2) == pytest.approx((4 * 0.25 + 2 * 0.35) / 6)
    assert brier_score(labels, probabilities) == pytest.approx((0.01 + 0.04 + 0.49 + 0.36 + 0.64 + 0.01) / 6)
    mean_probability, observed_share, counts = reliability_curve(labels, probabilities, 3)
    np.testing.assert_allclose(mean_probability, [0.2, 0.4, 0.85])
    np.testing.assert_allclose(observed_share, [1 / 3, 1, 0.5])
    assert counts.tolist() == [3, 1, 2]
    # 0.6 is in the bin that ends there, 0 in the first
    assert reliability_curve([1, 1], [0.0, 0.6], 5)[2].tolist() == [1, 0, 1, 0, 0]


def test_likelihood_equal_to_scikit_learn():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(30, 3), scale=3)
    labels = generator.choice([0, 1, NAN], size=(30, 3))
    known = ~np.isnan(labels)
    expected = log_loss(labels[known], expit(logits)[known])
    assert negative_log_likelihood(logits, labels, MULTI) == pytest.approx(expected, abs=1e-12)
    classes = generator.choice([0, 1, 2, -100], size=30)
    expected = log_loss(classes[classes >= 0], softmax(logits, axis=1)[classes >= 0], labels=[0, 1, 2])
    assert negative_log_likelihood(logits, classes, SINGLE) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(negative_log_likelihood(logits, np.full((30, 3), NAN), MULTI))
    assert math.isnan(negative_log_likelihood(logits, np.full(30, -100), SINGLE))


def drawn(logits: np.ndarray, problem_type: str, generator: np.random.Generator) -> np.ndarray:
    """Targets that are as likely as the logits say, every tenth unknown."""
    if problem_type == MULTI:
        targets = (generator.random(logits.shape) < expit(logits)).astype(float)
        targets[generator.random(logits.shape) < 0.1] = NAN
        return targets
    noise = generator.gumbel(size=logits.shape)
    targets = (logits + noise).argmax(axis=1)
    targets[generator.random(len(targets)) < 0.1] = -100
    return targets


@pytest.mark.parametrize("problem_type", [MULTI, SINGLE])
@pytest.mark.parametrize("temperature", [0.25, 1, 4])
def test_the_temperature_of_a_simulation_is_found(problem_type, temperature):
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(20_000, 3), scale=2)
    targets = drawn(logits, problem_type, generator)
    found = fit_temperature(temperature * logits, targets, problem_type)
    assert found == pytest.approx(temperature, rel=0.05)


@given(st.integers(0, 1000), st.sampled_from([MULTI, SINGLE]))
def test_no_other_temperature_is_better(seed, problem_type):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(12, 3), scale=5)
    targets = drawn(generator.normal(size=(12, 3)), problem_type, generator)
    found = fit_temperature(logits, targets, problem_type)
    best = negative_log_likelihood(logits / found, targets, problem_type)
    for other in [1, 0.99 * found, 1.01 * found, *TEMPERATURE_RANGE]:
        if TEMPERATURE_RANGE[0] <= other <= TEMPERATURE_RANGE[1]:
            assert best <= negative_log_likelihood(logits / other, targets, problem_type) + 1e-12


@pytest.mark.parametrize("scale", [1e-3, 1, 100])
def test_temperatures_without_an_optimum_are_bounded(scale):
    low, high = TEMPERATURE_RANGE
    sign = np.array([[-1.0], [2.0], [-3.0]])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert fit_temperature(scale * sign, sign > 0, MULTI) == low  # told apart without error
        assert fit_temperature(scale * sign, sign < 0, MULTI) == high  # always wrong
        assert fit_temperature(-scale * np.ones((4, 1)), np.zeros((4, 1)), MULTI) == low  # one class
        assert fit_temperature(scale * np.eye(3), [0, 1, 2], SINGLE) == low
        assert fit_temperature(scale * np.eye(3), [1, 2, 0], SINGLE) == high
        assert fit_temperature(1e300 * scale * sign, sign < 0, MULTI) == high
        # Where no temperature changes anything that a float64 can hold
        assert fit_temperature(1e300 * scale * sign, sign > 0, MULTI) == 1
    assert fit_temperature(np.zeros((3, 2)), [[0, 1], [1, 1], [NAN, 0]], MULTI) == 1


@pytest.mark.parametrize(
    ("logits", "targets", "problem_type", "message"),
    [
        (np.zeros((2, 1)), [[NAN], [NAN]], MULTI, "no label is known"),
        (np.zeros((2, 3)), [-100, -100], SINGLE, "no label is known"),
        (np.zeros((0, 3)), np.zeros((0, 3)), MULTI, "no label is known"),
        (np.zeros((2, 10, 1)), [[0], [1]], MULTI, "not on several crops"),
        (np.zeros((2, 2)), [[0], [1]], MULTI, "do not fit logits of shape"),
        (np.zeros((2, 2)), [0, 1, 1], SINGLE, "do not fit logits of shape"),
        (np.zeros((2, 2)), [0, 2], SINGLE, "2 is neither"),
        ([[NAN], [1]], [[0], [1]], MULTI, "must be finite"),
        ([[0], [1]], [[0], [0.5]], MULTI, "labels must be 0, 1 or NaN"),
    ],
)
def test_what_cannot_be_fitted(logits, targets, problem_type, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, targets, problem_type)


@pytest.mark.parametrize("measure", [brier_score, expected_calibration_error, reliability_curve])
@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [0.5, 1.5], r"must lie in \[0, 1\]; logits need a sigmoid"),
        ([0, 1], [[0.5, 0.5]], "must have one shape"),
        ([0, 2], [0.5, 0.5], "labels must be 0, 1 or NaN"),
        ([0, NAN], [0.5, NAN], "must be finite"),
    ],
)
def test_what_cannot_be_measured(measure, labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        measure(labels, probabilities)


def test_a_curve_needs_a_bin():
    with pytest.raises(ValueError, match="num_bins must be at least 1, not 0"):
        reliability_curve([0], [0.5], 0)
