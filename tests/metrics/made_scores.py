"""Scores of a model that was never run, for tests of what is reported about them."""

import numpy as np
from scipy.special import expit, softmax

from ark_hf.data.open_dataset import TaskDataset
from ark_hf.evaluation.scoring import ScoredTask
from ark_hf.metrics.auroc import one_vs_rest
from ark_hf.models.ark.configuration_ark import ArkTask

PATIENT = "Sentinel-Patient"


def made_scores(task: ArkTask, count: int = 120, seed: int = 0) -> tuple[TaskDataset, ScoredTask, dict]:
    """A task's data without images, scores of AUROC 0.8 or so, some labels unknown, and groups by sex."""
    rng = np.random.default_rng(seed)
    patients = [f"{PATIENT}-{number // 2}" for number in range(count)]
    groups = {"sex": [("F", "M")[number // 2 % 2] for number in range(count)]}
    classes = None
    if task.problem_type == "single_label_classification":
        classes = rng.integers(0, len(task.labels), count)
        classes[:4] = -100
        labels = one_vs_rest(classes, len(task.labels))
        logits = rng.normal(2 * np.nan_to_num(labels), 1)
        probabilities = softmax(logits, axis=1)
    else:
        labels = (rng.random((count, len(task.labels))) < 0.4).astype(float)
        labels[rng.random(labels.shape) < 0.05] = np.nan
        logits = rng.normal(2 * np.nan_to_num(labels) - 1, 1)
        probabilities = expit(logits)
    data = TaskDataset(f"/somewhere/private/{task.name}", task, {})
    return data, ScoredTask("test", probabilities, labels, classes, patients, logits), groups
