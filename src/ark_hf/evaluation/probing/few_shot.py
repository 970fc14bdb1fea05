"""How a probe improves with labelled images: k a class, shares of large sets, and all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ...data.subsets import rows_per_class
from ...metrics.auroc import evaluate_labels, one_vs_rest
from ...metrics.resampling import t_interval
from .probe import fit_probe

SHOTS = (1, 5, 10, 20, 50)
PERCENTS = (1, 10)
LEAST_ROWS_FOR_PERCENTS = 10_000
REPEATS = 5


@dataclass(frozen=True)
class ShotResult:
    """
    One point of the curve.

    Args:
        name: "5 a class", "1 %" or "all".
        aurocs: Mean AUROC on test of each repeat; empty if there was nothing to draw from.
        num_rows: Mean number of training images.
        mean, ci_low, ci_high: Of the repeats: mean and 95 % interval by Student's t; NaN where undefined, as is the
            interval of "all", of which there is one draw.
        note: Why the point is missing.
    """

    name: str
    aurocs: list[float]
    num_rows: float
    mean: float
    ci_low: float
    ci_high: float
    note: str | None = None


def few_shot_curve(
    train_embeddings: np.ndarray,
    train_labels: np.ndarray,
    test_embeddings: np.ndarray,
    test_labels: np.ndarray,
    label_names: Sequence[str],
    auroc_of_all: float,
    evaluated: Sequence[int] | None = None,
    clusters: Sequence[Any] | None = None,
    shots: Sequence[int] = SHOTS,
    repeats: int = REPEATS,
    seed: int = 0,
    description: str | None = None,
) -> list[ShotResult]:
    """
    Fits probes on random subsets of the training images and scores them on all test images.

    Of several labels that can come together, the images with none of them are one more class. A number of images a
    class is left out, with the reason, where a class has fewer; labels without any positive image do not count there,
    as they have no probe anyhow. Percentages are for sets of 10,000 images or more.

    Args:
        train_embeddings, test_embeddings: float32 (n, width) and (m, width).
        train_labels: As for `fit_probe`.
        test_labels: (m, labels) in 0, 1, NaN (unknown); `metrics.one_vs_rest` of a single-label task.
        label_names: One a column of `test_labels`.
        auroc_of_all: Mean AUROC of the probe that was fitted on all images: the last point.
        evaluated: Numbers of the columns that the mean AUROC is over; all unless set.
        clusters: Patient ids of the training images, which folds keep together.
        shots: Numbers of images per class.
        repeats: Draws of each subset.
        seed: Draw i is made with seed + i.
        description: What the progress bar is called; there is none without.
    """
    columns = one_vs_rest(train_labels, len(label_names)) if train_labels.ndim == 1 else train_labels
    results = []
    subsets = list(_subsets(columns, label_names, shots, repeats, seed))
    total = sum(len(draws) for _, draws, _ in subsets)
    with tqdm(total=total, desc=description, disable=description is None, unit="probe", leave=False) as progress:
        for name, draws, note in subsets:
            aurocs = []
            for number, rows in enumerate(draws):
                patients = None if clusters is None else [clusters[row] for row in rows]
                probe = fit_probe(
                    train_embeddings[rows], train_labels[rows], patients, len(label_names), seed=seed + number
                )
                scores = probe.predict(test_embeddings)
                aurocs.append(evaluate_labels(test_labels, scores, label_names, evaluated, num_bootstrap=0)[1].auroc)
                progress.update()
            mean, low, high, _ = t_interval(aurocs)
            results.append(ShotResult(name, aurocs, _mean([len(rows) for rows in draws]), mean, low, high, note))
    nan = float("nan")
    return [*results, ShotResult("all", [auroc_of_all], float(len(columns)), auroc_of_all, nan, nan)]


def draw_curve(curves: dict[str, list[ShotResult]], path: Path) -> None:
    """A PNG of the mean AUROC by the number of training images, on a logarithmic axis, a line per dataset."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained", dpi=150)
    axes = figure.subplots()
    for name, curve in curves.items():
        points = sorted((shot for shot in curve if shot.aurocs), key=lambda shot: shot.num_rows)
        sizes, means = [shot.num_rows for shot in points], [shot.mean for shot in points]
        (line,) = axes.plot(sizes, means, marker="o", markersize=4, label=name)
        axes.fill_between(
            sizes,
            [shot.ci_low for shot in points],
            [shot.ci_high for shot in points],
            color=line.get_color(),
            alpha=0.2,
        )
    axes.axhline(0.5, color="grey", linewidth=1, linestyle=":")
    axes.set(xscale="log", xlabel="training images", ylabel="mean AUROC on test")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)


def _subsets(
    columns: np.ndarray, names: Sequence[str], shots: Sequence[int], repeats: int, seed: int
) -> Iterator[tuple[str, list[np.ndarray], str | None]]:
    """Name, rows of each draw, and the reason if there are none."""
    # Without images that have none of the labels, findings that come together would have no negatives
    without = (columns == 0).all(axis=1, keepdims=True).astype(float)
    classes = np.concatenate([columns, without], axis=1)
    present = np.nansum(classes, axis=0) > 0
    kept = [name for name, there in zip([*names, "none of them"], present, strict=True) if there]
    for k in shots:
        try:
            draws = [rows_per_class(classes[:, present], k, seed + number, kept) for number in range(repeats)]
            yield f"{k} a class", draws, None
        except ValueError as error:
            yield f"{k} a class", [], str(error)
    if len(columns) >= LEAST_ROWS_FOR_PERCENTS:
        for percent in PERCENTS:
            size = len(columns) * percent // 100
            generators = [np.random.default_rng([percent, seed + number]) for number in range(repeats)]
            yield (
                f"{percent} %",
                [np.sort(each.choice(len(columns), size, replace=False)) for each in generators],
                None,
            )


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
