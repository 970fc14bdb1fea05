"""Loss and AUROC of a model on the validation splits of its tasks."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ...data.loading import InferenceSamples
from ...inference.predict import mean_probabilities, predict_logits
from ...metrics.auroc import auroc, one_vs_rest
from ...models.ark.configuration_ark import ArkTask
from ...models.ark.modeling_ark import ArkForImageClassification, known_elements, masked_classification_loss
from .objective import Criterion


def validate(
    models: Mapping[str, ArkForImageClassification],
    samples: list[InferenceSamples],
    criterion: Criterion,
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int,
) -> dict[str, dict[str, Any]]:
    """
    One pass over each task's samples, for all models at once.

    Returns:
        Of each model `mean_loss`, `mean_auroc` (plain means over the tasks) and `tasks`: by name, `loss` (mean over
        the known elements), `mean_auroc`, and by label `auroc` and `positives`; `samples`. What is undefined (a loss
        without any known label, an AUROC with one class) is NaN and left out of the means.
    """
    tasks: dict[str, dict[str, Any]] = {name: {} for name in models}
    for each in samples:
        description = f"validating {each.task.name}"
        *logits, targets = predict_logits(
            list(models.values()), each, batch_size, num_workers, description, autocast=accelerator.autocast
        )
        for name, of_model in zip(models, logits, strict=True):
            tasks[name][each.task.name] = {"loss": _loss(of_model, targets, each.task, criterion)} | _aurocs(
                mean_probabilities(of_model, each.task), targets, each.task.labels
            )
    return {name: _with_means(figures) for name, figures in tasks.items()}


def _with_means(tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    means = {key: _mean_of_defined([task[key] for task in tasks.values()]) for key in ("loss", "mean_auroc")}
    return {"mean_loss": means["loss"], "mean_auroc": means["mean_auroc"], "tasks": tasks}


def _loss(logits: np.ndarray, targets: np.ndarray, task: ArkTask, criterion: Criterion) -> float:
    labels, problem_type = criterion(torch.from_numpy(targets), task)
    if not known_elements(labels, problem_type).any():
        return math.nan
    return masked_classification_loss(torch.from_numpy(logits), labels, problem_type).item()


def _aurocs(scores: np.ndarray, targets: np.ndarray, labels: list[str]) -> dict[str, Any]:
    if targets.ndim == 1:
        targets = one_vs_rest(targets, len(labels))
    aurocs = [auroc(targets[:, i], scores[:, i]) for i in range(len(labels))]
    return {
        "mean_auroc": _mean_of_defined(aurocs),
        "auroc": dict(zip(labels, aurocs, strict=True)),
        "positives": dict(zip(labels, np.nansum(targets, axis=0).astype(int).tolist(), strict=True)),
        "samples": len(targets),
    }


def _mean_of_defined(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
