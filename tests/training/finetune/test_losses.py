"""Losses of fine-tuning against torch's, torchvision's and numbers worked by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ark_hf.models.ark.heads_ark import masked_classification_loss
from ark_hf.training.finetune.losses import FinetuningLoss, class_weights

MULTI, SINGLE = "multi_label_classification", "single_label_classification"


@pytest.fixture
def logits():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def targets():
    return torch.randint(0, 2, (6, 4), generator=torch.Generator().manual_seed(1)).float()


def loss_of(logits, labels, problem_type=MULTI, num_items=None, **settings):
    return FinetuningLoss(problem_type, **settings)(SimpleNamespace(logits=logits), labels, num_items)


def test_without_weights_it_is_the_models_own_masked_loss(logits, targets):
    targets[0, 1] = targets[3] = torch.nan
    targets[5, 2] = 0.7  # a smoothed label
    expected = masked_classification_loss(logits, targets, MULTI)
    assert torch.allclose(loss_of(logits, targets.nan_to_num(nan=-100)), expected)
    classes = torch.tensor([0, 3, -100, 2, 1, 1])
    expected = masked_classification_loss(logits, classes, SINGLE)
    assert torch.allclose(loss_of(logits, classes, SINGLE), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_is_torchvisions(logits, targets, gamma):
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma, reduction="mean")
    assert torch.allclose(loss_of(logits, targets, loss="focal", focal_gamma=gamma), expected)
    weighted = torch.tensor([[0.75], [0.25]]).expand(2, 4)  # of absence and of presence
    expected = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=gamma, reduction="mean")
    assert torch.allclose(loss_of(logits, targets, loss="focal", focal_gamma=gamma, class_weights=weighted), expected)


def test_the_focal_loss_of_classes():
    # p = (0.5, 0.25, 0.25): weight 2 on class 1, -2 (1 - 0.25)^2 log(0.25)
    logits = torch.tensor([[2.0, 1.0, 1.0]]).log()
    loss = loss_of(logits, torch.tensor([1]), SINGLE, loss="focal", class_weights=torch.tensor([1.0, 2.0, 1.0]))
    assert loss.item() == pytest.approx(2 * 0.5625 * np.log(4))
    unweighted = loss_of(logits.repeat(3, 1), torch.tensor([0, 1, 2]), SINGLE)
    assert torch.allclose(unweighted, F.cross_entropy(logits.repeat(3, 1), torch.tensor([0, 1, 2])))


def test_micro_batches_add_up_to_the_mean_over_the_known(logits, targets):
    targets[0] = targets[1, :3] = -100
    whole = loss_of(logits, targets)
    known = (targets != -100).sum()
    parts = [loss_of(logits[rows], targets[rows], num_items=known) for rows in (slice(0, 2), slice(2, 6))]
    assert torch.allclose(sum(parts), whole)


def test_nothing_known_is_zero_with_a_graph():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = loss_of(logits, torch.full((2, 3), -100.0), loss="focal")
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros(2, 3))


def test_certain_logits_stay_finite():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss_of(logits, torch.tensor([[0.0, 1.0]]), loss="focal").backward()
    assert logits.grad.isfinite().all()


def test_balanced_weights_by_hand():
    # 6 images of classes 3, 2, 1: 6 / (3 n)
    targets = np.eye(3)[[0, 0, 0, 1, 1, 2]]
    weights = class_weights(targets, SINGLE, "balanced")
    assert torch.allclose(weights, torch.tensor([2 / 3, 1.0, 2.0]))
    # One of four has the first label; the second is known for two, one of each
    targets = np.array([[1, np.nan], [0, np.nan], [0, 1], [0, 0]])
    weights = class_weights(targets, MULTI, "balanced")
    assert torch.allclose(weights, torch.tensor([[4 / 6, 1.0], [2.0, 1.0]]))


def test_effective_weights_by_hand():
    # beta 0.5: E_n = (1 - 0.5^n) / 0.5, so 1/E is 0.5/0.875, 0.5/0.75, 0.5/0.5; they sum to 2.238095, scaled to 3
    targets = np.eye(3)[[0, 0, 0, 1, 1, 2]]
    weights = class_weights(targets, SINGLE, "effective", beta=0.5)
    raw = np.array([4 / 7, 2 / 3, 1])
    assert np.allclose(weights, raw * 3 / raw.sum())
    even = class_weights(targets, SINGLE, "effective", beta=0.0)
    assert torch.allclose(even, torch.ones(3))
    steep = class_weights(targets, SINGLE, "effective", beta=1 - 1e-9)
    assert np.allclose(steep, np.array([2, 3, 6]) * 3 / 11, atol=1e-5)  # the inverse frequency


@pytest.mark.parametrize("weighting", ["balanced", "effective"])
def test_a_class_that_is_not_there_weighs_nothing(weighting):
    weights = class_weights(np.eye(3)[[0, 0, 1]], SINGLE, weighting)
    assert weights[2] == 0 and weights.isfinite().all()
    one_sided = class_weights(np.array([[1.0, 1], [1, 0]]), MULTI, weighting)
    assert one_sided[0, 0] == 0 and one_sided.isfinite().all()
    assert class_weights(np.eye(3), SINGLE, "none") is None


@pytest.mark.parametrize("weighting", ["balanced", "effective"])
def test_a_label_that_no_image_of_train_knows_gives_no_nan(weighting):
    weights = class_weights(np.array([[1.0, np.nan], [0, np.nan]]), MULTI, weighting)
    assert torch.equal(weights, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    logits = torch.zeros(2, 2, requires_grad=True)
    loss_of(logits, torch.tensor([[1.0, -100], [0, -100]]), class_weights=weights).backward()
    assert torch.allclose(logits.grad, torch.tensor([[-0.25, 0], [0.25, 0]]))
