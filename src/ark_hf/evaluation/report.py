"""Test results of a model: a table a task, every AUROC beside what ten global image numbers reach."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.loading import InferenceSamples
from ..data.task_dataset import (
    check_disjoint,
    check_labels,
    load_task_dataset,
    read_task,
    resolve_labels,
    split_names,
)
from ..files import write_json, write_text
from ..labels import Synonyms
from ..models.ark.configuration_ark import ArkTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification
from .inference import mean_probabilities, predict_logits
from .metrics import LabelResult, MeanResult, label_table, mean_auroc, one_vs_rest
from .shortcut import image_statistics, shortcut_baseline
from .zeroshot import LabelMatch, Transfer, match_dataset, match_transfer, positive_classes, zero_shot_scores


@dataclass
class TaskReport:
    """
    Results on one split of a dataset: of its task's own head or, with `matches`, of the labels that stand for its.

    The baseline is fitted on the train split of the same dataset, and None without one. `num_patients` is None where
    no patient is known; an image whose patient is not known counts as one of its own. A label that nothing matches has
    no AUROC, and none of its baseline either, so that the two means are over the same labels. The means are over the
    task's `eval_labels` if it has some. `accuracy`, of the most probable class, is for single-label tasks only.
    """

    task: str
    dataset: str
    split: str
    num_images: int
    num_patients: int | None
    labels: list[LabelResult]
    mean: MeanResult
    baseline_labels: list[LabelResult] | None
    baseline_mean: MeanResult | None
    accuracy: float | None = None
    matches: dict[str, list[LabelMatch]] | None = None
    transfer: Transfer | None = None


@dataclass
class EvaluationData:
    """
    One task dataset, loaded and checked, for the head of its task or, with `matches`, for the labels that they name.

    `train` is None if the dataset has no such split.
    """

    dataset: str
    task: ArkTask
    split: str
    rows: Dataset
    train: Dataset | None
    matches: dict[str, list[LabelMatch]] | None = None
    transfer: Transfer | None = None


def load_evaluation_data(
    model: ArkForImageClassification, dataset: str, split: str = "test", head: str | None = None
) -> EvaluationData:
    """
    Loads a task dataset for the model's head of the same name, or for `head`.

    Raises:
        ValueError: The dataset cannot be read, its labels are not the head's, or a patient stands in two splits.
    """
    stored = read_task(dataset)
    task = next((each for each in model.config.tasks or [] if each.name == (head or stored.name)), None)
    if task is None:
        heads = [each.name for each in model.config.tasks or []]
        raise ValueError(
            f"{dataset}: the model has no head {head or stored.name!r}; its heads are {heads}; "
            "name one: HEAD=DATASET, or --zero_shot for a dataset that the model was not trained on."
        )
    if (task.labels, task.problem_type) != (stored.labels, stored.problem_type):
        raise ValueError(f"{dataset}: its labels {stored.labels} are not those of the head, {task.labels}.")
    return EvaluationData(dataset, task, split, *_load_splits(dataset, task, split))


def load_zero_shot_data(
    model: ArkForImageClassification,
    dataset: str,
    synonyms: Synonyms,
    split: str = "test",
    heads: Sequence[str] | None = None,
    related: bool = False,
    transfer: Transfer | None = None,
) -> EvaluationData:
    """
    Loads a task dataset that the model was not trained on, and finds the model's labels that stand for its labels.

    Args:
        synonyms: Table of names, from `ark_hf.labels.read_synonyms`.
        heads: Names of the heads to look at; all unless set.
        related: Whether findings count that the table calls related, but not the same.
        transfer: A published transfer, which names the one head and label itself.

    Raises:
        ValueError: The dataset cannot be read, a patient stands in two splits, no label of the dataset is matched (see
            `zeroshot.match_dataset`), or `heads` or `related` is set beside `transfer`.
    """
    if transfer is not None and (heads is not None or related):
        raise ValueError("A published transfer names its head and label itself: leave out `heads` and `related`.")
    task, tasks = read_task(dataset), model.config.tasks or []
    if transfer is None:
        matches = match_dataset(task, tasks, synonyms, heads, related)
    else:
        matches = match_transfer(task, tasks, synonyms, transfer)
    rows, train = _load_splits(dataset, task, split)
    positives = [] if transfer is None else positive_classes(task, synonyms, transfer)
    if positives:
        indices = [task.labels.index(label) for label in positives]
        rows, train = _one_label(rows, indices), None if train is None else _one_label(train, indices)
        task = ArkTask(task.name, list(matches))
    return EvaluationData(dataset, task, split, rows, train, matches, transfer)


def _one_label(rows: Dataset, positives: list[int]) -> Dataset:
    """Rows of a single-label task as those of a multi-label task of one label: whether the class is a positive one."""
    labels = [None if index is None or index < 0 else float(index in positives) for index in rows["labels"][:]]
    return rows.remove_columns("labels").add_column("labels", [[label] for label in labels])


def _load_splits(dataset: str, task: ArkTask, split: str) -> tuple[Dataset, Dataset | None]:
    rows = load_task_dataset(dataset, split)
    check_labels(task, rows, f"{dataset}, split {split!r}")
    if split == "train":
        return rows, rows
    if "train" not in split_names(dataset):
        return rows, None
    train = load_task_dataset(dataset, "train")
    check_disjoint({"train": train, split: rows}, dataset)
    return rows, train


def evaluate_task(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    data: EvaluationData,
    batch_size: int = 32,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> TaskReport:
    """
    Scores one head, or the labels that stand for the dataset's, and the shortcut baseline fitted on the train split.

    Intervals are 95 % percentile intervals of a bootstrap over patients, or over images where no patient is known.
    """
    task, rows = data.task, data.rows
    scores, targets = _scores(model, processor, data, batch_size)
    accuracy = None
    if targets.ndim == 1:
        if data.matches is None:
            accuracy = _accuracy(scores, targets)
        targets = one_vs_rest(targets, len(task.labels))
    evaluated = [task.labels.index(label) for label in task.eval_labels or task.labels]
    patients = rows["patient_id"][:] if "patient_id" in rows.column_names else None
    bootstrap: dict[str, Any] = {"clusters": patients, "num_bootstrap": num_bootstrap, "seed": seed}
    baseline = None
    if data.train is not None:
        baseline = shortcut_baseline(*_statistics(data.train, task), _statistics(rows, task)[0])
        baseline[:, np.isnan(scores).all(axis=0)] = np.nan
    return TaskReport(
        task=task.name,
        dataset=Path(data.dataset).name,
        split=data.split,
        num_images=len(rows),
        num_patients=None if patients is None else len({p for p in patients if p}) + sum(not p for p in patients),
        labels=label_table(targets, scores, task.labels, **bootstrap),
        mean=mean_auroc(targets[:, evaluated], scores[:, evaluated], **bootstrap),
        baseline_labels=None if baseline is None else label_table(targets, baseline, task.labels, **bootstrap),
        baseline_mean=(
            None if baseline is None else mean_auroc(targets[:, evaluated], baseline[:, evaluated], **bootstrap)
        ),
        accuracy=accuracy,
        matches=data.matches,
        transfer=data.transfer,
    )


def _accuracy(probabilities: np.ndarray, targets: np.ndarray) -> float:
    known = targets != -100
    return float((probabilities[known].argmax(axis=1) == targets[known]).mean()) if known.any() else float("nan")


def _scores(
    model: ArkForImageClassification, processor: ArkImageProcessor, data: EvaluationData, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (images, labels), a column of NaN for a label that nothing matches; targets as stored."""
    samples = InferenceSamples(data.rows, data.task, processor)
    description = f"{data.task.name}, {data.split}"
    logits, targets = predict_logits(
        model, samples, Accelerator(), batch_size, description=description, all_heads=data.matches is not None
    )
    if data.matches is None:
        return mean_probabilities(logits, data.task), targets
    probabilities = mean_probabilities(logits, model.config)
    unmatched = np.full(len(probabilities), np.nan)
    columns = [
        zero_shot_scores(probabilities, matches, model.config.tasks or []) if matches else unmatched
        for matches in data.matches.values()
    ]
    return np.stack(columns, axis=1), targets


