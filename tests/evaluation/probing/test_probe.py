"""Probes: the search chooses what scikit-learn's would, patients stay together, nothing is hidden."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ark_hf.evaluation.probing.probe import STRENGTHS, deal_patients, fit_probe
from ark_hf.metrics.auroc import auroc

NUM_ROWS, WIDTH = 240, 12


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    random = np.random.default_rng(0)
    mixed = random.standard_normal((NUM_ROWS, WIDTH)) @ random.standard_normal((WIDTH, WIDTH))
    return (3 + mixed * np.linspace(0.1, 5, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def patients() -> list[str]:
    return [f"p{number}" for number in np.random.default_rng(1).integers(0, 90, NUM_ROWS)]


@pytest.fixture(scope="module")
def labels(embeddings) -> np.ndarray:
    """A clear label, an obscure one with unknown values, and pure noise."""
    random = np.random.default_rng(2)
    clear = embeddings[:, 0] > np.median(embeddings[:, 0])
    obscure = embeddings[:, 5] + 12 * random.standard_normal(NUM_ROWS) > 12
    noise = random.random(NUM_ROWS) < 0.4
    columns = np.stack([clear, obscure, noise], axis=1).astype(float)
    columns[random.random(NUM_ROWS) < 0.2, 1] = np.nan
    return columns


def standardised(embeddings: np.ndarray) -> np.ndarray:
    return (embeddings.astype(np.float64) - embeddings.mean(axis=0)) / embeddings.std(axis=0)


def numbered(patients: list[str]) -> np.ndarray:
    """Patients by number in the order in which they first appear."""
    first = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    return np.array([first[patient] for patient in patients])


def test_search_and_fit_agree_with_scikit_learn(embeddings, labels, patients):
    probe = fit_probe(embeddings, labels, patients)
    features, predicted = standardised(embeddings), probe.predict(embeddings)
    for column, choice in enumerate(probe.choices):
        known = ~np.isnan(labels[:, column])
        classes, rows = labels[known, column].astype(int), features[known]
        folds = deal_patients(classes, numbered(patients)[known], 5)
        for strength, loss in list(choice.losses.items())[1::3]:
            held_out = np.empty(len(rows))
            for fold in range(5):
                fitted, tested = folds != fold, folds == fold
                model = LogisticRegression(C=1 / (fitted.sum() * strength), tol=1e-9, max_iter=5000)
                held_out[tested] = model.fit(rows[fitted], classes[fitted]).predict_proba(rows[tested])[:, 1]
            assert loss == pytest.approx(log_loss(classes, held_out), abs=1e-3)
        assert choice.strength == min(choice.losses, key=choice.losses.get)
        model = LogisticRegression(C=1 / (known.sum() * choice.strength), tol=1e-9, max_iter=5000).fit(rows, classes)
        np.testing.assert_allclose(predicted[:, column], model.predict_proba(features)[:, 1], atol=1e-3)
        np.testing.assert_allclose(probe.coefficients[column], model.coef_[0], rtol=0.01, atol=2e-3)
        assert (choice.num_known, choice.num_positive) == (known.sum(), classes.sum())


def test_noise_is_regularised_strongly_and_clean_data_weakly(embeddings, labels, patients):
    clear, _, noise = fit_probe(embeddings, labels, patients).choices
    assert noise.strength >= 1 and clear.strength <= 1e-3
    assert len(noise.losses) < len(STRENGTHS)  # the search stops where it only gets worse


def test_a_best_strength_at_the_end_of_the_search_is_said():
    random = np.random.default_rng(3)
    embeddings = random.standard_normal((60, 4)).astype(np.float32)
    embeddings[:, 0] = np.where(np.arange(60) % 2, 10, -10)
    separable, noise = np.arange(60) % 2, random.integers(0, 2, 60)
    weakest, strongest = fit_probe(embeddings, np.stack([separable, noise], axis=1)).choices
    assert weakest.strength == STRENGTHS[-1] and "all but separable" in weakest.note
    assert strongest.strength == STRENGTHS[0] and "confirm nothing" in strongest.note


def test_a_label_of_one_class_has_no_probe_and_is_counted(embeddings, labels, patients):
    columns = np.concatenate([labels, np.zeros((NUM_ROWS, 1)), np.full((NUM_ROWS, 1), np.nan)], axis=1)
    columns[:7, 3] = np.nan
    probe, alone = fit_probe(embeddings, columns, patients), fit_probe(embeddings, labels, patients)
    predicted = probe.predict(embeddings)
    assert np.isnan(predicted[:, 3:]).all()
    np.testing.assert_allclose(predicted[:, :3], alone.predict(embeddings), atol=1e-4)
    assert np.isnan(probe.choices[3].strength) and "one class" in probe.choices[3].note
    assert [(each.num_known, each.num_positive) for each in probe.choices[3:]] == [(NUM_ROWS - 7, 0), (0, 0)]


def test_a_single_label_task_is_one_softmax(embeddings, patients):
    random = np.random.default_rng(3)
    classes = (standardised(embeddings)[:, :3] + random.standard_normal((NUM_ROWS, 3))).argmax(axis=1)
    classes[:20] = -100
    probe = fit_probe(embeddings, classes, patients, num_classes=4)
    predicted = probe.predict(embeddings)
    assert np.isnan(predicted[:, 3]).all()  # a class that does not occur
    np.testing.assert_allclose(predicted[:, :3].sum(axis=1), 1, atol=1e-6)
    (choice,) = probe.choices
    features, known = standardised(embeddings), classes >= 0
    model = LogisticRegression(C=1 / (known.sum() * choice.strength), tol=1e-9, max_iter=5000)
    model.fit(features[known], classes[known])
    np.testing.assert_allclose(predicted[:, :3], model.predict_proba(features), atol=1e-3)


def test_a_single_label_task_of_which_one_class_or_none_is_known(embeddings):
    for value in (1, -100):
        probe = fit_probe(embeddings, np.full(NUM_ROWS, value), num_classes=3)
        assert np.isnan(probe.predict(embeddings)).all() and "one class" in probe.choices[0].note


def test_a_class_of_one_patient_joins_the_final_fit_only(embeddings):
    patients = np.arange(NUM_ROWS)
    classes = (embeddings[:, 0] > np.median(embeddings[:, 0])).astype(int)
    classes[:6], patients[:6] = 2, 0
    probe = fit_probe(embeddings, classes, patients.tolist())
    assert probe.choices[0].losses
    shares = probe.predict(embeddings).mean(axis=0)
    np.testing.assert_allclose(shares, np.bincount(classes) / NUM_ROWS, atol=1e-3)  # as the intercepts are free


def test_a_label_with_one_patient_is_fitted_without_a_search(embeddings):
    labels, patients = np.zeros((NUM_ROWS, 1)), np.arange(NUM_ROWS)
    labels[:4], patients[:4] = 1, 0
    (choice,) = fit_probe(embeddings, labels, patients.tolist()).choices
    assert choice.losses == {} and choice.strength == 1 and "too few patients" in choice.note


def test_the_result_is_a_function_of_the_arguments(embeddings, labels, patients):
    one = fit_probe(embeddings, labels, patients, seed=5)
    np.random.seed(9)
    other = fit_probe(embeddings.copy(), labels.copy(), list(patients), seed=5)
    np.testing.assert_array_equal(one.coefficients, other.coefficients)
    assert one.choices == other.choices
    assert one.choices != fit_probe(embeddings, labels, patients, seed=6).choices


def test_patients_that_straddle_folds_would_flatter():
    """Where each patient has a face and a label of their own, only folds by patient tell that nothing is learnt."""
    random = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 6)
    faces = random.standard_normal((40, 30))[patients]
    embeddings = (faces + 0.1 * random.standard_normal(faces.shape)).astype(np.float32)
    labels = random.permutation(np.arange(40) % 2)[patients][:, None].astype(float)
    (apart,), (together,) = (fit_probe(embeddings, labels, each).choices for each in (None, patients.tolist()))
    assert min(apart.losses.values()) < 0.1 < 0.6 < min(together.losses.values())
    assert together.strength > apart.strength


def test_constant_columns_and_scales_change_nothing(embeddings, labels, patients):
    scaled = np.concatenate([embeddings * 1000, np.full((NUM_ROWS, 2), 0.1, np.float32)], axis=1)
    one, other = fit_probe(embeddings, labels, patients), fit_probe(scaled, labels, patients)
    np.testing.assert_allclose(one.predict(embeddings), other.predict(scaled), atol=2e-3)


def test_a_probe_finds_what_is_there(embeddings, labels, patients):
    half = np.arange(NUM_ROWS) < NUM_ROWS // 2
    probe = fit_probe(embeddings[half], labels[half], [p for p, there in zip(patients, half, strict=True) if there])
    predicted = probe.predict(embeddings[~half])
    assert auroc(labels[~half, 0], predicted[:, 0]) > 0.97
    assert 0.3 < auroc(labels[~half, 2], predicted[:, 2]) < 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.full((NUM_ROWS, 2), np.nan)}, "240 rows are not, the first is row 0"),
        ({"embeddings": np.empty((0, 3))}, "at least one row"),
        ({"labels": np.zeros((3, 2))}, r"labels must be \(240, labels\)"),
        ({"labels": np.full((NUM_ROWS, 1), 0.5)}, "0, 1 or NaN"),
        ({"labels": np.full(NUM_ROWS, -1)}, "-1 is neither"),
        ({"num_folds": 1}, "at least 2"),
        ({"clusters": ["one"]}, "one patient id per image"),
    ],
)
def test_wrong_input_is_explained(embeddings, labels, change, message):
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        fit_probe(**{"embeddings": embeddings, "labels": labels, **change})


@settings(max_examples=60)
@given(
    num_folds=st.integers(2, 6),
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=80),
    seed=st.integers(0, 5),
)
def test_dealt_folds_keep_patients_together_and_classes_everywhere(num_folds, rows, seed):
    classes, patients = np.array(rows).T
    folds = deal_patients(classes, patients, num_folds, seed)
    of_class = {each: set(patients[classes == each]) for each in np.unique(classes)}
    several = [each for each, members in of_class.items() if len(members) > 1]
    if folds is None:
        assert len(several) < 2 or len(set(patients)) < 2 * num_folds * len(several)
        return
    dealt = np.isin(classes, several)
    assert ((folds >= 0) == dealt).all()
    for patient in np.unique(patients[dealt]):
        assert len(set(folds[dealt & (patients == patient)])) == 1
    for fold in range(folds.max() + 1):
        assert set(classes[dealt & (folds != fold)]) == set(several)
    assert folds.max() + 1 <= min(num_folds, *(len(of_class[each]) for each in several))
    sizes = [len(set(patients[folds == fold])) for fold in range(folds.max() + 1)]
    assert max(sizes) - min(sizes) <= 1
