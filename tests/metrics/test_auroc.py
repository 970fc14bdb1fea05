import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import average_precision_score, roc_auc_score

from ark_hf.metrics import auroc as metrics
from ark_hf.metrics import resampling
from ark_hf.metrics.auroc import (
    auroc,
    average_precision,
    bootstrap_aurocs,
    evaluate_labels,
    label_results,
    label_table,
    mean_auroc,
    mean_result,
    one_vs_rest,
    weighted_auroc,
)

NAN = float("nan")


@st.composite
def graded(draw):
    """Labels of both classes, coarse scores with many ties, whole-number weights."""
    n = draw(st.integers(2, 40))
    labels = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n))
    labels[:2] = [0.0, 1.0]
    scores = draw(st.lists(st.integers(-6, 6), min_size=n, max_size=n))
    weights = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    weights[:2] = [1, 1]
    return np.array(labels), np.array(scores, dtype=float), np.array(weights, dtype=float)


def table_with_patients(seed=0, num_patients=40, num_labels=4):
    """Correlated images of patients, unknown labels, ties, one label without positives."""
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"p{i:02}" for i in range(num_patients)], rng.integers(1, 6, num_patients))
    rng.shuffle(patients)
    labels = (rng.random((len(patients), num_labels)) < 0.3).astype(float)
    scores = np.round(labels + rng.normal(size=labels.shape), 1)
    labels[rng.random(labels.shape) < 0.15] = np.nan
    labels[labels[:, -1] == 1, -1] = 0
    return labels, scores, patients


def resample_directly(labels, scores, patients, num_bootstrap, seed):
    """The definition: draw patients, concatenate their images, score what is known with scikit-learn."""
    images = {}
    for row, patient in enumerate(patients):
        images.setdefault(patient, []).append(row)
    images = list(images.values())
    rng = np.random.default_rng(seed)
    replicates = np.full((num_bootstrap, labels.shape[1]), np.nan)
    for resample in replicates:
        rows = np.concatenate([images[drawn] for drawn in rng.integers(0, len(images), len(images))])
        for column in range(labels.shape[1]):
            known = rows[~np.isnan(labels[rows, column])]
            if len(np.unique(labels[known, column])) == 2:
                resample[column] = roc_auc_score(labels[known, column], scores[known, column])
    return replicates


@settings(max_examples=50)
@given(graded())
def test_equal_to_scikit_learn_and_scipy(case):
    labels, scores, weights = case
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    u = mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert auroc(labels, scores) == pytest.approx(u / (labels.sum() * (1 - labels).sum()), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert weighted_auroc(labels, scores, weights) == pytest.approx(expected, abs=1e-12)
    assert weighted_auroc(labels, scores, weights / 7) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=50)
@given(graded())
def test_a_weight_is_a_number_of_copies(case):
    labels, scores, weights = case
    copies = np.repeat(np.arange(len(labels)), weights.astype(int))
    assert weighted_auroc(labels, scores, weights) == auroc(labels[copies], scores[copies])


@settings(max_examples=50)
@given(graded())
def test_invariant_to_monotone_transforms(case):
    labels, scores, _ = case
    expected = auroc(labels, scores), average_precision(labels, scores)
    for transformed in (3 * scores - 40, np.exp(scores), np.arctan(scores), scores.astype(np.float32), scores**3):
        assert (auroc(labels, transformed), average_precision(labels, transformed)) == expected


@settings(max_examples=50)
@given(graded(), st.randoms(use_true_random=False))
def test_invariant_to_order_and_unknown_images(case, random):
    labels, scores, _ = case
    order = list(range(len(labels)))
    random.shuffle(order)
    padded = np.append(labels[order], [NAN, NAN]), np.append(scores[order], [-99.0, 99.0])
    assert auroc(*padded) == auroc(labels, scores)
    assert average_precision(*padded) == pytest.approx(average_precision(labels, scores), abs=1e-15)


@settings(max_examples=50)
@given(graded())
def test_complement(case):
    labels, scores, _ = case
    assert auroc(1 - labels, scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-15)
    assert auroc(labels, -scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-15)
    assert auroc(labels, labels) == 1
    assert auroc(labels, np.zeros_like(scores)) == 0.5


