"""A segmenter on datasets with masks, by group and against another one: `ark-hf evaluate` where the model is one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..data.leaks import leaks_into
from ..data.open_dataset import TaskDataset, open_dataset
from ..data.task_dataset import SPLITS, load_task_dataset, read_dataset_task, split_names
from ..inference.load import load_model, usual_batch_size
from ..inference.overlays import check_whole_picture
from ..models.ark.configuration_ark import SegmentationTask
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from ..models.genesis.modeling_genesis import GenesisForSemanticSegmentation
from ..provenance import read_provenance, weights_sha256
from .arguments import EvaluationArguments
from .mask_scoring import ScoredMasks, score_masks
from .report.mask_gallery import draw_masks
from .report.mask_page import mask_text, write_mask_report, write_mask_table
from .report.mask_report import MaskComparison, MaskReport, compare_masks, report_masks
from .scoring import check_takes, read_groups

FOR_LABELS = ("crops", "calibrate", "zero_shot", "heads", "transfer")  # settings that have no meaning for masks


@dataclass
class MaskEvaluation:
    """What a test of a segmenter found: a report a dataset, the same as text, and the page, if a folder is named."""

    reports: list[MaskReport]
    text: str
    page: Path | None = None


def evaluate_masks(
    network: tuple[Any, Any],
    model: str,
    datasets: Sequence[str],
    args: EvaluationArguments,
    names: tuple[str, str],
    facts: Mapping[str, Any],
) -> MaskEvaluation:
    """
    Dice, IoU and distances with patient-clustered intervals, beside those of the mean mask of training.

    Args:
        network: The segmenter of `model`, an Ark or of volumes a Genesis, and its processor.
        names: What reports call it and the model of `args.against`.
        facts: What stands at the top of the report.

    Raises:
        ValueError: A dataset has no masks or other labels, or an option is for labels.
    """
    usual = {each.name: each.default for each in fields(EvaluationArguments)}
    given = [name for name in FOR_LABELS if getattr(args, name) not in (usual[name], [])]
    if given:
        raise ValueError(f"--{given[0]} is for classifiers, and {model} is a segmenter: leave it out.")
    _check_view(*network)
    opened = [_open(network[0], dataset, args.split) for dataset in datasets]
    other = None if args.against is None else _load_other(args.against, network[0], args)
    reports, scores, groups = [], [], []
    origin = read_provenance(model)
    for data in opened:
        found = read_groups(data, args.split, args.subgroups or None)
        scored = score_masks(*network, data, args.split, args.batch_size or usual_batch_size(network[0], 32))
        report = report_masks(data, scored, args.bootstrap, args.seed, found)
        report.leaks = leaks_into(data, args.split, origin)
        if other is not None:
            report.comparison = MaskComparison(*names, _compare(other, data, scored, args))
        reports.append(report)
        scores.append(scored)
        groups.append(found)
    evaluation = MaskEvaluation(reports, mask_text(reports))
    if args.out is not None:
        out = Path(args.out)
        for number, (data, scored, found) in enumerate(zip(opened, scores, groups, strict=True), start=1):
            write_mask_table(out / f"masks-{number}-{data.task.name}.csv", data, scored, found)
        galleries = [draw_masks(*network, data, scored) for data, scored in zip(opened, scores, strict=True)]
        evaluation.page = write_mask_report(
            reports, galleries, out, {**facts, "weights_sha256": weights_sha256(model)}
        )
    return evaluation


def _check_view(model: Any, processor: Any) -> None:
    """Raises `ValueError` if the processor shows the model a part of a picture alone."""
    if isinstance(model, ArkForSemanticSegmentation):
        check_whole_picture(processor, "Masks")


def _open(model: Any, dataset: str, split: str) -> TaskDataset:
    """The dataset with the model's thresholds; `ValueError` if its labels are others."""
    stored, task = read_dataset_task(dataset), model.config.segmentation
    if not isinstance(stored, SegmentationTask):
        raise ValueError(f"{dataset} holds labels, and the model is a segmenter: give it a dataset with masks.")
    if (stored.labels, stored.overlapping) != (task.labels, task.overlapping):
        check_takes(model, load_task_dataset(dataset, split).column_names, dataset)
        kinds = ["overlapping" if each.overlapping else "exclusive" for each in (stored, task)]
        raise ValueError(
            f"{dataset}: its masks are of {stored.labels}, {kinds[0]}, and the model's of {task.labels}, {kinds[1]}."
        )
    there = split_names(dataset)
    shown = SegmentationTask.from_dict({**stored.to_dict(), "thresholds": task.thresholds})
    data = open_dataset(
        dataset, [name for name in SPLITS if name == split or name == "train" and name in there], shown
    )
    check_takes(model, data.columns(split), dataset)
    return data


def _load_other(against: str, model: Any, args: EvaluationArguments) -> tuple[Any, Any]:
    """The model to compare with; `ValueError` if it outlines something else."""
    other, processor = load_model(against, args.dtype, args.compile)
    if not isinstance(other, ArkForSemanticSegmentation | GenesisForSemanticSegmentation):
        raise ValueError(f"--against {against}: it is a classifier, and the model a segmenter.")
    if type(other) is not type(model):
        raise ValueError(f"--against {against}: one of the two takes pictures, the other volumes.")
    ours, theirs = model.config.segmentation, other.config.segmentation
    if (ours.labels, ours.overlapping) != (theirs.labels, theirs.overlapping):
        raise ValueError(f"--against {against}: its labels {theirs.labels} are not the model's, {ours.labels}.")
    _check_view(other, processor)
    return other, processor


def _compare(other: tuple[Any, Any], data: TaskDataset, scored: ScoredMasks, args: EvaluationArguments) -> list:
    thresholds = other[0].config.segmentation.thresholds
    task = SegmentationTask.from_dict({**data.task.to_dict(), "thresholds": thresholds})
    theirs = TaskDataset(data.source, task, data.splits)
    batch_size = args.batch_size or usual_batch_size(other[0], 32)
    scores = score_masks(*other, theirs, args.split, batch_size, distances=False)
    return compare_masks(data.task.labels, scored, scores, args.bootstrap, args.seed)
