"""The command line: help without torch, the verbs end to end on phantoms, and wrong input explained in one line."""

import csv
import json
import shutil
import subprocess
import sys
import typing
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import ark_hf
from ark_hf.cli.arguments import read_options
from ark_hf.cli.main import main, verbs
from ark_hf.evaluation.arguments import EvaluationArguments, Transfers
from ark_hf.evaluation.evaluate import Evaluation
from ark_hf.inference.zeroshot import PUBLISHED_TRANSFERS
from ark_hf.plain_yaml import dump_yaml
from ark_hf.training.ark.recipe import PretrainingArguments
from tests.models.ark.original_files import swin_state_dict
from tests.training.conftest import TINY

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sites):
    """A run over two phantom sites through the command line."""
    root = tmp_path_factory.mktemp("cli")
    (root / "sites").symlink_to(sites["phantom_city"].parent)
    names = list(sites)[:2]
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


def test_help_of_every_verb_shows_defaults_and_choices_and_loads_no_torch():
    more = [["data", "build"], ["data", "build", "generic"], ["data", "build", "vindr_cxr"], ["data", "report"]]
    words = [[], *([verb] for verb in verbs()), *more]
    code = (
        f"import sys; sys.argv = ['ark-hf']\n"
        f"from ark_hf.cli.main import main\n"
        f"for words in {words}:\n"
        f"    try:\n        main([*words, '--help'])\n    except SystemExit as stop:\n        assert stop.code == 0\n"
        f"assert not {{'torch', 'gradio'}} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    shown = " ".join(result.stdout.split())
    for part in words:
        assert f"usage: {' '.join(['ark-hf', *part])} " in shown
    for part in (
        "ark-hf finetune {RECIPE | MODEL DATASET} [--option value ...]",
        "--optim {sgd,momentum,adamw} sgd (momentum 0.9 by Nesterov), momentum (the same without",
        "--key {teacher,student,null} Which model of a training checkpoint;",
        "unless said. (default: null)",
        "Seed of weights, order, views and label smoothing. (default: 0)",
        "--streaming [true|false]",
        "One run each; the table gives their mean and its interval. (default: 0)",
        "--readers {majority,union}",
        "--port PORT Port to listen on. (default: 7860)",
    ):
        assert part in shown


@pytest.mark.parametrize("module", ["ark_hf", "ark_hf.cli"])
def test_the_package_is_a_command_and_its_help_loads_no_torch(module):
    command = [sys.executable, "-X", "importtime", "-m", module, "finetune", "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "usage: ark-hf finetune " in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "ark_hf.cli.main" in imported and "torch" not in imported


def test_without_a_verb_there_is_help(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {verb} " in printed for verb in verbs())
    assert main(["data", "build"]) == 0
    assert "\n  chexpert " in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ark-hf {ark_hf.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrian"], "ark-hf: error: unknown verb `pretrian`; did you mean `pretrain`?"),
        (["data", "biuld"], "ark-hf data: error: unknown action `biuld`; did you mean `build`?"),
        (["data", "build", "chexprt"], "ark-hf data: error: unknown source `chexprt`; did you mean `chexpert`?"),
        (["pretrain", "r.yaml", "--learnrate", "1"], "unknown option `--learnrate`; did you mean `--learning_rate`?"),
        (["finetune", "m", "d", "--layer_decai", "1"], "option `--layer_decai`; did you mean `--layer_decay`?"),
        (["evaluate", "m", "d", "--zero-shoot"], "unknown option `--zero-shoot`; did you mean `--zero_shot`?"),
        (["data", "build", "generic", "--rav", "x"], "unknown option `--rav`; did you mean `--raw`?"),
        (["evaluate", "m", "d", "--s", "1"], "unknown option `--s`; it may be --split or --seed or "),
        (["data", "build", "generic", "--raw", "x"], "--out is missing."),
        (["predict", "m"], "the following arguments are required: PATHS; `ark-hf predict --help` explains it."),
        (["predict", "m", "p", "--crops", "five"], "--crops is 'five'; use one of ('whole', 'center', 'ten')."),
        (["predict", "m", "p", "--batch_size", "many"], "--batch_size must be int, got 'many'."),
        (["probe", "m", "d", "--shortcuts=perhaps"], "--shortcuts must be bool, got 'perhaps'."),
        (["convert", "f", "--image_size", "1.5"], "--image_size must be int, got '1.5'."),
    ],
)  # fmt: skip
def test_slips_are_named_with_what_was_meant(capsys, words, message):
    assert message in error_of(capsys, *words)


def test_null_is_what_it_is_in_a_recipe():
    words = ["r.yaml", "--projector_dim", "null", "--max_grad_norm", "null", "--output_dir", "null", "--seed", "3"]
    given, _ = read_options(PretrainingArguments, "pretrain", words, "", recipe={})
    assert given == {"projector_dim": None, "max_grad_norm": None, "output_dir": "null", "seed": 3}
    with pytest.raises(ValueError, match="--seed must be int, got 'null'"):
        read_options(PretrainingArguments, "pretrain", ["r.yaml", "--seed", "null"], "", recipe={})


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

    before = out.read_bytes()
    capsys.readouterr()
    model, text = str(trained / "run/ark-cxr"), str(pictures / "text.png")
    assert main(["predict", model, text, "--out", str(out)]) == 1
    assert out.read_bytes() == before
    assert f"No file could be read; {out} is left as it was." in capsys.readouterr().err
    assert main(["predict", model, text, "--out", str(tmp_path / "new.csv")]) == 1
    assert "new.csv is not written." in capsys.readouterr().err and not (tmp_path / "new.csv").exists()


def test_predict_checks_its_output_first(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
    message = error_of(capsys, "predict", "no/model", str(picture), "--out", str(tmp_path))
    assert f"out {tmp_path} is a folder; name a CSV file" in message
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


@pytest.mark.slow_ci
def test_crops_change_the_view(trained, tmp_path, capsys):
    model, city = str(trained / "run/ark-cxr"), str(trained / "sites/phantom_city")
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (60, 50), np.uint8)).save(picture)
    predictions, aurocs = set(), set()
    for crops in ("whole", "center", "ten"):
        out = tmp_path / f"{crops}.csv"
        assert main(["predict", model, str(picture), "--out", str(out), "--crops", crops]) == 0
        predictions.add(out.read_text().splitlines()[1])
        arguments = ["--out", str(tmp_path / crops), "--bootstrap", "0", "--crops", crops]
        assert main(["evaluate", model, city, *arguments]) == 0
        report = json.loads((tmp_path / crops / "report.json").read_text())
        assert report["crops"] == crops
        aurocs.add(tuple(label["auroc"] for label in report["tasks"][0]["labels"]))
    assert len(predictions) == 3 and len(aurocs) > 1


CITY = {"Pleural Effusion": ["phantom_city/Effusion"], "Enlarged Heart": ["phantom_city/Cardiomegaly"]}
SPOTS = {"Enlarged Heart": [], "Pneumothorax": ["phantom_city/Nodule", "phantom_coast/viral"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], CITY | {"Pneumothorax": []}),
        (["--heads", "phantom_city"], CITY | {"Pneumothorax": []}),
        (["--synonyms", "names.yaml"], CITY | {"Enlarged Heart": [], "Pneumothorax": []}),
        (["--synonyms", "names.yaml", "--related"], CITY | SPOTS),
    ],
)
def test_zero_shot_evaluation_of_a_site_without_a_head(trained, tmp_path, capsys, monkeypatch, options, expected):
    model, lake = str(trained / "run/ark-cxr"), str(trained / "sites/phantom_lake")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.yaml").write_text(
        "findings: {Effusion: [Pleural Effusion], Air: [Pneumothorax], Spot: [Nodule], Cold: [viral]}\n"
        "related: {Air: [Spot, Cold]}\n"
    )
    assert main(["evaluate", model, lake, "--out", "out", "--bootstrap", "20", "--zero_shot", *options]) == 0
    printed = capsys.readouterr().out
    (report,) = json.loads((tmp_path / "out/report.json").read_text())["tasks"]
    used = {
        label: [f"{match['task']}/{match['label']}" for match in matches]
        for label, matches in report["matches"].items()
    }
    assert used == expected
    aurocs = {result["label"]: result["auroc"] for result in report["labels"]}
    assert aurocs == pytest.approx(mean_column_aurocs(model, lake, used), abs=1e-9)
    without_baseline = [result["label"] for result in report["baseline_labels"] if result["auroc"] is None]
    assert without_baseline == [label for label, names in used.items() if not names]
    for label, names in used.items():
        line = next(line for line in printed.splitlines() if line.startswith(f"- {label}: "))
        assert all(name in line for name in names) if names else "nothing matches" in line


