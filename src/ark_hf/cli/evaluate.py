"""The verb `evaluate`: a model on task datasets, by group, against another model, and calibrated."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .arguments import CROPS_HELP, Crops, check_at_least, parse, quiet

if TYPE_CHECKING:  # `ark-hf evaluate --help` does without torch
    from ..data.open_dataset import TaskDataset
    from ..evaluation.calibrate import CalibrationResult
    from ..evaluation.report.task_report import Comparison, LabelCalibration
    from ..evaluation.scoring import ScoredTask, ZeroShot
    from ..models.ark.configuration_ark import ArkTask
    from ..models.ark.image_processing_ark import ArkImageProcessor
    from ..models.ark.modeling_ark import ArkForImageClassification

Transfers = Literal["tbx11k", "siim_acr", "mendeley_v2", "node21"]


@dataclass
class EvaluateArguments:
    split: str = field(default="test", metadata={"help": "train, validation or test."})
    out: str | None = field(
        default=None,
        metadata={"help": "Folder for report.html, report.md and report.json; a summary is only printed unless set."},
    )
    bootstrap: int = field(default=1000, metadata={"help": "Resamples of patients behind each interval."})
    batch_size: int = field(default=32, metadata={"help": "Images a forward pass."})
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
        check_at_least(1, batch_size=self.batch_size)
        check_at_least(0, bootstrap=self.bootstrap, seed=self.seed)
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
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"--calibrate {folder} exists and is not empty; delete it or name another folder.")


def evaluate(argv: list[str]) -> int:
    """Test a model on task datasets."""
    args, given = parse(
        EvaluateArguments,
        "evaluate",
        argv,
        "AUROC a label with patient-clustered intervals, beside what ten global image numbers reach.",
        model={"help": "Folder or Hub id of an ark-cxr."},
        datasets={
            "nargs": "+",
            "help": "Folders or Hub ids of task datasets, each for its task's head, or HEAD=DATASET.",
        },
    )
    datasets = [_head_and_dataset(dataset) for dataset in given.datasets]
    if args.is_zero_shot and any(head is not None for head, _ in datasets):
        raise ValueError("HEAD=DATASET tests a head on its own task; for zero-shot transfer, name heads by --heads.")
    quiet()
    from ..evaluation.report.page import write_report
    from ..evaluation.report.task_report import compare_sites, report_task
    from ..evaluation.report.text import report_text
    from ..evaluation.scoring import score_task
    from ..inference.predict import load_ark, with_crops
    from ..provenance import weights_sha256

    name, other_name = _distinct_names(given.model, args.against)
    facts: dict[str, Any] = {"model": name, "crops": args.crops, "bootstrap": args.bootstrap, "seed": args.seed}
    model, processor = load_ark(given.model)
    processor = with_crops(processor, model.config.image_size, args.crops)
    opened = [_load(args, model, head, dataset) for head, dataset in datasets]
    loaded, zero_shot = [data for data, _ in opened], [found for _, found in opened]
    groups = _read_groups(loaded, args)
    other = None if args.against is None else _Other(args, other_name, datasets, loaded)
    before: list[Any] = [None] * len(loaded)
    fitted: list[Any] = [None] * len(loaded)
    if args.calibrate is not None:
        before, fitted, tested = _calibrate(args, model, processor, loaded)
        facts |= {"model": Path(args.calibrate).name, "calibrated_from": name}
    else:
        tested = [
            (data, score_task(model, processor, data, args.split, args.batch_size, found))
            for data, found in zip(loaded, zero_shot, strict=True)
        ]
    reports = []
    for number, (data, scored) in enumerate(tested):
        report = report_task(data, scored, args.bootstrap, args.seed, groups[number])
        report.calibration_before, report.fitted = before[number], fitted[number]
        if other is not None:
            report.comparison = other.compare(number, facts["model"], data.task, scored)
        reports.append(report)
    print(report_text(reports))
    if args.out is not None:
        sites = compare_sites(tested, args.bootstrap, args.seed)
        facts["weights_sha256"] = weights_sha256(args.calibrate or given.model)
        print(f"The report is in {write_report(reports, Path(args.out), facts, sites)}.")
    if args.calibrate is not None:
        print(f"The calibrated model is in {args.calibrate}.")
    return 0


def _head_and_dataset(text: str) -> tuple[str | None, str]:
    head, separator, dataset = text.partition("=")
    return (head, dataset) if separator and not Path(text).exists() else (None, text)


def _distinct_names(model: str, other: str | None) -> tuple[str, str]:
    """What reports call the two models: as little of their paths as tells them apart."""
    if other is None:
        return Path(model).name, ""
    for length in (1, 2):
        names = ["/".join(Path(each).parts[-length:]) for each in (model, other)]
        if names[0] != names[1]:
            return names[0], names[1]
    return Path(model).name, f"{Path(other).name} (other)"


def _load(
    args: EvaluateArguments, model: "ArkForImageClassification", head: str | None, dataset: str
) -> tuple["TaskDataset", "ZeroShot | None"]:
    from ..evaluation.scoring import load_evaluation_data, load_zero_shot_data
    from ..inference.zeroshot import PUBLISHED_TRANSFERS
    from ..labels import read_synonyms

    if not args.is_zero_shot:
        return load_evaluation_data(model, dataset, args.split, head), None
    transfer = None if args.transfer is None else PUBLISHED_TRANSFERS[args.transfer]
    synonyms, heads = read_synonyms(args.synonyms), args.heads or None
    return load_zero_shot_data(model, dataset, synonyms, args.split, heads, args.related, transfer)


def _read_groups(loaded: Sequence["TaskDataset"], args: EvaluateArguments) -> list[dict[str, list[str]]]:
    from ..evaluation.scoring import read_groups

    groups = [read_groups(data, args.split, args.subgroups) for data in loaded]
    for attribute in args.subgroups:
        lacking = [data.source for data, found in zip(loaded, groups, strict=True) if attribute not in found]
        if len(lacking) == len(loaded):
            columns = sorted({name for data in loaded for name in data.columns(args.split)} - {"image", "labels"})
            raise ValueError(f"--subgroups {attribute}: no dataset has such a column; they have {columns}.")
        for dataset in lacking:
            print(f"{dataset} has no column {attribute!r}: no groups by it there.", file=sys.stderr)
    return groups


class _Other:
    """The model of --against, and each dataset as loaded for it; None where it has no head for it."""

    def __init__(
        self,
        args: EvaluateArguments,
        name: str,
        datasets: Sequence[tuple[str | None, str]],
        loaded: Sequence["TaskDataset"],
    ):
        from ..inference.predict import load_ark, with_crops

        self.args, self.name = args, name
        self.model, processor = load_ark(str(args.against))
        self.processor = with_crops(processor, self.model.config.image_size, args.crops)
        heads = [task.name for task in self.model.config.tasks or []]
        if not args.is_zero_shot and not any(data.task.name in heads for data in loaded):
            wanted = [data.task.name for data in loaded]
            raise ValueError(f"--against {args.against}: its heads {heads} are none of those tested, {wanted}.")
        self.loaded = [
            _load(args, self.model, head, dataset) if args.is_zero_shot or data.task.name in heads else None
            for (head, dataset), data in zip(datasets, loaded, strict=True)
        ]

    def compare(self, number: int, name: str, task: "ArkTask", scored: "ScoredTask") -> "Comparison":
        """The model called `name` minus this one on dataset `number`."""
        from ..evaluation.report.task_report import Comparison, compare_task
        from ..evaluation.scoring import score_task

        theirs = self.loaded[number]
        if theirs is None:
            return Comparison(name, self.name, None)
        try:
            data, zero_shot = theirs
            other = score_task(self.model, self.processor, data, self.args.split, self.args.batch_size, zero_shot)
        except ValueError as error:
            raise ValueError(f"--against {self.args.against}: {error}") from None
        return Comparison(name, self.name, compare_task(task, scored, other, self.args.bootstrap, self.args.seed))


def _calibrate(
    args: EvaluateArguments,
    model: "ArkForImageClassification",
    processor: "ArkImageProcessor",
    loaded: Sequence["TaskDataset"],
) -> tuple[list[list["LabelCalibration"]], list["CalibrationResult"], list[tuple["TaskDataset", "ScoredTask"]]]:
    """
    Calibrates the model and writes it; how each dataset's probabilities were before, what was fitted, and the datasets
    with the calibrated model's scores.
    """
    from ..evaluation.calibrate import calibrate_task, calibrated_scores, save_calibrated
    from ..evaluation.report.task_report import describe_calibration
    from ..evaluation.scoring import score_task

    heads = [data.task.name for data in loaded]
    repeated = sorted({head for head in heads if heads.count(head) > 1})
    if repeated:
        raise ValueError(f"--calibrate takes one dataset a head; there are several for {repeated}.")
    for data in loaded:
        if "validation" not in data.splits:
            raise ValueError(
                f"{data.source}: --calibrate needs a validation split, and it has only {list(data.splits)}."
            )
    scores = [score_task(model, processor, data, args.split, args.batch_size) for data in loaded]
    before = [describe_calibration(scored, data.task) for data, scored in zip(loaded, scores, strict=True)]
    rule: Any = "youden" if args.sensitivity is None else "sensitivity"
    fitted = [
        calibrate_task(model, processor, data.splits["validation"], data.task, rule, args.sensitivity, args.batch_size)
        for data in loaded
    ]
    save_calibrated(model, processor, fitted, Path(str(args.calibrate)))
    tasks = {task.name: task for task in model.config.tasks or []}
    after = [
        (replace(data, task=tasks[data.task.name]), calibrated_scores(scored, data.task, result.temperature))
        for data, scored, result in zip(loaded, scores, fitted, strict=True)
    ]
    return before, fitted, after
