"""The ROC and the precision-recall curve of a label, in no more points than a figure can show."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .auroc import check_column
from .operating_point import roc_curve

MOST_POINTS = 100


@dataclass(frozen=True)
class LabelCurves:
    """
    Points of both curves of one label, all in [0, 1]; empty where only one class is known or there is no score.

    Precision between two recalls is that of the higher one: the steps under which average precision is the area.
    """

    label: str
    false_positive_rate: list[float]
    true_positive_rate: list[float]
    recall: list[float]
    precision: list[float]


def label_curves(label: str, labels: ArrayLike, scores: ArrayLike) -> LabelCurves:
    """
    Curves with a point at every distinct score, or, if these are many, at `MOST_POINTS` of them.

    Args:
        label: Name of the label.
        labels: (n,) 0, 1 or NaN for unknown.
        scores: (n,) finite, or all NaN.

    Raises:
        ValueError: As in `metrics.auroc`.
    """
    from sklearn.metrics import precision_recall_curve

    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if np.isnan(scores).all():
        labels, scores = labels[:0], scores[:0]
    labels, scores = check_column(labels, scores)
    known = ~np.isnan(labels)
    if len(np.unique(labels[known])) < 2:
        return LabelCurves(label, [], [], [], [])
    fpr, tpr, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels[known], scores[known])
    fpr, tpr = _thin(fpr, tpr)
    recall, precision = _thin(recall[::-1], precision[::-1])
    return LabelCurves(label, fpr.tolist(), tpr.tolist(), recall.tolist(), precision.tolist())


def _thin(across: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` of the points, the first and the last among them, evenly spaced along the curve."""
    if len(across) > MOST_POINTS:
        length = np.concatenate([[0], np.cumsum(np.abs(np.diff(across)) + np.abs(np.diff(up)))])
        chosen = np.unique(np.searchsorted(length, np.linspace(0, length[-1], MOST_POINTS)))
        across, up = across[chosen], up[chosen]
    return across, up
