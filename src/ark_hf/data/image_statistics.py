"""
The ten statistics of every picture of a dataset: stored when it is built, or else computed once a run.

A builder's processes import this and need no torch.
"""

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..metrics.shortcut import SHORTCUT_STATISTICS, image_statistics
from .radiograph import grey_values
from .task_dataset import dataset_file

if TYPE_CHECKING:
    from datasets import Dataset

    from .open_dataset import TaskDataset

STATISTICS_FILE = "image_statistics.parquet"
STATISTICS_SCHEMA = pa.schema(
    {
        "split": pa.string(),
        "row": pa.int32(),
        "image_id": pa.string(),
        **dict.fromkeys(SHORTCUT_STATISTICS, pa.float64()),
    }
)
PICTURES_PER_WORKER = 64  # at least: a process takes a moment to start

_computed: dict[str, np.ndarray] = {}  # by the fingerprint of the rows: seeds and reports share them


def dataset_statistics(data: "TaskDataset", split: str) -> np.ndarray:
    """
    The statistics of a split's pictures, float64 (rows, 10): what [`image_statistics`] gives for each.

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
    try:
        table = pq.read_table(path, schema=STATISTICS_SCHEMA, filters=[("split", "==", split)])
    except (OSError, pa.ArrowException):
        warnings.warn(
            f"{path} is damaged: the image statistics are computed from the pictures. Build the dataset anew.",
            stacklevel=2,
        )
        return None
    places = {image: place for place, image in enumerate(table["image_id"].to_pylist())}
    if not places.keys() >= set(images):
        return None
    values = np.column_stack([table[name].to_numpy() for name in SHORTCUT_STATISTICS])
    return values[[places[image] for image in images]]


class _Pictures:
    """What a loader asks for the statistics of the row of a number."""

    def __init__(self, rows: "Dataset"):
        from datasets import Image

        self.rows = rows.select_columns("image").cast_column("image", Image(decode=False))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> np.ndarray:
        from .loading import open_stored

        try:
            opened = open_stored(self.rows[number]["image"])
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
        _Pictures(rows),  # type: ignore[arg-type]
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
