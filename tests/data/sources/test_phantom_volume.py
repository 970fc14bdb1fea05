"""Phantom CTs: pure functions of their arguments, with everything in the place that is told."""

import numpy as np
import pytest

from ark_hf import open_dataset, stored_volume
from ark_hf.cli.main import main
from ark_hf.data.sources.phantom_volume import LABELS, describe_phantom_volume, draw_phantom_volume
from ark_hf.data.volumes.geometry import lie_alike
from ark_hf.metrics.auroc import auroc
from ark_hf.metrics.shortcut import shortcut_baseline, volume_statistics

DRAWN = [draw_phantom_volume("train", index, 32) for index in range(8)]


def test_a_volume_is_a_function_of_its_arguments_alone():
    again = draw_phantom_volume("train", 3, 32)
    np.testing.assert_array_equal(again["volume"].voxels, DRAWN[3]["volume"].voxels)
    np.testing.assert_array_equal(again["mask"].voxels, DRAWN[3]["mask"].voxels)
    for other in (draw_phantom_volume("test", 3, 32), draw_phantom_volume("train", 3, 32, seed=1), DRAWN[2]):
        assert (other["volume"].voxels != again["volume"].voxels).mean() > 0.3


def test_a_larger_one_shows_the_same_body():
    """What is drawn is chosen in mm, so that every nodule has its place at every size."""
    for small, index in zip(DRAWN, range(8), strict=True):
        large = draw_phantom_volume("train", index, 64)
        assert small["nodules"] == large["nodules"] and large["volume"].spacing == (5, 5, 5)
        np.testing.assert_allclose(small["masks"]["lungs"].mean(), large["masks"]["lungs"].mean(), rtol=0.05)


@pytest.mark.parametrize("drawn", DRAWN, ids=range(8))
def test_everything_is_where_it_is_told(drawn):
    volume, mask, masks = drawn["volume"], drawn["mask"], drawn["masks"]
    assert volume.voxels.dtype == np.int16 and volume.orientation == "LPS" and volume.spacing == (10, 10, 10)
    assert lie_alike(volume, mask.shape, mask.affine) and all(each.shape == volume.shape for each in masks.values())
    assert not (masks["vessels"] & ~masks["lungs"]).any() and not (masks["nodules"] & ~masks["lungs"]).any()
    assert not (masks["lungs"] & ~masks["trunk"]).any() and not (masks["vessels"] & masks["nodules"]).any()
    within = masks["lungs"] & ~masks["vessels"] & ~masks["nodules"]
    np.testing.assert_array_equal(mask.voxels == 1, within)
    for number, name in enumerate(LABELS[1:], start=2):
        np.testing.assert_array_equal(mask.voxels == number, masks[name])
    assert np.median(volume.voxels[within]) == pytest.approx(-860, abs=20)
    assert np.median(volume.voxels[~masks["trunk"]]) == pytest.approx(-1000, abs=20)
    assert np.median(volume.voxels[masks["vessels"]]) == pytest.approx(40, abs=25)
    assert drawn["labels"] == [float(bool(drawn["nodules"]))]
    for nodule in drawn["nodules"]:
        index = np.rint(np.linalg.inv(volume.affine) @ [*nodule["center"], 1])[:3].astype(int)
        assert masks["nodules"][tuple(index)]
        assert abs(volume.voxels[tuple(index)] - 30) < 150
    assert masks["nodules"].any() == bool(drawn["nodules"])


def test_nodules_are_balls_of_their_radius():
    for index in range(12):
        drawn = draw_phantom_volume("test", index, 96)
        if len(drawn["nodules"]) == 1:
            radius, spacing = drawn["nodules"][0]["radius"], drawn["volume"].spacing[0]
            found = drawn["masks"]["nodules"].sum() * spacing**3
            assert found == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.15)
            return
    raise AssertionError("none has one nodule")


def test_of_two_in_a_row_one_has_nodules():
    labels = [describe_phantom_volume("train", index)["labels"][0] for index in range(100)]
    assert all(one + other == 1 for one, other in zip(labels[::2], labels[1::2], strict=True))
    assert labels[::2] != [labels[0]] * 50
    for index in range(8):
        described = describe_phantom_volume("train", index)
        assert all(DRAWN[index][name] == value for name, value in described.items())


def test_too_small_volumes_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="size must be at least 24 voxels, not 23"):
        draw_phantom_volume("train", 0, 23)
    assert main(["data", "build", "phantom_volumes", "--out", str(tmp_path / "x"), "--size", "8"]) == 2
    assert "size must be at least 24 voxels" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_datasets_hold_what_is_drawn(phantom_volumes):
    labelled, segmented = (
        open_dataset(phantom_volumes[name]) for name in ("phantom_ct_nodule", "phantom_ct_structures")
    )
    assert labelled.task.modality == segmented.task.modality == "CT"
    assert labelled.task.labels == ["Nodule"] and segmented.task.labels == list(LABELS)
    for split, count in {"train": 6, "validation": 2, "test": 4}.items():
        for index in range(count):
            drawn = draw_phantom_volume(split, index, 32)
            rows = labelled.splits[split][index], segmented.splits[split][index]
            for row in rows:
                np.testing.assert_array_equal(stored_volume(row["volume"]).voxels, drawn["volume"].voxels)
                assert (row["image_id"], row["sex"], row["age"]) == (drawn["sample_id"], drawn["sex"], drawn["age"])
            assert rows[0]["labels"] == drawn["labels"]
            np.testing.assert_array_equal(stored_volume(rows[1]["mask"]).voxels, drawn["mask"].voxels)


@pytest.mark.slow_ci  # 300 volumes
def test_sums_over_all_voxels_tell_little_of_nodules():
    drawn = {split: [draw_phantom_volume(split, index, 32) for index in range(150)] for split in ("train", "test")}
    statistics = {
        split: np.array([volume_statistics(each["volume"].voxels, each["volume"].spacing) for each in some])
        for split, some in drawn.items()
    }
    labels = {split: np.array([each["labels"] for each in some]) for split, some in drawn.items()}
    scores = shortcut_baseline(statistics["train"], labels["train"], statistics["test"])
    assert 0.35 < auroc(labels["test"][:, 0], scores[:, 0]) < 0.65
