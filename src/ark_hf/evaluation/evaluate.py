"""A model on task datasets, by group, against another model, and calibrated: what `ark-hf evaluate` does."""

import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ..data.leaks import leaks_into
from ..data.open_dataset import TaskDataset
from ..inference.arguments import Dtype
from ..inference.load import how_computed, load_model, usual_batch_size
from ..inference.predict import with_crops
from ..inference.training_statistics import TrainingStatistics, read_training_statistics
from ..inference.zeroshot import PUBLISHED_TRANSFERS
from ..labels import read_synonyms
from ..metrics.operating_point import Rule
from ..metrics.significance import PairedResult
from ..models.ark.modeling_ark import ArkForImageClassification
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from ..models.genesis.modeling_genesis import GenesisForImageClassification, GenesisForSemanticSegmentation
from ..outcome import read_outcome
from ..provenance import read_provenance, shown_name, weights_sha256
from .arguments import EvaluationArguments
from .calibrate import CalibrationResult, apply_calibration, calibrate_task, calibrated_scores, save_calibrated
from .evaluate_masks import MaskEvaluation, evaluate_masks
from .report.gallery import draw_errors
from .report.image_table import write_image_table
from .report.mask_report import MaskComparison
from .report.page import write_report
from .report.task_report import (
    Comparison,
    LabelCalibration,
    TaskReport,
    compare_sites,
    compare_task,
    describe_calibration,
    report_task,
)
from .report.text import report_text
from .scoring import (
    ScoredTask,
    ZeroShot,
    check_takes,
    load_evaluation_data,
    load_zero_shot_data,
    read_groups,
    score_task,
)
from .training_statistics import measure_training_statistics, training_statistics

Network: TypeAlias = tuple[Any, Any]  # a classifier, an Ark or of volumes a Genesis, and its image processor
Opened: TypeAlias = tuple[TaskDataset, ZeroShot | None]


@dataclass
class Evaluation:
    """What a test found: a report a dataset, the same as text, and the page, if the arguments name a folder for it."""

    reports: list[TaskReport]
    text: str
    page: Path | None = None


def evaluate(
    model: str, datasets: Sequence[str], args: EvaluationArguments | None = None
) -> Evaluation | MaskEvaluation:
    """
    Tests a model on task datasets: AUROC per label with patient-clustered intervals, beside the shortcut baseline; or
    a segmenter on datasets with masks, see [`evaluate_masks`].

    Args:
        model: Folder or Hub id of an ark-cxr, or for volumes of a Genesis.
        datasets: Folders or Hub ids of task datasets, each for its task's head, or "HEAD=DATASET".
        args: The settings.

    Raises:
        ValueError: Model, datasets and settings do not fit each other, or one of them cannot be read.
    """
    args = args or EvaluationArguments()
    wanted = [_head_and_dataset(dataset) for dataset in datasets]
    if args.is_zero_shot and any(head is not None for head, _ in wanted):
        raise ValueError("HEAD=DATASET tests a head on its own task; for zero-shot transfer, name heads by --heads.")
    name, other_name = _distinct_names(model, args.against)
    facts: dict[str, Any] = {"model": name, "crops": args.crops, "bootstrap": args.bootstrap, "seed": args.seed}
    loaded = load_model(model, args.dtype, args.compile)
    facts["computed"] = how_computed(loaded[0])
    origin = read_provenance(model)
    outcome = read_outcome(origin)
    facts |= {"training": str(outcome)} if outcome is not None else {}
    if isinstance(loaded[0], ArkForSemanticSegmentation | GenesisForSemanticSegmentation):
        del facts["crops"]
        facts |= {"command": _command(model, wanted, args)} if args.out is not None else {}
        return evaluate_masks(loaded, model, datasets, args, (name, other_name), facts)
    network = _seen_through(loaded, model, args.crops)
    if isinstance(network[0], GenesisForImageClassification):
        del facts["crops"]
    opened = [_open(args, network[0], head, dataset) for head, dataset in wanted]
    groups = _read_groups(opened, args)
    against = None if args.against is None else _load_against(args, wanted, opened)
    if args.calibrate is not None:
        _check_calibration([data for data, _ in opened])
    scores = [_score(network, each, args) for each in opened]
    before: list[list[LabelCalibration] | None] = [None] * len(wanted)
    fitted: list[CalibrationResult | None] = [None] * len(wanted)
    told: list[str] = []
    if args.calibrate is not None:
        before = [describe_calibration(scored, data.task) for scored, (data, _) in zip(scores, opened, strict=True)]
        results, told = _calibrate(model, network, [data for data, _ in opened], args)
        fitted = [*results]
        tasks = {task.name: task for task in network[0].config.tasks or []}
        opened = [(replace(data, task=tasks[data.task.name]), None) for data, _ in opened]
        scores = [
            calibrated_scores(scored, data.task, result.temperature)
            for scored, (data, _), result in zip(scores, opened, results, strict=True)
        ]
        facts |= {"model": shown_name(args.calibrate), "calibrated_from": name}

    reports = []
    for number, ((data, _), scored) in enumerate(zip(opened, scores, strict=True)):
        report = report_task(data, scored, args.bootstrap, args.seed, groups[number])
        report.leaks = leaks_into(data, args.split, origin)
        report.calibration_before, report.fitted = before[number], fitted[number]
        if against is not None:
            report.comparison = Comparison(facts["model"], other_name, _compare(against, number, scored, args))
        reports.append(report)
    remarks = [*told, *([str(outcome)] if outcome is not None else [])]
    evaluation = Evaluation(reports, report_text(reports) + "".join(f"\n{each}\n" for each in remarks))
    if args.out is not None:
        out = Path(args.out)
        facts |= {"command": _command(model, wanted, args)}
        errors = []
        for number, (data, scored) in enumerate(zip([data for data, _ in opened], scores, strict=True)):
            write_image_table(out / f"predictions-{number + 1}-{data.task.name}.csv", data, scored, groups[number])
            errors.append([] if data.has_volumes else draw_errors(*network, data, scored, reports[number]))
        tested = [(data, scored) for (data, _), scored in zip(opened, scores, strict=True)]
        sites = compare_sites(tested, args.bootstrap, args.seed)
        facts["weights_sha256"] = weights_sha256(args.calibrate or model)
        evaluation.page = write_report(reports, out, facts, sites, errors)
    return evaluation


