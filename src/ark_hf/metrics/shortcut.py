"""How far an image's size, shape and grey levels alone go: the baseline that stands beside every AUROC on real data.

A data set whose classes come from different hospitals, scanners or export scripts can be solved without looking at a
lung. A model says something about disease only as far as it beats this baseline.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

SHORTCUT_STATISTICS = (
    "width",
    "height",
    "aspect_ratio",
    "mean",
    "std",
    "percentile_5",
    "percentile_50",
    "percentile_95",
    "dark_fraction",
    "bright_fraction",
)
# Of a volume, x to the patient's left, y to the back, z to the head: voxels, spacing in mm, values in their own unit
VOLUME_STATISTICS = (
    "voxels_x",
    "voxels_y",
    "voxels_z",
    "spacing_x",
    "spacing_y",
    "spacing_z",
    "mean",
    "std",
    "percentile_5",
    "percentile_50",
    "percentile_95",
)
MAX_LEVELS = 2**20
# Detectors' depths: a uint16 array says how many bits hold it, not how many the detector had.
BIT_DEPTHS = (8, 10, 12, 14, 15, 16)  # as in the image processor, whose file imports nothing of ours


def image_statistics(image: Image.Image | np.ndarray) -> np.ndarray:
    """The ten `SHORTCUT_STATISTICS` of one radiograph.

    Args:
        image: PIL image (colour is turned to grey), or uint8 or uint16 array, (H, W) or (1, H, W).

    Returns:
        float64 (10,). Width and height in pixels, aspect ratio = width / height. Grey levels are on a [0, 1] scale:
        uint8 is divided by 255, uint16 by 2^n - 1, n the smallest of 8, 10, 12, 14, 15, 16 that holds the maximum;
        dark pixels lie below 0.1, bright ones above 0.9.

    Raises:
        ValueError: another shape or type, or no pixels.
    """
    pixels = _grey_pixels(image)
    height, width = pixels.shape
    histogram, white = _histogram(pixels), full_scale(pixels)
    levels = np.flatnonzero(histogram)
    counts, grey = histogram[levels], levels / white
    # Sums of whole numbers are exact, so that the numbers are the same on every machine
    total, squares = int(counts @ levels), int(counts @ levels**2)
    return np.array(
        [
            width,
            height,
            width / height,
            total / (white * pixels.size),
            math.sqrt(squares * pixels.size - total**2) / (white * pixels.size),
            *(_percentile(grey, counts, percent) for percent in (5, 50, 95)),
            counts[grey < 0.1].sum() / pixels.size,
            counts[grey > 0.9].sum() / pixels.size,
        ]
    )


def volume_statistics(voxels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The eleven `VOLUME_STATISTICS` of one volume.

    Args:
        voxels: (X, Y, Z) numbers, of CT Hounsfield units.
        spacing: Of these axes in mm.

    Returns:
        float64 (11,). Of whole numbers they are the same on every machine.
    """
    if voxels.dtype.kind in "iu" and int(voxels.max()) - int(voxels.min()) < MAX_LEVELS:
        low, high = int(voxels.min()), int(voxels.max())
        counts = np.zeros(high - low + 1, dtype=np.int64)
        for plane in voxels.T:
            counts += np.bincount(np.subtract(plane, low, dtype=np.int64).ravel(), minlength=len(counts))
        levels = np.flatnonzero(counts)
        counts = counts[levels]
        total, squares = int(counts @ levels), int(counts @ levels**2)
        mean = low + total / voxels.size
        std = math.sqrt(squares * voxels.size - total**2) / voxels.size
        percentiles = [_percentile(levels + low, counts, percent) for percent in (5, 50, 95)]
    else:
        mean, std = float(voxels.mean(dtype=np.float64)), float(voxels.std(dtype=np.float64))
        percentiles = np.percentile(voxels, [5, 50, 95]).tolist()
    return np.array([*voxels.shape, *spacing, mean, std, *percentiles], dtype=np.float64)


