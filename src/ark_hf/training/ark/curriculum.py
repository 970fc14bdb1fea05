"""
What a cycle consists of: passes over one task each, or for the papers' baselines over the rows of all tasks mixed.

A mixed cycle is one permutation of all tasks' rows, cut where the passes of cyclic training end. So its steps, the
sizes of its batches, learning rates, momenta and updates of the teacher are those of cyclic training, and each image
is seen in the same random view: only what shares a batch differs, and for `single_head` the label space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from ...data.loading import InferenceSamples, TrainingSamples, ViewSettings, pass_order
from ...data.open_dataset import TaskDataset
from ...labels import normalise
from ...models.ark.configuration_ark import ArkTask
from ...models.ark.image_processing_ark import ArkImageProcessor

MERGED_TASK = "merged"


class MixedSamples(TorchDataset):
    """
    The samples of several tasks, one task after the other, with targets in the columns of one label space.

    Args:
        parts: The tasks' samples, all of one kind.
        columns: For each task the column of each of its labels; a class index becomes a 0 or 1 a class. The other
            columns are unknown.
        width: Number of columns.
        task: The task that the columns are of, if they are of one.
    """

    def __init__(
        self,
        parts: list[TrainingSamples] | list[InferenceSamples],
        columns: list[list[int]],
        width: int,
        task: ArkTask | None = None,
    ):
        self.parts: Sequence[Any] = parts
        self.columns, self.width, self.task = columns, width, task
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def at(self, cycle: int) -> "MixedSamples":
        """As [`DrawnSamples.at`]."""
        return MixedSamples([part.at(cycle) for part in self.parts], self.columns, self.width, self.task)

    def __getitems__(self, batch: np.ndarray) -> list[dict]:
        """The samples of a batch of numbers from 0; ~n is a padding, see `loading.micro_batches`."""
        numbers = np.maximum(batch, ~batch)
        owners = np.searchsorted(self.ends, numbers, side="right")
        samples: dict[int, dict] = {}
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            rows = numbers[places] - (self.ends[owner] - len(self.parts[owner]))
            part = self.parts[owner].__getitems__(np.where(batch[places] < 0, ~rows, rows))
            for place, sample in zip(places.tolist(), part, strict=True):
                samples[place] = {**sample, "target": self._spread(sample["target"], self.columns[owner])}
        return [samples[place] for place in range(len(batch))]

    def _spread(self, target: np.ndarray, columns: list[int]) -> np.ndarray:
        wide = np.full(self.width, np.nan, dtype=np.float32)
        if target.ndim:
            wide[columns] = target
        elif target != -100:
            wide[columns] = np.arange(len(columns)) == target
        return wide

    def collate(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        """As the parts do it; `labels` are float32 (batch, columns) with NaN unknown."""
        return self.parts[0].collate(samples)

    def normalise(self, batch: dict[str, torch.Tensor], device: torch.device | str) -> dict[str, torch.Tensor]:
        """As [`TrainingSamples.normalise`]."""
        return self.parts[0].normalise(batch, device)


@dataclass(frozen=True)
class TaskPass:
    """All training rows of one task: what a cycle of Ark consists of."""

    data: TaskDataset

    @property
    def name(self) -> str:
        return self.data.task.name

    @property
    def learners(self) -> list[ArkTask]:
        """The tasks whose heads learn in every step."""
        return [self.data.task]

    @property
    def num_samples(self) -> int:
        """Samples of a pass."""
        return len(self.data.splits["train"])

    def samples(self, processor: ArkImageProcessor, views: ViewSettings, seed: int) -> TrainingSamples:
        """The training samples as cycle 0 sees them; [`DrawnSamples.at`] gives those of another."""
        rows, task = self.data.splits["train"], self.data.task
        return TrainingSamples(rows, task, self.data.uncertain, processor, views, seed, cycle=0)

    def order(self, seed: int, cycle: int) -> np.ndarray:
        """The order in which a pass visits the samples, int64 (num_samples,)."""
        return pass_order(self.data.splits["train"], seed, cycle, self.name)

    def rows(self, numbers: np.ndarray) -> dict[str, list[int]]:
        """By task the rows that samples of [`order`] are."""
        return {self.name: numbers.tolist()}


@dataclass(frozen=True)
class MixedPass:
    """
    A part of one permutation of all tasks' rows: `num_samples` of them from `first` on.

    `learners` are the tasks whose heads learn in every step, `columns` for each of `tasks` where its labels stand
    among all the learners' labels.
    """

    name: str
    tasks: list[TaskPass]
    learners: list[ArkTask]
    columns: list[list[int]]
    first: int
    num_samples: int

    def samples(self, processor: ArkImageProcessor, views: ViewSettings, seed: int) -> MixedSamples:
        """Those of all rows, whose views and targets are drawn as in the pass of their own task."""
        parts = [each.samples(processor, views, seed) for each in self.tasks]
        return MixedSamples(parts, self.columns, sum(len(task.labels) for task in self.learners))

    def order(self, seed: int, cycle: int) -> np.ndarray:
        """Numbers of the pass's rows, counted through all tasks, int64 (num_samples,)."""
        everything = range(sum(each.num_samples for each in self.tasks))
        return pass_order(everything, seed, cycle, self.name)[self.first : self.first + self.num_samples]

    def rows(self, numbers: np.ndarray) -> dict[str, list[int]]:
        """As [`TaskPass.rows`]."""
        ends = np.cumsum([each.num_samples for each in self.tasks])
        owners = np.searchsorted(ends, numbers, side="right")
        starts = ends - [each.num_samples for each in self.tasks]
        return {
            each.name: (numbers[owners == owner] - starts[owner]).tolist()
            for owner, each in enumerate(self.tasks)
            if (owners == owner).any()
        }


