"""The data of fine-tuning: one task's splits, from a task dataset or any Hub image dataset, checked."""

import warnings
from collections.abc import Mapping
from typing import Any

from ...data.leaks import mark_shared_images, mark_trained_before
from ...data.open_dataset import TaskDataset, open_dataset
from ...data.subsets import fraction_rows, rows_per_class
from ...data.task_dataset import SPLITS, read_task, split_names
from .arguments import FinetuningArguments


def load_finetuning_data(dataset: str, args: FinetuningArguments) -> TaskDataset:
    """
    Opens and checks the splits of a dataset, before any training time is spent.

    Raises:
        ValueError: The dataset cannot be read, it has no train split, a split is empty or has no known label, labels
            do not fit the task, or a patient stands in two splits.
    """
    task = None if args.label_columns else read_task(dataset)
    there = split_names(dataset)
    if "train" not in there:
        raise ValueError(f"{dataset} has no split 'train', only {there}.")
    columns = {"image": args.image_column, "labels": args.label_columns} if args.label_columns else None
    if columns is not None and args.name is None:
        raise ValueError(f"{dataset}: with --label_columns the task needs a --name.")
    splits = [split for split in SPLITS if split in there]
    data = open_dataset(dataset, splits, task, args.name, columns, args.uncertain)
    for split in splits:
        if not data.has_known_label(split):
            raise ValueError(
                f"{dataset}, split {split!r}: no label of task {data.task.name!r} is known, so it is of no use."
            )
    return data


def check_leaks(data: TaskDataset, start: Mapping[str, Any], allowed: bool) -> TaskDataset:
    """
    The dataset, with what is known of held-out images that are trained on among its facts.

    Args:
        start: What training starts from, as `start_facts` gives it.
        allowed: Whether to go on with such images.

    Raises:
        ValueError: There are some, here or in what training starts from.
    """
    (marked,) = mark_trained_before(mark_shared_images([data], allowed), start, allowed)
    return marked


def choose_training_rows(data: TaskDataset, args: FinetuningArguments, seed: int) -> TaskDataset:
    """
    With the part of the train split that `args.percent` or `args.per_class` asks for in the place of all of it.

    Raises:
        ValueError: There are fewer images than asked for, or no label has both images with it and images without.
    """
    task = data.task
    try:
        if args.percent is not None:
            data = data.select("train", fraction_rows(len(data.splits["train"]), args.percent))
        elif args.per_class is not None:
            rows = rows_per_class(data.targets("train"), args.per_class, seed, task.labels)
            data = data.select("train", rows)
    except ValueError as error:
        raise ValueError(f"{data.name}, split 'train': {error}") from None
    targets = data.targets("train", args.uncertain)
    one_sided = [
        label
        for label, column in zip(task.labels, targets.T, strict=True)
        if not ((column > 0.5).any() and (column <= 0.5).any())
    ]
    if len(one_sided) == len(task.labels):
        raise ValueError(
            f"{data.name}, task {task.name!r}: the {len(targets)} training images are all of one class, so there is "
            "nothing to tell apart. Take more of them, or check the labels."
        )
    if one_sided:
        warnings.warn(
            f"{data.name}: {len(one_sided)} labels have one class only among the {len(targets)} training images and "
            f"cannot be learned from them: {', '.join(one_sided)}.",
            stacklevel=2,
        )
    return data
