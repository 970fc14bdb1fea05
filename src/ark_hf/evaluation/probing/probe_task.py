"""What embeddings are good for on a task dataset: probes, few-shot curves, neighbours and shortcuts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ...data.image_statistics import dataset_statistics
from ...data.open_dataset import TaskDataset, open_dataset
from ...data.task_dataset import read_task, split_names
from ...metrics.auroc import LabelResult, MeanResult, evaluate_labels
from ...metrics.resampling import number_clusters
from ...metrics.shortcut import shortcut_baseline
from ..scoring import evaluated_columns
from .few_shot import ShotResult, few_shot_curve
from .probe import Regularisation, fit_probe
from .retrieval import RetrievalResult, nearest_neighbours, retrieval_precision
from .shortcut_probe import AttributedImages, ShortcutResult, predict_attribute

ATTRIBUTES = ("sex", "view")
SPLITS_OF_A_PROBE = ("train", "test")
Embeddings: TypeAlias = Mapping[str, np.ndarray]  # by split, float32 (rows, width)


@dataclass
class ProbeReport:
    """
    Results on the test split of one dataset.

    `choices` holds one regularisation per label, or one in all for a single-label task. The means are over the task's
    `eval_labels` if it has some. What was not asked for is None.
    """

    task: str
    dataset: str
    num_train: int
    num_test: int
    num_test_patients: int | None
    labels: list[LabelResult]
    mean: MeanResult
    baseline_labels: list[LabelResult]
    baseline_mean: MeanResult
    choices: list[Regularisation]
    few_shot: list[ShotResult] | None = None
    neighbours: int | None = None
    retrieval: list[RetrievalResult] | None = None
    shortcuts: list[ShortcutResult] | None = None


def load_probe_data(dataset: str) -> TaskDataset:
    """
    Opens train and test of a task dataset; the probes' regularisation needs no validation split.

    Raises:
        ValueError: It cannot be read, a split is missing or empty, labels do not fit the task, or a patient or an
            image stands in both splits.
    """
    task, there = read_task(dataset), split_names(dataset)
    missing = {"train", "test"} - set(there)
    if missing:
        raise ValueError(
            f"{dataset} has no {sorted(missing)[0]} split, only {there}: a probe is fitted on train and tested on "
            "test. Rebuild the dataset with both."
        )
    return open_dataset(dataset, SPLITS_OF_A_PROBE, task)


def probe_task(
    data: TaskDataset,
    embeddings: Embeddings,
    few_shot: bool = False,
    neighbours: int | None = None,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> ProbeReport:
    """
    Fits probes on train and scores test once, beside the shortcut baseline.

    Intervals are 95 % percentile intervals of a bootstrap over patients, or over images where no patient is known.

    Args:
        data: Train and test.
        embeddings: Of each of the two, float32 (rows, width).
        few_shot: Whether to draw the few-shot curve too.
        neighbours: How many train images are looked up for the retrieval precision; it is left out unless set.
        seed: Of the folds, the subsets and the bootstrap.
    """
    names, evaluated = data.task.labels, evaluated_columns(data.task)
    labels, train, test = data.labels("train"), data.targets("train"), data.targets("test")
    patients, test_patients = data.patients("train"), data.patients("test")
    bootstrap: dict[str, Any] = {"clusters": test_patients, "num_bootstrap": num_bootstrap, "seed": seed}
    probe = fit_probe(embeddings["train"], labels, patients, len(names), seed=seed)
    table, mean = evaluate_labels(test, probe.predict(embeddings["test"]), names, evaluated, **bootstrap)
    statistics = [dataset_statistics(data, split) for split in SPLITS_OF_A_PROBE]
    baseline = shortcut_baseline(statistics[0], train, statistics[1])
    baseline_labels, baseline_mean = evaluate_labels(test, baseline, names, evaluated, **bootstrap)
    report = ProbeReport(
        task=data.task.name,
        dataset=data.name,
        num_train=len(train),
        num_test=len(test),
        num_test_patients=None if test_patients is None else number_clusters(test_patients, len(test))[1],
        labels=table,
        mean=mean,
        baseline_labels=baseline_labels,
        baseline_mean=baseline_mean,
        choices=probe.choices,
    )
    if few_shot:
        report.few_shot = few_shot_curve(
            embeddings["train"],
            labels,
            embeddings["test"],
            test,
            names,
            mean.auroc,
            evaluated,
            patients,
            seed=seed,
            description=f"{data.name}, few-shot",
        )
    if neighbours is not None:
        report.neighbours = neighbours
        rows, _ = nearest_neighbours(embeddings["train"], embeddings["test"], neighbours)
        report.retrieval = retrieval_precision(rows, train, test, names)
    return report


def probe_attributes(
    data: TaskDataset, embeddings: Embeddings, num_bootstrap: int = 1000, seed: int = 0
) -> list[ShortcutResult]:
    """How well a probe tells the `ATTRIBUTES` that the dataset knows, see `shortcut_probe.predict_attribute`."""
    results = []
    for attribute in ATTRIBUTES:
        values = {split: data.column(split, attribute) for split in SPLITS_OF_A_PROBE}
        if all(known is not None and any(known) for known in values.values()):
            train, test = (
                AttributedImages(embeddings[split], known or [], data.patients(split))
                for split, known in values.items()
            )
            results.append(predict_attribute(attribute, train, test, num_bootstrap, seed))
    return results


def probe_sources(
    datasets: Sequence[tuple[TaskDataset, Embeddings]], num_bootstrap: int = 1000, seed: int = 0
) -> ShortcutResult:
    """How well a probe tells the datasets apart."""
    merged = []
    for split in SPLITS_OF_A_PROBE:
        parts = [(data.name, data.patients(split), embeddings[split]) for data, embeddings in datasets]
        names = [name for name, _, found in parts for _ in found]
        # One id in two datasets is of two people
        patients = [
            patient and f"{name}/{patient}" for name, known, found in parts for patient in known or [None] * len(found)
        ]
        merged.append(AttributedImages(np.concatenate([found for *_, found in parts]), names, patients))
    return predict_attribute("dataset", merged[0], merged[1], num_bootstrap, seed)
