"""The scripts of PEAC run from start to end: what an encoder knows of places, the ablation, and downstream."""

import importlib
import json
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL.Image
import pytest
import torch

import ark_hf
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
    for name in ("phantoms", "figures", "correspondence", "ablation", "downstream"):
        sys.modules.pop(name, None)


@pytest.fixture
def in_this_process(run, monkeypatch):
    """A script as a module, whose jobs run one after another and so with what tests change."""

    def script(name: str):
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "ProcessPoolExecutor", lambda *arguments: ThreadPoolExecutor(1))
        return module

    return script


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


def test_ablation(in_this_process, tmp_path, monkeypatch):
    ablation = in_this_process("ablation")
    recipe = ark_hf.read_recipe(ablation.RECIPE) | {
        "image_size": 48, "epochs": 1, "batch_size": 4, "global_projector_dims": [8, 8, 8],
        "local_projector_dims": [8, 8, 8], "backbone": "vit_tiny_patch16_224",
        "backbone_kwargs": {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8},
    }  # fmt: skip
    monkeypatch.setattr(ablation, "RECIPE", tmp_path / "recipe.yaml")
    ablation.RECIPE.write_text(json.dumps(recipe))
    monkeypatch.setattr(ablation, "COUNTS", {"train": 4, "validation": 4, "test": 4})
    monkeypatch.setattr(ablation, "SIZE", 80)
    monkeypatch.setattr(ablation, "ARMS", {"peac": {}, "without_local": {"local_weight": 0.0}})
    ablation.main(tmp_path)
    errors = json.loads((tmp_path / "errors" / "errors.json").read_text())["patients"]["errors"]
    assert list(errors) == ["peac", "without_local", "ark", "untrained", "same place"]
    assert ark_hf.read_recipe(tmp_path / "without_local" / "recipe.yaml")["local_weight"] == 0


def test_what_an_encoder_is_good_for(in_this_process, tmp_path, monkeypatch):
    downstream = in_this_process("downstream")
    kwargs = {"depths": [1, 1, 0, 0], "dims": [4, 8, 8, 8], "kernel_sizes": 3, "output_stride": 8}
    config = ArkConfig(backbone="convnext_atto", backbone_kwargs=kwargs, image_size=48, projector_dim=None)
    ArkModel(config).save_pretrained(tmp_path / "tiny")
    ArkImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path / "tiny")
    counts = {"train": 12, "validation": 9, "test": 9}
    ark_hf.build_phantom_sites(tmp_path / "data", counts, 64)
    masks = ark_hf.build_phantom_masks(tmp_path / "masks", counts, 64)
    (tmp_path / "data" / "kermany_lungs").symlink_to(masks["phantom_organs"])
    for name, value in {
        "TARGETS": ("phantom_city",),
        "EVALUATED": {"phantom_city": ["Effusion"]},
        "FEW": 10,
        "FEW_TARGETS": ("phantom_city",),
        "SEEDS": [0, 1],
        "LUNG_IMAGES": {8: 1},
        "FINETUNING": {"max_steps": 1, "batch_size": 4},
        "LUNGS": {"decoder_channels": 8, "batch_size": 4, "decoder_type": "upernet"},
    }.items():
        monkeypatch.setattr(downstream, name, value)
    downstream.main(tmp_path / "data", tmp_path / "out", [str(tmp_path / "tiny")])
    results = json.loads((tmp_path / "out" / "downstream.json").read_text())
    assert [each["other"] for each in results["probes"]] == ["ten numbers", "random convnext_atto"]
    assert len(results["few labels"]) == 1 and len(results["lungs"]) == 1
    page = (tmp_path / "out" / "downstream.md").read_text()
    assert page.count("| difference |") == 3 and "nan" not in page


def test_models_that_cannot_be_compared(in_this_process, model, tmp_path):
    downstream = in_this_process("downstream")
    config = ArkConfig.from_pretrained(model)
    config.image_size = 64
    config.save_pretrained(tmp_path / "larger")
    for models, message in [
        ([str(tmp_path / "nowhere")], "nowhere holds no model"),
        ([model, model], "different names"),
        ([model, str(tmp_path / "larger")], "larger has another size"),
    ]:
        with pytest.raises(SystemExit, match=message):
            downstream.main(tmp_path, tmp_path / "out", models)
    assert not (tmp_path / "out").exists()
