"""A segmenter's masks against those of a dataset, image by image, and what the mean mask of training reaches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from accelerate.utils import gather_object
from datasets import Dataset, Image, List
from tqdm.auto import tqdm

from ..data.loading import iterate
from ..data.masks import MaskInferenceSamples, read_masks
from ..data.open_dataset import TaskDataset
from ..inference.load import process_state
from ..inference.masks import label_masks
from ..metrics.overlap import dice, hausdorff_distance, iou
from ..models.ark.configuration_ark import SegmentationTask
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from .volume_scoring import predict_volumes, prior_scores, volume_scores

PERCENTILE = 95  # of the Hausdorff distance
PRIOR_SIDE = 256  # in pixels, of the square on which masks of all sizes are averaged


@dataclass(frozen=True)
class ScoredMasks:
    """
    Scores of a split's images, each float64 (images, labels): `dice`, `iou`, and `hd95`, see [`hausdorff_distance`],
    NaN where undefined or unknown. Where known the patients, one an image.
    """

    split: str
    dice: np.ndarray
    iou: np.ndarray
    hd95: np.ndarray
    patients: list[Any] | None


@torch.no_grad()
def predict_masks(
    model: ArkForSemanticSegmentation,
    samples: MaskInferenceSamples,
    numbers: np.ndarray,
    batch_size: int,
    description: str | None = None,
) -> Iterator[tuple[int, np.ndarray, list[np.ndarray | None]]]:
    """
    Images by number, with the masks that the model gives, bool (labels, H, W), and the true ones.

    Args:
        numbers: Those of the images, int (n,).

    Raises:
        ValueError: The model gives NaN or infinite outputs.
    """
    batches = [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
    hidden = description is None or not process_state().is_main_process
    was_training = model.training
    model.eval()
    progress = tqdm(iterate(samples, batches, 0), total=len(batches), desc=description, disable=hidden, leave=False)
    for rows, batch in zip(batches, progress, strict=True):
        logits = model(batch["pixel_values"].to(model.device, model.dtype)).logits.cpu()
        if not torch.isfinite(logits).all():
            raise ValueError(
                f"The model gives NaN or infinite outputs for task {samples.task.name!r}, among rows {rows[0]} to "
                f"{rows[-1]}: its training diverged or its file is damaged. Train or load it anew."
            )
        for number, of_image, truth in zip(rows, logits, batch["masks"], strict=True):
            yield int(number), label_masks(of_image, samples.task, _size(truth)), truth
    model.train(was_training)


def score_masks(
    model: Any,
    processor: Any,
    data: TaskDataset,
    split: str = "test",
    batch_size: int = 32,
    distances: bool = True,
) -> ScoredMasks:
    """
    The model on the images of a split, at the size in which they are stored; every process gets all scores.

    Args:
        model, processor: An Ark, or of volumes a Genesis.
        distances: Whether to find `hd95`, too; it is all NaN otherwise.

    Raises:
        ValueError: As of [`predict_masks`], or [`predict_volumes`].
    """
    state, rows, task = process_state(), data.splits[split], data.task
    mine = np.arange(len(rows))[state.process_index :: state.num_processes]
    description = f"{task.name}, {split}"
    if data.has_volumes:
        labelled = predict_volumes(model, processor, rows, task, mine, batch_size, description)
        scores = [
            (number, volume_scores(found, truth, task, volume.spacing, distances))
            for number, volume, found, truth in labelled
        ]
    else:
        outlined = predict_masks(model, MaskInferenceSamples(rows, task, processor), mine, batch_size, description)
        scores = [(number, _scores(masks, truth, task, distances)) for number, masks, truth in outlined]
    return _gathered(scores, data, split)


def score_prior(data: TaskDataset, split: str = "test") -> ScoredMasks:
    """
    The mean-mask prior on the images of a split: what is reached without looking at any.

    The masks of the training images are averaged, each stretched to one square; of an image a label has the pixels
    where it is more likely than not, or of exclusive labels more likely than the others and the background. Of volumes
    see [`prior_scores`].
    """
    if data.has_volumes:
        return _by_image(prior_scores(data.splits["train"], data.splits[split], data.task), data, split)
    means = mean_masks(data.splits["train"], data.task)
    prior = most_likely(means, data.task)
    shaped: dict[tuple[int, int], np.ndarray] = {}
    scores = []
    for number, truth in enumerate(stored_masks(data.splits[split], data.task)):
        size = _size(truth)
        if size not in shaped:
            shaped[size] = np.stack([_resized(mask.astype(np.float32), size) >= 0.5 for mask in prior])
        scores.append((number, _scores(shaped[size], truth, data.task, distances=False)))
    return _by_image([each for _, each in scores], data, split)


def stored_masks(rows: Dataset, task: SegmentationTask) -> Iterator[list[np.ndarray | None]]:
    """The masks of each row, as [`read_masks`] gives them."""
    for row in rows.select_columns(["masks"]).cast_column("masks", List(Image(decode=False))):
        yield read_masks(row["masks"], task)


def mean_masks(rows: Dataset, task: SegmentationTask) -> np.ndarray:
    """Float64 (labels, 256, 256): the share of the images in which a place belongs to a label, among those known."""
    totals, counts = np.zeros((len(task.labels), PRIOR_SIDE, PRIOR_SIDE)), np.zeros(len(task.labels))
    for masks in stored_masks(rows, task):
        for number, mask in enumerate(masks):
            if mask is not None:
                totals[number] += _resized(mask.astype(np.float32), (PRIOR_SIDE, PRIOR_SIDE))
                counts[number] += 1
    return totals / np.maximum(counts, 1)[:, None, None]


def most_likely(shares: np.ndarray, task: SegmentationTask) -> np.ndarray:
    """Bool (labels, h, w): where each label is to be expected, of its shares in [0, 1]."""
    if task.overlapping:
        return shares >= 0.5
    rest = np.clip(1 - shares.sum(axis=0), 0, None)
    return np.concatenate([rest[None], shares]).argmax(axis=0) == np.arange(1, len(shares) + 1)[:, None, None]


def _resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(plane).resize(size[::-1], PIL.Image.Resampling.BILINEAR))


def _size(masks: Sequence[np.ndarray | None]) -> tuple[int, int]:
    return next(mask.shape for mask in masks if mask is not None)


def _scores(
    masks: np.ndarray, truth: Sequence[np.ndarray | None], task: SegmentationTask, distances: bool
) -> np.ndarray:
    """(3, labels): Dice, IoU and HD95 of one image."""
    scores = np.full((3, len(masks)), np.nan)
    for number, (mask, true) in enumerate(zip(masks, truth, strict=True)):
        if true is not None:
            distance = hausdorff_distance(mask, true, PERCENTILE, task.pixel_spacing) if distances else np.nan
            scores[:, number] = dice(mask, true), iou(mask, true), distance
    return scores


def _gathered(scores: list[tuple[int, np.ndarray]], data: TaskDataset, split: str) -> ScoredMasks:
    ordered = sorted(gather_object(scores), key=lambda pair: pair[0])
    return _by_image([each for _, each in ordered], data, split)


def _by_image(scores: Sequence[np.ndarray], data: TaskDataset, split: str) -> ScoredMasks:
    of_dice, of_iou, of_hd95 = np.stack(scores).transpose(1, 0, 2)
    return ScoredMasks(split, of_dice, of_iou, of_hd95, data.patients(split))
