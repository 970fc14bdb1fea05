"""Test results of a model: a table a task, every AUROC beside what ten global image numbers reach."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.loading import InferenceSamples
from ..data.task_dataset import check_disjoint, check_labels, load_task_dataset, read_task, resolve_labels
from ..files import write_json, write_text
from ..models.ark.configuration_ark import ArkTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification
from .inference import predict_task
from .metrics import LabelResult, MeanResult, label_table, mean_auroc, one_vs_rest
from .shortcut import image_statistics, shortcut_baseline


@dataclass
class TaskReport:
    """
    Results of one task's head on one split; the baseline is fitted on the train split of the same dataset.

    `num_patients` is None where no patient is known; an image whose patient is not known counts as one of its own.
    """

    task: str
    dataset: str
    split: str
    num_images: int
    num_patients: int | None
    labels: list[LabelResult]
    mean: MeanResult
    baseline_labels: list[LabelResult]
    baseline_mean: MeanResult


@dataclass
class EvaluationData:
    """One task dataset, loaded and checked against the head that it is for."""

    dataset: str
    task: ArkTask
    split: str
    rows: Dataset
    train: Dataset


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
            f"{dataset}: the model has no head {head or stored.name!r}; its heads are {heads}; name one: HEAD=DATASET."
        )
    if (task.labels, task.problem_type) != (stored.labels, stored.problem_type):
        raise ValueError(f"{dataset}: its labels {stored.labels} are not those of the head, {task.labels}.")
    rows, train = load_task_dataset(dataset, split), load_task_dataset(dataset, "train")
    check_labels(task, rows, f"{dataset}, split {split!r}")
    if split != "train":
        check_disjoint({"train": train, split: rows}, dataset)
    return EvaluationData(dataset, task, split, rows, train)


def evaluate_task(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    data: EvaluationData,
    batch_size: int = 32,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> TaskReport:
    """
    Scores one head, and the shortcut baseline fitted on the train split.

    Intervals are 95 % percentile intervals of a bootstrap over patients, or over images where no patient is known.
    """
    task, rows = data.task, data.rows
    samples = InferenceSamples(rows, task, processor)
    scores, targets = predict_task(model, samples, Accelerator(), batch_size, description=f"{task.name}, {data.split}")
    if targets.ndim == 1:
        targets = one_vs_rest(targets, len(task.labels))
    patients = rows["patient_id"][:] if "patient_id" in rows.column_names else None
    baseline = shortcut_baseline(*_statistics(data.train, task), _statistics(rows, task)[0])
    bootstrap: dict[str, Any] = {"clusters": patients, "num_bootstrap": num_bootstrap, "seed": seed}
    return TaskReport(
        task=task.name,
        dataset=Path(data.dataset).name,
        split=data.split,
        num_images=len(rows),
        num_patients=None if patients is None else len({p for p in patients if p}) + sum(not p for p in patients),
        labels=label_table(targets, scores, task.labels, **bootstrap),
        mean=mean_auroc(targets, scores, **bootstrap),
        baseline_labels=label_table(targets, baseline, task.labels, **bootstrap),
        baseline_mean=mean_auroc(targets, baseline, **bootstrap),
    )


def _statistics(rows: Dataset, task: ArkTask) -> tuple[np.ndarray, np.ndarray]:
    statistics, labels = [], []
    for row in tqdm(rows, desc="image statistics", leave=False):
        statistics.append(image_statistics(row["image"]))
        labels.append(resolve_labels(row["labels"], task))
    targets = np.stack(labels)
    return np.stack(statistics), one_vs_rest(targets, len(task.labels)) if targets.ndim == 1 else targets


def report_text(reports: list[TaskReport]) -> str:
    """The reports as Markdown tables."""
    parts = []
    for report in reports:
        patients = "" if report.num_patients is None else f" of {report.num_patients} patients"
        lines = [
            f"## {report.task} ({report.split}: {report.num_images} images{patients})",
            "",
            "| label | positives | AUROC | 95 % interval | shortcut baseline | 95 % interval |",
            "|---|---|---|---|---|---|",
        ]
        for result, baseline in zip(report.labels, report.baseline_labels, strict=True):
            counts = f"{result.num_positive}/{result.num_known}"
            lines.append(f"| {result.label} | {counts} | {_cells(result)} | {_cells(baseline)} |")
        defined = f"mean of {report.mean.num_defined} of {report.mean.num_labels}"
        lines.append(f"| **{defined}** | | {_cells(report.mean)} | {_cells(report.baseline_mean)} |")
        unit = "images" if report.num_patients is None else "patients"
        lines += ["", f"Intervals: percentile bootstrap over {unit}."]
        parts.append("\n".join(lines))
    footnote = "Shortcut baseline: logistic regression on ten global image statistics, fitted on train."
    return "\n\n".join([*parts, footnote]) + "\n"


def _cells(result: LabelResult | MeanResult) -> str:
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
