"""The options of fine-tuning; this module loads no torch."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..settings import ALLOW_SHARED_HELP, Uncertain, check_projector, coerce_fields
from .losses import LOSS_HELP, ClassWeighting, Loss

# May differ between runs that continue each other: they change what is done with the trained models, or how fast
RUN_TIME_SETTINGS = (
    "output_dir", "seeds", "eval_batch_size", "dataloader_num_workers", "log_with", "logging_steps", "test",
    "bootstrap", "allow_shared_images",
)  # fmt: skip
# Settings of a Genesis, which mean nothing for an Ark, and the reverse
OF_VOLUMES = ("width", "depth", "cube_size", "spacing", "hu_window", "cubes_per_volume")
OF_PICTURES = (
    "backbone", "backbone_kwargs", "projector_dim", "projector_type", "image_size", "drop_path_rate", "min_crop_scale",
    "decoder_type", "decoder_channels", "layer_decay", "lora_rank", "attn_implementation",
)  # fmt: skip


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class FinetuningArguments:
    """
    Settings of fine-tuning one task, of labels or of masks; the same for a teacher, other weights and training from
    scratch.
    """

    output_dir: str = field(
        metadata=_help("Run folder. The same command resumes it: finished seeds are kept, others go on.")
    )
    name: str | None = field(
        default=None, metadata=_help("Name of the task and its head; that of the dataset's card unless set.")
    )
    image_column: str = field(
        default="image", metadata=_help("With --label_columns: the column of images of a dataset without an ArkTask.")
    )
    label_columns: list[str] = field(
        default_factory=list,
        metadata=_help(
            "For any Hub image dataset: its label columns. One column of classes (ClassLabel) makes a single-label "
            "task; otherwise each column holds 0, 1, -1 (uncertain) or nothing for the label of its name."
        ),
    )
    uncertain: Uncertain = field(
        default="ignore", metadata=_help("What an uncertain label (-1) counts as in training.")
    )
    allow_shared_images: bool = field(default=False, metadata=_help(ALLOW_SHARED_HELP))
    percent: float | None = field(
        default=None, metadata=_help("Percent of the train split that is used, chosen by the originals' rule.")
    )
    per_class: int | None = field(
        default=None, metadata=_help("Images of each class that are used, drawn anew for each seed.")
    )
    images: int | None = field(
        default=None, metadata=_help("Number of training images that are used, drawn anew for each seed.")
    )
    new_head: bool = field(
        default=False,
        metadata=_help(
            "Start from a fresh head or decoder, also where MODEL has one of the same name and labels. The decoder of "
            "a Genesis is kept, as a part of what was pretrained, and its head is fresh."
        ),
    )
    decoder_type: Literal["upernet", "fpn"] = field(
        default="upernet", metadata=_help("Of masks: the decoder behind the encoder, upernet or fpn.")
    )
    decoder_channels: int = field(default=256, metadata=_help("Of masks: width of the decoder."))
    backbone: str = field(
        default="swin_base_patch4_window7_224",
        metadata=_help(
            "timm name of the encoder. An ark-cxr brings its own and refuses another; so for the next three."
        ),
    )
    backbone_kwargs: dict[str, Any] | None = field(default=None, metadata=_help("Further timm arguments, as JSON."))
    projector_dim: int | None = field(default=1376, metadata=_help("Width of the embeddings."))
    projector_type: Literal["linear", "mlp"] = field(default="linear", metadata=_help("linear or mlp."))
    image_size: int | None = field(
        default=None, metadata=_help("Side of the input in pixels: 224 unless set, or that of the ark-cxr.")
    )
    drop_path_rate: float | None = field(
        default=None, metadata=_help("Largest stochastic depth rate: 0.1 unless set, or that of the ark-cxr.")
    )
    min_crop_scale: float = field(
        default=0.5, metadata=_help("Smallest area of the random crop in training, as a share of the image, (0, 1].")
    )
    width: int | None = field(
        default=None,
        metadata=_help(
            "Of volumes, from scratch: channels of the first convolution of a Genesis, 32 unless set. A Genesis "
            "brings its own and refuses another; so for the next one."
        ),
    )
    depth: int | None = field(default=None, metadata=_help("Of volumes, from scratch: its levels, 4 unless set."))
    cube_size: list[int] | None = field(
        default=None,
        metadata=_help(
            "Of volumes: voxels (z, y, x) of the cubes that are trained on and seen in use, multiples of 2^(depth - "
            "1): 32 64 64 unless set, or those of the Genesis. A classifier sees the one in the middle."
        ),
    )
    spacing: list[float] | None = field(
        default=None,
        metadata=_help(
            "Of volumes: spacing in mm (z, y, x) that they are resampled to; as scanned unless set, or that of the "
            "Genesis."
        ),
    )
    hu_window: list[float] | None = field(
        default=None,
        metadata=_help(
            "Of volumes: the two values that become 0 and 1, Hounsfield units of CT: -1000 1000 unless set, or those "
            "of the Genesis. MR needs a window of its own."
        ),
    )
    cubes_per_volume: int | None = field(
        default=None,
        metadata=_help(
            "Of volumes with label maps: cubes that are cut of each volume whenever it is read, 4 unless set. An "
            "epoch reads each volume once."
        ),
    )
    epochs: float = field(default=20.0, metadata=_help("Passes over the training images."))
    max_steps: int | None = field(default=None, metadata=_help("Optimiser steps; replaces --epochs."))
    batch_size: int = field(
        default=32,
        metadata=_help(
            "Images per optimiser step, over all processes and accumulation steps; of volumes with label maps cubes."
        ),
    )
    gradient_accumulation_steps: int = field(default=1, metadata=_help("Micro-batches that a step is cut into."))
    learning_rate: float = field(default=3e-4, metadata=_help("Highest learning rate of AdamW: a cosine to 0."))
    layer_decay: float = field(
        default=1.0,
        metadata=_help("Factor on the learning rate for each layer further from the head, (0, 1]; 1 for none."),
    )
    weight_decay: float = field(default=0.05, metadata=_help("Not applied to biases and norms."))
    warmup: float = field(default=0.1, metadata=_help("Share of the steps in which the learning rate rises, [0, 1)."))
    freeze: str = field(
        default="none",
        metadata=_help(
            "What is not trained: none; encoder; or a number of stages (of a Genesis, levels), counted from the "
            "image, with the stem. Frozen parts stay in eval mode."
        ),
    )
    lora_rank: int | None = field(
        default=None,
        metadata=_help(
            "Train low-rank adapters of this rank in the encoder (peft) beside the projector and the head; they are "
            "merged into the weights at the end."
        ),
    )
    loss: Loss = field(default="cross_entropy", metadata=_help(LOSS_HELP))
    focal_gamma: float = field(default=2.0, metadata=_help("Exponent of the focal loss."))
    class_weighting: ClassWeighting = field(
        default="none",
        metadata=_help(
            "balanced: by inverse frequency; effective: by the effective number of samples (Cui et al. 2019), with "
            "--loss focal their class-balanced focal loss."
        ),
    )
    effective_beta: float = field(default=0.999, metadata=_help("beta of --class_weighting effective, [0, 1)."))
    eval_steps: int | None = field(
        default=None, metadata=_help("Steps between validations and checkpoints; one per epoch unless set.")
    )
    patience: int | None = field(
        default=None,
        metadata=_help(
            "Stop after this many validations without a better mean AUROC, or of masks mean Dice. The best weights "
            "are kept."
        ),
    )
    seeds: list[int] = field(
        default_factory=lambda: [0], metadata=_help("One run each; the table gives their mean and its interval.")
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = field(default="no", metadata=_help("no, fp16 or bf16."))
    attn_implementation: Literal["sdpa", "eager"] | None = field(
        default=None,
        metadata=_help(
            "sdpa fuses attention, and of a Swin what stands around it: faster. eager fuses nothing. Unset, each "
            "encoder does as timm decides. Results change by rounding."
        ),
    )
    torch_compile: bool = field(
        default=False,
        metadata=_help(
            "Compile the encoder's blocks, for GPUs: it starts a minute later or more, and needs a C++ compiler. "
            "Results change by rounding, and stochastic depth draws otherwise."
        ),
    )
    channels_last: bool = field(
        default=False, metadata=_help("Keep activations channels last: faster for convolutional encoders.")
    )
    dataloader_num_workers: int = field(default=0, metadata=_help("Processes that load data. Results do not change."))
    log_with: str = field(
        default="none", metadata=_help("Tracker that accelerate knows, such as tensorboard, trackio or wandb.")
    )
    logging_steps: int = field(default=10, metadata=_help("Steps between values sent to the tracker."))
    eval_batch_size: int = field(
        default=64,
        metadata=_help("Images a batch in validation and test; of volumes with label maps windows, at most 4."),
    )
    test: bool = field(
        default=True,
        metadata=_help(
            "Score the test split at the end. While settings are being chosen, pass `--test false`: the same command "
            "without it then only adds the scores."
        ),
    )
    bootstrap: int = field(default=1000, metadata=_help("Resamples of patients behind each interval."))

    def __post_init__(self):
        if type(self.freeze) is int:  # as YAML reads a number of stages
            self.freeze = str(self.freeze)
        coerce_fields(self)
        for name in (
            "per_class", "images", "max_steps", "batch_size", "gradient_accumulation_steps", "image_size",
            "projector_dim", "decoder_channels", "width", "cubes_per_volume",
            "lora_rank", "eval_steps", "patience", "eval_batch_size", "epochs", "learning_rate", "logging_steps",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        for name in ("weight_decay", "focal_gamma", "dataloader_num_workers", "bootstrap"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("warmup", "effective_beta", "drop_path_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}.")
        for name in ("layer_decay", "min_crop_scale"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}.")
        if self.percent is not None and not 0 < self.percent <= 100:
            raise ValueError(f"percent must lie in (0, 100], got {self.percent}.")
        chosen = [name for name in ("percent", "per_class", "images") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} each choose the training images: give one of them.")
        check_projector(self.projector_dim, self.projector_type)
        for name, needed, there in (
            ("image_column", "--label_columns", bool(self.label_columns)),
            ("focal_gamma", "--loss focal", self.loss == "focal"),
            ("effective_beta", "--class_weighting effective", self.class_weighting == "effective"),
        ):
            if not there and getattr(self, name) != FinetuningArguments.__dataclass_fields__[name].default:
                raise ValueError(f"{name} is for {needed}, and has no effect without.")
        if self.freeze == "encoder" and (self.layer_decay != 1 or self.drop_path_rate):
            raise ValueError("freeze: encoder leaves nothing to layer_decay and drop_path_rate: leave them out.")
        if self.freeze not in ("none", "encoder") and not self.freeze.isdecimal():
            raise ValueError(f"freeze is {self.freeze!r}; use none, encoder or a number of stages.")
        if self.freeze != "none" and self.lora_rank is not None:
            raise ValueError("lora_rank freezes the encoder's own weights already: leave out freeze.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different numbers that are not negative, got {self.seeds}.")

    def lasting_settings(self) -> dict[str, Any]:
        """The settings that a trained model depends on: they must stay when a run is resumed."""
        names = [each.name for each in fields(FinetuningArguments) if each.name not in RUN_TIME_SETTINGS]
        return {name: getattr(self, name) for name in names}