def _statistics(rows: Dataset, task: ArkTask) -> tuple[np.ndarray, np.ndarray]:
    statistics, labels = [], []
    for row in tqdm(rows, desc="image statistics", leave=False):
        statistics.append(image_statistics(row["image"]))
        labels.append(resolve_labels(row["labels"], task))
    targets = np.stack(labels)
    return np.stack(statistics), one_vs_rest(targets, len(task.labels)) if targets.ndim == 1 else targets


def report_text(reports: list[TaskReport]) -> str:
    """The reports as Markdown tables, with what scored each label where it was not the task's own head."""
    parts = []
    for report in reports:
        patients = "" if report.num_patients is None else f" of {report.num_patients} patients"
        zero_shot = "" if report.matches is None else ", zero-shot"
        lines = [
            f"## {report.task} ({report.split}: {report.num_images} images{patients}){zero_shot}",
            "",
            "| label | positives | AUROC | 95 % interval | shortcut baseline | 95 % interval |",
            "|---|---|---|---|---|---|",
        ]
        unscored = "no match" if report.transfer is None else "not scored"
        for number, result in enumerate(report.labels):
            baseline = None if report.baseline_labels is None else report.baseline_labels[number]
            counts = f"{result.num_positive}/{result.num_known}"
            matched = report.matches is None or report.matches[result.label]
            cells = f"{_cells(result)} | {_cells(baseline)}" if matched else f"{unscored} | | |"
            lines.append(f"| {result.label} | {counts} | {cells} |")
        evaluated = "" if report.mean.num_labels == len(report.labels) else " evaluated"
        defined = f"mean of {report.mean.num_defined} of {report.mean.num_labels}{evaluated}"
        lines.append(f"| **{defined}** | | {_cells(report.mean)} | {_cells(report.baseline_mean)} |")
        unit = "images" if report.num_patients is None else "patients"
        lines += ["", f"Intervals: percentile bootstrap over {unit}."]
        if report.accuracy is not None:
            lines.append(f"Accuracy of the most probable class: {report.accuracy:.3f}.")
        parts.append("\n".join([*lines, *_provenance(report)]))
    footnote = "Shortcut baseline: logistic regression on ten global image statistics, fitted on train."
    return "\n\n".join([*parts, footnote]) + "\n"


