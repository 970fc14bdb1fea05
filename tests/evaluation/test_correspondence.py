"""Errors of landmarks that are looked for in other pictures: in percent, by pair, by group, beside the same place."""

import numpy as np
import pytest

from ark_hf import correspondence_errors, correspondence_report, pair_patients, pair_views
from ark_hf.metrics.resampling import resampled_means

PATIENTS = ["p", "p", "q", "r", None, None]
SIZES = [(100, 50), (100, 50), (50, 100), (100, 100)]
LANDMARKS = [
    {"apex": (0.2, 0.2), "hilum": (0.4, 0.5)},
    {"apex": (0.2, 0.4), "hilum": (0.4, 0.5), "rare": (0.9, 0.9)},
    {"apex": (0.3, 0.2)},
    {"apex": (0.5, 0.6), "hilum": (0.4, 0.6)},
]


def test_pairs_are_of_different_patients_or_of_one():
    across = pair_patients(PATIENTS)
    assert len(across) == 6 * 5 - 2 and len({tuple(each) for each in across}) == len(across)
    assert not {(0, 1), (1, 0), (0, 0)} & {tuple(each) for each in across}
    assert [tuple(each) for each in pair_views(PATIENTS)] == [(0, 1), (1, 0)]  # a blank id is nobody's
    few = pair_patients(PATIENTS, most=7, seed=1)
    assert len({tuple(each) for each in few} & {tuple(each) for each in across}) == 7
    assert np.array_equal(few, pair_patients(PATIENTS, most=7, seed=1))
    with pytest.raises(ValueError, match="No two of 2 pictures are of one patient"):
        pair_views(["p", "q"])
    with pytest.raises(ValueError, match="No two of 2 pictures are of different patients"):
        pair_patients(["p", "p"])


def test_the_prior_is_the_same_place():
    names, errors = correspondence_errors(LANDMARKS, SIZES, [(0, 1), (1, 0), (0, 2), (0, 3)])
    assert names == ["apex", "hilum"]  # the other is in one picture of four
    # 0.2 of a height of 50 is 10, of a longer side of 100; 0.1 of a width of 50 is 5, of one of 100
    np.testing.assert_allclose(errors, [[10, 0], [10, 0], [5, np.nan], [50, 10]], atol=1e-9)


def test_features_that_are_the_anatomy_find_the_landmarks():
    """Of each picture places in the body, which two coordinates move between pictures, as features."""
    moves = np.array([[0, 0], [0.1, 0], [0, -0.1], [0.05, 0.08]])
    x, y = np.meshgrid((np.arange(16) + 0.5) / 16, (np.arange(16) + 0.5) / 16)
    maps = [
        np.stack([wave(3 * along) for along in (x - dx, y - dy) for wave in (np.sin, np.cos)], axis=-1)
        for dx, dy in moves
    ]
    anatomy = {"apex": np.array([0.3, 0.3]), "hilum": np.array([0.5, 0.6])}
    landmarks = [{name: tuple(place + move) for name, place in anatomy.items()} for move in moves]
    pairs = pair_patients(range(4))
    told = landmarks, [(64, 64)] * 4, pairs
    _, prior = correspondence_errors(*told)
    _, errors = correspondence_errors(*told, np.array(maps, np.float32))
    np.testing.assert_allclose(prior[0], [10, 10])
    assert errors.max() < 3 and errors.mean() < 1.5 < prior.min()  # a token is 6.25
    report = correspondence_report(*told[:2], list("abcd"), pairs, {"anatomy": np.array(maps, np.float32)})
    assert [each.label for each in report.errors["anatomy"]] == ["apex", "hilum", "mean"]
    assert report.errors["anatomy"][-1].mean == pytest.approx(errors.mean())
    assert (report.num_pictures, report.num_patients, report.num_pairs) == (4, 4, 12)
    (gain,) = report.differences
    assert (gain.model, gain.other) == ("anatomy", "same place")
    assert gain.results[-1].difference == pytest.approx(errors.mean() - prior.mean())
    assert gain.results[-1].ci_high < 0


