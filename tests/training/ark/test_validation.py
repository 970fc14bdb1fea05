"""Validation figures against plain numpy, on logits that are given."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ark_hf import ArkTask
from ark_hf.data.loader import Loader
from ark_hf.metrics.auroc import auroc
from ark_hf.models.ark.modeling_ark import ArkImageClassifierOutput
from ark_hf.training.ark.quirks import bce_everywhere
from ark_hf.training.ark.validation import validate

FINDINGS = ArkTask("findings", ["a", "b"])
CLASSES = ArkTask("classes", ["no", "bacterial", "viral"], "single_label_classification")
LOGITS = st.integers(-64, 64).map(lambda number: number / 8)  # probabilities tie only where logits do


class Samples:
    """Samples whose pictures are the logits themselves."""

    def __init__(self, task, logits, targets):
        self.task, self.rows, self.targets = task, logits, targets

    def __len__(self):
        return len(self.rows)

    def __getitems__(self, numbers):
        return [(self.rows[index], self.targets[index]) for index in numbers]

    def collate(self, samples):
        logits, targets = (torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))
        return {"pixel_values": logits[:, :, None, None], "labels": targets}


class Echo(torch.nn.Module):
    """A model that finds its logits in the pictures."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, pixel_values, task):
        return ArkImageClassifierOutput(logits=pixel_values.flatten(1))


def own_criterion(labels, task):
    return labels, task.problem_type


def figures(criterion, *samples, batch_size=3):
    loader = Loader(lambda: {("validation", each.task.name): each for each in samples}, 0)
    return validate({"echo": Echo()}, list(samples), criterion, Accelerator(), batch_size, loader)["echo"]


def cross_entropy(probabilities, targets):
    return -(targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities))


@given(
    arrays(np.float32, (7, 2), elements=LOGITS),
    arrays(np.float32, (7, 2), elements=st.sampled_from([0, 1, math.nan])),
    st.integers(1, 9),
)
@example(
    np.float32([[0, -7.875 * (row in (1, 6))] for row in range(7)]), np.float32([[1, row != 1] for row in range(7)]), 1
)
def test_multi_label_figures_are_means_over_what_is_known(logits, targets, batch_size):
    result = figures(own_criterion, Samples(FINDINGS, logits, targets), batch_size=batch_size)
    task = result["tasks"]["findings"]
    known = ~np.isnan(targets)
    losses = cross_entropy(1 / (1 + np.exp(-logits.astype(float))), targets)[known]
    assert task["loss"] == pytest.approx(losses.mean() if known.any() else math.nan, abs=1e-5, nan_ok=True)
    for column, label in enumerate(FINDINGS.labels):
        expected = auroc(targets[:, column], logits[:, column])
        assert task["auroc"][label] == pytest.approx(expected, nan_ok=True)
        assert task["positives"][label] == (targets[:, column] == 1).sum()
    assert task["samples"] == 7
    assert result["mean_loss"] == pytest.approx(task["loss"], nan_ok=True)


@pytest.mark.parametrize("criterion", [own_criterion, bce_everywhere])
@given(arrays(np.float32, (5, 3), elements=LOGITS), arrays(np.int64, 5, elements=st.sampled_from([0, 1, 2, -100])))
def test_single_label_loss_is_that_of_training(criterion, logits, targets):
    result = figures(criterion, Samples(CLASSES, logits, targets))["tasks"]["classes"]
    known = targets != -100
    if criterion is bce_everywhere:
        losses = cross_entropy(1 / (1 + np.exp(-logits.astype(float))), np.eye(3)[targets.clip(0)])[known]
    else:
        exponentials = np.exp(logits.astype(float))
        losses = -np.log(exponentials[np.arange(5), targets.clip(0)] / exponentials.sum(axis=1))[known]
    assert result["loss"] == pytest.approx(losses.mean() if known.any() else math.nan, abs=1e-5, nan_ok=True)


def test_means_are_plain_over_tasks_and_leave_undefined_ones_out():
    logits = np.array([[2.0, -1.0], [-1.0, 3.0], [0.5, 0.0]], np.float32)
    findings = Samples(FINDINGS, logits, np.array([[1, 0], [0, 1], [math.nan, 0]], np.float32))
    classes = Samples(CLASSES, np.zeros((2, 3), np.float32), np.array([0, 2]))
    nothing = Samples(ArkTask("nothing", ["a", "b"]), logits, np.full((3, 2), math.nan, np.float32))
    result = figures(own_criterion, findings, classes, nothing)
    tasks = result["tasks"]
    assert math.isnan(tasks["nothing"]["loss"]) and math.isnan(tasks["nothing"]["mean_auroc"])
    assert tasks["classes"]["loss"] == pytest.approx(math.log(3), abs=1e-6)
    assert result["mean_loss"] == pytest.approx((tasks["findings"]["loss"] + math.log(3)) / 2, abs=1e-6)
    assert result["mean_auroc"] == pytest.approx((1 + 0.5) / 2)
    nowhere = figures(own_criterion)
    assert math.isnan(nowhere["mean_loss"]) and math.isnan(nowhere["mean_auroc"]) and nowhere["tasks"] == {}


def test_the_mean_is_over_the_labels_that_the_task_evaluates():
    """As in fine-tuning: the best weights are those of the best mean of `eval_labels`."""
    task = ArkTask("findings", ["a", "b", "c"], eval_labels=["b"])
    logits = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], np.float32)
    result = figures(own_criterion, Samples(task, logits, np.array([[1, 1, 1], [0, 0, 0]], np.float32)))
    assert result["tasks"]["findings"]["auroc"] == {"a": 0, "b": 1, "c": 0}
    assert result["mean_auroc"] == result["tasks"]["findings"]["mean_auroc"] == 1
