"""
Volumes of a task dataset as a Genesis takes them: cubes for training, each a function of (seed, cycle, task, sample),
and what is tested. One volume is in memory at a time, and it goes through the image processor as a whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Nifti
from torch.nn import functional as F
from torch.utils.data import Dataset as TorchDataset

from ..models.ark.configuration_ark import ArkTask, SegmentationTask
from ..models.genesis.image_processing_genesis import GenesisImageProcessor
from .loading import InferenceSamples
from .masks import UNKNOWN
from .task_dataset import resolve_labels
from .views import sample_generator
from .volumes.geometry import AXES, on_grid_of, reorient, resample
from .volumes.nifti import stored_volume
from .volumes.volume import Volume

LABELLED = 0.5  # share of the training cubes that hold a voxel of a label
SHIFT = 0.0625  # of a side, by which the cube of a classifier lies beside the middle, at most; as of radiographs


def check_has_volumes(column_names: Iterable[str], name: str) -> None:
    """Raises `ValueError` if rows have pictures, which no Genesis takes."""
    if "volume" not in column_names:
        raise ValueError(f"{name} holds pictures, and this model takes volumes: give it a dataset of volumes.")


def read_rows(rows: Dataset, numbers: Iterable[int], name: str) -> Iterator[tuple[dict[str, Any], Volume]]:
    """
    Rows by number, one at a time, with their volumes; a `mask` is still in its bytes, for [`read_label_map`].

    Raises:
        ValueError: A volume cannot be read; the message names `name` and the row.
    """
    check_has_volumes(rows.column_names, name)
    stored = rows.select_columns([each for each in ("volume", "mask", "labels", "image_id") if each in rows.features])
    for column in ("volume", "mask"):
        if column in stored.features:
            stored = stored.cast_column(column, Nifti(decode=False))
    for number in numbers:
        row = stored[int(number)]
        with _naming(name, number):
            volume = stored_volume(row.pop("volume"))
        yield row, volume


@contextmanager
def _naming(name: str, number: int) -> Iterator[None]:
    """Says of what goes wrong with a volume which row it is in."""
    try:
        yield
    except Exception as error:  # gzip and nibabel raise anything on damaged bytes
        reason = str(error) if isinstance(error, ValueError) else f"it is damaged ({type(error).__name__})"
        raise ValueError(f"{name}, row {number}: {reason.removesuffix('.')}.") from error


def read_label_map(row: dict[str, Any], volume: Volume, task: SegmentationTask) -> Volume:
    """
    The label map of a row on the grid of its volume: 0, the numbers of labels from 1, 255 unknown.

    Raises:
        ValueError: It lies elsewhere than the volume, or holds other values.
    """
    found = on_grid_of(stored_volume(row["mask"]), volume.shape, volume.affine)
    highest = int(np.where(found.voxels == UNKNOWN, 0, found.voxels).max())
    if highest > len(task.labels) or found.voxels.min() < 0:
        raise ValueError(f"its mask holds {highest}; the labels are 1 to {len(task.labels)}, 0 background")
    return Volume(found.voxels.astype(np.uint8, copy=False), found.affine)


def whole_volume(processor: GenesisImageProcessor, volume: Volume, modality: str) -> torch.Tensor:
    """All of a volume as the processor gives it: (1, ...) float32 in [0, 1], of the model's axes and spacing."""
    turned = reorient(volume, AXES["zyx"])
    return processor(turned.voxels, spacing=turned.spacing, do_center_crop=False, modality=modality)["pixel_values"][0]


def whole_label_map(processor: GenesisImageProcessor, mask: Volume) -> torch.Tensor:
    """A label map on the grid that [`whole_volume`] gives, (...) uint8: each voxel has the value of the nearest."""
    turned = reorient(mask, AXES["zyx"])
    if processor.spacing is not None:
        turned = resample(turned, processor.spacing_zyx, nearest=True)
    labels = torch.from_numpy(np.ascontiguousarray(turned.voxels))
    return labels.permute(2, 1, 0).contiguous() if processor.axes == "xyz" else labels


