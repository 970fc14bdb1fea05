"""Resamples of patients, and the intervals of what they or repeated runs give."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ..cells import is_blank

# Few enough that a column block of the tallies stays in a 2 MiB cache at 100,000 images: 32 is already slower.
RESAMPLES_AT_ONCE = 16


def patient_weights(num_clusters: int, num_bootstrap: int, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    """
    How often each patient is drawn in each resample, some resamples at a time.

    The same seed and number of patients draw the same whatever is computed of them: differences are paired.

    Args:
        num_clusters: Number of patients; from fewer than two nothing is drawn.
        num_bootstrap: Number of resamples.
        seed: Of `numpy.random.default_rng`.

    Yields:
        The numbers of the resamples, and float64 (resamples, num_clusters).
    """
    generator = np.random.default_rng(seed)
    for start in range(0, num_bootstrap if num_clusters > 1 else 0, RESAMPLES_AT_ONCE):
        rows = slice(start, min(start + RESAMPLES_AT_ONCE, num_bootstrap))
        draws = generator.integers(0, num_clusters, (rows.stop - start, num_clusters))
        yield rows, np.stack([np.bincount(draw, minlength=num_clusters) for draw in draws]).astype(np.float64)


def number_clusters(clusters: Sequence[Any] | None, num_images: int) -> tuple[np.ndarray, int]:
    """(n,) cluster number of each image, and how many clusters there are; `clusters` as in `bootstrap_aurocs`."""
    if clusters is None:
        return np.arange(num_images), num_images
    ids = np.asarray(clusters, dtype=object)
    if ids.shape != (num_images,):
        raise ValueError(f"clusters must hold one patient id per image: ({num_images},), not {ids.shape}")
    numbers: dict[Any, int] = {}
    keys = (object() if is_blank(key) else key for key in ids.tolist())
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64), len(numbers)


def number_patients(clusters: Any, num_rows: int) -> tuple[np.ndarray, int]:
    """
    (n, 1) cluster number of each image as [`number_clusters`]; or of each pair of images, whose `clusters` are (n, 2),
    (n, 2). And how many clusters there are.
    """
    ids: Any = None if clusters is None else np.asarray(clusters, dtype=object)
    if ids is None or ids.shape != (num_rows, 2):
        numbers, count = number_clusters(clusters, num_rows)
        return numbers[:, None], count
    numbers, count = number_clusters(ids.ravel(), 2 * num_rows)
    return numbers.reshape(num_rows, 2), count


def resampled_means(table: np.ndarray, clusters: Any = None, num_bootstrap: int = 1000, seed: int = 0) -> np.ndarray:
    """
    Means of columns over the images of the patients that are drawn, each image as often as its patient.

    A pair of images of two patients counts as often as the one times as often as the other was drawn. With all pairs
    of enough patients that gives the interval of the mean over pairs of patients, though every patient is in many
    pairs (Davezies, D'Haultfoeuille and Guyonvarch, "Empirical process results for exchangeable arrays", Annals of
    Statistics 49, 2021); where few of all pairs are in the table, it gives too wide ones.

    Args:
        table: float64 (n, columns), NaN undefined.
        clusters: As of [`number_patients`].

    Returns:
        (num_bootstrap, columns), NaN where nothing defined was drawn.
    """
    numbers, num_clusters = number_patients(clusters, len(table))
    units, of_rows = np.unique(numbers, axis=0, return_inverse=True)
    defined = ~np.isnan(table)
    sums, counts = np.zeros((2, len(units), table.shape[1]))
    np.add.at(sums, of_rows.ravel(), np.where(defined, table, 0))
    np.add.at(counts, of_rows.ravel(), defined)
    two = units[:, 0] != units[:, -1]
    replicates = np.full((num_bootstrap, table.shape[1]), np.nan)
    for rows, weights in patient_weights(num_clusters, num_bootstrap, seed):
        drawn = weights[:, units[:, 0]] * np.where(two, weights[:, units[:, -1]], 1)
        total = drawn @ counts
        np.divide(drawn @ sums, total, out=replicates[rows], where=total > 0)
    return replicates


def percentile_interval(replicates: np.ndarray, confidence: float) -> tuple[float, float]:
    """(low, high) over the defined of (m,) replicates, NaN if these are fewer than half."""
    defined = replicates[~np.isnan(replicates)]
    if len(defined) == 0 or 2 * len(defined) < len(replicates):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)


def row_means(replicates: np.ndarray) -> np.ndarray:
    """(m,) mean over the defined columns of (m, num_labels) replicates; NaN where none is."""
    counts = (~np.isnan(replicates)).sum(axis=1)
    return np.divide(np.nansum(replicates, axis=1), counts, out=np.full(len(replicates), np.nan), where=counts > 0)


def t_interval(values: Sequence[float | None], confidence: float = 0.95) -> tuple[float, float, float, int]:
    """
    (mean, low, high, number) of the values that are defined, by Student's t; NaN for what they do not define.

    Args:
        values: Of independent repeats; NaN and None do not count.
        confidence: Coverage of the interval, between 0 and 1.
    """
    defined = np.array([value for value in values if value is not None and not np.isnan(value)])
    mean, half = (float(defined.mean()) if len(defined) else float("nan")), float("nan")
    if len(defined) > 1:
        half = float(stats.t.ppf((1 + confidence) / 2, len(defined) - 1) * stats.sem(defined))
    return mean, mean - half, mean + half, len(defined)
