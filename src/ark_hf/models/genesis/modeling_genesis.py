"""Genesis: the 3D U-Net of Models Genesis, alone and with what it restores, classifies or outlines."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.utils import can_return_tuple

from ..ark.heads_ark import ArkImageClassifierOutput, ArkLinear, TaskHeadsMixin, check_classifies
from ..ark.masks_ark import ArkSemanticSegmenterOutput, drop_tasks, num_classes, segmenter_output
from ..ark.thresholds_ark import BoundThresholdsMixin
from .configuration_genesis import GenesisConfig

PRELU_SLOPE = 0.25  # that PyTorch starts with


@dataclass
class GenesisForPreTrainingOutput(ModelOutput):
    """
    Args:
        loss: Scalar, with `labels`: the mean squared error.
        reconstruction: float32 in [0, 1], of the shape of `pixel_values`: the sigmoid of `logits`.
        logits: float32, of the same shape.
        hidden_states: With `output_hidden_states=True`, the encoder's features (batch, channels, d, h, w), a tensor a
            level, from fine to coarse.
    """

    loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


class GenesisBatchNorm(nn.BatchNorm3d):
    """Batch norm that uses the statistics of its batch in evaluation too, if told so; see [`GenesisConfig`]."""

    def __init__(self, channels: int, batch_statistics: bool):
        super().__init__(channels)
        self.batch_statistics = batch_statistics

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.batch_statistics:
            return super().forward(input)
        running = self.running_mean, self.running_var
        return F.batch_norm(input, *running, self.weight, self.bias, True, self.momentum, self.eps)


class GenesisUnit(nn.Module):
    """A convolution of 3x3x3, batch norm and an activation."""

    def __init__(self, config: GenesisConfig, inputs: int, outputs: int):
        super().__init__()
        self.convolution = nn.Conv3d(inputs, outputs, kernel_size=3, padding=1)
        self.normalization = GenesisBatchNorm(outputs, config.batch_statistics)
        activations = {"relu": nn.ReLU(), "elu": nn.ELU(), "prelu": nn.PReLU(outputs)}
        self.activation = activations[config.activation]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.activation(self.normalization(self.convolution(features)))


def channels(config: GenesisConfig) -> list[int]:
    """Of the features that each level of the encoder gives, from fine to coarse."""
    return [config.width * 2 ** (level + 1) for level in range(config.depth)]


class GenesisEncoder(nn.Module):
    """Levels of two units each; after all but the last, pooling halves the sides."""

    def __init__(self, config: GenesisConfig):
        super().__init__()
        inputs = [config.num_channels, *channels(config)[:-1]]
        middle = [config.width * 2**level for level in range(config.depth)]
        self.levels = nn.ModuleList(
            nn.Sequential(GenesisUnit(config, first, second), GenesisUnit(config, second, third))
            for first, second, third in zip(inputs, middle, channels(config), strict=True)
        )

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The features of each level before its pooling, from fine to coarse: (batch, channels, d, h, w)."""
        features = [self.levels[0](pixel_values)]
        for level in self.levels[1:]:
            features.append(level(F.max_pool3d(features[-1], 2)))
        return tuple(features)


