"""Storage: rows and their images become parquet files, one image in memory at a time. Needs no torch."""

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

from ...files import write_json
from ..images.image_files import UnreadableImageError
from ..rows import Row
from .duplicates import hash_picture

ROWS_PER_SHARD = 256
ROWS_PER_GROUP = 32  # what a reader of the file must hold at once


@dataclass
class Shard:
    """Consecutive rows of one split, and the name of the file that they become."""

    name: str
    rows: list[Row]


@dataclass
class ShardRecord:
    """
    What is known of a finished shard beside its rows.

    Args:
        sources: Size and time of change of each row's file, None where there is none.
        kept: Numbers in the shard of the rows that it holds, in order.
        problems: Numbers of the others, each with the reason.
        hashes: SHA-256 and perceptual hash of each kept row, as [`hash_picture`] gives them, in hexadecimals.
        size: Bytes of the file; 0: there is none, for no row could be used.
    """

    sources: list[list[int] | None]
    kept: list[int] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    hashes: list[tuple[str, str]] = field(default_factory=list)
    size: int = 0


@dataclass
class ShardBuilder:
    """
    Builds shards, each whole or not at all: first the file, then beside it the record, which makes it a finished one.

    Args:
        data_dir: Folder of the parquet files.
        record_dir: Folder of their records.
        schema: Columns of the files; `image`, `labels` and metadata.
        size: Longer side to which larger images are shrunk.
        read_image: See [`Release`].
    """

    data_dir: Path
    record_dir: Path
    schema: pa.Schema
    size: int
    read_image: Callable[[Row], np.ndarray]

    def build(self, shard: Shard, count_image: Callable[[], object]) -> None:
        """Builds a shard; calls `count_image` after each row."""
        record = ShardRecord([_source(row) for row in shard.rows])

        def read() -> Iterator[dict[str, Any]]:
            for number, row in enumerate(shard.rows):
                plane, problem = self._read(row)
                if plane is None:
                    record.problems.append((number, problem))
                else:
                    record.kept.append(number)
                    record.hashes.append(hash_picture(plane))
                    yield {"image": encode_png(plane), "labels": row.labels, **row.metadata}
                count_image()

        path = self.data_dir / shard.name
        new = path.with_name(f".{shard.name}.{os.getpid()}.new")
        write_parquet(new, self.schema, read())
        if record.kept:
            record.size = new.stat().st_size
            new.replace(path)
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

    def _read(self, row: Row) -> tuple[np.ndarray | None, str]:
        """The picture as it is stored, or why there is none."""
        try:
            return shrink(self.read_image(row), self.size), ""
        except UnreadableImageError as error:
            return None, str(error).removeprefix(f"{row.path}: ")

    def _record_file(self, shard: Shard) -> Path:
        return self.record_dir / f"{shard.name}.json"


def _source(row: Row) -> list[int] | None:
    try:
        state = os.stat(row.path)
    except (OSError, ValueError):  # the latter of impossible names
        return None
    return [state.st_size, state.st_mtime_ns]


def write_parquet(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows as they come, `ROWS_PER_GROUP` a row group; keys that are no columns are left out."""
    rows = iter(rows)
    # The pictures are compressed already, and nothing else counts
    with open(path, "wb") as file, pq.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        while group := list(islice(rows, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
        writer.close()
        file.flush()
        os.fsync(file.fileno())


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """(1, H, W) uint8 or uint16 to (H, W) of the same kind with a longer side of at most `size`, aspect kept."""
    plane = image[0]
    scale = size / max(plane.shape)
    if scale >= 1:
        return plane
    target = tuple(max(round(side * scale), 1) for side in plane.shape[::-1])
    deep = plane.dtype != np.uint8
    resized = PIL.Image.fromarray(plane.astype(np.float32) if deep else plane).resize(
        target, PIL.Image.Resampling.LANCZOS
    )
    return np.clip(np.rint(np.asarray(resized)), plane.min(), plane.max()).astype(plane.dtype)


def encode_png(plane: np.ndarray) -> dict:
    """
    (H, W) uint8 or uint16 as a lossless grey PNG, in the form of a `datasets` image.

    Every line is stored as its difference from the line above, compressed by run lengths alone. Pillow, which tries
    five filters a line, makes radiographs 8 % smaller, but then both writing and reading take about twice as long.
    """
    height, width = plane.shape
    lines = np.ascontiguousarray(plane, plane.dtype.newbyteorder(">")).view(np.uint8)
    filtered = np.full((height, lines.shape[1] + 1), 2, np.uint8)  # 2 is the filter's number
    filtered[0, 1:] = lines[0]
    np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])  # modulo 256
    compressor = zlib.compressobj(strategy=zlib.Z_RLE)
    pixels = compressor.compress(filtered.data) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8 * plane.itemsize, 0, 0, 0, 0)
    chunks = [_png_chunk(*chunk) for chunk in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))]
    return {"bytes": b"\x89PNG\r\n\x1a\n" + b"".join(chunks), "path": None}


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
