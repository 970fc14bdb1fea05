"""Dice, IoU and border distance against cases by hand and slow loops; means, intervals and paired differences."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ark_hf.metrics.overlap import compare_overlap, dice, hausdorff_distance, iou, overlap_results

masks = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))


def draw(case) -> tuple[np.ndarray, np.ndarray]:
    height, width, seed, share, other = case
    random = np.random.default_rng(seed)
    return random.random((height, width)) < share, random.random((height, width)) < other


def slow_distance(a: np.ndarray, b: np.ndarray, percentile: float, spacing) -> float:
    """By definition: all pairs of border pixels, which are those that erosion by a cross removes."""
    cross = ndimage.generate_binary_structure(a.ndim, 1)
    points = [
        np.argwhere(mask & ~ndimage.binary_erosion(mask, cross, border_value=0)) * np.asarray(spacing)
        for mask in (a, b)
    ]
    if not all(map(len, points)):
        return math.nan
    apart = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    return max(np.percentile(apart.min(axis=1), percentile), np.percentile(apart.min(axis=0), percentile))


def test_by_hand():
    a, b = np.zeros((2, 4, 4), dtype=bool)
    a[1:3, 1:3] = True
    b[1:3, 2:4] = True
    assert dice(a, b) == 0.5 and iou(a, b) == 2 / 6
    assert hausdorff_distance(a, b) == 1 and hausdorff_distance(a, b, spacing=(0.2, 0.14)) == pytest.approx(0.14)
    known = np.ones_like(a)
    known[:, 3] = False
    assert dice(a, b, known) == 2 * 2 / (4 + 2) and iou(a, b, known) == 0.5


def test_one_pixel_far_off_moves_the_maximum_and_not_the_percentile():
    a = np.zeros((60, 60), dtype=bool)
    a[10:40, 10:40] = True
    b = a.copy()
    b[55, 10] = True
    assert hausdorff_distance(a, b) == 0
    assert hausdorff_distance(a, b, percentile=100) == 16


def test_of_an_absent_structure_all_is_undefined_and_of_a_missed_one_the_distance():
    empty, full = np.zeros((3, 3), dtype=bool), np.ones((3, 3), dtype=bool)
    assert all(map(math.isnan, (dice(empty, empty), iou(empty, empty), hausdorff_distance(empty, empty))))
    for pair in ((empty, full), (full, empty)):
        assert dice(*pair) == iou(*pair) == 0 and math.isnan(hausdorff_distance(*pair))


@given(masks, st.sampled_from([50.0, 95.0, 99.0, 100.0]), st.sampled_from([(1.0, 1.0), (0.3, 1.7)]))
@settings(max_examples=150, deadline=None)
def test_equal_to_the_definition(case, percentile, spacing):
    a, b = draw(case)
    shared, either = (a & b).sum(), (a | b).sum()
    if either:
        assert dice(a, b) == pytest.approx(2 * shared / (a.sum() + b.sum())) and iou(a, b) == shared / either
    expected = slow_distance(a, b, percentile, spacing)
    assert hausdorff_distance(a, b, percentile, spacing) == pytest.approx(expected, nan_ok=True)
    assert hausdorff_distance(b, a, percentile, spacing) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("shape", [(96, 80), (24, 20, 16)])
def test_large_and_speckled_masks_equal_the_definition(shape, noise):
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    a, b = (grid**2).sum(axis=0) < 0.5, ((grid - 0.1) ** 2).sum(axis=0) < 0.4
    a ^= random.random(shape) < noise
    spacing = np.linspace(0.5, 1.5, len(shape))
    assert hausdorff_distance(a, b, spacing=spacing) == pytest.approx(slow_distance(a, b, 95, spacing), rel=1e-12)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.zeros((2, 2)), np.zeros((2, 2), dtype=bool)), "must be bool"),
        ((np.zeros((2, 2), dtype=bool), np.zeros((2, 3), dtype=bool)), r"\(2, 3\)"),
        ((np.zeros((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool), 95, (1.0,)), "2 positive numbers"),
        ((np.zeros((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool), 0), "percentile"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        hausdorff_distance(*arguments)


def test_means_are_over_what_is_defined_and_the_mean_is_of_labels():
    scores = np.array([[0.9, math.nan], [0.7, 0.5], [0.8, math.nan]])
    lungs, heart, mean = overlap_results(["lungs", "heart"], scores, ["p", "p", "q"])
    assert (lungs.mean, lungs.median, lungs.num_defined, lungs.num_clusters) == (pytest.approx(0.8), 0.8, 3, 2)
    assert (heart.mean, heart.num_defined, heart.num_clusters) == (0.5, 1, 1)
    assert (mean.label, mean.mean, mean.num_defined) == ("mean", pytest.approx(0.65), 3)
    assert overlap_results(["a"], [[math.nan]])[0].num_defined == 0


def test_intervals_resample_patients():
    random = np.random.default_rng(0)
    by_patient = np.repeat(random.normal(0.8, 0.1, 30), 10)  # ten images of each, all alike
    clusters = np.repeat(np.arange(30), 10)
    wide = overlap_results(["a"], by_patient[:, None], clusters)[0]
    narrow = overlap_results(["a"], by_patient[:, None])[0]
    expected = 2 * 1.96 * by_patient[::10].std() / math.sqrt(30)
    assert wide.ci_high - wide.ci_low == pytest.approx(expected, rel=0.15)
    assert wide.ci_high - wide.ci_low > 2.5 * (narrow.ci_high - narrow.ci_low)


def test_a_paired_difference_is_found_where_single_intervals_overlap_and_not_where_there_is_none():
    random = np.random.default_rng(0)
    a = random.normal(0.8, 0.1, (60, 2))
    b = a + random.normal([0.02, 0.0], 0.02, (60, 2))
    a[0, 1] = b[1, 1] = math.nan
    better, same, mean = compare_overlap(["x", "y"], a, b)
    assert better.ci_low > 0 and better.p_value < 0.01 and better.num_defined == 60
    assert same.ci_low < 0 < same.ci_high and same.p_value > 0.05 and same.num_defined == 58
    assert mean.difference == pytest.approx((better.difference + same.difference) / 2) and mean.num_defined == 60
    both = ~np.isnan(a[:, 1] + b[:, 1])
    assert (same.mean_a, same.mean_b) == pytest.approx((a[both, 1].mean(), b[both, 1].mean()))
    with pytest.raises(ValueError, match="same images"):
        compare_overlap(["x", "y"], a, b[:5])
