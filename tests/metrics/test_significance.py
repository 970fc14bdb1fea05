import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ark_hf.metrics.auroc import auroc, bootstrap_aurocs, label_table, mean_auroc
from ark_hf.metrics.significance import compare_models, compare_seeds, delong_interval, delong_test, holm

NAN = float("nan")

# Ratings of 109 CT images from 1, surely normal, to 5, surely abnormal (Hanley & McNeil, Radiology 143, 1982)
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)

# Ovarian cancer with obstruction (DeLong et al. 1988, as in the SAS/STAT manual): albumin, total protein, K-G score
# and whether surgery helped
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def definition(labels, scores):
    """DeLong's structural components from all pairs."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return wins.mean(), wins.mean(axis=1), wins.mean(axis=0)


def covariance_of_the_paper(labels, scores):
    """(k, k) covariance S = S10 / m + S01 / n of the AUROCs of k score columns."""
    components = [definition(labels, column) for column in scores]
    of_positives, of_negatives = (np.stack([each[part] for each in components]) for part in (1, 2))
    return np.cov(of_positives) / of_positives.shape[1] + np.cov(of_negatives) / of_negatives.shape[1]


@st.composite
def two_models(draw):
    """Coarse scores of two models, many ties, unknown labels, at least two images of each class."""
    n = draw(st.integers(4, 30))
    labels = np.array(
        [0.0, 1, 0, 1] + draw(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=n - 4, max_size=n - 4))
    )
    columns = [draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n)) for _ in range(2)]
    return labels, np.array(columns, dtype=float)


def patients_with_images(rng, num_patients=50, images=4, shift_a=1.2, shift_b=1.2):
    """Disease is the patient's; two models that share the patient's habitus; true AUROCs follow from the shifts."""
    disease = np.repeat(rng.permutation(num_patients) < num_patients // 2, images).astype(float)
    habitus = np.repeat(rng.normal(size=(num_patients, 3)), images, axis=0)
    noise = 0.3 * rng.normal(size=(2, len(disease)))
    scores_a = shift_a * disease + 0.6 * habitus[:, 0] + 0.8 * habitus[:, 1] + noise[0]
    scores_b = shift_b * disease + 0.6 * habitus[:, 0] + 0.8 * habitus[:, 2] + noise[1]
    return disease, scores_a, scores_b, np.repeat(np.arange(num_patients), images)


def true_auroc(shift):
    return 0.5 * (1 + math.erf(shift / math.sqrt(2 * (1 + 0.3**2)) / math.sqrt(2)))


def test_published_example_of_one_curve():
    """Stata's manual prints 0.8932, standard error 0.0307, 0.83295 to 0.95339 for these ratings."""
    labels = np.repeat([0, 1], [sum(NORMAL), sum(ABNORMAL)])
    ratings = np.concatenate([np.repeat(range(1, 6), NORMAL), np.repeat(range(1, 6), ABNORMAL)])
    area, low, high = delong_interval(labels, ratings)
    assert (round(area, 4), round(low, 5), round(high, 5)) == (0.8932, 0.83295, 0.95339)
    assert round((high - low) / 2 / 1.959964, 4) == 0.0307


def test_published_example_of_correlated_curves():
    """SAS prints 0.7258, standard error 0.1028, 0.5243 to 0.9273 for the K-G score; tests are the paper's formula."""
    albumin, protein, score, labels = np.array(OVARIAN.split(), dtype=float).reshape(-1, 4).T
    area, low, high = delong_interval(labels, -score)
    assert (round(area, 4), round(low, 4), round(high, 4)) == (0.7258, 0.5243, 0.9273)
    assert round((high - low) / 2 / 1.959964, 4) == 0.1028
    covariance = covariance_of_the_paper(labels, [-score, albumin, protein])
    for number, other in enumerate([albumin, protein], start=1):
        result = delong_test(labels, -score, other)
        contrast = np.eye(3)[number] - np.eye(3)[0]
        error = math.sqrt(contrast @ covariance @ contrast)
        assert result.difference == pytest.approx(auroc(labels, other) - area)
        assert result.ci_high - result.ci_low == pytest.approx(2 * 1.959964 * error, rel=1e-6)
        assert result.p_value == pytest.approx(math.erfc(abs(result.difference) / error / math.sqrt(2)), rel=1e-9)
        assert 0.4 < result.p_value < 0.95