@pytest.mark.parametrize(
    "flag",
    [["--zero_shot"], ["--zero-shot"], ["--zero"], ["--zero", "true"], ["--zero_shot", "true"], ["--zero_shot=true"]],
)
def test_a_flag_does_not_swallow_the_path_after_it(trained, monkeypatch, flag):
    model, lake = str(trained / "run/ark-cxr"), str(trained / "sites/phantom_lake")
    asked = []
    monkeypatch.setattr(
        "ark_hf.evaluation.evaluate.evaluate", lambda *given: asked.append(given) or Evaluation([], "")
    )
    assert main(["evaluate", model, *flag, lake]) == 0
    assert main(["evaluate", model, lake, "--zero_shot", "false"]) == 0
    shot, false = asked
    assert shot == (model, [lake], EvaluationArguments(zero_shot=True))
    assert false == (model, [lake], EvaluationArguments())


def test_flags_of_all_verbs():
    def read(*words: str):
        given, words = read_options(PretrainingArguments, "pretrain", list(words), "", recipe={})
        assert words.recipe == "recipe.yaml"
        return given

    assert read("recipe.yaml") == {}
    for words, expected in {
        ("--gradient_checkpointing", "recipe.yaml"): True,
        ("recipe.yaml", "--gradient_checkpointing"): True,
        ("--gradient_checkpointing", "True", "recipe.yaml"): True,
        ("--gradient-checkpointing", "false", "recipe.yaml"): False,
        ("recipe.yaml", "--gradient_checkpointing=false"): False,
    }.items():
        assert read(*words) == {"gradient_checkpointing": expected}
    assert read("recipe.yaml", "--streaming", "--gradient_checkpointing", "--output_dir", "true") == {
        "streaming": True, "gradient_checkpointing": True, "output_dir": "true",
    }  # fmt: skip


