"""How far masks agree: Dice, IoU and the distance of their borders, image by image; means with patients' intervals.

Of a structure that neither mask has, all three are undefined (NaN) and left out of means. Where one mask alone has it,
Dice and IoU are 0 and the distance is undefined: means of distances stand beside the number of images that they are
of. Pixels that are unknown belong to neither mask.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import KDTree

from .resampling import number_patients, percentile_interval, resampled_means, row_means

REACH = 3  # pixels around each, among which its nearest is looked for before any tree is built
CELLS = (32, 8)  # pixels a side, within which border pixels are looked at together, from coarse to fine


@dataclass(frozen=True)
class OverlapResult:
    """Mean of a score over the `num_defined` images where it is defined, with its interval; NaN if there are none."""

    label: str
    mean: float
    ci_low: float
    ci_high: float
    median: float
    num_defined: int
    num_clusters: int


@dataclass(frozen=True)
class PairedOverlap:
    """Model b minus model a on the images where both are defined; `p_value` is two-sided, of no difference."""

    label: str
    mean_a: float
    mean_b: float
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    num_defined: int


def dice(prediction: ArrayLike, truth: ArrayLike, known: ArrayLike | None = None) -> float:
    """
    Twice the pixels (voxels) that masks share, over those of both.

    Args:
        prediction, truth: bool, of one shape.
        known: bool, of the same shape; all pixels unless given.

    Returns:
        In [0, 1]; NaN if both masks are empty.

    Raises:
        ValueError: Masks that are not bool, or of different shapes.
    """
    shared, either, _ = _counts(prediction, truth, known)
    return 2 * shared / (shared + either) if either else float("nan")


def iou(prediction: ArrayLike, truth: ArrayLike, known: ArrayLike | None = None) -> float:
    """Pixels that masks share over those of either; otherwise as [`dice`]."""
    shared, either, _ = _counts(prediction, truth, known)
    return shared / either if either else float("nan")


def hausdorff_distance(
    prediction: ArrayLike,
    truth: ArrayLike,
    percentile: float = 95,
    spacing: Sequence[float] | None = None,
    known: ArrayLike | None = None,
) -> float:
    """
    Distance between the borders of two masks: the larger of the two directed percentiles.

    From each border pixel of one mask the distance to the nearest one of the other is taken, of these the percentile
    (interpolated), and of both directions the larger; 100 is the Hausdorff distance. (Others pool both directions
    first, which gives less where one border is longer.) Border pixels are those of a mask with a neighbour outside it
    or the image, across an edge (a face); distances are between their centres.

    Args:
        prediction, truth, known: As in [`dice`], of two or three dimensions.
        percentile: In (0, 100].
        spacing: Of each axis, in mm; pixels unless given.

    Returns:
        In mm or pixels, at least 0; NaN if either mask is empty.

    Raises:
        ValueError: As in [`dice`], or spacing or percentile are not as above.
    """
    _, _, masks = _counts(prediction, truth, known)
    steps = np.ones(masks[0].ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if steps.shape != (masks[0].ndim,) or not (np.isfinite(steps) & (steps > 0)).all():
        raise ValueError(f"spacing must be {masks[0].ndim} positive numbers, one an axis, not {spacing}")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must lie in (0, 100], not {percentile}")
    borders = [border(mask) for mask in masks]
    if not all(border.any() for border in borders):
        return float("nan")
    one, other = borders
    points, others = (np.stack(np.unravel_index(np.flatnonzero(border), border.shape), axis=1) for border in borders)
    return max(
        _directed_percentile(points, others, other, percentile, steps),
        _directed_percentile(others, points, one, percentile, steps),
    )


def overlap_results(
    labels: Sequence[str],
    scores: ArrayLike,
    clusters: Sequence[Any] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[OverlapResult]:
    """
    Means of a score by label, and last, named "mean", the mean of these; intervals by resampling patients.

    Args:
        labels: Of the columns.
        scores: (n, labels) of [`dice`], [`iou`] or [`hausdorff_distance`], NaN undefined.
        clusters: n patient ids as in `metrics.bootstrap_aurocs`, or (n, 2) those of both images where a score is of a
            pair; without them images count as independent.

    Raises:
        ValueError: Shapes that do not fit.
    """
    table = _table(labels, scores)
    numbers, _ = number_patients(clusters, len(table))
    replicates = resampled_means(table, clusters, num_bootstrap, seed)
    means = row_means(table.T)
    columns = zip(
        [*labels, "mean"],
        [*means, *row_means(means[None])],
        [*replicates.T, row_means(replicates)],
        [*table.T, row_means(table)],
        strict=True,
    )
    results = []
    for label, mean, resampled, of_images in columns:
        defined = ~np.isnan(of_images)
        median = float(np.median(of_images[defined])) if defined.any() else float("nan")
        bounds = percentile_interval(resampled, confidence)
        counts = int(defined.sum()), len(np.unique(numbers[defined]))
        results.append(OverlapResult(label, float(mean), *bounds, median, *counts))
    return results


def compare_overlap(
    labels: Sequence[str],
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    clusters: Sequence[Any] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[PairedOverlap]:
    """
    Two models on the same images, paired: both are scored on the same resampled patients.

    Args:
        scores_a, scores_b: As in [`overlap_results`]; images where either is undefined are left out of that label.

    Returns:
        By label, and last that of the mean over labels.

    Raises:
        ValueError: Shapes that do not fit.
    """
    tables = [_table(labels, scores) for scores in (scores_a, scores_b)]
    if tables[0].shape != tables[1].shape:
        raise ValueError(f"both models need the same images: {len(tables[0])} and {len(tables[1])}")
    undefined = np.isnan(tables[0]) | np.isnan(tables[1])
    tables = [np.where(undefined, np.nan, table) for table in tables]
    replicates = [resampled_means(table, clusters, num_bootstrap, seed) for table in tables]
    means = [row_means(table.T) for table in tables]
    differences = replicates[1] - replicates[0]
    columns = [*differences.T, row_means(differences)]
    ends = [np.append(mean, row_means(mean[None])) for mean in means]
    counts = [*(~undefined).sum(axis=0), (~undefined).any(axis=1).sum()]
    return [
        PairedOverlap(
            label,
            float(ends[0][place]),
            float(ends[1][place]),
            float(ends[1][place] - ends[0][place]),
            *percentile_interval(columns[place], confidence),
            _p_value(columns[place], ends[1][place] - ends[0][place]),
            int(counts[place]),
        )
        for place, label in enumerate([*labels, "mean"])
    ]


def _counts(prediction: ArrayLike, truth: ArrayLike, known: ArrayLike | None) -> tuple[int, int, list[np.ndarray]]:
    """Pixels in both masks and in either, and the masks where they are known."""
    masks = [np.asarray(mask) for mask in (prediction, truth)]
    given = masks if known is None else [*masks, np.asarray(known)]
    if any(mask.dtype != bool or mask.shape != masks[0].shape for mask in given):
        kinds = ", ".join(f"{mask.dtype} {mask.shape}" for mask in given)
        raise ValueError(f"masks must be bool and of one shape, not {kinds}")
    if known is not None:
        masks = [mask & given[2] for mask in masks]
    return int(np.count_nonzero(masks[0] & masks[1])), int(np.count_nonzero(masks[0] | masks[1])), masks


def border(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask with a neighbour outside, across an edge."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        along, moved = (np.moveaxis(each, axis, 0) for each in (inside, mask))
        along[0] = along[-1] = False
        along[1:] &= moved[:-1]
        along[:-1] &= moved[1:]
    return mask & ~inside


def _directed_percentile(
    points: np.ndarray, others: np.ndarray, border: np.ndarray, percentile: float, steps: np.ndarray
) -> float:
    """Percentile of the distances from pixels to the nearest of the others, which are those of a border."""
    rank = percentile / 100 * (len(points) - 1)
    ranks = [math.floor(rank), math.ceil(rank)]
    # Where there are as many others, most are near, and a tree of them takes longest to build
    near = _look_around(points, border, ranks, steps) if len(points) <= 2 * len(others) else None
    below, above = near or _narrow_down(points, others, ranks, steps)
    return below + (rank - ranks[0]) * (above - below)


def _look_around(points: np.ndarray, border: np.ndarray, ranks: list[int], steps: np.ndarray) -> list[float] | None:
    """Distances of these ranks, if so many pixels have their nearest within `REACH`."""
    padded = np.pad(border, REACH)
    strides = np.array(padded.strides)  # a pixel is a byte
    sides = [np.arange(-REACH, REACH + 1)] * border.ndim
    offsets = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, border.ndim)
    distances = np.sqrt(((offsets * steps) ** 2).sum(axis=1))
    left, reached, found = (points + REACH) @ strides, 0, list[float]()
    for nearest in np.argsort(distances, kind="stable"):
        if distances[nearest] >= (REACH + 1) * steps.min():  # as near as some that are not looked at
            break
        hit = padded.ravel()[left + offsets[nearest] @ strides]
        left = left[~hit]
        reached = len(points) - len(left)
        found += [float(distances[nearest])] * sum(rank < reached for rank in ranks[len(found) :])
        if len(found) == len(ranks):
            return found
    return None


def _narrow_down(points: np.ndarray, others: np.ndarray, ranks: list[int], steps: np.ndarray) -> list[float]:
    """
    Distances of these ranks.

    The distance from the centre of a cell bounds those of the pixels in it. So of cells that cannot hold the ranks
    pixels are only counted, and few pixels are searched for.
    """
    tree = KDTree(others * steps, balanced_tree=False, compact_nodes=False)  # quicker to build, and here to search
    for side in CELLS:
        cells = points // side
        shape = cells.max(axis=0) + 1
        number = np.ravel_multi_index(tuple(cells.T), tuple(shape))
        counts = np.bincount(number, minlength=shape.prod())
        filled = np.flatnonzero(counts)
        half = (side - 1) / 2
        centres = np.stack(np.unravel_index(filled, tuple(shape)), axis=1) * side + half
        distances, radius = tree.query(centres * steps)[0], half * math.sqrt((steps**2).sum())
        order = np.argsort(distances)
        reached = np.cumsum(counts[filled[order]])
        least, greatest = (distances[order[np.searchsorted(reached, rank, side="right")]] for rank in ranks)
        nearer = distances + radius < least - radius
        ranks = [rank - int(counts[filled[nearer]].sum()) for rank in ranks]
        kept = np.zeros(len(counts), dtype=bool)
        kept[filled] = ~nearer & (distances - radius <= greatest + radius)
        points = points[kept[number]]
    return np.partition(tree.query(points * steps)[0], ranks)[ranks].tolist()


def _table(labels: Sequence[str], scores: ArrayLike) -> np.ndarray:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(labels):
        raise ValueError(f"scores must be (n, {len(labels)}), a column a label, not {table.shape}")
    return table


def _p_value(differences: np.ndarray, observed: float) -> float:
    """Two-sided, of the bootstrap's distribution moved to no difference."""
    defined = differences[~np.isnan(differences)]
    if np.isnan(observed) or 2 * len(defined) < len(differences) or not len(defined):
        return float("nan")
    return float((1 + np.count_nonzero(np.abs(defined - observed) >= abs(observed))) / (1 + len(defined)))
