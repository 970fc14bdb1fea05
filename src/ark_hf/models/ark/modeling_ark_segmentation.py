"""Ark that outlines structures: its encoder and a decoder of segmentation-models-pytorch."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from .configuration_ark import ArkConfig
from .modeling_ark import ArkModel, ArkPreTrainedModel

logger = logging.getLogger(__name__)

UNKNOWN = 255  # of pixels in label maps
SMOOTHING = 1.0  # pixels that both parts of a Dice fraction begin with
LEAST_STRIDE = 4  # of the encoder's features that the decoder uses, in pixels
LEVELS = {"upernet": 2, "fpn": 4}  # how many of the encoder's features the decoder needs at least
FPN_GROUPS = 32


@dataclass
class ArkSemanticSegmenterOutput(ModelOutput):
    """
    Args:
        loss: Scalar, with `labels`.
        logits: (batch, classes, height, width), always float32, at the resolution of the encoder's finest features:
            of exclusive classes `background` and the labels, of overlapping ones the labels.
        hidden_states: With `output_hidden_states=True`, the encoder's features (batch, channels, height, width), a
            tensor a stage.
        cutoffs: Of overlapping labels, (batch, labels): the logit from which a pixel belongs to each.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    cutoffs: torch.FloatTensor | None = None


def segmentation_loss(
    logits: torch.Tensor, labels: torch.Tensor, dice: float = 1.0, cross_entropy: float = 1.0
) -> torch.Tensor:
    """
    Soft Dice loss plus cross-entropy over the pixels that are known.

    The Dice loss is one minus the mean over images and labels of 2 |p y| / (|p| + |y|), both with one pixel added, so
    that a structure which is absent asks for no probability; the background is no label. An image in which a label is
    unknown everywhere does not count.

    Args:
        logits: (batch, classes, h, w), float; enlarged to the size of the labels.
        labels: Exclusive classes: int (batch, H, W), 255 unknown; class 0 is the background. Overlapping ones: float
            (batch, labels, H, W) in [0, 1], NaN unknown.
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
    fits = labels.ndim == 4 and labels.shape[:2] == (batch, classes) if overlapping else labels.ndim == 3
    if not fits or len(labels) != batch:
        raise ValueError(
            f"Segmentation takes labels of shape ({batch}, height, width), integers below {classes} or {UNKNOWN}, or "
            f"if they overlap floats of shape ({batch}, {classes}, height, width); got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(labels, classes)
    logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
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
        classes_of_labels = torch.arange(1, classes, device=labels.device)[:, None, None]
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


class ArkForSemanticSegmentation(ArkPreTrainedModel):
    """
    Ark with a decoder: `config.segmentation` says what it outlines, or else `id2label` names exclusive classes.

    The encoder is that of every Ark, with the same names of weights, so that it starts from any of them. The decoder
    is of segmentation-models-pytorch: `pip install "ark-hf[segmentation]"`.

    Raises:
        ImportError: The library is not installed.
        ValueError: The encoder's features do not make a pyramid that the decoder can use.
    """

    def __init__(self, config: ArkConfig):
        if config.tasks is not None:
            logger.warning(
                "The heads of tasks %s are dropped; the classes of the segmenter are %s. Other ones: `num_labels=`, "
                "`id2label=` or `segmentation=`.",
                [task.name for task in config.tasks],
                list(config.id2label.values()),
            )
            config.tasks, config.problem_type = None, None
        super().__init__(config)
        self.ark = ArkModel(config)
        self.num_labels = config.num_labels
        classes = config.num_labels if config.segmentation is None else len(config.segmentation.classes)
        self._levels = _pyramid(self.ark.encoder, config)
        self.decoder, width = _create_decoder(config, [channels for _, channels in self._levels])
        self.segmentation_head = nn.Conv2d(width, classes, kernel_size=1)
        self.post_init()
        # As in the classifier, what is dropped of a checkpoint must be reported
        self._keys_to_ignore_on_load_unexpected: set[str] = set()

    def get_input_embeddings(self):
        return None

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> ArkSemanticSegmenterOutput:
        """
        Args:
            pixel_values: (batch, num_channels, image_size, image_size), as the image processor gives them.
            labels: Of any height and width, see [`segmentation_loss`].
            output_hidden_states: Whether to return the encoder's features.

        Raises:
            ValueError: The labels do not fit.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        stages = self.ark.encoder.forward_intermediates(pixel_values, output_fmt="NCHW", intermediates_only=True)
        features = [stages[index] for index, _ in self._levels]
        # the decoders leave out the first two, which are the image and half of its size in their library
        logits = self.segmentation_head(self.decoder([None, None, *features])).float()
        task = self.config.segmentation
        if labels is not None and task is not None and labels.is_floating_point() != task.overlapping:
            kind = "float, a plane a label, as they overlap" if task.overlapping else "integers"
            raise ValueError(f"Labels of task {task.name!r} are {kind}; got {labels.dtype}.")
        cutoffs = None
        if task is not None and task.overlapping:
            cutoffs = torch.tensor(task.cutoffs, device=logits.device).expand(logits.shape[0], -1)
        return ArkSemanticSegmenterOutput(
            loss=None if labels is None else segmentation_loss(logits, labels),
            logits=logits,
            hidden_states=tuple(stages) if output_hidden_states else None,
            cutoffs=cutoffs,
        )


def _pyramid(encoder: Any, config: ArkConfig) -> list[tuple[int, int]]:
    """Of the encoder's features that the decoder uses, from fine to coarse: (index, channels)."""
    found: dict[int, tuple[int, int]] = {}
    for index, feature in enumerate(encoder.feature_info):
        feature = feature if isinstance(feature, dict) else vars(feature)
        if feature["reduction"] >= LEAST_STRIDE:
            found[feature["reduction"]] = (index, feature["num_chs"])
    if len(found) < LEVELS[config.decoder_type]:
        raise ValueError(
            f"The decoder {config.decoder_type!r} needs features of {LEVELS[config.decoder_type]} sizes, and those of "
            f"{config.backbone!r} have {len(found)}; use a Swin, a ConvNeXt, a ResNet or an EfficientNet of timm."
        )
    return [found[stride] for stride in sorted(found)]


def _create_decoder(config: ArkConfig, channels: list[int]) -> tuple[nn.Module, int]:
    """The decoder, and how many channels it gives."""
    try:
        from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
    except ImportError as error:
        raise ImportError(
            "ArkForSemanticSegmentation needs segmentation-models-pytorch for its decoder: "
            'pip install "ark-hf[segmentation]"'
        ) from error
    width, depth = config.decoder_channels, len(channels) + 1
    if config.decoder_type == "fpn":
        if width % FPN_GROUPS:
            raise ValueError(f"decoder_channels of an FPN must be a multiple of {FPN_GROUPS}, got {width}.")
        return FPNDecoder([0, 0, *channels], depth, width, segmentation_channels=width), width
    decoder = UPerNetDecoder([0, 0, *channels], max(depth, 3), width)
    for parent in decoder.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _BatchNorm2d(child.num_features))
    return decoder, width


class _BatchNorm2d(nn.BatchNorm2d):
    """Uses its running statistics where there are none of the batch: a single image, pooled to a single pixel."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


__all__ = ["ArkForSemanticSegmentation"]