def _provenance(report: TaskReport) -> list[str]:
    """Lines that say which of the model's labels scored each label of a foreign dataset, and why."""
    if report.matches is None:
        return []
    lines = ["", "Scores are the mean probability of the labels that stand for a label:", ""]
    unscored = "nothing matches, not scored" if report.transfer is None else "not scored by this transfer"
    for label, matches in report.matches.items():
        named = ", ".join(f"{match.task}/{match.label} ({match.reason})" for match in matches)
        lines.append(f"- {label}: {named or unscored}")
    if report.transfer is not None:
        low, high = report.transfer.interval
        published = f"Published for Ark+ on {report.transfer.dataset}: {report.transfer.auroc:.4f}"
        lines += ["", f"{published} ({low:.4f} to {high:.4f}). {report.transfer.note}"]
    return lines


def _cells(result: LabelResult | MeanResult | None) -> str:
    if result is None:
        return "no train split | "
    if np.isnan(result.auroc):
        return "undefined | "
    interval = "" if np.isnan(result.ci_low) else f"{result.ci_low:.3f} to {result.ci_high:.3f}"
    return f"{result.auroc:.3f} | {interval}"


def write_report(reports: list[TaskReport], output_dir: Path, facts: dict[str, Any]) -> Path:
    """Writes `report.json` and `report.md`; returns the latter's path."""
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "report.json", {**facts, "tasks": [asdict(report) for report in reports]})
    write_text(output_dir / "report.md", "# Evaluation\n\n" + report_text(reports))
    return output_dir / "report.md"
