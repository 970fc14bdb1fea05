"""Linear probes of embeddings, their regularisation chosen by cross-validation over patients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, softmax

from ...metrics.auroc import one_vs_rest
from ...metrics.resampling import number_clusters
from .logistic import Design, log_losses, make_design, solve

# Strengths of regularisation, strongest first: the search walks down until the loss on the held-out folds rises. On
# standardised embeddings the first lets nothing through but the prevalence, the last next to everything.
STRENGTHS = 10.0 ** np.arange(2, -6.5, -0.5)
WORSE_STEPS = 2  # after so many strengths that are worse than the best, weaker ones are not tried
UNSEARCHED_STRENGTH = 1.0  # where folds cannot be made, because a class has one patient only
SEARCH_TOLERANCE, FINAL_TOLERANCE = 1e-6, 1e-9  # of the mean log loss


@dataclass(frozen=True)
class Regularisation:
    """
    How the regularisation of a label's probe, or of a single-label task's one probe, was chosen.

    Args:
        strength: Weight of half the squared coefficients beside the mean log loss; NaN without a probe. That is
            scikit-learn's C = 1 / (num_known * strength).
        losses: Mean log loss on held-out patients by strength; empty where folds could not be made.
        num_known, num_positive: Images of known label, and those of them that are positive (None for several classes).
        note: What a reader must know: one class only, no search, or a best strength at the end of the search.
    """

    strength: float
    losses: dict[float, float]
    num_known: int
    num_positive: int | None
    note: str | None = None


@dataclass(frozen=True)
class Probe:
    """
    Fitted linear probes.

    Args:
        mean, scale: float32 (width,), which standardise embeddings.
        coefficients: float32 (labels, width), on standardised embeddings; NaN for a label without a probe.
        intercepts: float32 (labels,).
        single_label: Whether the labels share a softmax.
        choices: One a label, or one in all for a single-label task.
    """

    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    intercepts: np.ndarray
    single_label: bool
    choices: list[Regularisation]

    def predict(self, embeddings: np.ndarray) -> np.ndarray:
        """Probabilities, float64 (n, labels), of embeddings (n, width); NaN for a label without a probe."""
        logits = ((embeddings - self.mean) / self.scale) @ self.coefficients.T + self.intercepts
        logits = logits.astype(np.float64)
        if not self.single_label:
            return expit(logits)
        there = ~np.isnan(self.intercepts)
        if there.any():
            logits[:, there] = softmax(logits[:, there], axis=1)
        return logits


def fit_probe(
    embeddings: np.ndarray,
    labels: ArrayLike,
    clusters: Sequence[Any] | None = None,
    num_classes: int | None = None,
    num_folds: int = 5,
    seed: int = 0,
) -> Probe:
    """
    Fits one L2-regularised logistic regression a label, or one multinomial one, on standardised embeddings.

    The strength of the regularisation is the one of the least mean log loss over `num_folds` folds that keep patients
    together, each label's rarer class being dealt evenly over the folds; the probe is then fitted on all rows. Folds
    are standardised together, without a look at labels.

    Args:
        embeddings: float32 (n, width), finite.
        labels: (n, labels) 0, 1 or NaN for unknown; or integers (n,), -100 for unknown, for a single-label task.
        clusters: n patient ids, as in `metrics.bootstrap_aurocs`; every image is its own patient if None.
        num_classes: Of a single-label task; the highest class and those below unless set.
        num_folds: At least 2; fewer are made where the rarer class has fewer patients.
        seed: Of the deal of patients to folds.

    Returns:
        A `Probe`, a function of the arguments alone. A label of which one class only is known has no probe, nor has a
        class of a single-label task that does not occur.

    Raises:
        ValueError: Shapes that do not fit together, no rows, labels or embeddings that are not as above.
    """
    embeddings = check_embeddings(embeddings)
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or len(labels) != len(embeddings):
        raise ValueError(f"labels must be ({len(embeddings)}, labels) or ({len(embeddings)},), not {labels.shape}")
    if num_folds < 2:
        raise ValueError(f"num_folds must be at least 2, not {num_folds}")
    single_label = labels.ndim == 1
    if single_label:
        columns = one_vs_rest(labels, num_classes or int(labels.max(initial=0)) + 1)
        problems = [columns.T]
    else:
        columns = labels.astype(np.float64)
        if not (np.isnan(columns) | (columns == 0) | (columns == 1)).all():
            raise ValueError("labels must be 0, 1 or NaN (unknown)")
        problems = list(columns.T[:, None])
    patients, _ = number_clusters(clusters, len(embeddings))

    mean, scale = _standardisation(embeddings)
    design = make_design((embeddings - mean) / scale)
    coefficients = np.full((columns.shape[1], embeddings.shape[1]), np.nan, dtype=np.float32)
    intercepts = np.full(columns.shape[1], np.nan, dtype=np.float32)
    present = np.nansum(columns, axis=0) > 0
    if single_label:
        problems = [columns.T[present]]
    fitted, choices = _fit(design, problems, patients, num_folds, seed)
    for number, solution in fitted.items():
        rows: Any = present if single_label else [number]
        coefficients[rows] = solution[:, :-1] @ design.axes.T
        intercepts[rows] = solution[:, -1]
    return Probe(mean, scale, coefficients, intercepts, single_label, choices)


def check_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """float32 (n, width) of embeddings; `ValueError` if they are not rows of finite numbers."""
    embeddings = np.asarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or not embeddings.size:
        raise ValueError(f"embeddings must be (n, width) with at least one row, not {embeddings.shape}")
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"embeddings must be finite; {(~finite).sum()} rows are not, the first is row {finite.argmin()}"
        )
    return embeddings


def deal_patients(classes: np.ndarray, patients: np.ndarray, num_folds: int, seed: int = 0) -> np.ndarray | None:
    """
    Deals patients to folds like cards, those with the rarest class first, and then those with the most images.

    Args:
        classes: Integers (n,) from 0.
        patients: Integers (n,).
        num_folds: Fewer are made where a class has fewer patients, two or more.
        seed: Of the order among patients that are alike.

    Returns:
        (n,) the fold of each image, -1 for a class of one patient alone; None if fewer than two classes are left, or
        if without some fold one would not occur.
    """
    pairs = np.unique(np.stack([classes, patients]), axis=1)
    of_several = np.flatnonzero(np.bincount(pairs[0]) > 1)
    dealt = np.isin(classes, of_several)
    if len(of_several) < 2:
        return None
    num_folds = min(num_folds, np.bincount(pairs[0])[of_several].min())
    _, classes, counts = np.unique(classes[dealt], return_inverse=True, return_counts=True)
    names, patients, sizes = np.unique(patients[dealt], return_inverse=True, return_counts=True)
    rarest = np.full(len(names), len(counts))
    np.minimum.at(rarest, patients, np.argsort(np.argsort(counts, kind="stable"))[classes])
    order = np.lexsort((np.random.default_rng(seed).permutation(len(names)), -sizes, rarest))
    fold_of_patient = np.empty(len(names), dtype=np.int64)
    fold_of_patient[order] = np.arange(len(names)) % num_folds
    held_out = np.zeros((len(counts), num_folds), dtype=np.int64)
    np.add.at(held_out, (classes, fold_of_patient[patients]), 1)
    if (held_out == counts[:, None]).any():
        return None
    folds = np.full(len(dealt), -1)
    folds[dealt] = fold_of_patient[patients]
    return folds


def _standardisation(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column; 1 for one that is constant but for rounding."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    deviation = embeddings.std(axis=0, dtype=np.float64)
    constant = deviation <= 1e-6 * np.abs(mean)
    return mean.astype(np.float32), np.where(constant, 1, deviation).astype(np.float32)


def _fit(
    design: Design, problems: list[np.ndarray], patients: np.ndarray, num_folds: int, seed: int
) -> tuple[dict[int, np.ndarray], list[Regularisation]]:
    """
    Searches and fits problems, each (classes, n) of 0, 1 and NaN: one class for a label, several for a softmax.

    Returns:
        By the number of a problem that can be fitted its solution (classes, rank + 1), and the choices of all.
    """
    choices, usable, folds = [], [], []
    for number, columns in enumerate(problems):
        known = ~np.isnan(columns[0]) if len(columns) else np.zeros(len(patients), dtype=bool)
        positives = int(np.nansum(columns)) if len(columns) == 1 else None
        choices.append(Regularisation(np.nan, {}, int(known.sum()), positives, "only one class is known: no probe"))
        if len(columns) == 1 and not 0 < np.nansum(columns) < known.sum() or not known.any():
            continue
        classes = columns[0, known] if len(columns) == 1 else columns[:, known].argmax(axis=0)
        fold = np.full(len(known), -1)
        dealt = deal_patients(classes.astype(int), patients[known], num_folds, seed)
        if dealt is not None:
            fold[known] = dealt
        usable.append(number)
        folds.append(fold)
    if not usable:
        return {}, choices

    targets = np.stack([problems[number] for number in usable]).astype(np.float32)
    known = ~np.isnan(targets[:, 0])
    targets = np.nan_to_num(targets)
    losses, starts = _search(design, targets, np.stack(folds), _null_solutions(design, targets, known))
    strengths = np.array([min(each, key=each.__getitem__, default=UNSEARCHED_STRENGTH) for each in losses])
    weights = (known / known.sum(axis=1, keepdims=True)).astype(np.float32)
    solutions, _ = solve(design, targets, weights, strengths, starts, FINAL_TOLERANCE)
    for number, strength, path in zip(usable, strengths, losses, strict=True):
        known_and_positive = choices[number].num_known, choices[number].num_positive
        choices[number] = Regularisation(float(strength), path, *known_and_positive, _note(strength, path))
    return dict(zip(usable, solutions, strict=True)), choices


def _note(strength: float, losses: dict[float, float]) -> str | None:
    if not losses:
        return f"a class has too few patients to search: regularisation {strength:g}"
    if strength == STRENGTHS[0]:
        return "the strongest regularisation is the best: held-out patients confirm nothing that it learns"
    if strength == STRENGTHS[-1]:
        return "the weakest regularisation is the best: the classes are all but separable"
    return None


def _null_solutions(design: Design, targets: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(problems, classes, rank + 1) of an infinitely strong regularisation: it leaves the shares of the classes."""
    shares = targets.sum(axis=2) / known.sum(axis=1, keepdims=True)
    solutions = np.zeros((*targets.shape[:2], design.rows.shape[1]), dtype=np.float32)
    solutions[:, :, -1] = np.log(shares / (1 - shares)) if targets.shape[1] == 1 else np.log(shares)
    return solutions


