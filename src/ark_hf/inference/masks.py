"""A segmenter's masks of its labels, at the size of the picture that they are of."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from ..models.ark.configuration_ark import ArkConfig, SegmentationTask
from ..models.genesis.configuration_genesis import GenesisConfig
from .task_labels import label_names

SEGMENTER, VOLUME_SEGMENTER = "ArkForSemanticSegmentation", "GenesisForSemanticSegmentation"


def check_segments(config: ArkConfig | GenesisConfig, name_or_path: str) -> None:
    """Raises `ValueError` if a model is no segmenter, or one without a named task, whose classes nobody knows."""
    segmenter = VOLUME_SEGMENTER if isinstance(config, GenesisConfig) else SEGMENTER
    if segmenter not in (config.architectures or [segmenter]):
        raise ValueError(f"{name_or_path!r} is no segmenter; fine-tuning it on a dataset with masks makes one of it.")
    if config.segmentation is None:
        labels = label_names(config)[1:] or ["lungs"]
        raise ValueError(
            f"{name_or_path!r} is a segmenter without a named task. Name it, with your own names of the classes after "
            f"the background, and save it again: `{segmenter}.from_pretrained(..., "
            f"segmentation=SegmentationTask('organs', {labels}))`."
        )


def label_masks(logits: torch.Tensor, task: SegmentationTask, size: tuple[int, int]) -> np.ndarray:
    """
    The masks of all labels.

    Args:
        logits: (classes, h, w), float, of one picture: of exclusive labels after those of `background`.
        task: Of the segmenter.
        size: Height and width of the picture, to which the logits are enlarged (bilinear).

    Returns:
        bool (labels, height, width): of exclusive labels the most probable class of each pixel, of overlapping ones
        all that reach their thresholds.
    """
    masks = np.empty((len(task.labels), *size), dtype=bool)
    if task.overlapping:
        for mask, plane, cutoff in zip(masks, _enlarged(logits, size), task.cutoffs, strict=True):
            mask[:] = (plane >= cutoff).cpu().numpy()
        return masks
    planes = _enlarged(logits, size)
    best = next(planes)
    chosen = torch.zeros(size, dtype=torch.int16, device=best.device)
    for number, plane in enumerate(planes, start=1):
        chosen.masked_fill_(plane > best, number)
        torch.maximum(best, plane, out=best)
    for number, mask in enumerate(masks, start=1):
        mask[:] = (chosen == number).cpu().numpy()
    return masks


def mask_scores(logits: torch.Tensor, task: SegmentationTask, masks: np.ndarray) -> list[float]:
    """Mean probability of each label within its mask, see [`label_masks`]; NaN where that is empty."""
    size = masks.shape[-2:]
    if task.overlapping:
        planes = (plane.sigmoid() for plane in _enlarged(logits, size))
    else:
        normaliser = torch.full(size, -torch.inf, device=logits.device)
        for plane in _enlarged(logits, size):
            torch.logaddexp(normaliser, plane, out=normaliser)
        planes = (plane.sub_(normaliser).exp_() for plane in _enlarged(logits[1:], size))
    scores = []
    for mask, plane in zip(masks, planes, strict=True):
        inside = torch.from_numpy(mask).to(plane.device)
        scores.append(float(torch.where(inside, plane, 0).sum(dtype=torch.float64) / inside.sum()))
    return scores


def _enlarged(logits: torch.Tensor, size: tuple[int, ...]) -> Iterator[torch.Tensor]:
    """Class by class, because a film of 60 million pixels has not the memory for 20 of them."""
    for plane in logits:
        yield F.interpolate(plane[None, None].float(), size=size, mode="bilinear", align_corners=False)[0, 0]
