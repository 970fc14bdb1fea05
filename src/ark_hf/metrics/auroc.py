"""AUROC and average precision per label, with unknown labels left out and intervals that respect patients.

Labels are 0, 1 or NaN (unknown) throughout. A metric that the known labels leave undefined (one class only) is NaN,
never 0.5 and never an error, so that a table keeps its row and says how many images it stood on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from .resampling import number_clusters, patient_weights, percentile_interval, row_means


@dataclass(frozen=True)
class LabelResult:
    """Results of one label, see `label_results`; a metric or bound that is undefined is NaN."""

    label: str
    auroc: float
    ci_low: float
    ci_high: float
    average_precision: float
    num_known: int
    num_positive: int
    num_clusters: int


@dataclass(frozen=True)
class MeanResult:
    """Mean AUROC with its interval, and mean average precision, over the `num_defined` of `num_labels` labels."""

    auroc: float
    ci_low: float
    ci_high: float
    num_defined: int
    num_labels: int
    average_precision: float = float("nan")


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve over the known labels; a tied pair counts half.

    Args:
        labels: (n,) 0, 1 or NaN for unknown.
        scores: (n,) finite, of any scale; higher means more likely 1.

    Returns:
        A number in [0, 1], or NaN if only one class is known.

    Raises:
        ValueError: shapes that differ, labels outside {0, 1, NaN}, or non-finite scores.
    """
    labels, scores = check_column(labels, scores)
    return float(weighted_auroc(labels, scores, np.ones(len(labels))))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision, the step-wise area under the precision-recall curve; arguments and errors as in `auroc`.

    Returns:
        A number in (0, 1], or NaN if only one class is known: with positives alone it would be 1 for any scores.
    """
    labels, scores = check_column(labels, scores)
    known = ~np.isnan(labels)
    if len(np.unique(labels[known])) < 2:
        return float("nan")
    rank = np.unique(-scores[known], return_inverse=True)[1]
    positives = np.bincount(rank, weights=labels[known])
    precision = np.cumsum(positives) / np.cumsum(np.bincount(rank))
    return float(positives @ precision / positives.sum())


def weighted_auroc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> np.ndarray:
    """AUROC in which image i counts weights[i] times, for many weightings at the price of one sort.

    A bootstrap resample is a weighting by multiplicity, so this is also how intervals of any other resampling scheme
    (a published one with its own random numbers, say) are computed.

    Args:
        labels: (n,) 0, 1 or NaN for unknown.
        scores: (n,) finite.
        weights: (n,) or (n, m), finite and not negative; each of m columns is one weighting.

    Returns:
        float64 () or (m,); NaN where a class has no weight.

    Raises:
        ValueError: as in `auroc`, or weights of another length, negative or not finite.
    """
    labels, scores = check_column(labels, scores)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim not in (1, 2) or len(weights) != len(labels):
        raise ValueError(f"weights must be ({len(labels)},) or ({len(labels)}, m) like labels, not {weights.shape}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("weights must be finite and not negative")
    columns = weights if weights.ndim == 2 else weights[:, None]
    positives, negatives = _tally_runs(labels, scores, np.arange(len(labels)), len(labels))
    return _auroc_of_runs(positives @ columns, negatives @ columns).reshape(weights.shape[1:])


def bootstrap_aurocs(
    labels: ArrayLike,
    scores: ArrayLike,
    clusters: Sequence[Any] | None = None,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """AUROC of every label in every resample of the patients; all labels share the resamples.

    Patients are drawn with replacement and bring all their images along. The same seed and clusters draw the same
    patients whatever the scores, so the difference of two models' results is a paired bootstrap.

    Args:
        labels: (n, num_labels) 0, 1 or NaN for unknown.
        scores: (n, num_labels) finite, but for columns that are NaN from top to bottom: labels without a score.
        clusters: n hashable patient ids; an image whose id is None, "" or NaN is a patient of its own, as is every
            image if clusters is None.
        num_bootstrap: number of resamples, 0 or more.
        seed: seed of `numpy.random.default_rng`.

    Returns:
        float64 (num_bootstrap, num_labels); NaN where a resample holds one class of the label only, and everywhere
        if there are fewer than two patients to draw from.

    Raises:
        ValueError: wrong shapes, labels outside {0, 1, NaN}, non-finite scores, or a negative num_bootstrap.
    """
    labels, scores = check_table(labels, scores)
    if num_bootstrap < 0:
        raise ValueError(f"num_bootstrap must be 0 or more, not {num_bootstrap}")
    cluster, num_clusters = number_clusters(clusters, len(labels))
    replicates = np.full((num_bootstrap, labels.shape[1]), np.nan)
    tallies = [_tally_runs(*column, cluster, num_clusters) for column in zip(labels.T, scores.T, strict=True)]
    for rows, drawn in patient_weights(num_clusters, num_bootstrap, seed):
        weights = np.ascontiguousarray(drawn.T)
        for column, (positives, negatives) in enumerate(tallies):
            replicates[rows, column] = _auroc_of_runs(positives @ weights, negatives @ weights)
    return replicates


def evaluate_labels(
    labels: ArrayLike,
    scores: ArrayLike,
    label_names: Sequence[str],
    evaluated: Sequence[int] | None = None,
    clusters: Sequence[Any] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[list[LabelResult], MeanResult]:
    """Metrics of every label and their mean, with intervals from one bootstrap over patients.

    Args:
        labels, scores, clusters, num_bootstrap, seed: as in `bootstrap_aurocs`; num_bootstrap=0 gives NaN intervals.
        label_names: one name per column.
        evaluated: numbers of the columns that the mean is over; all unless set.
        confidence: coverage of the intervals, between 0 and 1.

    Returns:
        One `LabelResult` per label, in column order, and the `MeanResult`; see `label_results` and `mean_result`.

    Raises:
        ValueError: as in `bootstrap_aurocs`, a number of names other than num_labels, or confidence outside (0, 1).
    """
    labels, scores = check_table(labels, scores)
    check_names(label_names, labels)
    check_confidence(confidence)
    replicates = bootstrap_aurocs(labels, scores, clusters, num_bootstrap, seed)
    table = label_results(labels, scores, label_names, replicates, clusters, confidence)
    return table, mean_result(table, replicates, evaluated, confidence)


def label_results(
    labels: ArrayLike,
    scores: ArrayLike,
    label_names: Sequence[str],
    replicates: np.ndarray,
    clusters: Sequence[Any] | None = None,
    confidence: float = 0.95,
) -> list[LabelResult]:
    """Metrics of every label with a percentile interval of the AUROC from replicates that are at hand.

    Resamples that leave a label undefined are left out for that label. Its interval is NaN if fewer than half remain
    or if all its known images belong to one patient.

    Args:
        labels, scores, label_names, clusters, confidence: as in `evaluate_labels`.
        replicates: (num_bootstrap, num_labels) AUROCs that `bootstrap_aurocs` returned for the same arguments.

    Returns:
        One `LabelResult` per label, in column order; `num_known` images, of which `num_positive` are 1, belong to
        `num_clusters` patients.

    Raises:
        ValueError: as in `evaluate_labels`.
    """
    labels, scores = check_table(labels, scores)
    check_names(label_names, labels)
    check_confidence(confidence)
    cluster, _ = number_clusters(clusters, len(labels))
    table = []
    for column, name in enumerate(label_names):
        known = ~np.isnan(labels[:, column])
        scored = not np.isnan(scores[:, column]).any()
        num_clusters = len(np.unique(cluster[known]))
        interval = percentile_interval(replicates[:, column], confidence)
        table.append(
            LabelResult(
                name,
                auroc(labels[:, column], scores[:, column]) if scored else float("nan"),
                *(interval if num_clusters > 1 else (float("nan"), float("nan"))),
                average_precision(labels[:, column], scores[:, column]) if scored else float("nan"),
                num_known=int(known.sum()),
                num_positive=int(np.nansum(labels[:, column])),
                num_clusters=num_clusters,
            )
        )
    return table


def mean_result(
    table: Sequence[LabelResult],
    replicates: np.ndarray,
    columns: Sequence[int] | None = None,
    confidence: float = 0.95,
) -> MeanResult:
    """Mean over the labels whose AUROC is defined, with a percentile interval from replicates that are at hand.

    A resample's mean is over the labels that it leaves defined; a rare label therefore drops out of some of them.

    Args:
        table, replicates: of all labels, as in `label_results`.
        columns: numbers of the columns that the mean is over; all unless set.
        confidence: coverage of the interval, between 0 and 1.

    Returns:
        A `MeanResult`; NaN if no label is defined, as it is without any column.
    """
    columns = list(range(len(table)) if columns is None else columns)
    defined = [table[column] for column in columns if not np.isnan(table[column].auroc)]
    low, high = percentile_interval(row_means(replicates[:, columns]), confidence)
    return MeanResult(
        float(np.mean([row.auroc for row in defined])) if defined else float("nan"),
        low,
        high,
        num_defined=len(defined),
        num_labels=len(columns),
        average_precision=float(np.mean([row.average_precision for row in defined])) if defined else float("nan"),
    )


def label_table(
    labels: ArrayLike,
    scores: ArrayLike,
    label_names: Sequence[str],
    clusters: Sequence[Any] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[LabelResult]:
    """The table of `evaluate_labels` alone."""
    return evaluate_labels(labels, scores, label_names, None, clusters, num_bootstrap, confidence, seed)[0]


def mean_auroc(
    labels: ArrayLike,
    scores: ArrayLike,
    clusters: Sequence[Any] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> MeanResult:
    """The mean of `evaluate_labels` alone, over all columns."""
    labels, scores = check_table(labels, scores)
    names = [str(column) for column in range(labels.shape[1])]
    return evaluate_labels(labels, scores, names, None, clusters, num_bootstrap, confidence, seed)[1]


def one_vs_rest(labels: ArrayLike, num_classes: int) -> np.ndarray:
    """Single-label classes as the 0/1/NaN columns that the other functions take.

    Args:
        labels: (n,) integers from 0 to num_classes - 1, or -100 for unknown.
        num_classes: number of columns.

    Returns:
        float64 (n, num_classes); the row of an unknown label is NaN.

    Raises:
        ValueError: labels that are not 1-D integers in that range.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be (n,) integers, not {labels.shape} {labels.dtype}")
    unknown = labels == -100
    outside = labels[~unknown & ((labels < 0) | (labels >= num_classes))]
    if len(outside):
        raise ValueError(f"labels must be 0 to {num_classes - 1}, or -100 for unknown; {outside[0]} is neither")
    columns = (labels[:, None] == np.arange(num_classes)).astype(np.float64)
    columns[unknown] = np.nan
    return columns