def _search(
    design: Design, targets: np.ndarray, folds: np.ndarray, starts: np.ndarray
) -> tuple[list[dict[float, float]], np.ndarray]:
    """
    Held-out losses by strength for each problem, and the mean over folds of the best coefficients.

    All folds of all problems are solved at once, each from its solution at the strength before, and first from
    `starts`. Rows of fold -1 do not take part.
    """
    starts, searched = starts.copy(), folds >= 0
    absent = (targets * searched[:, None]).sum(axis=2) == 0  # whose patients are too few
    absent &= targets.shape[1] > 1
    null = starts[absent]
    losses: list[dict[float, float]] = [{} for _ in targets]
    worse = np.zeros(len(targets), dtype=int)

    problem = np.repeat(np.arange(len(targets)), folds.max(axis=1) + 1)
    fold = np.concatenate([np.arange(each.max() + 1) for each in folds])
    solutions = starts[problem]
    for strength in STRENGTHS:
        going = worse[problem] < WORSE_STEPS
        problem, fold, solutions = problem[going], fold[going], solutions[going]
        if not len(problem):
            break
        held_out = folds[problem] == fold[:, None]
        weights = (searched[problem] & ~held_out).astype(np.float32)
        weights /= weights.sum(axis=1, keepdims=True)
        aims = targets[problem]
        solutions, logits = solve(design, aims, weights, np.full(len(problem), strength), solutions, SEARCH_TOLERANCE)
        held_out_losses = (log_losses(logits, aims) * held_out).sum(axis=1, dtype=np.float64)
        for number in np.unique(problem):
            mine = problem == number
            loss = float(held_out_losses[mine].sum() / searched[number].sum())
            if loss < min(losses[number].values(), default=np.inf):
                starts[number], worse[number] = solutions[mine].mean(axis=0), 0
            else:
                worse[number] += 1
            losses[number][float(strength)] = loss
    starts[absent] = null
    return losses, starts
