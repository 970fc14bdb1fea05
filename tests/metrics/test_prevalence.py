"""Prevalence and its intervals, against scipy's Wilson interval, by hand, and by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from ark_hf.metrics.prevalence import co_occurrence, effective_count, prevalence, wilson_interval

LABELS = st.lists(st.sampled_from([0.0, 1.0, -1.0, float("nan")]), min_size=0, max_size=60)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_is_scipys(count, share):
    positive = round(share * count)
    expected = binomtest(positive, count).proportion_ci(method="wilson")
    assert wilson_interval(positive / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_by_hand():
    # 3 of 10: (0.3 + 3.8415 / 20 -+ 1.96 sqrt(0.021 + 3.8415 / 400)) / (1 + 0.38415)
    assert wilson_interval(0.3, 10) == pytest.approx((0.1077913, 0.6032219), abs=1e-6)
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775328)) and wilson_interval(1, 10)[1] == pytest.approx(1)
    assert np.isnan(wilson_interval(float("nan"), 0)).all()


@given(LABELS)
def test_prevalence_counts_what_is_known(values):
    found = prevalence(values)
    known = [value for value in values if value in (0, 1)]
    assert (found["known"], found["positive"]) == (len(known), known.count(1))
    assert found["patient_low"] is None
    if known:
        assert found["share"] == pytest.approx(np.mean(known))
        assert 0 <= found["low"] <= found["share"] + 1e-12 and found["share"] - 1e-12 <= found["high"] <= 1
    else:
        assert np.isnan([found["share"], found["low"], found["high"]]).all()


@given(LABELS, st.integers(1, 60), st.integers(0, 9))
def test_effective_count_lies_between_one_and_the_known_images(values, patients, seed):
    values = np.where(np.array(values) == -1, np.nan, values)
    clusters = np.random.default_rng(seed).integers(0, patients, len(values))
    known = int((~np.isnan(values)).sum())
    assert min(known, 1) <= effective_count(values, clusters) <= known


def test_effective_count_of_independent_and_of_repeated_images():
    values = np.array([0, 1, 0, 0, 1, 1, 0, 0, 0, 1.0])
    assert effective_count(values, np.arange(10)) == pytest.approx(10)
    # Three copies of every image say no more than one: (30 - 1) / (10 - 1) / 3 of 10 patients
    assert effective_count(values.repeat(3), np.arange(10).repeat(3)) == pytest.approx(30 / (29 / 9))
    assert effective_count(np.ones(30), np.arange(10).repeat(3)) == 10
    assert effective_count(np.full(4, np.nan), np.arange(4)) == 0


def test_effective_count_by_hand():
    # Patients with 2, 1 and 1 images; share 1/2; residuals 1, -1/2, -1/2; variance 3/2 * 3/2 / 16 = 9/64
    values, clusters = [1, 1, 0, 0], [7, 7, 3, 5]
    assert effective_count(values, clusters) == pytest.approx(4 / ((9 / 64) / (1 / 4 / 3)))


def test_patients_interval_covers_where_the_images_interval_does_not():
    random, covered = np.random.default_rng(0), {"low": 0, "patient_low": 0}
    for _ in range(400):
        risk = random.beta(0.6, 1.4, 60)  # mean 0.3, patients differ much
        clusters = np.repeat(np.arange(60), random.integers(1, 9, 60))
        found = prevalence(random.random(len(clusters)) < risk[clusters], clusters)
        for low, high in (("low", "high"), ("patient_low", "patient_high")):
            covered[low] += found[low] <= 0.3 <= found[high]
    assert covered["patient_low"] >= 0.92 * 400
    assert covered["low"] < 0.88 * 400


def test_co_occurrence_by_hand():
    nan = float("nan")
    both, known = co_occurrence([[1, 1, 0], [1, nan, 1], [0, 1, -1], [1, 0, nan]])
    assert both.tolist() == [[3, 1, 1], [1, 2, 0], [1, 0, 1]]
    assert known.tolist() == [[3, 2, 2], [2, 2, 1], [1, 0, 1]]


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, -1.0, float("nan")]), min_size=3, max_size=3), min_size=1))
def test_co_occurrence_counts_pairs(rows):
    both, known = co_occurrence(rows)
    for i in range(3):
        for j in range(3):
            assert both[i, j] == sum(row[i] == 1 and row[j] == 1 for row in rows)
            assert known[i, j] == sum(row[i] == 1 and row[j] in (0, 1) for row in rows)
