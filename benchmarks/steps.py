"""What the benchmarks of speed time: a step of training, and one of inference, on random pictures."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ark_hf import ArkConfig, ArkForImageClassification, ArkTask
from ark_hf.models.compile_blocks import compile_blocks

HEADS = (14, 14, 14, 3, 6, 1)  # labels of the released models' heads
FORWARDS = {"training": 4, "inference": 1}  # forward passes that the work on a picture comes to


def build(model: dict[str, Any], attention: str | None) -> Any:
    tasks = [ArkTask(f"task{n}", [str(label) for label in range(size)]) for n, size in enumerate(HEADS)]
    return ArkForImageClassification(ArkConfig(**model, tasks=tasks, attn_implementation=attention))


def forward_flops(model: dict[str, Any]) -> int:
    """Of one picture through encoder and projector, counted on tensors without values."""
    with torch.device("meta"):
        ark = build(model, "eager").ark.eval()  # the counter does not know every fused attention
        pictures = torch.empty(1, 3, model["image_size"], model["image_size"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ark(pictures)
    return counter.get_total_flops()


def training_step(
    student: Any, pictures: torch.Tensor, dtype: torch.dtype, compiled: bool = False
) -> Callable[[], None]:
    teacher = copy.deepcopy(student).ark.eval().requires_grad_(False)
    student.train()
    if compiled:
        compile_blocks(student)
        compile_blocks(teacher)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    task = student.config.tasks[0]
    labels = torch.randint(2, (len(pictures), len(task.labels)), device=pictures.device).float()

    def step() -> None:
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = student(pictures, task=task.name, labels=labels)
            with torch.no_grad():
                target = teacher(pictures).embeddings
        loss = (outputs.loss + F.mse_loss(outputs.embeddings.float(), target.float())) / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def inference_step(
    model: Any, pictures: torch.Tensor, dtype: torch.dtype, compiled: bool = False
) -> Callable[[], None]:
    model.eval().to(dtype)
    if compiled:
        compile_blocks(model)
    pictures = pictures.to(dtype)

    @torch.inference_mode()
    def step() -> None:
        model(pictures)

    return step
