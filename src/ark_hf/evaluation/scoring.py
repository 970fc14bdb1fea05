"""A task dataset as a model is tested on it, and the model's probabilities for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset

from ..data.loading import InferenceSamples
from ..data.task_dataset import check_disjoint, check_labels, load_task_dataset, read_task, split_names
from ..inference.predict import mean_probabilities, predict_logits
from ..inference.zeroshot import (
    LabelMatch,
    Transfer,
    match_dataset,
    match_transfer,
    positive_classes,
    zero_shot_scores,
)
from ..labels import Synonyms
from ..metrics.auroc import one_vs_rest
from ..metrics.subgroups import group_names
from ..models.ark.configuration_ark import ArkTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification

SUBGROUPS = ("sex", "age", "view")
MOST_SUBGROUPS = 20


@dataclass
class EvaluationData:
    """
    One task dataset, loaded and checked, for the head of its task or, with `matches`, for the labels that they name.

    `train` is None if the dataset has no such split.
    """

    dataset: str
    task: ArkTask
    split: str
    rows: Dataset
    train: Dataset | None
    matches: dict[str, list[LabelMatch]] | None = None
    transfer: Transfer | None = None


def evaluated_columns(task: ArkTask) -> list[int]:
    """Numbers of the labels that a task's means are over: of its `eval_labels`, or of all."""
    return [task.labels.index(label) for label in task.eval_labels or task.labels]


def load_evaluation_data(
    model: ArkForImageClassification, dataset: str, split: str = "test", head: str | None = None
) -> EvaluationData:
    """
    Loads a task dataset for the model's head of the same name, or for `head`.

    Raises:
        ValueError: The dataset cannot be read, its labels are not the head's, or a patient stands in two splits.
    """
    stored = read_task(dataset)
    task = next((each for each in model.config.tasks or [] if each.name == (head or stored.name)), None)
    if task is None:
        heads = [each.name for each in model.config.tasks or []]
        raise ValueError(
            f"{dataset}: the model has no head {head or stored.name!r}; its heads are {heads}; "
            "name one: HEAD=DATASET, or --zero_shot for a dataset that the model was not trained on."
        )
    if (task.labels, task.problem_type) != (stored.labels, stored.problem_type):
        raise ValueError(f"{dataset}: its labels {stored.labels} are not those of the head, {task.labels}.")
    return EvaluationData(dataset, task, split, *_load_splits(dataset, task, split))


def load_zero_shot_data(
    model: ArkForImageClassification,
    dataset: str,
    synonyms: Synonyms,
    split: str = "test",
    heads: Sequence[str] | None = None,
    related: bool = False,
    transfer: Transfer | None = None,
) -> EvaluationData:
    """
    Loads a task dataset that the model was not trained on, and finds the model's labels that stand for its labels.

    Args:
        synonyms: Table of names, from `ark_hf.labels.read_synonyms`.
        heads: Names of the heads to look at; all unless set.
        related: Whether findings count that the table calls related, but not the same.
        transfer: A published transfer, which names the one head and label itself.

    Raises:
        ValueError: The dataset cannot be read, a patient stands in two splits, no label of the dataset is matched (see
            `zeroshot.match_dataset`), or `heads` or `related` is set beside `transfer`.
    """
    if transfer is not None and (heads is not None or related):
        raise ValueError("A published transfer names its head and label itself: leave out `heads` and `related`.")
    task, tasks = read_task(dataset), model.config.tasks or []
    if transfer is None:
        matches = match_dataset(task, tasks, synonyms, heads, related)
    else:
        matches = match_transfer(task, tasks, synonyms, transfer)
    rows, train = _load_splits(dataset, task, split)
    positives = [] if transfer is None else positive_classes(task, synonyms, transfer)
    if positives:
        indices = [task.labels.index(label) for label in positives]
        rows, train = _one_label(rows, indices), None if train is None else _one_label(train, indices)
        task = ArkTask(task.name, list(matches))
    return EvaluationData(dataset, task, split, rows, train, matches, transfer)


