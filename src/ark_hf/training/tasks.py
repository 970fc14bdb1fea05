"""The tasks of a run: the datasets that a recipe names, loaded and checked before any training time is spent."""

import warnings
from dataclasses import dataclass

from datasets import Dataset

from ..data.streaming import StreamedRows
from ..data.task_dataset import (
    SPLITS,
    check_disjoint,
    check_labels,
    has_known_label,
    load_task_dataset,
    read_task,
    split_names,
)
from ..models.ark.configuration_ark import ArkTask
from .recipe import TaskSpec


@dataclass
class TaskData:
    """One task with its rows; `validation` may be missing, then the task counts for no validation figure."""

    task: ArkTask
    train: Dataset | StreamedRows
    validation: Dataset | StreamedRows | None = None
    uncertain: str = "ignore"

    def has_known_validation(self) -> bool:
        """Whether any label of a validation row is known."""
        rows = self.validation.without_images() if isinstance(self.validation, StreamedRows) else self.validation
        return rows is not None and has_known_label(self.task, rows)


def load_tasks(specs: list[TaskSpec], data_root: str, streaming: bool = False) -> list[TaskData]:
    """
    Loads and checks the datasets of a recipe, before any training time is spent.

    With `streaming` the checks read the columns of labels, patients and images' names, and no image.

    Raises:
        ValueError: A dataset cannot be read, a split is empty, labels do not fit, a patient stands in two splits, or
            two tasks have one name.
    """
    load = StreamedRows if streaming else load_task_dataset
    loaded: dict[str, TaskData] = {}
    for spec in specs:
        location = spec.location(data_root)
        if spec.columns is not None:
            task = ArkTask(name=str(spec.name), labels=spec.columns.get("labels", []))
        else:
            task = read_task(location)
            task = ArkTask.from_dict({**task.to_dict(), "name": spec.name or task.name})
        if task.name in loaded:
            raise ValueError(
                f"Two tasks are named {task.name!r}; give one of them another `name` in the recipe ({spec.dataset})."
            )
        splits = {"train": load(location, "train", columns=spec.columns)}
        available = split_names(location)
        for name in SPLITS[1:]:
            if name in available:
                splits[name] = load(location, name, columns=spec.columns)
        if "validation" not in splits:
            warnings.warn(f"{location} has no split 'validation', only {available}: not validated.", stacklevel=2)
        checked = {split: rows.without_images() if streaming else rows for split, rows in splits.items()}
        for split, rows in checked.items():
            check_labels(task, rows, f"{location}, split {split!r}")
        check_disjoint(checked, location)
        if not has_known_label(task, checked["train"]):
            raise ValueError(f"{location}: task {task.name!r} is empty: no label of its train split is known.")
        loaded[task.name] = TaskData(task, splits["train"], splits.get("validation"), spec.uncertain)
    return list(loaded.values())
