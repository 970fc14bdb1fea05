"""
What test_sharding.py runs in two processes, with their weights sharded by FSDP 2 on the CPU.

accelerate shards on GPUs alone and trains by DDP elsewhere; all that keeps it from sharding here is the kind of
training that its state names, which is put right below. Everything after that is what runs on GPUs.
"""

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from ark_hf import ArkConfig, ArkForImageClassification, CyclicPretrainer, PretrainingArguments
from ark_hf.training.ark.recipe import TaskSpec
from ark_hf.training.ark.tasks import load_tasks
from ark_hf.training.ema import MovingAverage
from ark_hf.training.sharding import gathered, shard_as, whole_weights

DIES_AT = 5


def sharding_accelerator(mixed_precision: str) -> Accelerator:
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin, mixed_precision=mixed_precision)
    PartialState._shared_state["distributed_type"] = accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    if mixed_precision != "no":
        plugin.set_mixed_precision(mixed_precision)
    assert accelerator.is_fsdp2 and accelerator.num_processes == 2
    return accelerator


def train(recipe: Path, folder: Path, dies_at: int | None = None) -> None:
    settings = yaml.safe_load(recipe.read_text())
    tasks = load_tasks([TaskSpec(**task) for task in settings.pop("tasks")], ".")
    args = PretrainingArguments(output_dir=str(folder), **settings)
    trainer = CyclicPretrainer(args, tasks, accelerator=sharding_accelerator(args.mixed_precision))
    blocks = [module for module in trainer.teacher.modules() if isinstance(module, FSDPModule)]
    kinds = {type(block).__name__ for block in blocks}
    assert kinds == {"FSDPSwinTransformerBlock", "FSDPArkForImageClassification"}, kinds
    for model in (trainer.student, trainer.teacher):
        held = sum(parameter.to_local().numel() for parameter in model.parameters())
        assert held < 0.6 * sum(parameter.numel() for parameter in model.parameters())
    if dies_at is None:
        trainer.train()
        return
    trainer.run.begin({})
    for _ in trainer.cycle_steps():
        if trainer.state.step % args.save_steps == 0:
            trainer.run.save_checkpoint()
        if trainer.state.step == dies_at:
            break


def check_pairs() -> None:
    """A step and a moving average of a network with batch norms, sharded by hand, beside those of whole models."""
    torch.manual_seed(0)
    config = ArkConfig(backbone="test_efficientnet", image_size=32, projector_dim=8, num_labels=3, drop_path_rate=0.0)
    config.problem_type = "multi_label_classification"
    pictures, labels = torch.randn(4, 3, 32, 32), torch.rand(4, 3)
    student = ArkForImageClassification(config).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    sharded, sharded_teacher = copy.deepcopy(student), copy.deepcopy(teacher)
    mesh = init_device_mesh("cpu", (2,))
    for stage in sharded.ark.encoder.blocks:
        fully_shard(stage, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    shard_as(sharded, sharded_teacher)
    for of, model in ((teacher, student), (sharded_teacher, sharded)):
        optimizer, average = torch.optim.SGD(model.parameters(), lr=0.1), MovingAverage(of, model)
        for _ in range(2):
            of(pictures)  # what a call has gathered must not hide the parts that the average changes
            model(pictures, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update(0.5)
    assert all(isinstance(parameter, DTensor) for parameter in sharded_teacher.parameters())
    with gathered([sharded_teacher]), torch.no_grad():
        for _ in range(1 + dist.get_rank()):  # one looks at more than the other
            torch.testing.assert_close(sharded_teacher(pictures).logits, teacher(pictures).logits)
    weights = whole_weights(sharded_teacher)
    if dist.get_rank() == 0:
        torch.testing.assert_close(weights, dict(teacher.state_dict()))


if __name__ == "__main__":
    recipe, folder = map(Path, sys.argv[1:])
    Accelerator.end_training = lambda self: None  # it parts the processes for good
    train(recipe, folder / "whole")
    train(recipe, folder / "killed", DIES_AT)
    train(recipe, folder / "killed")
    check_pairs()
    dist.destroy_process_group()
