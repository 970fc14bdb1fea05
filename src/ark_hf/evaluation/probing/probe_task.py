"""What embeddings are good for on a task dataset: probes, few-shot curves, neighbours and shortcuts."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ...data.task_dataset import (
    check_disjoint,
    check_labels,
    load_task_dataset,
    read_task,
    resolve_labels,
    split_names,
)
from ...metrics.auroc import LabelResult, MeanResult, evaluate_labels, number_clusters, one_vs_rest
from ...metrics.shortcut import image_statistics, shortcut_baseline
from ...models.ark.configuration_ark import ArkTask
from ..scoring import evaluated_columns
from .few_shot import ShotResult, few_shot_curve
from .probe import Choice, fit_probe
from .retrieval import RetrievalResult, nearest_neighbours, retrieval_precision
from .shortcut_probe import AttributedImages, ShortcutResult, predict_attribute

ATTRIBUTES = ("sex", "view")


@dataclass
class ProbeSplit:
    """
    One split, checked.

    Args:
        labels: (n, labels) 0, 1, NaN; or int (n,), -100 unknown, for a single-label task.
        columns: The labels as 0, 1, NaN, a column a class.
        patients: A patient id an image, or None where the dataset knows no patients.
        embeddings: float32 (n, width), empty until they are there.
    """

    rows: Dataset
    labels: np.ndarray
    columns: np.ndarray
    patients: list | None
    embeddings: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))


@dataclass
class ProbeData:
    """Train and test of a task dataset; the probes' regularisation needs no validation split."""

    name: str
    task: ArkTask
    train: ProbeSplit
    test: ProbeSplit

    @property
    def splits(self) -> dict[str, ProbeSplit]:
        return {"train": self.train, "test": self.test}


@dataclass
class ProbeReport:
    """
    Results on the test split of one dataset.

    `choices` holds one regularisation a label, or one in all for a single-label task. The means are over the task's
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
    choices: list[Choice]
    few_shot: list[ShotResult] | None = None
    neighbours: int | None = None
    retrieval: list[RetrievalResult] | None = None
    shortcuts: list[ShortcutResult] | None = None


def load_probe_data(dataset: str) -> ProbeData:
    """
    Loads train and test of a task dataset, without embeddings.

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
    rows = {split: load_task_dataset(dataset, split) for split in ("train", "test")}
    for split, each in rows.items():
        check_labels(task, each, f"{dataset}, split {split!r}")
    check_disjoint(rows, dataset)
    return ProbeData(Path(dataset).name, task, *(_checked_split(each, task) for each in rows.values()))


def _checked_split(rows: Dataset, task: ArkTask) -> ProbeSplit:
    labels = np.stack([resolve_labels(values, task) for values in rows["labels"][:]])
    columns = one_vs_rest(labels, len(task.labels)) if labels.ndim == 1 else labels.astype(np.float64)
    return ProbeSplit(rows, labels, columns, rows["patient_id"][:] if "patient_id" in rows.column_names else None)


