"""Whether a model serves groups of patients alike: AUROC, missed findings and false alarms of each group, and gaps.

Conventions are those of `metrics`: labels are 0, 1 or NaN (unknown), and patients are resampled, once for all groups
and labels, so that every difference is a paired one. A finding that is missed more often in one group is that group's
underdiagnosis (Seyyed-Kalantari et al., Nature Medicine 27, 2176, 2021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from ..cells import is_blank
from .auroc import auroc, bootstrap_aurocs
from .resampling import number_clusters, patient_weights, percentile_interval

AGE_BANDS = {"0-17": (0, 18), "18-39": (18, 40), "40-59": (40, 60), "60-79": (60, 80), "80+": (80, 130)}
UNKNOWN = "unknown"
MIN_CASES = 10


@dataclass(frozen=True)
class Estimate:
    """A number and its confidence interval; NaN where undefined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class GroupResult:
    """
    One group's results on one label, or on the mean of labels.

    `difference` is its AUROC minus that of all other images. `compared`: it has enough cases for the gaps.
    Sensitivity is 1 - the share of positives that are missed, specificity 1 - the share of false alarms among
    negatives, both at the label's operating point. Of a mean, `num_known` and `num_positive` are sums over its labels.
    """

    group: str
    num_images: int
    num_patients: int | None
    num_known: int
    num_positive: int
    compared: bool
    auroc: Estimate
    difference: Estimate
    sensitivity: Estimate
    specificity: Estimate


@dataclass(frozen=True)
class SubgroupResult:
    """
    All groups on one label, or on the mean over `labels`, and the largest less the smallest value of each metric.

    A gap is over the groups that are `compared`, and NaN if these are fewer than two. Its interval holds for all
    pairs of groups at once, so that it contains 0 unless groups differ, however many they are.
    """

    label: str
    labels: list[str]
    groups: list[GroupResult]
    auroc_gap: Estimate
    sensitivity_gap: Estimate
    specificity_gap: Estimate


def age_band(age: float | None) -> str:
    """The band of `AGE_BANDS` that an age in years falls into; "unknown" for None, NaN and ages outside [0, 130)."""
    years = math.nan if age is None else age
    return next((name for name, (low, high) in AGE_BANDS.items() if low <= years < high), UNKNOWN)


def group_names(values: Sequence[Any], attribute: str) -> list[str]:
    """The group of each image by a column of the dataset: the band of an `age`, otherwise the value itself."""
    if attribute == "age":
        return [age_band(value) for value in values]
    return [UNKNOWN if is_blank(value) else str(value) for value in values]


def subgroup_results(
    labels: ArrayLike,
    scores: ArrayLike,
    thresholds: ArrayLike,
    label_names: Sequence[str],
    groups: Sequence[str],
    evaluated: Sequence[int] | None = None,
    clusters: Sequence[Any] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    min_cases: int = MIN_CASES,
) -> list[SubgroupResult]:
    """
    Each label's results by group, and if there are several labels, those of their mean, called "mean".

    A group is compared on a label if it has `min_cases` positives and as many negatives: a handful of images can have
    any AUROC. On the mean, a group is compared if that holds for at least half as many of the evaluated labels as in
    the group where it holds for most, and the mean is over those labels for which it holds in every such group: groups
    would not be comparable over different labels.

    Args:
        labels: (n, num_labels) 0, 1 or NaN for unknown.
        scores: (n, num_labels) finite, but for columns that are NaN from top to bottom: labels without a score.
        thresholds: (num_labels,) operating points; an image is called positive if its score reaches it.
        label_names: One a column.
        groups: n names of groups; "unknown" stands last.
        evaluated: Columns that the mean may be over; all unless set.
        clusters, num_bootstrap, seed: As in `metrics.bootstrap_aurocs`.
        confidence: Coverage of the intervals.
        min_cases: Cases of either class that a group needs to be compared.

    Raises:
        ValueError: As in `metrics.bootstrap_aurocs`, or a number of groups other than n.
    """
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if len(groups) != len(labels):
        raise ValueError(f"groups must hold one name per image: {len(labels)}, not {len(groups)}")
    names = sorted(set(groups), key=lambda name: (name == UNKNOWN, name))
    members = np.array(groups)[:, None] == np.array(names)
    measured = [
        _Measured(labels[:, column], scores[:, column], thresholds[column], members, clusters, num_bootstrap, seed)
        for column in range(labels.shape[1])
    ]
    patients = None if clusters is None else number_clusters(clusters, len(labels))[0]
    sizes = [
        (name, int(member.sum()), None if patients is None else len(np.unique(patients[member])))
        for name, member in zip(names, members.T, strict=True)
    ]
    results = [
        _summarise(name, [name], sizes, [each], each.enough(min_cases), confidence)
        for name, each in zip(label_names, measured, strict=True)
    ]
    if len(label_names) > 1:
        columns = list(range(len(label_names)) if evaluated is None else evaluated)
        enough = np.array([measured[column].enough(min_cases) for column in columns])
        counts = enough.sum(axis=0)
        compared = (counts > 0) & (2 * counts >= counts.max())
        shared = [c for c, row in zip(columns, enough, strict=True) if compared.any() and row[compared].all()]
        among = [measured[column] for column in shared]
        results.append(_summarise("mean", [label_names[c] for c in shared], sizes, among, compared, confidence))
    return results


