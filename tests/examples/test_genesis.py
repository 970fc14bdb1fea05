"""The scripts of Models Genesis run from start to end: datasets of drawn volumes, and what transfers to them."""

import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from ark_hf import GenesisConfig, GenesisForPreTraining, GenesisImageProcessor, SegmentationTask, open_dataset

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "genesis"

pytestmark = pytest.mark.slow_ci


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(name) for name in ("phantoms", "slices", "transfer")}
    sys.path.remove(str(FOLDER))
    for name in ("phantoms", "slices", "transfer"):
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def phantoms(scripts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("genesis") / "phantoms"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts["phantoms"], "STRUCTURES", {"train": 2, "validation": 1, "test": 2})
        patch.setattr(scripts["phantoms"], "CANDIDATES", {"train": 4, "validation": 2, "test": 4})
        scripts["phantoms"].main(folder)
    return folder


def test_datasets_of_no_unit_and_of_candidates(phantoms):
    structures = open_dataset(phantoms / "phantom_mr_structures", ["train", "test"])
    assert structures.task == SegmentationTask("phantom_mr_structures", ["lungs", "vessels", "nodules"], modality="MR")
    airs = []
    for row in structures.splits["test"]:
        voxels = np.asarray(row["volume"].dataobj)
        assert voxels.min() == 0 and voxels.max() <= 1000
        airs.append(np.median(voxels[np.asarray(row["mask"].dataobj) == 1]))
    assert airs[0] != airs[1]  # lungs of two volumes have no value in common
    for modality in ("ct", "mr"):
        data = open_dataset(phantoms / f"phantom_{modality}_candidates", ["train"])
        labels = data.targets("train")[:, 0]
        assert sorted(set(labels)) == [0, 1]
        assert all(row["volume"].shape == (16, 16, 16) for row in data.splits["train"])


def test_the_network_of_slices_never_looks_across_them(scripts):
    task = SegmentationTask("organs", ["lungs", "nodules"], modality="CT")
    network = scripts["slices"].build(task, [16, 16, 16]).eval()
    cube = torch.rand(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    other = cube.clone()
    other[:, :, 2:] = 0
    with torch.no_grad():
        first, second = network(cube).logits, network(other).logits
    assert torch.equal(first[:, :, :2], second[:, :, :2]) and not torch.equal(first[:, :, 2:], second[:, :, 2:])


def test_transfer(scripts, phantoms, tmp_path, monkeypatch):
    config = GenesisConfig(width=2, cube_size=[32, 32, 32])
    GenesisForPreTraining(config).save_pretrained(tmp_path / "genesis")
    GenesisImageProcessor.from_config(config).save_pretrained(tmp_path / "genesis")
    transfer = scripts["transfer"]
    monkeypatch.setattr(transfer, "ProcessPoolExecutor", lambda *arguments: ThreadPoolExecutor(1))
    monkeypatch.setattr(transfer, "SEEDS", dict.fromkeys(transfer.SEEDS, range(1)))
    quick = {"images": 2, "max_steps": 1, "learning_rate": 1e-3, "batch_size": 4}
    settings = {"phantom_mr_structures": quick, "phantom_mr_candidates": {**quick, "images": 6}}
    monkeypatch.setattr(transfer, "SETTINGS", settings)
    monkeypatch.setattr(scripts["slices"], "WIDTH", 2)
    for _ in range(2):  # the second time from what is there
        transfer.main(phantoms, tmp_path / "out", str(tmp_path / "genesis"))
    results = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert [row["label"] for row in results["outlines"]] == ["lungs", "vessels", "nodules", "mean"] * 2
    assert [row["other"] for row in results["nodules"]] == ["random weights", "slices alone", "eleven numbers"]
    assert all(0 <= row["auroc_b"] <= 1 for row in results["nodules"])


def test_what_is_not_there_is_told_before_any_training(scripts, phantoms, tmp_path):
    with pytest.raises(SystemExit, match="has no phantom_mr_structures: `python examples/genesis/phantoms.py"):
        scripts["transfer"].main(tmp_path, tmp_path / "out", "none")
    with pytest.raises(SystemExit, match="holds no model: name the folder genesis of a run"):
        scripts["transfer"].main(phantoms, tmp_path / "out", str(tmp_path))
