"""What of fine-tuning is of masks: samples, loss, and the Dice by which weights are chosen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import EvalPrediction

from ...data.masks import UNKNOWN, MaskInferenceSamples, MaskTrainingSamples
from ...data.open_dataset import TaskDataset
from ...data.views import resize_side
from ...evaluation.mask_scoring import score_masks
from ...metrics.resampling import row_means
from ...models.ark.configuration_ark import SegmentationTask
from ...models.ark.image_processing_ark import ArkImageProcessor
from ...models.ark.masks_ark import segmentation_loss
from .arguments import FinetuningArguments
from .losses import DIVERGED


def training_samples(
    data: TaskDataset, processor: ArkImageProcessor, args: FinetuningArguments, size: int, seed: int
) -> MaskTrainingSamples:
    """The training images, their masks in the same geometry."""
    return MaskTrainingSamples(
        data.splits["train"], data.task, processor, seed, 0, resize_side(size), size, args.min_crop_scale
    )


def shows_labels(data: TaskDataset) -> bool:
    """Whether there are validation images, and any label is in any of them."""
    return "validation" in data.splits and bool((data.targets("validation") == 1).any())


def validation_samples(data: TaskDataset, processor: ArkImageProcessor) -> MaskInferenceSamples | None:
    """The validation images; None unless they [`shows_labels`]."""
    if not shows_labels(data):
        return None
    return MaskInferenceSamples(data.splits["validation"], data.task, processor)


class MaskLoss:
    """As `compute_loss_func` of `Trainer`: soft Dice loss with cross-entropy, or alone ([`segmentation_loss`])."""

    def __init__(self, loss: str):
        self.cross_entropy = 0.0 if loss == "dice" else 1.0

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """
        Args:
            num_items_in_batch: Elements of the labels of the whole step, in training: a micro-batch weighs by its own.
        """
        loss = segmentation_loss(outputs.logits, labels, cross_entropy=self.cross_entropy)
        return loss if num_items_in_batch is None else loss * (labels.numel() / num_items_in_batch)


class MaskCounts:
    """`preprocess_logits_for_metrics` of `Trainer`: by image and label the pixels shared, and those of both masks."""

    def __init__(self, task: SegmentationTask):
        self.task = task

    def __call__(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """
        Args:
            outputs: Logits (batch, classes, h, w), or a tuple that begins with them.
            labels: As [`ArkForSemanticSegmentation`] takes them.

        Returns:
            float64 (batch, labels, 2), NaN of labels that are unknown in an image.
        """
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        if not torch.isfinite(logits).all():
            return logits.new_full((len(logits), len(self.task.labels), 2), torch.inf, dtype=torch.float64)
        logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
        if self.task.overlapping:
            cutoffs = torch.tensor(self.task.cutoffs, device=logits.device)
            known = ~torch.isnan(labels)
            found, truth = logits >= cutoffs[:, None, None], labels == 1
        else:
            classes = torch.arange(1, len(self.task.labels) + 1, device=logits.device)[:, None, None]
            found, truth = logits.argmax(dim=1, keepdim=True) == classes, labels[:, None] == classes
            known = (labels != UNKNOWN)[:, None].expand_as(found)
        found, truth = found & known, truth & known
        shared, both = (found & truth).sum(dim=(2, 3)), found.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
        counts = torch.stack([shared, both], dim=-1).double()
        return counts.masked_fill(~known.flatten(2).any(dim=2)[..., None], torch.nan)


class MeanDice:
    """`compute_metrics` of `Trainer`, batch by batch: the mean Dice over images, and then over labels."""

    def __init__(self) -> None:
        self.counts: list[np.ndarray] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        self.counts.append(_to_numpy(prediction.predictions))
        if not compute_result:
            return {}
        counts, self.counts = np.concatenate(self.counts), []
        if np.isinf(counts).any():
            raise FloatingPointError(DIVERGED)
        return {"mean_dice": float(row_means(row_means(_dice(counts).T)[None])[0])}


def _to_numpy(values: Any) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _dice(counts: np.ndarray) -> np.ndarray:
    """(images, labels), NaN where it is undefined or unknown."""
    shared, both = counts[..., 0], counts[..., 1]
    return np.divide(2 * shared, both, out=np.full_like(shared, np.nan), where=both > 0)


def validation_scores(model: Any, processor: Any, data: TaskDataset, batch_size: int) -> dict[str, Any]:
    """`mean_dice`, and `dice` by label, of the validation images at their stored size; NaN where undefined."""
    scored = score_masks(model, processor, data, "validation", batch_size, distances=False)
    by_label: Sequence[float] = row_means(scored.dice.T).tolist()
    mean = float(row_means(np.array(by_label)[None])[0])
    return {"mean_dice": mean, "dice": dict(zip(data.task.labels, by_label, strict=True))}
