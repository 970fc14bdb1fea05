"""Task datasets as a model is tested on them, and the model's probabilities for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.loading import check_has_pictures
from ..data.open_dataset import TaskDataset, open_dataset
from ..data.task_dataset import SPLITS, load_task_dataset, read_task, split_names
from ..data.volume_samples import check_has_volumes, inference_samples
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
from ..metrics.subgroups import group_names
from ..models.ark.configuration_ark import ArkTask
from ..models.ark.modeling_ark import ArkForImageClassification
from ..models.genesis.modeling_genesis import GenesisForImageClassification, GenesisPreTrainedModel

SUBGROUPS = ("sex", "age", "view")
MOST_SUBGROUPS = 20


@dataclass(frozen=True)
class ZeroShot:
    """The model's labels that stand for each label of a dataset, and the published transfer, if one named them."""

    matches: dict[str, list[LabelMatch]]
    transfer: Transfer | None = None


def evaluated_columns(task: ArkTask) -> list[int]:
    """Numbers of the labels that a task's means are over: of its `eval_labels`, or of all."""
    return [task.labels.index(label) for label in task.eval_labels or task.labels]


def check_takes(model: Any, column_names: Sequence[str], dataset: str) -> None:
    """Raises `ValueError` if the model takes volumes and the dataset holds pictures, or the reverse."""
    check = check_has_volumes if isinstance(model, GenesisPreTrainedModel) else check_has_pictures
    check(column_names, dataset)


def load_evaluation_data(
    model: ArkForImageClassification | GenesisForImageClassification,
    dataset: str,
    split: str = "test",
    head: str | None = None,
) -> TaskDataset:
    """
    Opens a task dataset for the model's head of the same name, or for `head`: `split`, and all others that there are.

    Raises:
        ValueError: The dataset cannot be read, its labels are not the head's, or a patient stands in two splits.
    """
    stored = read_task(dataset)
    task = next((each for each in model.config.tasks or [] if each.name == (head or stored.name)), None)
    if task is None or (task.labels, task.problem_type) != (stored.labels, stored.problem_type):
        check_takes(model, load_task_dataset(dataset, split).column_names, dataset)  # what differs most is told
    if task is None:
        heads = [each.name for each in model.config.tasks or []]
        raise ValueError(
            f"{dataset}: the model has no head {head or stored.name!r}; its heads are {heads}; "
            "name one: HEAD=DATASET, or --zero_shot for a dataset that the model was not trained on."
        )
    if (task.labels, task.problem_type) != (stored.labels, stored.problem_type):
        raise ValueError(f"{dataset}: its labels {stored.labels} are not those of the head, {task.labels}.")
    if task.modality != stored.modality:
        raise ValueError(
            f"{dataset}: its images are of modality {stored.modality}, and the head {task.name!r} is for images of "
            f"modality {task.modality}. If its card is wrong, mend `ark_modality` there."
        )
    return _open(dataset, split, task)


def load_zero_shot_data(
    model: ArkForImageClassification | GenesisForImageClassification,
    dataset: str,
    synonyms: Synonyms,
    split: str = "test",
    heads: Sequence[str] | None = None,
    related: bool = False,
    transfer: Transfer | None = None,
) -> tuple[TaskDataset, ZeroShot]:
    """
    Opens a task dataset that the model was not trained on, and finds the model's labels that stand for its labels.

    Args:
        synonyms: Table of names, from `ark_hf.read_synonyms`.
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
    data = _open(dataset, split, task)
    positives = [] if transfer is None else positive_classes(task, synonyms, transfer)
    if positives:
        indices = [task.labels.index(label) for label in positives]
        splits = {name: _one_label(rows, indices) for name, rows in data.splits.items()}
        data = TaskDataset(data.source, ArkTask(task.name, list(matches)), splits)
    return data, ZeroShot(matches, transfer)


def _one_label(rows: Dataset, positives: list[int]) -> Dataset:
    """Rows of a single-label task as those of a multi-label task of one label: whether the class is a positive one."""
    labels = [None if index is None or index < 0 else float(index in positives) for index in rows["labels"][:]]
    return rows.remove_columns("labels").add_column("labels", [[label] for label in labels])


def _open(dataset: str, split: str, task: ArkTask) -> TaskDataset:
    there = split_names(dataset)
    return open_dataset(dataset, [name for name in SPLITS if name == split or name in there], task)


@dataclass(frozen=True)
class ScoredTask:
    """
    Probabilities of the labels of a split, float64 (n, labels), a column of NaN for a label that nothing matches; the
    truth, 0, 1 or NaN, of the same shape; of a single-label task the class, int (n,), -100 unknown; where known the
    patients; the logits as [`predict_logits`] gives them; and what stood for the labels, where they are not those of a
    head.
    """

    split: str
    probabilities: np.ndarray
    labels: np.ndarray
    classes: np.ndarray | None
    patients: list[Any] | None
    logits: np.ndarray
    zero_shot: ZeroShot | None = None


def score_task(
    model: ArkForImageClassification | GenesisForImageClassification,
    processor: Any,
    data: TaskDataset,
    split: str = "test",
    batch_size: int = 32,
    zero_shot: ZeroShot | None = None,
) -> ScoredTask:
    """The probabilities of the head, or of the labels that stand for the dataset's; `ValueError` if one is NaN."""
    samples = inference_samples(data.splits[split], data.task, processor)
    description = f"{data.task.name}, {split}"
    logits, _ = predict_logits([model], samples, batch_size, description=description, all_heads=zero_shot is not None)
    broken = np.flatnonzero(~np.isfinite(logits.reshape(len(logits), -1)).all(axis=1))
    if len(broken):
        raise ValueError(
            f"The model gives NaN or infinite outputs for task {data.task.name!r} on {len(broken)} of {len(logits)} "
            f"images of {data.source}, split {split!r}, the first in row {broken[0]}: its training diverged or its "
            "file is damaged. Train or load it anew."
        )
    if zero_shot is None:
        probabilities = mean_probabilities(logits, data.task)
    else:
        by_label = mean_probabilities(logits, model.config)
        unmatched = np.full(len(by_label), np.nan)
        columns = [
            zero_shot_scores(by_label, matches, model.config.tasks or []) if matches else unmatched
            for matches in zero_shot.matches.values()
        ]
        probabilities = np.stack(columns, axis=1)
    labels = data.labels(split)
    classes = labels if labels.ndim == 1 else None
    return ScoredTask(split, probabilities, data.targets(split), classes, data.patients(split), logits, zero_shot)


def read_groups(data: TaskDataset, split: str, attributes: Sequence[str] | None = None) -> dict[str, list[str]]:
    """
    The group of each image by columns of the dataset; an attribute that it lacks is left out.

    Args:
        attributes: Names of columns; unless set, those of sex, age and view that hold something.

    Raises:
        ValueError: A column that does not sort patients into groups: one per patient, or more than 20 groups.
    """
    found = {}
    for attribute in attributes or SUBGROUPS:
        if attribute in ("image", "labels", "image_id", "patient_id", "study_id"):
            raise ValueError(f"--subgroups {attribute} sorts nobody into groups; name a column such as sex or view.")
        values = data.column(split, attribute)
        if values is None:
            continue
        names = group_names(values, attribute)
        if len(set(names)) > MOST_SUBGROUPS:
            raise ValueError(
                f"{data.source}: the column {attribute!r} has {len(set(names))} values, more than the "
                f"{MOST_SUBGROUPS} groups that a table can show. Name a coarser one."
            )
        if attributes or set(names) != {"unknown"}:
            found[attribute] = names
    return found
