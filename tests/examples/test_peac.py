"""The scripts that show what an encoder knows of places run from start to end, with models of any kind."""

import json
import runpy
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch

from ark_hf import ArkConfig, ArkImageProcessor, ArkModel, draw_phantom_image
from ark_hf.data.sources.phantom import SITES

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "peac"

pytestmark = pytest.mark.slow_ci


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("peac") / "tiny"
    torch.manual_seed(1)
    kwargs = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8}
    config = ArkConfig(backbone="vit_tiny_patch16_224", backbone_kwargs=kwargs, image_size=48, projector_dim=None)
    ArkModel(config).save_pretrained(folder)
    ArkImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("peac") / "pictures"
    folder.mkdir()
    for index in range(4):
        draw_phantom_image(SITES["phantom_coast"], "test", index, 64)["image"].save(folder / f"{index}.png")
    return folder


@pytest.fixture
def run(monkeypatch):
    """Runs a script on few small phantoms."""
    monkeypatch.syspath_prepend(FOLDER)
    import phantoms

    few = [draw_phantom_image(SITES["phantom_lake"], "test", index, 64) for index in range(9)]
    monkeypatch.setattr(phantoms, "draw", lambda images: few)

    def script(name: str, *arguments) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(FOLDER / name), run_name="__main__")

    yield script
    for name in ("phantoms", "figures"):
        sys.modules.pop(name, None)


def test_correspondences_of_phantoms(run, model, tmp_path):
    run("correspondence.py", model, tmp_path)
    results = json.loads((tmp_path / "errors.json").read_text())
    assert results.keys() == {"patients", "views"}
    for found in results.values():
        assert len(found["errors"]) == 3 and {"untrained", "same place"} < found["errors"].keys()
        assert found["groups"].keys() == {"sex", "age", "body", "health"}
        assert all(rows[-1]["label"] == "mean" and rows[-1]["mean"] > 0 for rows in found["errors"].values())
    page = (tmp_path / "errors.md").read_text()
    assert page.count("**mean over landmarks**") == 2 and "nan" not in page
    for name in ("errors.png", "found.png"):
        assert min(PIL.Image.open(tmp_path / name).size) > 300


def test_neighbours_of_pictures_without_landmarks(run, model, pictures, tmp_path):
    run("correspondence.py", model, tmp_path, "--pictures", pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["neighbours.png"]
    with pytest.raises(SystemExit, match="holds fewer than two pictures"):
        run("correspondence.py", model, tmp_path, "--pictures", tmp_path / "neighbours.png")


@pytest.mark.parametrize("of", ["phantoms", "pictures"])
def test_co_segmentation(of, run, model, pictures, tmp_path):
    run("co_segmentation.py", model, tmp_path / "found.png", *([pictures] if of == "pictures" else []))
    assert min(PIL.Image.open(tmp_path / "found.png").size) > 300


def test_landmarks(run, model, tmp_path, capsys):
    run("landmarks.py", model, tmp_path / "found.png")
    assert min(PIL.Image.open(tmp_path / "found.png").size) > 300
    assert capsys.readouterr().out.count("chance 0.") == 2
