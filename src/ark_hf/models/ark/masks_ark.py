"""What segmenters of Ark and Genesis share: their outputs, the loss over what is known, and label maps."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import BatchFeature
from transformers.modeling_outputs import ModelOutput

logger = logging.getLogger(__name__)

UNKNOWN = 255  # of pixels in label maps
SMOOTHING = 1.0  # pixels that both parts of a Dice fraction begin with


@dataclass
class ArkSemanticSegmenterOutput(ModelOutput):
    """
    Args:
        loss: Scalar, with `labels`.
        logits: (batch, classes, height, width), or of volumes (batch, classes, depth, height, width), always float32,
            at the resolution of the decoder's finest features: of exclusive classes `background` and the labels, of
            overlapping ones the labels.
        hidden_states: With `output_hidden_states=True`, the encoder's features (batch, channels, height, width), or
            of volumes (batch, channels, depth, height, width), a tensor a stage.
        cutoffs: Of overlapping labels, (batch, labels): the logit from which a pixel belongs to each.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    cutoffs: torch.FloatTensor | None = None


def segmenter_output(
    config: Any,
    logits: torch.Tensor,
    labels: torch.Tensor | None = None,
    hidden_states: tuple[torch.Tensor, ...] | None = None,
) -> ArkSemanticSegmenterOutput:
    """
    What a segmenter returns.

    Args:
        config: Of the model, with its `segmentation`.
        logits: (batch, classes, ...), float32.
        labels: See [`segmentation_loss`].

    Raises:
        ValueError: The labels do not fit.
    """
    task = config.segmentation
    if labels is not None and task is not None and labels.is_floating_point() != task.overlapping:
        kind = "float, a plane a label, as they overlap" if task.overlapping else "integers"
        raise ValueError(f"Labels of task {task.name!r} are {kind}; got {labels.dtype}.")
    cutoffs = None
    if task is not None and task.overlapping:
        cutoffs = torch.tensor(task.cutoffs, device=logits.device).expand(logits.shape[0], -1)
    loss = None if labels is None else segmentation_loss(logits, labels)
    return ArkSemanticSegmenterOutput(loss=loss, logits=logits, hidden_states=hidden_states, cutoffs=cutoffs)  # type: ignore[arg-type]


def num_classes(config: Any) -> int:
    """Of the logits that a segmenter of this config gives."""
    return config.num_labels if config.segmentation is None else len(config.segmentation.classes)


def drop_tasks(config: Any) -> None:
    """Takes a classifier's tasks out of a config of which a segmenter is to be made, and says so."""
    if config.tasks is None:
        return
    logger.warning(
        "The heads of tasks %s are dropped; the classes of the segmenter are %s. Other ones: `num_labels=`, "
        "`id2label=` or `segmentation=`.",
        [task.name for task in config.tasks],
        list(config.id2label.values()),
    )
    config.tasks, config.problem_type = None, None


