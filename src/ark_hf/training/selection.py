"""By what weights are chosen: the AUROC of each label on the validation split, and the mean that must be the best."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..evaluation.scoring import evaluated_columns
from ..metrics.auroc import auroc, one_vs_rest
from ..models.ark.configuration_ark import ArkTask


def label_aurocs(scores: np.ndarray, targets: np.ndarray, task: ArkTask) -> dict[str, Any]:
    """
    `auroc` by label and their mean over the evaluated labels, `mean_auroc`; NaN where a label has one class only.

    Args:
        scores: (rows, labels) probabilities.
        targets: float (rows, labels), NaN unknown, or int (rows,), -100 unknown.
    """
    if targets.ndim == 1:
        targets = one_vs_rest(targets, len(task.labels))
    aurocs = [auroc(targets[:, column], scores[:, column]) for column in range(len(task.labels))]
    mean = mean_of_defined(aurocs[column] for column in evaluated_columns(task))
    return {"mean_auroc": mean, "auroc": dict(zip(task.labels, aurocs, strict=True))}


def mean_of_defined(values: Iterable[float]) -> float:
    """The mean of those that are not NaN; NaN if all are."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