@given(two_models())
def test_equal_to_the_definition_over_all_pairs(case):
    labels, (scores_a, scores_b) = case
    known = ~np.isnan(labels)
    covariance = covariance_of_the_paper(labels[known], [scores_a[known], scores_b[known]])
    area, low, high = delong_interval(labels, scores_a, confidence=0.5)
    assert area == pytest.approx(definition(labels[known], scores_a[known])[0])
    margin = 0.6744897501960817 * math.sqrt(covariance[0, 0])
    assert (low, high) == pytest.approx((max(area - margin, 0), min(area + margin, 1)), abs=1e-9)
    error = math.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0))
    result = delong_test(labels, scores_a, scores_b, confidence=0.5)
    assert result.ci_high - result.ci_low == pytest.approx(2 * 0.6744897501960817 * error, abs=1e-7)
    assert (result.num_known, result.num_positive) == (known.sum(), (labels == 1).sum())
    if error > 1e-6:
        assert result.p_value == pytest.approx(math.erfc(abs(result.difference) / error / math.sqrt(2)), abs=1e-6)


@settings(max_examples=50)
@given(two_models())
def test_scales_do_not_matter_and_swapping_the_models_flips_the_sign(case):
    labels, (scores_a, scores_b) = case
    result = delong_test(labels, scores_a, scores_b)
    scaled = delong_test(labels, np.exp(scores_a), scores_b**3 - 7)
    np.testing.assert_equal(asdict(scaled), asdict(result))
    swapped = delong_test(labels, scores_b, scores_a)
    assert (swapped.difference, swapped.ci_low) == pytest.approx((-result.difference, -result.ci_high), nan_ok=True)
    assert swapped.p_value == pytest.approx(result.p_value, nan_ok=True)
    assert delong_interval(labels, np.exp(scores_a)) == pytest.approx(delong_interval(labels, scores_a))


@settings(max_examples=50)
@given(two_models())
def test_patients_of_one_image_each_are_delongs_independent_images(case):
    labels, (scores_a, scores_b) = case
    named = [f"p{number}" for number in range(len(labels))]
    assert delong_interval(labels, scores_a, clusters=named) == delong_interval(labels, scores_a)
    named[0], named[1] = None, ""
    assert delong_interval(labels, scores_a, clusters=named) == delong_interval(labels, scores_a)


def test_copies_of_images_do_not_shrink_the_clustered_interval():
    rng = np.random.default_rng(0)
    labels, scores = np.repeat([0, 1], 40), np.repeat([0, 1], 40) + rng.normal(size=80)
    once = delong_interval(labels, scores)
    copied = delong_interval(np.tile(labels, 5), np.tile(scores, 5), clusters=list(range(80)) * 5)
    assert copied == pytest.approx(once, abs=1e-12)
    naive = delong_interval(np.tile(labels, 5), np.tile(scores, 5))
    assert naive[2] - naive[1] < 0.5 * (once[2] - once[1])


@pytest.mark.parametrize("mixed", [True, False])
def test_clustered_standard_error_is_the_bootstraps(mixed):
    """If patients have images of both classes, their habitus cancels, which takes Obuchowski's covariance term."""
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(400), 2)
    labels = np.tile([0.0, 1.0], 400) if mixed else np.repeat([0.0, 1.0], 400)
    scores = labels + np.repeat(rng.normal(size=400), 2) + 0.5 * rng.normal(size=800)
    _, low, high = delong_interval(labels, scores, clusters=patients)
    deviation = bootstrap_aurocs(labels[:, None], scores[:, None], patients, 2000).std()
    assert (high - low) / 2 / 1.959964 == pytest.approx(deviation, rel=0.06)
    unclustered = delong_interval(labels, scores)
    ratio = (high - low) / (unclustered[2] - unclustered[1])
    assert ratio < 0.7 if mixed else ratio > 1.2


