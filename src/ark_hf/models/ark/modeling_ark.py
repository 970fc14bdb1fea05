"""Ark: a timm encoder, an optional projector and one head per task (Ma et al., MICCAI 2023; Ark+, Nature 2025)."""

import difflib
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from .configuration_ark import ArkConfig
from .heads_ark import ArkImageClassifierOutput, ArkLinear, TaskHeadsMixin, check_classifies
from .thresholds_ark import BoundThresholdsMixin

if TYPE_CHECKING:  # transformers lets the files travel that are imported, and `auto_map` names this one in every model
    from .modeling_ark_segmentation import ArkForSemanticSegmentation  # noqa: F401

# Arguments of timm.create_model that open files or addresses
LOADS_FILES = ("pretrained", "checkpoint_path", "cache_dir")


@dataclass
class ArkModelOutput(ModelOutput):
    """
    Args:
        last_hidden_state: Patch tokens after the last norm, row by row, (batch, tokens, width); prefix tokens dropped.
        pooler_output: Pooled features, (batch, width).
        embeddings: Projected features, (batch, projector_dim); equal to `pooler_output` without a projector.
        hidden_states: With `output_hidden_states=True`, the tokens after each stage (each block of a ViT).
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


class ArkPreTrainedModel(PreTrainedModel):
    """
    What all models of Ark share.

    `attn_implementation` ("sdpa" or "eager", for `from_pretrained`, `from_config` or `set_attn_implementation`) fuses
    the attention of every block or not; "sdpa" also moves the tokens of a Swin less, see [`swin_ark`]. Unset, each
    block does as timm decides: fused in a ViT, not in a Swin. The two differ by rounding alone, and the choice is not
    saved with the model.
    """

    config: ArkConfig
    config_class = ArkConfig
    base_model_prefix = "ark"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules = ["SwinTransformerBlock", "ArkSwinBlock", "ConvNeXtBlock", "Block", "InvertedResidual"]

    def post_init(self):
        self.supports_gradient_checkpointing = hasattr(self.base_model.encoder, "set_grad_checkpointing")
        super().post_init()

    def get_correct_attn_implementation(
        self, requested_attention: str | None, is_init_check: bool = False
    ) -> str | None:
        if requested_attention is None:  # transformers would take it for "sdpa"
            return None
        implementation = super().get_correct_attn_implementation(requested_attention, is_init_check)
        if implementation not in ("eager", "sdpa"):
            raise ValueError(f'attn_implementation="{implementation}" does nothing here; use "eager" or "sdpa".')
        return implementation

    def set_attn_implementation(self, *args, **kwargs) -> None:
        super().set_attn_implementation(*args, **kwargs)
        fuse_attention(self.base_model.encoder, self.config)

    def fuse_where_possible(self) -> None:
        """As `set_attn_implementation("sdpa")`, for an encoder that has attention and of which nothing was asked."""
        has_attention = any(hasattr(module, "fused_attn") for module in self.base_model.encoder.modules())
        if self.config._attn_implementation is None and has_attention:
            self.set_attn_implementation("sdpa")

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs):
        # `timm` checkpoints each block on its own and takes no checkpointing function
        if not enable:
            self.base_model.encoder.set_grad_checkpointing(False)
        elif not self.base_model.gradient_checkpointing:
            checkpoint_blocks(self.base_model.encoder)
        self.base_model.gradient_checkpointing = enable

    def set_image_size(self, image_size: int, window_size: int | None = None) -> None:
        """
        Lets a trained model take images of another size, as the scale-up of Ark+ does (Swin-L 384 to 768).

        Attention masks are rebuilt for the new size. Relative position tables are kept as long as the windows stay;
        those of windows that change (by `window_size`, or where a stage's map becomes smaller than the window) are
        interpolated by timm, as are a ViT's position embeddings. Convolutional encoders have nothing to change. Give
        the image processor the same size.

        Args:
            image_size: New side of the square input, in pixels.
            window_size: New window of a Swin, in tokens; the present one unless set.

        Raises:
            ValueError: The encoder cannot be built at this size; the message names sizes that fit.
        """
        changed = {} if window_size is None else {"window_size": window_size}
        kwargs = {**(self.config.backbone_kwargs or {}), **changed} or None
        values = {**self.config.to_dict(), "image_size": image_size, "backbone_kwargs": kwargs}
        old, new = self.base_model.encoder, create_encoder(ArkConfig.from_dict(values))
        reference = next(old.parameters())
        fit = getattr(sys.modules[type(new).__module__], "checkpoint_filter_fn", None)
        weights = old.state_dict()
        with warnings.catch_warnings():  # about how timm's interpolation indexes
            warnings.simplefilter("ignore", UserWarning)
            new.load_state_dict(fit(weights, new) if fit else weights)
        trainable = {name for name, parameter in old.named_parameters() if parameter.requires_grad}
        for name, parameter in new.named_parameters():
            parameter.requires_grad_(name in trainable)
        if self.base_model.gradient_checkpointing:
            checkpoint_blocks(new)
        fuse_attention(new, self.config)
        self.base_model.encoder = new.to(device=reference.device, dtype=reference.dtype).train(old.training)
        self.config.image_size, self.config.backbone_kwargs = image_size, kwargs

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, ArkLinear):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            self._init_convolution(module)
        else:
            self._init_bare_parameters(module)
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def _init_bare_parameters(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                init.zeros_(parameter)
            elif name == "weight" and parameter.ndim == 1:  # norms, whatever their class
                init.ones_(parameter)
            elif name == "gamma":
                default = (self.config.backbone_kwargs or {}).get("ls_init_value", 1e-6)
                init.constant_(parameter, getattr(module, "init_values", default))
            else:  # tokens, position embeddings and relative position bias tables
                init.trunc_normal_(parameter, std=0.02)
        if getattr(module, "running_mean", None) is not None:
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)

    def _init_convolution(self, module: nn.Conv2d) -> None:
        if module.bias is None:  # a norm follows: variance kept in the backward pass, per group
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        elif self.config.backbone.startswith("convnext"):
            init.trunc_normal_(module.weight, std=0.02)
            init.zeros_(module.bias)
        else:
            module.reset_parameters()


class _NoValues(TorchFunctionMode):
    """
    Leaves out what would fill tensors on the meta device, which have no values.

    transformers builds every model there before it loads the weights; timm's random numbers took most of that time.
    """

    FILLING = {"uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_"}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if args and getattr(func, "__name__", "") in self.FILLING and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def create_encoder(config: ArkConfig, pretrained: bool = False) -> nn.Module:
    """
    The timm encoder that the config names, with timm's own weights if `pretrained` (they are downloaded).

    Raises:
        ValueError: The backbone is unknown, or cannot be built with these settings.
    """
    import timm  # a second of import time that only building a model needs

    if not timm.is_model(config.backbone):
        near = difflib.get_close_matches(config.backbone, timm.list_models(), n=3, cutoff=0.4)
        raise ValueError(f"Unknown backbone {config.backbone!r}; timm {timm.__version__} has for instance {near}.")
    kwargs: dict[str, Any] = {"drop_path_rate": config.drop_path_rate, "in_chans": config.num_channels}
    pretrained_cfg = timm.get_pretrained_cfg(config.backbone)
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        kwargs["img_size"] = config.image_size
    loading = [name for name in config.backbone_kwargs or {} if name.startswith(LOADS_FILES)]
    if loading:  # a configuration may come from anywhere, and is no leave to open files or addresses
        raise ValueError(f"backbone_kwargs has {loading}, which say what timm loads; only what it builds is taken.")
    kwargs |= config.backbone_kwargs or {}
    try:
        with _NoValues() if torch.get_default_device().type == "meta" else nullcontext():
            encoder = timm.create_model(config.backbone, pretrained=pretrained, num_classes=0, **kwargs)
    except (TypeError, ValueError, AssertionError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"Backbone {config.backbone!r} cannot be built with {kwargs}: {error}") from error
    _check_window(encoder, config)
    return encoder


def fuse_attention(encoder: nn.Module, config: ArkConfig) -> None:
    """
    Has every block of the encoder attend as `attn_implementation` asks.

    Raises:
        ValueError: "sdpa" is asked for, and timm knows of nothing to fuse.
    """
    implementation = config._attn_implementation
    if implementation is None:
        return
    blocks: list[Any] = [module for module in encoder.modules() if hasattr(module, "fused_attn")]
    if implementation == "sdpa" and not blocks:
        config._attn_implementation = None
        raise ValueError(f"{config.backbone!r} has no attention that timm can fuse; leave attn_implementation unset.")
    for block in blocks:
        block.fused_attn = implementation == "sdpa"
    if config.backbone.startswith("swin_"):
        from .swin_ark import fuse_swin  # imports timm, see `create_encoder`

        fuse_swin(encoder, implementation == "sdpa")


class _StatisticsOfFirstPass:
    """
    Has a batch norm in a checkpointed block count a batch once: when the backward pass repeats the block, its running
    statistics move copies that are thrown away. The normalisation is by the batch either way.
    """

    def __init__(self, norm: nn.Module):
        self.kept: dict[str, torch.Tensor] = {}
        norm.register_forward_pre_hook(self.put_copies)
        norm.register_forward_hook(self.put_back, always_call=True)  # an exception ends the repetition

    def put_copies(self, norm: nn.Module, inputs: Any) -> None:
        if torch._C._current_graph_task_id() != -1:  # this is a backward pass: torch's checkpointing asks the same
            self.kept = dict(norm.named_buffers(recurse=False))
            for name, buffer in self.kept.items():
                setattr(norm, name, buffer.clone())

    def put_back(self, norm: nn.Module, inputs: Any, output: Any) -> None:
        for name, buffer in self.kept.items():
            setattr(norm, name, buffer)
        self.kept = {}


def checkpoint_blocks(encoder: nn.Module) -> None:
    """Has each block of the encoder keep its input alone, and be computed again in the backward pass."""
    encoder.set_grad_checkpointing()
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            _StatisticsOfFirstPass(module)


def _check_window(encoder: nn.Module, config: ArkConfig) -> None:
    # timm pads windows that do not fit; the originals never do, and padded tokens would change every output
    patch: Any = getattr(getattr(encoder, "patch_embed", None), "patch_size", None)
    if patch and config.image_size % patch[0]:
        raise ValueError(f"image_size {config.image_size} is not a multiple of the patch size {patch[0]}.")
    windows = [m for m in encoder.modules() if hasattr(m, "input_resolution") and hasattr(m, "window_size")]
    for block in windows:
        side, window = block.input_resolution[0], block.window_size[0]
        merged_evenly = config.image_size % (patch[0] * 2 ** (len(encoder.layers) - 1)) == 0
        if side % window or not merged_evenly:
            step = patch[0] * windows[0].window_size[0] * 2 ** (len(encoder.layers) - 1)
            lower = max(config.image_size // step, 1) * step
            raise ValueError(
                f"image_size {config.image_size} does not divide into windows of {window} tokens in every stage of "
                f"{config.backbone!r}; use a multiple of {step}, such as {lower} or {lower + step}."
            )


class ArkModel(ArkPreTrainedModel):
    """Encoder and projector: features of a radiograph, without heads."""

    _keys_to_ignore_on_load_unexpected = [r"^heads\.", r"^classifier\.", r"^decoder\.", r"^segmentation_head\."]

    def __init__(self, config: ArkConfig):
        super().__init__(config)
        self.gradient_checkpointing = False  # what transformers asks for; timm's own flag has another name
        self.encoder = create_encoder(config)
        fuse_attention(self.encoder, config)
        width = getattr(self.encoder, "head_hidden_size", self.encoder.num_features)
        self.projector: nn.Module | None = None
        if config.projector_dim is not None:
            self.projector = ArkLinear(width, config.projector_dim)
            if config.projector_type == "mlp":
                second = ArkLinear(config.projector_dim, config.projector_dim)
                self.projector = nn.Sequential(self.projector, nn.ReLU(), second)
        self.embedding_dim = config.projector_dim or width
        self.post_init()

    def get_input_embeddings(self):
        return None

    def _tokens(self, features: torch.Tensor, layout: str) -> torch.Tensor:
        if features.ndim == 3:
            return features[:, getattr(self.encoder, "num_prefix_tokens", 0) :]
        return features.flatten(1, 2) if layout == "NHWC" else features.flatten(2).transpose(1, 2)

    @can_return_tuple
    def forward(
        self, pixel_values: torch.FloatTensor, output_hidden_states: bool | None = None, **kwargs
    ) -> ArkModelOutput:
        """
        Args:
            pixel_values: (batch, num_channels, image_size, image_size), as the image processor gives them.
            output_hidden_states: Whether to return the tokens after each stage.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = None
        if output_hidden_states:
            features, stages = self.encoder.forward_intermediates(pixel_values, output_fmt="NCHW")
            hidden_states = tuple(self._tokens(stage, "NCHW") for stage in stages)
        else:
            features = self.encoder.forward_features(pixel_values)
        pooled = self.encoder.forward_head(features, pre_logits=True)
        return ArkModelOutput(
            last_hidden_state=self._tokens(features, getattr(self.encoder, "output_fmt", "NCHW")),
            pooler_output=pooled,
            embeddings=pooled if self.projector is None else self.projector(pooled),
            hidden_states=hidden_states,
        )


class ArkForImageClassification(BoundThresholdsMixin, TaskHeadsMixin, ArkPreTrainedModel):
    """Ark with its heads, one per task and named; with `tasks=None` an ordinary classifier with one head."""

    def __init__(self, config: ArkConfig):
        check_classifies(config)
        super().__init__(config)
        self.ark = ArkModel(config)
        self.build_heads(self.ark.embedding_dim)
        self.post_init()
        # `ArkModel` ignores heads in a checkpoint, and its patterns were merged into ours: here they must be reported
        self._keys_to_ignore_on_load_unexpected: set[str] = set()

    def set_image_size(self, image_size: int, window_size: int | None = None) -> None:
        self.bind_thresholds()
        super().set_image_size(image_size, window_size)
        self.drop_stale_thresholds()

    def get_input_embeddings(self):
        return None

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        labels: torch.Tensor | None = None,
        task: str | None = None,
        output_hidden_states: bool | None = None,
        modality: str | torch.Tensor | None = None,
        **kwargs,
    ) -> ArkImageClassifierOutput:
        """
        Args:
            pixel_values: (batch, num_channels, image_size, image_size), as the image processor gives them.
            labels: For one head see [`masked_classification_loss`]. For several heads without `task`: float
                (batch, num_labels) in `id2label` order, NaN unknown; the loss is the mean over the tasks that have a
                known element.
            task: Name of the head whose raw logits are wanted. Without it, a model of several tasks returns all heads
                in config order as per-label log-odds, whose sigmoid is each head's own probability.
            output_hidden_states: Whether to return the tokens after each stage.
            modality: What the images were taken with, DICOM's code or what the image processor of a model of several
                modalities gives: heads of others are then not asked, and the log-odds of their labels are -inf, which
                are probabilities of 0.

        Raises:
            ValueError: The task is unknown, no head is of the modality, or the labels do not fit.
        """
        outputs: ArkModelOutput = self.ark(pixel_values, output_hidden_states=output_hidden_states, return_dict=True)
        loss, logits = self.answer(outputs.embeddings, labels, task, modality)
        return ArkImageClassifierOutput(
            loss=loss, logits=logits, embeddings=outputs.embeddings, hidden_states=outputs.hidden_states
        )


__all__ = ["ArkForImageClassification", "ArkModel", "ArkPreTrainedModel"]
