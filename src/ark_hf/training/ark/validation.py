"""Loss and AUROC of a model on the validation splits of its tasks."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ...data.loader import Loader
from ...data.loading import InferenceSamples
from ...inference.predict import mean_probabilities, predict_logits
from ...metrics.auroc import one_vs_rest
from ...models.ark.configuration_ark import ArkTask
from ...models.ark.heads_ark import known_elements, masked_classification_loss
from ...models.ark.modeling_ark import ArkForImageClassification
from ..health import is_constant
from ..selection import label_aurocs, mean_of_defined
from .objective import Criterion


def validate(
    models: Mapping[str, ArkForImageClassification],
    samples: list[InferenceSamples],
    criterion: Criterion,
    accelerator: Accelerator,
    batch_size: int,
    loader: Loader,
) -> dict[str, dict[str, Any]]:
    """
    One pass over each task's samples, for all models at once.

    Args:
        loader: Has the samples, by `("validation", name of their task)`.

    Returns:
        Of each model `mean_loss`, `mean_auroc` (plain means over the tasks), `modalities`, the mean AUROC of the tasks
        of each if there are several, and `tasks`: by name, `loss` (mean over
        the known elements), `mean_auroc` over the labels that the task evaluates, and by label `auroc` and
        `positives`; `samples`; `constant`, whether all samples have the same outputs. What is undefined (a loss
        without any known label, an AUROC with one class) is NaN and left out of the means.
    """
    tasks: dict[str, dict[str, Any]] = {name: {} for name in models}
    for each in samples:
        description = f"validating {each.task.name}"
        *logits, targets = predict_logits(
            list(models.values()),
            each,
            batch_size,
            description=description,
            autocast=accelerator.autocast,
            load=partial(_load, loader, each.task.name),
        )
        for name, of_model in zip(models, logits, strict=True):
            tasks[name][each.task.name] = {
                "loss": _loss(of_model, targets, each.task, criterion),
                **label_aurocs(mean_probabilities(of_model, each.task), targets, each.task),
                "positives": _positives(targets, each.task.labels),
                "samples": len(targets),
                "constant": is_constant(of_model),
            }
    modalities = {each.task.name: each.task.modality for each in samples}
    return {name: _with_means(figures, modalities) for name, figures in tasks.items()}


def _load(loader: Loader, task: str, batches: list[np.ndarray]) -> Iterator[dict[str, torch.Tensor]]:
    return loader.load([(("validation", task), numbers) for numbers in batches])


def _with_means(tasks: dict[str, dict[str, Any]], modalities: Mapping[str, str]) -> dict[str, Any]:
    means = {key: mean_of_defined(task[key] for task in tasks.values()) for key in ("loss", "mean_auroc")}
    figures = {"mean_loss": means["loss"], "mean_auroc": means["mean_auroc"], "tasks": tasks}
    known = dict.fromkeys(modalities.values())
    if len(known) > 1:
        figures["modalities"] = {
            modality: mean_of_defined(tasks[name]["mean_auroc"] for name in tasks if modalities[name] == modality)
            for modality in known
        }
    return figures


def _loss(logits: np.ndarray, targets: np.ndarray, task: ArkTask, criterion: Criterion) -> float:
    labels, problem_type = criterion(torch.from_numpy(targets), task)
    if not known_elements(labels, problem_type).any():
        return math.nan
    return masked_classification_loss(torch.from_numpy(logits), labels, problem_type).item()


def _positives(targets: np.ndarray, labels: list[str]) -> dict[str, int]:
    columns = one_vs_rest(targets, len(labels)) if targets.ndim == 1 else targets
    return dict(zip(labels, np.nansum(columns, axis=0).astype(int).tolist(), strict=True))
