"""The fine-tuning examples run from start to end, and the models that they write have learned."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ark_hf import ArkConfig, ArkForImageClassification, ArkImageProcessor, load_task_dataset
from ark_hf.metrics.auroc import auroc, one_vs_rest

from ..training.conftest import TINY

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


pytestmark = pytest.mark.slow_ci


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("finetune") / "ark-cxr"
    torch.manual_seed(0)
    shape = {key: TINY[key] for key in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    model = ArkForImageClassification(ArkConfig(**shape, tasks=[{"name": "old", "labels": ["A", "B"]}]))
    model.save_pretrained(folder)
    ArkImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def run(name: str, arguments: list[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def training_auroc(folder: Path, site: Path) -> float:
    """Mean AUROC of a saved model on the images that it was trained on."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    rows = load_task_dataset(site, "train")
    pixels = AutoImageProcessor.from_pretrained(folder)(list(rows["image"]), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        scores = model(pixels).logits.numpy()
    targets = np.array(rows["labels"][:])
    targets = one_vs_rest(targets, scores.shape[1]) if targets.ndim == 1 else targets
    return float(np.mean([auroc(*columns) for columns in zip(targets.T, scores.T, strict=True)]))


def test_with_the_trainer(sites, teacher, tmp_path, monkeypatch):
    site = sites["phantom_coast"]  # three classes
    arguments = ["--model", teacher, "--dataset", str(site), "--output_dir", str(tmp_path)]
    settings = "--num_train_epochs 20 --learning_rate 5e-3 --per_device_train_batch_size 8 --eval_strategy steps "
    settings += "--eval_steps 60 --save_strategy no --use_cpu true --report_to none --disable_tqdm true"
    run("finetune_trainer.py", arguments + settings.split(), monkeypatch)
    assert training_auroc(tmp_path, site) > 0.8
    assert 0 <= json.loads((tmp_path / "test_results.json").read_text())["test_mean_auroc"] <= 1


def test_with_accelerate(sites, teacher, tmp_path, monkeypatch, capsys):
    site = sites["phantom_city"]  # several labels
    settings = ["--epochs", "20", "--batch_size", "8", "--learning_rate", "5e-3"]
    run("finetune_accelerate.py", [teacher, str(site), str(tmp_path), *settings], monkeypatch)
    losses = [float(loss) for loss in re.findall(r"loss (\d\.\d+)", capsys.readouterr().out)]
    assert len(losses) == 20 and np.mean(losses[-3:]) < 0.95 * losses[0]
    assert training_auroc(tmp_path, site) > 0.8


@pytest.mark.slow
def test_outlines_are_learned_from_drawn_masks(teacher, tmp_path, monkeypatch, capsys):
    run("segment.py", [teacher, str(tmp_path)], monkeypatch)
    shown = capsys.readouterr().out
    rows = re.findall(r"^(\w+) +([\d.]+) \([\d.]+ to [\d.]+\) +([\d.]+)$", shown, re.MULTILINE)
    assert [label for label, *_ in rows] == ["lungs", "heart", "mean", "lungs", "heart", "Effusion", "Nodule", "mean"]
    assert all(float(dice) > float(prior) for label, dice, prior in rows if label in ("lungs", "mean"))
    pages = re.findall(r"worst: (.*)$", shown, re.MULTILINE)
    assert len(pages) == 2 and all("data:image/png" in Path(page).read_text() for page in pages)
