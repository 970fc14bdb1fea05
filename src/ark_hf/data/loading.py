"""Batches for training and prediction: views, targets and order, each a function of (seed, cycle, task, sample)."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ..models.ark.configuration_ark import ArkTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from .task_dataset import resolve_labels
from .views import sample_generator, student_view

PADDING = -1
ORDER_STREAM = 2**32 - 1  # stands where a sample's number does, so that the order shares no sample's draws


@dataclass(frozen=True)
class ViewSettings:
    """How the student sees a radiograph; see [`student_view`]."""

    resize: int
    size: int
    min_crop_scale: float
    teacher_view: str


def pass_order(length: int, seed: int, cycle: int, task: str) -> np.ndarray:
    """Order in which a pass visits the samples, int64 (length,)."""
    return np.random.default_rng([seed, cycle, zlib.crc32(task.encode()), ORDER_STREAM]).permutation(length)


def micro_batches(step_samples: np.ndarray, num_processes: int, accumulation: int) -> list[list[np.ndarray]]:
    """
    Shares the samples of one optimiser step among micro-batches and processes.

    Returns:
        For each micro-batch one index array a process. A process without samples in a micro-batch that others have
        gets one `PADDING` sample, which counts for nothing in the losses: all processes must run the same number of
        passes. Micro-batches that nobody has samples for are left out.
    """
    shares = np.array_split(step_samples, num_processes * accumulation)
    groups = [shares[i : i + num_processes] for i in range(0, len(shares), num_processes)]
    return [
        [share if len(share) else np.array([PADDING]) for share in group]
        for group in groups
        if any(len(share) for share in group)
    ]


def grey_plane(image: PIL.Image.Image, processor: ArkImageProcessor) -> torch.Tensor:
    """One stored picture as (1, H, W), uint8 or, above 8 bits, float32 in [0, 1]."""
    if image.mode not in ("L", "I", "F") and not image.mode.startswith("I;"):
        image = image.convert("L")
    return processor.process_image(image, do_convert_rgb=False)


def read_row(dataset: Dataset, index: int, task: ArkTask, processor: ArkImageProcessor) -> tuple[torch.Tensor, Any]:
    """The picture of a row, as [`grey_plane`] gives it, and its labels; `ValueError` names a row that has none."""
    try:
        row = dataset[index]
        return grey_plane(row["image"], processor), row["labels"]
    except Exception as error:  # Pillow and its codecs raise anything on a damaged file
        raise ValueError(
            f"Task {task.name!r}, row {index}: the image cannot be decoded ({type(error).__name__}). Rebuild it."
        ) from error


class TrainingSamples(TorchDataset):
    """Samples of one task in one cycle: views and target of row `index`; `PADDING` gives row 0 with weight 0."""

    def __init__(
        self, dataset: Dataset, task: ArkTask, uncertain: str, processor, views: ViewSettings, seed: int, cycle: int
    ):
        self.dataset, self.task, self.uncertain = dataset, task, uncertain
        self.processor, self.views, self.seed, self.cycle = processor, views, seed, cycle

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        row = max(int(index), 0)
        image, labels = read_row(self.dataset, row, self.task, self.processor)
        generator = sample_generator(self.seed, self.cycle, self.task.name, row)
        target = resolve_labels(labels, self.task, self.uncertain, generator)
        view, crop = student_view(image, self.views.resize, self.views.size, self.views.min_crop_scale, generator)
        teacher = crop if self.views.teacher_view == "student" else image
        return {"student": view, "teacher": teacher, "target": target, "weight": float(index != PADDING)}

    def collate(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        """
        `pixel_values`, `teacher_pixel_values` (batch, 3, size, size), `labels`, `weight` (batch,).

        Raises:
            ValueError: A multi-label target lies outside [0, 1].
        """
        labels = torch.from_numpy(np.stack([sample["target"] for sample in samples]))
        if labels.is_floating_point() and ((labels < 0) | (labels > 1)).any():
            raise ValueError(f"Task {self.task.name!r}: targets must lie in [0, 1] or be NaN, got {labels.tolist()}.")
        resize = self.views.teacher_view != "student"
        student = self.processor([sample["student"] for sample in samples], do_resize=False, return_tensors="pt")
        teacher = self.processor([sample["teacher"] for sample in samples], do_resize=resize, return_tensors="pt")
        return {
            "pixel_values": student["pixel_values"],
            "teacher_pixel_values": teacher["pixel_values"],
            "labels": labels,
            "weight": torch.tensor([sample["weight"] for sample in samples]),
        }


class InferenceSamples(TorchDataset):
    """Rows of a task dataset through the image processor, with their targets; uncertain labels count as unknown."""

    def __init__(self, dataset: Dataset, task: ArkTask, processor):
        self.dataset, self.task, self.processor = dataset, task, processor

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        image, labels = read_row(self.dataset, int(index), self.task, self.processor)
        return {"image": image, "target": resolve_labels(labels, self.task)}

    def collate(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        """`pixel_values` (batch, 3, size, size), or (batch, 10, 3, size, size) of ten crops, and `labels`."""
        pixel_values = self.processor([sample["image"] for sample in samples], return_tensors="pt")["pixel_values"]
        return {
            "pixel_values": pixel_values,
            "labels": torch.from_numpy(np.stack([sample["target"] for sample in samples])),
        }


def iterate(
    samples: TrainingSamples | InferenceSamples, batches: list[np.ndarray], num_workers: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Loads the given index batches in order."""
    return iter(
        DataLoader(samples, batch_sampler=batches, collate_fn=samples.collate, num_workers=num_workers)  # type: ignore[arg-type]
    )