@pytest.mark.slow_ci
def test_coverage_and_false_positives_by_simulation():
    """Clustered intervals cover, and paired tests err, as often as they say; images taken as independent do not."""
    rng = np.random.default_rng(2)
    runs, truth = 300, true_auroc(1.2)
    covered, rejected = {True: 0, False: 0}, {"delong": 0, "images": 0, "bootstrap": 0, "mean": 0}
    for _ in range(runs):
        disease, scores_a, scores_b, patients = patients_with_images(rng)
        for clustered in covered:
            _, low, high = delong_interval(disease, scores_a, clusters=patients if clustered else None)
            covered[clustered] += low <= truth <= high
        rejected["delong"] += delong_test(disease, scores_a, scores_b, clusters=patients).p_value < 0.05
        rejected["images"] += delong_test(disease, scores_a, scores_b).p_value < 0.05
        label, mean = compare_models(
            disease[:, None], scores_a[:, None], scores_b[:, None], ["x"], None, patients, num_bootstrap=200
        )
        rejected["bootstrap"] += label.p_value < 0.05
        rejected["mean"] += not mean.ci_low <= 0 <= mean.ci_high
    # Three standard deviations of a share of 5 % in 300 runs are 3.8 %
    assert 0.91 <= covered[True] / runs <= 0.985
    assert covered[False] / runs < 0.75
    for test in ("delong", "bootstrap", "mean"):
        assert 0.01 <= rejected[test] / runs <= 0.09, rejected
    assert rejected["images"] / runs > 0.2


def test_a_better_model_is_found():
    rng = np.random.default_rng(3)
    disease, scores_a, scores_b, patients = patients_with_images(rng, num_patients=300, shift_a=0.8, shift_b=1.6)
    noise = rng.normal(size=(2, len(disease)))
    labels = np.stack([disease, disease], axis=1)
    both_a, both_b = np.stack([scores_a, noise[0]], axis=1), np.stack([scores_b, noise[1]], axis=1)
    result, nothing, mean = compare_models(labels, both_a, both_b, ["x", "y"], None, patients)
    assert result.difference == pytest.approx(auroc(disease, scores_b) - auroc(disease, scores_a))
    assert 0 < result.ci_low < result.difference < result.ci_high
    assert result.p_value < 0.001 and result.p_adjusted == pytest.approx(2 * result.p_value)
    assert nothing.ci_low < 0 < nothing.ci_high and nothing.p_adjusted == nothing.p_value > 0.05
    assert mean.label == "mean" and mean.ci_low > 0
    assert mean.difference == pytest.approx((result.difference + nothing.difference) / 2)


def two_tables(seed=0, num_labels=3):
    rng = np.random.default_rng(seed)
    patients = [f"p{number // 2}" for number in range(120)]
    labels = (rng.random((120, num_labels)) < 0.3).astype(float)
    scores = [np.round(labels + rng.normal(size=labels.shape), 1) for _ in range(2)]
    labels[rng.random(labels.shape) < 0.1] = NAN
    return labels, *scores, patients


def test_comparison_is_the_difference_of_the_two_bootstraps():
    labels, scores_a, scores_b, patients = two_tables()
    results = compare_models(labels, scores_a, scores_b, ["a", "b", "c"], [0, 2], patients, 100, 0.9, seed=4)
    assert [result.label for result in results] == ["a", "b", "c", "mean"]
    bootstrap_a, bootstrap_b = (bootstrap_aurocs(labels, scores, patients, 100, 4) for scores in (scores_a, scores_b))
    differences = bootstrap_b - bootstrap_a
    tables = [label_table(labels, scores, ["a", "b", "c"], num_bootstrap=0) for scores in (scores_a, scores_b)]
    for column, (result, a, b) in enumerate(zip(results, *tables, strict=False)):
        assert (result.auroc_a, result.auroc_b) == (a.auroc, b.auroc)
        assert (result.num_known, result.num_positive) == (a.num_known, a.num_positive)
        expected = np.percentile(differences[:, column], [5, 95])
        np.testing.assert_allclose([result.ci_low, result.ci_high], expected)
    mean = results[-1]
    assert mean.auroc_a == pytest.approx(mean_auroc(labels[:, [0, 2]], scores_a[:, [0, 2]], num_bootstrap=0).auroc)
    expected = np.percentile(differences[:, [0, 2]].mean(axis=1), [5, 95])
    np.testing.assert_allclose([mean.ci_low, mean.ci_high], expected)
    assert mean.num_known == (~np.isnan(labels[:, [0, 2]])).any(axis=1).sum()
    assert mean.num_positive == (labels[:, [0, 2]] == 1).any(axis=1).sum()


