"""The recipe of a pretraining run: a YAML or JSON file of `PretrainingArguments` fields and a list of tasks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ...models.ark.tasks_ark import check_modality
from ...names import check_name
from ..settings import (
    ALLOW_SHARED_HELP,
    Uncertain,
    check_projector,
    coerce_fields,
    nearest,
    reject_unknown_keys,
)

# What the releases do otherwise; each is off unless `reproduce` names it
QUIRKS = {
    "lr_by_val_loss": "the learning rate is a cosine of 200 epochs, read each cycle at the student's last validation "
    "loss in place of the epoch",
    "ema_index_by_pass": "with ema_mode iteration, the momentum's index is the number of the pass plus the step in it",
    "coefficient_from_0.9": "the consistency loss weighs 5 (momentum - 0.9), as in Ark+, whatever ema_momentum is",
    "zero_idle_grads": "momentum and weight decay also move a head during other tasks' passes, as under torch 1.13",
    "independent_teacher": "the teacher's weights are drawn apart from the student's where init does not cover them",
    "teacher_train_until_test": "stochastic depth in the teacher until the releases' first test: in the first cycle",
    "bce_everywhere": "binary cross-entropy for single-label tasks too, as in MICCAI 2023",
}


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class TaskSpec:
    """
    One entry of `tasks`: where a dataset is and how its labels are read.

    With `train` false the task is only evaluated, on its validation split, to see what is kept of a head of `init`.
    `modality` is DICOM's code, of a dataset whose card does not tell it.
    """

    dataset: str
    name: str | None = None
    uncertain: Uncertain = "ignore"
    columns: dict[str, Any] | None = None
    train: bool = True
    modality: str | None = None

    def __post_init__(self):
        coerce_fields(self, f"task {self.dataset!r}: ")
        if self.modality is not None:
            check_modality(self.modality, f"task {self.dataset!r}: modality")
        if not self.dataset.strip():
            raise ValueError(f"task {self.dataset!r}: dataset is blank; name a folder or a Hub dataset.")
        if self.columns is not None and self.name is None:
            raise ValueError(f"task {self.dataset!r}: a dataset read through `columns` needs a `name`.")

    def location(self, data_root: str) -> str:
        """The folder under `data_root` if there is one, otherwise the Hub id. Raises `ValueError` if it is neither."""
        folder = Path(data_root) / self.dataset
        if folder.exists():
            return str(folder)
        if Path(self.dataset).exists():
            raise ValueError(f"task {self.dataset!r}: this folder is here, and not in data_root, {data_root}.")
        check_name(self.dataset.partition("@")[0], "dataset", data_root)
        return self.dataset


@dataclass
class PretrainingArguments:
    """Settings of cyclic pretraining. The defaults are those of the Ark paper (MICCAI 2023) with the view of Ark+."""

    output_dir: str = field(metadata=_help("Run folder. Running again with the same folder resumes the run."))
    method: Literal["ark"] = field(
        default="ark",
        metadata=_help(
            "What trains: ark (cycles over labelled tasks), or without labels peac (radiographs) or genesis (volumes)."
        ),
    )
    data_root: str = field(default=".", metadata=_help("Folder that relative dataset paths start from."))
    streaming: bool = field(
        default=False,
        metadata=_help(
            "Read the parquet files as training goes, without a copy on disk: for datasets larger than it. A pass has "
            "the same samples, but they are shuffled among those near them only."
        ),
    )
    allow_shared_images: bool = field(default=False, metadata=_help(ALLOW_SHARED_HELP))
    strategy: Literal["cyclic", "concurrent", "single_head"] = field(
        default="cyclic",
        metadata=_help(
            "cyclic (Ark: one task after another, a head each), or a baseline of as many images and steps: concurrent "
            "(batches of all tasks at once, a head each) or single_head (such batches, and one head of the union of "
            "all labels)."
        ),
    )
    init: str = field(
        default="none",
        metadata=_help(
            "none, imagenet (timm's weights, downloaded), a local weights file of the encoder, or a folder or Hub id "
            "of an ark-cxr to continue, which brings its backbone and projector: settings that contradict it are "
            "refused."
        ),
    )
    backbone: str = field(default="swin_base_patch4_window7_224", metadata=_help("timm name of the encoder."))
    backbone_kwargs: dict[str, Any] | None = field(default=None, metadata=_help("Further timm arguments, as JSON."))
    image_size: int | None = field(
        default=None,
        metadata=_help(
            "Side of the input in pixels: 224 unless set, or that of the ark-cxr in init, which it changes."
        ),
    )
    resize_size: int | None = field(
        default=None, metadata=_help("Side to which the student's image is resized before cropping; 8/7 image_size.")
    )
    projector_dim: int | None = field(default=1376, metadata=_help("Width of the embeddings; null for no projector."))
    projector_type: Literal["linear", "mlp"] = field(default="linear", metadata=_help("linear or mlp."))
    drop_path_rate: float | None = field(
        default=None,
        metadata=_help("Largest stochastic depth rate: 0.1 unless set, or that of the ark-cxr in init."),
    )
    cycles: int = field(default=200, metadata=_help("Cycles; each is one pass over every task."))
    batch_size: int = field(
        default=200, metadata=_help("Images per optimiser step, over all processes and accumulation steps.")
    )
    gradient_accumulation_steps: int = field(default=1, metadata=_help("Micro-batches that a step is cut into."))
    optim: Literal["sgd", "momentum", "adamw"] = field(
        default="sgd", metadata=_help("sgd (momentum 0.9 by Nesterov), momentum (the same without Nesterov) or adamw.")
    )
    learning_rate: float = field(default=0.3, metadata=_help("Highest learning rate."))
    weight_decay: float = field(default=0.0, metadata=_help("Not applied to biases and norms."))
    max_grad_norm: float | None = field(default=None, metadata=_help("Clip gradients to this norm; null for never."))
    lr_scheduler_type: Literal["cosine", "constant"] = field(
        default="cosine",
        metadata=_help("cosine (to 0 over the run) or constant."),
    )
    warmup_steps: float = field(
        default=0.1,
        metadata=_help(
            "Linear warm-up: steps, or below 1 a share of the run; with lr_by_val_loss epochs, or a share of its 200."
        ),
    )
    ema_mode: Literal["epoch", "iteration"] = field(
        default="epoch", metadata=_help("Update the teacher after each pass (epoch) or step (iteration).")
    )
    ema_momentum: float = field(
        default=0.9, metadata=_help("First momentum of the teacher; it rises to 1 on a cosine.")
    )
    consistency: float = field(
        default=0.5, metadata=_help("Weight of the consistency loss at the end; it starts at 0.")
    )
    teacher_view: Literal["resize", "student"] = field(
        default="resize", metadata=_help("resize: the whole image (Ark+); student: the student's crop (MICCAI 2023).")
    )
    teacher_batch_norm: Literal["batch", "running"] = field(
        default="batch",
        metadata=_help(
            "By what the teacher's batch norm normalises while the student trains: batch, as the student's does, or "
            "running, its averages, as earlier versions had it, whose runs can go on so; long runs diverge with it, "
            "see docs/divergence.md. No matter for encoders without batch norm."
        ),
    )
    min_crop_scale: float = field(default=0.08, metadata=_help("Smallest area of the student's crop, (0, 1]."))
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
    gradient_checkpointing: bool = field(default=False, metadata=_help("Recompute activations to save memory."))
    channels_last: bool = field(
        default=False, metadata=_help("Keep activations channels last: faster for convolutional encoders.")
    )
    dataloader_num_workers: int | None = field(
        default=None,
        metadata=_help(
            "Processes that load data, on a core each; 0 loads in this one. Unless set: 0 on the CPU, where training "
            "needs the cores; beside a GPU its share of the cores less one, 8 at most. Results do not depend on it."
        ),
    )
    eval_batch_size: int | None = field(
        default=None, metadata=_help("Images a batch in validation; batch_size unless set.")
    )
    save_steps: int = field(
        default=1000, metadata=_help("Steps between checkpoints; one is also written after each cycle.")
    )
    save_total_limit: int = field(default=2, metadata=_help("Checkpoints kept."))
    log_with: str = field(
        default="none", metadata=_help("Tracker that accelerate knows, such as tensorboard, trackio or wandb.")
    )
    logging_steps: int = field(
        default=10,
        metadata=_help(
            "Steps between readings of the losses, for tracker and bar; one that is not finite stops the run then."
        ),
    )
    seed: int = field(default=0, metadata=_help("Seed of weights, order, views and label smoothing."))
    reproduce: list[str] = field(
        default_factory=list,
        metadata=_help(
            f"Quirks of the releases to switch on. {'; '.join(f'{name}: {text}' for name, text in QUIRKS.items())}."
        ),
    )

    def __post_init__(self):
        coerce_fields(self)
        for name in (
            "cycles", "batch_size", "gradient_accumulation_steps", "image_size", "resize_size", "projector_dim",
            "eval_batch_size", "save_steps", "save_total_limit", "logging_steps", "learning_rate", "max_grad_norm",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        for name in ("weight_decay", "warmup_steps", "dataloader_num_workers", "seed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}.")
        for name in ("ema_momentum", "consistency", "drop_path_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}.")
        check_projector(self.projector_dim, self.projector_type)
        if not 0 < self.min_crop_scale <= 1:
            raise ValueError(f"min_crop_scale must lie in (0, 1], got {self.min_crop_scale}.")
        for quirk in self.reproduce:
            if quirk not in QUIRKS:
                raise ValueError(f"reproduce names {quirk!r}; {nearest(quirk, QUIRKS)}")
            if self.reproduce.count(quirk) > 1:
                raise ValueError(f"reproduce names {quirk!r} twice.")
        if self.strategy != "cyclic" and (self.streaming or self.reproduce):
            given = " and ".join(name for name in ("streaming", "reproduce") if getattr(self, name))
            raise ValueError(
                f"strategy: {self.strategy} goes without {given}: streams cannot be mixed, and the quirks are those "
                "of the releases, which train in cycles."
            )
        if "lr_by_val_loss" in self.reproduce and self.lr_scheduler_type != "cosine":
            raise ValueError(
                "reproduce: lr_by_val_loss makes the learning rate itself: leave out lr_scheduler_type, which would "
                "have no effect."
            )
        if "ema_index_by_pass" in self.reproduce and self.ema_mode == "epoch":
            raise ValueError(
                "reproduce: ema_index_by_pass needs ema_mode: iteration; with epoch the index is the pass's already."
            )
        if "coefficient_from_0.9" in self.reproduce and self.consistency != 0.5:
            raise ValueError(
                f"reproduce: coefficient_from_0.9 ends at 0.5; consistency {self.consistency} has no effect."
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_tasks(entries: Any, where: str) -> list[TaskSpec]:
    """
    Checks and builds the `tasks` of a recipe.

    Raises:
        ValueError: There is none, or an entry has an unknown key or lacks `dataset`.
    """
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{where}: `tasks` must list at least one dataset, such as `- {{dataset: data/rsna}}`.")
    specs = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, Mapping) or "dataset" not in entry:
            raise ValueError(f"{where}: task {number} must be a mapping with the key `dataset`, got {entry!r}.")
        reject_unknown_keys(entry, [each.name for each in fields(TaskSpec)], f"{where}, task {number}")
        specs.append(TaskSpec(**entry))
    return specs
