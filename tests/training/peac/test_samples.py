"""Samples of PEAC: a function of (seed, epoch, dataset, image) alone, and pictures as the model takes them."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from scipy.stats import binomtest

from ark_hf.data.build.build import encode_png
from ark_hf.data.loading import iterate
from ark_hf.data.unlabelled import Unlabelled
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.training.peac.grid import Grid
from ark_hf.training.peac.samples import PeacSamples

GRID = Grid(32, 8)
PICTURES = ("first", "target", "second")
COUNT = 12
DEEP = 5  # the row whose picture is of 16 bits
PROCESSOR = ArkImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Unlabelled."""
    random = np.random.default_rng(0)
    pictures = [random.integers(256, size=(60 + number, 70), dtype=np.uint8) for number in range(COUNT)]
    pictures[DEEP] = random.integers(2**16, size=(64, 64), dtype=np.uint16)
    columns = {"image": list(map(encode_png, pictures)), "image_id": [f"image {number}" for number in range(COUNT)]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "image_id": Value("string")}))


def make(rows: Dataset, name: str = "here", seed: int = 0, epoch: int = 0, transposed: bool = False) -> PeacSamples:
    return PeacSamples(rows, Unlabelled(name), PROCESSOR, seed, epoch, GRID, transposed)


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for name in batch:
        torch.testing.assert_close(batch[name], other[name], rtol=0, atol=0, msg=name)


def test_batches_have_three_pictures_and_what_is_known_of_their_cells(rows):
    (batch,) = iterate(make(rows), [np.array([0, 3, ~1])], 0)
    for name in PICTURES:
        assert batch[name].shape == (3, 1, 32, 32) and batch[name].dtype == torch.uint8
    assert batch["permutation"].shape == (3, 16) and batch["permutation"].dtype == torch.int64
    assert batch["shuffled"].shape == (3,) and batch["shuffled"].dtype == torch.bool
    assert batch["weight"].tolist() == [1, 1, 0] and batch["weight"].dtype == torch.float32
    samples, counted = make(rows).__getitems__([0, 3, ~1]), 0
    for name in ("first", "second"):
        expected = [
            16 * number + cell
            for number, sample in enumerate(samples[:2])  # the third is a padding
            for cell in range(16)
            if sample[f"{name}_matches"][cell] and not sample["shuffled"]
        ]
        assert batch[f"{name}_cells"].tolist() == expected
        counted += len(expected)
    assert counted


def test_pictures_are_normalised_as_the_processor_does_and_nothing_else_is(rows):
    samples = make(rows)
    (batch,) = iterate(samples, [np.arange(3)], 0)
    normalised = samples.normalise(batch, "cpu")
    for name in PICTURES:
        expected = PROCESSOR([*batch[name]], return_tensors="pt", do_resize=False)["pixel_values"]
        torch.testing.assert_close(normalised[name], expected, rtol=0, atol=1e-6)
    assert_same(*({name: each[name] for name in each.keys() - set(PICTURES)} for each in (batch, normalised)))
    assert normalised.keys() == batch.keys()


def test_crop_one_is_shuffled_or_distorted_by_halves(rows):
    counts = []
    for epoch in range(8):
        for sample in make(rows, epoch=epoch).__getitems__(range(COUNT)):
            counts.append(bool(sample["shuffled"]))
            in_order = torch.equal(sample["permutation"], torch.arange(16))
            assert sample["permutation"].sort().values.tolist() == list(range(16))
            assert in_order != counts[-1]
            assert torch.equal(sample["first"], sample["target"]) == counts[-1]
    assert binomtest(sum(counts), len(counts), 0.5).pvalue > 0.001


def test_matches_are_true_or_as_published(rows):
    true, published = (
        {
            name: torch.stack(
                [sample[name] for sample in make(rows, transposed=transposed).__getitems__(range(COUNT))]
            )
            for name in ("target", "second", "first_matches", "second_matches")
        }
        for transposed in (False, True)
    )
    for name in ("first_matches", "second_matches"):
        across = true[name].reshape(-1, 4, 4).mT.flatten(1)
        assert torch.equal(published[name], across) and not torch.equal(published[name], true[name])
    for number in range(COUNT):
        cells = [
            true[crop][number, 0].float().unfold(0, 8, 8).unfold(1, 8, 8).reshape(16, 64)[mask[number]]
            for crop, mask in (("target", true["first_matches"]), ("second", true["second_matches"]))
        ]
        assert torch.equal(*cells)


def test_deep_pictures_keep_their_depth(rows):
    samples = make(rows)
    alone, among = (samples.collate(samples.__getitems__(numbers)) for numbers in ([DEEP], [0, DEEP]))
    for name in PICTURES:
        assert alone[name].dtype == torch.float32 and 0 <= alone[name].min() and alone[name].max() <= 1
        assert torch.equal(among[name][1:], alone[name])
        levels = alone["target"] * 255
        assert (levels - levels.round()).abs().max() > 0.1


def test_samples_depend_neither_on_their_batch_nor_on_its_order(rows):
    samples = make(rows)
    (whole,) = iterate(samples, [np.arange(DEEP)], 0)
    order = np.array([3, 0, 4, 1, 2])
    parts = list(iterate(samples, np.split(order, [2]), 0))
    of_pictures = whole.keys() - {"first_cells", "second_cells"}  # beside them cells, counted through the batch
    assert_same({name: torch.cat([part[name] for part in parts]) for name in of_pictures},
                {name: whole[name][order] for name in of_pictures})  # fmt: skip


def test_an_image_is_known_by_its_name(rows):
    moved = rows.select(range(COUNT - 1, -1, -1))
    assert_same(make(rows)[2], make(moved)[COUNT - 3])
    nameless = rows.remove_columns("image_id")
    assert not torch.equal(make(nameless)[2]["second"], make(rows)[2]["second"])
    assert_same(make(nameless)[2], make(nameless)[2])


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"name": "there"}])
def test_what_is_drawn_depends_on_seed_epoch_and_dataset(rows, other):
    one, another = (next(iterate(make(rows, **key), [np.arange(4)], 0))["second"] for key in ({}, other))
    assert (one != another).flatten(1).any(1).all()


@pytest.mark.slow_ci
def test_samples_are_the_same_whatever_the_number_of_workers(rows):
    batches = [np.array([0, 1]), np.array([2, DEEP])]
    for alone, shared_out in zip(*(iterate(make(rows), batches, workers) for workers in (0, 2)), strict=True):
        assert_same(alone, shared_out)