class GenesisDecoder(nn.Module):
    """From the bottom up: a transposed convolution doubles the sides, and two units join it with the encoder's."""

    def __init__(self, config: GenesisConfig):
        super().__init__()
        widths = channels(config)[::-1]
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose3d(width, width, kernel_size=2, stride=2) for width in widths[:-1]
        )
        self.levels = nn.ModuleList(
            nn.Sequential(GenesisUnit(config, below + width, width), GenesisUnit(config, width, width))
            for below, width in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(self, features: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """(batch, 2 * width, depth, height, width) of what the encoder gives."""
        *skipped, decoded = features
        for upsampling, level, skip in zip(self.upsamplings, self.levels, skipped[::-1], strict=True):
            decoded = level(torch.cat([upsampling(decoded), skip], dim=1))
        return decoded


class GenesisPreTrainedModel(PreTrainedModel):
    """
    What all models of Genesis share.

    `pixel_values` are float (batch, num_channels, depth, height, width) in [0, 1], as the image processor gives them:
    the last three axes are those of the config's `axes`, and their sides must divide by 2^(depth - 1) of the config.
    """

    config: GenesisConfig
    config_class = GenesisConfig
    base_model_prefix = "genesis"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False
    _no_split_modules = ["GenesisUnit"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d, ArkLinear)):
            module.reset_parameters()
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, PRELU_SLOPE)
        elif isinstance(module, nn.BatchNorm3d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)

    def get_input_embeddings(self):
        return None


