import csv
import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from ark_hf.metrics.auroc import auroc
from ark_hf.metrics.operating_point import (
    ThresholdMetrics,
    choose_thresholds,
    operating_point_table,
    roc_curve,
    threshold_metrics,
    youden_threshold,
)

NAN = float("nan")


@st.composite
def columns(draw):
    """Labels of one class or two, some unknown, and coarse scores with many ties."""
    n = draw(st.integers(1, 40))
    labels = draw(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=n, max_size=n))
    scores = draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))
    return np.array(labels), np.array(scores) / 7


def known_part(labels, scores):
    known = ~np.isnan(labels)
    return labels[known], scores[known]


@settings(max_examples=50)
@given(columns())
def test_curve_has_every_threshold_and_the_area_of_auroc(column):
    labels, scores = column
    fpr, tpr, thresholds = roc_curve(labels, scores)
    area = sklearn_metrics.auc(np.nan_to_num(fpr), tpr)
    assert area == pytest.approx(auroc(labels, scores), abs=1e-12, nan_ok=True)
    if math.isnan(area):
        assert np.isnan([*fpr, *tpr, *thresholds]).all()
        return
    labels, scores = known_part(labels, scores)
    np.testing.assert_array_equal(thresholds, [math.inf, *np.unique(scores)[::-1]])
    for point in zip(fpr, tpr, thresholds, strict=True):
        direct = threshold_metrics(labels, scores, point[2])
        assert point[:2] == (direct.false_positive_rate, direct.recall)


@settings(max_examples=50)
@given(columns())
def test_youden_is_the_first_of_the_best_thresholds(column):
    labels, scores = column
    threshold, tpr, fpr = youden_threshold(labels, scores)
    labels, scores = known_part(labels, scores)
    if len(np.unique(labels)) < 2:
        assert np.isnan([threshold, tpr, fpr]).all()
        return
    points = [(t, np.mean(scores[labels == 1] >= t), np.mean(scores[labels == 0] >= t)) for t in np.unique(scores)]
    points.append((math.inf, 0.0, 0.0))
    best = max(point[1] - point[2] for point in points)
    assert (threshold, tpr, fpr) == max(point for point in points if point[1] - point[2] == best)


def test_youden_of_equally_good_thresholds_and_of_none():
    labels, scores = [0, 1, 0, 0, 1, 0], [0.1, 0.3, 0.5, 0.7, 0.9, 0.05]
    assert youden_threshold(labels, scores) == (0.9, 0.5, 0)  # 0.3 is as good: 1 - 0.5
    assert youden_threshold([0, 1], [0.8, 0.2]) == (math.inf, 0, 0)
    assert youden_threshold([0, 1, 0, 1], [5, 5, 5, 5]) == (math.inf, 0, 0)
    assert youden_threshold([0, NAN, 1], [1, 2, 3]) == (3, 1, 0)


@settings(max_examples=50)
@given(columns(), st.sampled_from([-math.inf, -4 / 7, 0, 0.1, 2 / 7, math.inf]))
def test_metrics_equal_to_scikit_learn(column, threshold):
    labels, scores = column
    result = threshold_metrics(labels, scores, threshold)
    labels, scores = known_part(labels, scores)
    called = (scores >= threshold).astype(float)
    counts = (result.true_negatives, result.false_positives, result.false_negatives, result.true_positives)
    if len(labels) == 0:
        assert counts == (0, 0, 0, 0)
        assert np.isnan([value for name, value in vars(result).items() if isinstance(value, float)][1:]).all()
        return
    expected = sklearn_metrics.confusion_matrix(labels, called, labels=[0, 1])
    assert counts == tuple(expected.ravel())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
            labels, called, average="binary", zero_division=np.nan
        )
        specificity = sklearn_metrics.recall_score(labels, called, pos_label=0, zero_division=np.nan)
        mcc = sklearn_metrics.matthews_corrcoef(labels, called)
    one_kind = len(np.unique(labels)) < 2 or len(np.unique(called)) < 2
    expected = {
        "threshold": threshold,
        "accuracy": sklearn_metrics.accuracy_score(labels, called),
        "precision": precision,
        "recall": recall,
        "specificity": specificity,
        "false_positive_rate": 1 - specificity,
        "false_negative_rate": 1 - recall,
        "f1": f1,
        "mcc": NAN if one_kind else mcc,
    }
    values = {name: value for name, value in vars(result).items() if isinstance(value, float)}
    assert values == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("labels", "threshold", "undefined"),
    [
        ([1, 1], 0.5, {"specificity", "false_positive_rate", "mcc"}),
        ([0, 0], 0.5, {"recall", "false_negative_rate", "mcc"}),
        ([0, 1], 9, {"precision", "mcc"}),
        ([0, 1], 0, {"mcc"}),
        ([0, 0], 9, {"precision", "recall", "false_negative_rate", "f1", "mcc"}),
        ([0, 1], 0.5, set()),
    ],
)
def test_what_is_undefined_is_nan(labels, threshold, undefined):
    result = dataclasses.asdict(threshold_metrics(labels, [0.2, 0.8], threshold))
    assert {name for name, value in result.items() if math.isnan(value)} == undefined


