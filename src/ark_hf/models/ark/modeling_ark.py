"""Ark: a timm encoder, an optional projector and one head per task (Ma et al., MICCAI 2023; Ark+, Nature 2025)."""

import difflib
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from .configuration_ark import ArkConfig, ArkTask
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


@dataclass
class ArkImageClassifierOutput(ModelOutput):
    """
    Args:
        loss: Scalar, with `labels`.
        logits: (batch, labels), always float32.
        embeddings: (batch, projector_dim).
        hidden_states: As in [`ArkModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


def known_elements(labels: torch.Tensor, problem_type: str) -> torch.Tensor:
    """Which elements (multi-label) or rows (single-label) carry a label; NaN and -100 are unknown."""
    if problem_type == "multi_label_classification":
        return ~torch.isnan(labels)
    return ~torch.isnan(labels).any(dim=-1) if labels.is_floating_point() else labels != -100


def masked_classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str, num_known: torch.Tensor | int | None = None
) -> torch.Tensor:
    """
    Binary or ordinary cross-entropy over the elements whose label is known.

    Args:
        logits: (batch, labels), float.
        labels: Multi-label: float (batch, labels) in [0, 1], NaN unknown; (batch,) for one label. Single-label: int
            (batch,), -100 unknown, or float (batch, labels) probabilities, a row with NaN unknown.
        problem_type: "multi_label_classification" or "single_label_classification".
        num_known: Number of known elements to divide by; by default those of this call. Training passes the number
            in the global batch, so that the mean runs over all processes and accumulation steps.

    Returns:
        Scalar, zero with a graph if nothing is known.

    Raises:
        ValueError: The labels do not fit the logits.
    """
    if problem_type == "multi_label_classification":
        labels = labels[:, None] if labels.ndim == 1 and logits.shape[-1] == 1 else labels
        if labels.shape != logits.shape or not labels.is_floating_point():
            raise ValueError(
                f"Multi-label classification takes float labels of shape {tuple(logits.shape)}; "
                f"got {labels.dtype} of shape {tuple(labels.shape)}."
            )
    elif labels.shape != (logits.shape if labels.is_floating_point() else logits.shape[:1]):
        raise ValueError(
            f"Single-label classification takes class indices of shape ({len(logits)},) or float probabilities of "
            f"shape {tuple(logits.shape)}; got {labels.dtype} of shape {tuple(labels.shape)}."
        )

    known = known_elements(labels, problem_type)
    if num_known is None:
        num_known = known.sum()
    logits = logits.float()
    if problem_type == "multi_label_classification":
        targets = torch.where(known, labels, 0).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    elif labels.is_floating_point():
        losses = F.cross_entropy(logits, torch.where(known[:, None], labels, 0).to(logits.dtype), reduction="none")
    else:
        losses = F.cross_entropy(logits, labels.long(), reduction="none", ignore_index=-100)
    return torch.where(known, losses, 0).sum() / torch.as_tensor(num_known, device=logits.device).clamp(min=1)


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Per-class log-odds of a softmax, (batch, classes): the sigmoid of the result is exactly the softmax."""
    differences = logits.unsqueeze(-2) - logits.unsqueeze(-1)  # first of all, or large logits would lose digits
    itself = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return -differences.masked_fill(itself, -torch.inf).logsumexp(dim=-1)


class ArkLinear(nn.Linear):
    """A linear layer of the projector or a head: as in the originals it keeps PyTorch's default initialisation."""


class ArkPreTrainedModel(PreTrainedModel):
    """
    What all models of Ark share.

    `attn_implementation` ("sdpa" or "eager", for `from_pretrained`, `from_config` or `set_attn_implementation`) fuses
    the attention of every block or not. Unset, each block does as timm decides: fused in a ViT, not in a Swin. The two
    differ by rounding alone, and the choice is not saved with the model.
    """

    config: ArkConfig
    config_class = ArkConfig
    base_model_prefix = "ark"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules = ["SwinTransformerBlock", "ConvNeXtBlock", "Block", "InvertedResidual"]

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

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs):
        # `timm` checkpoints whole stages on its own and takes no checkpointing function
        self.base_model.encoder.set_grad_checkpointing(enable)
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
            new.set_grad_checkpointing()
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


