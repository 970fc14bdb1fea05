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
            splits, no label is known, two tasks have one name, or nothing tells the modality of one beside others.
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
        data = open_dataset(
            location, wanted, task, spec.name, spec.columns, spec.uncertain, streaming, modality=spec.modality
        )
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
    _check_modalities(specs, list(loaded.values()))
    return list(loaded.values())


def describe_modalities(tasks: list[TaskDataset]) -> str:
    """Of tasks of several modalities which are of which, as a line for people; nothing of those of one."""
    known: dict[str, list[str]] = {}
    for data in tasks:
        known.setdefault(data.task.modality, []).append(data.task.name)
    if len(known) == 1:
        return ""
    listed = [f"{each}: {', '.join(names)}" for each, names in known.items()]
    return f"Modalities: {'; '.join(listed)}.\n"


def _check_modalities(specs: list[TaskSpec], loaded: list[TaskDataset]) -> None:
    """Of tasks of several modalities none may be taken for radiographs because nobody says what it is."""
    known = [*dict.fromkeys(data.task.modality for data in loaded)]
    for spec, data in zip(specs, loaded, strict=True):
        if len(known) > 1 and spec.columns is not None and spec.modality is None:
            raise ValueError(
                f"task {data.task.name!r}: it is read through `columns`, and stands beside tasks of other modalities "
                f"({', '.join(known)}): say what its images were taken with, such as `modality: CR`."
            )
