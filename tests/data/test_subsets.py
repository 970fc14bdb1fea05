"""Which training images a label-efficiency experiment uses."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.data.subsets import fraction_rows, rows_per_class


@pytest.mark.parametrize("percent", [1, 10, 25, 33.3, 100])
def test_a_fraction_is_the_originals(percent):
    expected = list(range(1234))
    random.Random(99).shuffle(expected)
    assert fraction_rows(1234, percent).tolist() == expected[: int(1234 * percent / 100)]


def test_fractions_are_nested():
    assert set(fraction_rows(500, 10)) < set(fraction_rows(500, 25))


@pytest.mark.parametrize(
    "percent, match", [(0, "percent"), (101, "percent"), (-5, "percent"), (1, "less than one row")]
)
def test_impossible_fractions(percent, match):
    with pytest.raises(ValueError, match=match):
        fraction_rows(50, percent)


labels_of_classes = st.lists(st.integers(0, 3), min_size=1, max_size=60)


@given(labels_of_classes, st.integers(1, 4), st.integers(0, 5))
def test_exclusive_classes_get_exactly_k(classes, k, seed):
    labels = np.eye(4)[classes]
    counts = labels.sum(axis=0)
    if counts.min() < k:
        with pytest.raises(ValueError, match=f"{k} images per class"):
            rows_per_class(labels, k, seed)
        return
    rows = rows_per_class(labels, k, seed)
    assert labels[rows].sum(axis=0).tolist() == [k] * 4
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_a_binary_task_gets_k_of_each_and_nothing_unknown():
    labels = np.array([[1.0], [0.0], [np.nan], [1.0], [0.0], [0.0]])
    rows = rows_per_class(labels, 2, seed=3)
    assert len(rows) == 4 and labels[rows].sum() == 2
    assert set(rows_per_class(labels, 2, seed=0)) <= {0, 1, 3, 4, 5}


def test_several_labels_share_images():
    # The one image of the rare label also has the common one, which then lacks only one more
    labels = np.array([[1.0, 1.0], [0, 1], [0, 1], [0, 0], [0, np.nan]])
    assert rows_per_class(labels, 1, seed=0).tolist() == [0]
    labels[1, 0] = 1
    for seed in range(5):
        assert rows_per_class(labels, 2, seed=seed).tolist() == [0, 1]


def test_seeds_draw_other_images_and_again_the_same():
    labels = np.eye(2)[np.arange(200) % 2]
    first = rows_per_class(labels, 5, seed=0)
    assert first.tolist() == rows_per_class(labels, 5, seed=0).tolist()
    assert first.tolist() != rows_per_class(labels, 5, seed=1).tolist()


def test_too_few_are_counted_by_name():
    labels = np.array([[1.0, 0], [1, 0], [0, 1]])
    with pytest.raises(ValueError, match=r"2 images per class are asked for, but there are only: Edema 1\."):
        rows_per_class(labels, 2, seed=0, names=["Normal", "Edema"])
    with pytest.raises(ValueError, match=r"only: not TB 1\."):
        rows_per_class(np.array([[1.0], [1], [0]]), 2, seed=0, names=["TB"])
