"""A segmenter's masks of its labels, at the size of the picture that they are of."""

import numpy as np
import torch
from torch.nn import functional as F

from ..models.ark.configuration_ark import SegmentationTask


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
    enlarged = F.interpolate(logits[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    if not task.overlapping:
        chosen = enlarged.argmax(dim=0).cpu().numpy()
        return chosen == np.arange(1, len(task.labels) + 1)[:, None, None]
    cutoffs = torch.tensor([(task.thresholds or {}).get(label, 0.5) for label in task.labels]).logit()
    return (enlarged.cpu() >= cutoffs[:, None, None]).numpy()
