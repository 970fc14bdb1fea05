"""The data of fine-tuning: one task's splits, from a task dataset or any Hub image dataset, checked."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from ...data.subsets import fraction_rows, rows_per_class
from ...data.summary import training_data_facts
from ...data.task_dataset import (
    SPLITS,
    check_columns,
    check_disjoint,
    check_labels,
    has_known_label,
    load_splits,
    load_task_dataset,
    read_task,
    resolve_labels,
    split_names,
)
from ...metrics.auroc import one_vs_rest
from ...models.ark.configuration_ark import ArkTask
from ...provenance import shown_name
from .arguments import FinetuningArguments


@dataclass
class FinetuningData:
    """
    One task with its splits, of which only `train` is always there; `dataset` is its name without any path, and
    `facts` are what its model's card tells of it.
    """

    dataset: str
    task: ArkTask
    train: Dataset
    validation: Dataset | None = None
    test: Dataset | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def load_finetuning_data(dataset: str, args: FinetuningArguments) -> FinetuningData:
    """
    Loads and checks the splits of a dataset, before any training time is spent.

    Raises:
        ValueError: The dataset cannot be read, a split is empty or has no known label, labels do not fit the task, or
            a patient stands in two splits.
    """
    if args.label_columns:
        task, splits = _load_columns(dataset, args)
    else:
        task = read_task(dataset)
        wanted = {"train", *split_names(dataset)}
        splits = {split: load_task_dataset(dataset, split) for split in SPLITS if split in wanted}
    task = ArkTask.from_dict({**task.to_dict(), "name": args.name or task.name})
    for split, rows in splits.items():
        where = f"{dataset}, split {split!r}"
        check_labels(task, rows, where)
        if not has_known_label(task, rows):
            raise ValueError(f"{where}: no label of task {task.name!r} is known, so it is of no use.")
    check_disjoint(splits, dataset)
    name, facts = shown_name(dataset), training_data_facts(dataset, task)
    return FinetuningData(name, task, splits["train"], splits.get("validation"), splits.get("test"), facts)


def _load_columns(dataset: str, args: FinetuningArguments) -> tuple[ArkTask, dict[str, Dataset]]:
    """The task and the splits of a dataset whose card has no task, through the columns that `args` names."""
    if args.name is None:
        raise ValueError(f"{dataset}: with --label_columns the task needs a --name.")
    columns = {"image": args.image_column, "labels": args.label_columns}
    splits = {split: rows for split, rows in load_splits(dataset).items() if split in SPLITS}
    if "train" not in splits:
        raise ValueError(f"{dataset} has no split 'train', only {sorted(splits)}.")
    for rows in splits.values():
        check_columns(columns, rows.column_names, dataset)
    column = args.label_columns[0]
    feature = splits["train"].features[column]
    if len(args.label_columns) > 1 or not isinstance(feature, ClassLabel):
        task = ArkTask(args.name, args.label_columns)
        return task, {split: load_task_dataset(dataset, split, columns=columns) for split in splits}
    task = ArkTask(args.name, feature.names, "single_label_classification")
    return task, {split: _renamed(rows, args.image_column, column) for split, rows in splits.items()}


def _renamed(rows: Dataset, image: str, labels: str) -> Dataset:
    taken = {"image", "labels"} & set(rows.column_names) - {image, labels}
    rows = rows.remove_columns(sorted(taken))
    return rows.rename_columns({old: new for old, new in ((image, "image"), (labels, "labels")) if old != new})


def targets_of(rows: Dataset, task: ArkTask, uncertain: str = "ignore") -> np.ndarray:
    """float (rows, labels) with NaN unknown, a column a class for single-label tasks."""
    targets = np.stack([resolve_labels(labels, task, uncertain) for labels in rows["labels"][:]])
    return one_vs_rest(targets, len(task.labels)) if targets.ndim == 1 else targets


def choose_training_rows(data: FinetuningData, args: FinetuningArguments, seed: int) -> Dataset:
    """
    The train split, or the part of it that `args.percent` or `args.per_class` asks for.

    Raises:
        ValueError: There are fewer images than asked for, or no label has both images with it and images without.
    """
    rows, task = data.train, data.task
    if args.percent is not None:
        rows = rows.select(fraction_rows(len(rows), args.percent))
    elif args.per_class is not None:
        try:
            rows = rows.select(rows_per_class(targets_of(rows, task), args.per_class, seed, task.labels))
        except ValueError as error:
            raise ValueError(f"{data.dataset}, split 'train': {error}") from None
    targets = targets_of(rows, task, args.uncertain)
    one_sided = [
        label
        for label, column in zip(task.labels, targets.T, strict=True)
        if not ((column > 0.5).any() and (column <= 0.5).any())
    ]
    if len(one_sided) == len(task.labels):
        raise ValueError(
            f"{data.dataset}, task {task.name!r}: the {len(rows)} training images are all of one class, so there is "
            "nothing to tell apart. Take more of them, or check the labels."
        )
    if one_sided:
        warnings.warn(
            f"{data.dataset}: {len(one_sided)} labels have one class only among the {len(rows)} training images and "
            f"cannot be learned from them: {', '.join(one_sided)}.",
            stacklevel=2,
        )
    return rows
