"""The whole road of volumes on real CTs: cubes, pretraining, fine-tuning, and label maps back where the CT lies."""

import nibabel
import numpy as np
import pytest
import yaml

from ark_hf import Volume, read_volume, reorient, write_nifti
from ark_hf.cli.main import main

pytestmark = [pytest.mark.slow_ci, pytest.mark.usefixtures("no_figures")]

LEARNING = (
    "--max_steps 60 --learning_rate 5e-3 --batch_size 4 --mixed_precision bf16 --channels_last true --test false"
)


def build(shared, folder, names, *options):
    """A task dataset of some of the real volumes, the first for training and the second for validation."""
    raw = folder.with_name(f"{folder.name}_raw")
    raw.mkdir()
    rows = ["image,patient_id,split"]
    for name, split in zip(names, ["train", "validation"], strict=False):
        for file in [f"{name}.nii.gz", *([f"{name}_labels.nii.gz"] if "--label_maps" in options else [])]:
            (raw / file).symlink_to(shared / "realdata" / "ct_volumes" / file)
        rows.append(f"{name}.nii.gz,{name},{split}")
    (raw / "labels.csv").write_text("\n".join(rows) + "\n")
    command = ["data", "build", "generic_volume", "--raw", str(raw), "--out", str(folder), "--num_workers", "1"]
    assert main([*command, "--modality", "CT", *options]) == 0


def test_from_real_cts_to_label_maps_in_their_own_space(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build(shared, tmp_path / "scans", ["ct_chest", "ct_abdomen"], "--unlabelled")
    recipe = {
        "method": "genesis", "output_dir": "run", "width": 4, "depth": 3, "cube_size": [24, 24, 24],
        "spacing": [6.0, 6.0, 6.0], "cubes_per_volume": 8, "epochs": 2, "batch_size": 4, "optim": "adamw",
        "learning_rate": 1e-3, "tasks": [{"dataset": "scans"}],
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["pretrain", "recipe.yaml"]) == 0
    masks = ["--volumes", "*.nii.gz", "--label_maps", "*_labels.nii.gz", "--legend", "1=heart"]
    build(shared, tmp_path / "hearts", ["ct_chest"], *masks)
    assert main(["finetune", "run/genesis", "hearts", "--output_dir", "tuned", *LEARNING.split()]) == 0

    own = read_volume(shared / "realdata" / "ct_volumes" / "ct_chest.nii.gz")
    truth = read_volume(shared / "realdata" / "ct_volumes" / "ct_chest_labels.nii.gz").voxels == 1
    turned = reorient(own, "PIR")
    write_nifti(tmp_path / "turned.nii.gz", Volume(np.ascontiguousarray(turned.voxels), turned.affine))
    source = shared / "realdata" / "ct_volumes" / "ct_chest.nii.gz"
    (tmp_path / "own.nii.gz").symlink_to(source)
    assert main(["predict", "tuned/seed-0/genesis", "own.nii.gz", "turned.nii.gz", "--out", "found.csv"]) == 0

    maps = {path.name.split("_")[1]: nibabel.load(path) for path in sorted((tmp_path / "found.masks").iterdir())}
    found = maps["own.nii.gz"]
    np.testing.assert_array_equal(found.affine, nibabel.load(source).affine)
    voxels = np.asarray(found.dataobj)
    assert voxels.shape == truth.shape
    dice = 2 * (voxels[truth] == 1).sum() / ((voxels == 1).sum() + truth.sum())
    assert dice > 0.5  # it was trained on this one: elsewhere, or turned, they would not meet
    back = reorient(read_volume(tmp_path / "found.masks" / maps["turned.nii.gz"].get_filename()), own.orientation)
    np.testing.assert_array_equal(back.voxels, voxels)