def probe_task(
    data: ProbeData, few_shot: bool = False, neighbours: int | None = None, num_bootstrap: int = 1000, seed: int = 0
) -> ProbeReport:
    """
    Fits probes on train and scores test once, beside the shortcut baseline.

    Intervals are 95 % percentile intervals of a bootstrap over patients, or over images where no patient is known.

    Args:
        data: With embeddings.
        few_shot: Whether to draw the few-shot curve too.
        neighbours: How many train images are looked up for the retrieval precision; it is left out unless set.
        seed: Of the folds, the subsets and the bootstrap.
    """
    train, test, names = data.train, data.test, data.task.labels
    evaluated = evaluated_columns(data.task)
    bootstrap: dict[str, Any] = {"clusters": test.patients, "num_bootstrap": num_bootstrap, "seed": seed}
    probe = fit_probe(train.embeddings, train.labels, train.patients, len(names), seed=seed)
    labels, mean = evaluate_labels(test.columns, probe.predict(test.embeddings), names, evaluated, **bootstrap)
    statistics = [_statistics(split.rows, f"{data.name}, {name}") for name, split in data.splits.items()]
    baseline = shortcut_baseline(statistics[0], train.columns, statistics[1])
    baseline_labels, baseline_mean = evaluate_labels(test.columns, baseline, names, evaluated, **bootstrap)
    report = ProbeReport(
        task=data.task.name,
        dataset=data.name,
        num_train=len(train.rows),
        num_test=len(test.rows),
        num_test_patients=None if test.patients is None else number_clusters(test.patients, len(test.rows))[1],
        labels=labels,
        mean=mean,
        baseline_labels=baseline_labels,
        baseline_mean=baseline_mean,
        choices=probe.choices,
    )
    if few_shot:
        report.few_shot = few_shot_curve(
            train.embeddings,
            train.labels,
            test.embeddings,
            test.columns,
            names,
            mean.auroc,
            evaluated,
            train.patients,
            seed=seed,
            description=f"{data.name}, few-shot",
        )
    if neighbours is not None:
        report.neighbours = neighbours
        rows, _ = nearest_neighbours(train.embeddings, test.embeddings, neighbours)
        report.retrieval = retrieval_precision(rows, train.columns, test.columns, names)
    return report


def probe_attributes(data: ProbeData, num_bootstrap: int = 1000, seed: int = 0) -> list[ShortcutResult]:
    """How well a probe tells the `ATTRIBUTES` that the dataset knows, see `shortcut_probe.predict_attribute`."""
    results = []
    for attribute in ATTRIBUTES:
        images = [
            AttributedImages(split.embeddings, split.rows[attribute][:], split.patients)
            for split in data.splits.values()
            if attribute in split.rows.column_names
        ]
        if len(images) == 2 and all(any(each.values) for each in images):
            results.append(predict_attribute(attribute, images[0], images[1], num_bootstrap, seed))
    return results


def probe_sources(datasets: Sequence[ProbeData], num_bootstrap: int = 1000, seed: int = 0) -> ShortcutResult:
    """How well a probe tells the datasets apart."""
    merged = []
    for split in ("train", "test"):
        parts = [(data.name, data.splits[split]) for data in datasets]
        names = [name for name, part in parts for _ in part.labels]
        # One id in two datasets is of two people
        patients = [
            patient and f"{name}/{patient}"
            for name, part in parts
            for patient in part.patients or [None] * len(part.labels)
        ]
        merged.append(AttributedImages(np.concatenate([part.embeddings for _, part in parts]), names, patients))
    return predict_attribute("dataset", merged[0], merged[1], num_bootstrap, seed)


def write_neighbours(path: Path, data: ProbeData, neighbours: int) -> None:
    """
    Writes a CSV of the most similar train images of each test image: row numbers in their splits, similarity, labels.
    """
    train, test = data.train, data.test
    rows, similarities = nearest_neighbours(
        train.embeddings, test.embeddings, neighbours, train.patients, train.patients and test.patients
    )
    new = path.with_name(f".{path.name}.new")
    with open(new, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["test_row", "rank", "train_row", "similarity", "test_labels", "train_labels"])
        for query, (found, alike) in enumerate(zip(rows.tolist(), similarities.tolist(), strict=True)):
            for rank, (row, similarity) in enumerate(zip(found, alike, strict=True), start=1):
                labels = [_named(split.columns[at], data.task) for split, at in ((test, query), (train, row))]
                writer.writerow([query, rank, row, f"{similarity:.4f}", *labels])
    new.replace(path)


def _named(columns: np.ndarray, task: ArkTask) -> str:
    return "; ".join(label for label, value in zip(task.labels, columns, strict=True) if value == 1)


def _statistics(rows: Dataset, description: str) -> np.ndarray:
    progress = tqdm(rows, desc=f"{description}: image statistics", unit="image", leave=False)
    return np.stack([image_statistics(row["image"]) for row in progress])