def compare(
    model: str, other: str, datasets: Sequence[str], args: EvaluationArguments | None = None
) -> list[Comparison] | list[MaskComparison]:
    """
    Tests two models on the same images: of each dataset the paired differences, `model` minus `other`, label by label.

    Arguments and errors as in [`evaluate`], whose reports hold the same with `args.against`; of segmenters Dice.
    """
    reports = evaluate(model, datasets, replace(args or EvaluationArguments(), against=other)).reports
    return [report.comparison for report in reports if report.comparison is not None]  # type: ignore[return-value]


def calibrate(
    model: str,
    datasets: Sequence[str],
    out: str | Path,
    sensitivity: float | None = None,
    batch_size: int | None = None,
    dtype: Dtype = "float32",
    compile: bool = False,
) -> list[CalibrationResult]:
    """
    Calibrates a model on the validation splits of task datasets and saves it as a new one.

    A temperature is fitted for each head and folded into its weights, and operating points are chosen. Beside the
    weights statistics of training images are kept, by which our pipeline, `predict` and the page doubt pictures that
    are unlike them; see [`measure_training_statistics`]. Name all datasets that the model was trained on.

    Args:
        model: Folder or Hub id of an ark-cxr.
        datasets: Folders or Hub ids of task datasets, each for its task's head, or "HEAD=DATASET"; one per head.
        out: New folder of the calibrated model.
        sensitivity: The share of positives that each operating point finds; Youden's points unless set.
        batch_size: Images a forward pass, 32 unless set, and fewer of large pictures, see [`usual_batch_size`].
        dtype, compile: How the model computes; the weights that are saved are float32 all the same.

    Raises:
        ValueError: Model and datasets do not fit each other, one has no validation split, or `out` is not empty.
    """
    args = EvaluationArguments(
        dtype=dtype, compile=compile, calibrate=str(out), sensitivity=sensitivity, batch_size=batch_size
    )
    network = _load(model, args)
    opened = [_open(args, network[0], *_head_and_dataset(dataset))[0] for dataset in datasets]
    _check_calibration(opened)
    return _calibrate(model, network, opened, args)[0]


def _check_calibration(datasets: Sequence[TaskDataset]) -> None:
    heads = [data.task.name for data in datasets]
    repeated = sorted({head for head in heads if heads.count(head) > 1})
    if repeated:
        raise ValueError(f"--calibrate takes one dataset per head; there are several for {repeated}.")
    for data in datasets:
        if "validation" not in data.splits:
            there = list(data.splits)
            raise ValueError(f"{data.source}: --calibrate needs a validation split, and it has only {there}.")


def _calibrate(
    model: str, network: Network, datasets: Sequence[TaskDataset], args: EvaluationArguments
) -> tuple[list[CalibrationResult], list[str]]:
    """
    Calibrates, in place, the head of each dataset on its validation split, and writes the model in float32, with
    statistics of training images beside it, of which sentences tell.
    """
    rule: Rule = "youden" if args.sensitivity is None else "sensitivity"
    batch_size = args.batch_size or usual_batch_size(network[0], 32)
    results = [
        calibrate_task(*network, data.splits["validation"], data.task, rule, args.sensitivity, batch_size)
        for data in datasets
    ]
    saved = network
    told: list[str] = []
    statistics: TrainingStatistics | None = None
    if network[0].dtype != torch.float32:
        saved = load_model(model)
        for result in results:
            apply_calibration(saved[0], result)
    if isinstance(network[0], ArkForImageClassification):
        measured = measure_training_statistics(*network, datasets, batch_size)
        told = [each.told(modality) for modality, each in measured.items()]
        statistics = training_statistics(*saved, measured, read_training_statistics(*network))
    save_calibrated(*saved, results, Path(str(args.calibrate)), statistics)
    return results, told


