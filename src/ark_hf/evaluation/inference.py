"""Probabilities of a model's head over a task dataset, on one process or shared among several."""

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..data.loading import InferenceSamples, iterate
from ..models.ark.configuration_ark import ArkTask
from ..models.ark.modeling_ark import ArkForImageClassification


def head_probabilities(logits: torch.Tensor, task: ArkTask) -> torch.Tensor:
    """(batch, labels) raw logits of the task's head to probabilities: a sigmoid a label, or a softmax."""
    return logits.sigmoid() if task.problem_type == "multi_label_classification" else logits.softmax(dim=-1)


@torch.no_grad()
def predict_task(
    model: ArkForImageClassification,
    samples: InferenceSamples,
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int = 0,
    description: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Runs one head over all samples; every process gets all rows.

    Returns:
        Probabilities, float64 (samples, labels), and targets: float (samples, labels) with NaN unknown, or int
        (samples,) with -100 unknown.
    """
    task = samples.task
    rows = np.arange(len(samples))[accelerator.process_index :: accelerator.num_processes]
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    was_training = model.training
    model.eval()
    parts = []
    progress = tqdm(
        iterate(samples, batches, num_workers),
        total=len(batches),
        desc=description,
        disable=description is None or not accelerator.is_main_process,
        leave=False,
    )
    for batch in progress:
        with accelerator.autocast():
            logits = model(batch["pixel_values"].to(accelerator.device), task=task.name).logits
        parts.append((head_probabilities(logits.double(), task).cpu().numpy(), batch["labels"].numpy()))
    model.train(was_training)

    gathered = gather_object(
        list(zip(rows.tolist(), *(np.concatenate(part) for part in zip(*parts, strict=True)), strict=True))
        if parts
        else []
    )
    gathered.sort(key=lambda row: row[0])
    return np.stack([row[1] for row in gathered]), np.stack([row[2] for row in gathered])
