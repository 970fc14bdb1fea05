"""Test results of a model: a report a task, every AUROC beside what ten global image numbers reach."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...data.image_statistics import dataset_statistics
from ...data.open_dataset import TaskDataset
from ...inference.task_labels import DEFAULT_THRESHOLD
from ...inference.zeroshot import LabelMatch, Transfer
from ...metrics.auroc import (
    LabelResult,
    MeanResult,
    bootstrap_aurocs,
    evaluate_labels,
    label_results,
    mean_result,
)
from ...metrics.calibration import brier_score, expected_calibration_error, reliability_curve
from ...metrics.curves import LabelCurves, label_curves
from ...metrics.label_groups import group_labels, group_results
from ...metrics.operating_point import OperatingPointResult, operating_point_table
from ...metrics.resampling import number_clusters
from ...metrics.shortcut import shortcut_baseline
from ...metrics.significance import PairedResult, compare_models, delong_interval
from ...metrics.subgroups import SubgroupResult, subgroup_results
from ...models.ark.configuration_ark import ArkTask
from ...models.ark.image_processing_ark import ArkImageProcessor
from ...models.ark.modeling_ark import ArkForImageClassification
from ..calibrate import CalibrationResult
from ..scoring import ScoredTask, ZeroShot, evaluated_columns, read_groups, score_task

FEWEST_LABELS_TO_GROUP = 6


@dataclass(frozen=True)
class LabelCalibration:
    """One label: mean probability and share of positives, expected calibration error, Brier score, and the curve."""

    label: str
    mean_probability: float
    observed_share: float
    ece: float
    brier: float
    curve_probability: list[float]
    curve_share: list[float]
    curve_count: list[int]


@dataclass(frozen=True)
class Comparison:
    """
    `model` against `other` on the same images: a result a label and one for the mean, differences model minus other.

    Model `a` of the results is `other`, `b` is `model`. They are None if `other` has no such head: the task is new.
    """

    model: str
    other: str
    results: list[PairedResult] | None


@dataclass
class TaskReport:
    """
    Results on one split of a dataset: of its task's own head or, with `matches`, of the labels that stand for its.

    The baseline is fitted on the train split of the same dataset, and None without one. `num_patients` is None where
    no patient is known; an image whose patient is not known counts as one of its own. A label that nothing matches has
    no AUROC, and none of its baseline either, so that the two means are over the same labels. The means are over the
    task's `eval_labels` if it has some. `accuracy`, of the most probable class, is for single-label tasks only, as is
    `confusion`, the images of each class (row) by most probable class (column).

    `delong` has the bounds of each label. `thresholds_saved` are the labels whose operating point the model carries;
    that of the others is 0.5. F1 and Matthews' correlation are at the operating points, their means over the labels
    of `mean` on which they are defined. `label_groups` are head, medium and tail by the share of positives in train,
    for tasks of six labels or more. `calibration_before` and `fitted` are set if the model was calibrated just before.
    `leaks` are sentences on images of the split that the model was trained on, see [`leaks_into`].
    """

    task: str
    dataset: str
    split: str
    num_images: int
    num_patients: int | None
    labels: list[LabelResult]
    mean: MeanResult
    baseline_labels: list[LabelResult] | None
    baseline_mean: MeanResult | None
    problem_type: str
    delong: dict[str, tuple[float, float]]
    operating_points: list[OperatingPointResult]
    thresholds_saved: list[str]
    mean_f1: float
    mean_mcc: float
    calibration: list[LabelCalibration]
    accuracy: float | None
    confusion: list[list[int]] | None
    label_groups: dict[str, list[str]] | None
    label_group_means: dict[str, MeanResult] | None
    subgroups: dict[str, list[SubgroupResult]]
    curves: list[LabelCurves]
    matches: dict[str, list[LabelMatch]] | None = None
    transfer: Transfer | None = None
    comparison: Comparison | None = None
    calibration_before: list[LabelCalibration] | None = None
    fitted: CalibrationResult | None = None
    leaks: list[str] = field(default_factory=list)


def evaluate_task(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    data: TaskDataset,
    split: str = "test",
    batch_size: int = 32,
    num_bootstrap: int = 1000,
    seed: int = 0,
    zero_shot: ZeroShot | None = None,
) -> TaskReport:
    """
    Scores a head on a split, or what stands for the labels, and reports on it as [`report_task`] does.

    Raises:
        ValueError: The model gives NaN for an image.
    """
    return report_task(data, score_task(model, processor, data, split, batch_size, zero_shot), num_bootstrap, seed)


def report_task(
    data: TaskDataset,
    scored: ScoredTask,
    num_bootstrap: int = 1000,
    seed: int = 0,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> TaskReport:
    """
    What the scores are worth, and those of the shortcut baseline fitted on the train split.

    Intervals are 95 % percentile intervals of a bootstrap over patients, or over images where no patient is known.

    Args:
        groups: By attribute the group of each image, from [`read_groups`]; sex, age and view unless set.
    """
    task, labels, probabilities, patients = data.task, scored.labels, scored.probabilities, scored.patients
    evaluated = evaluated_columns(task)
    bootstrap: dict[str, Any] = {"clusters": patients, "num_bootstrap": num_bootstrap, "seed": seed}
    replicates = bootstrap_aurocs(labels, probabilities, **bootstrap)
    table = label_results(labels, probabilities, task.labels, replicates, patients)
    baseline_table, baseline_mean = None, None
    if "train" in data.splits:
        statistics = [dataset_statistics(data, split) for split in ("train", scored.split)]
        baseline = shortcut_baseline(statistics[0], data.targets("train"), statistics[1])
        baseline[:, np.isnan(probabilities).all(axis=0)] = np.nan
        baseline_table, baseline_mean = evaluate_labels(labels, baseline, task.labels, evaluated, **bootstrap)
    grouped = None if scored.zero_shot else _group_labels(data)
    thresholds = {label: (task.thresholds or {}).get(label, DEFAULT_THRESHOLD) for label in task.labels}
    columns = list(zip(task.labels, labels.T, probabilities.T, strict=True))
    points = operating_point_table(labels, probabilities, task.labels, thresholds, **bootstrap)
    return TaskReport(
        task=task.name,
        dataset=data.name,
        split=scored.split,
        num_images=len(labels),
        num_patients=None if patients is None else number_clusters(patients, len(labels))[1],
        labels=table,
        mean=mean_result(table, replicates, evaluated),
        baseline_labels=baseline_table,
        baseline_mean=baseline_mean,
        problem_type=task.problem_type,
        delong={label: delong_interval(truth, scores, clusters=patients)[1:] for label, truth, scores in columns},
        operating_points=points,
        thresholds_saved=[label for label in task.labels if label in (task.thresholds or {})],
        mean_f1=_mean([points[column].f1 for column in evaluated]),
        mean_mcc=_mean([points[column].mcc for column in evaluated]),
        calibration=describe_calibration(scored, task),
        accuracy=None if scored.zero_shot else _accuracy(scored),
        confusion=None if scored.zero_shot else _confusion(scored),
        label_groups=grouped,
        label_group_means=None if grouped is None else group_results(grouped, table, replicates),
        subgroups={
            attribute: subgroup_results(
                labels, probabilities, list(thresholds.values()), task.labels, names, evaluated, **bootstrap
            )
            for attribute, names in (read_groups(data, scored.split) if groups is None else groups).items()
        },
        curves=[label_curves(*column) for column in columns],
        matches=scored.zero_shot.matches if scored.zero_shot else None,
        transfer=scored.zero_shot.transfer if scored.zero_shot else None,
    )


def describe_calibration(scored: ScoredTask, task: ArkTask) -> list[LabelCalibration]:
    """How far the probabilities of each label are shares of positives; NaN where nothing is known."""
    results = []
    for name, labels, probabilities in zip(task.labels, scored.labels.T, scored.probabilities.T, strict=True):
        known = ~np.isnan(labels) & ~np.isnan(probabilities)
        labels, probabilities = labels[known], probabilities[known]
        mean, share = (float(each.mean()) if len(each) else math.nan for each in (probabilities, labels))
        curve = [each.tolist() for each in reliability_curve(labels, probabilities)]
        ece = expected_calibration_error(labels, probabilities)
        results.append(LabelCalibration(name, mean, share, ece, brier_score(labels, probabilities), *curve))
    return results


def compare_task(
    task: ArkTask, ours: ScoredTask, theirs: ScoredTask, num_bootstrap: int = 1000, seed: int = 0
) -> list[PairedResult]:
    """A model, `b` of the results, against another, `a`, on the same images: a result a label, one for the mean."""
    return compare_models(
        ours.labels,
        theirs.probabilities,
        ours.probabilities,
        task.labels,
        evaluated_columns(task),
        ours.patients,
        num_bootstrap,
        seed=seed,
    )


def compare_sites(
    tested: Sequence[tuple[TaskDataset, ScoredTask]], num_bootstrap: int = 1000, seed: int = 0
) -> dict[str, list[SubgroupResult]]:
    """For each head that was tested on several datasets its results by dataset, as by any other group."""
    by_head: dict[str, list[tuple[TaskDataset, ScoredTask]]] = {}
    for data, scored in tested:
        if scored.zero_shot is None:
            by_head.setdefault(data.task.name, []).append((data, scored))
    return {name: _compare_sites(sites, num_bootstrap, seed) for name, sites in by_head.items() if len(sites) > 1}


def _compare_sites(
    tested: list[tuple[TaskDataset, ScoredTask]], num_bootstrap: int, seed: int
) -> list[SubgroupResult]:
    task, names = tested[0][0].task, [data.name for data, _ in tested]
    sites, patients = [], []
    for number, (name, (_, scored)) in enumerate(zip(names, tested, strict=True), start=1):
        site = f"{name} ({number})" if names.count(name) > 1 else name
        sites += [site] * len(scored.labels)
        # Two datasets may give two patients one id
        known = scored.patients or [None] * len(scored.labels)
        patients += [f"{site}/{patient}" if patient else None for patient in known]
    return subgroup_results(
        np.concatenate([scored.labels for _, scored in tested]),
        np.concatenate([scored.probabilities for _, scored in tested]),
        [(task.thresholds or {}).get(label, DEFAULT_THRESHOLD) for label in task.labels],
        task.labels,
        sites,
        evaluated_columns(task),
        patients,
        num_bootstrap,
        seed=seed,
    )


def _mean(values: list[float]) -> float:
    """Over those that are defined."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _accuracy(scored: ScoredTask) -> float | None:
    if scored.classes is None:
        return None
    known = scored.classes != -100
    right = scored.probabilities[known].argmax(axis=1) == scored.classes[known]
    return float(right.mean()) if known.any() else float("nan")


def _confusion(scored: ScoredTask) -> list[list[int]] | None:
    if scored.classes is None:
        return None
    known = scored.classes != -100
    counts = np.zeros((scored.labels.shape[1],) * 2, dtype=int)
    np.add.at(counts, (scored.classes[known], scored.probabilities[known].argmax(axis=1)), 1)
    return counts.tolist()


def _group_labels(data: TaskDataset) -> dict[str, list[str]] | None:
    """Head, medium and tail by the train split that the head was trained on."""
    if "train" not in data.splits or len(data.task.labels) < FEWEST_LABELS_TO_GROUP:
        return None
    labels = data.targets("train")
    positive, known = (labels == 1).sum(axis=0).tolist(), (~np.isnan(labels)).sum(axis=0).tolist()
    names = data.task.labels
    return group_labels(dict(zip(names, positive, strict=True)), dict(zip(names, known, strict=True)))
