"""Samples of Models Genesis: a function of (seed, epoch, dataset, cube) alone."""

import numpy as np
import pytest
import torch

from ark_hf.data.loading import iterate
from ark_hf.training.genesis.samples import CubeSamples


class Drawn:
    """Cubes as they lie in a run's folder, of two datasets."""

    def __init__(self, names=tuple(f"scan {number}" for number in range(6))):
        self.names = names
        self.levels = np.random.default_rng(0).integers(2**16, size=(16, 14, 18), dtype=np.uint16)

    def __len__(self):
        return len(self.names)

    def __getitem__(self, number):
        return ("here" if number < 3 else "there"), self.names[number], self.levels


def make(seed=0, epoch=0, **kwargs) -> CubeSamples:
    return CubeSamples(Drawn(**kwargs), "zyx", seed, epoch)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


def test_batches_hold_deformed_cubes_and_the_cubes():
    (batch,) = iterate(make(), [np.array([0, 1, ~2])], 0)
    for name in ("pixel_values", "labels"):
        assert batch[name].shape == (3, 1, 16, 14, 18) and batch[name].dtype == torch.float32
        assert 0 <= batch[name].min() and batch[name].max() <= 1
    assert batch["weight"].tolist() == [1, 1, 0]
    assert not torch.equal(batch["pixel_values"], batch["labels"])
    voxels = batch["labels"].flatten(1).sort().values  # flipped at most
    expected = torch.from_numpy(np.sort(Drawn().levels.ravel()) / np.float32(65535)).expand(3, -1)
    torch.testing.assert_close(voxels, expected, rtol=0, atol=0)


def test_a_cube_depends_neither_on_its_batch_nor_on_its_number():
    whole = list(iterate(make(), [np.arange(6)], 0))[0]
    parts = list(iterate(make(), [np.array([5, 0]), np.array([3, 1])], 0))
    for batch, numbers in zip(parts, ([5, 0], [3, 1]), strict=True):
        assert_same(batch, {key: value[numbers] for key, value in whole.items()})
    moved = make(names=("scan 1", "scan 0", *Drawn().names[2:]))
    assert_same(moved[0], make()[1])
    assert not torch.equal(make(names=("scan 0",) * 6)[3]["pixel_values"], make()[0]["pixel_values"])  # elsewhere


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_what_is_drawn_depends_on_seed_and_epoch(other):
    one, another = (next(iterate(make(**key), [np.arange(6)], 0))["pixel_values"] for key in ({}, other))
    assert (one != another).flatten(1).any(1).all()


@pytest.mark.slow_ci
def test_samples_are_the_same_whatever_the_number_of_workers():
    batches = [np.array([0, 1]), np.array([2, 3])]
    for alone, shared_out in zip(*(iterate(make(), batches, workers) for workers in (0, 2)), strict=True):
        assert_same(alone, shared_out)
