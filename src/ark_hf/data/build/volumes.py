"""What is stored of a volume: its voxels as they were read, losslessly, and a label map on the same grid. No torch."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...files import printable
from ...metrics.shortcut import VOLUME_STATISTICS, volume_statistics
from ..images.image_files import UnreadableImageError, collecting_doubts
from ..rows import Row
from ..volumes.geometry import AXES, on_grid_of, reorient
from ..volumes.nifti import encode_nifti
from ..volumes.volume import Volume
from .shards import Stored

if TYPE_CHECKING:  # a build's processes do without what these need
    from datasets import Features

    from ..unlabelled import AnyTask

VOLUMES_PER_SHARD = 8  # of whole CTs: files of about half a gigabyte


@dataclass(frozen=True)
class VolumeStore:
    """
    Stores the volume of a row with its labels or label map, if its task has any.

    Args:
        read_volume, read_label_map: See [`Release`].
        num_labels: Of a segmentation.
    """

    read_volume: Callable[[Row], Volume]
    read_label_map: Callable[[Row], Volume] | None
    num_labels: int
    statistics: ClassVar[Sequence[str]] = VOLUME_STATISTICS

    @property
    def settings(self) -> object:
        """What a build that goes on must have in common: which values of label maps stand for which labels, ..."""
        return [repr(each) for each in (self.read_volume, self.read_label_map) if is_dataclass(each)]

    @staticmethod
    def features(task: "AnyTask") -> "Features":
        """The columns that are stored of a task's rows."""
        from datasets import Features, Nifti

        from ...models.ark.configuration_ark import SegmentationTask
        from .pictures import PictureStore

        if isinstance(task, SegmentationTask):
            return Features({"volume": Nifti(), "mask": Nifti()})
        columns = PictureStore.features(task)
        return Features({"volume": Nifti()} | {name: kind for name, kind in columns.items() if name != "image"})

    def __call__(self, row: Row) -> Stored:
        """Raises `UnreadableImageError`."""
        with collecting_doubts() as doubts:
            volume = self.read_volume(row)
            columns: dict[str, Any] = {"volume": _cell(volume), "labels": row.labels}
            present: list[bool | None] = []
            if self.read_label_map is not None:
                mask = self._fitting(self.read_label_map(row), volume, row)
                columns["mask"] = _cell(mask)
                occurs = np.bincount(mask.voxels.ravel(order="K"), minlength=self.num_labels + 1)
                present = (occurs[1:] > 0).tolist()
        turned = reorient(volume, AXES["xyz"])
        statistics = volume_statistics(turned.voxels, turned.spacing).tolist()
        return Stored(columns, hash_volume(volume), statistics, doubts, present)

    def _fitting(self, mask: Volume, volume: Volume, row: Row) -> Volume:
        """The label map on the volume's grid, in uint8 or uint16."""
        path = printable(row.path)
        if mask.voxels.dtype.kind not in "iu":
            raise UnreadableImageError(f"{path}: its label map holds {mask.voxels.dtype}, not whole numbers")
        low, high = int(mask.voxels.min()), int(mask.voxels.max())
        if low < 0 or high > self.num_labels:
            raise UnreadableImageError(
                f"{path}: its label map holds {low if low < 0 else high}, and there are {self.num_labels} labels"
            )
        try:
            fitting = on_grid_of(mask, volume.shape, volume.affine)
        except ValueError as error:
            raise UnreadableImageError(f"{path}: its label map does not fit: {error}") from None
        return Volume(fitting.voxels.astype(np.uint8 if self.num_labels < 256 else np.uint16), fitting.affine)


def _cell(volume: Volume) -> dict[str, Any]:
    return {"bytes": encode_nifti(volume), "path": None}


def hash_volume(volume: Volume) -> tuple[str, str]:
    """
    What stands for a volume where equal ones are looked for: the SHA-256 of its shape, type and voxels, twice.

    In the place of a picture's perceptual hash it makes equal volumes alike and no others: of what is nearly the same
    in CT, such as two kernels of one scan, nothing was measured.
    """
    digest = hashlib.sha256(repr((volume.shape, volume.voxels.dtype.str)).encode())
    for plane in volume.voxels.T:
        digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest(), digest.hexdigest()
