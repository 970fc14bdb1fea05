"""
A Genesis on whole volumes: a segmenter's label map, made of overlapping windows and laid on the volume's own grid, and
a classifier's probabilities.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.volumes.geometry import AXES, reorient
from ..data.volumes.volume import Volume
from ..models.ark.masks_ark import segmenter_output
from ..models.genesis.image_processing_genesis import GenesisImageProcessor, neighbours
from ..models.genesis.modeling_genesis import GenesisForImageClassification, GenesisForSemanticSegmentation
from .predict import mean_probabilities

OVERLAP = 0.25  # of a window with the next
PLANES = 16  # of the volume, whose logits lie on its grid at a time


@torch.no_grad()
def segment_volume(
    model: GenesisForSemanticSegmentation,
    processor: GenesisImageProcessor,
    volume: Volume,
    windows: int = 4,
    description: str | None = None,
) -> np.ndarray:
    """
    What a segmenter outlines in a volume of any orientation, spacing and size, voxel by voxel on its own grid.

    Windows of the model's `cube_size` overlap by a quarter and count less towards their borders, by MONAI's Gaussian;
    where a volume is smaller than a window there are zeros, air, around it. A few planes are worked on at a time, so
    that memory does not grow with classes times voxels.

    Args:
        processor: The model's. Whether it cuts cubes makes no difference.
        volume: As [`read_volume`] gives it.
        windows: Windows a forward pass.
        description: Of a progress bar; none unless given.

    Returns:
        The label map, uint8 (I, J, K), or int16 of more than 254 labels: 0 the background, the labels from 1. Of
        labels that overlap (labels, I, J, K), 1 where a voxel belongs to one. `volume.affine` places it.

    Raises:
        ValueError: MONAI is not installed, the model takes several channels, or the processor refuses the volume, such
            as one of other values than its window is for.
    """
    turned = reorient(volume, AXES["zyx"])
    pixel_values = _pixel_values(model, processor, turned, do_center_crop=False)
    z = 2 + processor.axes.index("z")  # its place among the axes of `pixel_values`
    own_spacing = spacing = list(turned.spacing)
    if processor.spacing is not None:
        spacing = processor.spacing_zyx
    task = model.config.segmentation
    overlapping = task is not None and task.overlapping
    shape, dtype = turned.shape, np.uint8 if model.num_labels < 256 else np.int16
    maps = len(task.labels) if overlapping else 1
    found = np.zeros((maps, *volume.shape[::-1]), dtype).transpose(0, 3, 2, 1)  # I runs fastest, as in files
    # What is written into a view with turned axes lies where it belongs
    planes = [reorient(Volume(each, volume.affine), AXES["zyx"]).voxels for each in found]

    slabs = _blended_logits(model, pixel_values, z, windows, description)
    between = neighbours(shape[0], pixel_values.shape[z], own_spacing[0] / spacing[0])
    first = 0
    for logits in _resampled(slabs, z, *between):
        count = logits.shape[z]
        answer = processor.post_process_semantic_segmentation(
            segmenter_output(model.config, logits),
            [(count, *shape[1:])],
            return_segmentation_scores=overlapping,
            spacing=[spacing[0], *own_spacing[1:]],
        )[0]
        on_grid: Any = answer["segmentation_scores"][1:] >= 0 if overlapping else answer[None]
        for each, values in zip(planes, on_grid, strict=True):
            each[first : first + count] = values.cpu().numpy()
        first += count
    return found if overlapping else found[0]


def label_mask(found: np.ndarray, number: int) -> np.ndarray:
    """bool (I, J, K) of a label, by its number among the task's, in what [`segment_volume`] gives."""
    return found[number] > 0 if found.ndim == 4 else found == number + 1


@torch.no_grad()
def classify_volume(
    model: GenesisForImageClassification, processor: GenesisImageProcessor, volume: Volume
) -> np.ndarray:
    """
    Probabilities of all labels, float64 (num_labels,) in `id2label` order, of what the image processor makes of a
    volume: the cube in its middle.

    Raises:
        ValueError: As of [`segment_volume`].
    """
    pixel_values = _pixel_values(model, processor, reorient(volume, AXES["zyx"]))
    with _evaluating(model):
        logits = model(pixel_values.to(model.device, model.dtype)).logits
    return mean_probabilities(logits.double().cpu().numpy(), model.config)[0]


