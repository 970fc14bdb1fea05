"""A network of one channel goes the whole road: it is trained on, fine-tuned, exported, and asked."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

import ark_hf
from ark_hf.inference.export_onnx import export_onnx
from tests.training.conftest import TINY

NETWORK = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> str:
    """An encoder of one channel, without heads."""
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    ark_hf.ArkModel(ark_hf.ArkConfig(num_channels=1, **NETWORK)).save_pretrained(folder)
    ark_hf.ArkImageProcessor(size=NETWORK["image_size"], image_mean=[0.5], image_std=[0.25]).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, start, sites) -> Path:
    settings = {name: TINY[name] for name in ("batch_size", "learning_rate", "ema_mode")}
    args = ark_hf.PretrainingArguments(str(tmp_path_factory.mktemp("run")), init=start, cycles=1, **settings)
    return Path(ark_hf.pretrain(args, [ark_hf.TaskSpec(str(next(iter(sites.values()))))]))


def test_its_channels_stay(trained):
    model, processor = ark_hf.load_ark(str(trained))
    assert (model.config.num_channels, processor.num_channels) == (1, 1)
    assert next(model.ark.encoder.parameters()).shape[1] == 1


@pytest.mark.slow_ci
def test_pipeline_predictions_and_onnx_agree(trained, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (50, 40), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    answer = pipeline("image-classification", model=str(trained), top_k=None)(str(tmp_path / "a.png"))
    model, processor = ark_hf.load_ark(str(trained))
    with torch.no_grad():
        asked = model(**processor(picture, return_tensors="pt")).logits.sigmoid()[0].tolist()
    scores = {each["label"]: each["score"] for each in answer}
    assert [scores[name] for name in model.config.id2label.values()] == pytest.approx(asked, abs=1e-6)
    ark_hf.predict(str(trained), [tmp_path / "a.png"], tmp_path / "predictions.csv")
    with open(tmp_path / "predictions.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    (task,) = model.config.tasks
    columns = [float(row[f"{task.name}/{label}"]) for label in task.labels]
    assert columns == pytest.approx(asked, abs=1e-5)
    differences = export_onnx(model, processor, tmp_path / "onnx")
    assert max(differences.values()) < 1e-4


def test_it_is_fine_tuned(trained, sites, tmp_path):
    args = ark_hf.FinetuningArguments(str(tmp_path), max_steps=1, eval_steps=1, batch_size=4)
    ark_hf.finetune(str(trained), str([*sites.values()][1]), args)
    model, processor = ark_hf.load_ark(str(tmp_path / "seed-0" / "ark-cxr"))
    assert (model.config.num_channels, processor.num_channels) == (1, 1)


def test_colours_are_refused(trained, eyes, tmp_path):
    args = ark_hf.FinetuningArguments(str(tmp_path), max_steps=1, eval_steps=1, batch_size=4)
    with pytest.raises(ValueError, match="colour.* network.* 1"):
        ark_hf.finetune(str(trained), str(eyes), args)