def _tally_runs(
    labels: np.ndarray, scores: np.ndarray, cluster: np.ndarray, num_clusters: int
) -> tuple[csr_array, csr_array]:
    """Positives and negatives per (run of the score order, cluster).

    Images that follow one another by score and are all of one class can be permuted without changing the AUROC, as
    can tied images; such runs are far fewer than images, and multiplying by resample weights then costs one addition
    an image.
    """
    known = ~(np.isnan(labels) | np.isnan(scores))
    positive, cluster = labels[known] == 1, cluster[known]
    rank = np.unique(scores[known], return_inverse=True)[1]
    has = np.zeros((2, rank.max(initial=-1) + 1), dtype=bool)
    has[positive.astype(int), rank] = True
    # A tie across classes is a run of its own: merged with a neighbour, pairs that are ordered would count half.
    mixed = has[0] & has[1]
    starts = mixed.copy()
    starts[1:] |= mixed[:-1] | (has[1, 1:] != has[1, :-1])
    run = np.cumsum(starts)[rank]
    shape = (run.max(initial=-1) + 1, num_clusters)
    positives, negatives = (
        csr_array((np.ones(kind.sum()), (run[kind], cluster[kind])), shape=shape) for kind in (positive, ~positive)
    )
    return positives, negatives


def _auroc_of_runs(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """(m,) AUROC from the weight of each class in each run, (runs, m), lowest scores first. Overwrites `negatives`."""
    # Whole-number weights keep every sum below exact in float64, so results depend on no order of summation.
    half = negatives / 2
    below = np.cumsum(negatives, axis=0, out=negatives)
    # einsum adds along the first axis several times faster than sum.
    pairs = np.einsum("rm->m", positives) * below[-1:].sum(axis=0)
    below -= half
    wins = np.einsum("rm,rm->m", positives, below)
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


def check_column(labels: ArrayLike, scores: ArrayLike, name: str = "scores") -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of one label as float64 (n,); the arguments and errors are those of `auroc`."""
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels and {name} must both be (n,), not {labels.shape} and {scores.shape}")
    _check_labels(labels)
    _check_finite(scores, name)
    return labels, scores


def check_table(labels: ArrayLike, scores: ArrayLike, name: str = "scores") -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores as float64 (n, num_labels); the arguments and errors are those of `bootstrap_aurocs`."""
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 2 or labels.shape != scores.shape:
        raise ValueError(f"labels and {name} must both be (n, num_labels), not {labels.shape} and {scores.shape}")
    _check_labels(labels)
    _check_finite(np.where(np.isnan(scores).all(axis=0), 0, scores), name)
    return labels, scores


def check_names(label_names: Sequence[str], labels: np.ndarray) -> None:
    if len(label_names) != labels.shape[1]:
        raise ValueError(f"label_names must hold one name per column: {labels.shape[1]}, not {len(label_names)}")


def check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")


def _check_labels(labels: np.ndarray) -> None:
    outside = labels[~(np.isnan(labels) | (labels == 0) | (labels == 1))]
    if len(outside):
        raise ValueError(f"labels must be 0, 1 or NaN (unknown); {len(outside)} are not, the first is {outside[0]:g}")


def _check_finite(scores: np.ndarray, name: str) -> None:
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        place = ", ".join(f"{axis} {number}" for axis, number in zip(("row", "column"), bad[0], strict=False))
        raise ValueError(
            f"{name} must be finite; {len(bad)} of {scores.size} are NaN or infinite, the first in {place}; "
            "leave those images out, or find out why the model has no score for them"
        )
