"""The settings of Models Genesis, as `method: genesis` reads them from a recipe."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from ..ark.recipe import PretrainingArguments
from ..settings import coerce_fields, nearest

# What the release does otherwise; each is off unless `reproduce` names it
QUIRKS = {
    "batch_statistics": "batch norm uses the statistics of its batch in validation too, and in the model that is left",
    "lr_halved_by_epoch": "the learning rate is halved every 40 epochs",
    "batches_drawn_anew": "each batch is drawn from all cubes, so that an epoch sees some often and some never",
    "validation_drawn_anew": "cubes of validation are deformed otherwise in each epoch, so that its losses differ by "
    "chance, too",
}
INIT = "a folder with a Genesis, a file of the originals or `none`"  # what `init` may be, for messages
_ARK = {each.name: each for each in fields(PretrainingArguments)}


def _same(name: str, default: Any = None) -> Any:
    """A field that means what Ark's of this name does; its default, too, unless another is given."""
    return field(default=_ARK[name].default if default is None else default, metadata=_ARK[name].metadata)


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class GenesisArguments:
    """
    Settings of Models Genesis' self-supervised pretraining. The network, its cubes and its optimiser are those of the
    release; the schedule and where cubes may lie are not, see docs/originals.md.

    Source: Zhou et al., Models Genesis, Medical Image Analysis 2021.
    """

    output_dir: str = field(metadata=_ARK["output_dir"].metadata)
    method: Literal["genesis"] = field(default="genesis", metadata=_ARK["method"].metadata)
    data_root: str = _same("data_root")
    allow_shared_images: bool = _same("allow_shared_images")
    init: str = field(
        default="none",
        metadata=_help(
            "none, a folder or Hub id of a Genesis that restores cubes (as pretraining and conversion write), or a "
            "local file of the originals, Genesis_Chest_CT.pt. It brings its network, which no setting changes; and "
            "its cubes, spacing and window, unless they are set here."
        ),
    )
    width: int | None = field(
        default=None, metadata=_help("Channels of the first convolution; 32 as published, unless set.")
    )
    depth: int | None = field(
        default=None,
        metadata=_help("Levels of the encoder; 4 as published, unless set. Sides of cubes divide by 2^(depth - 1)."),
    )
    activation: Literal["relu", "elu", "prelu"] | None = field(
        default=None, metadata=_help("relu as published, unless set; elu, or prelu with a slope a channel.")
    )
    axes: Literal["zyx", "xyz"] | None = field(
        default=None,
        metadata=_help("Order in which the network sees the axes, and settings name them: zyx unless set."),
    )
    cube_size: list[int] | None = field(
        default=None,
        metadata=_help("Voxels of the cubes along each of the axes: 32 64 64 (zyx) as published, unless set."),
    )
    spacing: list[float] | None = field(
        default=None,
        metadata=_help("Voxels in mm along each of the axes that volumes are resampled to; as scanned unless set."),
    )
    hu_window: list[float] | None = field(
        default=None,
        metadata=_help(
            "The two values that become 0 and 1, -1000 and 1000 Hounsfield units unless set. MR needs two of its own."
        ),
    )
    cubes_per_volume: int = field(
        default=32, metadata=_help("Cubes that are cut from each volume, once for the whole run.")
    )
    border: list[int] | None = field(
        default=None,
        metadata=_help(
            "How many voxels cubes stay from a volume's border along each of the axes; published are 30 100 100 (zyx) "
            "for CTs of 512 x 512. Unless set a fifth of the volume in x and y and a tenth in z, but never more than "
            "a quarter of what a volume has beyond a cube, so that small ones give cubes, too."
        ),
    )
    most_tissue: float | None = field(
        default=None,
        metadata=_help(
            "Of a CT the largest share of a cube that may be no air (-150 Hounsfield units and above); cubes with "
            "more are drawn anew, 50 times at most. Published is 0.15, for cubes of lungs alone; any unless set."
        ),
    )
    epochs: int = field(
        default=200, metadata=_help("The most epochs; each is one pass over the cubes of all datasets.")
    )
    patience: int | None = field(
        default=50,
        metadata=_help("Epochs without a lower validation loss after which the run ends; null for never."),
    )
    batch_size: int = field(
        default=6,
        metadata=_help(
            "Cubes per optimiser step, over all processes and accumulation steps. Batch norm knows those of one "
            "process and micro-batch only."
        ),
    )
    gradient_accumulation_steps: int = _same("gradient_accumulation_steps")
    optim: Literal["sgd", "momentum", "adamw"] = _same("optim", "momentum")
    learning_rate: float = _same("learning_rate", 1.0)
    weight_decay: float = _same("weight_decay")
    max_grad_norm: float | None = _same("max_grad_norm")
    lr_scheduler_type: Literal["cosine", "constant"] = _same("lr_scheduler_type")
    warmup_steps: float = field(default=0.02, metadata=_help("Linear warm-up: steps, or below 1 a share of the run."))
    mixed_precision: Literal["no", "fp16", "bf16"] = _same("mixed_precision")
    torch_compile: bool = _same("torch_compile")
    channels_last: bool = _same("channels_last")
    dataloader_num_workers: int | None = _same("dataloader_num_workers")
    eval_batch_size: int | None = field(
        default=None, metadata=_help("Cubes a batch in validation; batch_size unless set.")
    )
    save_steps: int = field(
        default=1000, metadata=_help("Steps between checkpoints; one is also written after each epoch.")
    )
    save_total_limit: int = _same("save_total_limit")
    log_with: str = _same("log_with")
    logging_steps: int = _same("logging_steps")
    seed: int = field(default=0, metadata=_help("Seed of weights, places of cubes, order and deformations."))
    reproduce: list[str] = field(
        default_factory=list,
        metadata=_help(
            f"Quirks of the release to switch on. {'; '.join(f'{name}: {text}' for name, text in QUIRKS.items())}."
        ),
    )

    def __post_init__(self):
        coerce_fields(self)
        for name in (
            "width", "depth", "cubes_per_volume", "epochs", "patience", "batch_size", "gradient_accumulation_steps",
            "eval_batch_size", "save_steps", "save_total_limit", "logging_steps", "learning_rate", "max_grad_norm",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        for name in ("weight_decay", "warmup_steps", "dataloader_num_workers", "seed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}.")
        if self.border is not None and (len(self.border) != 3 or min(self.border) < 0):
            raise ValueError(f"border must be three numbers of voxels, one an axis, got {self.border}.")
        if self.most_tissue is not None and not 0 < self.most_tissue <= 1:
            raise ValueError(f"most_tissue must lie in (0, 1], got {self.most_tissue}.")
        if self.init == "imagenet":
            raise ValueError("init: ImageNet has no volumes; name a Genesis, or none.")
        for quirk in self.reproduce:
            if quirk not in QUIRKS:
                raise ValueError(f"reproduce names {quirk!r}; {nearest(quirk, QUIRKS)}")
            if self.reproduce.count(quirk) > 1:
                raise ValueError(f"reproduce names {quirk!r} twice.")
        if "lr_halved_by_epoch" in self.reproduce and self.lr_scheduler_type != "cosine":
            raise ValueError(
                "reproduce: lr_halved_by_epoch makes the learning rate itself: leave out lr_scheduler_type."
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
