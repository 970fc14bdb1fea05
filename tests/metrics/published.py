"""The bootstrap intervals of the Ark papers, for comparing with them (specification of the originals, section 7).

They resample images, not patients, and are therefore too narrow where patients have several images: report the
intervals of `metrics.label_table` instead. The published mean AUROC, which leaves out classes without positives, is
`metrics.mean_auroc(...).auroc`.
"""

import numpy as np
from numpy.typing import ArrayLike

from ark_hf.metrics.auroc import check_column, weighted_auroc
from ark_hf.metrics.resampling import RESAMPLES_AT_ONCE


def published_bootstrap(
    labels: ArrayLike, scores: ArrayLike, num_bootstrap: int = 1000, seed: int = 233
) -> np.ndarray:
    """AUROC in the resamples of the released notebook: images, drawn with numpy's legacy generator, not stratified.

    Args:
        labels: (n,) 0, 1 or NaN for unknown. Unknown images are left out before drawing; the papers' sets have none.
        scores: (n,) finite.
        num_bootstrap: number of resamples, 0 or more.
        seed: seed of `numpy.random.RandomState`.

    Returns:
        float64 (num_bootstrap,) in the order of drawing; NaN where a resample holds one class only.

    Raises:
        ValueError: shapes that differ, labels outside {0, 1, NaN}, non-finite scores, or a negative num_bootstrap.
    """
    labels, scores = check_column(labels, scores)
    if num_bootstrap < 0:
        raise ValueError(f"num_bootstrap must be 0 or more, not {num_bootstrap}")
    known = ~np.isnan(labels)
    num_known = int(known.sum())
    replicates = np.full(num_bootstrap, np.nan)
    if len(np.unique(labels[known])) < 2:
        return replicates
    generator = np.random.RandomState(seed)
    for start in range(0, num_bootstrap, RESAMPLES_AT_ONCE):
        block = replicates[start : start + RESAMPLES_AT_ONCE]
        draws = [generator.randint(0, num_known, num_known) for _ in block]
        weights = np.stack([np.bincount(draw, minlength=num_known) for draw in draws], axis=1)
        block[:] = weighted_auroc(labels[known], scores[known], weights)
    return replicates


def published_interval(replicates: ArrayLike, variant: str) -> tuple[float, float]:
    """95 % interval from the AUROCs of `published_bootstrap`, in one of the two ways of the papers.

    Args:
        replicates: (m,), at least one, in any order.
        variant: "percentile", as in the legends of the figures: percentiles 2.5 and 97.5 with linear interpolation;
            or "sorted_index", as in the printed text: of the sorted values, counted from 0, number 25 and number 975
            of 1000, and floor(0.025 m) and floor(0.975 m) of any other number m.

    Returns:
        (low, high); both NaN if any replicate is: the originals have no rule for undefined resamples.

    Raises:
        ValueError: another variant, or replicates of another shape.
    """
    replicates = np.asarray(replicates, dtype=np.float64)
    if replicates.ndim != 1 or len(replicates) == 0:
        raise ValueError(f"replicates must be (m,) with m at least 1, not {replicates.shape}")
    if variant not in ("percentile", "sorted_index"):
        raise ValueError(f"variant must be 'percentile' or 'sorted_index', not {variant!r}")
    if np.isnan(replicates).any():
        return float("nan"), float("nan")
    if variant == "percentile":
        low, high = np.percentile(replicates, [2.5, 97.5])
    else:
        low, high = np.sort(replicates)[[int(0.025 * len(replicates)), int(0.975 * len(replicates))]]
    return float(low), float(high)
