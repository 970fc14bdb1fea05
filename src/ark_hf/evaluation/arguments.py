"""The options of `ark-hf evaluate`; this module loads no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..files import check_new_folder
from ..inference.arguments import BATCH_HELP, ComputingArguments

Crops = Literal["whole", "center", "ten"]
CROPS_HELP = (
    "whole: the image as the saved processor shows it; center: the centre crop of the image resized to 8/7 of the "
    "model's size, or to the saved processor's size if that is larger; ten: probabilities averaged over its centre, "
    "its corners and their mirror images, the originals' test (ten times the work and memory)."
)
Transfers = Literal["tbx11k", "siim_acr", "mendeley_v2", "node21"]


@dataclass
class EvaluationArguments(ComputingArguments):
    """Settings of a test of a model on task datasets."""

    split: str = field(default="test", metadata={"help": "train, validation or test."})
    out: str | None = field(
        default=None,
        metadata={"help": "Folder for report.html, report.md and report.json; a summary is only printed unless set."},
    )
    bootstrap: int = field(default=1000, metadata={"help": "Resamples of patients behind each interval."})
    batch_size: int | None = field(default=None, metadata={"help": BATCH_HELP})
    crops: Crops = field(default="whole", metadata={"help": CROPS_HELP})
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap."})
    subgroups: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Columns of the datasets that sort patients into groups, each tested by itself; those of sex, age "
            "(0-17, 18-39, 40-59, 60-79, 80+) and view that are known unless set."
        },
    )
    against: str | None = field(
        default=None,
        metadata={"help": "Another model, folder or Hub id, that is tested on the same images and compared by label."},
    )
    calibrate: str | None = field(
        default=None,
        metadata={
            "help": "New folder for a calibrated model: on the validation split a temperature is fitted and folded "
            "into each head, and operating points are chosen. The report is then about that model."
        },
    )
    sensitivity: float | None = field(
        default=None,
        metadata={
            "help": "With --calibrate: the share of positives that each operating point finds on validation, such as "
            "0.9; unless set, operating points are where sensitivity + specificity is largest (Youden)."
        },
    )
    zero_shot: bool = field(
        default=False,
        metadata={
            "help": "For datasets that the model was not trained on: a label is scored by the mean probability of all "
            "the model's labels that stand for it, by name or through the synonym table."
        },
    )
    heads: list[str] = field(default_factory=list, metadata={"help": "With --zero_shot: use these heads only."})
    related: bool = field(
        default=False, metadata={"help": "With --zero_shot: findings that the table calls related count too."}
    )
    synonyms: str | None = field(
        default=None, metadata={"help": "With --zero_shot: YAML table of names in place of the package's own."}
    )
    transfer: Transfers | None = field(
        default=None, metadata={"help": "Zero-shot with the one label of one head that the Ark papers use there."}
    )

    def __post_init__(self):
        for name, lowest in {"batch_size": 1, "bootstrap": 0, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"--{name} must be at least {lowest}, got {value}.")
        given = [name for name in ("heads", "related", "synonyms") if getattr(self, name)]
        if given and not self.is_zero_shot:
            raise ValueError(f"--{given[0]} is for zero-shot transfer: add --zero_shot.")
        if self.transfer is not None and (self.heads or self.related):
            raise ValueError(f"--transfer names its head and label itself: leave out --{given[0]}.")
        if self.calibrate is None and self.sensitivity is not None:
            raise ValueError("--sensitivity is for choosing operating points: add --calibrate NEW_FOLDER.")
        if self.calibrate is not None:
            self._check_calibration(Path(self.calibrate))

    @property
    def is_zero_shot(self) -> bool:
        return self.zero_shot or self.transfer is not None

    def _check_calibration(self, folder: Path) -> None:
        if self.is_zero_shot:
            raise ValueError("--calibrate is for the model's heads on their own tasks: leave out zero-shot transfer.")
        if self.split == "validation":
            raise ValueError("--calibrate fits on the validation split; report on another one, such as test.")
        if self.crops != "whole":
            raise ValueError("--calibrate is for the view that the model is saved with: leave out --crops.")
        if self.sensitivity is not None and not 0 < self.sensitivity <= 1:
            raise ValueError(f"--sensitivity must lie in (0, 1], got {self.sensitivity}.")
        check_new_folder(folder, "--calibrate")
