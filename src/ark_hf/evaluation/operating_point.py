"""The ROC curve of one label, the threshold that it suggests, and what a threshold does to the known images.

Conventions are those of `metrics`: labels are 0, 1 or NaN (unknown, left out), scores are finite. An image is called
positive if its score reaches the threshold. A rate whose denominator is zero is NaN, never 0 and never an error.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .metrics import check_column


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


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