def test_a_pair_is_of_a_group_if_both_of_its_pictures_are():
    patients = list("abcdef")
    landmarks = [{"apex": (0.5, 0.1 * number)} for number in (1, 1, 2, 2, 8, 5)]
    groups = {"sex": ["F", "F", "M", "M", "unknown", "M"]}
    report = correspondence_report(landmarks, [(10, 10)] * 6, patients, pair_patients(patients), {}, groups)
    women, men, unlike = report.groups["sex"]  # of the unknown there is only one
    assert [each.group for each in report.groups["sex"]] == ["F", "M", "different"]
    assert (women.num_pairs, women.num_patients, men.num_pairs, men.num_patients) == (2, 2, 6, 3)
    assert unlike.num_pairs == 30 - 8
    assert women.errors["same place"].mean == pytest.approx(0, abs=1e-6)
    assert men.errors["same place"].mean == pytest.approx(100 * (0 + 0.3 + 0.3) / 3)
    _, errors = correspondence_errors(landmarks, [(10, 10)] * 6, pair_patients(patients))
    others = (errors.sum() - 6 * men.errors["same place"].mean) / 24
    difference = men.differences["same place"]
    assert difference.value == pytest.approx(men.errors["same place"].mean - others)
    assert difference.low <= difference.value <= difference.high


def test_models_are_compared_on_the_same_pairs():
    random = np.random.default_rng(0)
    landmarks = [{"apex": tuple(random.uniform(0, 1, 2))} for _ in range(5)]
    features = {name: random.normal(size=(5, 4, 4, 3)).astype(np.float32) for name in ("a", "b")}
    told = landmarks, [(10, 20)] * 5, list("pqrst"), pair_patients(list("pqrst"))
    report = correspondence_report(*told, features)
    assert [(each.model, each.other) for each in report.differences] == [
        ("a", "same place"),
        ("b", "same place"),
        ("a", "b"),
    ]
    means = {name: results[0].mean for name, results in report.errors.items()}
    assert report.differences[2].results[0].difference == pytest.approx(means["a"] - means["b"])
    same = correspondence_report(*told, {"a": features["a"], "again": features["a"]}).differences[2].results[0]
    assert (same.difference, same.ci_low, same.ci_high) == (0, 0, 0)


def test_what_does_not_fit_is_refused():
    told = LANDMARKS, SIZES
    with pytest.raises(ValueError, match=r"of the same pictures, not of \[3, 4\]"):
        correspondence_errors(LANDMARKS, SIZES[:3], [(0, 1)])
    with pytest.raises(ValueError, match=r"of the same pictures, not of \[2, 4\]"):
        correspondence_errors(*told, [(0, 1)], np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="No landmark is in at least half"):
        correspondence_errors([{}, {"apex": (0, 0)}, {}], SIZES[:3], [(0, 1)])
    with pytest.raises(ValueError, match=r"in \[0, 1\], not \[1.5, 0.2\]"):
        outside = [{"apex": (1.5, 0.2)}, *LANDMARKS[1:]]
        correspondence_errors(outside, SIZES, [(0, 1)], np.ones((4, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="sex must be one a picture: 4, not 3"):
        correspondence_report(*told, list("pqrs"), [(0, 1)], {}, {"sex": ["F"] * 3})
    with pytest.raises(ValueError, match="patients must be one a picture: 4, not 1"):
        correspondence_report(*told, ["p"], [(0, 1)], {})


def test_intervals_are_of_patients_however_many_pairs_they_are_in():
    """A pair's error is what both patients add to it: the mean over all pairs is as sure as the patients are many."""
    count, spread = 40, []
    for seed in range(30):
        adds = np.random.default_rng(seed).normal(size=count)
        pairs = pair_patients(range(count))
        errors = adds[pairs].sum(axis=1)[:, None]
        spread.append(resampled_means(errors, pairs, 200, seed).std())
    assert np.mean(spread) == pytest.approx(2 / np.sqrt(count), rel=0.05)
    naive = resampled_means(errors, None, 200, 0).std()
    assert naive < np.mean(spread) / 3
