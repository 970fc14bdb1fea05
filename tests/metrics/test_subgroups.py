"""Subgroup results: against scikit-learn, and gaps whose intervals find a planted bias and no other."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import recall_score, roc_auc_score

from ark_hf.metrics.subgroups import AGE_BANDS, age_band, group_names, subgroup_results


def draw(rng, count, shift_of_group=0.0, prevalence=0.3, images_a_patient=1):
    """Labels, scores of AUROC 0.8 or so (less for group F by the shift), groups and patients."""
    patients = np.arange(count) // images_a_patient
    group = rng.integers(0, 2, patients.max() + 1)[patients]
    labels = (rng.random(count) < prevalence).astype(float)
    effect = rng.normal(0, 0.5, patients.max() + 1)[patients] if images_a_patient > 1 else 0
    scores = rng.normal(labels * (1.2 - shift_of_group * group), 1) + effect
    return labels[:, None], scores[:, None], np.where(group == 1, "F", "M"), patients.tolist()


def test_groups_against_scikit_learn():
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 3)) < [0.5, 0.3, 0.1]).astype(float)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    scores = rng.normal(np.nan_to_num(labels), 1)
    groups = rng.choice(["a", "b", "unknown", "c"], 400)
    thresholds = [0.2, 0.7, 1.0]
    results = subgroup_results(labels, scores, thresholds, ["x", "y", "z"], groups, num_bootstrap=20, min_cases=2)
    assert [result.label for result in results] == ["x", "y", "z", "mean"]
    for column, result in enumerate(results[:3]):
        assert [group.group for group in result.groups] == ["a", "b", "c", "unknown"]
        aurocs, misses = [], []
        for group in result.groups:
            inside = (groups == group.group) & ~np.isnan(labels[:, column])
            outside = (groups != group.group) & ~np.isnan(labels[:, column])
            label, score = labels[inside, column], scores[inside, column]
            aurocs.append(roc_auc_score(label, score))
            rest = roc_auc_score(labels[outside, column], scores[outside, column])
            assert group.auroc.value == pytest.approx(aurocs[-1], abs=1e-12)
            assert group.difference.value == pytest.approx(aurocs[-1] - rest, abs=1e-12)
            misses.append(recall_score(label, score >= thresholds[column]))
            assert group.sensitivity.value == pytest.approx(misses[-1], abs=1e-12)
            specificity = recall_score(1 - label, score < thresholds[column])
            assert group.specificity.value == pytest.approx(specificity, abs=1e-12)
            assert (group.num_known, group.num_positive) == (inside.sum(), label.sum())
            assert group.num_images == (groups == group.group).sum() and group.num_patients is None
            assert group.auroc.low < group.auroc.value < group.auroc.high
        assert result.auroc_gap.value == pytest.approx(max(aurocs) - min(aurocs), abs=1e-12)
        assert result.sensitivity_gap.value == pytest.approx(max(misses) - min(misses), abs=1e-12)
    mean = results[3]
    assert mean.labels == ["x", "y", "z"]
    for number, group in enumerate(mean.groups):
        assert group.auroc.value == pytest.approx(np.mean([r.groups[number].auroc.value for r in results[:3]]))
        assert group.num_positive == sum(r.groups[number].num_positive for r in results[:3])


def test_a_planted_bias_is_found_and_equal_groups_are_not_told_apart():
    """Each gap's interval holds the true gap in nearly all of 60 simulations; that of equal groups contains 0."""
    covered = {0.0: 0, 0.9: 0}
    excludes_0 = {0.0: 0, 0.9: 0}
    for shift in covered:
        rng = np.random.default_rng(7)
        labels, scores, groups, _ = draw(rng, 100_000, shift, images_a_patient=2)
        true = np.abs(np.diff([roc_auc_score(labels[groups == g, 0], scores[groups == g, 0]) for g in "FM"]))[0]
        true = 0.0 if shift == 0 else true
        for seed in range(60):
            *arrays, groups, patients = draw(np.random.default_rng(seed), 600, shift, images_a_patient=2)
            (result,) = subgroup_results(
                *arrays, [0.5], ["x"], groups, clusters=patients, num_bootstrap=100, seed=seed
            )
            gap = result.auroc_gap
            covered[shift] += gap.low <= true <= gap.high
            excludes_0[shift] += gap.low > 0
    assert covered[0.0] >= 52 and covered[0.9] >= 52
    assert excludes_0[0.0] <= 8 and excludes_0[0.9] >= 56


def test_many_equal_groups_do_not_make_a_gap():
    """The best of eight groups beats the worst by much, whatever the model; the interval knows."""
    excludes_0 = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        labels = (rng.random((800, 1)) < 0.4).astype(float)
        scores = rng.normal(labels, 1)
        groups = [f"ward {number}" for number in rng.integers(0, 8, 800)]
        (result,) = subgroup_results(labels, scores, [0.5], ["x"], groups, num_bootstrap=100, seed=seed)
        assert result.auroc_gap.value > 0.03
        excludes_0 += result.auroc_gap.low > 0
    assert excludes_0 <= 4


