"""Batches for training and prediction: views, targets and order, each a function of (seed, cycle, task, sample)."""

import copy
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from datasets import Dataset, Image, List
from torch.utils.data import Dataset as TorchDataset

from ..models.ark.configuration_ark import ArkTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.tasks_ark import is_in_colour
from .images.image_files import UnreadableImageError, open_image_file
from .loader import Loader, to_device
from .radiograph import grey_values, open_radiograph, picture_values
from .streaming import StreamedRows
from .task_dataset import resolve_labels
from .unlabelled import AnyTask
from .views import draw_view, sample_generator, student_view

ORDER_STREAM = 2**32 - 1  # stands where a sample's number does, so that the order shares no sample's draws
PIECE = 8  # pictures that are normalised at once, so that they stay in the processor's cache


# All views of some pictures by name, each a list in the pictures' order of (C, H, W) tensors that can be stacked, from
# the pictures as [`stored_picture`] gives them, and a generator of everything random for each
Views = Callable[[list[torch.Tensor], list[np.random.Generator], ArkImageProcessor], dict[str, list[torch.Tensor]]]


@dataclass(frozen=True)
class ViewSettings:
    """
    The two views of pretraining: `pixel_values`, the student's (see [`draw_view`]), and `teacher_pixel_values`.

    The teacher's is the whole picture as the image processor resizes it, or with `teacher_view` "student" the
    student's before the change of intensities.
    """

    resize: int
    size: int
    min_crop_scale: float
    teacher_view: str

    def __call__(
        self, pictures: list[torch.Tensor], generators: list[np.random.Generator], processor: ArkImageProcessor
    ) -> dict[str, list[torch.Tensor]]:
        views = [draw_view(self.resize, self.min_crop_scale, generator) for generator in generators]
        seen = [
            student_view(picture, view, self.resize, self.size) for picture, view in zip(pictures, views, strict=True)
        ]
        if self.teacher_view == "student":
            teachers = [crop for _, crop in seen]
        else:
            unscaled: dict[str, Any] = {"do_convert_rgb": False, "do_rescale": False, "do_normalize": False}
            teachers = processor(pictures, **unscaled)["pixel_values"]
        return {"pixel_values": [student for student, _ in seen], "teacher_pixel_values": teachers}


def pass_order(rows: Sized, seed: int, cycle: int, task: str) -> np.ndarray:
    """
    Row numbers in the order in which a pass visits them, int64 (rows,): a permutation.

    That of a stream keeps to [`StreamedRows.shuffled`], so the two kinds of rows differ in order, and in that alone.
    """
    generator = np.random.default_rng([seed, cycle, zlib.crc32(task.encode()), ORDER_STREAM])
    return rows.shuffled(generator) if isinstance(rows, StreamedRows) else generator.permutation(len(rows))


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_process() -> int:
    """This process's share of the usable cores, of which launchers of several processes say how many there are."""
    return usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def default_num_workers(device: torch.device) -> int:
    """
    Loader processes where none are asked for.

    On the CPU training itself needs the cores. Beside a GPU it is the process's share of them less its own, at most 8.
    """
    if device.type == "cpu":
        return 0
    return min(max(cores_of_process() - 1, 0), 8)


def micro_batches(step_samples: np.ndarray, num_processes: int, accumulation: int) -> list[list[np.ndarray]]:
    """
    Shares the samples of one optimiser step among micro-batches and processes.

    Returns:
        For each micro-batch one index array a process. A process without samples in a micro-batch that others have
        gets a padding, ~n for the step's first sample n, which counts for nothing in the losses: all processes must
        run the same number of passes. Micro-batches that nobody has samples for are left out.
    """
    shares = np.array_split(step_samples, num_processes * accumulation)
    groups = [shares[i : i + num_processes] for i in range(0, len(shares), num_processes)]
    return [
        [share if len(share) else ~step_samples[:1] for share in group]
        for group in groups
        if any(len(share) for share in group)
    ]


def stored_picture(image: PIL.Image.Image | np.ndarray, processor: ArkImageProcessor, in_colour: bool) -> torch.Tensor:
    """
    One stored picture, see [`open_stored`], as (1, H, W), or `in_colour` as (3, H, W) whether it has colours or not;
    uint8 or, above 8 bits, float32 in [0, 1].
    """
    if in_colour:
        picture = processor.process_image(picture_values(image, in_colour), do_convert_rgb=False)
        return picture.expand(3, -1, -1)
    if isinstance(image, np.ndarray):
        return processor.process_image(grey_values(image), do_convert_rgb=False)
    if image.mode not in ("L", "I", "F") and not image.mode.startswith("I;"):
        image = image.convert("L")
    return processor.process_image(image, do_convert_rgb=False)


def open_stored(image: dict[str, Any], in_colour: bool = False) -> PIL.Image.Image | np.ndarray:
    """
    A cell of an image column, for [`stored_picture`]: somebody else's may hold more than `datasets` decodes, and what
    Pillow would hand to other programs.
    """
    with stored_file(image) as (file, path):
        opened = open_radiograph(file, path, in_colour)
        return opened if isinstance(opened, np.ndarray) else PIL.ImageOps.exif_transpose(opened)