def _one_label(rows: Dataset, positives: list[int]) -> Dataset:
    """Rows of a single-label task as those of a multi-label task of one label: whether the class is a positive one."""
    labels = [None if index is None or index < 0 else float(index in positives) for index in rows["labels"][:]]
    return rows.remove_columns("labels").add_column("labels", [[label] for label in labels])


def _load_splits(dataset: str, task: ArkTask, split: str) -> tuple[Dataset, Dataset | None]:
    rows = load_task_dataset(dataset, split)
    check_labels(task, rows, f"{dataset}, split {split!r}")
    if split == "train":
        return rows, rows
    if "train" not in split_names(dataset):
        return rows, None
    train = load_task_dataset(dataset, "train")
    check_disjoint({"train": train, split: rows}, dataset)
    return rows, train


@dataclass(frozen=True)
class ScoredTask:
    """
    Probabilities of the labels, float64 (n, labels), a column of NaN for a label that nothing matches; the truth, 0, 1
    or NaN, of the same shape; of a single-label task the class, int (n,), -100 unknown; and where known the patients.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    classes: np.ndarray | None
    patients: list[Any] | None


def score_task(
    model: ArkForImageClassification, processor: ArkImageProcessor, data: EvaluationData, batch_size: int = 32
) -> ScoredTask:
    """The probabilities of the head, or of the labels that stand for the dataset's; `ValueError` if one is NaN."""
    samples = InferenceSamples(data.rows, data.task, processor)
    description = f"{data.task.name}, {data.split}"
    logits, targets = predict_logits(
        model, samples, Accelerator(), batch_size, description=description, all_heads=data.matches is not None
    )
    broken = np.flatnonzero(~np.isfinite(logits.reshape(len(logits), -1)).all(axis=1))
    if len(broken):
        raise ValueError(
            f"The model gives NaN or infinite outputs for task {data.task.name!r} on {len(broken)} of {len(logits)} "
            f"images of {data.dataset}, split {data.split!r}, the first in row {broken[0]}: its training diverged or "
            "its file is damaged. Train or load it anew."
        )
    if data.matches is None:
        probabilities = mean_probabilities(logits, data.task)
    else:
        each_label = mean_probabilities(logits, model.config)
        unmatched = np.full(len(each_label), np.nan)
        columns = [
            zero_shot_scores(each_label, matches, model.config.tasks or []) if matches else unmatched
            for matches in data.matches.values()
        ]
        probabilities = np.stack(columns, axis=1)
    classes = targets if targets.ndim == 1 else None
    labels = targets if classes is None else one_vs_rest(classes, len(data.task.labels))
    patients = data.rows["patient_id"][:] if "patient_id" in data.rows.column_names else None
    return ScoredTask(probabilities, labels.astype(np.float64), classes, patients)


def read_groups(data: EvaluationData, attributes: Sequence[str] | None = None) -> dict[str, list[str]]:
    """
    The group of each image by columns of the dataset; an attribute that it lacks is left out.

    Args:
        attributes: Names of columns; unless set, those of sex, age and view that hold something.

    Raises:
        ValueError: A column that does not sort patients into groups: one a patient, or more than 20 groups.
    """
    found = {}
    for attribute in attributes or SUBGROUPS:
        if attribute in ("image", "labels", "image_id", "patient_id", "study_id"):
            raise ValueError(f"--subgroups {attribute} sorts nobody into groups; name a column such as sex or view.")
        if attribute not in data.rows.column_names:
            continue
        names = group_names(data.rows[attribute][:], attribute)
        if len(set(names)) > MOST_SUBGROUPS:
            raise ValueError(
                f"{data.dataset}: the column {attribute!r} has {len(set(names))} values, more than the "
                f"{MOST_SUBGROUPS} groups that a table can show. Name a coarser one."
            )
        if attributes or set(names) != {"unknown"}:
            found[attribute] = names
    return found
