"""Hostile messages of a federation: what a site or a server may send."""

import functools
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import nn

from ark_hf.federated.flower_app import read_content
from ark_hf.federated.vector import Vector, fault, load, pack, shared_tensors, unpack

from . import MARKER
from .judging import Case
from .mutations import VALUES, as_json, changed, damaged, damaged_text

SHAPES: list[Any] = [[2**62], [-1], [0], [2**31, 2**31], [1.0], ["3"], [[3]], [True], [3, 2], 3, [10**30]]


@functools.cache
def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def _table(rng: Random, table: str) -> tuple[str, str]:
    chance = rng.random()
    if chance < 0.1:
        return "deep", rng.choice(
            (
                "[" * 100_000,
                '[["a", [' + "9" * 5000 + "]]]",
                "",
                "null",
                '[["a", [3]], ["a", [3]]]',
                "[[]]",
                '[["a", [3], 1]]',
            )
        )
    if chance < 0.4:
        kind, text = damaged_text(rng, table)
        return kind, text.decode("utf-8", "surrogateescape")
    kind, value = changed(rng, json.loads(table), [*VALUES, *SHAPES])
    return kind, as_json(value).decode()


def _values(rng: Random, values: np.ndarray) -> tuple[str, Any]:
    kind = rng.choice(("same", "short", "long", "type", "shape", "nan", "infinite", "order", "none"))
    made = {
        "same": values,
        "short": values[:-1],
        "long": np.append(values, np.float32(0)),
        "type": values.astype(rng.choice(("f8", "f2", "i4", "c8", "?"))),
        "shape": values[None],
        "nan": np.where(np.arange(len(values)) == 0, np.nan, values).astype("f4"),
        "infinite": np.full_like(values, np.inf),
        "order": values.astype(">f4"),
        "none": np.empty(0, "f4"),
    }
    return kind, made[kind]


class Taken(Exception):
    """A message was taken that is not whole."""


def make_vector(rng: Random, folder: Path) -> Case:
    """Weights and their table."""
    right = pack(shared_tensors(_model()))
    (kind, table), values = ("values", right.table), right.values
    if rng.random() < 0.7:
        kind, table = _table(rng, right.table)
    if rng.random() < 0.6:
        kind, values = _values(rng, values)
    vector = Vector(values, table)

    def read() -> None:
        found = fault(vector, right.table)
        if found is None and not (np.isfinite(vector.values).all() and vector.table == right.table):
            raise Taken(kind)
        rng.choice((lambda: unpack(vector), lambda: load(_model(), vector), lambda: load(_model(), vector, True)))()

    return Case(kind, read)


def make_message(rng: Random, folder: Path) -> Case:
    """What Flower delivers, as the server reads it from a site: whatever cannot be read is one kind of failure."""
    right = pack(shared_tensors(_model()))
    told: Any = {"values": {"task_loss": 0.5, "samples": 3, "auroc": {"student": 0.5}}, "failure": "OSError"}
    kind = rng.choice(("json", "table", "values", "records", "array"))
    text, table, values = json.dumps(told), right.table, right.values
    if kind == "json":
        text = (
            damaged_text(rng, text)[1].decode("utf-8", "replace")
            if rng.random() < 0.5
            else as_json(changed(rng, told)[1]).decode()
        )
    elif kind == "table":
        table = _table(rng, table)[1]
    elif kind == "values":
        values = _values(rng, values)[1]
    array = Array(np.ascontiguousarray(values))
    if kind == "array":
        content = rng.choice((damaged(rng, array.data)[1], b"", np.array([None]).dumps(), _claims()))
        array = Array(
            dtype=rng.choice((array.dtype, "object", "x")),
            shape=rng.choice((tuple(array.shape), (2**40,), ())),
            stype=rng.choice((array.stype, "x")),
            data=content,
        )
    records: dict[str, Any] = {
        "told": ConfigRecord({"json": text, "table": table}),
        "weights": ArrayRecord({"vector": array}),
    }
    if kind == "records":
        records = changed(rng, {"told": 1, "weights": 2}, [1, 2])[1]
        some = (
            ConfigRecord({"json": text}),
            ConfigRecord({"json": 5}),
            ConfigRecord({}),
            ArrayRecord({"vector": array}),
            ArrayRecord({}),
        )
        records = {str(name): rng.choice(some) for name in records}

    def read() -> None:
        """As the server does in `_pull`, where any exception is a failure of the site; what passes must be whole."""
        try:
            told, vector = read_content(RecordDict(records))
        except (MemoryError, RecursionError):
            raise
        except Exception as error:
            if MARKER in str(error):
                raise
            return
        if not isinstance(told, dict):
            raise Taken("no dictionary")
        if vector is not None:
            found = fault(vector, right.table)
            if found is None and vector.values.dtype != np.float32:
                raise Taken(kind)

    return Case(kind, read)


def _claims() -> bytes:
    """An array in NumPy's format that says it has terabytes."""
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    head += b" " * (63 - (len(head) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head
