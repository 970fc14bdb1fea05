"""The teacher's exponential moving average (Ark paper, section 2)."""

import torch
from accelerate import Accelerator
from torch import nn


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """
    teacher <- momentum * teacher + (1 - momentum) * student, in place.

    Covers parameters and the saved floating-point buffers, which are batch norm statistics (the originals have none);
    other buffers are copied. What is frozen in the student stays as it is, where a mean of equals would be rounded.
    """
    ours, theirs = teacher.state_dict(), student.state_dict()
    for key, parameter in student.named_parameters():
        if not parameter.requires_grad:
            del ours[key]
    averaged = [key for key, value in ours.items() if value.is_floating_point()]
    mine = [ours[key] for key in averaged]
    torch._foreach_mul_(mine, momentum)
    torch._foreach_add_(mine, [theirs[key].to(ours[key]) for key in averaged], alpha=1 - momentum)
    for key in ours.keys() - set(averaged):
        ours[key].copy_(theirs[key])


@torch.no_grad()
def share_statistics(student: nn.Module, accelerator: Accelerator) -> None:
    """Gives all processes the mean of their batch norm statistics: each has seen others, all keep one teacher."""
    if accelerator.num_processes == 1:
        return
    for module in student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    statistic.copy_(accelerator.reduce(statistic, "mean"))
