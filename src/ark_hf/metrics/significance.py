"""Intervals of one AUROC, and tests between two models on the same images.

Two ways. The bootstrap over patients (`compare_models`, `metrics.evaluate_labels`) is the default: it covers means
over labels, too. DeLong's method (`delong_interval`, `delong_test`) needs no resampling and takes one label at a time.
Its original form supposes that images are independent; with `clusters` it becomes Obuchowski's, for patients with
several.

Labels are 0, 1 or NaN (unknown, left out); what the known labels leave undefined is NaN beside its counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

from .auroc import (
    bootstrap_aurocs,
    check_column,
    check_confidence,
    check_names,
    check_table,
    label_results,
    mean_result,
)
from .resampling import number_clusters, percentile_interval, row_means


@dataclass(frozen=True)
class PairedResult:
    """
    Two models on the same images: `difference` is that of model b minus that of model a, with its interval.

    `p_value` is two-sided, of the hypothesis that the AUROCs are equal; `p_adjusted` allows for the other labels that
    were tested. Undefined figures are NaN.
    """

    label: str
    auroc_a: float
    auroc_b: float
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    p_adjusted: float
    num_known: int
    num_positive: int


def delong_interval(
    labels: ArrayLike, scores: ArrayLike, confidence: float = 0.95, clusters: Sequence[Any] | None = None
) -> tuple[float, float, float]:
    """AUROC with its DeLong interval: estimate plus and minus normal quantile times standard error, cut to [0, 1].

    The plain scale, not the logit, is that of the paper and of the common programs (Stata, SAS, pROC). Close to 1 or
    with few images of a class it is too short: perfect separation gives (1, 1, 1), as from the bootstrap. The counts
    tell.

    Args:
        labels: (n,) 0, 1 or NaN for unknown.
        scores: (n,) finite, of any scale; or all NaN: a label without a score.
        confidence: coverage of the interval, between 0 and 1.
        clusters: n patient ids as in `metrics.bootstrap_aurocs`; without them images count as independent.

    Returns:
        (AUROC, low, high). All NaN if only one class is known or there is no score; the bounds are NaN if the positive
        or the negative images are of fewer than two patients.

    Raises:
        ValueError: as in `metrics.auroc`, clusters of another length, or confidence outside (0, 1).

    Sources: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988); Sun & Xu, IEEE Signal Processing Letters 21 (2014)
    for the mid-ranks, O(n log n); Obuchowski, Biometrics 53 (1997) for clusters.
    """
    check_confidence(confidence)
    known = _known_columns(labels, {"scores": scores}, clusters)
    if known is None:
        return math.nan, math.nan, math.nan
    positive, (column,), cluster = known
    placements = _placements(positive, column)
    area = _area(placements, positive)
    margin = _normal_quantile(confidence) * _standard_error(placements, positive, cluster)
    return area, float(np.clip(area - margin, 0, 1)), float(np.clip(area + margin, 0, 1))


def delong_test(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    confidence: float = 0.95,
    clusters: Sequence[Any] | None = None,
) -> PairedResult:
    """DeLong's paired test of two models on the images of one label.

    Args:
        labels, confidence, clusters: as in `delong_interval`.
        scores_a, scores_b: (n,) of the two models, each of its own scale; or all NaN.

    Returns:
        A `PairedResult` without label name, `p_adjusted` equal to `p_value`. Models that order the known images alike
        have p = 1; p is NaN where the standard error is undefined, or zero between models that differ.

    Raises:
        ValueError: as in `delong_interval`.
    """
    check_confidence(confidence)
    known = _known_columns(labels, {"scores_a": scores_a, "scores_b": scores_b}, clusters)
    labels = np.asarray(labels, dtype=np.float64)
    num_known, num_positive = int((~np.isnan(labels)).sum()), int((labels == 1).sum())
    if known is None:
        return _paired_result("", math.nan, math.nan, (math.nan, math.nan), math.nan, num_known, num_positive)
    positive, (column_a, column_b), cluster = known
    placements_a, placements_b = _placements(positive, column_a), _placements(positive, column_b)
    area_a, area_b = _area(placements_a, positive), _area(placements_b, positive)
    error = _standard_error(placements_b - placements_a, positive, cluster)
    margin = _normal_quantile(confidence) * error
    interval = area_b - area_a - margin, area_b - area_a + margin
    return _paired_result("", area_a, area_b, interval, error, num_known, num_positive)


def compare_models(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    label_names: Sequence[str],
    evaluated: Sequence[int] | None = None,
    clusters: Sequence[Any] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[PairedResult]:
    """Difference of the AUROCs of two models by a paired bootstrap: both are scored on the same resampled patients.

    The interval is that of the percentiles. The p-value compares difference / standard deviation over the resamples
    with the normal distribution, as pROC does. Counting resamples beyond zero could not go below 2 / (num_bootstrap +
    1), which a correction for some dozen labels turns into "not significant" whatever the data; near its border the
    two may disagree.

    Args:
        labels, label_names, clusters, num_bootstrap, confidence, seed: as in `metrics.evaluate_labels`.
        scores_a, scores_b: (n, num_labels) of the two models; a column may be NaN from top to bottom.
        evaluated: numbers of the columns that the mean is over; all unless set.

    Returns:
        One result per label, in column order, p-values adjusted by `holm` over these, then one with label "mean": of
        the labels that are defined for both models, its p-value not adjusted, its counts those of the images with a
        known and with a positive label among them. Without a score of both models, with one class or one patient only,
        the difference or what depends on the resamples is NaN.

    Raises:
        ValueError: as in `metrics.evaluate_labels`.
    """
    labels, scores_a = check_table(labels, scores_a, "scores_a")
    labels, scores_b = check_table(labels, scores_b, "scores_b")
    check_names(label_names, labels)
    check_confidence(confidence)
    tables, replicates = [], []
    for scores in (scores_a, scores_b):
        replicates.append(bootstrap_aurocs(labels, scores, clusters, num_bootstrap, seed))
        tables.append(label_results(labels, scores, label_names, replicates[-1], clusters, confidence))
    differences = replicates[1] - replicates[0]
    results = []
    for a, b, column in zip(*tables, differences.T, strict=True):
        spread = _spread(column, confidence) if a.num_clusters > 1 else _spread(column[:0], confidence)
        results.append(_paired_result(a.label, a.auroc, b.auroc, *spread, a.num_known, a.num_positive))
    adjusted = holm([result.p_value for result in results])
    results = [replace(result, p_adjusted=float(p)) for result, p in zip(results, adjusted, strict=True)]

    columns = range(len(results)) if evaluated is None else evaluated
    defined = [column for column in columns if not np.isnan(results[column].difference)]
    mean_a, mean_b = (
        mean_result(table, values, defined, confidence).auroc for table, values in zip(tables, replicates, strict=True)
    )
    num_known = int((~np.isnan(labels[:, defined])).any(axis=1).sum())
    num_positive = int((labels[:, defined] == 1).any(axis=1).sum())
    spread = _spread(row_means(differences[:, defined]), confidence)
    return [*results, _paired_result("mean", mean_a, mean_b, *spread, num_known, num_positive)]


@dataclass(frozen=True)
class SeedsResult:
    """
    Two ways of training, a model per seed each, on the same images.

    AUROCs are means over labels and seeds; `difference` is that of way b minus that of way a, `seed_differences` those
    of the single seeds. Undefined figures are NaN.
    """

    auroc_a: float
    auroc_b: float
    difference: float
    ci_low: float
    ci_high: float
    seed_differences: list[float]
    num_labels: int


def compare_seeds(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    clusters: Sequence[Any] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> SeedsResult:
    """Difference of the mean AUROCs of two ways of training, over the seeds that both were trained with.

    Each resample draws patients and seeds with replacement, the same ones for both ways, so the interval covers both
    the test images and what is random about training. A few seeds say little about the latter: look at
    `seed_differences`, too.

    Args:
        labels, clusters, num_bootstrap, confidence, seed: as in `metrics.evaluate_labels`.
        scores_a, scores_b: (seeds, n, num_labels) of the two ways, seed by seed.

    Returns:
        Means over the `num_labels` labels that are defined in every model.

    Raises:
        ValueError: as in `metrics.evaluate_labels`, or the two have different seeds.
    """
    scores_a, scores_b = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    if scores_a.ndim != 3 or scores_a.shape != scores_b.shape or not len(scores_a):
        raise ValueError(
            f"scores_a and scores_b must both be (seeds, n, num_labels), not {scores_a.shape} and {scores_b.shape}"
        )
    check_confidence(confidence)
    labels = np.asarray(labels, dtype=np.float64)
    names = [str(column) for column in range(scores_a.shape[2])]
    compared = [compare_models(labels, a, b, names, num_bootstrap=0) for a, b in zip(scores_a, scores_b, strict=True)]
    aurocs = np.array([[(each.auroc_a, each.auroc_b) for each in results[:-1]] for results in compared])
    defined = ~np.isnan(aurocs).any(axis=(0, 2))
    means = aurocs[:, defined].mean(axis=1) if defined.any() else np.full((len(scores_a), 2), np.nan)
    differences = means[:, 1] - means[:, 0]
    replicates = np.stack(
        [
            row_means(
                (
                    bootstrap_aurocs(labels, b, clusters, num_bootstrap, seed)
                    - bootstrap_aurocs(labels, a, clusters, num_bootstrap, seed)
                )[:, defined]
            )
            for a, b in zip(scores_a, scores_b, strict=True)
        ],
        axis=1,
    )
    drawn = np.random.default_rng([seed, 1]).integers(0, len(scores_a), replicates.shape)
    resampled = np.take_along_axis(replicates, drawn, axis=1).mean(axis=1)
    low, high = percentile_interval(resampled, confidence)
    return SeedsResult(
        auroc_a=float(means[:, 0].mean()),
        auroc_b=float(means[:, 1].mean()),
        difference=float(differences.mean()),
        ci_low=low,
        ci_high=high,
        seed_differences=differences.tolist(),
        num_labels=int(defined.sum()),
    )


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjustment: reject where it is at most alpha, and the chance of any false rejection is alpha.

    Args:
        p_values: (m,) in [0, 1], or NaN for tests that could not be done, which do not count.

    Returns:
        float64 (m,) in [0, 1], NaN where `p_values` is.

    Raises:
        ValueError: another shape or range.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p_values))
    if p_values.ndim != 1 or ((p_values[tested] < 0) | (p_values[tested] > 1)).any():
        raise ValueError(f"p-values must be (m,) in [0, 1] or NaN, not {p_values}")
    order = tested[np.argsort(p_values[tested])]
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def _paired_result(
    label: str,
    auroc_a: float,
    auroc_b: float,
    interval: tuple[float, float],
    deviation: float,
    num_known: int,
    num_positive: int,
) -> PairedResult:
    difference = auroc_b - auroc_a
    if deviation == 0:
        p_value = 1.0 if difference == 0 else math.nan  # without any spread a difference cannot be judged
    else:
        p_value = float(2 * norm.sf(abs(difference) / deviation))
    return PairedResult(
        label,
        auroc_a,
        auroc_b,
        difference,
        *interval,
        p_value,
        p_value,
        num_known=num_known,
        num_positive=num_positive,
    )


def _spread(differences: np.ndarray, confidence: float) -> tuple[tuple[float, float], float]:
    """Interval and standard deviation of (m,) differences over the resamples; NaN if fewer than half are defined."""
    interval = percentile_interval(differences, confidence)
    defined = differences[~np.isnan(differences)]
    return interval, math.nan if math.isnan(interval[0]) or len(defined) < 2 else float(np.std(defined, ddof=1))


def _normal_quantile(confidence: float) -> float:
    return float(norm.isf((1 - confidence) / 2))


def _known_columns(
    labels: ArrayLike, scores: dict[str, ArrayLike], clusters: Sequence[Any] | None
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray] | None:
    """Of the known images: whether positive, the scores, the cluster numbers; None if the AUROC is undefined."""
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in scores.items()}
    unscored = [name for name, column in columns.items() if np.isnan(column).all()]
    for name, column in columns.items():
        values, _ = check_column(labels, np.zeros(column.shape) if name in unscored else column, name)
    cluster, _ = number_clusters(clusters, len(values))
    known = ~np.isnan(values)
    if unscored or len(np.unique(values[known])) < 2:
        return None
    return values[known] == 1, [column[known] for column in columns.values()], cluster[known]


def _placements(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n,) negatives that each positive lies above and positives that lie above each negative; a tie counts half."""
    # Differences of mid-ranks are exact in float64: equal orders cancel to zero, not to rounding errors.
    ranks = rankdata(scores)
    placements = np.empty(len(scores))
    placements[positive] = ranks[positive] - rankdata(scores[positive])
    placements[~positive] = positive.sum() - ranks[~positive] + rankdata(scores[~positive])
    return placements