class ArkForImageClassification(BoundThresholdsMixin, ArkPreTrainedModel):
    """Ark with its heads, one per task and named; with `tasks=None` an ordinary classifier with one head."""

    def __init__(self, config: ArkConfig):
        if config.segmentation is not None:
            raise ValueError(
                f"This is a segmenter of {config.segmentation.labels}: load it with AutoModelForSemanticSegmentation, "
                "or give `num_labels=`, `id2label=` or `tasks=` for a classifier with its encoder."
            )
        super().__init__(config)
        self.ark = ArkModel(config)
        self.num_labels = config.num_labels
        if config.tasks is None:
            self.classifier = ArkLinear(self.ark.embedding_dim, config.num_labels)
        else:
            self.heads = nn.ModuleDict({task.name: self._new_head(task) for task in config.tasks})
        self.post_init()
        # `ArkModel` ignores heads in a checkpoint, and its patterns were merged into ours: here they must be reported
        self._keys_to_ignore_on_load_unexpected: set[str] = set()

    def set_image_size(self, image_size: int, window_size: int | None = None) -> None:
        self.bind_thresholds()
        super().set_image_size(image_size, window_size)
        self.drop_stale_thresholds()

    def _new_head(self, task: ArkTask) -> ArkLinear:
        return ArkLinear(self.ark.embedding_dim, len(task.labels))

    def get_input_embeddings(self):
        return None

    def add_task(self, task: ArkTask) -> None:
        """Adds a head with fresh weights, after the others. Raises `ValueError` if the name is taken."""
        task = ArkTask.from_dict(task)
        self.config.tasks = [*self._tasks(), task]
        head = self._new_head(task)
        reference = next(self.parameters())
        self.heads[task.name] = head.to(device=reference.device, dtype=reference.dtype)
        self.num_labels = self.config.num_labels

    def remove_task(self, name: str) -> None:
        """Removes a head. Raises `ValueError` if there is none of this name or it is the last one."""
        self._task(name)
        self.keep_tasks([task.name for task in self._tasks() if task.name != name])

    def keep_tasks(self, names: list[str]) -> None:
        """Keeps the named heads, in the given order, and removes the others. Raises `ValueError` on unknown names."""
        kept = [self._task(name) for name in names]
        self.config.tasks = kept
        self.heads = nn.ModuleDict({task.name: self.heads[task.name] for task in kept})
        self.num_labels = self.config.num_labels

    def _tasks(self) -> list[ArkTask]:
        if self.config.tasks is None:
            raise ValueError(
                "This model is an ordinary classifier without named tasks (config.tasks is None). If label maps were "
                "set on the config of a loaded multi-task model, load the model with that config instead."
            )
        return self.config.tasks

    def _task(self, name: str) -> ArkTask:
        tasks = {task.name: task for task in self._tasks()}
        if name not in tasks:
            raise ValueError(f"Unknown task {name!r}; this model has {list(tasks)}.")
        return tasks[name]

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
            pixel_values: (batch, num_channels, image_size, image_size), as the image processor gives them.
            labels: For one head see [`masked_classification_loss`]. For several heads without `task`: float
                (batch, num_labels) in `id2label` order, NaN unknown; the loss is the mean over the tasks that have a
                known element.
            task: Name of the head whose raw logits are wanted. Without it, a model of several tasks returns all heads
                in config order as per-label log-odds, whose sigmoid is each head's own probability.
            output_hidden_states: Whether to return the tokens after each stage.

        Raises:
            ValueError: The task is unknown, or the labels do not fit.
        """
        outputs: ArkModelOutput = self.ark(pixel_values, output_hidden_states=output_hidden_states, return_dict=True)
        loss = None
        if self.config.tasks is None and hasattr(self, "classifier") and task is None:
            logits = self.classifier(outputs.embeddings).float()
            if labels is not None:
                loss = self._classifier_loss(logits, labels)
        elif task is not None or len(self._tasks()) == 1:
            chosen = self._task(task) if task is not None else self._tasks()[0]
            logits = self.heads[chosen.name](outputs.embeddings).float()
            if labels is not None:
                loss = masked_classification_loss(logits, labels, chosen.problem_type)
        else:
            raw = {each.name: self.heads[each.name](outputs.embeddings).float() for each in self._tasks()}
            if labels is not None:
                loss = self._mean_task_loss(raw, labels)
            logits = torch.cat(
                [
                    raw[each.name] if each.problem_type == "multi_label_classification" else log_odds(raw[each.name])
                    for each in self._tasks()
                ],
                dim=-1,
            )
        return ArkImageClassifierOutput(
            loss=loss, logits=logits, embeddings=outputs.embeddings, hidden_states=outputs.hidden_states
        )

    def _classifier_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.config.problem_type is None:  # inferred and remembered, as transformers does
            if self.config.num_labels == 1:
                self.config.problem_type = "regression"
            elif labels.is_floating_point():
                self.config.problem_type = "multi_label_classification"
            else:
                self.config.problem_type = "single_label_classification"
        if self.config.problem_type == "regression":
            return F.mse_loss(logits.reshape(labels.shape), labels.to(logits.dtype))
        return masked_classification_loss(logits, labels, self.config.problem_type)

    def _mean_task_loss(self, logits: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        expected = (len(next(iter(logits.values()))), self.config.num_labels)
        if labels.shape != expected or not labels.is_floating_point():
            raise ValueError(
                f"A model of several tasks takes float labels of shape {expected}, NaN where unknown, or `task=` and "
                f"that task's labels; got {labels.dtype} of shape {tuple(labels.shape)}. To train one new head of "
                "your own classes, load the model with `id2label=` or `num_labels=`."
            )
        losses, known = [], []
        for task, part in zip(self._tasks(), labels.split([len(t.labels) for t in self._tasks()], dim=1), strict=True):
            losses.append(masked_classification_loss(logits[task.name], part, task.problem_type))
            known.append(known_elements(part, task.problem_type).any())
        return torch.stack(losses).sum() / torch.stack(known).sum().clamp(min=1)


__all__ = ["ArkForImageClassification", "ArkModel", "ArkPreTrainedModel"]
