"""The ROC curve of one label, the threshold that it suggests, and what a threshold does to the known images.

Conventions are those of `metrics`: labels are 0, 1 or NaN (unknown, left out), scores are finite. An image is called
positive if its score reaches the threshold. A rate whose denominator is zero is NaN, never 0 and never an error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.stats import binomtest

from .auroc import check_column, check_names, check_table
from .resampling import number_clusters, patient_weights, percentile_interval

Rule = Literal["youden", "sensitivity"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ThresholdMetrics:
    """
    How the known images fall at one threshold.

    Undefined, that is NaN: accuracy without images; recall and the false negative rate without positives;
    specificity and the false positive rate without negatives; precision if nothing is called positive; F1 if there is
    neither a positive nor an image called positive; Matthews' correlation if all images are of one class or all are
    called the same.
    """

    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    accuracy: float
    precision: float
    recall: float
    specificity: float
    false_positive_rate: float
    false_negative_rate: float
    f1: float
    mcc: float


@dataclass(frozen=True)
class OperatingPointResult:
    """
    What one label's saved threshold does to the `num_known` known images, of which `num_positive` are 1.

    Without a threshold (None), or without scores, the counts of calls are None and all rates NaN. `ppv` and `npv`, the
    predictive values of a positive and of a negative call, hold for the share of positives among these images.
    """

    label: str
    threshold: float | None
    num_known: int
    num_positive: int
    true_positives: int | None = None
    false_positives: int | None = None
    true_negatives: int | None = None
    false_negatives: int | None = None
    sensitivity: float = math.nan
    sensitivity_low: float = math.nan
    sensitivity_high: float = math.nan
    specificity: float = math.nan
    specificity_low: float = math.nan
    specificity_high: float = math.nan
    ppv: float = math.nan
    npv: float = math.nan
    f1: float = math.nan
    mcc: float = math.nan


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC curve at every distinct score; the trapezoids under it have the area `auroc`.

    Args:
        labels: (n,) 0, 1 or NaN for unknown.
        scores: (n,) finite, of any scale; higher means more likely 1.

    Returns:
        False positive rates and true positive rates, both rising from 0 to 1, and the thresholds, falling from
        infinity (nothing is called positive) to the lowest score; float64 (points,) each. Two points of NaN if only
        one class is known.

    Raises:
        ValueError: shapes that differ, labels outside {0, 1, NaN}, or non-finite scores.
    """
    import sklearn.metrics

    labels, scores = check_column(labels, scores)
    known = ~np.isnan(labels)
    if len(np.unique(labels[known])) < 2:
        return np.full(2, np.nan), np.full(2, np.nan), np.full(2, np.nan)
    return sklearn.metrics.roc_curve(labels[known], scores[known], drop_intermediate=False)


def youden_threshold(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float, float]:
    """The originals' operating point: the first maximum of TPR - FPR (specification of the originals, section 7).

    First means the highest threshold of several that are equally good; whether two are is decided in float64, as in
    the originals. Choose the threshold on other images than those on which it is reported.

    Args:
        labels, scores: as in `roc_curve`.

    Returns:
        (threshold, TPR, FPR). The threshold is a score that occurs, or, if none does better than chance, infinity, at
        which nothing is called positive. All three are NaN if only one class is known.

    Raises:
        ValueError: as in `roc_curve`.
    """
    fpr, tpr, thresholds = roc_curve(labels, scores)
    best = np.argmax(tpr - fpr)
    return float(thresholds[best]), float(tpr[best]), float(fpr[best])


