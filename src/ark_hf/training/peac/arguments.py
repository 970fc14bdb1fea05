"""The settings of PEAC, as `method: peac` reads them from a recipe."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from ..ark.recipe import PretrainingArguments
from ..settings import coerce_fields, nearest

# What the release does otherwise; each is off unless `reproduce` names it
QUIRKS = {
    "transposed_matches": "cells of the two crops are matched with rows and columns exchanged, wrong for most pairs",
    "ema_index_from_epoch_1": "the teacher's momentum is an epoch ahead of its schedule",
    "lr_by_epoch": "the learning rate changes by epoch, 5 of which are the warm-up; that of the first is 0",
    "release_validation": "in validation the cells' embeddings are normalised along the cells, and half of one "
    "direction counts",
}
_ARK = {each.name: each for each in fields(PretrainingArguments)}


def _same(name: str, default: Any = None) -> Any:
    """A field that means what Ark's of this name does; its default, too, unless another is given."""
    return field(default=_ARK[name].default if default is None else default, metadata=_ARK[name].metadata)


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class PeacArguments:
    """
    Settings of PEAC's self-supervised pretraining. The defaults are those of the release's script for one GPU.

    Source: Zhou et al., Learning Anatomically Consistent Embedding for Chest Radiography, BMVC 2023.
    """

    output_dir: str = field(metadata=_ARK["output_dir"].metadata)
    method: Literal["peac"] = field(default="peac", metadata=_ARK["method"].metadata)
    data_root: str = _same("data_root")
    streaming: bool = _same("streaming")
    allow_shared_images: bool = _same("allow_shared_images")
    init: str = field(
        default="none",
        metadata=_help(
            "none, imagenet (timm's weights, downloaded), a local weights file of the encoder, or a folder or Hub id "
            "of an ark-cxr, which brings its backbone, and its heads if they lie beside it."
        ),
    )
    backbone: str = field(
        default="swin_base_patch4_window7_224",
        metadata=_help("timm name of the encoder, a Swin, ViT or ConvNeXt: its tokens must be the cells of a square."),
    )
    backbone_kwargs: dict[str, Any] | None = _same("backbone_kwargs")
    image_size: int | None = field(
        default=None, metadata=_help("Side of the crops in pixels: 448 unless set, or that of the ark-cxr in init.")
    )
    global_projector_dims: list[int] = field(
        default_factory=lambda: [8192, 8192, 8192],
        metadata=_help("Widths of the three layers that project whole pictures."),
    )
    local_projector_dims: list[int] = field(
        default_factory=lambda: [512, 512, 512], metadata=_help("Widths of the three layers that project cells.")
    )
    drop_path_rate: float | None = _same("drop_path_rate")
    order_weight: float = field(default=1.0, metadata=_help("Weight of the cross-entropy of the cells' order."))
    restoration_weight: float = field(
        default=1.0, metadata=_help("Weight of the restored picture's mean squared error.")
    )
    global_weight: float = field(
        default=100_000.0,
        metadata=_help(
            "Weight of the distance between whole crops' embeddings; 50000 in the script for several GPUs."
        ),
    )
    local_weight: float = field(
        default=1.0,
        metadata=_help("Weight of the distance between matched cells' embeddings; 2 in the script for several GPUs."),
    )
    epochs: int = field(default=400, metadata=_help("Epochs; each is one pass over the images of all datasets."))
    batch_size: int = _same("batch_size", 8)
    gradient_accumulation_steps: int = _same("gradient_accumulation_steps")
    optim: Literal["sgd", "momentum", "adamw"] = field(
        default="momentum",
        metadata=_help(
            "sgd (momentum 0.9 by Nesterov), momentum (the same without Nesterov) or adamw (the script for several "
            "GPUs, with weight_decay 0.05)."
        ),
    )
    learning_rate: float = _same("learning_rate", 0.1)
    weight_decay: float = _same("weight_decay")
    max_grad_norm: float | None = _same("max_grad_norm")
    lr_scheduler_type: Literal["cosine", "constant"] = _same("lr_scheduler_type")
    warmup_steps: float = field(
        default=0.0125, metadata=_help("Linear warm-up: steps, or below 1 a share of the run (5 of 400 epochs).")
    )
    ema_momentum: float = _same("ema_momentum", 0.999)
    mixed_precision: Literal["no", "fp16", "bf16"] = _same("mixed_precision")
    attn_implementation: Literal["sdpa", "eager"] | None = _same("attn_implementation")
    torch_compile: bool = _same("torch_compile")
    gradient_checkpointing: bool = _same("gradient_checkpointing")
    dataloader_num_workers: int | None = _same("dataloader_num_workers")
    eval_batch_size: int | None = _same("eval_batch_size")
    save_steps: int = field(
        default=1000, metadata=_help("Steps between checkpoints; one is also written after each epoch.")
    )
    save_total_limit: int = _same("save_total_limit")
    log_with: str = _same("log_with")
    logging_steps: int = _same("logging_steps")
    seed: int = field(default=0, metadata=_help("Seed of weights, order, crops and distortions."))
    reproduce: list[str] = field(
        default_factory=list,
        metadata=_help(
            f"Quirks of the release to switch on. {'; '.join(f'{name}: {text}' for name, text in QUIRKS.items())}."
        ),
    )

    def __post_init__(self):
        coerce_fields(self)
        for name in (
            "epochs", "batch_size", "gradient_accumulation_steps", "image_size", "eval_batch_size", "save_steps",
            "save_total_limit", "logging_steps", "learning_rate", "max_grad_norm",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        for name in (
            "weight_decay", "warmup_steps", "dataloader_num_workers", "seed", "order_weight", "restoration_weight",
            "global_weight", "local_weight",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}.")
        for name in ("ema_momentum", "drop_path_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}.")
        for name in ("global_projector_dims", "local_projector_dims"):
            dims = getattr(self, name)
            if len(dims) != 3 or min(dims) < 1:
                raise ValueError(f"{name} must be three positive widths, got {dims}.")
        if not any(self.weights.values()):
            raise ValueError("order_weight, restoration_weight, global_weight and local_weight are all 0.")
        for quirk in self.reproduce:
            if quirk not in QUIRKS:
                raise ValueError(f"reproduce names {quirk!r}; {nearest(quirk, QUIRKS)}")
            if self.reproduce.count(quirk) > 1:
                raise ValueError(f"reproduce names {quirk!r} twice.")
        if "lr_by_epoch" in self.reproduce and self.lr_scheduler_type != "cosine":
            raise ValueError("reproduce: lr_by_epoch makes the learning rate itself: leave out lr_scheduler_type.")

    @property
    def weights(self) -> dict[str, float]:
        """Of each term of the loss."""
        return {
            "order": self.order_weight,
            "restoration": self.restoration_weight,
            "global": self.global_weight,
            "local": self.local_weight,
        }

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