class _Measured:
    """
    One label: `values` of four metrics in each group, (4, groups), and `replicates`, (4, resamples, groups).

    The metrics are AUROC, its difference from all other images, sensitivity and specificity; `patients` stand behind
    the last two, (2, groups).
    """

    def __init__(self, labels, scores, threshold, members, clusters, num_bootstrap, seed):
        self.num_known = (members & ~np.isnan(labels)[:, None]).sum(axis=0)
        self.num_positive = (members & (labels == 1)[:, None]).sum(axis=0)
        self.scored = not np.isnan(scores).any()
        count = members.shape[1]
        self.values = np.full((4, count), np.nan)
        self.replicates = np.full((4, num_bootstrap, count), np.nan)
        self.patients = np.zeros((2, count), dtype=int)
        if not self.scored:
            return
        within = np.where(members, labels[:, None], np.nan)
        outside = np.where(members, np.nan, labels[:, None])
        both = np.concatenate([within, outside], axis=1)
        aurocs = np.array([auroc(column, scores) for column in both.T])
        resampled = bootstrap_aurocs(both, np.tile(scores[:, None], 2 * count), clusters, num_bootstrap, seed)
        self.values[:2] = aurocs[:count], aurocs[:count] - aurocs[count:]
        self.replicates[:2] = resampled[:, :count], resampled[:, :count] - resampled[:, count:]
        called = scores >= threshold
        cluster, _ = number_clusters(clusters, len(labels))
        for metric, right, relevant in ((2, called, labels == 1), (3, ~called, labels == 0)):
            counted = members & relevant[:, None]
            self.values[metric], self.replicates[metric] = _shares(
                counted & right[:, None], counted, clusters, num_bootstrap, seed
            )
            self.patients[metric - 2] = [len(np.unique(cluster[column])) for column in counted.T]

    def enough(self, min_cases: int) -> np.ndarray:
        """bool (groups,)"""
        negative = self.num_known - self.num_positive
        return (self.num_positive >= min_cases) & (negative >= min_cases) & self.scored


def _shares(part, whole, clusters, num_bootstrap: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of `whole` that is `part`, of bool (n, groups): (groups,), and (num_bootstrap, groups) by resample."""
    cluster, num_clusters = number_clusters(clusters, len(part))
    parts, wholes = np.zeros((2, num_clusters, part.shape[1]))
    np.add.at(parts, cluster, part)
    np.add.at(wholes, cluster, whole)
    replicates = np.full((num_bootstrap, part.shape[1]), np.nan)
    for rows, weights in patient_weights(num_clusters, num_bootstrap, seed):
        replicates[rows] = _ratio(weights @ parts, weights @ wholes)
    return _ratio(part.sum(axis=0), whole.sum(axis=0)), replicates


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _summarise(
    label: str,
    labels: list[str],
    sizes: list[tuple[str, int, int | None]],
    measured: list[_Measured],
    compared: np.ndarray,
    confidence: float,
) -> SubgroupResult:
    """The mean over `measured` labels; that of one label is its own result."""
    nothing = np.full((4, len(sizes)), np.nan)
    values = np.mean([each.values for each in measured], axis=0) if measured else nothing
    replicates = np.mean([each.replicates for each in measured], axis=0) if measured else nothing[:, None]
    groups = [
        GroupResult(
            *size,
            int(sum(each.num_known[number] for each in measured)),
            int(sum(each.num_positive[number] for each in measured)),
            bool(compared[number]),
            *(
                Estimate(float(value[number]), *_interval(value[number], replicate[:, number], patients, confidence))
                for value, replicate, patients in zip(values, replicates, _trials(measured, number), strict=True)
            ),
        )
        for number, size in enumerate(sizes)
    ]
    gaps = [_gap(values[metric][compared], replicates[metric][:, compared], confidence) for metric in (0, 2, 3)]
    return SubgroupResult(label, labels, groups, *gaps)


def _trials(measured: list[_Measured], number: int) -> list[int | None]:
    """Of one label the patients behind a group's sensitivity and specificity; None for AUROC, and for a mean."""
    return [None, None, *(measured[0].patients[:, number].tolist() if len(measured) == 1 else (None, None))]


def _interval(value: float, replicates: np.ndarray, patients: int | None, confidence: float) -> tuple[float, float]:
    """Percentiles; of a share that is 0 or 1, which every resample gives anew, Wilson's interval instead."""
    if patients and value in (0, 1):
        interval = binomtest(int(value) * patients, patients).proportion_ci(confidence, method="wilson")
        return float(interval.low), float(interval.high)
    return percentile_interval(replicates, confidence)


def _gap(values: np.ndarray, replicates: np.ndarray, confidence: float) -> Estimate:
    """
    Largest less smallest of (groups,), with the interval that holds for all differences of two groups at once.

    The range of the groups' errors, resampled value less value, bounds the error of every difference, and so that of
    the largest: Tukey's argument for comparing all pairs. A percentile interval of the gap itself would never contain
    0, because the gap of a resample is never negative.
    """
    if len(values) < 2 or np.isnan(values).any():
        return UNDEFINED
    errors = replicates - values
    ranges = errors.max(axis=1) - errors.min(axis=1)
    gap = float(values.max() - values.min())
    defined = ranges[~np.isnan(ranges)]
    if len(defined) == 0 or 2 * len(defined) < len(ranges):
        return Estimate(gap, math.nan, math.nan)
    margin = float(np.quantile(defined, confidence))
    return Estimate(gap, max(gap - margin, 0.0), min(gap + margin, 1.0))