def _head_and_dataset(text: str) -> tuple[str | None, str]:
    head, separator, dataset = text.partition("=")
    return (head, dataset) if separator and not Path(text).exists() else (None, text)


def _command(model: str, wanted: Sequence[tuple[str | None, str]], args: EvaluationArguments) -> str:
    """The command that gives this report, with names in the place of paths."""
    words = ["ark-hf", "evaluate", shown_name(model)]
    words += [f"{f'{head}=' if head else ''}{shown_name(dataset)}" for head, dataset in wanted]
    usual = EvaluationArguments()
    for each in fields(args):
        value = getattr(args, each.name)
        if value != getattr(usual, each.name):
            given = [] if value is True else value if isinstance(value, list) else [shown_name(str(value))]
            words += [f"--{each.name}", *given]
    return shlex.join(words)


def _distinct_names(model: str, other: str | None) -> tuple[str, str]:
    """What reports call the two models: as little of their paths as tells them apart."""
    if other is None:
        return shown_name(model), ""
    short = shown_name(model), shown_name(other)
    longer = "/".join(Path(model).parts[-2:]), "/".join(Path(other).parts[-2:])
    for ours, theirs in (short, longer):
        if ours != theirs:
            return ours, theirs
    return short[0], f"{short[1]} (other)"


def _load(model: str, args: EvaluationArguments) -> Network:
    loaded = load_model(model, args.dtype, args.compile)
    if isinstance(loaded[0], ArkForSemanticSegmentation | GenesisForSemanticSegmentation):
        raise ValueError(f"{model} is a segmenter, and a classifier is wanted here.")
    return _seen_through(loaded, model, args.crops)


def _seen_through(loaded: tuple[Any, Any], model: str, crops: str) -> Network:
    network, processor = loaded
    if not isinstance(network, GenesisForImageClassification):
        return network, with_crops(processor, network.config.image_size, crops)
    if crops != EvaluationArguments.crops:
        raise ValueError(f"--crops {crops} is for pictures, and {model} takes volumes: leave it out.")
    return loaded


def _open(args: EvaluationArguments, model: Any, head: str | None, dataset: str) -> Opened:
    opened: Opened
    if not args.is_zero_shot:
        opened = load_evaluation_data(model, dataset, args.split, head), None
    else:
        transfer = None if args.transfer is None else PUBLISHED_TRANSFERS[args.transfer]
        synonyms, heads = read_synonyms(args.synonyms), args.heads or None
        opened = load_zero_shot_data(model, dataset, synonyms, args.split, heads, args.related, transfer)
    check_takes(model, opened[0].columns(args.split), dataset)
    return opened


def _score(network: Network, opened: Opened, args: EvaluationArguments) -> ScoredTask:
    data, zero_shot = opened
    batch_size = args.batch_size or usual_batch_size(network[0], 32)
    return score_task(*network, data, args.split, batch_size, zero_shot)


def _read_groups(opened: Sequence[Opened], args: EvaluationArguments) -> list[dict[str, list[str]]]:
    groups = [read_groups(data, args.split, args.subgroups) for data, _ in opened]
    for attribute in args.subgroups:
        lacking = [data for (data, _), found in zip(opened, groups, strict=True) if attribute not in found]
        if len(lacking) == len(opened):
            columns = sorted({name for data, _ in opened for name in data.columns(args.split)} - {"image", "labels"})
            raise ValueError(f"--subgroups {attribute}: no dataset has such a column; they have {columns}.")
        for data in lacking:
            warnings.warn(f"{data.source} has no column {attribute!r}: no groups by it there.", stacklevel=3)
    return groups


def _load_against(
    args: EvaluationArguments, wanted: Sequence[tuple[str | None, str]], opened: Sequence[Opened]
) -> tuple[Network, list[Opened | None]]:
    """The model of `args.against`, and each dataset as opened for it; None where it has no head for it."""
    network = _load(str(args.against), args)
    heads = [task.name for task in network[0].config.tasks or []]
    tested = [data.task.name for data, _ in opened]
    if not args.is_zero_shot and not set(heads) & set(tested):
        raise ValueError(f"--against {args.against}: its heads {heads} are none of those tested, {tested}.")
    return network, [
        _open(args, network[0], head, dataset) if args.is_zero_shot or task in heads else None
        for (head, dataset), task in zip(wanted, tested, strict=True)
    ]


def _compare(
    against: tuple[Network, list[Opened | None]], number: int, scored: ScoredTask, args: EvaluationArguments
) -> list[PairedResult] | None:
    """The model whose scores these are minus the other one on dataset `number`."""
    network, theirs = against[0], against[1][number]
    if theirs is None:
        return None
    try:
        other = _score(network, theirs, args)
    except ValueError as error:
        raise ValueError(f"--against {args.against}: {error}") from None
    return compare_task(theirs[0].task, scored, other, args.bootstrap, args.seed)
