"""A model's labels by task: where each stands in the outputs, and from which probability it is called positive."""

import itertools
from typing import NamedTuple

from ..models.ark.configuration_ark import ArkConfig

DEFAULT_THRESHOLD = 0.5  # of a label whose operating point is not saved, where something has to be called
UNNAMED_TASK = "classifier"  # of a model without named tasks, as its head


class TaskLabel(NamedTuple):
    """
    Args:
        column: Its place in the model's outputs, `id2label`.
        name: Without the task's.
        threshold: The saved operating point, a probability; None if there is none.
    """

    column: int
    name: str
    threshold: float | None


def label_names(config: ArkConfig) -> list[str]:
    """Of all outputs in their order, as in `id2label`, whose own order is that in which somebody wrote it down."""
    return [name for _, name in sorted(config.id2label.items())]


def task_label_names(config: ArkConfig) -> list[str]:
    """`task/label` of all outputs in their order: in files, where nothing else says which model's task a column is."""
    return [f"{task}/{label.name}" for task, labels in labels_by_task(config).items() for label in labels]


def modalities_of(config: ArkConfig) -> list[str]:
    """Of the tasks of a classifier or segmenter, in their order; none of an ordinary one."""
    tasks = (config.tasks or []) if config.segmentation is None else [config.segmentation]
    return [*dict.fromkeys(task.modality for task in tasks)]


def check_has_modality(config: ArkConfig, modality: str) -> None:
    """Raises `ValueError` if a model has no head for images of a modality."""
    known = modalities_of(config)
    if known and modality not in known:
        has = " and ".join(known)
        raise ValueError(f"modality {modality}: the model's heads are for images of {has}; it has none for others.")


def heads_not_asked(config: ArkConfig, modality: str) -> list[str]:
    """Names of the tasks whose images are of another modality."""
    return [task.name for task in config.tasks or [] if task.modality != modality]


def labels_by_task(config: ArkConfig, modality: str | None = None) -> dict[str, list[TaskLabel]]:
    """
    By the names of the tasks, in the model's order, of one modality if it is given; `UNNAMED_TASK` for an ordinary
    classifier.
    """
    if config.tasks is None:
        return {UNNAMED_TASK: [TaskLabel(column, name, None) for column, name in enumerate(label_names(config))]}
    columns = itertools.count()
    labels = {
        task.name: [TaskLabel(next(columns), name, (task.thresholds or {}).get(name)) for name in task.labels]
        for task in config.tasks
    }
    return {task.name: labels[task.name] for task in config.tasks if modality in (None, task.modality)}
