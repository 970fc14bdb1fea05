"""The scripts of several modalities run from start to end, on drawn pictures."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ark_hf import ArkConfig, ArkModel, open_dataset
from ark_hf.data.build.build import encode_png, write_task_dataset
from ark_hf.models.ark.configuration_ark import ArkTask
from tests.data.test_colours import fundus
from tests.training.conftest import TINY

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "modalities"
SCRIPTS = ("arms", "build_fundus", "colour")
TASKS = [
    ArkTask("kermany", ["normal", "bacterial", "viral"], "single_label_classification"),
    ArkTask("nih_multilabel", ["Atelectasis", "Effusion", "Infiltration", "Pneumonia", "Edema", "No_Finding"]),
    ArkTask("fundus_dr", ["any_dr", "referable_dr"], modality="OP"),
    ArkTask("fundus_dr_grey", ["any_dr", "referable_dr"], modality="OT"),
]

pytestmark = pytest.mark.slow_ci


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The scripts, with a network and runs of seconds."""
    recipe = {**yaml.safe_load((FOLDER / "recipe.yaml").read_text()), **TINY, "cycles": 1, "channels_last": False}
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    sys.path.insert(0, str(FOLDER))
    found = {name: importlib.import_module(name) for name in SCRIPTS}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("arms", "colour"):
            patch.setattr(found[name], "RECIPE", path)
            patch.setattr(found[name], "SEEDS", [0])
        patch.setattr(found["arms"], "SHOTS", 1)
        patch.setattr(found["colour"], "SETTINGS", {"image_size": 32})
        patch.setattr(found["colour"], "CROPS", {"size": 37, "crop_size": 32, "do_ten_crop": True})
        for arm in found["arms"].ARMS.values():
            patch.setitem(arm, "cycles", 1)
        yield found
    sys.path.remove(str(FOLDER))
    for name in SCRIPTS:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for task in TASKS:
        single = task.problem_type == "single_label_classification"

        def rows(split, count, task=task, single=single):
            for n in range(count):
                picture = fundus(n, 40, 40) if task.modality == "OP" else fundus(n, 40, 40)[:1]
                labels = n % 3 if single else [float(n % (2 + label % 2) == 0) for label in range(len(task.labels))]
                names = {"image_id": f"{split}{n}", "patient_id": f"{split}{n // 2}"}
                yield {"image": encode_png(picture), "labels": labels, **names}

        splits = {split: lambda split=split, rows=rows: rows(split, 12) for split in ("train", "validation", "test")}
        write_task_dataset(root / task.name, task, splits, ["patient_id"], {"phantom": True})
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file of encoder weights, which stands for ImageNet's."""
    torch.manual_seed(0)
    encoder = ArkModel(
        ArkConfig(**{name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size")})
    ).encoder
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(encoder.state_dict(), path)
    return path


def test_every_arm_is_trained_tested_and_compared(scripts, data, weights, tmp_path, monkeypatch):
    arms = scripts["arms"]
    # The probes' network is the recipe's, whose depths the script need not know
    network = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size")}
    monkeypatch.setattr("ark_hf.ArkConfig", lambda **settings: ArkConfig(**{**settings, **network}), raising=False)
    for arm in arms.ARMS:
        for start in arms.STARTS:
            arms.train(arm, start, 0, data, weights, tmp_path)
    assert {path.name for path in (tmp_path / "cycle-imagenet-0").glob("*.npy")} == {
        f"{name}.npy" for name in arms.CHESTS + arms.EYES
    }
    results = arms.compare(data, weights, tmp_path)
    assert len(results["a second modality"]) == 3 * 3 * 2 and len(results["probes of photographs"]) == 6
    assert all(-1 <= pair["difference"] <= 1 for pairs in results.values() for pair in pairs.values())
    text = arms.table(results)
    assert "| fundus_dr, imagenet: cycle - photographs |" in text and "10 of each" not in text
    json.dumps(results)


def test_colour_and_grey_are_trained_tested_and_compared(scripts, data, weights, tmp_path):
    colour = scripts["colour"]
    for dataset in colour.DATASETS:
        colour.train(dataset, 0, data, weights, tmp_path)
    results = colour.compare(data, tmp_path)
    assert (results["images"], results["patients"]) == (12, 6)
    assert "| fundus_dr | **mean** |" in colour.table(results)
    scores = [np.load(tmp_path / f"{name}-0" / "test.npy") for name in colour.DATASETS]
    assert np.abs(scores[0] - scores[1]).max() > 1e-4


def test_the_builder_names_what_cards_need(scripts, tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = ["image,split,patient_id,any_dr,referable_dr,maculopathy"]
    for n in range(12):
        (raw / f"{n}.png").write_bytes(encode_png(fundus(n))["bytes"])
        lines.append(f"{n}.png,{('train', 'val', 'test')[n % 3]},p{n},{n // 3 % 2},0,1")
    (raw / "labels.csv").write_text("\n".join(lines) + "\n")
    build = scripts["build_fundus"]
    for name, modality in build.MODALITIES.items():
        release = build.read_generic(build.GenericSource(raw, name, labels=build.LABELS, modality=modality))
        build.build_dataset(release, tmp_path / name, num_workers=1)
        assert open_dataset(tmp_path / name).task.modality == modality
