import csv
import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from ark_hf.evaluation.metrics import auroc
from ark_hf.evaluation.operating_point import ThresholdMetrics, roc_curve, threshold_metrics, youden_threshold

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
