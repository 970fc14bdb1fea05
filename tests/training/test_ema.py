"""The teacher's moving average: what it averages, to the bit, and what it leaves alone."""

import copy

import pytest
import torch
from torch import nn

from ark_hf.training.ema import MovingAverage


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5), nn.Linear(5, 4))
    model[4].requires_grad_(False)
    model(torch.randn(6, 3, 3, 3))  # moves the statistics
    return model


@pytest.mark.parametrize("momentum", [0.9, 0.99973, 1.0])
def test_it_is_the_formula_to_the_bit(momentum):
    teacher, student = network(0), network(1)
    student[1].num_batches_tracked += 6
    before = copy.deepcopy(teacher.state_dict())
    MovingAverage(teacher, student).update(momentum)
    for key, theirs in student.state_dict().items():
        expected = before[key].clone()
        if key == "1.num_batches_tracked":
            expected = theirs
        elif not key.startswith("4."):  # frozen
            expected.mul_(momentum).add_(theirs, alpha=1 - momentum)
        assert torch.equal(teacher.state_dict()[key], expected), key
    assert teacher[1].num_batches_tracked == 7


def test_weights_that_are_filled_or_moved_later_count():
    teacher, student = network(0), network(1)
    average = MovingAverage(teacher, student)
    student.load_state_dict(network(2).state_dict())
    student.to(memory_format=torch.channels_last)
    student[3].weight.data = student[3].weight.data.clone()
    expected = copy.deepcopy(teacher)
    MovingAverage(expected, network(2)).update(0.5)
    average.update(0.5)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), expected.parameters(), strict=True))