@contextmanager
def stored_file(cell: dict[str, Any]) -> Iterator[tuple[BinaryIO, Path]]:
    """What a cell of an image column holds, or the file of this machine that it names, open; addresses are refused."""
    path = Path(cell["path"] or "")
    if cell["bytes"] is not None:
        yield io.BytesIO(cell["bytes"]), path
    elif cell["path"]:
        with open_image_file(path, "store it anew") as file:
            yield file, path
    else:
        raise UnreadableImageError("the cell has neither bytes nor a path; leave the row out")


def open_rows(
    rows: Dataset, numbers: Iterable[int], in_colour: bool = False
) -> Iterator[PIL.Image.Image | np.ndarray]:
    """The pictures of single rows, see [`open_stored`]."""
    stored = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    for number in numbers:
        yield open_stored(stored[int(number)]["image"], in_colour)


def check_has_pictures(column_names: Iterable[str], name: str) -> None:
    """Raises `ValueError` if rows have volumes, which no Ark takes."""
    if "volume" in column_names:
        raise ValueError(f"{name} holds volumes, and this model takes pictures: give it a dataset of pictures.")


class RowSamples(TorchDataset):
    """
    Rows of one task as the loader takes them, a batch at a time.

    Each thing is done for all rows of a batch before the next: by turns, they would take a quarter longer.

    Args:
        rows: Loaded rows, which are asked for by number, or a stream, which hands them over.
        task: The task, whose name is a part of the seed of all that is drawn.
        processor: Makes the pictures of the right size, as it does for the task's modality.
    """

    def __init__(self, rows: Dataset | StreamedRows, task: AnyTask, processor: ArkImageProcessor):
        check_has_pictures(rows.column_names, task.name)
        self.rows, self.task, self.processor = rows, task, processor.of(task.modality)
        self.in_colour = is_in_colour(task.modality)
        if isinstance(rows, Dataset):
            encoded: dict[str, Any] = {"image": Image(decode=False), "masks": List(Image(decode=False))}
            names = [name for name in (*encoded, "labels", "image_id") if name in rows.column_names]
            self.stored = rows.select_columns(names)
            for name in encoded.keys() & set(names):
                self.stored = self.stored.cast_column(name, encoded[name])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict:
        return self.__getitems__([number])[0]

    def __getitems__(self, batch: Iterable) -> list[dict]:
        """The samples of a batch of row numbers, or for a stream of what [`StreamedRows.read`] gives for them."""
        if isinstance(self.rows, Dataset):
            numbers = [int(number) for number in batch]
            rows = self.stored.__getitems__([max(number, ~number) for number in numbers])
        else:
            numbers, rows = map(list, zip(*batch, strict=True))
        pictures = [self.picture(number, row) for number, row in zip(numbers, rows, strict=True)]
        return self.samples(numbers, rows, pictures)

    def samples(self, numbers: list[int], rows: list[dict], pictures: list[torch.Tensor]) -> list[dict]:
        raise NotImplementedError

    def collate(self, samples: list[dict]) -> dict[str, Any]:
        raise NotImplementedError

    def picture(self, number: int, row: dict) -> torch.Tensor:
        """The row's picture, as [`stored_picture`] gives it; `ValueError` names a row that has none."""
        try:
            return stored_picture(open_stored(row["image"], self.in_colour), self.processor, self.in_colour)
        except Exception as error:  # Pillow and its codecs raise anything on a damaged file
            raise ValueError(
                f"Task {self.task.name!r}, row {max(number, ~number)}: the image cannot be decoded "
                f"({type(error).__name__}). Rebuild it."
            ) from error


class DrawnSamples(RowSamples):
    """
    Samples with something random in them, for training.

    What is drawn for a sample depends on its `image_id`, or where there is none on its row number.

    Args:
        rows, task, processor: As for [`RowSamples`].
        seed, cycle: What is drawn is a function of them.
    """

    def __init__(self, rows, task: AnyTask, processor, seed: int, cycle: int):
        super().__init__(rows, task, processor)
        self.seed, self.cycle = seed, cycle

    def at(self, cycle: int) -> "DrawnSamples":
        """The same samples in another cycle."""
        other = copy.copy(self)
        other.cycle = cycle
        return other

    def generator(self, number: int, row: dict) -> np.random.Generator:
        """The source of all that is drawn for a row."""
        image_id = row.get("image_id")
        sample = max(number, ~number) if image_id is None else str(image_id)
        return sample_generator(self.seed, self.cycle, self.task.name, sample)

    def normalise(self, batch: dict[str, torch.Tensor], device: torch.device | str) -> dict[str, torch.Tensor]:
        """A collated batch on `device`, its views float32 (batch, C, H, W) as the image processor normalises them."""
        return {
            key: value if key in ("weight", "labels") else _normalise(value, self.processor)
            for key, value in to_device(batch, device).items()
        }


