"""The command line: help without torch, the verbs end to end on phantoms, and wrong input explained in one line."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from ark_hf.cli import main
from ark_hf.data.build import build_phantom_sites
from tests.training.conftest import TINY, fresh_accelerator_state  # noqa: F401


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run over two phantom sites through the command line."""
    root = tmp_path_factory.mktemp("cli")
    names = list(build_phantom_sites(root / "sites", {"train": 16, "validation": 8, "test": 12}, size=40))[:2]
    recipe = {**TINY, "cycles": 1, "output_dir": str(root / "run"), "tasks": [{"dataset": name} for name in names]}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["pretrain", str(root / "recipe.yaml"), "--data_root", str(root / "sites")]) == 0
    return root


def error_of(capsys, *argv) -> str:
    """The one message that wrong input ends with."""
    assert main(list(argv)) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error:" in message
    return message


@pytest.mark.parametrize(
    "verb", [[], ["demo"], ["pretrain"], ["evaluate"], ["predict"], ["data"], ["data", "build", "generic"]]
)
def test_help_loads_no_torch(verb):
    code = (
        f"import sys; sys.argv = ['ark-hf', *{verb!r}, '--help']\n"
        "from ark_hf.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage: ark-hf" in result.stdout


def test_overrides_win_over_the_recipe(trained, tmp_path):
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    assert metrics["settings"]["cycles"] == 1 and metrics["settings"]["learning_rate"] == TINY["learning_rate"]
    arguments = [
        "--data_root",
        str(trained / "sites"),
        "--output_dir",
        str(tmp_path / "other"),
        "--learning_rate",
        "0.001",
    ]
    assert main(["pretrain", str(trained / "recipe.yaml"), *arguments]) == 0
    assert json.loads((tmp_path / "other" / "metrics.json").read_text())["settings"]["learning_rate"] == 0.001


def test_evaluate_prints_and_writes_a_report(trained, tmp_path, capsys):
    sites = [str(trained / "sites" / name) for name in ("phantom_city", "phantom_coast")]
    assert (
        main(["evaluate", str(trained / "run/ark-cxr"), *sites, "--out", str(tmp_path / "out"), "--bootstrap", "50"])
        == 0
    )
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [task["task"] for task in report["tasks"]] == ["phantom_city", "phantom_coast"]
    for task in report["tasks"]:
        for result, baseline in zip(task["labels"], task["baseline_labels"], strict=True):
            assert f"| {result['label']} | {result['num_positive']}/{result['num_known']} |" in printed
            assert result["label"] == baseline["label"] and result["num_clusters"] <= task["num_images"]
    assert (tmp_path / "out" / "report.md").read_text().count("shortcut baseline") == 2


def test_predict_writes_a_row_an_image_and_lists_unreadable_files(trained, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    plane = np.tile(np.arange(50, dtype=np.uint8), (60, 1))
    Image.fromarray(plane).save(pictures / "eight.png")
    Image.fromarray(plane.astype(np.uint16) * 257 * 5).save(pictures / "sixteen.png")
    Image.fromarray(plane * 5).save(pictures / "eight_bright.png")
    (pictures / "text.png").write_text("not a picture")
    out = tmp_path / "predictions.csv"
    assert main(["predict", str(trained / "run/ark-cxr"), str(pictures), "--out", str(out)]) == 0
    rows = {row["image"].rsplit("/")[-1]: row for row in csv.DictReader(out.open())}
    assert set(rows) == {"eight.png", "sixteen.png", "eight_bright.png"}
    classes = [f"phantom_coast/{label}" for label in ("normal", "bacterial", "viral")]
    for row in rows.values():
        assert sum(float(row[name]) for name in classes) == pytest.approx(1, abs=1e-5)
    for name in classes:  # the same picture in 8 and in 16 bits
        assert float(rows["sixteen.png"][name]) == pytest.approx(float(rows["eight_bright.png"][name]), abs=2e-3)
    (unreadable,) = csv.DictReader((tmp_path / "predictions.unreadable.csv").open())
    assert unreadable["image"].endswith("text.png") and unreadable["reason"]


def test_data_build_generic(tmp_path, capsys):
    for index in range(4):
        Image.fromarray(np.random.RandomState(index).randint(0, 255, (20, 20), np.uint8)).save(
            tmp_path / f"{index}.png"
        )
    lines = ["image,split,sick"] + [
        f"{i}.png,{split},{i % 2}" for i, split in enumerate(["train", "train", "val", "test"])
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    assert (
        main(
            ["data", "build", "generic", "--raw", str(tmp_path), "--out", str(out), "--name", "tb", "--labels", "sick"]
        )
        == 0
    )
    assert "2 train, 1 validation, 1 test" in capsys.readouterr().out
    assert "out exists and is not empty" in error_of(
        capsys, "data", "build", "generic", "--raw", str(tmp_path), "--out", str(out), "--labels", "sick"
    )


def test_wrong_input_is_explained(trained, tmp_path, capsys):
    recipe = yaml.safe_load((trained / "recipe.yaml").read_text())
    wrong = tmp_path / "wrong.yaml"
    for change, message in [
        ({"learnin_rate": 0.1}, "unknown key `learnin_rate`; did you mean `learning_rate`?"),
        ({"tasks": []}, "`tasks` must list at least one dataset"),
        ({"tasks": [{"datset": "x"}]}, "task 1"),
        ({"tasks": [{"dataset": "nowhere"}]}, "'nowhere' is neither a folder with a task dataset"),
        ({"tasks": recipe["tasks"] * 2}, "Two tasks are named 'phantom_city'"),
        ({"backbone": "resnet_fifty", "backbone_kwargs": None}, "Unknown backbone 'resnet_fifty'"),
        (
            {"backbone": "swin_tiny_patch4_window7_224", "backbone_kwargs": None, "image_size": 200},
            "use a multiple of 224",
        ),
        ({"optim": "adam"}, "use one of ('sgd', 'adamw')"),
    ]:
        wrong.write_text(yaml.safe_dump(recipe | {"output_dir": str(tmp_path / "run")} | change))
        assert message in error_of(capsys, "pretrain", str(wrong), "--data_root", str(trained / "sites"))
        assert not (tmp_path / "run").exists()
    assert "Cannot read the recipe" in error_of(capsys, "pretrain", str(tmp_path / "none.yaml"))

    run, model = str(trained / "run"), str(trained / "run/ark-cxr")
    assert "ark-cxr?" in error_of(capsys, "evaluate", run, str(trained / "sites/phantom_city"))
    assert "the model has no head 'phantom_hill'" in error_of(
        capsys, "evaluate", model, str(trained / "sites/phantom_hill")
    )
    assert "is not a model" in error_of(capsys, "predict", str(trained / "sites"), str(trained / "recipe.yaml"))
    assert "does not exist" in error_of(capsys, "predict", model, "missing.png")
    city = str(trained / "sites/phantom_city")
    assert "are not those of the head" in error_of(capsys, "evaluate", model, f"phantom_coast={city}")
    assert "--batch_size must be at least 1" in error_of(capsys, "predict", model, city, "--batch_size", "-1")
    assert "--bootstrap must be at least 0" in error_of(capsys, "evaluate", model, city, "--bootstrap", "-1")
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "model.safetensors").write_bytes((trained / "run/ark-cxr/model.safetensors").read_bytes()[:1000])
    assert "Cannot load an Ark model" in error_of(capsys, "predict", str(broken), str(trained / "recipe.yaml"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "model type 'bert'" in error_of(capsys, "predict", str(tmp_path), str(trained / "recipe.yaml"))