def full_scale(pixels: np.ndarray) -> int:
    """The white of a uint8 or uint16 image: 255, or 2^n - 1, n the smallest of `BIT_DEPTHS` that holds the maximum."""
    highest = int(pixels.max())
    return 255 if pixels.dtype.itemsize == 1 else next(2**n - 1 for n in BIT_DEPTHS if highest < 2**n)


def shortcut_baseline(train_statistics: ArrayLike, train_labels: ArrayLike, test_statistics: ArrayLike) -> np.ndarray:
    """Scores of one logistic regression per label on standardised image statistics.

    Args:
        train_statistics: (n_train, k) finite, rows of `image_statistics`.
        train_labels: (n_train, num_labels) 0, 1 or NaN for unknown; unknown rows are left out of that label's fit.
        test_statistics: (n_test, k) finite.

    Returns:
        float64 (n_test, num_labels) probabilities in [0, 1]. The column of a label with only one class in train is
        NaN, which `label_table` reports as undefined.

    Raises:
        ValueError: shapes that do not fit together, non-finite statistics, or labels outside {0, 1, NaN}.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train_statistics, test_statistics = np.asarray(train_statistics, float), np.asarray(test_statistics, float)
    train_labels = np.asarray(train_labels, float)
    if (
        train_statistics.ndim != 2
        or test_statistics.ndim != 2
        or train_statistics.shape[1] != test_statistics.shape[1]
    ):
        raise ValueError(
            "train_statistics and test_statistics must be (n_train, k) and (n_test, k), "
            f"not {train_statistics.shape} and {test_statistics.shape}"
        )
    if train_labels.ndim != 2 or len(train_labels) != len(train_statistics):
        raise ValueError(f"train_labels must be ({len(train_statistics)}, num_labels), not {train_labels.shape}")
    if not (np.isfinite(train_statistics).all() and np.isfinite(test_statistics).all()):
        raise ValueError("train_statistics and test_statistics must be finite")
    if not (np.isnan(train_labels) | (train_labels == 0) | (train_labels == 1)).all():
        raise ValueError("train_labels must be 0, 1 or NaN (unknown)")

    scores = np.full((len(test_statistics), train_labels.shape[1]), np.nan)
    for column, labels in enumerate(train_labels.T):
        known = ~np.isnan(labels)
        if len(np.unique(labels[known])) < 2 or len(test_statistics) == 0:
            continue
        scaler = StandardScaler().fit(train_statistics[known])
        model = LogisticRegression(max_iter=1000).fit(scaler.transform(train_statistics[known]), labels[known])
        scores[:, column] = model.predict_proba(scaler.transform(test_statistics))[:, 1]
    return scores


def _grey_pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    """(H, W) unsigned integers of one or two bytes."""
    if isinstance(image, Image.Image) and image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        image = image.convert("L")
    pixels = np.asarray(image)
    # Pillow opens some 16-bit files as 32-bit mode "I", which its own conversion would clip to white.
    if pixels.dtype == np.int32 and pixels.size and pixels.min() >= 0 and pixels.max() < 2**16:
        pixels = pixels.astype(np.uint16)
    if pixels.ndim == 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 2 or pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
        raise ValueError(f"image must be uint8 or uint16, (H, W) or (1, H, W), not {pixels.dtype} {pixels.shape}")
    if pixels.size == 0:
        raise ValueError(f"image has no pixels: {pixels.shape}")
    return pixels


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """int64: how many pixels have each grey level."""
    if pixels.dtype.itemsize == 1:
        return np.array(Image.fromarray(pixels).histogram())  # a tenth of the time of numpy's
    return np.bincount(pixels.ravel())


def _percentile(grey: np.ndarray, counts: np.ndarray, percent: int) -> float:
    """What `np.percentile` gives, to the last bit, of sorted values that occur `counts` times."""
    ends = counts.cumsum()
    rank = percent / 100 * (ends[-1] - 1)
    below, above = grey[np.searchsorted(ends, [math.floor(rank), math.ceil(rank)], side="right")]
    share = rank - math.floor(rank)
    step = above - below
    return below + step * share if share < 0.5 else above - step * (1 - share)
