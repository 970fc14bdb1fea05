"""The loss by its definition, on drawn outputs."""

import pytest
import torch
from torch.nn import functional as F

from ark_hf.training.genesis.objective import restoration_loss


@pytest.fixture
def drawn():
    torch.manual_seed(0)
    return torch.randn(5, 1, 4, 6, 8), torch.rand(5, 1, 4, 6, 8)


def test_loss_is_that_of_the_specification(drawn):
    logits, target = drawn
    weight = torch.ones(5)
    found = restoration_loss(logits, target, weight, weight.sum())
    torch.testing.assert_close(found, F.mse_loss(logits.sigmoid(), target))
    half = restoration_loss(logits.bfloat16(), target.bfloat16(), weight, weight.sum())
    assert half.dtype == torch.float32 and half == pytest.approx(found.item(), rel=1e-2)


def test_shares_of_a_batch_add_up_and_a_padding_counts_for_nothing(drawn):
    logits, target = drawn
    weight = torch.tensor([1.0, 1, 1, 1, 0])
    parts = [
        restoration_loss(logits[rows], target[rows], weight[rows], weight.sum()) for rows in (slice(3), slice(3, 5))
    ]
    torch.testing.assert_close(sum(parts), F.mse_loss(logits[:4].sigmoid(), target[:4]))


def test_a_batch_of_paddings_has_a_gradient_of_zero(drawn):
    logits, target = drawn
    logits.requires_grad_()
    loss = restoration_loss(logits, target, torch.zeros(5), torch.tensor(0.0))
    loss.backward()
    assert loss == 0 and not logits.grad.any()
