"""Files that are read by other processes."""

import multiprocessing

import numpy as np
import pytest
import torch

from ark_hf import ArkImageProcessor
from ark_hf.data.build.pictures import encode_png
from ark_hf.inference import read_files as module

BATCHES = [[f"{name}.png" for name in "abcdef"], ["none.png"], ["g.png"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_whatever_cannot_be_read(tmp_path, workers):
    batches = [[tmp_path / name for name in batch] for batch in BATCHES]
    pictures = {}
    for number, path in enumerate(path for batch in batches for path in batch):
        if path.stem not in ("b", "none"):
            pictures[path] = np.random.default_rng(number).integers(0, 256, (40, 36 + number), dtype=np.uint8)
            path.write_bytes(encode_png(pictures[path])["bytes"])
    processor = ArkImageProcessor(size=32)
    read = list(module.read_files(batches, processor, workers, lambda image: image.name))
    assert len(read) == len(batches)
    for batch, (noted, pixel_values) in zip(batches, read, strict=True):
        readable = [path for path in batch if path in pictures]
        for path, name in zip(batch, noted, strict=True):
            assert name == str(path) if path in pictures else f"{path}: there is no such file" in name
        if readable:
            expected = processor([pictures[path][None] for path in readable], return_tensors="pt")["pixel_values"]
            torch.testing.assert_close(pixel_values, expected, rtol=0, atol=0)
        else:
            assert pixel_values is None


def test_a_process_that_dies_is_told(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for path in paths:
        path.write_bytes(encode_png(np.zeros((9, 9), dtype=np.uint8))["bytes"])
    batches = [paths[start : start + 4] for start in range(0, 40, 4)]
    read = module.read_files(batches, ArkImageProcessor(size=32), 1, lambda image: image.name)
    next(read)
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(ChildProcessError, match="ended without a word.*num_workers 0"):
        list(read)


@pytest.mark.parametrize(
    "files, cores, processes, readers",
    [(1000, 4, 1, 4), (1000, 4, 2, 2), (1000, 1, 1, 0), (20, 4, 1, 0), (40, 4, 1, 2), (10**6, 128, 1, 16)],
)
def test_many_files_are_read_by_every_core_and_few_by_this_process(monkeypatch, files, cores, processes, readers):
    monkeypatch.setattr("ark_hf.data.loading.usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert module.default_readers(files) == readers