@pytest.mark.parametrize("labels", [[], [NAN, NAN], [1, 1], [0, NAN], [1, NAN, 1]])
@pytest.mark.parametrize("metric", [auroc, average_precision])
def test_one_known_class_is_undefined(metric, labels):
    assert math.isnan(metric(labels, np.arange(len(labels))))


def test_weighted_auroc_of_many_weightings():
    labels, scores = [0, 1, NAN, 1, 0], [0.1, 0.9, 0.5, 0.1, 0.3]
    weights = np.array([[1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 2]])
    np.testing.assert_array_equal(weighted_auroc(labels, scores, weights), [2.5 / 4, NAN, NAN])
    assert weighted_auroc(labels, scores, weights[:, 0]).shape == ()


@pytest.mark.parametrize("metric", [auroc, average_precision])
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1, 1], [0.1, NAN, math.inf], "scores must be finite; 2 of 3 are NaN or infinite, the first in row 1;"),
        ([NAN, 1, 0], [NAN, 0.5, 0.5], "scores must be finite; 1 of 3"),
        ([0, 0.5, 2], [0, 0, 0], "labels must be 0, 1 or NaN .*; 2 are not, the first is 0.5"),
        ([0, 1, -1], [0, 0, 0], "1 are not, the first is -1"),
        ([0, 1, math.inf], [0, 0, 0], "the first is inf"),
        ([0, 1], [0, 0, 0], r"must both be \(n,\), not \(2,\) and \(3,\)"),
        ([[0, 1]], [[0, 0]], r"must both be \(n,\)"),
    ],
)
def test_invalid_columns(metric, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metric(labels, scores)


@pytest.mark.parametrize("weights", [[1], [1, -1], [1, NAN], [[[1]], [[1]]]])
def test_invalid_weights(weights):
    with pytest.raises(ValueError, match="weights must be"):
        weighted_auroc([0, 1], [0, 1], weights)


@pytest.mark.parametrize("clustered", [True, False])
def test_bootstrap_equals_direct_resampling(clustered):
    labels, scores, patients = table_with_patients()
    reference = resample_directly(labels, scores, patients if clustered else range(len(labels)), 30, seed=5)
    replicates = bootstrap_aurocs(labels, scores, list(patients) if clustered else None, 30, seed=5)
    np.testing.assert_allclose(replicates, reference, atol=1e-12)
    assert np.isnan(replicates[:, -1]).all() and np.isfinite(replicates[:, :-1]).all()


def test_table_equals_direct_resampling():
    labels, scores, patients = table_with_patients(seed=1)
    names = ["a", "b", "c", "none positive"]
    reference = resample_directly(labels, scores, patients, 40, seed=3)
    table = label_table(labels, scores, names, patients, num_bootstrap=40, confidence=0.8, seed=3)
    assert [row.label for row in table] == names
    for column, row in enumerate(table[:-1]):
        known = ~np.isnan(labels[:, column])
        assert (row.num_known, row.num_positive) == (known.sum(), np.nansum(labels[:, column]))
        assert row.num_clusters == len(set(patients[known]))
        assert row.auroc == pytest.approx(roc_auc_score(labels[known, column], scores[known, column]))
        expected = average_precision_score(labels[known, column], scores[known, column])
        assert row.average_precision == pytest.approx(expected)
        interval = np.percentile(reference[:, column], [10, 90])
        np.testing.assert_allclose([row.ci_low, row.ci_high], interval, atol=1e-12)
    last = table[-1]
    assert np.isnan([last.auroc, last.ci_low, last.ci_high, last.average_precision]).all()
    assert last.num_positive == 0 and last.num_known > 0

    mean = mean_auroc(labels, scores, patients, num_bootstrap=40, confidence=0.8, seed=3)
    assert (mean.num_defined, mean.num_labels) == (3, 4)
    assert mean.auroc == pytest.approx(np.mean([row.auroc for row in table[:-1]]))
    interval = np.percentile(reference[:, :-1].mean(axis=1), [10, 90])
    np.testing.assert_allclose([mean.ci_low, mean.ci_high], interval, atol=1e-12)


def test_one_bootstrap_gives_the_table_and_the_mean(monkeypatch):
    labels, scores, patients = table_with_patients(seed=2)
    names = ["a", "b", "c", "none positive"]
    table, mean = evaluate_labels(labels, scores, names, [0, 2, 3], patients, 80, 0.8, 3)
    assert table[:3] == label_table(labels, scores, names, patients, 80, 0.8, 3)[:3]
    part = mean_auroc(labels[:, [0, 2, 3]], scores[:, [0, 2, 3]], patients, 80, 0.8, 3)
    assert mean == part and (mean.num_defined, mean.num_labels) == (2, 3)
    assert mean.average_precision == pytest.approx((table[0].average_precision + table[2].average_precision) / 2)

    replicates = bootstrap_aurocs(labels, scores, patients, 80, 3)
    assert label_results(labels, scores, names, replicates, patients, 0.8)[:3] == table[:3]
    assert mean_result(table, replicates, [0, 2, 3], 0.8) == mean
    nothing = mean_result(table, replicates, [])
    assert np.isnan([nothing.auroc, nothing.ci_low, nothing.average_precision]).all() and nothing.num_labels == 0

    runs = []
    monkeypatch.setattr(metrics, "bootstrap_aurocs", lambda *args: runs.append(args) or bootstrap_aurocs(*args))
    evaluate_labels(labels, scores, names, None, patients, 80)
    assert len(runs) == 1


def test_results_do_not_depend_on_the_block_size(monkeypatch):
    labels, scores, patients = table_with_patients()
    expected = bootstrap_aurocs(labels, scores, patients, 50)
    monkeypatch.setattr(resampling, "RESAMPLES_AT_ONCE", 7)
    np.testing.assert_array_equal(bootstrap_aurocs(labels, scores, patients, 50), expected)


def test_seed_decides_the_resamples_whatever_the_scores():
    labels, scores, patients = table_with_patients()
    first = bootstrap_aurocs(labels, scores, patients, 50, seed=1)
    np.testing.assert_array_equal(bootstrap_aurocs(labels, 2 * scores - 9, patients, 50, seed=1), first)
    assert not np.array_equal(bootstrap_aurocs(labels, scores, patients, 50, seed=2), first, equal_nan=True)


def test_copies_of_images_within_a_patient_do_not_shrink_the_interval():
    labels, scores, _ = table_with_patients(num_labels=2)
    patients = [f"p{i}" for i in range(len(labels))]
    once = label_table(labels, scores, ["a", "b"], patients)[0]
    five = [np.tile(array, (5, 1)) for array in (labels, scores)]
    copied = label_table(*five, ["a", "b"], patients * 5)[0]
    assert (copied.auroc, copied.ci_low, copied.ci_high) == (once.auroc, once.ci_low, once.ci_high)
    assert copied.num_clusters == once.num_clusters and copied.num_known == 5 * once.num_known
    naive = label_table(*five, ["a", "b"])[0]
    assert naive.ci_high - naive.ci_low < 0.6 * (once.ci_high - once.ci_low)


@pytest.mark.slow_ci
def test_coverage_needs_clusters():
    rng = np.random.default_rng(0)
    num_patients, images, runs = 50, 5, 200
    truth = 0.5 * (1 + math.erf(1.2 / math.sqrt(2 * (1 + 0.3**2)) / math.sqrt(2)))
    patients = np.repeat(np.arange(num_patients), images)
    covered = {True: 0, False: 0}
    for _ in range(runs):
        disease = np.repeat(rng.permutation(num_patients) < num_patients // 2, images).astype(float)
        habitus = np.repeat(rng.normal(size=num_patients), images)
        scores = 1.2 * disease + habitus + 0.3 * rng.normal(size=len(disease))
        for clustered in covered:
            clusters = patients if clustered else None
            (row,) = label_table(disease[:, None], scores[:, None], ["x"], clusters, num_bootstrap=200)
            covered[clustered] += row.ci_low <= truth <= row.ci_high
    assert 0.88 <= covered[True] / runs <= 0.99
    assert covered[False] / runs < 0.75


@pytest.mark.parametrize("missing", [None, "", NAN])
def test_an_image_without_a_patient_id_is_its_own_patient(missing):
    labels, scores, _ = table_with_patients(num_labels=2)
    named = [f"p{i}" if i % 2 else missing for i in range(len(labels))]
    unclustered = label_table(labels, scores, ["a", "b"], num_bootstrap=50)
    assert label_table(labels, scores, ["a", "b"], named, num_bootstrap=50)[0] == unclustered[0]


def test_interval_needs_half_of_the_resamples():
    scores = np.arange(40.0)[:, None]
    labels = np.full((40, 1), NAN)
    labels[[3, 30]] = [[0], [1]]
    # Both patients are drawn in about (1 - 1/e)^2 = 40 % of the resamples.
    (row,) = label_table(labels, scores, ["rare"])
    assert row.auroc == 1 and math.isnan(row.ci_low) and math.isnan(row.ci_high)
    labels[[4, 31]] = [[0], [1]]
    (row,) = label_table(labels, scores, ["less rare"])
    assert (row.ci_low, row.ci_high) == (1, 1)


def test_one_patient_has_no_interval():
    labels, scores, patients = table_with_patients(num_labels=2)
    row = label_table(labels, scores, ["a", "b"], ["p"] * len(labels))[0]
    mean = mean_auroc(labels, scores, ["p"] * len(labels))
    assert row.num_clusters == 1 and 0 < row.auroc < 1
    assert np.isnan([row.ci_low, row.ci_high, mean.ci_low, mean.ci_high]).all()
    labels[patients != patients[0], 0] = NAN
    labels[np.flatnonzero(patients == patients[0])[:2], 0] = [0, 1]
    row = label_table(labels, scores, ["a", "b"], patients)[0]
    assert row.num_clusters == 1 and math.isnan(row.ci_low)


def test_label_without_scores_is_undefined():
    labels, scores, patients = table_with_patients(num_labels=3)
    expected = label_table(labels, scores, ["a", "b", "c"], patients, num_bootstrap=40)
    scores[:, 1] = NAN
    table = label_table(labels, scores, ["a", "b", "c"], patients, num_bootstrap=40)
    assert table[0] == expected[0]
    assert np.isnan([table[1].auroc, table[1].ci_low, table[1].average_precision]).all()
    assert table[1].num_known == expected[1].num_known
    mean = mean_auroc(labels, scores, patients, num_bootstrap=40)
    assert (mean.auroc, mean.num_defined) == (expected[0].auroc, 1)
    assert (mean.ci_low, mean.ci_high) == (expected[0].ci_low, expected[0].ci_high)


def test_no_images_and_no_resamples():
    (row,) = label_table(np.empty((0, 1)), np.empty((0, 1)), ["x"], clusters=[])
    assert math.isnan(row.auroc) and (row.num_known, row.num_positive, row.num_clusters) == (0, 0, 0)
    assert math.isnan(mean_auroc(np.empty((0, 1)), np.empty((0, 1))).auroc)
    (row,) = label_table([[0], [1]], [[0], [1]], ["x"], num_bootstrap=0)
    assert row.auroc == 1 and math.isnan(row.ci_low)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, r"must both be \(n, num_labels\), not \(2,\) and \(2, 2\)"),
        ({"scores": [[0.1, 0.2]]}, r"not \(2, 2\) and \(1, 2\)"),
        ({"scores": [[0.1, 0.2], [NAN, 0.2]]}, "1 of 4 are NaN or infinite, the first in row 1, column 0"),
        ({"scores": [[0.1, math.inf], [0.3, math.inf]]}, "2 of 4 are NaN or infinite"),
        ({"labels": [[0, 1], [3, 0]]}, "the first is 3"),
        ({"label_names": ["a"]}, "one name per column: 2, not 1"),
        ({"clusters": ["p"]}, r"one patient id per image: \(2,\), not \(1,\)"),
        ({"num_bootstrap": -1}, "0 or more, not -1"),
        ({"confidence": 95}, "between 0 and 1, not 95"),
    ],
)
def test_invalid_tables(change, message):
    valid = {"labels": [[0, 1], [1, 0]], "scores": [[0.1, 0.2], [0.3, 0.4]], "label_names": ["a", "b"]}
    with pytest.raises(ValueError, match=message):
        label_table(**{**valid, **change})


@settings(max_examples=30)
@given(st.lists(st.sampled_from([-100, 0, 1, 2]), min_size=1, max_size=20))
def test_one_vs_rest(labels):
    columns = one_vs_rest(labels, 3)
    assert columns.shape == (len(labels), 3) and columns.dtype == np.float64
    for label, row in zip(labels, columns, strict=True):
        expected = np.full(3, NAN) if label == -100 else np.eye(3)[label]
        np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("labels", [[0, 3], [-1], [0.0, 1.0], [[0, 1]]])
def test_invalid_classes(labels):
    with pytest.raises(ValueError, match="labels must be"):
        one_vs_rest(labels, 3)