def test_large_counts_do_not_overflow():
    labels = np.tile([0.0, 1.0], 200_000)
    scores = labels.copy()
    scores[:2] = [1, 0]
    result = threshold_metrics(labels, scores, 1)
    assert result.mcc == pytest.approx(1 - 2 / 200_000, abs=1e-12)


@pytest.mark.parametrize(
    "function", [roc_curve, youden_threshold, lambda labels, scores: threshold_metrics(labels, scores, 0.5)]
)
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1, 1], [0.1, NAN, math.inf], "scores must be finite; 2 of 3"),
        ([0, 0.5], [0, 0], "labels must be 0, 1 or NaN"),
        ([0, 1], [0, 0, 0], r"must both be \(n,\)"),
        ([[0, 1]], [[0, 0]], r"must both be \(n,\)"),
    ],
)
def test_invalid_columns(function, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        function(labels, scores)


def test_a_threshold_of_nan_is_an_error():
    with pytest.raises(ValueError, match="threshold is NaN"):
        threshold_metrics([1, 1], [0.1, 0.2], youden_threshold([1, 1], [0.1, 0.2])[0])


@given(columns(), st.sampled_from([0.5, 0.9, 1.0]))
def test_the_highest_threshold_of_a_sensitivity(column, value):
    labels, scores = column
    probabilities = (scores + 4 / 7) / 2
    found = choose_thresholds(labels[:, None], probabilities[:, None], ["a"], "sensitivity", value)
    labels, probabilities = known_part(labels, probabilities)
    if len(np.unique(labels)) < 2:
        assert found == {}
        return
    for threshold in np.unique(probabilities):
        reached = np.mean(probabilities[labels == 1] >= threshold) >= value
        assert (threshold >= found["a"]) or reached
    assert np.mean(probabilities[labels == 1] >= found["a"]) >= value
    lowest_called = probabilities[probabilities >= found["a"]].min()
    assert not np.mean(probabilities[labels == 1] > lowest_called) >= value
    assert_in_the_middle(found["a"], probabilities)


def assert_in_the_middle(threshold, probabilities):
    called = probabilities >= threshold
    below = probabilities[~called].max(initial=0)
    assert threshold - below == pytest.approx(probabilities[called].min() - threshold, abs=1e-12)


@settings(max_examples=50)
@given(columns())
def test_chosen_youden_thresholds(column):
    labels, scores = column
    probabilities = (scores + 4 / 7) / 2
    found = choose_thresholds(labels[:, None], probabilities[:, None], ["a"], "youden")
    expected = youden_threshold(labels, probabilities)[0]
    if not math.isfinite(expected):
        assert found == {}
        return
    known = known_part(labels, probabilities)[1]
    np.testing.assert_array_equal(known >= found["a"], known >= expected)
    assert_in_the_middle(found["a"], known)


def test_labels_without_a_threshold_are_left_out():
    labels = np.array([[0, 1, 0, 0], [1, 1, 1, NAN], [1, 1, 0, 1]])
    probabilities = np.array([[0.2, 0.2, NAN, 0.9], [0.8, 0.8, NAN, 0.9], [0.6, 0.6, NAN, 0.1]])
    assert choose_thresholds(labels, probabilities, list("abcd"), "youden") == pytest.approx({"a": 0.4})
    found = choose_thresholds(labels, probabilities, list("abcd"), "sensitivity", 0.5)
    assert found == pytest.approx({"a": 0.7, "d": 0.05})


def test_a_threshold_tells_neighbours_apart():
    lower, higher = 0.5, np.nextafter(0.5, 1)
    found = choose_thresholds([[0], [1]], [[lower], [higher]], ["a"], "youden")
    assert lower < found["a"] <= higher
    assert choose_thresholds([[0], [1]], [[0.5], [0.0]], ["a"], "sensitivity", 1) == {"a": 0.0}


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ("best", None, "rule must be one of"),
        ("youden", 0.9, "takes no value"),
        ("sensitivity", None, r"needs a value in \(0, 1\]"),
        ("sensitivity", 0, r"needs a value in \(0, 1\]"),
        ("sensitivity", NAN, r"needs a value in \(0, 1\]"),
    ],
)
def test_rules_that_make_no_sense(rule, value, message):
    with pytest.raises(ValueError, match=message):
        choose_thresholds([[0], [1]], [[0.1], [0.9]], ["a"], rule, value)


