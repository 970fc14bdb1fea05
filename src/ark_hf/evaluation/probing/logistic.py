"""Many logistic regressions on the same rows at once: one matrix product serves all labels and all folds.

A limited-memory quasi-Newton method (L-BFGS; Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.5) runs for
all of them in step. Two things make it fast on embeddings. The rows are turned once into the eigenbasis of their
covariance, where the Hessian of a weakly informative regression is nearly diagonal, so that a diagonal is a good first
guess of its inverse. And along a search line all logits are known from one product, so that a good step costs nothing.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax

MEMORY = 10  # pairs of step and change of the gradient that describe the Hessian
MAX_ITERATIONS = 500
MAX_STEP_TRIALS = 20
SLOPE_LEFT = 0.5  # share of a search line's slope that a step may leave
# Too little to move an intercept, and enough to keep that of a class without any row finite
INTERCEPT_STRENGTH = 1e-8
# Eigenvalues below this share of the largest one are rounding of float32 rows.
RANK_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Design:
    """
    Rows as the solver takes them.

    Args:
        rows: float32 (n, rank + 1): centred rows in their eigenbasis, and a column of ones for the intercept.
        moments: float32 (rank + 1,), the mean square of each column.
        axes: float32 (width, rank), the eigenbasis; `coefficients[..., :-1] @ axes.T` turns a solution back.
    """

    rows: np.ndarray
    moments: np.ndarray
    axes: np.ndarray


def make_design(features: np.ndarray) -> Design:
    """Turns centred rows, float32 (n, width), into their eigenbasis, of at most min(n, width) columns."""
    num_rows, width = features.shape
    if num_rows >= width:
        values, axes = np.linalg.eigh(features.T @ features)
        kept = values > RANK_TOLERANCE * values[-1]
        axes = axes[:, kept]
        turned = features @ axes
    else:  # small, and its smallest eigenvalues count: in float64
        values, vectors = np.linalg.eigh(features @ features.T.astype(np.float64))
        kept = values > RANK_TOLERANCE * values[-1]
        turned = (vectors[:, kept] * np.sqrt(values[kept])).astype(np.float32)
        axes = (features.T @ (vectors[:, kept] / np.sqrt(values[kept]))).astype(np.float32)
    rows = np.concatenate([turned, np.ones((num_rows, 1), np.float32)], axis=1)
    return Design(rows, np.append(values[kept] / num_rows, 1).astype(np.float32), axes)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Of (groups, classes, n) logits: a sigmoid where there is one class, otherwise a softmax over the classes."""
    return expit(logits) if logits.shape[1] == 1 else softmax(logits, axis=1)


def log_losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Log loss of each row, (groups, n), from logits and targets of shape (groups, classes, n)."""
    if logits.shape[1] == 1:
        return (np.logaddexp(0, logits) - targets * logits)[:, 0]
    highest = logits.max(axis=1, keepdims=True)
    log_sums = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
    return log_sums - (targets * logits).sum(axis=1)


def solve(
    design: Design,
    targets: np.ndarray,
    weights: np.ndarray,
    strengths: np.ndarray,
    start: np.ndarray,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Minimises for each group: sum over rows of weight * log loss + strength / 2 * sum of squared coefficients.

    The intercept is next to free. With weights 1/n this is scikit-learn's `LogisticRegression(C=1 / (n * strength))`.

    Args:
        targets: float32 (groups, classes, n) in [0, 1]. One class: a binary regression. Several: a multinomial one.
        weights: float32 (groups, n), 0 for rows that a group leaves out.
        strengths: (groups,) positive.
        start: float32 (groups, classes, rank + 1), where to start from.
        tolerance: By how much an objective may lie above its minimum, by the estimate of the quadratic model.

    Returns:
        float32 coefficients (groups, classes, rank + 1), the intercept last, and logits (groups, classes, n).

    Raises:
        FloatingPointError: A regression does not converge.
    """
    coefficients = _without_shift(start.astype(np.float32))
    logits = _times(coefficients, design.rows.T)
    penalties = np.repeat(strengths.astype(np.float32)[:, None, None], design.rows.shape[1], axis=2)
    penalties[..., -1] = INTERCEPT_STRENGTH
    running = np.arange(len(targets))
    state = _State(targets, weights[:, None, :], penalties, coefficients.copy(), logits.copy())
    history: list[list[np.ndarray]] = []
    gradient, inverse = state.slopes(design)
    for _ in range(MAX_ITERATIONS):
        ended = _dot(gradient, inverse * gradient)[:, 0, 0] <= 2 * tolerance
        coefficients[running[ended]], logits[running[ended]] = state.solution[ended], state.logits[ended]
        if ended.all():
            return coefficients, logits
        if ended.any():
            running, gradient, inverse = running[~ended], gradient[~ended], inverse[~ended]
            state = _State(*(part[~ended] for part in vars(state).values()))
            history = [[part[~ended] for part in pair] for pair in history]

        direction = _direction(gradient, inverse, history)
        along = _times(direction, design.rows.T)
        length = state.step_length(direction, along, _dot(gradient, direction))
        step, before = length * direction, gradient
        state.solution, state.logits = state.solution + step, state.logits + length * along
        gradient, inverse = state.slopes(design)
        history = [*history[1 - MEMORY :], [step, gradient - before, _dot(step, gradient - before)]]
    raise FloatingPointError(
        f"{len(running)} logistic regressions did not converge in {MAX_ITERATIONS} steps; "
        "are some embeddings many times larger than the others?"
    )