class TrainingSamples(DrawnSamples):
    """
    Samples of one task in one cycle: views, target and weight, 0 for a padding (see [`micro_batches`]).

    Args:
        rows, task, processor, seed, cycle: As for [`DrawnSamples`].
        uncertain: What uncertain labels become, see [`resolve_labels`]; with `None` labels are ignored, and samples
            have no target.
        views: Makes the views.
    """

    task: ArkTask

    def __init__(self, rows, task: ArkTask, uncertain: str | None, processor, views: Views, seed: int, cycle: int):
        super().__init__(rows, task, processor, seed, cycle)
        self.uncertain, self.views = uncertain, views

    def samples(self, numbers: list[int], rows: list[dict], pictures: list[torch.Tensor]) -> list[dict]:
        generators = [self.generator(number, row) for number, row in zip(numbers, rows, strict=True)]
        samples: list[dict] = [{"weight": float(number >= 0)} for number in numbers]
        if self.uncertain is not None:
            for sample, row, generator in zip(samples, rows, generators, strict=True):
                sample["target"] = self._target(row, generator, self.uncertain)
        views = self.views(pictures, generators, self.processor)
        for sample, *shown in zip(samples, *views.values(), strict=True):
            sample["views"] = dict(zip(views, shown, strict=True))
        return samples

    def _target(self, row: dict, generator: np.random.Generator, uncertain: str) -> np.ndarray:
        """As [`resolve_labels`] gives it; `ValueError` if a multi-label one lies outside [0, 1]."""
        target = resolve_labels(row["labels"], self.task, uncertain, generator)
        if target.ndim and ((target < 0) | (target > 1)).any():
            raise ValueError(f"Task {self.task.name!r}: targets must lie in [0, 1] or be NaN, got {target.tolist()}.")
        return target

    def collate(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        """
        Each view by its name, (batch, C, H, W), uint8, or float32 in [0, 1] if a picture is deeper than 8 bits;
        `weight` (batch,) and, if the samples have targets, `labels`.
        """
        batch = {name: stack_pictures([sample["views"][name] for sample in samples]) for name in samples[0]["views"]}
        batch["weight"] = torch.tensor([sample["weight"] for sample in samples])
        if "target" in samples[0]:
            batch["labels"] = torch.from_numpy(np.stack([sample["target"] for sample in samples]))
        return batch


class InferenceSamples(RowSamples):
    """Rows of a task dataset through the image processor, with their targets; uncertain labels count as unknown."""

    task: ArkTask

    def samples(self, numbers: list[int], rows: list[dict], pictures: list[torch.Tensor]) -> list[dict]:
        targets = [resolve_labels(row["labels"], self.task) for row in rows]
        return [{"image": each, "target": target} for each, target in zip(pictures, targets, strict=True)]

    def collate(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        """`pixel_values` (batch, 3, size, size), or (batch, 10, 3, size, size) of ten crops, and `labels`."""
        pixel_values = self.processor([sample["image"] for sample in samples], return_tensors="pt")["pixel_values"]
        return {
            "pixel_values": pixel_values,
            "labels": torch.from_numpy(np.stack([sample["target"] for sample in samples])),
        }


def _normalise(pictures: torch.Tensor, processor: ArkImageProcessor) -> torch.Tensor:
    """
    (batch, 1, H, W) grey or (batch, 3, H, W) colours to (batch, C, H, W), C as many as the processor's `num_channels`:
    what its `rescale_and_normalize` gives, in one pass.
    """
    channels = processor.num_channels
    mean, std = processor.image_mean, processor.image_std
    if not processor.do_normalize:
        mean, std = [0.0] * channels, [1.0] * channels
    if pictures.shape[1] not in (1, channels):
        raise ValueError(f"pictures in colour need a network of 3 channels, and this one sees {channels}")
    normalised = torch.empty(len(pictures), len(mean), *pictures.shape[2:], device=pictures.device)
    piece = PIECE if pictures.device.type == "cpu" else max(len(pictures), 1)
    for some, part in zip(pictures.split(piece), normalised.split(piece), strict=True):
        values = _as_floats(some)
        for channel, (centre, width) in enumerate(zip(mean, std, strict=True)):
            shift = values.new_full((), -centre / width)  # made where it is used: a copy would be waited for
            plane = values if values.shape[1] == 1 else values[:, channel : channel + 1]
            torch.add(shift, plane, alpha=1 / width, out=part[:, channel : channel + 1])
    return normalised


def stack_pictures(pictures: list[torch.Tensor]) -> torch.Tensor:
    if len({len(picture) for picture in pictures}) > 1:  # grey beside colours
        pictures = [picture.expand(3, -1, -1) for picture in pictures]
    if len({picture.dtype for picture in pictures}) > 1:
        pictures = [_as_floats(picture) for picture in pictures]
    return torch.stack(pictures)


def _as_floats(pictures: torch.Tensor) -> torch.Tensor:
    return pictures / 255 if pictures.dtype == torch.uint8 else pictures


def iterate(samples: RowSamples, batches: list[np.ndarray], num_workers: int) -> Iterator[dict[str, torch.Tensor]]:
    """Loads the given index batches in order, in `num_workers` other processes of one thread each, or in this one."""
    with Loader(lambda: {"": samples}, num_workers) as loader:
        yield from loader.load([("", numbers) for numbers in batches])
