"""The short scripts open with the commands that run them, and those on a trained model do what they say."""

import ast
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ark_hf import PHANTOM_SITES, ArkConfig, ArkForImageClassification, ArkImageProcessor, draw_phantom_image
from tests.conftest import REPOSITORY
from tests.training.conftest import TINY

SCRIPTS = sorted((REPOSITORY / "examples").glob("*.py"))
ON_ANY_MACHINE = "On what `ark-hf demo` left|On two cores, on what|on two cores|No GPU is needed"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_opens_with_its_command_and_one_for_two_cores(path: Path):
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = next(line for line in said.splitlines() if line.startswith("    "))
    assert first.strip().startswith((f"python examples/{path.name} ", "ark-hf export "))
    assert f"python examples/{path.name} " in said and re.search(ON_ANY_MACHINE, said)


@pytest.mark.parametrize(
    "name", ["convert", "federate", "grow", "heat_maps", "predict", "pretrain", "segment", "zero_shot"]
)
def test_without_arguments_a_script_says_what_it_takes(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name])
    with pytest.raises(SystemExit, match=f"usage: python examples/{name}.py "):
        runpy.run_path(str(REPOSITORY / "examples" / f"{name}.py"), run_name="__main__")


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    torch.manual_seed(0)
    shape = {key: TINY[key] for key in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    tasks = [{"name": "city", "labels": ["Effusion", "Nodule"]}, {"name": "hill", "labels": ["Tuberculosis"]}]
    ArkForImageClassification(ArkConfig(**shape, tasks=tasks)).save_pretrained(folder / "ark-cxr")
    ArkImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "ark-cxr")
    draw_phantom_image(PHANTOM_SITES["phantom_city"], "test", 0, size=64)["image"].save(folder / "chest.png")
    return folder


def run(name: str, monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(REPOSITORY / "examples" / f"{name}.py"), run_name="__main__")


@pytest.mark.slow_ci
def test_scripts_on_a_trained_model(desk, sites, monkeypatch, capsys):
    run("predict", monkeypatch, desk / "ark-cxr", desk / "chest.png")
    labels = ["city/Effusion", "city/Nodule", "hill/Tuberculosis"]
    assert sorted(line.split()[0] for line in capsys.readouterr().out.splitlines()) == labels
    run("heat_maps", monkeypatch, desk / "ark-cxr", desk / "chest.png", desk / "maps.png")
    assert "hill/Tuberculosis" in capsys.readouterr().out
    width, height = Image.open(desk / "chest.png").size
    with Image.open(desk / "maps.png") as picture:
        assert picture.size == (2 * width, height) and np.ptp(np.asarray(picture)) > 0
    run("zero_shot", monkeypatch, desk / "ark-cxr", sites["phantom_city"], "Effusion")
    said = capsys.readouterr().out
    assert "Effusion is scored by city/Effusion" in said and re.search(r"AUROC 0\.\d{3}", said)
