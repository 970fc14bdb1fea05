"""The tasks of a run: the datasets that a recipe names, opened and checked before any training time is spent."""

import warnings

from ...data.open_dataset import TaskDataset, open_dataset
from ...data.task_dataset import SPLITS, read_task, split_names
from .recipe import TaskSpec


def load_tasks(specs: list[TaskSpec], data_root: str = ".", streaming: bool = False) -> list[TaskDataset]:
    """
    Opens the datasets of a recipe.

    Args:
        specs: The recipe's `tasks`.
        data_root: Folder that relative paths start from.
        streaming: Whether images are read as training goes, without a copy on disk.

    Raises:
        ValueError: A dataset cannot be read, a split is missing or empty, labels do not fit, a patient stands in two
            splits, no label is known, or two tasks have one name.
    """
    loaded: dict[str, TaskDataset] = {}
    for spec in specs:
        location = spec.location(data_root)
        task = read_task(location) if spec.columns is None else None
        there = split_names(location)
        must = "train" if spec.train else "validation"
        wanted = [split for split in SPLITS if split == must or split in there and split != "train"]
        if "validation" not in wanted:
            warnings.warn(f"{location} has no split 'validation', only {there}: not validated.", stacklevel=2)
        data = open_dataset(location, wanted, task, spec.name, spec.columns, spec.uncertain, streaming)
        if data.task.name in loaded:
            raise ValueError(
                f"Two tasks are named {data.task.name!r}; give one of them another `name` in the recipe "
                f"({spec.dataset})."
            )
        if not data.has_known_label(wanted[0]):
            raise ValueError(
                f"{location}: task {data.task.name!r} is empty: no label of its {wanted[0]} split is known."
            )
        loaded[data.task.name] = data
    return list(loaded.values())