def mean_column_aurocs(model_dir, dataset, used) -> dict[str, float | None]:
    """AUROC of the mean of the named columns over the dataset's test split, None without columns."""
    from ark_hf.data.task_dataset import load_task_dataset
    from ark_hf.inference.load import load_ark
    from ark_hf.metrics.auroc import auroc

    model, processor = load_ark(model_dir)
    rows = load_task_dataset(dataset, "test")
    with torch.no_grad():
        logits = model(processor(list(rows["image"]), return_tensors="pt").pixel_values).logits
    columns = dict(zip(model.config.id2label.values(), logits.double().sigmoid().T.numpy(), strict=True))
    return {
        label: auroc(target, np.mean([columns[name] for name in used[label]], axis=0)) if used[label] else None
        for label, target in zip(used, np.array(rows["labels"]).T, strict=True)
    }


def test_zero_shot_options_that_make_no_sense(trained, tmp_path, capsys):
    model, sites = str(trained / "run/ark-cxr"), trained / "sites"
    lake, hill, city = (str(sites / f"phantom_{name}") for name in ("lake", "hill", "city"))
    assert "--heads is for zero-shot transfer" in error_of(capsys, "evaluate", model, lake, "--heads", "phantom_city")
    assert "--synonyms is for zero-shot transfer" in error_of(capsys, "evaluate", model, lake, "--synonyms", "x.yaml")
    assert "--related is for zero-shot transfer" in error_of(capsys, "evaluate", model, lake, "--related")
    transfer = ["evaluate", model, lake, "--transfer", "node21"]
    assert "leave out --heads" in error_of(capsys, *transfer, "--heads", "phantom_city")
    assert "leave out --related" in error_of(capsys, *transfer, "--related")
    assert "scores with chestxray14/Nodule, which the model lacks" in error_of(capsys, *transfer)
    named = f"phantom_city={lake}"
    assert "name heads by --heads" in error_of(capsys, "evaluate", model, named, "--zero_shot")
    assert "'phantom_city' is not new to it" in error_of(capsys, "evaluate", model, city, "--zero_shot")
    assert "stands for 'Tuberculosis'" in error_of(capsys, "evaluate", model, hill, "--zero_shot")
    unknown = ["--zero_shot", "--heads", "phantom_town"]
    assert "no head 'phantom_town'" in error_of(capsys, "evaluate", model, lake, *unknown)
    missing = ["--zero_shot", "--synonyms", str(tmp_path / "none.yaml")]
    assert "Cannot read the synonym table" in error_of(capsys, "evaluate", model, lake, *missing)


def test_the_transfers_on_offer_are_the_published_ones():
    assert list(typing.get_args(Transfers)) == list(PUBLISHED_TRANSFERS)


