"""The tasks of a run: the datasets that a recipe names, loaded and checked before any training time is spent."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset

from ...data.loading import TrainingSamples, ViewSettings, pass_order
from ...data.streaming import StreamedRows
from ...data.summary import training_data_facts, training_split_facts
from ...data.task_dataset import (
    SPLITS,
    check_disjoint,
    check_labels,
    has_known_label,
    load_task_dataset,
    read_task,
    split_names,
)
from ...models.ark.configuration_ark import ArkTask
from ...models.ark.image_processing_ark import ArkImageProcessor
from .recipe import TaskSpec


@dataclass
class TaskData:
    """
    One task with its rows, and in cyclic training a pass of its own.

    `train` is None for a task that is only evaluated. `validation` may be missing, then the task counts for no
    validation figure. `facts` are what its model's card tells of it.
    """

    task: ArkTask
    train: Dataset | StreamedRows | None
    validation: Dataset | StreamedRows | None = None
    uncertain: str = "ignore"
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def learners(self) -> list[ArkTask]:
        """The tasks whose heads learn in a pass."""
        return [self.task]

    @property
    def num_samples(self) -> int:
        """Samples of a pass."""
        return 0 if self.train is None else len(self.train)

    def samples(self, processor: ArkImageProcessor, views: ViewSettings, seed: int, cycle: int) -> TrainingSamples:
        """The training samples as cycle `cycle` sees them."""
        return TrainingSamples(self.train, self.task, self.uncertain, processor, views, seed, cycle)

    def order(self, seed: int, cycle: int) -> np.ndarray:
        """The order in which a pass visits the samples, int64 (num_samples,)."""
        return pass_order(range(0) if self.train is None else self.train, seed, cycle, self.name)

    def settings(self) -> dict[str, Any]:
        """What must stay as it is for a run to be resumed."""
        layout = {"layout": self.train.layout} if isinstance(self.train, StreamedRows) else {}
        return {**self.task.to_dict(), "uncertain": self.uncertain, "train_samples": self.num_samples, **layout}

    def has_known_validation(self) -> bool:
        """Whether any label of a validation row is known."""
        rows = self.validation.without_images() if isinstance(self.validation, StreamedRows) else self.validation
        return rows is not None and has_known_label(self.task, rows)


def load_tasks(specs: list[TaskSpec], data_root: str, streaming: bool = False) -> list[TaskData]:
    """
    Loads and checks the datasets of a recipe, before any training time is spent.

    With `streaming` the checks read the columns of labels, patients and images' names, and no image.

    Raises:
        ValueError: A dataset cannot be read, a split is missing or empty, labels do not fit, a patient stands in two
            splits, or two tasks have one name.
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
        available = split_names(location)
        wanted = ["train", *(name for name in SPLITS[1:] if name in available)] if spec.train else ["validation"]
        splits = {name: load(location, name, columns=spec.columns) for name in wanted}
        if "validation" not in splits:
            warnings.warn(f"{location} has no split 'validation', only {available}: not validated.", stacklevel=2)
        checked = {split: rows.without_images() if streaming else rows for split, rows in splits.items()}
        for split, rows in checked.items():
            check_labels(task, rows, f"{location}, split {split!r}")
        check_disjoint(checked, location)
        first = wanted[0]
        if not has_known_label(task, checked[first]):
            raise ValueError(f"{location}: task {task.name!r} is empty: no label of its {first} split is known.")
        facts = training_data_facts(location, task)
        facts["splits"] = {split: training_split_facts(task, rows) for split, rows in checked.items()}
        loaded[task.name] = TaskData(task, splits.get("train"), splits.get("validation"), spec.uncertain, facts)
    return list(loaded.values())
