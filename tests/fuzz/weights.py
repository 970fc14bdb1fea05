"""Hostile weights: safetensors, and what torch.save writes, with code planted in it."""

import functools
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save

from ark_hf.models.ark.convert_ark_checkpoint import convert_checkpoint
from ark_hf.models.genesis.convert_genesis_checkpoint import convert_genesis_checkpoint
from ark_hf.weights import check_tensors, read_weights_file
from tests.models.ark.original_files import swin_state_dict
from tests.models.genesis.original_files import genesis_state_dict
from tests.test_weights import Calls, bombs, foreign, good_file, pickled, repacked, torch_file, wrong_tensors

from . import MARKER
from .files import STEM, no_file, written
from .judging import CANARY, Case
from .mutations import as_json, changed, damaged


def read(path: Path) -> None:
    check_tensors(read_weights_file(path), str(path))


@functools.cache
def _valid() -> list[bytes]:
    return [good_file(), torch_file(genesis_state_dict()), torch_file({"a": torch.ones(4), "b": [1, 2.5, MARKER]})]


_bombs = functools.cache(bombs)


@functools.cache
def _constructed() -> dict[str, bytes]:
    return {**foreign(), **wrong_tensors()}


def _code(rng: Random, folder: Path) -> tuple[str, bytes]:
    """A file that makes the canary when it is opened by one that runs what pickles name."""
    canary = str(folder.parent / CANARY)
    call = rng.choice(
        (
            Calls(os.system, f"touch {canary}"),
            Calls(eval, f"open({canary!r}, 'w')"),
            Calls(open, canary, "w"),
            Calls(exec, f"open({canary!r}, 'w')"),
            Calls(os.mkdir, canary),
            Calls(torch.load, canary),
        )
    )
    place = rng.choice(("beside", "table", "old", "bare", "key", "storage", "nested", "extra"))
    if place == "beside":
        return f"code {place}", torch_file({"teacher": {"a": torch.ones(2)}, "epoch": call})
    if place == "table":
        return f"code {place}", repacked(
            torch_file({"a": torch.ones(4)}), data_pkl=pickle.dumps(call, protocol=rng.choice((0, 1, 2, 3, 4, 5)))
        )
    if place == "old":
        return f"code {place}", torch_file({"x": call}, _use_new_zipfile_serialization=False)
    if place == "bare":
        return f"code {place}", pickle.dumps({"state_dict": call}, protocol=rng.choice((0, 2, 4)))
    if place == "extra":
        buffer = io.BytesIO(good_file())
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(
                rng.choice(("archive/code/x.py", "archive/constants.pkl", "archive/data.pkl.bak", "../x")),
                pickle.dumps(call),
            )
        return f"code {place}", buffer.getvalue()
    program = b"cposix\nsystem\nX" + struct.pack("<I", len(f"touch {canary}")) + f"touch {canary}".encode() + b"\x85R"
    wrapped = {"key": b"}" + program + b"Ns", "storage": b"(" + program + b"tQ", "nested": b"](" + program * 3 + b"e"}
    return f"code {place}", pickled(wrapped[place])


def _within(rng: Random, content: bytes) -> bytes:
    """Damage within the table of tensors, its checksum right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        table = archive.read(name)
    return repacked(content, data_pkl=damaged(rng, table)[1])


def make_checkpoint(rng: Random, folder: Path) -> Case:
    """A file of torch, read as weights or converted."""
    reads = (read, read, convert_checkpoint, convert_genesis_checkpoint)
    reader, chance = rng.choice(reads), rng.random()
    if chance < 0.02:
        return no_file(rng, folder, ".pth", reader, plain=False)
    if chance < 0.25:
        kind, content = _code(rng, folder)
    elif chance < 0.3:
        kind, content = rng.choice(list(_bombs().items()))
    elif chance < 0.45:
        kind, content = rng.choice(list(_constructed().items()))
    elif chance < 0.75:
        kind, content = "table", _within(rng, rng.choice(_valid()))
    else:
        kind, content = damaged(rng, rng.choice(_valid()), _valid())
    path = written(rng, folder, rng.choice((".pth", ".pt", ".bin", ".tar")), content)
    return Case(kind, lambda: reader(path), STEM, plain=False)


@functools.cache
def _tensors() -> bytes:
    return save(
        {key: value.clone() for key, value in swin_state_dict(depths=(2,), num_heads=(2,)).items()}, {"who": MARKER}
    )


def _header(rng: Random, content: bytes) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    values = [
        None,
        -1,
        0,
        2**31,
        2**63,
        2**64,
        "F32",
        "F8_E4M3",
        [],
        [1],
        [2**40, 2**40],
        [0, 2**62],
        [8, 4],
        {},
        "x" * 300,
        [0],
        1.5,
    ]
    text = as_json(changed(rng, header, values)[1]) if rng.random() < 0.7 else damaged(rng, content[8 : 8 + length])[1]
    if rng.random() < 0.1:
        text = rng.choice(
            (b'{"a":' * 30_000, b'{"__metadata__": {"a": "%s"}}' % (b"x" * 2**20), text.replace(b"}", b"}" * 2))
        )
    told = len(text) if rng.random() < 0.8 else rng.choice((0, 1, 2**23, 2**31, 2**63, len(text) - 1))
    return struct.pack("<Q", told) + text + content[8 + length :]


def make_safetensors(rng: Random, folder: Path) -> Case:
    """A safetensors file, read as weights or converted."""
    reader = rng.choice((read, read, convert_checkpoint))
    if rng.random() < 0.02:
        return no_file(rng, folder, ".safetensors", reader, plain=False)
    kind, content = ("header", _header(rng, _tensors())) if rng.random() < 0.6 else damaged(rng, _tensors())
    path = written(rng, folder, ".safetensors", content)
    return Case(kind, lambda: reader(path), STEM, plain=False)