def choose_thresholds(
    labels: ArrayLike, probabilities: ArrayLike, label_names: Sequence[str], rule: Rule, value: float | None = None
) -> dict[str, float]:
    """An operating point for each label that has one.

    Every one lies in the middle between the lowest probability that it calls positive and the next that it does not
    (0, if there is none): on an image's own probability, another processor's or machine's rounding would decide.

    Args:
        labels: (n, num_labels) 0, 1 or NaN for unknown.
        probabilities: (n, num_labels) in [0, 1], but for columns that are NaN from top to bottom.
        label_names: One name per column.
        rule: "youden", the threshold of `youden_threshold`; or "sensitivity", the highest threshold at which at
            least the share `value` of the known positives is called positive.
        value: In (0, 1], for "sensitivity" and for nothing else.

    Returns:
        Thresholds by label. Left out are labels without probabilities or of which only one class is known, and by
        "youden" those that no threshold tells apart better than chance.

    Raises:
        ValueError: an unknown rule, a value that does not fit it, probabilities outside [0, 1], or as in
            `operating_point_table`.
    """
    check_rule(rule, value)
    labels, probabilities = check_table(labels, probabilities, "probabilities")
    check_names(label_names, labels)
    if ((probabilities < 0) | (probabilities > 1)).any():
        raise ValueError("probabilities must lie in [0, 1]; logits need a sigmoid or softmax first")
    thresholds = {}
    for name, column, scores in zip(label_names, labels.T, probabilities.T, strict=True):
        if len(np.unique(column[~np.isnan(column)])) < 2 or np.isnan(scores).any():
            continue
        if value is None:
            threshold = youden_threshold(column, scores)[0]
        else:
            threshold = _threshold_of_sensitivity(scores[column == 1], value)
        if math.isfinite(threshold):
            thresholds[name] = _between_scores(threshold, scores[~np.isnan(column)])
    return thresholds


def _between_scores(threshold: float, scores: np.ndarray) -> float:
    """The middle between a score that occurs and the next lower one, 0 if it is the lowest."""
    below = float(scores.max(initial=0.0, where=scores < threshold))
    middle = (threshold + below) / 2
    return middle if middle > below else threshold  # of two neighbours in float64 the middle is one of them


def check_rule(rule: str, value: float | None) -> None:
    """Raises `ValueError` unless `choose_thresholds` takes the rule and the value."""
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {get_args(Rule)}, not {rule!r}")
    if rule == "youden" and value is not None:
        raise ValueError("the rule 'youden' takes no value")
    if rule == "sensitivity" and (value is None or not 0 < value <= 1):
        raise ValueError(f"the rule 'sensitivity' needs a value in (0, 1], not {value}")


