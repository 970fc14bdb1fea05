"""The datasets of a run, opened and checked before any training time is spent."""

from ...data.open_dataset import TaskDataset
from ..ark.recipe import TaskSpec
from ..peac.tasks import load_images


def load_volumes(specs: list[TaskSpec], data_root: str = ".") -> list[TaskDataset]:
    """
    Opens the datasets of volumes of a recipe, whatever they are labelled with; see [`load_images`].

    Args:
        specs: The recipe's `tasks`.
        data_root: Folder that relative paths start from.

    Raises:
        ValueError: As of [`load_images`]; or a dataset holds pictures, or volumes of another modality than the first.
    """
    for spec in specs:
        if spec.columns is not None:
            raise ValueError(
                f"task {spec.dataset!r}: `columns` has no effect on volumes, whose column is `volume`: build the "
                "dataset with `ark-hf data build hub`."
            )
    opened = load_images(specs, data_root)
    for data in opened:
        if not data.has_volumes:
            raise ValueError(
                f"{data.source} holds pictures, and method: genesis learns from volumes: give it a dataset of volumes "
                "(docs/volumes.md); `method: peac` learns from pictures."
            )
        if data.task.modality != opened[0].task.modality:
            raise ValueError(
                f"{data.source} is of modality {data.task.modality} and {opened[0].source} of "
                f"{opened[0].task.modality}: their values are not of one scale. Train on each alone."
            )
    return opened