def test_thresholds_are_of_probabilities():
    with pytest.raises(ValueError, match="logits need a sigmoid"):
        choose_thresholds([[0], [1]], [[-3], [2]], ["a"], "youden")
    with pytest.raises(ValueError, match="one name per column"):
        choose_thresholds([[0], [1]], [[0.1], [0.9]], ["a", "b"], "youden")


def table_of_rates():
    """Label a: 8 of 10 positives and 15 of 20 negatives are called right; b: known once; c: without threshold."""
    labels, scores = np.full((31, 3), NAN), np.full((31, 3), 0.3)
    labels[:30, 0] = [1] * 10 + [0] * 20
    scores[:30, 0] = [0.7] * 8 + [0.2] * 2 + [0.1] * 15 + [0.5] * 5
    labels[3, 1], labels[:, 2] = 1, 0
    return labels, scores


def test_wilson_intervals_and_labels_without_a_threshold():
    labels, scores = table_of_rates()
    a, b, c = operating_point_table(labels, scores, ["a", "b", "c"], {"a": 0.5, "b": 0.3})
    assert (a.true_positives, a.false_negatives, a.true_negatives, a.false_positives) == (8, 2, 15, 5)
    assert (a.sensitivity, a.specificity, a.ppv, a.npv) == (0.8, 0.75, 8 / 13, 15 / 17)
    assert a.f1 == pytest.approx(16 / 23) and (a.num_known, a.num_positive) == (30, 10)
    # The formula of Wilson's interval, written out for 8 of 10 and 15 of 20
    for (hits, total), low, high in [
        ((8, 10), a.sensitivity_low, a.sensitivity_high),
        ((15, 20), a.specificity_low, a.specificity_high),
    ]:
        share, z = hits / total, 1.959963984540054
        middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
        half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
        assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-9)

    assert (b.threshold, b.sensitivity, b.true_positives, b.num_known) == (0.3, 1, 1, 1)
    assert b.sensitivity_high == 1 and 0.2 < b.sensitivity_low < 0.21  # 1 / (1 + 1.96²)
    assert np.isnan([b.specificity, b.specificity_low, b.specificity_high, b.npv, b.mcc]).all()
    assert (c.label, c.threshold, c.num_known, c.num_positive, c.true_positives) == ("c", None, 31, 0, None)
    assert np.isnan([value for value in vars(c).values() if isinstance(value, float)]).all()

    scores[:, 0] = NAN  # a label that nothing scores
    unscored = operating_point_table(labels, scores, ["a", "b", "c"], {"a": 0.5})[0]
    assert (unscored.threshold, unscored.num_known, unscored.true_negatives) == (0.5, 30, None)
    assert math.isnan(unscored.sensitivity_low) and math.isnan(unscored.specificity)
    assert [row.threshold for row in operating_point_table(labels, scores, ["a", "b", "c"], None)] == [None] * 3


def test_clustered_intervals_are_percentiles_over_resampled_patients():
    labels, scores = table_of_rates()
    patients = [f"p{number % 7}" if number % 5 else None for number in range(31)]
    (row, *_) = operating_point_table(labels, scores, ["a", "b", "c"], {"a": 0.5}, patients, num_bootstrap=200, seed=3)
    groups: dict = {}
    for number, patient in enumerate(patients):
        groups.setdefault(patient or number, []).append(number)
    members, generator, rates = list(groups.values()), np.random.default_rng(3), []
    for _ in range(200):
        drawn = np.concatenate([members[index] for index in generator.integers(0, len(members), len(members))])
        result = threshold_metrics(labels[drawn, 0], scores[drawn, 0], 0.5)
        rates.append((result.recall, result.specificity))
    expected = np.nanpercentile(rates, [2.5, 97.5], axis=0).T.ravel()
    found = [row.sensitivity_low, row.sensitivity_high, row.specificity_low, row.specificity_high]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_rates_of_one_patient_and_rates_without_an_error():
    labels = np.array([[1], [1], [0], [0], [0], [0]])
    scores = np.array([[0.9], [0.1], [0.2], [0.1], [0.3], [0.2]])
    patients = ["a", "a", "b", "b", "c", "d"]
    (row,) = operating_point_table(labels, scores, ["x"], {"x": 0.5}, patients, num_bootstrap=50)
    assert row.sensitivity == 0.5 and math.isnan(row.sensitivity_low) and math.isnan(row.sensitivity_high)
    # Three patients without a false alarm: Wilson's interval of 3 of 3, not the [1, 1] of the resamples
    assert row.specificity == row.specificity_high == 1
    assert row.specificity_low == pytest.approx(1 / (1 + 1.959963984540054**2 / 3), abs=1e-9)
    (row,) = operating_point_table(labels, scores, ["x"], {"x": 0.25}, patients, num_bootstrap=0)
    assert row.specificity == 0.75 and math.isnan(row.specificity_low)