def cut(volume: torch.Tensor, start: Sequence[int], size: Sequence[int], beyond: int = 0) -> torch.Tensor:
    """A cube (channels, *size) of a volume (channels, ...), which may begin before it or end after it."""
    low = [max(at, 0) for at in start]
    high = [min(at + side, there) for at, side, there in zip(start, size, volume.shape[1:], strict=True)]
    inside = volume[(slice(None), *(slice(*ends) for ends in zip(low, high, strict=True)))]
    padding: list[int] = []
    for at, side, first, last in zip(start, size, low, high, strict=True):
        padding = [first - at, at + side - last, *padding]
    return F.pad(inside, padding, value=beyond) if any(padding) else inside.clone()  # not to keep all of the volume


def middle(sides: Sequence[int], size: Sequence[int]) -> list[int]:
    """Where the cube begins that the image processor cuts of a volume with these sides."""
    return [
        (there - side) // 2 if there >= side else -((side - there) // 2)
        for there, side in zip(sides, size, strict=True)
    ]


def draw_place(labels: torch.Tensor, size: Sequence[int], generator: np.random.Generator) -> list[int]:
    """
    Where a training cube begins: anywhere in the volume, or for half of them so that it holds a voxel of a label.

    That voxel is any of one label, and each label that is there is as likely as the others, so that rare and small
    ones are seen. Along an axis that is too short for a cube the volume lies in its middle.

    Args:
        labels: As of [`whole_label_map`].
        size: Of a cube.
        generator: Source of all draws.
    """
    room = [there - side for there, side in zip(labels.shape, size, strict=True)]
    voxel = _draw_voxel(labels.numpy(), generator) if generator.random() < LABELLED else None
    start = middle(labels.shape, size)
    for axis, spare in enumerate(room):
        if spare > 0:
            low, high = 0, spare
            if voxel is not None:
                low, high = max(voxel[axis] - size[axis] + 1, 0), min(voxel[axis], spare)
            start[axis] = int(generator.integers(low, high + 1))
    return start


def _draw_voxel(labels: np.ndarray, generator: np.random.Generator) -> list[int] | None:
    """Any voxel of any label; None where there is none. Plane by plane: the places of all take gigabytes."""
    counts = np.bincount(labels.ravel(), minlength=UNKNOWN + 1)
    present = np.flatnonzero(counts[1:UNKNOWN]) + 1
    if not len(present):
        return None
    label = generator.choice(present)
    in_plane = (labels == label).sum(axis=(1, 2))
    rank = int(generator.integers(in_plane.sum()))
    plane = int(np.searchsorted(np.cumsum(in_plane), rank, side="right"))
    rank -= int(in_plane[:plane].sum())
    place = np.flatnonzero(labels[plane] == label)[rank]
    return [plane, *(int(each) for each in np.unravel_index(place, labels.shape[1:]))]


