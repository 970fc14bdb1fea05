"""Heat maps of predictions as PNG files."""

import re
from pathlib import Path

import numpy as np

from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification
from .heatmaps import heat_maps, overlay
from .task_labels import TaskLabel, labels_by_task


def check_whole_picture(processor: ArkImageProcessor) -> None:
    """Raises `ValueError` if the processor cuts crops out of a picture: a heat map would lie over the wrong places."""
    if processor.do_center_crop or processor.do_ten_crop:
        raise ValueError("Heat maps are of whole pictures; this image processor cuts crops out of them.")


def save_overlays(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    pixels: np.ndarray,
    probabilities: np.ndarray,
    folder: Path,
    name: str,
) -> None:
    """
    Writes `NAME_TASK_LABEL.png` for each label that is called positive, and for the most probable of a task without.

    Args:
        processor: One that passes [`check_whole_picture`].
        pixels: (1, H, W), as [`read_input`] gives it.
        probabilities: (num_labels,) of the picture.
    """
    labels = labels_by_task(model.config)
    shown = [(task, label) for task in labels for label in _called(labels[task], probabilities)]
    pixel_values = processor(pixels, return_tensors="pt")["pixel_values"]
    maps = heat_maps(model, pixel_values, [label.column for _, label in shown])[0]
    folder.mkdir(parents=True, exist_ok=True)
    for (task, label), heat_map in zip(shown, maps, strict=True):
        file = re.sub(r"[^\w.-]+", "_", f"{name}_{task}_{label.name}")  # labels may contain a slash
        overlay(pixels, heat_map).save(folder / f"{file}.png")


def _called(labels: list[TaskLabel], probabilities: np.ndarray) -> list[TaskLabel]:
    called = [
        label for label in labels if label.threshold is not None and probabilities[label.column] >= label.threshold
    ]
    return called or [max(labels, key=lambda label: probabilities[label.column])]