def _pixel_values(model: Any, processor: GenesisImageProcessor, turned: Volume, **kwargs: Any) -> torch.Tensor:
    if model.config.num_channels != 1:
        raise ValueError(f"this model takes volumes of {model.config.num_channels} channels, and a file has one")
    (pixel_values,) = processor(turned.voxels, spacing=turned.spacing, **kwargs)["pixel_values"]  # "pt" would copy it
    return pixel_values[None]


def _blended_logits(
    model: Any, pixel_values: torch.Tensor, z: int, windows: int, description: str | None
) -> Iterator[torch.Tensor]:
    """
    Logits (1, classes, ...) of a volume (1, channels, ...), blended over its windows: some planes along axis `z` at a
    time, in their order, as soon as no other window reaches them.

    Windows lie in rows. The weight of a voxel in its window is a product of one along z and one across, so MONAI
    blends a row across, and then it is blended along z with the rows before.
    """
    inferers, importance = import_monai()
    size, device = tuple(model.config.cube_size), model.device
    axis, side, depth = z - 2, size[z - 2], pixel_values.shape[z]
    shape_along = [-1 if each == axis else 1 for each in range(3)]
    along = importance((side,), mode="gaussian").view(shape_along).to(device)
    across = importance(size[:axis] + size[axis + 1 :], mode="gaussian").unsqueeze(axis).expand(size).to(device)
    step = max(1, int(side * (1 - OVERLAP)))
    starts = [*range(0, depth - side, step), max(depth - side, 0)]

    def logits_of(cubes: torch.Tensor) -> torch.Tensor:
        return model(cubes.to(model.dtype)).logits

    left, left_weight = None, along.narrow(axis, 0, 0)  # of the planes that the next row reaches, too
    progress = tqdm(starts, desc=description, disable=description is None, leave=False, unit="row")
    for start, following in zip(progress, [*starts[1:], depth], strict=True):
        row = pixel_values.narrow(z, start, min(side, depth))
        with _evaluating(model):
            logits = inferers.sliding_window_inference(
                row,
                size,
                windows,
                logits_of,
                OVERLAP,
                "gaussian",
                sw_device=device,
                device=device,
                roi_weight_map=across,
            )
        weight = along.narrow(axis, 0, logits.shape[z]).clone()
        logits *= weight
        if left is not None:
            shared = left.shape[z]
            logits.narrow(z, 0, shared).add_(left)
            weight.narrow(axis, 0, shared).add_(left_weight)
        done = following - start
        yield logits.narrow(z, 0, done) / weight.narrow(axis, 0, done)
        left = logits.narrow(z, done, logits.shape[z] - done)
        left_weight = weight.narrow(axis, done, left.shape[z])


def _resampled(
    slabs: Iterator[torch.Tensor], z: int, lower: torch.Tensor, upper: torch.Tensor, share: torch.Tensor
) -> Iterator[torch.Tensor]:
    """The planes along axis `z` that lie between those of the slabs as [`neighbours`] says, a few at a time."""
    held = next(slabs)
    first = 0  # plane that is held
    for chosen in torch.arange(len(lower)).split(PLANES):
        while first + held.shape[z] <= int(upper[chosen[-1]]):
            spent = min(int(lower[chosen[0]]) - first, held.shape[z])
            held = torch.cat([held.narrow(z, spent, held.shape[z] - spent), next(slabs)], dim=z)
            first += spent
        ends = (held.index_select(z, (end[chosen] - first).to(held.device)) for end in (lower, upper))
        weight = share[chosen].view(-1, *[1] * (held.ndim - z - 1)).to(held.device, held.dtype)
        yield torch.lerp(*ends, weight)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def import_monai() -> tuple[ModuleType, Any]:
    """MONAI's inferers, and what weights the voxels of a window; imported when needed, as that takes seconds."""
    try:
        from monai import inferers
        from monai.data.utils import compute_importance_map
    except ImportError:
        raise ValueError('Segmenting volumes needs MONAI: pip install "ark-hf[volumes]"') from None
    return inferers, compute_importance_map
