"""A segmenter's label maps of volumes against those of a dataset, each volume on its own grid and by itself."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.masks import UNKNOWN
from ..data.volume_samples import read_label_map, read_rows
from ..data.volumes.geometry import AXES, reorient
from ..data.volumes.volume import Volume
from ..inference.load import process_state
from ..inference.sliding_window import segment_volume
from ..metrics.overlap import dice, hausdorff_distance, iou
from ..models.ark.configuration_ark import SegmentationTask
from ..models.genesis.image_processing_genesis import GenesisImageProcessor
from ..models.genesis.modeling_genesis import GenesisForSemanticSegmentation

PERCENTILE = 95  # of the Hausdorff distance
MOST_WINDOWS = 4  # that are looked at together; more take gigabytes at the published width
PRIOR_SIDE = 64  # in voxels, of the cube on which label maps of all sizes are averaged


def predict_volumes(
    model: GenesisForSemanticSegmentation,
    processor: GenesisImageProcessor,
    rows: Dataset,
    task: SegmentationTask,
    numbers: Sequence[int] | np.ndarray,
    batch_size: int,
    description: str | None = None,
) -> Iterator[tuple[int, Volume, np.ndarray, np.ndarray]]:
    """
    Volumes by number, with the label map that the model gives and the true one (255 unknown), on the volume's grid.

    Args:
        batch_size: Windows a forward pass, at most `MOST_WINDOWS`.

    Raises:
        ValueError: A volume cannot be read, or its mask lies elsewhere; the message names the row.
    """
    hidden = description is None or not process_state().is_main_process
    progress = tqdm(numbers, desc=description, disable=hidden, leave=False, unit="volume")
    for number in progress:
        for volume, truth in _read(rows, [number], task):
            found = segment_volume(model, processor, volume, min(batch_size, MOST_WINDOWS))
            yield int(number), volume, found, truth.voxels


def volume_scores(
    found: np.ndarray, truth: np.ndarray, task: SegmentationTask, spacing: Sequence[float], distances: bool = True
) -> np.ndarray:
    """
    Dice, IoU and HD95 of one volume, float64 (3, labels), NaN where undefined.

    Args:
        found, truth: Label maps (I, J, K) on one grid, 0 the background; where the truth is 255 neither counts.
        spacing: In mm, along each axis.
        distances: Whether to find the last, too; NaN otherwise.
    """
    known = truth != UNKNOWN
    scores = np.full((3, len(task.labels)), np.nan)
    for number in range(len(task.labels)):
        masks = [(found == number + 1) & known, truth == number + 1]
        # What lies around both changes neither their borders nor how far these are apart
        box = _box(masks[0] | masks[1])
        mask, true = (each[box] for each in masks)
        distance = hausdorff_distance(mask, true, PERCENTILE, spacing) if distances else np.nan
        scores[:, number] = dice(mask, true), iou(mask, true), distance
    return scores


def prior_scores(train: Dataset, rows: Dataset, task: SegmentationTask) -> list[np.ndarray]:
    """
    Of each volume of `rows` the [`volume_scores`] of the mean label map of `train`, without distances: what is reached
    without looking at any volume.

    Label maps, turned alike, are averaged as if each had `PRIOR_SIDE` voxels a side, whatever part of the body it
    shows; a voxel gets the label that is most likely there, or none.
    """
    totals = np.zeros((len(task.labels), *[PRIOR_SIDE] * 3))
    counts = np.zeros(totals.shape[1:])
    for _, mask in _read(train, range(len(train)), task):
        turned = _stretched(reorient(mask, AXES["zyx"]).voxels, counts.shape)
        counts += turned != UNKNOWN
        for number, total in enumerate(totals, start=1):
            total += turned == number
    shares = totals / np.maximum(counts, 1)
    rest = np.clip(1 - shares.sum(axis=0), 0, None)
    prior = np.concatenate([rest[None], shares]).argmax(axis=0).astype(np.uint8)
    scores = []
    for volume, mask in _read(rows, range(len(rows)), task):
        truth = reorient(mask, AXES["zyx"]).voxels
        scores.append(volume_scores(_stretched(prior, truth.shape), truth, task, volume.spacing, distances=False))
    return scores


def _read(rows: Dataset, numbers: Iterable[int], task: SegmentationTask) -> Iterator[tuple[Volume, Volume]]:
    for number, (row, volume) in zip(numbers, read_rows(rows, numbers, task.name), strict=True):
        try:
            truth = read_label_map(row, volume, task)
        except ValueError as error:
            raise ValueError(f"{task.name}, row {number}: {str(error).removesuffix('.')}.") from None
        yield volume, truth


def _stretched(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A label map with as many voxels, each that of the nearest place."""
    places = [
        ((np.arange(wanted) + 0.5) * there / wanted).astype(int)
        for wanted, there in zip(shape, values.shape, strict=True)
    ]
    return values[np.ix_(*places)]


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest part of an array in which all of a mask lies; some voxel of it if the mask is empty."""
    box = []
    for axis in range(mask.ndim):
        there = np.flatnonzero(mask.any(axis=tuple(each for each in range(mask.ndim) if each != axis)))
        box.append(slice(there[0], there[-1] + 1) if len(there) else slice(0, 1))
    return tuple(box)
