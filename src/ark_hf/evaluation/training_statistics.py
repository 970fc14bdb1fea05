"""What training images are like for a model, from the splits of task datasets: see [`TrainingStatistics`]."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.open_dataset import TaskDataset
from ..inference.embeddings import embed_pictures
from ..inference.training_statistics import (
    ModalityStatistics,
    TrainingStatistics,
    check_enough,
    modality_statistics,
    model_hashes,
)
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification

SPLITS = ("train", "validation")
MOST_IMAGES = 4000  # of all datasets of a modality together: a million more would change little


def measure_training_statistics(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    datasets: Sequence[TaskDataset],
    batch_size: int,
) -> dict[str, ModalityStatistics]:
    """
    Looks at images of the train and validation splits, at most `MOST_IMAGES` of a modality in each: of large datasets
    as many of one as of another, drawn by a fixed seed.

    Args:
        model: As it computes, in eval mode.
        datasets: Of pictures.

    Returns:
        The statistics by modality. Why there are none of one is warned of.
    """
    measured: dict[str, ModalityStatistics] = {}
    for modality in dict.fromkeys(data.task.modality for data in datasets):
        some = [data for data in datasets if data.task.modality == modality]
        try:
            check_enough(*(sum(len(rows) for _, rows in _drawn(some, split)) for split in SPLITS))
            train, held_out = (_embeddings(model, processor, some, split, batch_size) for split in SPLITS)
            measured[modality] = modality_statistics(train, held_out, [data.name for data in some])
        except ValueError as error:
            warnings.warn(f"No statistics of training images of modality {modality} are kept: {error}.", stacklevel=3)
    return measured


def training_statistics(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    measured: dict[str, ModalityStatistics],
    earlier: TrainingStatistics | None,
) -> TrainingStatistics | None:
    """
    What is kept beside a model: what was measured, and of modalities of which nothing was what there was before.

    Args:
        model: In float32, as it is saved.
        earlier: Of the same encoder and view.
    """
    modalities = {**(earlier.modalities if earlier is not None else {}), **measured}
    return TrainingStatistics(model_hashes(model, processor), modalities) if modalities else None


def _embeddings(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    datasets: Sequence[TaskDataset],
    split: str,
    batch_size: int,
) -> np.ndarray:
    parts = [np.empty((0, model.ark.embedding_dim), np.float32)]
    for data, rows in _drawn(datasets, split):
        description = f"embedding {data.task.name}, {split}"
        parts.append(embed_pictures(model.ark, processor, rows, data.task, batch_size, description))
    return np.concatenate(parts)


def _drawn(datasets: Sequence[TaskDataset], split: str) -> list[tuple[TaskDataset, Any]]:
    """Of each dataset that has the split the rows that are looked at."""
    found: list[tuple[TaskDataset, Any]] = []
    for data in datasets:
        if split in data.splits:
            rows: Any = data.splits[split]
            drawn = np.random.default_rng(0).permutation(len(rows))[: MOST_IMAGES // len(datasets)]
            found.append((data, rows.select(np.sort(drawn))))
    return found
