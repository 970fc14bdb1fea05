"""The datasets of a run, opened and checked before any training time is spent."""

import warnings

from ...data.open_dataset import TaskDataset, open_images
from ...data.task_dataset import SPLITS, split_names
from ..ark.recipe import TaskSpec


def load_images(specs: list[TaskSpec], data_root: str = ".", streaming: bool = False) -> list[TaskDataset]:
    """
    Opens the datasets of a recipe, whatever they are labelled with.

    Args:
        specs: The recipe's `tasks`.
        data_root: Folder that relative paths start from.
        streaming: Whether images are read as training goes, without a copy on disk.

    Raises:
        ValueError: A dataset cannot be read, it has no split `train`, a patient stands in two splits, two datasets
            have one name, or an entry says how labels are read.
    """
    loaded: dict[str, TaskDataset] = {}
    for spec in specs:
        for key, usual in {"uncertain": "ignore", "train": True}.items():
            if getattr(spec, key) != usual:
                raise ValueError(
                    f"task {spec.dataset!r}: `{key}` has no effect where labels are not read; leave it out."
                )
        location = spec.location(data_root)
        there = split_names(location)
        splits = ["train", *(split for split in SPLITS if split in there and split != "train")]
        if "validation" not in splits:
            warnings.warn(f"{location} has no split 'validation', only {there}: not validated.", stacklevel=2)
        data = open_images(location, splits, spec.columns, streaming, spec.name)
        if data.task.name in loaded:
            raise ValueError(
                f"Two datasets are named {data.task.name!r}; give one of them another `name` in the recipe "
                f"({spec.dataset})."
            )
        loaded[data.task.name] = data
    return list(loaded.values())