def test_swapped_models_and_equal_models():
    labels, scores_a, scores_b, patients = two_tables()
    arguments = (["a", "b", "c"], None, patients, 100)
    forth = compare_models(labels, scores_a, scores_b, *arguments)
    back = compare_models(labels, scores_b, scores_a, *arguments)
    for one, other in zip(forth, back, strict=True):
        assert one.p_value == pytest.approx(other.p_value)
        flipped = -other.difference, -other.ci_high, -other.ci_low
        assert (one.difference, one.ci_low, one.ci_high) == pytest.approx(flipped)
    for same in compare_models(labels, scores_a, 3 * scores_a - 1, *arguments):
        assert (same.difference, same.ci_low, same.ci_high, same.p_value, same.p_adjusted) == (0, 0, 0, 1, 1)
    same = delong_test(labels[:, 0], scores_a[:, 0], np.exp(scores_a[:, 0]))
    assert (same.difference, same.ci_low, same.ci_high, same.p_value) == (0, 0, 0, 1)


def test_a_p_value_can_survive_the_correction_for_many_labels():
    """It could not if it were a share of 1000 resamples."""
    rng = np.random.default_rng(5)
    labels = (rng.random((400, 52)) < 0.5).astype(float)
    scores_a = rng.normal(size=labels.shape)
    results = compare_models(labels, scores_a, scores_a + 3 * labels, [str(i) for i in range(52)], num_bootstrap=100)
    assert max(result.p_adjusted for result in results) < 0.001


def test_what_cannot_be_compared_is_undefined_beside_its_counts():
    labels, scores_a, scores_b, patients = two_tables(num_labels=5)
    names = ["scored", "only a", "one class", "unknown", "one patient"]
    scores_b[:, 1] = NAN
    labels[labels[:, 2] == 1, 2] = 0
    labels[:, 3] = NAN
    labels[2:, 4] = NAN
    labels[:2, 4] = [0, 1]
    scored, only_a, one_class, unknown, one_patient, mean = compare_models(
        labels, scores_a, scores_b, names, None, patients, 100
    )
    for result in (only_a, one_class, unknown):
        undefined = [result.difference, result.ci_low, result.ci_high, result.p_value, result.p_adjusted]
        assert np.isnan(undefined).all()
    assert 0 < only_a.auroc_a < 1 and math.isnan(only_a.auroc_b)
    assert one_class.num_known > 0 == one_class.num_positive and unknown.num_known == 0
    assert not math.isnan(one_patient.difference) and np.isnan([one_patient.ci_low, one_patient.p_value]).all()
    assert scored.p_adjusted == scored.p_value  # the only test that was done
    assert mean.difference == pytest.approx((scored.difference + one_patient.difference) / 2)

    for column in ([0, 0, NAN], [1, 1, 1], [NAN, NAN, NAN], []):
        scores = np.arange(len(column))
        assert np.isnan(delong_interval(column, scores)).all()
        result = delong_test(column, scores, -scores)
        assert np.isnan([result.auroc_a, result.difference, result.ci_low, result.p_value]).all()
        assert result.num_known == len(column) - np.isnan(column).sum()
    assert np.isnan(delong_interval([0, 1, 1], [NAN] * 3)).all()
    area, low, high = delong_interval([0, 1, 1, 0], [1, 2, 2, 2], clusters=["p", "q", "q", "r"])
    assert area == 0.75 and math.isnan(low) and math.isnan(high)
    # A difference without any spread: perfect against constant scores
    result = delong_test([0, 0, 1, 1], [5, 5, 5, 5], [1, 2, 3, 4])
    assert (result.difference, result.ci_low, result.ci_high) == (0.5, 0.5, 0.5) and math.isnan(result.p_value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores_b": [[0.1, NAN], [0.3, 0.4], [0.2, 0.2]]}, "scores_b must be finite; 1 of 6 .* in row 0, column 1"),
        (
            {"scores_a": [[0.1, 0.2], [0.3, math.inf], [0.2, 0.2]]},
            "scores_a must be finite; 1 of 6 .* in row 1, column 1",
        ),
        ({"scores_b": [[0.1, 0.2]]}, r"labels and scores_b must both be \(n, num_labels\), not \(3, 2\) and \(1, 2\)"),
        ({"label_names": ["a"]}, "one name per column: 2, not 1"),
        ({"clusters": ["p"]}, "one patient id per image"),
        ({"confidence": 95}, "between 0 and 1, not 95"),
        ({"num_bootstrap": -1}, "0 or more"),
    ],
)
def test_invalid_comparisons(change, message):
    valid = {"labels": [[0, 1], [1, 0], [1, 1]], "scores_a": np.ones((3, 2)), "scores_b": np.ones((3, 2))}
    with pytest.raises(ValueError, match=message):
        compare_models(**{**valid, "label_names": ["a", "b"], **change})


