"""What is stored of a segmented radiograph: its picture, and of each label a mask of the same geometry. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy.sparse

from ...files import printable
from ...metrics.shortcut import SHORTCUT_STATISTICS
from ..images.image_files import UnreadableImageError, collecting_doubts
from ..rows import Row
from .pictures import describe, encode_png, shrink
from .shards import Stored

if TYPE_CHECKING:  # a build's processes do without what these need
    from datasets import Features

ROUNDING = 1e-4  # of a share: half of a pixel is not more than half of it


@dataclass(frozen=True)
class MaskStore:
    """
    Stores the picture of a row and its masks.

    Args:
        read_image, read_masks: See [`Release`].
        size: Longer side to which larger pictures are shrunk, and their masks with them.
        labels: Names of the masks, in order.
        overlapping: Whether a pixel may belong to several.
    """

    read_image: Callable[[Row], np.ndarray]
    read_masks: Callable[[Row], list[np.ndarray | None]]
    size: int
    labels: Sequence[str]
    overlapping: bool
    statistics: ClassVar[Sequence[str]] = SHORTCUT_STATISTICS

    @property
    def settings(self) -> object:
        """What a build that goes on must have in common: which values of label maps stand for which labels, ..."""
        return [self.size, *(repr(each) for each in (self.read_image, self.read_masks) if is_dataclass(each))]

    @staticmethod
    def features() -> "Features":
        """The columns that are stored."""
        from datasets import Features, Image, List

        return Features({"image": Image(), "masks": List(Image())})

    def __call__(self, row: Row) -> Stored:
        """Raises `UnreadableImageError`."""
        with collecting_doubts() as doubts:
            image = self.read_image(row)
            masks = self.read_masks(row)
        self._check(row, masks, image.shape[1:])
        picture = shrink(image, self.size)
        shape = picture.shape[1:]
        small = [None if mask is None else shrink_mask(mask, shape) for mask in masks]
        columns = {
            "image": encode_png(picture),
            "masks": [None if mask is None else encode_png(mask.astype(np.uint8) * 255) for mask in small],
        }
        present = [None if mask is None else bool(mask.any()) for mask in small]
        shrunk = [before / after for before, after in zip(image.shape[1:], shape, strict=True)]
        return Stored(columns, *describe(picture), doubts, present, shrunk)

    def _check(self, row: Row, masks: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> None:
        path = printable(row.path)
        if len(masks) != len(self.labels):
            raise UnreadableImageError(f"{path}: {len(masks)} masks for the labels {list(self.labels)}")
        if all(mask is None for mask in masks):
            raise UnreadableImageError(f"{path}: none of its masks is known; leave the image out")
        taken = np.zeros(shape, dtype=bool)
        for label, mask in zip(self.labels, masks, strict=True):
            if mask is None:
                continue
            if mask.dtype != bool:
                raise UnreadableImageError(f"{path}: the mask of {label!r} holds {mask.dtype}, not true and false")
            if mask.shape != shape:
                sides, others = (" x ".join(map(str, each[::-1])) for each in (mask.shape, shape))
                raise UnreadableImageError(f"{path}: the mask of {label!r} is {sides}, and the image {others}")
            shared = int(np.count_nonzero(mask & taken))
            if shared and not self.overlapping:
                raise UnreadableImageError(
                    f"{path}: the mask of {label!r} shares {shared:,} pixels with the masks before it; labels "
                    "that may overlap make an overlapping task"
                )
            taken |= mask


def shrink_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """bool (H, W) to the shape of its shrunken picture: a pixel is in that is covered by more than half."""
    if mask.shape == shape:
        return mask
    rows, columns = (_shares(*sides) for sides in zip(mask.shape, shape, strict=True))
    return (columns @ (rows @ mask.astype(np.float32)).T).T > 0.5 + ROUNDING


def _shares(before: int, after: int) -> scipy.sparse.csr_array:
    """Of each of `after` pixels in a line, how much of it lies on each of the `before` that it is made of."""
    scale = before / after
    cuts = np.unique(np.concatenate([np.arange(before + 1), np.arange(after + 1) * scale]))
    middles, lengths = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)
    new, old = np.minimum((middles / scale).astype(int), after - 1), np.minimum(middles.astype(int), before - 1)
    return scipy.sparse.csr_array(((lengths / scale).astype(np.float32), (new, old)), shape=(after, before))
