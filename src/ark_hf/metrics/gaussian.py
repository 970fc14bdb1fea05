"""How far vectors lie from a cloud of others: a Gaussian of its main directions, and one variance for all the rest."""

from dataclasses import dataclass

import numpy as np

FLOOR = 1e-6  # of the mean variance of a direction: what rounding leaves where the cloud is flat


@dataclass(frozen=True)
class LowRankGaussian:
    """
    A Gaussian whose covariance is known along its main directions, and is the same along all others.

    It is the maximum of likelihood among Gaussians of such a covariance (Tipping and Bishop, Probabilistic Principal
    Component Analysis, J. R. Stat. Soc. B, 1999), and with as many directions as numbers the full Gaussian.

    Args:
        mean: (width,).
        directions: (rank, width), orthonormal.
        variances: (rank,), along the directions, positive.
        residual: Variance along each of the others, positive.
    """

    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    residual: float

    def distances(self, points: np.ndarray) -> np.ndarray:
        """Mahalanobis distances of points (n, width) from the mean: float64 (n,), in standard deviations."""
        centred = np.asarray(points, dtype=np.float64) - self.mean
        along = centred @ self.directions.T
        rest = np.clip((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0, None)
        if len(self.variances) == len(self.mean):
            rest[:] = 0  # there is no other direction
        return np.sqrt((along**2 / self.variances).sum(axis=1) + rest / self.residual)


def fit_gaussian(points: np.ndarray, rank: int) -> LowRankGaussian:
    """
    The Gaussian of points.

    Args:
        points: (n, width), at least two.
        rank: Directions; as many as there are numbers if these are fewer.

    Returns:
        float64; no variance is below `FLOOR` times the mean one, so that a flat cloud has distances, too.

    Raises:
        ValueError: There are too few points, or they are all the same.
    """
    values = np.asarray(points, dtype=np.float64)
    if len(values) < 2:
        raise ValueError(f"a Gaussian needs two points at least, not {len(values)}")
    mean = values.mean(axis=0)
    covariance = np.atleast_2d(np.cov(values, rowvar=False))
    variances, vectors = np.linalg.eigh(covariance)
    least = FLOOR * variances.mean()
    if not least > 0:
        raise ValueError("all points are the same")
    rank = min(rank, len(mean))
    rest = variances[: len(mean) - rank]
    return LowRankGaussian(
        mean,
        vectors.T[::-1][:rank].copy(),
        np.clip(variances[::-1][:rank], least, None),
        max(float(rest.mean()), least) if len(rest) else 1.0,
    )