def threshold_metrics(labels: ArrayLike, scores: ArrayLike, threshold: float) -> ThresholdMetrics:
    """Counts and rates of the known images if those with score >= threshold are called positive.

    Args:
        labels, scores: as in `roc_curve`.
        threshold: any number, infinity included.

    Raises:
        ValueError: as in `roc_curve`, or the threshold is NaN.
    """
    labels, scores = check_column(labels, scores)
    if math.isnan(threshold):
        raise ValueError("threshold is NaN, as it is where only one class is known; skip such labels")
    called, positive, negative = scores >= threshold, labels == 1, labels == 0
    tp, fn = int((called & positive).sum()), int((~called & positive).sum())
    fp, tn = int((called & negative).sum()), int((~called & negative).sum())
    return ThresholdMetrics(
        threshold=float(threshold),
        true_positives=tp,
        false_positives=fp,
        true_negatives=tn,
        false_negatives=fn,
        accuracy=_ratio(tp + tn, tp + fp + tn + fn),
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        specificity=_ratio(tn, tn + fp),
        false_positive_rate=_ratio(fp, tn + fp),
        false_negative_rate=_ratio(fn, tp + fn),
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        mcc=_ratio(tp * tn - fp * fn, math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
    )


def operating_point_table(
    labels: ArrayLike,
    probabilities: ArrayLike,
    label_names: Sequence[str],
    thresholds: Mapping[str, float] | None,
    clusters: Sequence[Any] | None = None,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> list[OperatingPointResult]:
    """Sensitivity and specificity of every label at its saved threshold, with 95 % intervals.

    Without clusters the intervals are Wilson's (Journal of the American Statistical Association, 1927). With clusters
    they are percentile intervals over resampled patients; they are NaN if fewer than half of the resamples leave the
    rate defined, or if it stands on one patient. Where a rate is 0 or 1 every resample gives the same, as if the rate
    were certain; there Wilson's interval stands instead, with as many trials as there are patients.

    Args:
        labels: (n, num_labels) 0, 1 or NaN for unknown.
        probabilities: (n, num_labels) finite, but for columns that are NaN from top to bottom: labels without a score.
        label_names: one name per column.
        thresholds: by label, for all, some or none of them: `ArkTask.thresholds`.
        clusters, num_bootstrap, seed: as in `metrics.bootstrap_aurocs`.

    Returns:
        One `OperatingPointResult` per label, in column order, also for labels without a threshold.

    Raises:
        ValueError: as in `metrics.bootstrap_aurocs`, or a number of names other than num_labels.
    """
    labels, probabilities = check_table(labels, probabilities, "probabilities")
    check_names(label_names, labels)
    if num_bootstrap < 0:
        raise ValueError(f"num_bootstrap must be 0 or more, not {num_bootstrap}")
    saved = thresholds or {}
    called = probabilities >= [saved.get(name, math.nan) for name in label_names]
    intervals = np.hstack(
        [
            _rate_intervals(called, labels == 1, clusters, num_bootstrap, seed),
            _rate_intervals(~called, labels == 0, clusters, num_bootstrap, seed),
        ]
    )
    table = []
    for column, name in enumerate(label_names):
        threshold = saved.get(name)
        known = ~np.isnan(labels[:, column])
        counts = int(known.sum()), int((labels[:, column] == 1).sum())
        if threshold is None or np.isnan(probabilities[:, column]).any():
            table.append(OperatingPointResult(name, threshold, *counts))
            continue
        found = threshold_metrics(labels[:, column], probabilities[:, column], threshold)
        sensitivity_low, sensitivity_high, specificity_low, specificity_high = intervals[column].tolist()
        table.append(
            OperatingPointResult(
                name,
                threshold,
                *counts,
                true_positives=found.true_positives,
                false_positives=found.false_positives,
                true_negatives=found.true_negatives,
                false_negatives=found.false_negatives,
                sensitivity=found.recall,
                sensitivity_low=sensitivity_low,
                sensitivity_high=sensitivity_high,
                specificity=found.specificity,
                specificity_low=specificity_low,
                specificity_high=specificity_high,
                ppv=found.precision,
                npv=_ratio(found.true_negatives, found.true_negatives + found.false_negatives),
                f1=found.f1,
                mcc=found.mcc,
            )
        )
    return table


def _rate_intervals(
    right: np.ndarray, counted: np.ndarray, clusters: Sequence[Any] | None, num_bootstrap: int, seed: int
) -> np.ndarray:
    """(num_labels, 2) low and high of the share of `right` among the `counted` of each column, (n, num_labels)."""
    cluster, num_clusters = number_clusters(clusters, len(right))
    members = csr_array((np.ones(len(right)), (cluster, np.arange(len(right)))), shape=(num_clusters, len(right)))
    right_in, counted_in = (members @ part.astype(np.float64) for part in (right & counted, counted))
    rates = np.full((num_bootstrap if clusters is not None else 0, right.shape[1]), np.nan)
    for rows, weights in patient_weights(num_clusters, len(rates), seed):
        totals = weights @ counted_in
        np.divide(weights @ right_in, totals, out=rates[rows], where=totals > 0)

    intervals = np.full((right.shape[1], 2), np.nan)
    for column, (hits, total) in enumerate(zip(right_in.sum(axis=0), counted_in.sum(axis=0), strict=True)):
        num_patients = int((counted_in[:, column] > 0).sum())
        if total and (clusters is None or hits in (0, total)):
            interval = binomtest(num_patients if hits == total else int(hits), num_patients)
            intervals[column] = interval.proportion_ci(CONFIDENCE, method="wilson")
        elif num_patients > 1:
            intervals[column] = percentile_interval(rates[:, column], CONFIDENCE)
    return intervals


def _threshold_of_sensitivity(positive_scores: np.ndarray, value: float) -> float:
    reached = np.arange(1, len(positive_scores) + 1) / len(positive_scores)
    return float(np.sort(positive_scores)[::-1][np.argmax(reached >= value)])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
