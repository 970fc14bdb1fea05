"""The optimiser of pretraining."""

import torch
from torch import nn

from .ark.recipe import PretrainingArguments


def create_optimizer(model: nn.Module, args: PretrainingArguments) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum 0.9, or AdamW; weight decay is for matrices and kernels alone."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (plain if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if args.optim == "adamw":
        return torch.optim.AdamW(groups, lr=args.learning_rate)
    return torch.optim.SGD(groups, lr=args.learning_rate, momentum=0.9, nesterov=True)
