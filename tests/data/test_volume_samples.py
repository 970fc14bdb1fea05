"""Volumes as a Genesis is trained and tested on them: cubes of both in one place, drawn by the seed, one at a time."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Nifti, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf import ArkTask, GenesisImageProcessor, SegmentationTask, Volume, open_dataset, reorient
from ark_hf.data.volume_samples import (
    VolumeInferenceSamples,
    VolumeMaskTrainingSamples,
    VolumeTrainingSamples,
    cut,
    draw_place,
    middle,
    whole_label_map,
    whole_volume,
)
from ark_hf.data.volumes.nifti import encode_nifti

from .volumes.made import affine

PARTS = SegmentationTask("parts", ["a", "b", "c"], modality="CT")
FINDING = ArkTask("finding", ["nodule"], modality="CT")


def coded(shape=(14, 12, 10), seed=0, blocks=2) -> tuple[Volume, Volume]:
    """A CT whose labels, 0 to 3, can be read off its voxels, and its label map."""
    small = [-(-side // blocks) for side in shape]
    labels = np.random.default_rng(seed).integers(0, 4, small).astype(np.uint8)
    for axis in range(3):
        labels = labels.repeat(blocks, axis)
    labels = labels[tuple(map(slice, shape))]
    return Volume(labels.astype(np.int16) * 500 - 1000, affine()), Volume(labels, affine())


def rows(*cells: tuple[Volume, Volume | list[float]]) -> Dataset:
    segmented = isinstance(cells[0][1], Volume)
    kinds = {"mask": Nifti()} if segmented else {"labels": List(Value("float32"))}
    columns: dict = {"volume": [], **{name: [] for name in kinds}, "image_id": []}
    for number, (volume, answer) in enumerate(cells):
        columns["volume"].append({"bytes": encode_nifti(volume), "path": None})
        answer = {"bytes": encode_nifti(answer), "path": None} if isinstance(answer, Volume) else answer
        columns[next(iter(kinds))].append(answer)
        columns["image_id"].append(f"ct{number}")
    return Dataset.from_dict(columns, Features({"volume": Nifti(), **kinds, "image_id": Value("string")}))


def read_off(cube: torch.Tensor) -> torch.Tensor:
    """Labels of a cube of [`coded`], 255 beside the volume."""
    return torch.round(cube * 4).long()


@pytest.mark.parametrize("axes", ["zyx", "xyz"])
@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SAR"])
def test_label_maps_lie_on_their_volumes(axes, orientation):
    volume, mask = (reorient(each, orientation) for each in coded())
    processor = GenesisImageProcessor(axes=axes, cube_size=[8, 8, 8])
    whole, labels = whole_volume(processor, volume, "CT"), whole_label_map(processor, mask)
    assert whole.shape[1:] == labels.shape == ((10, 12, 14) if axes == "zyx" else (14, 12, 10))
    assert labels.dtype == torch.uint8 and torch.equal(read_off(whole[0]), labels.long())


@given(st.tuples(*[st.floats(0.4, 4)] * 3), st.sampled_from(["zyx", "xyz"]), st.tuples(*[st.integers(3, 14)] * 3))
@settings(max_examples=40)
def test_so_they_do_at_another_spacing(spacing, axes, shape):
    volume, mask = coded(shape, blocks=5)
    processor = GenesisImageProcessor(axes=axes, cube_size=[8, 8, 8], spacing=spacing)
    whole, labels = whole_volume(processor, volume, "CT"), whole_label_map(processor, mask)
    assert whole.shape[1:] == labels.shape
    between = whole[0] * 4
    inside = (between - between.round()).abs() < 1e-6  # of one value alone, or halfway between two by chance
    apart = (between - labels).abs()
    assert (apart[inside] == 0).float().mean() > 0.85 and apart.max() <= 3
    assert set(labels.unique().tolist()) <= set(mask.voxels.ravel().tolist())


def test_cubes_and_labels_are_cut_alike_and_drawn_by_seed_epoch_and_image():
    processor = GenesisImageProcessor(cube_size=[4, 16, 6])
    data = rows(coded(), coded(seed=1))
    samples = VolumeMaskTrainingSamples(data, PARTS, processor, seed=3, cycle=0, cubes=5)
    batch = samples.collate(samples.__getitems__([0, 1]))
    assert batch["pixel_values"].shape == (10, 1, 4, 16, 6) and batch["labels"].shape == (10, 4, 16, 6)
    known = batch["labels"] != 255
    assert torch.equal(read_off(batch["pixel_values"][:, 0])[known], batch["labels"][known])
    # Of 16 voxels from front to back the volume has 12, in the middle
    assert torch.equal(
        known, (torch.arange(16) // 2 > 0)[:, None].logical_and((torch.arange(16) < 14)[:, None]).expand_as(known)
    )
    assert (batch["pixel_values"][:, 0][~known] == 0).all()

    again = VolumeMaskTrainingSamples(data.select([1]), PARTS, processor, seed=3, cycle=0, cubes=5)
    assert torch.equal(again.collate(again.__getitems__([0]))["pixel_values"], batch["pixel_values"][5:])
    for changed in ({"seed": 4, "cycle": 0}, {"seed": 3, "cycle": 1}):
        other = VolumeMaskTrainingSamples(data, PARTS, processor, cubes=5, **changed)
        assert not torch.equal(other.collate(other.__getitems__([0, 1]))["labels"], batch["labels"])


def test_half_of_the_cubes_hold_a_labelled_voxel_and_rare_labels_are_seen_as_often():
    labels = torch.zeros(20, 20, 20, dtype=torch.uint8)
    labels[2:18, 2:18, 2:10], labels[19, 0, 19] = 1, 3
    generator = np.random.default_rng(0)
    seen, starts = [], []
    for _ in range(400):
        start = draw_place(labels, [4, 4, 4], generator)
        starts.append(start)
        seen.append(3 in cut(labels[None], start, [4, 4, 4]).unique())
    assert 0.19 < np.mean(seen) < 0.31  # a quarter: every second cube, of two labels either
    assert np.min(starts, axis=0).tolist() == [0, 0, 0] and np.max(starts, axis=0).tolist() == [16, 16, 16]
    empty = torch.full((5, 5, 5), 255, dtype=torch.uint8)  # where nothing is known
    assert draw_place(empty, [8, 5, 3], generator)[:2] == [-1, 0]


@pytest.mark.parametrize("size", [[8, 8, 8], [5, 20, 9], [10, 12, 14]])
def test_a_classifier_is_tested_on_what_its_image_processor_cuts(size):
    processor = GenesisImageProcessor(cube_size=size)
    volume, _ = coded()
    samples = VolumeInferenceSamples(rows((volume, [-1.0]), (volume, [1.0])), FINDING, processor)
    batch = samples.collate(samples.__getitems__([0, 1]))
    expected = processor(reorient(volume, "SPL").voxels, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected.repeat(2, 1, 1, 1, 1))
    assert batch["labels"].isnan().tolist() == [[True], [False]]


def test_a_classifier_is_trained_on_cubes_beside_the_middle_by_a_sixteenth_at_most():
    processor = GenesisImageProcessor(cube_size=[4, 8, 16])
    volume = Volume(np.arange(30 * 20 * 10).reshape(30, 20, 10).astype(np.int16) % 2000 - 1000, affine())
    samples = VolumeTrainingSamples(rows((volume, [-1.0])), FINDING, "ones", processor, seed=0, cycle=0)
    whole = whole_volume(processor, volume, "CT")
    at = middle(whole.shape[1:], [4, 8, 16])
    found = set()
    for samples.cycle in range(12):
        sample = samples[0]
        assert sample["target"] == 1
        places = [(at[0], at[1], at[2] + shift) for shift in (-1, 0, 1)]
        (place,) = [each for each in places if torch.equal(cut(whole, each, [4, 8, 16]), sample["cube"])]
        found.add(place)
    assert len(found) == 3


def moved(mask: Volume) -> Volume:
    elsewhere = mask.affine.copy()
    elsewhere[0, 3] += 5
    return Volume(mask.voxels, elsewhere)


@pytest.mark.parametrize(
    "change, message",
    [
        (moved, "Task 'parts', row 1: it lies elsewhere than the volume"),
        (lambda mask: Volume(mask.voxels[:, :, :-1], mask.affine), "row 1: it lies elsewhere"),
        (lambda mask: Volume(mask.voxels * 2, mask.affine), "row 1: its mask holds 6; the labels are 1 to 3"),
    ],
)
def test_a_label_map_that_does_not_fit_is_named_by_its_row(change, message):
    volume, mask = coded()
    data = rows((volume, mask), (volume, change(mask)))
    samples = VolumeMaskTrainingSamples(data, PARTS, GenesisImageProcessor(cube_size=[4, 4, 4]), 0, 0, 1)
    with pytest.raises(ValueError, match=message):
        samples.__getitems__([0, 1])


def test_volumes_that_are_damaged_or_of_another_modality_are_named_by_their_row():
    volume, _ = coded()
    data = rows((volume, [1.0]))
    column = [{"bytes": encode_nifti(volume)[:200], "path": None}]
    damaged = Dataset.from_dict({**data.to_dict(), "volume": column}, data.features)
    with pytest.raises(ValueError, match="Task 'finding', row 0: The stored volume.* damaged or cut short"):
        VolumeInferenceSamples(damaged, FINDING, GenesisImageProcessor())[0]
    with pytest.raises(ValueError, match="row 0: this image processor is for volumes of modality MR, not CT"):
        VolumeInferenceSamples(data, FINDING, GenesisImageProcessor(modality="MR"))[0]


def test_pictures_are_refused(sites):
    pictures = open_dataset(sites["phantom_city"], ["test"])
    with pytest.raises(ValueError, match="phantom_city holds pictures, and this model takes volumes"):
        VolumeInferenceSamples(pictures.splits["test"], pictures.task, GenesisImageProcessor())
