"""The whole road of data on real CT and MR: built, opened, cubes drawn, label maps brought back voxel by voxel."""

import numpy as np
import pytest

from ark_hf import CubeRules, draw_cubes, in_space_of, open_dataset, read_volume, reorient, resample, stored_volume
from ark_hf.cli.main import main

FINEST = {"ct_abdomen": 1.5, "mr_small": 1.5, "ct_chest_crop": 0.75}


SLOW = pytest.mark.slow_ci


@pytest.mark.parametrize(
    "name", ["mr_small", pytest.param("ct_abdomen", marks=SLOW), pytest.param("ct_chest_crop", marks=SLOW)]
)
def test_volumes_and_label_maps_go_through_a_dataset_and_back(shared, tmp_path, name):
    raw = shared / "realdata" / "ct_volumes"
    volume, mask = read_volume(raw / f"{name}.nii.gz"), read_volume(raw / f"{name}_labels.nii.gz")
    values = [int(value) for value in np.unique(mask.voxels) if value]
    (tmp_path / "one").mkdir()
    for suffix in ("", "_labels"):
        (tmp_path / "one" / f"{name}{suffix}.nii.gz").symlink_to(raw / f"{name}{suffix}.nii.gz")
    (tmp_path / "labels.csv").write_text(f"image,patient_id,split\n{name},a,train\n")
    modality = "MR" if name.startswith("mr") else "CT"
    command = ["data", "build", "generic_volume", "--raw", str(tmp_path / "one"), "--out", str(tmp_path / "out")]
    command += ["--csv", str(tmp_path / "labels.csv"), "--modality", modality, "--num_workers", "1"]
    command += ["--volumes", f"{name[:-1]}*.nii.gz", "--label_maps", f"{name[:-1]}*_labels.nii.gz"]
    assert main([*command, "--legend", *[f"{value}=structure {value}" for value in values]]) == 0

    data = open_dataset(tmp_path / "out")
    assert data.task.modality == modality and data.stored_labels("train").all()
    row = data.splits["train"][0]
    found, labels = stored_volume(row["volume"]), stored_volume(row["mask"])
    np.testing.assert_array_equal(found.voxels, volume.voxels)
    np.testing.assert_array_equal(np.array([0, *values])[labels.voxels], mask.voxels)

    model = resample(reorient(labels, "SPL"), [FINEST[name]] * 3, nearest=True)
    back = in_space_of(model, found)
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    np.testing.assert_array_equal(back.affine, found.affine)

    rules = CubeRules((32, 32, 16), (4, 4, 1), 4, most_tissue=0.3 if modality == "CT" else None)
    cubes = draw_cubes(found, np.random.default_rng(0), rules, "zyx")
    assert cubes.shape[1:] == (16, 32, 32) and cubes.min() >= 0 and cubes.max() <= 1
    assert len(cubes) == 4 or name == "ct_abdomen"  # where little is air
