"""Which rows of a training split a label-efficiency experiment uses: a share of them, a number, or k of each class."""

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

ORIGINALS_SEED = 99


def fraction_rows(num_rows: int, percent: float) -> np.ndarray:
    """
    The originals' subset (specification of the originals, section 4): the row numbers shuffled by `random.Random(99)`,
    of which the first `int(num_rows * percent / 100)` are taken, as published for 1, 10 and 25 percent.

    Subsets of one dataset are nested, and the same in every run.

    Args:
        num_rows: Rows of the split.
        percent: In (0, 100].

    Returns:
        int64 (rows,) in the shuffled order.

    Raises:
        ValueError: `percent` is outside its range, or the share is less than a row.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent must lie in (0, 100], got {percent}.")
    rows = np.arange(num_rows)
    random.Random(ORIGINALS_SEED).shuffle(rows)  # type: ignore[arg-type]
    taken = int(num_rows * percent / 100)
    if not taken:
        raise ValueError(f"{percent} percent of {num_rows} rows is less than one row.")
    return rows[:taken]


def drawn_rows(num_rows: int, count: int, seed: int) -> np.ndarray:
    """
    Random rows, int64 (count,) in the order in which they are drawn: fewer of the same seed are the first of more.

    Raises:
        ValueError: There are fewer rows.
    """
    if count > num_rows:
        raise ValueError(f"{count} images are asked for, but there are only {num_rows}.")
    return np.random.default_rng(seed).permutation(num_rows)[:count]


def rows_per_class(labels: ArrayLike, k: int, seed: int, names: Sequence[str] | None = None) -> np.ndarray:
    """
    Random rows in which every class has at least `k` images.

    A single column is a binary task: k rows that have the label and k that do not. Of several columns each counts the
    rows that have it, from the rarest to the commonest: rows that were drawn for another label count too, so that few
    rows more than needed are drawn. Classes that exclude each other (one column each) get exactly k.

    Args:
        labels: (rows, labels) in 0, 1, NaN (unknown, in no class).
        k: Images a class, at least 1.
        seed: Seed of the draw.
        names: What the columns are called in an error.

    Returns:
        int64 (chosen,) row numbers in rising order.

    Raises:
        ValueError: A class has fewer than k rows; the message says how many it has.
    """
    labels = np.asarray(labels, dtype=float)
    names = list(names) if names is not None else [f"label {column}" for column in range(labels.shape[1])]
    has = labels == 1
    if labels.shape[1] == 1:
        has, names = np.concatenate([has, labels == 0], axis=1), [names[0], f"not {names[0]}"]
    counts = has.sum(axis=0)
    few = [f"{name} {count}" for name, count in zip(names, counts, strict=True) if count < k]
    if few:
        raise ValueError(f"{k} images per class are asked for, but there are only: {', '.join(few)}.")
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for column in np.argsort(counts, kind="stable"):
        missing = k - int((has[:, column] & chosen).sum())
        if missing > 0:
            chosen[generator.choice(np.flatnonzero(has[:, column] & ~chosen), missing, replace=False)] = True
    return np.flatnonzero(chosen)
