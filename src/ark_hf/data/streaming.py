"""Rows of a split read from its parquet files as training goes: no copy on disk, and memory for a window of rows."""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
from datasets import Dataset, Features, Image
from datasets.table import InMemoryTable

from ..hub_errors import explain
from .task_dataset import check_columns, check_has_image_and_labels, gather_labels, parquet_files
from .unlabelled import METADATA_COLUMNS, image_column

WINDOW = 2000  # rows over which a pass is shuffled, and that wait in memory at most
WINDOW_BYTES = 2**28  # fewer if they would take more than this
CHUNK = 32  # rows read at a time
READERS = 16  # files read at once for their footers and small columns
AT_ONCE = 2**24  # bytes: row groups of a file are read together up to this, and one that is larger in pieces
PIECE = 2**22

SMALL_COLUMNS = ("labels", *METADATA_COLUMNS)

T = TypeVar("T")


@dataclass
class Run:
    """Row groups of a file that follow each other and are read together; `start` is their first row in the split."""

    file: str
    groups: list[int]
    start: int
    rows: int
    size: int


class StreamedRows:
    """
    One split of a task dataset in its parquet files, on disk or on the Hub, of which only what is asked for is read.

    Rows are numbered in the order of the files, as in [`load_task_dataset`], and have the same labels.

    Args:
        name_or_path: Folder or Hub id of a task dataset.
        split: "train", "validation" or "test".
        columns: For foreign datasets, as for [`load_task_dataset`].
        images_only: Whether labels and masks are never read, and may be lacking; `columns` are as for
            [`image_column`] then.

    Raises:
        ValueError: The dataset cannot be reached or is not in parquet files, the split or a column is missing, or the
            split is empty.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        split: str,
        columns: Mapping[str, Any] | None = None,
        images_only: bool = False,
    ):
        self.where = f"split {split!r} of {str(name_or_path)!r}"
        self.files = parquet_files(name_or_path, split)
        with ThreadPoolExecutor(READERS) as pool:
            self.footers = dict(zip(self.files, pool.map(self._read_footer, self.files), strict=True))
        self.runs, self.length = _runs(self.footers)
        size = sum(run.size for run in self.runs)
        self.window = max(min(WINDOW, WINDOW_BYTES * self.length // max(size, 1)), 1)
        if not self.length:
            raise ValueError(f"Cannot load {self.where}: it is empty.")
        schema = self.footers[self.files[0]].schema.to_arrow_schema()
        self.features, stored = Features.from_arrow_schema(schema), schema.names
        if "volume" in stored and "image" not in stored:
            raise ValueError(f"{str(name_or_path)!r} holds volumes, which are not streamed: set streaming to false.")
        self.stored = {name: [name] for name in stored}  # by column of a row those of the files that it is made of
        self.gathered = columns is not None and not images_only
        if images_only:
            column = image_column(columns, schema, split, name_or_path)
            self.stored = {name: [name] for name in METADATA_COLUMNS if name in stored and name != column}
            self.stored["image"] = [column]
            return
        if columns is not None:
            check_columns(columns, stored, name_or_path)
            for name in (columns["image"], *columns["labels"]):
                self.stored.pop(name, None)
            self.stored |= {"image": [columns["image"]], "labels": columns["labels"]}
        check_has_image_and_labels(self.column_names, split, name_or_path)

    def __len__(self) -> int:
        return self.length

    @property
    def column_names(self) -> list[str]:
        return list(self.stored)

    @property
    def layout(self) -> str:
        """A digest of what the order of a pass depends on beside its key: the rows of each run, and the window."""
        return f"{zlib.crc32(repr(([run.rows for run in self.runs], self.window)).encode()):08x}"

    def without_images(self) -> Dataset:
        """All columns but the images, loaded: what checks of a split need, and little to fetch."""
        names = [name for name in SMALL_COLUMNS if name in self.stored]
        with ThreadPoolExecutor(READERS) as pool:
            tables = list(pool.map(lambda file: self._read_columns(file, names), self.files))
        return Dataset(InMemoryTable(pyarrow.concat_tables(tables)))

    def shuffled(self, generator: np.random.Generator) -> np.ndarray:
        """
        The numbers of all rows in an order for one pass, int64 (rows,).

        The runs of row groups come in random order, and each row at random among the `window` rows that follow it, so
        that [`read`] reads every run once and keeps no more rows than that in memory.
        """
        runs = [self.runs[number] for number in generator.permutation(len(self.runs))]
        order = np.concatenate([np.arange(run.start, run.start + run.rows) for run in runs])
        return order[np.argsort(np.arange(len(order)) + generator.uniform(0, self.window, len(order)), kind="stable")]

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[list[tuple[int, dict]]]:
        """
        The rows of each batch of row numbers, as pairs of number and row; runs without any are not read.

        A row has `image` (`{"bytes": ..., "path": ...}`, not decoded), and `labels` and `image_id` if the split has
        them.
        The memory needed is for one run (or a piece of a large row group) and the rows read before their turn.

        Args:
            batches: Arrays of row numbers; ~n stands for a padding with row n, see [`micro_batches`].

        Raises:
            OSError: A file cannot be read (any more).
        """
        batches = [np.asarray(batch) for batch in batches]
        numbers = [np.where(batch < 0, ~batch, batch) for batch in batches]
        if not numbers:
            return
        wanted, first, uses = np.unique(np.concatenate(numbers), return_index=True, return_counts=True)
        further = dict(zip(wanted[uses > 1].tolist(), (uses[uses > 1] - 1).tolist(), strict=True))
        chunks = self._chunks(wanted, first)
        waiting: dict[int, dict] = {}
        for batch, rows in zip(batches, numbers, strict=True):
            ready = []
            for place, number in zip(batch.tolist(), rows.tolist(), strict=True):
                while number not in waiting:
                    waiting.update(next(chunks))
                ready.append((place, waiting[number]))
                if further.get(number):
                    further[number] -= 1
                else:
                    del waiting[number]
            yield ready

    def _chunks(self, wanted: np.ndarray, first: np.ndarray) -> Iterator[dict[int, dict]]:
        """The `wanted` rows (sorted) by number, a few at a time; runs in the order of their `first` use."""
        bounds = np.searchsorted(wanted, [run.start for run in self.runs] + [self.length])
        used = [
            (first[low:high].min(), run, wanted[low:high])
            for run, low, high in zip(self.runs, bounds, bounds[1:], strict=False)
            if low < high
        ]
        for _, run, numbers in sorted(used, key=lambda each: each[0]):
            start = run.start
            for batch in self._read_run(run):
                low, high = np.searchsorted(numbers, [start, start + len(batch)])
                if low < high:
                    rows = self._rows(batch.take(pyarrow.array(numbers[low:high] - start)))
                    yield dict(zip(numbers[low:high].tolist(), rows, strict=True))
                start += len(batch)

    def _rows(self, batch: pyarrow.RecordBatch) -> list[dict]:
        values = {"image": Image().cast_storage(batch.column(self.stored["image"][0])).to_pylist()}
        for column in ("labels", "image_id"):
            if column in self.stored:
                values[column] = self._values(batch, column)
        return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]

    def _values(self, table: pyarrow.Table | pyarrow.RecordBatch, column: str) -> list:
        stored = self.stored[column]
        values = [table.column(name).to_pylist() for name in stored]
        if column == "labels" and self.gathered:
            return [gather_labels(row, stored, self.features, self.where) for row in zip(*values, strict=True)]
        return values[0]

    # Reading files ------------------------------------------------------------------------------------------------

    def _read_footer(self, file: str) -> pyarrow.parquet.FileMetaData:
        with self._reading(file, ValueError) as handle:
            return pyarrow.parquet.read_metadata(handle)

    def _read_columns(self, file: str, names: list[str]) -> pyarrow.Table:
        with self._reading(file, ValueError) as handle:
            parquet = pyarrow.parquet.ParquetFile(handle, metadata=self.footers[file], pre_buffer=True)
            table = parquet.read([stored for name in names for stored in self.stored[name]], use_threads=False)
        columns = {name: table.column(name) for name in names if name != "labels" or not self.gathered}
        if self.gathered:
            columns["labels"] = pyarrow.array(self._values(table, "labels"))
        return pyarrow.table([columns[name] for name in names], names)

    def _read_run(self, run: Run) -> Iterator[pyarrow.RecordBatch]:
        columns = [stored for name in ("image", "labels", "image_id") for stored in self.stored.get(name, [])]
        large = run.size > AT_ONCE
        with self._reading(run.file, OSError) as handle:
            yield from pyarrow.parquet.ParquetFile(
                handle, metadata=self.footers[run.file], pre_buffer=not large, buffer_size=PIECE if large else 0
            ).iter_batches(CHUNK, row_groups=run.groups, columns=columns, use_threads=False)

    @contextmanager
    def _reading(self, file: str, kind: type[Exception]) -> Iterator[Any]:
        try:
            # Without a cache of its own: parquet knows best which bytes it needs
            with fsspec.open(file, "rb", cache_type="none") as handle:
                yield handle
        except Exception as error:  # pyarrow, the file system and the network raise anything
            raise kind(f"Cannot read {Path(file).name} of {self.where}: {explain(error)}") from error


def _runs(footers: dict[str, pyarrow.parquet.FileMetaData]) -> tuple[list[Run], int]:
    """The runs of all files, and the number of their rows."""
    runs: list[Run] = []
    length = 0
    for file, footer in footers.items():
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            last = runs[-1] if runs and runs[-1].file == file else None
            if last is not None and last.size + group.total_byte_size <= AT_ONCE:
                last.groups.append(number)
                last.rows += group.num_rows
                last.size += group.total_byte_size
            else:
                runs.append(Run(file, [number], length, group.num_rows, group.total_byte_size))
            length += group.num_rows
    return runs, length


def read_ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The items in order, up to `count` of them made before they are asked for, in one thread."""
    pool = ThreadPoolExecutor(1)
    try:
        made = deque(pool.submit(next, items, None) for _ in range(count))
        while (item := made.popleft().result()) is not None:
            made.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
