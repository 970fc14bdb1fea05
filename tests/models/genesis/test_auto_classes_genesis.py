"""A saved Genesis through the Auto classes; in a fresh process without our package; and `load_genesis`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    set_seed,
)
from transformers.dynamic_module_utils import get_relative_imports

import ark_hf
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.genesis.code_genesis import CODE_FILES

SMALL = {"width": 2, "depth": 3, "cube_size": [8, 16, 16]}
TASKS = [
    ArkTask("luna16", ["Nodule"], modality="CT"),
    ArkTask("kind", ["Solid", "Part-solid", "Ground glass"], "single_label_classification", modality="CT"),
]
ORGANS = ark_hf.SegmentationTask("organs", ["lungs", "nodule"], overlapping=True, modality="CT")
KINDS = {
    "features": (ark_hf.GenesisModel, AutoModel, {}),
    "restoring": (ark_hf.GenesisForPreTraining, AutoModelForPreTraining, {}),
    "classifier": (ark_hf.GenesisForImageClassification, AutoModelForImageClassification, {"tasks": TASKS}),
    "segmenter": (ark_hf.GenesisForSemanticSegmentation, AutoModelForSemanticSegmentation, {"segmentation": ORGANS}),
}
VOLUME = np.random.RandomState(0).randint(-1000, 400, (9, 20, 18)).astype(np.int16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """One of each class, by what it is for."""
    found = {}
    for name, (kind, _, settings) in KINDS.items():
        set_seed(0)
        folder = tmp_path_factory.mktemp("models") / name
        config = ark_hf.GenesisConfig(**SMALL, **settings)
        kind(config).save_pretrained(folder)
        ark_hf.GenesisImageProcessor.from_config(config).save_pretrained(folder)
        found[name] = str(folder)
    return found


def first_output(model, cubes: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(cubes)[0]


@pytest.mark.parametrize("name", KINDS)
def test_the_auto_classes_and_load_genesis_give_what_was_saved(folders, name):
    kind, auto_class, _ = KINDS[name]
    folder = folders[name]
    assert type(AutoConfig.from_pretrained(folder)) is ark_hf.GenesisConfig
    assert type(AutoModel.from_pretrained(folder)) is ark_hf.GenesisModel
    for backend in ("torchvision", "pil", None):
        processor = AutoImageProcessor.from_pretrained(folder, backend=backend)
        assert type(processor) is ark_hf.GenesisImageProcessor
    model = auto_class.from_pretrained(folder).eval()
    loaded, own = ark_hf.load_genesis(folder)
    assert type(model) is type(loaded) is kind and not loaded.training
    cubes = own(VOLUME, return_tensors="pt")["pixel_values"]
    assert torch.equal(cubes, processor(VOLUME, return_tensors="pt")["pixel_values"])
    assert torch.equal(first_output(model, cubes), first_output(loaded, cubes))
    encoder, _ = ark_hf.load_genesis(folder, ark_hf.GenesisModel)
    assert torch.equal(encoder(cubes).pooler_output, loaded.base_model(cubes).pooler_output)


def test_the_folder_holds_the_code_as_the_hub_keeps_it(folders):
    for name, folder in folders.items():
        found = {each for each in os.listdir(folder) if each.endswith(".py")}
        assert found == set(CODE_FILES), name
        for each in found:
            assert {f"{module}.py" for module in get_relative_imports(os.path.join(folder, each))} < set(CODE_FILES)
    config = json.loads(open(os.path.join(folders["classifier"], "config.json")).read())
    assert {reference.partition(".")[0] + ".py" for reference in config["auto_map"].values()} < set(CODE_FILES)
    assert set(config["auto_map"]) == {"AutoConfig", *(auto.__name__ for _, auto, _ in KINDS.values())}


def test_a_config_and_a_processor_alone_have_their_code(tmp_path):
    for saved in (ark_hf.GenesisConfig(), ark_hf.GenesisImageProcessor()):
        saved.save_pretrained(tmp_path / type(saved).__name__)
        assert set(CODE_FILES) < set(os.listdir(tmp_path / type(saved).__name__))


WITHOUT_OUR_PACKAGE = """
import os, sys
import numpy as np
import torch
import transformers

folders, result = sys.argv[1:-1], {}
for folder in folders:
    name = os.path.basename(folder)
    auto_map = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True).to_dict()["auto_map"]
    architecture = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True).architectures[0]
    auto = next(key for key, value in auto_map.items() if value.endswith("." + architecture))
    for again in (False, True):
        model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
        with torch.no_grad():
            cubes = processor(np.load("volume.npy"), return_tensors="pt")["pixel_values"]
            result[f"{name} {again}"] = model(cubes)[0].numpy()
        folder = os.path.join("again", name)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
assert not [name for name in sys.modules if name.split(".")[0] in ("ark_hf", "timm")]
np.savez(sys.argv[-1], **result)
"""


@pytest.mark.slow_ci  # a process of its own
def test_the_folders_are_enough_without_our_package(folders, tmp_path):
    np.save(tmp_path / "volume.npy", VOLUME)
    (tmp_path / "look.py").write_text(WITHOUT_OUR_PACKAGE)
    settings = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    command = [sys.executable, "look.py", *folders.values(), "result.npz"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**environment, **settings}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "LOAD REPORT" not in done.stderr
    result = np.load(tmp_path / "result.npz")
    for name, folder in folders.items():
        model, processor = ark_hf.load_genesis(folder)
        expected = first_output(model, processor(VOLUME, return_tensors="pt")["pixel_values"])
        for again in (False, True):
            np.testing.assert_allclose(result[f"{name} {again}"], expected, rtol=0, atol=1e-6)
        for each in os.listdir(folder):
            if each.endswith((".py", ".json")):
                there = open(os.path.join(tmp_path, "again", name, each)).read()
                assert there == open(os.path.join(folder, each)).read(), each


# --- what load_genesis refuses ------------------------------------------------------------------------------------


def test_what_cannot_be_loaded_is_said_in_a_line(folders, tmp_path):
    ArkConfig().save_pretrained(tmp_path / "ark")
    with pytest.raises(ValueError, match="Cannot load a Genesis .*: it is an Ark, a model of radiographs; `ark_hf"):
        ark_hf.load_genesis(str(tmp_path / "ark"))
    with pytest.raises(ValueError, match="lacks .* of the model's tensors, such as decoder"):
        ark_hf.load_genesis(folders["classifier"], ark_hf.GenesisForPreTraining)
    ark_hf.GenesisConfig(**SMALL).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="config.json names none of .'GenesisForImageClassification', .* under `arch"):
        ark_hf.load_genesis(str(tmp_path / "bare"))
    with pytest.raises(ValueError, match="Cannot load a Genesis from .*bare.*model.safetensors"):
        ark_hf.load_genesis(str(tmp_path / "bare"), ark_hf.GenesisModel)
    with pytest.raises(ValueError, match="neither the folder of a model nor the id of one"):
        ark_hf.load_genesis(str(tmp_path / "none"))