def resized(values: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(batch, channels, height, width) or (batch, channels, depth, height, width) of another size, (tri)linearly."""
    if tuple(values.shape[2:]) == tuple(size):
        return values
    mode = "bilinear" if values.ndim == 4 else "trilinear"
    return F.interpolate(values, size=tuple(size), mode=mode, align_corners=False)


def segmentation_loss(
    logits: torch.Tensor, labels: torch.Tensor, dice: float = 1.0, cross_entropy: float = 1.0
) -> torch.Tensor:
    """
    Soft Dice loss plus cross-entropy over the pixels, or voxels, that are known.

    The Dice loss is one minus the mean over images and labels of 2 |p y| / (|p| + |y|), both with one pixel added, so
    that a structure which is absent asks for no probability; the background is no label. An image in which a label is
    unknown everywhere does not count.

    Args:
        logits: (batch, classes, h, w) or of volumes (batch, classes, d, h, w), float; enlarged to the size of the
            labels.
        labels: Exclusive classes: int (batch, [D,] H, W), 255 unknown; class 0 is the background. Overlapping ones:
            float (batch, labels, [D,] H, W) in [0, 1], NaN unknown.
        dice: Weight of the Dice loss.
        cross_entropy: Weight of the cross-entropy, binary if classes overlap; the mean over what is known.

    Returns:
        Scalar, zero with a graph if nothing is known.

    Raises:
        ValueError: The labels do not fit the logits; of values this is found out on the CPU alone, where it costs no
            waiting.
    """
    batch, classes = logits.shape[:2]
    overlapping = labels.is_floating_point()
    if overlapping:
        fits = labels.ndim == logits.ndim and labels.shape[:2] == (batch, classes)
    else:
        fits = labels.ndim == logits.ndim - 1
    if not fits or len(labels) != batch:
        space = "height, width" if logits.ndim == 4 else "depth, height, width"
        raise ValueError(
            f"Segmentation takes labels of shape ({batch}, {space}), integers below {classes} or {UNKNOWN}, or if "
            f"they overlap floats of shape ({batch}, {classes}, {space}); got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(labels, classes)
    logits = resized(logits.float(), labels.shape[2:] if overlapping else labels.shape[1:])
    if overlapping:
        known = ~torch.isnan(labels)
        targets = torch.where(known, labels, 0).float()
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        entropy = torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)
        probabilities = logits.sigmoid()
    else:
        known = (labels != UNKNOWN)[:, None]
        losses = F.cross_entropy(logits, labels.long(), ignore_index=UNKNOWN, reduction="sum")
        entropy = losses / known.sum().clamp(min=1)
        probabilities = logits.softmax(dim=1)[:, 1:]
        classes_of_labels = torch.arange(1, classes, device=labels.device).view(-1, *[1] * (labels.ndim - 1))
        targets = (labels[:, None] == classes_of_labels).float()
    return cross_entropy * entropy + dice * _dice_loss(probabilities, targets, known)


def _check_values(labels: torch.Tensor, classes: int) -> None:
    if labels.is_floating_point():
        outside, allowed = (labels < 0) | (labels > 1), "lie in [0, 1], NaN unknown"
    else:
        outside = (labels < 0) | (labels >= classes) & (labels != UNKNOWN)
        allowed = f"are 0 to {classes - 1}, {UNKNOWN} unknown"
    wrong = labels[outside]
    if len(wrong):
        raise ValueError(f"Labels of a segmentation with {classes} classes {allowed}; got {wrong[0].item()}.")


def _dice_loss(probabilities: torch.Tensor, targets: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    probabilities, targets = (torch.where(known, each, 0).flatten(2) for each in (probabilities, targets))
    shared = (probabilities * targets).sum(dim=2)
    both = probabilities.sum(dim=2) + targets.sum(dim=2)
    losses = 1 - (2 * shared + SMOOTHING) / (both + SMOOTHING)
    counted = known.flatten(2).any(dim=2).expand_as(losses)
    return torch.where(counted, losses, 0).sum() / counted.sum().clamp(min=1)


def label_maps(
    outputs: Any, target_sizes: Any = None, return_segmentation_scores: bool = False
) -> list[torch.Tensor] | list[BatchFeature]:
    """
    Label maps of a segmenter's outputs, int64 ([depth,] height, width): the values that `id2label` names.

    Of labels that overlap, a pixel gets the one with the largest margin over its threshold, in log-odds, and 0 where
    none reaches it: a map cannot show the others, which `outputs.logits` have.

    Args:
        outputs: [`ArkSemanticSegmenterOutput`] of a batch.
        target_sizes: ([depth,] height, width) of each image, to which the logits are enlarged.
        return_segmentation_scores: Whether to return of each image `segmentation`, the map, and `segmentation_scores`,
            (values, [depth,] height, width), of which it has the largest: logits, or of labels that overlap the
            margins, after 0 for the background.

    Raises:
        ValueError: There are not as many sizes as images.
    """
    logits, cutoffs = outputs.logits, getattr(outputs, "cutoffs", None)
    if target_sizes is not None and len(target_sizes) != len(logits):
        raise ValueError(f"target_sizes must have one size an image: {len(target_sizes)} for {len(logits)}")
    if cutoffs is not None:
        margins = logits - cutoffs.view(*cutoffs.shape, *[1] * (logits.ndim - 2))
        logits = torch.cat([torch.zeros_like(margins[:, :1]), margins], dim=1)
    scores = list(logits)
    if target_sizes is not None:
        sizes = [tuple(int(side) for side in size) for size in target_sizes]
        scores = [resized(each[None], size)[0] for each, size in zip(scores, sizes, strict=True)]
    maps = [each.argmax(dim=0) for each in scores]
    if not return_segmentation_scores:
        return maps
    pairs = zip(maps, scores, strict=True)
    return [BatchFeature({"segmentation": shown, "segmentation_scores": each}) for shown, each in pairs]
