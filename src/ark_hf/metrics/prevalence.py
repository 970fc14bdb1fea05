"""How common a label is, with intervals that respect patients, and which labels stand together."""

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959963984540054  # two-sided 95 %


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """
    Wilson's 95 % score interval (JASA 1927) of a share among `count` independent observations, or NaN without any.

    Returns:
        (low, high) in [0, 1]; `count` need not be whole, so that it can be an effective number.
    """
    if not count > 0:
        return float("nan"), float("nan")
    centre = share + Z**2 / (2 * count)
    margin = Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    low, high = (centre - margin) / (1 + Z**2 / count), (centre + margin) / (1 + Z**2 / count)
    return max(float(low), 0.0), min(float(high), 1.0)


def effective_count(values: ArrayLike, clusters: ArrayLike) -> float:
    """
    How many independent images say as much of a label's prevalence as these, whose patients have several each.

    The number of images over the design effect of the ratio estimator; Wilson's interval at this number is the
    recommendation of Dean and Pagano, "Evaluating confidence interval methods for binomial proportions in clustered
    surveys" (2015). Where all images agree, which leaves the design effect undefined, it is the number of patients.

    Args:
        values: (n,) 0, 1 or NaN (unknown).
        clusters: (n,) number of each image's patient.

    Returns:
        At least 1 and at most the number of known images; 0 if none is known.
    """
    every = np.asarray(values, dtype=float)
    known = every[~np.isnan(every)]
    cluster = np.unique(np.asarray(clusters)[~np.isnan(every)], return_inverse=True)[1]
    sizes = np.bincount(cluster)
    if len(sizes) < 2 or known.min() == known.max():
        return float(len(sizes))
    share, count = known.mean(), len(known)
    residuals = np.bincount(cluster, weights=known) - share * sizes
    variance = len(sizes) / (len(sizes) - 1) * (residuals**2).sum() / count**2
    design_effect = variance / (share * (1 - share) / (count - 1))
    return float(max(count / max(design_effect, 1), 1))


def prevalence(values: ArrayLike, clusters: ArrayLike | None = None) -> dict[str, float | None]:
    """
    A label's prevalence among the images where it is known.

    Args:
        values: (n,) 0, 1, -1 (uncertain, which counts as unknown) or NaN (unknown).
        clusters: (n,) number of each image's patient, if patients are known.

    Returns:
        `known`, `positive`, `share`, `low` and `high` (Wilson's 95 % interval as if images were independent), and
        `patient_low` and `patient_high` (the same at [`effective_count`]), None without clusters. Shares and bounds
        are NaN where nothing is known.
    """
    values = np.asarray(values, dtype=float)
    values = np.where(values == -1, np.nan, values)
    known, positive = int((~np.isnan(values)).sum()), int((values == 1).sum())
    share = positive / known if known else float("nan")
    low, high = wilson_interval(share, known)
    patient: tuple[float | None, float | None] = (None, None)
    if clusters is not None:
        patient = wilson_interval(share, effective_count(values, clusters))
    bounds = {"low": low, "high": high, "patient_low": patient[0], "patient_high": patient[1]}
    return {"known": known, "positive": positive, "share": share, **bounds}


def co_occurrence(labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """
    How often labels are positive together.

    Args:
        labels: (n, labels) 0, 1, -1 (uncertain) or NaN (unknown).

    Returns:
        int64 (labels, labels) of images where both are 1 (the diagonal: where the label is), and of images where the
        row's label is 1 and the column's is known to be 0 or 1. Their quotient is the share of the column's label
        among the images with the row's.
    """
    labels = np.asarray(labels, dtype=float)
    positive, known = (labels == 1).astype(float), ((labels == 0) | (labels == 1)).astype(float)
    return (positive.T @ positive).astype(np.int64), (positive.T @ known).astype(np.int64)