def test_invalid_columns():
    with pytest.raises(ValueError, match="scores_b must be finite; 1 of 3 are NaN or infinite, the first in row 2"):
        delong_test([0, 1, 1], [1, 2, 3], [1, 2, NAN])
    with pytest.raises(ValueError, match=r"labels and scores must both be \(n,\)"):
        delong_interval([0, 1, 1], [NAN])
    with pytest.raises(ValueError, match="one patient id per image"):
        delong_interval([0, 1, 1], [1, 2, 3], clusters=["p"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        delong_interval([0, 1, 1], [1, 2, 3], confidence=1)


def test_one_seed_is_the_comparison_of_two_models():
    labels, scores_a, scores_b, patients = two_tables()
    labels[labels[:, 1] == 1, 1] = 0
    mean = compare_models(labels, scores_a, scores_b, ["a", "b", "c"], None, patients, 100)[-1]
    result = compare_seeds(labels, scores_a[None], scores_b[None], patients, 100)
    assert (result.auroc_a, result.auroc_b) == pytest.approx((mean.auroc_a, mean.auroc_b))
    assert (result.ci_low, result.ci_high) == pytest.approx((mean.ci_low, mean.ci_high))
    assert result.num_labels == 2 and result.seed_differences == pytest.approx([mean.difference])


def test_seeds_that_disagree_widen_the_interval():
    """The same test images, with and without one seed in four in which training failed."""
    rng = np.random.default_rng(6)
    labels = (rng.random((300, 1)) < 0.5).astype(float)
    scores_a = np.stack([labels + rng.normal(size=labels.shape) for _ in range(4)])
    scores_b = np.stack([2 * labels + rng.normal(size=labels.shape) for _ in range(4)])
    steady = compare_seeds(labels, scores_a, scores_b)
    assert 0 < steady.ci_low < steady.difference < steady.ci_high
    assert steady.difference == pytest.approx(np.mean(steady.seed_differences))
    scores_b[0] = rng.normal(size=labels.shape)
    failed = compare_seeds(labels, scores_a, scores_b)
    assert failed.ci_high - failed.ci_low > 2 * (steady.ci_high - steady.ci_low)
    assert failed.seed_differences[0] < 0 and failed.seed_differences[1:] == steady.seed_differences[1:]
    back = compare_seeds(labels, scores_b, scores_a)
    assert (back.ci_low, back.ci_high) == pytest.approx((-failed.ci_high, -failed.ci_low))
    with pytest.raises(ValueError, match=r"must both be \(seeds, n, num_labels\)"):
        compare_seeds(labels, scores_a[:2], scores_b)


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 are 0.02, 0.03, 0.06, 0.04; none may lie below one before it."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([NAN, 0.02, 0.6, NAN, 0.7]), [NAN, 0.06, 1, NAN, 1])
    assert holm([]).shape == (0,) and np.isnan(holm([NAN])).all()
    for wrong in ([1.1], [-0.1], [[0.5]]):
        with pytest.raises(ValueError, match="p-values must be"):
            holm(wrong)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, alpha):
    order, rejected = np.argsort(p_values, kind="stable"), set()
    for rank, number in enumerate(order):
        threshold = p_values[number] * (len(p_values) - rank)
        assume(abs(threshold - alpha) > 1e-12)
        if threshold > alpha:
            break
        rejected.add(number)
    assert {number for number, p in enumerate(holm(p_values)) if p <= alpha} == rejected
