"""A saved folder `ark-cxr` in a fresh process that has transformers and not our package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from ark_hf.models.ark.image_processing_ark import ArkImageProcessor, ArkImageProcessorPil

from .several_modalities import CHEST, EYE, OF_CHESTS, OF_EYES, model_of_both, processor_of_both, save_both
from .test_auto_classes import (  # noqa: F401
    CODE_FILES,
    DEEP,
    SIZE,
    TASKS,
    close,
    folder,
    model,
    own_probabilities,
    scores,
)

pytestmark = pytest.mark.slow_ci

WITHOUT_OUR_PACKAGE = """
import json, os, sys
import numpy as np
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

folder, again, image_file, result_file, several = sys.argv[1:]
result = {}
try:
    AutoModel.from_pretrained(folder, trust_remote_code=False)
except ValueError as error:
    result["untrusted"] = str(error)

trusted = {"trust_remote_code": True}
image = np.load(image_file)


def look_at(folder):  # noqa: F811
    config = AutoConfig.from_pretrained(folder, **trusted)
    features = AutoModel.from_pretrained(folder, **trusted).eval()
    classifier = AutoModelForImageClassification.from_pretrained(folder, **trusted).eval()
    processors = {name: AutoImageProcessor.from_pretrained(folder, backend=name, **trusted)
                  for name in ("torchvision", "pil")}
    pixel_values = {name: each(image, return_tensors="pt").pixel_values for name, each in processors.items()}
    with torch.no_grad():
        facts = {
            "embeddings": features(pixel_values["torchvision"]).embeddings.tolist(),
            "logits": classifier(pixel_values["torchvision"]).logits.tolist(),
            "heads": {task.name: classifier(pixel_values["torchvision"], task=task.name).logits.tolist()
                      for task in config.tasks},
        }
    facts["pixel_sums"] = {name: value.double().sum().item() for name, value in pixel_values.items()}
    facts["classes"] = [type(each).__name__ for each in (config, features, classifier)]
    facts["processors"] = {name: type(each).__name__ for name, each in processors.items()}
    facts["pipeline"] = pipeline("image-classification", model=folder, **trusted)(image, top_k=100)
    facts["files"] = sorted(os.listdir(folder))
    return facts, classifier, processors


result["first"], classifier, processors = look_at(folder)
classifier.save_pretrained(again)
processors["torchvision"].save_pretrained(again)
result["again"] = look_at(again)[0]
eye, chest = np.load("eye.npy"), np.load("chest.npy")
both = AutoModelForImageClassification.from_pretrained(several, **trusted).eval()
processor = AutoImageProcessor.from_pretrained(several, **trusted)
with torch.no_grad():
    result["several"] = [both(**processor(picture, modality=modality, return_tensors="pt")).logits.sigmoid().tolist()
                         for picture, modality in ((chest, None), (eye, "OP"))]
result["pipeline of several"] = pipeline("image-classification", model=several, **trusted)(chest, top_k=100)
result["modules"] = sorted(sys.modules)
with open(result_file, "w") as file:
    json.dump(result, file)
"""


@pytest.fixture(scope="module")
def remote(folder, tmp_path_factory) -> dict:  # noqa: F811
    """What a process sees that has the folder and transformers only; `again` is the folder saved once more there."""
    work = tmp_path_factory.mktemp("remote")
    for name, picture in {"image": DEEP, "eye": EYE, "chest": CHEST}.items():
        np.save(work / f"{name}.npy", picture)
    several = save_both(work / "several")
    (work / "look.py").write_text(WITHOUT_OUR_PACKAGE)
    settings = {"HF_HOME": str(work / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    command = [sys.executable, "look.py", str(folder), str(work / "again"), "image.npy", "result.json", str(several)]
    done = subprocess.run(
        command, cwd=work, env={**environment, **settings}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads((work / "result.json").read_text()), "folder": work / "again", "stderr": done.stderr}


def test_heads_of_another_modality_are_not_asked(remote):
    both, processor = model_of_both(), processor_of_both()
    shown = ((CHEST, "CR", OF_CHESTS), (EYE, "OP", OF_EYES))
    for (found,), (picture, modality, own) in zip(remote["several"], shown, strict=True):
        pixel_values = processor.of(modality)(picture, return_tensors="pt").pixel_values
        expected = both(pixel_values).logits.sigmoid()[0].tolist()
        assert found == pytest.approx([each if n in own else 0 for n, each in enumerate(expected)], abs=1e-6)
    found = {each["label"]: each["score"] for each in remote["pipeline of several"]}
    assert [found[label] for label in both.config.id2label.values()] == pytest.approx(
        remote["several"][0][0], abs=1e-6
    )


both_folders = pytest.mark.parametrize("which", ["first", "again"])


def test_nothing_of_it_is_imported(remote):
    assert not [name for name in remote["modules"] if name.split(".")[0] == "ark_hf"]
    assert [name for name in remote["modules"] if name.endswith(".modeling_ark")]


def test_the_code_of_the_folder_must_be_trusted(remote):
    assert "trust_remote_code=True" in remote["untrusted"]


@both_folders
def test_every_auto_class_loads(remote, which):
    assert remote[which]["classes"] == ["ArkConfig", "ArkModel", "ArkForImageClassification"]
    assert remote[which]["processors"] == {"torchvision": "ArkImageProcessor", "pil": "ArkImageProcessorPil"}


@both_folders
def test_the_outputs_are_the_same(remote, which, model):  # noqa: F811
    pixel_values = ArkImageProcessor(size=SIZE)(DEEP, return_tensors="pt").pixel_values
    with torch.no_grad():
        outputs = model(pixel_values)
        heads = {task.name: model(pixel_values, task=task.name).logits for task in TASKS}
    seen = remote[which]
    for name, expected in {"embeddings": outputs.embeddings, "logits": outputs.logits}.items():
        torch.testing.assert_close(torch.tensor(seen[name]), expected, rtol=0, atol=1e-6)
    for name, expected in heads.items():
        torch.testing.assert_close(torch.tensor(seen["heads"][name]), expected, rtol=0, atol=1e-6)


@both_folders
def test_both_processors_give_the_same_pixels(remote, which):
    for name, processor in {
        "torchvision": ArkImageProcessor(size=SIZE),
        "pil": ArkImageProcessorPil(size=SIZE),
    }.items():
        expected = processor(DEEP, return_tensors="pt").pixel_values.double().sum().item()
        assert remote[which]["pixel_sums"][name] == pytest.approx(expected, rel=1e-6)


@both_folders
def test_the_stock_pipeline_gives_the_models_probabilities(remote, which, model):  # noqa: F811
    assert scores(remote[which]["pipeline"]) == close(own_probabilities(model, DEEP))


def test_saving_again_writes_the_code_again(remote, folder):  # noqa: F811
    assert remote["again"]["files"] == remote["first"]["files"] == sorted(file.name for file in folder.iterdir())
    for name in CODE_FILES | {"config.json", "preprocessor_config.json"}:
        assert (remote["folder"] / name).read_text() == (folder / name).read_text(), name


def test_no_weight_is_reported_missing_or_unexpected(remote):
    assert "LOAD REPORT" not in remote["stderr"]
    assert "not supported" not in remote["stderr"]
