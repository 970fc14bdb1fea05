"""What a segmenter finds in radiographs: areas, scores, the cardiothoracic ratio, and the masks themselves."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ..data.inputs import RadiographInput
from ..labels import read_synonyms
from ..metrics.anatomy import cardiothoracic_ratio
from ..models.ark.configuration_ark import SegmentationTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from .masks import label_masks, mask_scores
from .overlays import check_whole_picture
from .predict import compute_files

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


@cache
def heart_and_lungs(task: str, labels: tuple[str, ...]) -> list[int] | None:
    """The numbers of the labels of the heart and of both lungs, which may be one; None if they are not there."""
    synonyms = read_synonyms()
    numbers = {synonyms.finding(label, task): number for number, label in enumerate(labels)}
    for lungs in LUNGS:
        if {"Heart", *lungs} <= set(numbers):
            return [numbers[organ] for organ in ("Heart", *lungs)]
    return None


@torch.no_grad()
def segment_files(
    model: ArkForSemanticSegmentation,
    processor: ArkImageProcessor,
    paths: Sequence[Path | str],
    batch_size: int = 16,
    on_image: Callable[[RadiographInput, Measurements, np.ndarray | None], None] | None = None,
    num_workers: int = 0,
) -> Iterator[tuple[Path | str, Measurements | str]]:
    """
    What a segmenter with a named task finds in image files and addresses that [`read_input`] reads.

    Under `accelerate launch` each process does its share of the batches, and gets the measurements of all.

    Args:
        on_image: Is given each image that can be read, its measurements and its masks, bool (labels, height, width),
            before they are yielded; an image that another process has read comes without its pixels and masks.
        num_workers: Processes that read files; 0 reads them in this one.

    Yields:
        Each path in order, with the measurements, or with the reason why the file cannot be read.

    Raises:
        ValueError: The image processor cuts crops out of pictures.
    """
    check_whole_picture(processor, "Masks")
    task: SegmentationTask = model.config.segmentation

    def compute(
        images: list[RadiographInput], pixel_values: torch.Tensor
    ) -> Iterable[tuple[Measurements, np.ndarray]]:
        logits = model(pixel_values.to(model.device, model.dtype)).logits
        for image, each in zip(images, logits, strict=True):
            masks, measured = measure(each, task, image.pixels.shape[-2:], image.pixel_spacing)
            yield measured, np.packbits(masks, axis=-1)  # a batch of films with all their labels takes gigabytes

    def tell(image: RadiographInput, measured: Measurements, packed: np.ndarray | None) -> None:
        if on_image is not None:
            width = image.pixels.shape[-1]
            on_image(image, measured, None if packed is None else np.unpackbits(packed, axis=-1, count=width) > 0)

    yield from compute_files(paths, processor, batch_size, num_workers, compute, tell)
