"""
Weights shared out over processes by FSDP 2: those of the teacher as the student's, and whole where they are needed.

The student, its gradients and its optimiser are accelerate's part, which knows FSDP 2 on GPUs alone.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor


def check_sharding(accelerator: Accelerator, method: str) -> None:
    """
    Raises:
        ValueError: FSDP was asked for, and this method is not trained with it, it is not FSDP 2, or accelerate has
            silently gone on without it, as on CPUs.
    """
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"  # of accelerate's own launcher
    if accelerator.distributed_type != DistributedType.FSDP and not asked:
        return
    if method != "ark":
        raise ValueError(f"method: {method} is not trained with FSDP; launch it without --use_fsdp, for DDP.")
    if accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            f"FSDP was asked for, but accelerate gives {accelerator.distributed_type.value}: it shards on several "
            "GPUs alone. Launch the run there, or without --use_fsdp."
        )
    if not accelerator.is_fsdp2:
        raise ValueError("This is FSDP 1, which is not supported; launch with --use_fsdp --fsdp_version 2.")


def prepare_to_shard(accelerator: Accelerator, model: Any) -> None:
    """
    Tells accelerate which of the blocks that any Ark may have this one has, the units of its sharding, and to leave
    mixed precision to autocast, as without FSDP: weights that FSDP casts do not fit the masks beside them.
    """
    plugin = accelerator.state.fsdp_plugin
    plugin.mixed_precision_policy = None
    if plugin.transformer_cls_names_to_wrap is None:
        present = {type(module).__name__ for module in model.modules()}
        plugin.transformer_cls_names_to_wrap = [name for name in model._no_split_modules if name in present]


def shard_as(student: nn.Module, teacher: nn.Module) -> None:
    """Shards the teacher as the student is, so that each process holds the same parts of both."""
    mesh = next(student.parameters()).device_mesh
    for name, module in reversed(list(student.named_modules())):  # what is inside comes first
        if isinstance(module, FSDPModule):
            # The root, too: no backward pass follows that would take its weights back
            fully_shard(teacher.get_submodule(name), mesh=mesh, reshard_after_forward=True)


def begin_states(optimizer: torch.optim.Optimizer) -> None:
    """
    Gives each parameter the state that its first step begins with. Heads that have not had their turn have none, which
    sharded checkpoints cannot read.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(optimizer, torch.optim.AdamW):
                device = parameter.device if group["fused"] or group["capturable"] else "cpu"
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.zeros((), device=device), **moments}
            else:
                optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}


def own_parts(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a state what this process holds: of sharded weights its part, in the same memory; everything else whole."""
    return {key: value.to_local() if isinstance(value, DTensor) else value for key, value in state.items()}


def whole_weights(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """
    A sharded model's state, whole and on the CPU of the main process, empty elsewhere; None of a model that is not
    sharded. All processes have to ask for it.
    """
    if not _units([model]):
        return None
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


class WholeState:
    """A sharded model in a checkpoint: whole, so that any number of processes can read it."""

    def __init__(self, model: nn.Module):
        self.model = model

    def state_dict(self) -> dict[str, torch.Tensor] | None:
        return whole_weights(self.model)

    def load_state_dict(self, values: dict[str, torch.Tensor]) -> None:
        set_model_state_dict(self.model, values, options=StateDictOptions(full_state_dict=True))


@contextmanager
def gathered(models: Sequence[nn.Module]) -> Iterator[None]:
    """Has every process hold the models whole: they may then look at images one by one, and some at more of them."""
    units = _units(models)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(True, recurse=False)


def _units(models: Sequence[nn.Module]) -> list[Any]:
    return [module for model in models for module in model.modules() if isinstance(module, FSDPModule)]
