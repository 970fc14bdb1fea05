"""The teacher's exponential moving average (Ark paper, section 2), and what batch norm asks for beside it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import nn

from .sharding import own_parts


class MovingAverage:
    """
    The teacher as a moving average of its student.

    Covers parameters and the saved floating-point buffers, which are batch norm statistics (the originals have none);
    other buffers are copied. What is frozen in the student stays as it is, where a mean of equals would be rounded.
    Of sharded models each process does its parts.

    Args:
        teacher, student: Of one architecture, and where they will be trained. What is averaged with what is looked up
            here and not in every step, so their weights may be filled later, but not replaced.
    """

    @torch.no_grad()
    def __init__(self, teacher: nn.Module, student: nn.Module):
        ours, theirs = (own_parts(model.state_dict(keep_vars=True)) for model in (teacher, student))
        frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
        pairs = [(value, theirs[key]) for key, value in ours.items() if key not in frozen]
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self.teacher, self.student = [mine for mine, _ in averaged], [other for _, other in averaged]
        self.copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, in place."""
        torch._foreach_mul_(self.teacher, momentum)
        torch._foreach_add_(self.teacher, self.student, alpha=1 - momentum)  # lerp is one pass, but rounds otherwise
        for ours, theirs in self.copied:
            ours.copy_(theirs)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The modules of a model that normalise by a batch, or by running averages of batches."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def batch_statistics(norms: Sequence[nn.Module]) -> Iterator[None]:
    """
    Inside, these batch norms of a model in eval mode normalise by the batch as one that trains does, and leave their
    running averages as they are.
    """
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, was in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats = was


@torch.no_grad()
def share_statistics(student: nn.Module, accelerator: Accelerator) -> None:
    """Gives all processes the mean of their batch norm statistics: each has seen others, all keep one teacher."""
    if accelerator.num_processes == 1:
        return
    for norm in batch_norms(student):
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                statistic.copy_(accelerator.reduce(statistic, "mean"))
