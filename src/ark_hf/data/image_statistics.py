"""
The statistics of every picture or volume of a dataset: stored when it is built, or else computed once a run.

A builder's processes import this and need no torch.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..metrics.shortcut import SHORTCUT_STATISTICS, VOLUME_STATISTICS, image_statistics, volume_statistics
from .radiograph import grey_values
from .task_dataset import dataset_file
from .volumes.geometry import AXES, reorient
from .volumes.nifti import stored_volume

if TYPE_CHECKING:
    from datasets import Dataset

    from .open_dataset import TaskDataset

STATISTICS_FILE = "image_statistics.parquet"
PICTURES_PER_WORKER = 64  # at least: a process takes a moment to start

_computed: dict[str, np.ndarray] = {}  # by the fingerprint of the rows: seeds and reports share them


def statistics_schema(names: Sequence[str]) -> pa.Schema:
    """The columns of the file, with these statistics."""
    places = {"split": pa.string(), "row": pa.int32(), "image_id": pa.string()}
    return pa.schema(places | dict.fromkeys(names, pa.float64()))


def dataset_statistics(data: "TaskDataset", split: str) -> np.ndarray:
    """
    The statistics of a split's pictures, float64 (rows, 10): what [`image_statistics`] gives for each; of its volumes
    (rows, 11), what [`volume_statistics`] does.

    They are read from the file that the builder left beside the dataset, if that knows all the rows. Otherwise the
    pictures are decoded, by as many processes as there are cores, once for all calls of this process.

    Raises:
        ValueError: A picture cannot be decoded, or the dataset is streamed and has no such file.
    """
    stored = _read(data, split)
    if stored is not None:
        return stored
    from datasets import Dataset

    rows = data.splits[split]
    if not isinstance(rows, Dataset):
        raise ValueError(f"{data.source} is streamed, and without {STATISTICS_FILE}: load it, or build it anew.")
    fingerprint = rows._fingerprint
    if fingerprint not in _computed:
        _computed[fingerprint] = _compute(rows, f"{data.name}, {split}: image statistics")
    return _computed[fingerprint]


def _read(data: "TaskDataset", split: str) -> np.ndarray | None:
    """Rows are found by the images' names, as they may be some of the split only."""
    images = data.column(split, "image_id")
    path = dataset_file(data.source, STATISTICS_FILE)
    if images is None or path is None:
        return None
    names = VOLUME_STATISTICS if data.has_volumes else SHORTCUT_STATISTICS
    try:
        table = pq.read_table(path, schema=statistics_schema(names), filters=[("split", "==", split)])
    except (OSError, pa.ArrowException):
        warnings.warn(
            f"{path} is damaged: the image statistics are computed from the pictures. Build the dataset anew.",
            stacklevel=2,
        )
        return None
    places = {image: place for place, image in enumerate(table["image_id"].to_pylist())}
    if not places.keys() >= set(images):
        return None
    values = np.column_stack([table[name].to_numpy() for name in names])
    return values[[places[image] for image in images]]


class _Images:
    """What a loader asks for the statistics of the row of a number."""

    def __init__(self, rows: "Dataset"):
        from datasets import Image, Nifti

        self.column = "volume" if "volume" in rows.column_names else "image"
        kind = Nifti if self.column == "volume" else Image
        self.rows = rows.select_columns(self.column).cast_column(self.column, kind(decode=False))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> np.ndarray:
        from .loading import open_stored

        try:
            cell = self.rows[number][self.column]
            if self.column == "volume":
                volume = reorient(stored_volume(cell), AXES["xyz"])
                return volume_statistics(volume.voxels, volume.spacing)
            opened = open_stored(cell, in_colour=True)  # which `grey_values` makes grey
            return image_statistics(grey_values(opened) if isinstance(opened, np.ndarray) else opened)
        except Exception as error:  # Pillow and its codecs raise anything on a damaged file
            raise ValueError(
                f"Row {number}: the image cannot be decoded ({type(error).__name__}). Rebuild the dataset."
            ) from error


def _compute(rows: "Dataset", description: str) -> np.ndarray:
    from torch.utils.data import DataLoader
    from tqdm.auto import tqdm

    from .loading import usable_cores

    num_workers = min(usable_cores(), len(rows) // PICTURES_PER_WORKER)
    pictures = DataLoader(
        _Images(rows),  # type: ignore[arg-type]
        batch_size=16,
        num_workers=num_workers if num_workers > 1 else 0,
        collate_fn=np.stack,
    )
    parts = []
    with tqdm(total=len(rows), desc=description, unit="image", leave=False) as bar:
        for part in pictures:
            parts.append(part)
            bar.update(len(part))
    return np.concatenate(parts)