class VolumeSamples(TorchDataset):
    """
    Rows of one task with volumes, as the loader takes them.

    Args:
        rows: With a column `volume`.
        task: The task, whose name is a part of the seed of all that is drawn.
        processor: Of the model.
    """

    task: Any

    def __init__(self, rows: Dataset, task: ArkTask | SegmentationTask, processor: GenesisImageProcessor):
        check_has_volumes(rows.column_names, task.name)
        self.rows, self.task, self.processor = rows, task, processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Iterable[int]) -> list[dict]:
        samples: list[dict] = []
        for number in numbers:
            for row, volume in read_rows(self.rows, [number], f"Task {self.task.name!r}"):
                with _naming(f"Task {self.task.name!r}", number):
                    samples += self.samples(int(number), row, volume)
        return samples

    def samples(self, number: int, row: dict, volume: Volume) -> list[dict]:
        raise NotImplementedError

    def collate(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        """`pixel_values` (batch, 1, *cube_size) float32 in [0, 1], and `labels`."""
        return {
            "pixel_values": torch.stack([sample["cube"] for sample in samples]),
            "labels": torch.stack([sample["target"] for sample in samples]),
        }


class VolumeInferenceSamples(VolumeSamples):
    """What the image processor makes of each volume, with its target; uncertain labels count as unknown."""

    def samples(self, number: int, row: dict, volume: Volume) -> list[dict]:
        whole = whole_volume(self.processor, volume, self.task.modality)
        size = self.processor.cube_size
        target = torch.from_numpy(resolve_labels(row["labels"], self.task))
        return [{"cube": cut(whole, middle(whole.shape[1:], size), size), "target": target}]


class _DrawnVolumeSamples(VolumeSamples):
    """With something random in them; see [`DrawnSamples`] for `seed` and `cycle`."""

    def __init__(self, rows, task, processor, seed: int, cycle: int):
        super().__init__(rows, task, processor)
        self.seed, self.cycle = seed, cycle

    def generator(self, number: int, row: dict) -> np.random.Generator:
        image_id = row.get("image_id")
        sample = number if image_id is None else str(image_id)
        return sample_generator(self.seed, self.cycle, self.task.name, sample)


class VolumeTrainingSamples(_DrawnVolumeSamples):
    """
    The cube in the middle of each volume, or up to a sixteenth of a side beside it, with its target.

    Sides are never exchanged, as with radiographs: where the heart lies is a finding, too.

    Args:
        rows, task, processor, seed, cycle: As for [`VolumeSamples`] and [`DrawnSamples`].
        uncertain: What uncertain labels become, see [`resolve_labels`].
    """

    task: ArkTask

    def __init__(self, rows, task: ArkTask, uncertain: str, processor, seed: int, cycle: int):
        super().__init__(rows, task, processor, seed, cycle)
        self.uncertain = uncertain

    def samples(self, number: int, row: dict, volume: Volume) -> list[dict]:
        generator = self.generator(number, row)
        target = torch.from_numpy(resolve_labels(row["labels"], self.task, self.uncertain, generator))
        whole = whole_volume(self.processor, volume, self.task.modality)
        size = self.processor.cube_size
        start = [
            at + int(generator.integers(-most, most + 1))
            for at, side in zip(middle(whole.shape[1:], size), size, strict=True)
            for most in [int(side * SHIFT)]
        ]
        return [{"cube": cut(whole, start, size), "target": target}]


class VolumeMaskTrainingSamples(_DrawnVolumeSamples):
    """
    Cubes of each volume and its label map, see [`draw_place`]: some of one volume, as reading it takes longer.

    A sample is a row, and gives as many cubes as are asked for: batches have that many times the rows that a loader is
    told. Beyond a volume that is smaller than a cube there is air, whose label is unknown. Nothing is mirrored.

    Args:
        rows, task, processor, seed, cycle: As for [`VolumeSamples`] and [`DrawnSamples`].
        cubes: Of each volume.
    """

    task: SegmentationTask

    def __init__(self, rows, task: SegmentationTask, processor, seed: int, cycle: int, cubes: int):
        super().__init__(rows, task, processor, seed, cycle)
        self.cubes = cubes

    def samples(self, number: int, row: dict, volume: Volume) -> list[dict]:
        generator = self.generator(number, row)
        labels = whole_label_map(self.processor, read_label_map(row, volume, self.task))
        whole = whole_volume(self.processor, volume, self.task.modality)
        size = self.processor.cube_size
        places = [draw_place(labels, size, generator) for _ in range(self.cubes)]
        return [
            {"cube": cut(whole, place, size), "target": cut(labels[None], place, size, UNKNOWN)[0].long()}
            for place in places
        ]


def inference_samples(rows: Dataset, task: ArkTask, processor: Any) -> InferenceSamples | VolumeInferenceSamples:
    """What a classifier is tested on: rows of pictures or of volumes through the model's image processor."""
    kind = VolumeInferenceSamples if isinstance(processor, GenesisImageProcessor) else InferenceSamples
    return kind(rows, task, processor)