@dataclass
class _State:
    """The groups that still run, and where they are."""

    targets: np.ndarray
    weights: np.ndarray
    penalties: np.ndarray
    solution: np.ndarray
    logits: np.ndarray

    def slopes(self, design: Design) -> tuple[np.ndarray, np.ndarray]:
        """The gradient, and the inverse of the Hessian if the rows' curvatures were all alike: a diagonal."""
        chances = probabilities(self.logits)
        gradient = _times((chances - self.targets) * self.weights, design.rows) + self.penalties * self.solution
        curvature = (chances * (1 - chances) * self.weights).sum(axis=2, keepdims=True)
        return gradient, 1 / (curvature * design.moments + self.penalties)

    def step_length(self, direction: np.ndarray, along: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """
        (groups, 1, 1) lengths at which little of the slope is left, by Newton's method between brackets.

        The objective is convex, so a small slope is as good as a test of its value.

        Args:
            along: By how much a step of length 1 changes the logits.
            slope: At length 0.
        """
        allowed = SLOPE_LEFT * np.abs(slope)
        penalty_slope, penalty_curvature = (_dot(self.penalties * direction, by) for by in (self.solution, direction))
        length, low, high = np.ones_like(slope), np.zeros_like(slope), np.full_like(slope, np.inf)
        for _ in range(MAX_STEP_TRIALS):
            chances = probabilities(self.logits + length * along)
            slope = _dot((chances - self.targets) * self.weights, along) + penalty_slope + length * penalty_curvature
            found = np.abs(slope) <= allowed
            if found.all():
                break
            tilted = chances * along
            spread = (tilted * along).sum(axis=1, keepdims=True) - tilted.sum(axis=1, keepdims=True) ** 2
            curvature = (spread * self.weights).sum(axis=2, keepdims=True) + penalty_curvature
            low, high = np.where(slope < 0, length, low), np.where(slope < 0, high, length)
            newton = length - slope / curvature
            middle = np.where(np.isfinite(high), (low + high) / 2, 2 * length)
            length = np.where(found, length, np.where((newton > low) & (newton < high), newton, middle))
        return length


def _direction(gradient: np.ndarray, inverse: np.ndarray, history: list[list[np.ndarray]]) -> np.ndarray:
    """The quasi-Newton step of each group; pairs in which rounding has eaten the curvature are left out."""
    vector, shares = gradient.copy(), []
    scale = np.ones_like(gradient[:, :1, :1])
    for step, change, product in reversed(history):
        share = np.divide(_dot(step, vector), product, out=np.zeros_like(product), where=product > 0)
        vector -= share * change
        shares.append(share)
    if history:
        _, change, product = history[-1]
        np.divide(product, _dot(change, inverse * change), out=scale, where=product > 0)
    vector *= scale * inverse
    for (step, change, product), share in zip(history, reversed(shares), strict=True):
        back = np.divide(_dot(change, vector), product, out=np.zeros_like(product), where=product > 0)
        vector += (share - back) * step
    return _without_shift(-vector)


def _without_shift(coefficients: np.ndarray) -> np.ndarray:
    """Takes away what several classes have in common: no softmax shows it, and the minimum, penalised, has none."""
    several = coefficients.shape[1] > 1
    return coefficients - coefficients.mean(axis=1, keepdims=True) if several else coefficients


def _times(groups: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(groups, classes, a) by (a, b), as one product: numpy would do one per group."""
    return (groups.reshape(-1, groups.shape[2]) @ matrix).reshape(*groups.shape[:2], -1)


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(groups, 1, 1) inner products of each group's numbers."""
    return np.einsum("gcn,gcn->g", one, other)[:, None, None]