def test_patients_are_resampled_whole():
    """Every image four times over: the interval of patients is that of the single images, not half as wide."""
    labels, scores, groups, _ = draw(np.random.default_rng(3), 300)
    (once,) = subgroup_results(labels, scores, [0.5], ["x"], groups, clusters=list(range(300)), num_bootstrap=300)
    four = [np.repeat(each, 4, axis=0) for each in (labels, scores, groups)]
    patients = np.repeat(np.arange(300), 4).tolist()
    (copies,) = subgroup_results(*four[:2], [0.5], ["x"], four[2], clusters=patients, num_bootstrap=300)
    assert copies.auroc_gap == once.auroc_gap
    for one, other in zip(once.groups, copies.groups, strict=True):
        assert other.auroc == one.auroc and other.sensitivity == one.sensitivity
        assert other.num_images == 4 * one.num_images and other.num_patients == one.num_patients == one.num_images


def test_a_group_with_few_cases_is_listed_but_makes_no_gap():
    labels, scores, groups, _ = draw(np.random.default_rng(1), 200)
    groups = groups.astype("<U8")
    groups[:5], labels[:5, 0], scores[:5, 0] = "tiny", [1, 0, 0, 0, 0], [-9, 1, 2, 3, 4]
    groups[5:8], labels[5:8, 0] = "healthy", 0
    (result,) = subgroup_results(labels, scores, [0.5], ["x"], groups, num_bootstrap=50)
    found = {group.group: group for group in result.groups}
    assert found["tiny"].auroc.value == 0 and not found["tiny"].compared
    assert math.isnan(found["healthy"].auroc.value) and found["healthy"].num_images == 3
    assert math.isnan(found["healthy"].sensitivity.value) and not math.isnan(found["healthy"].specificity.value)
    expected = abs(found["F"].auroc.value - found["M"].auroc.value)
    assert result.auroc_gap.value == pytest.approx(expected) and found["F"].compared and found["M"].compared


def test_the_mean_compares_groups_over_the_same_labels():
    """A hard label that one group lacks must not make the other look worse."""
    rng = np.random.default_rng(5)
    labels = (rng.random((600, 3)) < 0.4).astype(float)
    scores = rng.normal(labels * [3, 3, 0], 1)
    groups = rng.choice(["F", "M"], 600)
    labels[groups == "F", 2] = 0
    results = subgroup_results(labels, scores, [1, 1, 1], ["a", "b", "hard"], groups, num_bootstrap=50)
    assert results[-1].label == "mean" and results[-1].labels == ["a", "b"]
    assert results[-1].auroc_gap.value < 0.05 and math.isnan(results[2].auroc_gap.value)
    only = subgroup_results(labels, scores, [1, 1, 1], ["a", "b", "hard"], groups, [1], num_bootstrap=50)
    assert only[-1].labels == ["b"] and only[-1].groups[0].auroc == only[1].groups[0].auroc


def test_a_label_without_scores_or_a_lone_group_is_undefined_not_an_error():
    labels, scores, groups, _ = draw(np.random.default_rng(2), 100)
    (result,) = subgroup_results(labels, scores, [0.5], ["x"], ["all"] * 100, num_bootstrap=10)
    assert math.isnan(result.auroc_gap.value) and math.isnan(result.groups[0].difference.value)
    (result,) = subgroup_results(labels, scores * np.nan, [0.5], ["x"], groups, num_bootstrap=10)
    assert math.isnan(result.groups[0].auroc.value) and math.isnan(result.groups[0].sensitivity.value)
    assert result.groups[0].num_positive == labels[groups == "F"].sum()
    (result,) = subgroup_results(labels, scores, [0.5], ["x"], groups, num_bootstrap=0)
    assert result.groups[0].auroc.value > 0.5 and math.isnan(result.auroc_gap.low)
    with pytest.raises(ValueError, match="one name per image: 100, not 3"):
        subgroup_results(labels, scores, [0.5], ["x"], ["all"] * 3)


@given(st.floats(0, 129.9))
def test_an_age_falls_into_the_band_that_names_it(age):
    low, _, high = age_band(age).replace("+", "-1000").partition("-")
    assert int(low) <= int(age) <= int(high)


def test_what_is_not_known_is_a_group():
    assert group_names([None, float("nan"), -1.0, 130.0, 17.9, 18.0, 80.0], "age") == [
        "unknown", "unknown", "unknown", "unknown", "0-17", "18-39", "80+",
    ]  # fmt: skip
    assert group_names(["F", "", None, "M"], "sex") == ["F", "unknown", "unknown", "M"]
    assert list(AGE_BANDS) == sorted(AGE_BANDS)


def test_rare_labels_do_not_keep_groups_from_being_compared_on_the_mean():
    rng = np.random.default_rng(6)
    labels = (rng.random((300, 5)) < [0.4, 0.4, 0.02, 0.02, 0.02]).astype(float)
    scores = rng.normal(labels, 1)
    groups = rng.choice(["F", "M", "unknown"], 300, p=[0.48, 0.48, 0.04])
    mean = subgroup_results(labels, scores, [1] * 5, list("abcde"), groups, num_bootstrap=20)[-1]
    assert mean.labels == ["a", "b"]
    assert [group.compared for group in mean.groups] == [True, True, False]
    few = subgroup_results(labels[:30], scores[:30], [1] * 5, list("abcde"), groups[:30], num_bootstrap=20)[-1]
    assert few.labels == [] and not any(group.compared for group in few.groups)
    assert math.isnan(few.auroc_gap.value) and math.isnan(few.groups[0].auroc.value)
