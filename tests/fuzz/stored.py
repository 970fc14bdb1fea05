"""Hostile task datasets: shards of parquet that are damaged, or whose cells hold what they should not."""

import functools
import io
import tempfile
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Image

from ark_hf.data.loading import RowSamples
from ark_hf.data.open_dataset import read_labels
from ark_hf.data.sources.phantom_sites import build_phantom_sites
from ark_hf.data.task_dataset import load_task_dataset, read_any_task
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor

from . import MARKER, dicoms, pictures
from .files import STEM
from .judging import Case
from .mutations import damaged

PROCESSOR = ArkImageProcessor(size=32)


@functools.cache
def _dataset() -> dict[str, bytes]:
    """The card and one shard a split of a small dataset, patients in it."""
    with tempfile.TemporaryDirectory() as folder:
        site = next(
            iter(
                build_phantom_sites(
                    Path(folder) / "sites", dict.fromkeys(("train", "validation", "test"), 4), size=40
                ).values()
            )
        )
        files = {str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*") if path.is_file()}
    shards = sorted(name for name in files if name.startswith("data/"))
    return {"README.md": files["README.md"], **{name: files[name] for name in shards}}


def _with_cells(rng: Random, content: bytes) -> tuple[str, bytes]:
    table = pq.read_table(io.BytesIO(content))
    kind = rng.choice(("image", "path", "labels", "type", "column", "name"))
    rows = table.to_pylist()
    if kind == "image":
        rows[0]["image"]["bytes"] = rng.choice(
            (
                b"",
                None,
                damaged(rng, rng.choice(pictures.valid("PNG")))[1],
                dicoms.valid()[0],
                damaged(rng, dicoms.valid()[1])[1],
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            )
        )
    elif kind == "path":
        rows[0]["image"]["path"] = rng.choice(
            ("../../secret/x.png", "/etc/passwd", "x" * 70_000, "\x1b[2J", MARKER, "")
        )
    elif kind == "labels":
        rows[0]["labels"] = rng.choice(([], None, [2.0] * 20, [float("nan")] * 3, [0.5, -1.0, 7.0], [1e300]))
    elif kind == "column":
        name = rng.choice(table.column_names)
        rows = [{key: value for key, value in row.items() if key != name} for row in rows]
    elif kind == "name":
        rows = [{**row, rng.choice(("\x1b[2J", "é\u202e", "", "mask", "volume", "masks")): MARKER} for row in rows]
    else:
        name = rng.choice(table.column_names)
        rows = [{**row, name: rng.choice((1, MARKER, [1], None, b"x", True))} for row in rows]
        rows = [{**row, name: rows[0][name]} for row in rows]
    buffer = io.BytesIO()
    try:
        schema = table.schema if kind in ("image", "path", "labels") else None
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
        return "damage", damaged(rng, content)[1]
    return kind, buffer.getvalue()


def make(rng: Random, folder: Path) -> Case:
    """A folder with a task dataset, loaded and its first picture decoded."""
    place = folder / STEM
    files = dict(_dataset())
    shard = rng.choice([name for name in files if name.startswith("data/")])
    kind, files[shard] = _with_cells(rng, files[shard]) if rng.random() < 0.6 else damaged(rng, files[shard])
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    split = Path(shard).name.partition("-")[0]

    def read() -> None:
        task = read_any_task(place)
        rows = load_task_dataset(place, split)
        read_labels(rows.data.column("labels"), task, f"{place}, split {split!r}")
        stored = rows.cast_column("image", Image(decode=False))
        RowSamples(stored, task, PROCESSOR).picture(0, stored[0])

    return Case(kind, read)
