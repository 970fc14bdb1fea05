"""The verbs of radiographs answer a Genesis, a model of volumes, in one clear line."""

import numpy as np
import pytest
import yaml
from PIL import Image

import ark_hf
from ark_hf.cli.main import main


@pytest.fixture(scope="module")
def work(tmp_path_factory, sites):
    folder = tmp_path_factory.mktemp("volumes")
    config = ark_hf.GenesisConfig(width=2, depth=2, cube_size=[4, 4, 4], num_labels=2)
    ark_hf.GenesisForImageClassification(config).save_pretrained(folder / "genesis")
    ark_hf.GenesisImageProcessor.from_config(config).save_pretrained(folder / "genesis")
    Image.fromarray(np.zeros((40, 40), dtype=np.uint8)).save(folder / "chest.png")
    city, hill = ([{"dataset": str(sites[name])}] for name in ("phantom_city", "phantom_hill"))
    start = {"init": str(folder / "genesis"), "output_dir": str(folder / "run")}
    recipes = {
        "ark": {**start, "cycles": 1, "tasks": city},
        "peac": {**start, "method": "peac", "tasks": city},
        "federated": {**start, "rounds": 1, "sites": [{"name": "a", "tasks": city}, {"name": "b", "tasks": hill}]},
    }
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return folder


VERBS = [
    "embed GENESIS chest.png --out features.parquet",
    "export GENESIS --out onnx",
    "pretrain ark.yaml",
]
SLOWER_VERBS = [
    "probe GENESIS SITE",
    "finetune GENESIS SITE --output_dir run",
    "finetune GENESIS MASKS --output_dir run",
    "pretrain peac.yaml",
    "federate federated.yaml",
]


@pytest.mark.parametrize(
    "words", [*VERBS, *(pytest.param(words, marks=pytest.mark.slow_ci) for words in SLOWER_VERBS)]
)
def test_a_genesis_is_refused(work, sites, request, capsys, monkeypatch, words):
    monkeypatch.chdir(work)
    places = {"GENESIS": "genesis", "SITE": sites["phantom_city"]}
    if "MASKS" in words:
        places["MASKS"] = request.getfixturevalue("phantom_masks")["phantom_organs"]
    assert main([str(places.get(word, word)) for word in words.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "it is a Genesis, a model of volumes, and an Ark, a model of radiographs, is wanted here" in error
    assert not (work / "run" / "ark-cxr").exists()
