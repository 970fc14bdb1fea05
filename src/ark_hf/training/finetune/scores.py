"""A finished seed on the test split: its scores, their report, and the scores of each image."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from ...data.leaks import leaks_into
from ...data.open_dataset import TaskDataset
from ...evaluation.mask_scoring import score_masks
from ...evaluation.report.mask_gallery import draw_masks
from ...evaluation.report.mask_page import write_mask_report
from ...evaluation.report.mask_report import report_masks
from ...evaluation.report.page import write_report
from ...evaluation.report.task_report import report_task
from ...evaluation.scoring import ScoredTask, score_task
from ...files import write_json
from ...inference.load import load_model
from ...models.ark.configuration_ark import ArkTask, SegmentationTask
from ...provenance import read_provenance, weights_sha256
from .arguments import FinetuningArguments
from .seed_folder import PREDICTIONS_FILE, REPORT_FOLDER, read_metrics, seed_model

MASK_TEST_FIELDS = ("num_images", "num_patients", "distance_unit", "dice", "iou", "hd95", "prior_dice")
TEST_FIELDS = ("num_images", "num_patients", "labels", "mean", "baseline_labels", "baseline_mean", "accuracy")


def score_test(data: TaskDataset, args: FinetuningArguments, folder: Path) -> dict[str, Any]:
    """
    Scores a finished seed on the test split, and adds `test` to its metrics.json: of a [`TaskReport`] the counts and
    the AUROCs with their patient-clustered intervals, beside the shortcut baseline fitted on the same training images.

    `report` beside it is that of `ark-hf evaluate`, and `test_predictions.npz` holds `probabilities` float64 (rows,
    labels) and `targets` (rows, labels; NaN unknown) in the order of the split, and `labels`, their names; of masks
    in the place of the two `dice`, `iou` and `hd95` (rows, labels; NaN undefined).
    """
    if isinstance(data.task, SegmentationTask):
        return _score_test_masks(data, args, folder)
    model, processor = load_model(str(seed_model(folder)))
    scored = score_task(model, processor, data, "test", args.eval_batch_size)
    state = PartialState()
    if state.is_main_process:
        save_predictions(folder, scored, data.task)
        report = report_task(data, scored, args.bootstrap)
        report.leaks = leaks_into(data, "test", read_provenance(seed_model(folder)))
        write_report([report], folder / REPORT_FOLDER, _report_facts(args, folder))
        values = asdict(report)
        test = {key: values[key] for key in TEST_FIELDS}
        write_json(folder / "metrics.json", {**read_metrics(folder), "test": test})
    state.wait_for_everyone()
    return read_metrics(folder)


def _score_test_masks(data: TaskDataset, args: FinetuningArguments, folder: Path) -> dict[str, Any]:
    """As [`score_test`], of masks: Dice, IoU and distances beside those of the mean mask of the training images."""
    model, processor = load_model(str(seed_model(folder)))
    scored = score_masks(model, processor, data, "test", args.eval_batch_size)
    state = PartialState()
    if state.is_main_process:
        report = report_masks(data, scored, args.bootstrap)
        report.leaks = leaks_into(data, "test", read_provenance(seed_model(folder)))
        gallery = draw_masks(model, processor, data, scored)
        write_mask_report([report], [gallery], folder / REPORT_FOLDER, _report_facts(args, folder))
        labels = np.array(data.task.labels)
        np.savez(folder / PREDICTIONS_FILE, dice=scored.dice, iou=scored.iou, hd95=scored.hd95, labels=labels)
        values = asdict(report)
        test = {key: values[key] for key in MASK_TEST_FIELDS}
        write_json(folder / "metrics.json", {**read_metrics(folder), "test": test})
    state.wait_for_everyone()
    return read_metrics(folder)


def _report_facts(args: FinetuningArguments, folder: Path) -> dict[str, Any]:
    return {
        "model": seed_model(folder).name,
        "bootstrap": args.bootstrap,
        "weights_sha256": weights_sha256(seed_model(folder)),
    }


def save_predictions(folder: Path, scored: ScoredTask, task: ArkTask) -> None:
    """Writes `test_predictions.npz`; see [`score_test`]."""
    path = folder / PREDICTIONS_FILE
    np.savez(path, probabilities=scored.probabilities, targets=scored.labels, labels=np.array(task.labels))