def test_clustered_intervals_cover_where_wilson_s_do_not():
    """Images of one patient are called right or wrong together: 60 patients of 5 images, sensitivity 0.8."""
    generator, covered = np.random.default_rng(0), {"patients": 0, "images": 0}
    patients, labels = np.repeat(np.arange(60), 5), np.ones((300, 1))
    for seed in range(200):
        chances = np.repeat(generator.beta(0.4, 0.1, 60), 5)
        scores = (generator.random(300) < chances).astype(float)[:, None]
        for name, clusters in (("patients", patients), ("images", None)):
            (row,) = operating_point_table(labels, scores, ["x"], {"x": 0.5}, clusters, num_bootstrap=200, seed=seed)
            covered[name] += row.sensitivity_low <= 0.8 <= row.sensitivity_high
    assert covered["patients"] >= 180 and covered["images"] < 165


@pytest.mark.parametrize(
    ("scores", "names", "kwargs", "message"),
    [
        ([[0.1], [0.2]], ["a", "b"], {}, "one name per column: 1, not 2"),
        ([[0.1]], ["a"], {}, r"labels and probabilities must both be \(n, num_labels\)"),
        ([[0.1], [NAN]], ["a"], {}, "probabilities must be finite; 1 of 2"),
        ([[0.1], [0.2]], ["a"], {"num_bootstrap": -1}, "num_bootstrap must be 0 or more"),
        ([[0.1], [0.2]], ["a"], {"clusters": ["p"]}, "one patient id per image"),
    ],
)
def test_invalid_tables(scores, names, kwargs, message):
    with pytest.raises(ValueError, match=message):
        operating_point_table([[0], [1]], scores, names, {"a": 0.5}, **kwargs)


def test_a_table_without_images():
    (row,) = operating_point_table(np.empty((0, 1)), np.empty((0, 1)), ["a"], {"a": 0.5}, [])
    assert (row.num_known, row.true_positives) == (0, 0) and math.isnan(row.sensitivity)


def test_golden_operating_points(shared):
    cases = json.loads((shared / "golden/eval/synthetic.json").read_text())["cases"]
    arrays = np.load(shared / "golden/eval/synthetic.npz")
    for case in cases:
        found = youden_threshold(arrays[f"y{case['case']}"], arrays[f"s{case['case']}"])
        expected = [case[f"youden_{name}"] for name in ("threshold", "tpr", "fpr")]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_published_operating_points(shared):
    published = json.loads((shared / "golden/eval/zeroshot_results.json").read_text())
    by_file = {f"{r['dataset']}_{r['model'].replace('+', 'plus')}".lower(): r for r in published["results"]}
    files = sorted((shared / "golden/eval/predictions").glob("*.csv"))
    assert len(files) == 7
    for file in files:
        labels, scores = read_predictions(file)
        expected = [by_file[file.stem][f"youden_{name}"] for name in ("threshold", "tpr", "fpr")]
        np.testing.assert_allclose(youden_threshold(labels, scores), expected, rtol=0, atol=1e-12)

    labels, scores = read_predictions(shared / "golden/eval/predictions/node21_arkplus.csv")
    found = published_names(threshold_metrics(labels, scores, youden_threshold(labels, scores)[0]))
    recomputed = dict(published["node21_operating_point"]["recomputed"])
    assert recomputed.pop("auroc") == pytest.approx(auroc(labels, scores), abs=1e-12)
    assert found == pytest.approx(recomputed, rel=0, abs=1e-12)
    printed = dict(published["node21_operating_point"]["notebook_printed"])
    assert printed.pop("auroc") == round(auroc(labels, scores), 4)
    assert {name: round(found[name], 8 if name == "threshold" else 4) for name in printed} == printed


def read_predictions(file):
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    return np.array([float(row["y_true"]) for row in rows]), np.array([float(row["y_score"]) for row in rows])


def published_names(result: ThresholdMetrics) -> dict[str, float]:
    names = {
        **{name: name for name in ("threshold", "accuracy", "precision", "recall", "f1")},
        **{"fpr": "false_positive_rate", "fnr": "false_negative_rate"},
        **{"TP": "true_positives", "TN": "true_negatives", "FP": "false_positives", "FN": "false_negatives"},
    }
    return {published: getattr(result, ours) for published, ours in names.items()}
