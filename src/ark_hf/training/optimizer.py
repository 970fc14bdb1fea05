"""The optimiser of pretraining."""

import torch
from torch import nn


def create_optimizer(
    model: nn.Module, optim: str, learning_rate: float, weight_decay: float, device: torch.device
) -> torch.optim.Optimizer:
    """
    SGD with momentum 0.9, Nesterov's (`optim` "sgd") or plain ("momentum"), as timm names them; or AdamW ("adamw").
    Weight decay is for matrices and kernels alone.

    Args:
        device: Where the model will be trained: on CUDA a step of AdamW is one kernel for all weights.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (plain if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if optim == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, fused=True if device.type == "cuda" else None)
    # Not fused: torch's breaks off where a head has its first gradient later than the others
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=optim == "sgd")
