"""The solver of many regressions at once against scikit-learn's one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from ark_hf.evaluation.probing.logistic import log_losses, make_design, probabilities, solve

TOLERANCE = 1e-9


def draw_problem(seed: int, num_rows: int, width: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated, centred features, float32 (n, width), and classes 0 to num_classes - 1, each of which occurs."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((num_rows, width)) @ random.standard_normal((width, width))
    features = ((features - features.mean(axis=0)) / features.std(axis=0)).astype(np.float32)
    noisy = features @ random.standard_normal((width, num_classes)) + 2 * random.standard_normal(
        (num_rows, num_classes)
    )
    classes = noisy.argmax(axis=1)
    classes[:num_classes] = np.arange(num_classes)
    return features, classes


def one_hot(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """(classes, n), or for two classes (1, n): a binary regression."""
    columns = np.eye(num_classes, dtype=np.float32)[classes].T
    return columns[1:] if num_classes == 2 else columns


def even_weights(num_groups: int, num_rows: int) -> np.ndarray:
    return np.full((num_groups, num_rows), 1 / num_rows, dtype=np.float32)


def start(design, targets: np.ndarray) -> np.ndarray:
    return np.zeros((*targets.shape[:2], design.rows.shape[1]), dtype=np.float32)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    num_rows=st.integers(10, 120),
    width=st.integers(1, 80),
    num_classes=st.integers(2, 5),
    exponent=st.floats(-4, 1.5),
)
def test_the_minimum_is_that_of_scikit_learn(seed, num_rows, width, num_classes, exponent):
    features, classes = draw_problem(seed, num_rows, width, num_classes)
    strength = 10.0**exponent
    design, targets = make_design(features), one_hot(classes, num_classes)[None]
    coefficients, logits = solve(
        design, targets, even_weights(1, num_rows), np.array([strength]), start(design, targets), TOLERANCE
    )
    ours, intercepts = coefficients[0, :, :-1] @ design.axes.T, coefficients[0, :, -1:]

    theirs = LogisticRegression(C=1 / (num_rows * strength), tol=1e-10, max_iter=10_000)
    theirs.fit(features.astype(np.float64), classes)

    def objective(weights, biases):
        values = (weights.astype(np.float64) @ features.T.astype(np.float64) + biases)[None]
        return log_losses(values, targets).mean() + strength / 2 * (weights.astype(np.float64) ** 2).sum()

    assert objective(ours, intercepts) <= objective(theirs.coef_, theirs.intercept_[:, None]) + 1e-6
    expected = theirs.predict_proba(features.astype(np.float64)).T[1 if num_classes == 2 else 0 :]
    np.testing.assert_allclose(probabilities(logits)[0], expected, atol=1e-3)
    np.testing.assert_allclose(probabilities((ours @ features.T + intercepts)[None])[0], expected, atol=1e-3)


def test_several_classes_have_no_shift_in_common():
    """What is added to all classes alike shows in no probability, and only a weak penalty takes it away."""
    features, classes = draw_problem(0, 15, 1, 3)
    design, targets = make_design(features), one_hot(classes, 3)[None]
    shifted = start(design, targets) + 2
    coefficients, _ = solve(design, targets, even_weights(1, 15), np.array([0.001]), shifted, TOLERANCE)
    theirs = LogisticRegression(C=1 / (15 * 0.001), tol=1e-10, max_iter=10_000).fit(features, classes)
    np.testing.assert_allclose(coefficients[0, :, :-1] @ design.axes.T, theirs.coef_, atol=1e-3)
    np.testing.assert_allclose(coefficients.sum(axis=1), 0, atol=1e-5)


def test_groups_solved_together_are_those_solved_alone():
    features, _ = draw_problem(0, 80, 30, 2)
    random = np.random.default_rng(1)
    targets = (random.random((5, 1, 80)) < 0.3).astype(np.float32)
    weights = (random.random((5, 80)) < 0.7).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    strengths = 10.0 ** np.arange(-3, 2)
    design = make_design(features)
    together, _ = solve(design, targets, weights, strengths, start(design, targets), TOLERANCE)
    for number in range(5):
        mine = slice(number, number + 1)
        alone, _ = solve(
            design, targets[mine], weights[mine], strengths[mine], start(design, targets[mine]), TOLERANCE
        )
        np.testing.assert_allclose(together[mine], alone, atol=2e-3)


def test_rows_without_weight_do_not_count():
    features, classes = draw_problem(2, 60, 8, 2)
    left_out = np.arange(60) >= 40
    design, targets = make_design(features), one_hot(classes, 2)[None]
    weights = np.where(left_out, 0, 1 / 40).astype(np.float32)[None]
    flipped = np.where(left_out, 1 - targets, targets).astype(np.float32)
    one, other = (
        solve(design, each, weights, np.array([0.01]), start(design, each), TOLERANCE)[0]
        for each in (targets, flipped)
    )
    np.testing.assert_array_equal(one, other)
    theirs = LogisticRegression(C=1 / (40 * 0.01), tol=1e-10, max_iter=10_000).fit(features[:40], classes[:40])
    np.testing.assert_allclose(one[0, :, :-1] @ design.axes.T, theirs.coef_, atol=2e-3)


def test_a_design_turns_rows_and_drops_what_repeats():
    features, _ = draw_problem(3, 50, 6, 2)
    doubled = np.concatenate([features, features @ np.ones((6, 2), np.float32)], axis=1)
    design = make_design(doubled)
    assert design.axes.shape == (8, 6)
    np.testing.assert_allclose(design.rows[:, :-1] @ design.axes.T, doubled, atol=1e-4)
    np.testing.assert_allclose(design.axes.T @ design.axes, np.eye(6), atol=1e-5)
    np.testing.assert_allclose((design.rows**2).mean(axis=0), design.moments, rtol=1e-3)


def test_fewer_rows_than_columns():
    features, _ = draw_problem(4, 12, 40, 2)
    design = make_design(features)
    assert design.rows.shape[1] <= 12  # eleven directions, as the rows are centred, and the intercept
    np.testing.assert_allclose(design.rows[:, :-1] @ design.axes.T, features, atol=1e-4)


def test_what_does_not_converge_is_an_error(monkeypatch):
    monkeypatch.setattr("ark_hf.evaluation.probing.logistic.MAX_ITERATIONS", 2)
    features, classes = draw_problem(5, 100, 50, 2)
    design, targets = make_design(features), one_hot(classes, 2)[None]
    with pytest.raises(FloatingPointError, match="1 logistic regressions did not converge in 2 steps"):
        solve(design, targets, even_weights(1, 100), np.array([1e-4]), start(design, targets), TOLERANCE)