@dataclass(frozen=True)
class Curriculum:
    """
    What a strategy makes of the tasks: the heads, the passes of a cycle, and what is validated.

    `columns` are None, or where one merged head has the labels of each task.
    """

    tasks: list[TaskDataset]
    heads: list[ArkTask]
    passes: list[TaskPass] | list[MixedPass]
    columns: list[list[int]] | None = None

    def validation_samples(self, processor: ArkImageProcessor) -> list[InferenceSamples] | list[MixedSamples]:
        """The validation split of each task that has one; for a merged head those of all tasks as one."""
        validated = [number for number, data in enumerate(self.tasks) if "validation" in data.splits]
        samples = [
            InferenceSamples(self.tasks[n].splits["validation"], self.tasks[n].task, processor) for n in validated
        ]
        if self.columns is None or not samples:
            return samples
        (merged,) = self.heads
        return [MixedSamples(samples, [self.columns[n] for n in validated], len(merged.labels), merged)]


def plan_cycle(strategy: str, tasks: list[TaskDataset]) -> Curriculum:
    """
    The curriculum of `cyclic`, `concurrent` or `single_head`.

    Raises:
        ValueError: No task is trained; `single_head` with a task that is only evaluated, as it has no head of its own;
            or labels that cannot be merged.
    """
    trained = [TaskPass(data) for data in tasks if "train" in data.splits]
    if not trained:
        raise ValueError("Every task has `train: false`: there is nothing to train.")
    if strategy == "cyclic":
        return Curriculum(tasks, [data.task for data in tasks], trained)
    if strategy == "concurrent":
        learners = [each.data.task for each in trained]
        ends = np.cumsum([len(task.labels) for task in learners]).tolist()
        columns = [[*range(end - len(task.labels), end)] for end, task in zip(ends, learners, strict=True)]
        return Curriculum(tasks, [data.task for data in tasks], _cut(strategy, trained, learners, columns))
    if len(trained) < len(tasks):
        raise ValueError(
            "strategy: single_head has no heads of single tasks, so `train: false` has nothing to evaluate."
        )
    merged, columns = merge_labels([data.task for data in tasks])
    return Curriculum(tasks, [merged], _cut(merged.name, trained, [merged], columns), columns)


def check_can_mix(strategy: str, tasks: list[TaskDataset], processor: ArkImageProcessor) -> None:
    """
    Raises `ValueError` if batches would mix images of modalities that are prepared in different ways, or one head
    would answer for images of several.
    """
    known = [*dict.fromkeys(data.task.modality for data in tasks)]
    if strategy == "cyclic" or len(known) == 1:
        return
    if strategy == "single_head":
        raise ValueError(f"strategy: single_head makes one head, and the tasks are of several modalities, {known}.")
    if any((processor.modalities or {}).values()):
        raise ValueError(
            f"strategy: {strategy} mixes images of {known} in one batch, and the image processor prepares them in "
            "different ways: train in cycles, or give all the same settings."
        )


def _cut(name: str, tasks: list[TaskPass], learners: list[ArkTask], columns: list[list[int]]) -> list[MixedPass]:
    """One mixed pass over all rows, cut into as many of the same lengths as the tasks."""
    ends = np.cumsum([each.num_samples for each in tasks]).tolist()
    return [
        MixedPass(name, tasks, learners, columns, end - each.num_samples, each.num_samples)
        for end, each in zip(ends, tasks, strict=True)
    ]


def merge_labels(tasks: list[ArkTask]) -> tuple[ArkTask, list[list[int]]]:
    """
    One task of the union of all labels, and for each task the columns of its labels in it.

    Labels are one if their names are, but for case and punctuation; synonyms stay apart. A class of a single-label
    task becomes a label of its own: whether the image is of that class.

    Raises:
        ValueError: Two labels of one task have the same name but for case and punctuation.
    """
    merged: dict[str, str] = {}
    for task in tasks:
        names = [normalise(label) for label in task.labels]
        same = [label for label, name in zip(task.labels, names, strict=True) if names.count(name) > 1]
        if same:
            raise ValueError(f"strategy: single_head cannot tell the labels {same} of task {task.name!r} apart.")
        for label, name in zip(task.labels, names, strict=True):
            merged.setdefault(name, label)
    positions = {name: number for number, name in enumerate(merged)}
    columns = [[positions[normalise(label)] for label in task.labels] for task in tasks]
    return ArkTask(MERGED_TASK, list(merged.values()), modality=tasks[0].modality), columns
