"""
What the releases of Ark and Ark+ do otherwise than this trainer (specification of the originals, sections 5 to 8).

Each quirk is off unless `reproduce` names it. Those of models, gradients and labels are the functions of their names
below; `lr_by_val_loss` and `ema_index_by_pass` are in schedules.py.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from ...models.ark.configuration_ark import ArkTask
from ...models.ark.modeling_ark import ArkForImageClassification
from ..ema import batch_norms
from ..initial_weights import StartArguments, build_student


def zero_idle_grads(optimizer: torch.optim.Optimizer) -> None:
    """
    Before a step, a zero gradient for each parameter that has none now but had one once, as torch 1.13 leaves it.

    Momentum and weight decay then go on moving heads during the passes of other tasks. That a parameter had a gradient
    is read off the optimiser's state, which a checkpoint holds, so a restart changes nothing.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None and parameter in optimizer.state:
                parameter.grad = torch.zeros_like(parameter)


def independent_teacher(args: StartArguments, tasks: list[ArkTask]) -> ArkForImageClassification:
    """A teacher built as the student is, from another seed: what `init` does not cover differs between the two."""
    other_seed = args.seed + 2**31  # far away: another run's student should not start as this teacher
    return build_student(replace(args, seed=other_seed), tasks)[0]


def teacher_train_until_test(teacher: nn.Module, cycle: int) -> None:
    """
    Train mode, and so stochastic depth, in the first cycle (number 0), which ends with the releases' first test.

    That is so with their published commands. Batch norm, which the originals have none of, keeps to its averages.
    """
    teacher.train(cycle == 0)
    for norm in batch_norms(teacher):
        norm.eval()


def bce_everywhere(labels: torch.Tensor, task: ArkTask) -> tuple[torch.Tensor, str]:
    """
    Labels and problem type for binary cross-entropy, also of a single-label task (the MICCAI 2023 release).

    Returns:
        Class indices become float (batch, classes) of 0 and 1, a row of NaN where unknown; other labels stay.
    """
    if not labels.is_floating_point():
        one_hot = F.one_hot(labels.clamp(min=0), len(task.labels)).float()
        labels = one_hot.masked_fill((labels == -100)[:, None], torch.nan)
    return labels, "multi_label_classification"
