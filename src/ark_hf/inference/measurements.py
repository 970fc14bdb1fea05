"""What is measured on a segmenter's masks: of a radiograph areas, scores, the cardiothoracic ratio; of a volume ml."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from ..labels import read_synonyms
from ..metrics.anatomy import cardiothoracic_ratio
from ..models.ark.configuration_ark import SegmentationTask
from .masks import label_masks, mask_scores

LUNGS = ["Lungs"], ["Left lung", "Right lung"]  # by the names of the synonym table: one label of both, or one each


@dataclass(frozen=True)
class Measurements:
    """
    What is measured on the masks of one radiograph.

    Args:
        pixels: Area of each label's mask, in pixels of the picture as it was given.
        mm2: The same in mm², or None where the file does not say how large its pixels are, see [`read_input`]. The
            task's `pixel_spacing` is that of its dataset's pictures, and says nothing of others.
        scores: Mean probability of each label within its mask; NaN where that is empty.
        cardiothoracic_ratio: See [`cardiothoracic_ratio`]; NaN where the heart or a lung is absent, None if the labels
            are not those of heart and lungs.
    """

    pixels: list[int]
    mm2: list[float] | None
    scores: list[float]
    cardiothoracic_ratio: float | None


def measure(
    logits: torch.Tensor, task: SegmentationTask, size: tuple[int, int], pixel_spacing: tuple[float, float] | None
) -> tuple[np.ndarray, Measurements]:
    """
    The masks of one picture's logits, as [`label_masks`] gives them, and what is measured on them.

    Args:
        pixel_spacing: (row, column) distance of the picture's pixels in mm, where it is known.
    """
    masks = label_masks(logits, task, size)
    pixels = [int(mask.sum()) for mask in masks]
    mm2 = None if pixel_spacing is None else [count * math.prod(pixel_spacing) for count in pixels]
    organs = heart_and_lungs(task.name, tuple(task.labels))
    ratio = None if organs is None else cardiothoracic_ratio(*(masks[number] for number in organs))
    return masks, Measurements(pixels, mm2, mask_scores(logits, task, masks), ratio)


@dataclass(frozen=True)
class VolumeMeasurements:
    """
    What is measured on the label map of one volume.

    Args:
        voxels: Of each label.
        ml: The same in millilitres.
    """

    voxels: list[int]
    ml: list[float]


def measure_volume(found: np.ndarray, affine: np.ndarray, task: SegmentationTask) -> VolumeMeasurements:
    """
    Args:
        found: As [`segment_volume`] gives it.
        affine: Of the volume: mm from voxel to voxel.
    """
    if task.overlapping:
        voxels = [int(np.count_nonzero(each)) for each in found]
    else:
        counts = np.zeros(len(task.labels) + 1, np.int64)
        for plane in np.moveaxis(found, 2, 0):  # because `bincount` makes eight bytes of one
            counts += np.bincount(plane.ravel(order="K"), minlength=len(counts))
        voxels = counts[1:].tolist()
    ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    return VolumeMeasurements(voxels, [count * ml for count in voxels])


@cache
def heart_and_lungs(task: str, labels: tuple[str, ...]) -> list[int] | None:
    """The numbers of the labels of the heart and of both lungs, which may be one; None if they are not there."""
    synonyms = read_synonyms()
    numbers = {synonyms.finding(label, task): number for number, label in enumerate(labels)}
    for lungs in LUNGS:
        if {"Heart", *lungs} <= set(numbers):
            return [numbers[organ] for organ in ("Heart", *lungs)]
    return None
