"""Stored label maps of a dataset of volumes: read and checked, one in memory at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from tqdm.auto import tqdm

from ..models.ark.configuration_ark import SegmentationTask
from .masks import UNKNOWN
from .volumes.geometry import on_grid_of
from .volumes.nifti import read_nifti, read_nifti_space


def read_label_presence(rows: Dataset, task: SegmentationTask, where: str) -> np.ndarray:
    """
    Whether each label has a voxel in each volume, float32 (rows, labels); all label maps are checked.

    Of the volumes the header alone is read.

    Args:
        where: Dataset and split, for messages.

    Raises:
        ValueError: A label map is none, holds other values than the task's, or lies elsewhere than its volume; the
            message names the first row.
    """
    present = np.zeros((len(rows), len(task.labels)), dtype=np.float32)
    progress = tqdm(_stored(rows), total=len(rows), desc=f"label maps of {where}", leave=False, disable=len(rows) < 50)
    for number, (volume, mask) in enumerate(progress):
        try:
            if volume is None or mask is None:
                raise ValueError("it holds no bytes of its volume or mask; build it with `ark-hf data build`")
            found = read_nifti(mask)
            on_grid_of(found, *read_nifti_space(volume))
            present[number] = _occurring(found.voxels, task)
        except Exception as error:  # gzip and nibabel raise anything on damaged bytes
            reason = str(error) if isinstance(error, ValueError) else f"its mask is damaged ({type(error).__name__})"
            raise ValueError(f"{where}, row {number}: {reason.removesuffix('.')}.") from None
    return present


def _occurring(values: np.ndarray, task: SegmentationTask) -> np.ndarray:
    """bool (labels,). Raises `ValueError` of other values."""
    if values.dtype.kind not in "iu":
        raise ValueError(f"its mask holds {values.dtype}, and a label map whole numbers")
    low, high = int(values.min()), int(values.max())
    counts = np.bincount(values.ravel(order="K"), minlength=256) if 0 <= low and high < 2**16 else np.empty(0)
    allowed = {*range(len(task.labels) + 1), UNKNOWN}
    wrong = sorted(set(np.flatnonzero(counts).tolist()) - allowed) if len(counts) else [low, high]
    if wrong:
        shown = ", ".join(map(str, wrong[:8]))
        raise ValueError(f"its mask holds {shown}; the labels are 1 to {len(task.labels)}, 0 background")
    return counts[1 : len(task.labels) + 1] > 0


def _stored(rows: Dataset) -> Iterator[tuple[Any, Any]]:
    """Files of volume and label map of each row, which are read where they lie: no volume is copied."""
    tables = rows.select_columns(["volume", "mask"]).with_format("arrow")
    for number in range(len(rows)):
        table: pa.Table = tables[number]
        yield _file(table["volume"][0]), _file(table["mask"][0])


def _file(cell: pa.StructScalar) -> Any:
    content = cell["bytes"] if cell.is_valid else None
    if content is None or not content.is_valid:
        return None
    return pa.BufferReader(content.as_buffer())
