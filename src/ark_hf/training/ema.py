"""The teacher's exponential moving average and the schedules that steer it (Ark paper, section 2)."""

import math

import torch
from torch import nn


def cosine_schedule(
    start: float, end: float, index: int, length: int, warmup: int = 0, warmup_start: float = 0.0
) -> float:
    """
    Value number `index` (from 0) of `length` values: the first `warmup` rise in a line from `warmup_start` to `start`,
    the others follow a cosine from `start` to `end`, which is never reached.
    """
    if index < warmup:
        return warmup_start + (start - warmup_start) * index / max(warmup - 1, 1)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * (index - warmup) / (length - warmup)))


def consistency_coefficient(momentum: float, initial_momentum: float, maximum: float) -> float:
    """Weight of the consistency loss: rises from 0 to `maximum` as the momentum rises from its start to 1."""
    return maximum * (momentum - initial_momentum) / (1 - initial_momentum)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """
    teacher <- momentum * teacher + (1 - momentum) * student, in place.

    Covers parameters and the saved floating-point buffers, which are batch norm statistics (the originals have none);
    other buffers are copied.
    """
    ours, theirs = teacher.state_dict(), student.state_dict()
    averaged = [key for key, value in ours.items() if value.is_floating_point()]
    mine = [ours[key] for key in averaged]
    torch._foreach_mul_(mine, momentum)
    torch._foreach_add_(mine, [theirs[key].to(ours[key]) for key in averaged], alpha=1 - momentum)
    for key in ours.keys() - set(averaged):
        ours[key].copy_(theirs[key])
