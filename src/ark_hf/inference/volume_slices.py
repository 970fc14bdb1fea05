"""Slices of a volume in three planes, as they are looked at, with a segmenter's labels over them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.ndimage
from PIL import Image

from ..data.volumes.geometry import AXES, reorient
from ..data.volumes.volume import Volume
from ..models.ark.configuration_ark import SegmentationTask
from ..models.genesis.image_processing_genesis import GenesisImageProcessor
from .overlays import LONGEST_SIDE, mask_overlay, shrunken_mask

ACROSS = {"axial": 2, "coronal": 1, "sagittal": 0}  # which of x, y and z goes through the slices of a plane
BRIGHTEST = 400.0  # HU: above it bone is white, so that lungs and soft tissue have more of the grey range
GAP = 8  # pixels between slices
ENLARGED = 4  # pixels for a voxel at most
COARSE = 192  # voxels along the longest side of the grid on which parts are told apart


class VolumeSlices:
    """
    A volume and what a segmenter found in it, to be cut into slices: axial ones are seen from below and coronal ones
    from the front, so that the patient's right is on the left; of sagittal ones the front is on the left.

    Args:
        volume: Of any orientation. Axes that lead askew are taken for the nearest of the patient's.
        processor: The model's: with its window of Hounsfield units, up to 400, the slices are shown, or from 0 to 1
            where it has none.
        task: The segmenter's, if it is one.
        found: As [`segment_volume`] gives it.
    """

    def __init__(
        self,
        volume: Volume,
        processor: GenesisImageProcessor,
        task: SegmentationTask | None = None,
        found: np.ndarray | None = None,
    ):
        turned = reorient(volume, AXES["xyz"])
        self.voxels, self.spacing = turned.voxels, turned.spacing
        low, high = processor.hu_window or (0.0, 1.0)
        self.window = low, min(high, BRIGHTEST) if low < BRIGHTEST else high
        self.labels = [] if task is None else task.labels
        self._overlapping = task is not None and task.overlapping
        maps = [] if found is None else list(found) if self._overlapping else [found]
        self._maps = [reorient(Volume(each, volume.affine), AXES["xyz"]).voxels for each in maps]

    def grey(self, plane: str, index: int, millimetres: float) -> Image.Image:
        """The slice of this number across its plane, with pixels of so many millimetres."""
        low, high = self.window
        values = np.clip((self._cut(self.voxels, plane, index).astype(np.float32) - low) / (high - low), 0, 1)
        picture = Image.fromarray(np.rint(255 * values).astype(np.uint8))
        return picture.resize(self._size(plane, millimetres), Image.Resampling.BILINEAR)

    def masks(self, plane: str, index: int, millimetres: float) -> dict[int, np.ndarray]:
        """By number of the label, bool (height, width) of the same size; labels that are not in the slice left out."""
        cut = [self._cut(each, plane, index) for each in self._maps]
        size = self._size(plane, millimetres)
        if self._overlapping:
            masks = {number: each > 0 for number, each in enumerate(cut)}
        else:
            masks = {number: each == number + 1 for each in cut for number in range(len(self.labels))}
        return {number: shrunken_mask(mask, size) for number, mask in masks.items() if mask.any()}

    def middle(self) -> tuple[int, int, int]:
        """A voxel (x, y, z) in the middle of the largest part that has labels; without any, of the volume."""
        step = max(1, max(self.voxels.shape) // COARSE)
        for stride in (step, 1):  # the latter for what falls through the coarse grid
            labelled = [each[::stride, ::stride, ::stride] > 0 for each in self._maps]
            grid = np.logical_or.reduce(labelled) if labelled else np.zeros((1, 1, 1), bool)
            if grid.any():
                parts, count = scipy.ndimage.label(grid)
                largest = np.bincount(parts[grid], minlength=count + 1).argmax()
                places = np.nonzero(parts == largest)
                x, y, z = (int(np.sort(along)[len(along) // 2]) * stride for along in places)
                return x, y, z
        x, y, z = (side // 2 for side in self.voxels.shape)
        return x, y, z

    def overlay(self) -> Image.Image:
        """
        RGB: an axial, a coronal and a sagittal slice through [`middle`], side by side and of one scale, each label
        tinted and outlined in its [`label_colour`], and a legend of those that were found.
        """
        x, y, _ = (side * spacing for side, spacing in zip(self.voxels.shape, self.spacing, strict=True))
        tallest = max(y, self.voxels.shape[2] * self.spacing[2])
        finest = min(self.spacing) / ENLARGED
        millimetres = max((2 * x + y) / (LONGEST_SIDE - 2 * GAP), tallest / LONGEST_SIDE, finest)
        middle = self.middle()
        slices = [(plane, middle[axis], millimetres) for plane, axis in ACROSS.items()]
        greys = [np.asarray(self.grey(*each)) for each in slices]
        masks = [self.masks(*each) for each in slices]
        numbers = sorted({number for each in masks for number in each})
        none = [np.zeros(grey.shape, bool) for grey in greys]
        together = {
            number: _beside([each.get(number, empty) for each, empty in zip(masks, none, strict=True)])
            for number in numbers
        }
        return mask_overlay(_beside(greys), together, self.labels)

    def _cut(self, values: np.ndarray, plane: str, index: int) -> np.ndarray:
        """(rows, columns) as they are shown: of axial slices the front is above, of others the head."""
        rows = np.take(values, index, axis=ACROSS[plane]).T
        return rows if plane == "axial" else rows[::-1]

    def _size(self, plane: str, millimetres: float) -> tuple[int, int]:
        """Width and height in pixels."""
        kept = [axis for axis in range(3) if axis != ACROSS[plane]]
        width, height = (max(1, round(self.voxels.shape[axis] * self.spacing[axis] / millimetres)) for axis in kept)
        return width, height


def save_slices(slices: VolumeSlices, path: Path) -> None:
    """Writes [`VolumeSlices.overlay`] as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    slices.overlay().save(path)


def _beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """(height, width) pictures from left to right, on black."""
    height, width = max(len(each) for each in pictures), sum(each.shape[1] + GAP for each in pictures) - GAP
    whole, left = np.zeros((height, width), pictures[0].dtype), 0
    for each in pictures:
        whole[: len(each), left : left + each.shape[1]] = each
        left += each.shape[1] + GAP
    return whole