class GenesisModel(GenesisPreTrainedModel):
    """The encoder alone: features of volumes."""

    _keys_to_ignore_on_load_unexpected = [
        r"^heads\.", r"^classifier\.", r"^decoder\.", r"^restoration_head\.", r"^segmentation_head\.",
    ]  # fmt: skip

    def __init__(self, config: GenesisConfig):
        super().__init__(config)
        self.encoder = GenesisEncoder(config)
        self.embedding_dim = channels(config)[-1]
        self.post_init()

    def _check(self, pixel_values: torch.Tensor) -> None:
        config, shape = self.config, tuple(pixel_values.shape)
        if len(shape) != 5 or shape[1] != config.num_channels:
            raise ValueError(
                f"pixel_values must be (batch, {config.num_channels}, depth, height, width), got shape {shape}."
            )
        size = "x".join(map(str, shape[2:]))
        if any(side % config.stride or side == 0 for side in shape[2:]):
            raise ValueError(
                f"Each side of a volume must be a multiple of {config.stride}, got {size}: pad it, or cut cubes of it "
                f"({'x'.join(map(str, config.cube_size))}, as the image processor does)."
            )
        alone = shape[0] * math.prod(shape[2:]) == config.stride**3
        if alone and (self.training or config.batch_statistics):
            raise ValueError(
                f"One volume of {size} is a single voxel at the bottom of the network, and batch norm needs several: "
                "give more volumes or larger ones."
            )

    @can_return_tuple
    def forward(
        self, pixel_values: torch.FloatTensor, output_hidden_states: bool | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            pixel_values: See [`GenesisPreTrainedModel`].
            output_hidden_states: Whether to return the features of each level, from fine to coarse.

        Returns:
            `last_hidden_state`, the features at the bottom, (batch, 2^depth * width, d, h, w), sides divided by
            2^(depth - 1); `pooler_output`, their mean, (batch, 2^depth * width); `hidden_states`, a tensor a level.

        Raises:
            ValueError: The shape does not fit.
        """
        self._check(pixel_values)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        features = self.encoder(pixel_values)
        return BaseModelOutputWithPooling(
            last_hidden_state=features[-1],
            pooler_output=features[-1].mean(dim=(2, 3, 4)),
            hidden_states=features if output_hidden_states else None,
        )


class GenesisForPreTraining(GenesisPreTrainedModel):
    """The U-Net that restores cubes which were deformed."""

    def __init__(self, config: GenesisConfig):
        super().__init__(config)
        self.genesis = GenesisModel(config)
        self.decoder = GenesisDecoder(config)
        self.restoration_head = nn.Conv3d(channels(config)[0], config.num_channels, kernel_size=1)
        self.post_init()
        # `GenesisModel` ignores all but the encoder in a checkpoint, and its patterns were merged into ours
        self._keys_to_ignore_on_load_unexpected: set[str] = set()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> GenesisForPreTrainingOutput:
        """
        Args:
            pixel_values: Deformed cubes, see [`GenesisPreTrainedModel`].
            labels: The cubes as they were, of the same shape: the loss is the mean squared error.
            output_hidden_states: Whether to return the features of each level of the encoder, from fine to coarse.

        Raises:
            ValueError: The shape does not fit.
        """
        if labels is not None and labels.shape != pixel_values.shape:
            raise ValueError(
                f"labels are the cubes as they were, of shape {tuple(pixel_values.shape)}; got {tuple(labels.shape)}."
            )
        outputs = self.genesis(pixel_values, output_hidden_states=True, return_dict=True)
        logits = self.restoration_head(self.decoder(outputs.hidden_states)).float()
        restored = logits.sigmoid()
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return GenesisForPreTrainingOutput(
            loss=None if labels is None else F.mse_loss(restored, labels.float()),
            reconstruction=restored,
            logits=logits,
            hidden_states=outputs.hidden_states if output_hidden_states else None,
        )


class GenesisForImageClassification(BoundThresholdsMixin, TaskHeadsMixin, GenesisPreTrainedModel):
    """The encoder with heads on its pooled features, one per task and named; with `tasks=None` an ordinary one."""

    def __init__(self, config: GenesisConfig):
        check_classifies(config)
        super().__init__(config)
        self.genesis = GenesisModel(config)
        self.build_heads(self.genesis.embedding_dim)
        self.post_init()
        # What a classifier has no use for is not worth a report; other heads are
        self._keys_to_ignore_on_load_unexpected: set[str] = {r"^decoder\.", r"^restoration_head\."}

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        labels: torch.Tensor | None = None,
        task: str | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> ArkImageClassifierOutput:
        """
        Args:
            pixel_values: See [`GenesisPreTrainedModel`].
            labels: For one head see [`masked_classification_loss`]. For several heads without `task`: float
                (batch, num_labels) in `id2label` order, NaN unknown; the loss is the mean over the tasks that have a
                known element.
            task: Name of the head whose raw logits are wanted. Without it, a model of several tasks returns all heads
                in config order as per-label log-odds, whose sigmoid is each head's own probability.
            output_hidden_states: Whether to return the features of each level, from fine to coarse.

        Raises:
            ValueError: The task is unknown, or the shape or the labels do not fit.
        """
        outputs = self.genesis(pixel_values, output_hidden_states=output_hidden_states, return_dict=True)
        loss, logits = self.answer(outputs.pooler_output, labels, task)
        return ArkImageClassifierOutput(
            loss=loss, logits=logits, embeddings=outputs.pooler_output, hidden_states=outputs.hidden_states
        )


class GenesisForSemanticSegmentation(GenesisPreTrainedModel):
    """The U-Net as a segmenter: `config.segmentation` says what it outlines, or `id2label` names exclusive classes."""

    def __init__(self, config: GenesisConfig):
        drop_tasks(config)
        super().__init__(config)
        self.genesis = GenesisModel(config)
        self.num_labels = config.num_labels
        self.decoder = GenesisDecoder(config)
        self.segmentation_head = nn.Conv3d(channels(config)[0], num_classes(config), kernel_size=1)
        self.post_init()
        self._keys_to_ignore_on_load_unexpected: set[str] = {r"^restoration_head\."}

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
            pixel_values: See [`GenesisPreTrainedModel`].
            labels: (batch, depth, height, width), or (batch, labels, depth, height, width) if they overlap, see
                [`segmentation_loss`].
            output_hidden_states: Whether to return the features of each level of the encoder, from fine to coarse.

        Raises:
            ValueError: The shape or the labels do not fit.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        outputs = self.genesis(pixel_values, output_hidden_states=True, return_dict=True)
        logits = self.segmentation_head(self.decoder(outputs.hidden_states)).float()
        return segmenter_output(self.config, logits, labels, outputs.hidden_states if output_hidden_states else None)


__all__ = [
    "GenesisForImageClassification",
    "GenesisForPreTraining",
    "GenesisForSemanticSegmentation",
    "GenesisModel",
    "GenesisPreTrainedModel",
]
