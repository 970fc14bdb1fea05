"""What is measured on masks of organs."""

import numpy as np
from numpy.typing import ArrayLike

SPECK = 0.1  # of the largest part: smaller parts of a mask are not of the organ


def cardiothoracic_ratio(heart: ArrayLike, *lungs: ArrayLike) -> float:
    """
    The greatest horizontal width of the heart over that of the thorax, for frontal radiographs of people upright.

    The heart's width is from its leftmost to its rightmost pixel, the sum of the greatest distances of its borders
    from the midline. The thorax's is estimated: on film it is measured between the inner sides of the ribs, here
    between the outer borders of the lungs, in the row where they are farthest apart. Parts of a mask with less than
    `SPECK` of the pixels of its largest part do not count.

    Args:
        heart: bool (height, width).
        lungs: One mask of both, or one each.

    Returns:
        NaN if a mask is empty, or in no row the lungs are on both sides of the heart's middle.

    Raises:
        ValueError: The masks are not bool, or not of one shape.
    """
    given = [np.asarray(mask) for mask in (heart, *lungs)]
    if len(given) < 2 or any(mask.dtype != bool or mask.ndim != 2 or mask.shape != given[0].shape for mask in given):
        kinds = ", ".join(f"{mask.dtype} {mask.shape}" for mask in given)
        raise ValueError(f"masks of the heart and of the lungs must be bool and of one shape, not {kinds}")
    if not all(mask.any() for mask in given):
        return float("nan")
    of_heart, *of_lungs = map(_without_specks, given)
    left, right = np.flatnonzero(of_heart.any(axis=0))[[0, -1]]
    both = np.logical_or.reduce(of_lungs)
    rows = both[both.any(axis=1)]
    first, last = rows.argmax(axis=1), rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)
    middle = (left + right) / 2
    widths = (last - first + 1)[(first < middle) & (last > middle)]
    return float((right - left + 1) / widths.max()) if len(widths) else float("nan")


def _without_specks(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import label

    parts, count = label(mask)
    if count == 1:
        return mask
    sizes = np.bincount(parts.ravel())
    kept = sizes >= SPECK * sizes[1:].max()
    kept[0] = False
    return kept[parts]