def _area(placements: np.ndarray, positive: np.ndarray) -> float:
    """The AUROC, or its difference if `placements` is one."""
    return float(placements[positive].sum() / (positive.sum() * (~positive).sum()))


def _standard_error(placements: np.ndarray, positive: np.ndarray, cluster: np.ndarray) -> float:
    """Of `_area`, from the sums of the placements over each patient; NaN if a class has fewer than two patients.

    If every image is a patient of its own, no patient has positives and negatives, and this is DeLong's.
    """
    num_all = len(np.unique(cluster))
    sums, nums, nums_clusters = [], [], []
    for chosen in (positive, ~positive):
        centred = placements[chosen] - placements[chosen].mean()
        sums.append(np.bincount(cluster[chosen], centred, minlength=cluster.max() + 1))
        nums.append(int(chosen.sum()))
        nums_clusters.append(len(np.unique(cluster[chosen])))
    if min(nums_clusters) < 2:
        return math.nan
    within = sum(count / (count - 1) * (each @ each) for each, count in zip(sums, nums_clusters, strict=True))
    between = 2 * num_all / (num_all - 1) * (sums[0] @ sums[1])
    variance = (within + between) / (nums[0] * nums[1]) ** 2
    return float(np.sqrt(variance)) if variance >= 0 else math.nan