def test_convert(tmp_path, capsys):
    checkpoint, out = tmp_path / "Ark6.pth.tar", tmp_path / "ark-cxr"
    torch.save(swin_state_dict(), checkpoint)
    assert main(["convert", str(checkpoint), "--out", str(out), "--image_size", "64"]) == 0
    printed = capsys.readouterr().out
    assert "image size: 32 (from attention masks and windows), changed to 64" in printed
    assert "heads: mimic_cxr (14), chexpert (14), chestxray14 (14), rsna (3), vindr_cxr (6), shenzhen (1)" in printed
    assert "none missing, none left over" in printed
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (60, 50), np.uint8)).save(picture)
    assert main(["predict", str(out), str(picture), "--out", str(tmp_path / "predictions.csv")]) == 0
    (row,) = csv.DictReader((tmp_path / "predictions.csv").open())
    assert len(row) == 53 and "vindr_cxr/Tuberculosis" in row

    before = (out / "config.json").read_bytes()
    assert "exists and is not empty" in error_of(capsys, "convert", str(checkpoint), "--out", str(out))
    assert (out / "config.json").read_bytes() == before
    other = ["convert", str(checkpoint), "--out", str(tmp_path / "other")]
    assert "is not a file" in error_of(capsys, "convert", "missing.pth", *other[2:])
    assert "is not a file" in error_of(capsys, "convert", "missing.pth", "--out", str(out))
    assert "holds no student" in error_of(capsys, *other, "--key", "student")
    assert "Cannot read the tasks" in error_of(capsys, *other, "--tasks", str(tmp_path / "missing.yaml"))
    assert "use a multiple of 16" in error_of(capsys, *other, "--image_size", "40")
    assert "--image_size must be at least 1" in error_of(capsys, *other, "--image_size", "0")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow_ci
@pytest.mark.parametrize("script", [["ark-hf"], ["-m", "ark_hf.cli"]])
def test_what_the_command_writes_loads_without_the_package(tmp_path, script):
    """Through the real command: inside the tests the package has registered itself already."""
    torch.save(swin_state_dict(), tmp_path / "ark.pth")
    executable = (
        [str(Path(sys.executable).with_name("ark-hf"))] if script[0] == "ark-hf" else [sys.executable, *script]
    )
    command = [*executable, "convert", str(tmp_path / "ark.pth"), "--out", str(tmp_path / "ark-cxr")]
    subprocess.run(command, check=True, capture_output=True)
    code = (
        "import sys; from transformers import AutoModelForImageClassification as Auto\n"
        f"model = Auto.from_pretrained({str(tmp_path / 'ark-cxr')!r}, trust_remote_code=True)\n"
        "assert model.config.num_labels == 52 and 'ark_hf' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


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
        ({"optim": "adam"}, "use one of ('sgd', 'momentum', 'adamw')"),
    ]:
        wrong.write_text(dump_yaml(recipe | {"output_dir": str(tmp_path / "run")} | change))
        assert message in error_of(capsys, "pretrain", str(wrong), "--data_root", str(trained / "sites"))
        assert not (tmp_path / "run").exists()
    assert "Cannot read the recipe" in error_of(capsys, "pretrain", str(tmp_path / "none.yaml"))

    run, model = str(trained / "run"), str(trained / "run/ark-cxr")
    assert "ark-cxr?" in error_of(capsys, "evaluate", run, str(trained / "sites/phantom_city"))
    message = error_of(capsys, "evaluate", model, str(trained / "sites/phantom_hill"))
    assert "the model has no head 'phantom_hill'" in message
    assert "HEAD=DATASET, or --zero_shot for a dataset that the model was not trained on" in message
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


def test_warnings_are_a_line_without_that_of_the_source(monkeypatch):
    before, said = warnings.formatwarning, []

    def verb(argv):
        said.append(warnings.formatwarning("look out", UserWarning, "source.py", 3))
        return 0

    monkeypatch.setattr(sys.modules["ark_hf.cli.main"], "_function", lambda name: verb)
    assert main(["predict"]) == 0 and said == ["Warning: look out\n"] and warnings.formatwarning is before


def test_what_others_wrote_does_nothing_to_the_terminal_and_fills_no_screens(tmp_path, capsys):
    path = tmp_path / "\x1b[2J.yaml"
    path.write_text("seed: x\ncycles: 1\nseed: 2")
    assert error_of(capsys, "pretrain", str(path)).count("\\x1b[2J.yaml") == 1
    path.write_text(f"output_dir: x\ntasks: [{{dataset: a}}]\ncycles: {'y' * 100_000}")
    assert len(error_of(capsys, "pretrain", str(path))) < 4200
