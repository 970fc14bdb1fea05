"""Ark that outlines structures: its encoder and a decoder of segmentation-models-pytorch."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils import can_return_tuple

from .configuration_ark import ArkConfig
from .masks_ark import ArkSemanticSegmenterOutput, drop_tasks, num_classes, segmenter_output
from .modeling_ark import ArkModel, ArkPreTrainedModel

LEAST_STRIDE = 4  # of the encoder's features that the decoder uses, in pixels
LEVELS = {"upernet": 2, "fpn": 4}  # how many of the encoder's features the decoder needs at least
FPN_GROUPS = 32


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
        drop_tasks(config)
        super().__init__(config)
        self.ark = ArkModel(config)
        self.num_labels = config.num_labels
        self._levels = _pyramid(self.ark.encoder, config)
        self.decoder, width = _create_decoder(config, [channels for _, channels in self._levels])
        self.segmentation_head = nn.Conv2d(width, num_classes(config), kernel_size=1)
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
        return segmenter_output(self.config, logits, labels, tuple(stages) if output_hidden_states else None)


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
