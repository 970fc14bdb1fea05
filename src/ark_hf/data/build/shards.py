"""Storage: rows and their images become parquet files, one image in memory at a time. Needs no torch."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...files import printable, replacing, write_json
from ..images.image_files import UnreadableImageError
from ..rows import Row

ROWS_PER_SHARD = 256
# What a reader of the file must hold at once: so many rows, fewer where they are large
ROWS_PER_GROUP, BYTES_PER_GROUP = 32, 2**26


@dataclass
class Shard:
    """Consecutive rows of one split, and the name of the file that they become."""

    name: str
    rows: list[Row]


@dataclass
class Stored:
    """
    What is stored of one row.

    Args:
        columns: Everything but its metadata, which are stored as they are.
        hashes: SHA-256 and perceptual hash, by which equal and like pictures are found: see [`hash_picture`].
        statistics: Those of the store for the picture or volume; empty for what has none.
        doubts: Reasons of the reader to doubt it.
        present: Of a segmentation whether each label has a pixel, None unknown; empty for other tasks.
        shrunk: Of a segmentation how many rows and columns of the picture became one.
    """

    columns: dict[str, Any]
    hashes: tuple[str, str]
    statistics: list[float] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    present: list[bool | None] = field(default_factory=list)
    shrunk: list[float] = field(default_factory=list)


@dataclass
class ShardRecord:
    """
    What is known of a finished shard beside its rows.

    Args:
        sources: Size and time of change of each row's file and of those of its masks, None where there is none.
        kept: Numbers in the shard of the rows that it holds, in order.
        problems: Numbers of the others, each with the reason.
        hashes, statistics, present, shrunk: Of each kept row, see [`Stored`].
        doubts: Numbers of kept rows, each with a reason to doubt its picture.
        size: Bytes of the file; 0: there is none, for no row could be used.
    """

    sources: list[list[int] | None]
    kept: list[int] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    hashes: list[tuple[str, str]] = field(default_factory=list)
    statistics: list[list[float]] = field(default_factory=list)
    present: list[list[bool | None]] = field(default_factory=list)
    shrunk: list[list[float]] = field(default_factory=list)
    doubts: list[tuple[int, str]] = field(default_factory=list)
    size: int = 0


@dataclass
class ShardBuilder:
    """
    Builds shards, each whole or not at all: first the file, then beside it the record, which makes it a finished one.

    Args:
        data_dir: Folder of the parquet files.
        record_dir: Folder of their records.
        schema: Columns of the files: those that are stored, and metadata.
        store: Reads a row's files and makes of them what is stored; raises `UnreadableImageError`. It is picklable and
            needs no torch, because other processes call it. [`PictureStore`] is one.
    """

    data_dir: Path
    record_dir: Path
    schema: pa.Schema
    store: Callable[[Row], Stored]

    def build(self, shard: Shard, count_image: Callable[[], object]) -> None:
        """Builds a shard; calls `count_image` after each row."""
        record = ShardRecord([_source(row) for row in shard.rows])

        def read() -> Iterator[dict[str, Any]]:
            for number, row in enumerate(shard.rows):
                stored, problem = self._read(row)
                if stored is None:
                    record.problems.append((number, problem))
                else:
                    record.kept.append(number)
                    record.hashes.append(stored.hashes)
                    record.statistics.append(stored.statistics)
                    record.present.append(stored.present)
                    record.shrunk.append(stored.shrunk)
                    record.doubts += [(number, reason) for reason in stored.doubts]
                    yield {**stored.columns, **row.metadata}
                count_image()

        with replacing(self.data_dir / shard.name) as new:
            write_parquet(new, self.schema, read())
            if record.kept:
                record.size = new.stat().st_size
            else:
                new.unlink()
        write_json(self._record_file(shard), asdict(record))

    def read_record(self, shard: Shard) -> ShardRecord:
        return ShardRecord(**json.loads(self._record_file(shard).read_text(encoding="utf-8")))

    def is_finished(self, shard: Shard) -> bool:
        """Whether an earlier build finished the shard from the same files, and what it could not read is still so."""
        try:
            record = self.read_record(shard)
        except FileNotFoundError:
            return False
        path = self.data_dir / shard.name
        return (
            record.size == (path.stat().st_size if path.is_file() else 0)
            and record.sources == [_source(row) for row in shard.rows]
            and all(self._read(shard.rows[number])[0] is None for number, _ in record.problems)
        )

    def remove_unfinished(self) -> None:
        """Removes what a build that was killed left half-written."""
        for folder in (self.data_dir, self.record_dir):
            for path in folder.glob(".*.new"):
                path.unlink()

    def _read(self, row: Row) -> tuple[Stored | None, str]:
        """What is stored of a row, or why nothing is."""
        try:
            return self.store(row), ""
        except UnreadableImageError as error:
            return None, str(error).removeprefix(f"{printable(row.path)}: ")

    def _record_file(self, shard: Shard) -> Path:
        return self.record_dir / f"{shard.name}.json"


def _source(row: Row) -> list[int] | None:
    masks = row.masks if isinstance(row.masks, list) else []
    try:
        states = [os.stat(path) for path in (row.path, *masks) if isinstance(path, Path)]
    except (OSError, ValueError):  # the latter of impossible names
        return None
    return [number for state in states for number in (state.st_size, state.st_mtime_ns)]


def write_parquet(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows as they come, a row group at a time; keys that are no columns are left out."""
    # The pictures are compressed already, and nothing else counts
    with open(path, "wb") as file, pq.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        for group in _groups(rows):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
        writer.close()
        file.flush()
        os.fsync(file.fileno())


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """`ROWS_PER_GROUP` rows each, or fewer, once they have `BYTES_PER_GROUP`."""
    group, size = list[dict[str, Any]](), 0
    for row in rows:
        group.append(row)
        size += sum(len(cell["bytes"]) for cell in row.values() if isinstance(cell, dict) and cell.get("bytes"))
        if len(group) == ROWS_PER_GROUP or size >= BYTES_PER_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
