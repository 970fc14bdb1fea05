"""`ark-hf finetune` from the command line: its table, its mistakes in one line, and its model on the Hub."""

import json

import pytest
import torch
import yaml
from transformers import AutoModelForImageClassification
from transformers.utils import logging

from ark_hf.cli.main import main

from ..training.conftest import TINY

pytestmark = pytest.mark.usefixtures("no_figures")

TINY_MODEL = [
    *("--backbone", TINY["backbone"], "--backbone_kwargs", json.dumps(TINY["backbone_kwargs"])),
    *("--image_size", "32", "--projector_dim", "16", "--epochs", "1", "--batch_size", "8", "--bootstrap", "20"),
]


@pytest.fixture(autouse=True)
def loud_libraries():
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="module")
def site(sites):
    return str(sites["phantom_coast"])


@pytest.fixture(scope="module")
def run(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["finetune", "none", site, "--output_dir", str(folder), "--seeds", "0", "1", *TINY_MODEL]) == 0
    return folder


def test_the_printed_table_is_that_of_the_results(site, run, capsys):
    assert main(["finetune", "none", site, "--output_dir", str(run), "--seeds", "0", "1", *TINY_MODEL]) == 0
    printed = capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert printed.startswith((run / "results.md").read_text())
    for seed in results["seeds"]:
        assert f"{seed['validation']['mean_auroc']:.3f} | {seed['test']['mean']['auroc']:.3f} |" in printed
    assert f"{results['test']['mean']:.3f} ({results['test']['ci_low']:.3f} to" in printed
    assert str(site) not in (run / "results.json").read_text()


def test_the_sex_protocol_is_asked_for_with_its_options(site, tmp_path, capsys):
    arguments = ["--output_dir", str(tmp_path / "run"), "--protocol", "sex", "--max_images", "5", *TINY_MODEL]
    assert main(["finetune", "none", site, *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith((tmp_path / "run" / "sex_protocol.md").read_text())
    results = json.loads((tmp_path / "run" / "sex_protocol.json").read_text())
    assert results["images"] == 5 and results["settings"]["epochs"] == 1
    for arm, tested in results["auroc"].items():
        assert f"| {arm} | {tested['male']['mean']:.3f} (" in printed


@pytest.mark.parametrize(
    "options, message",
    [
        (["--freeze", "half"], "use none, encoder or a number of stages"),
        (["--per_class", "100"], "100 images per class are asked for, but there are only: normal 7"),
        (["--max_images", "5"], "--max_images is for --protocol sex"),
        (["--protocol", "sex", "--test", "false"], "leave out --test false"),
        (["--protocol", "sex", "--push_to_hub", "me/x"], "leave out --push_to_hub"),
        (["--lora_rank", "2", "--backbone", "resnet10t", "--backbone_kwargs", "{}"], "none of the layers that take"),
    ],
)
def test_mistakes_are_explained_in_one_line(site, tmp_path, capsys, options, message):
    assert main(["finetune", "none", site, "--output_dir", str(tmp_path / "run"), *TINY_MODEL, *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("ark-hf finetune: error: ") and message in error


def test_a_recipe_says_the_same_and_options_win_over_it(site, run, tmp_path, capsys):
    words = iter(TINY_MODEL)
    options = {name.removeprefix("--"): yaml.safe_load(value) for name, value in zip(words, words, strict=True)}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**options, "model": "none", "dataset": site, "seeds": [0], "freeze": 9}))
    before = (run / "results.md").read_text()
    arguments = ["finetune", str(recipe), "--output_dir", str(run), "--seeds", "0", "1"]
    assert main([*arguments, "--freeze", "none"]) == 0  # finished already: other settings would be refused
    assert capsys.readouterr().out.startswith(before)
    assert main(arguments) == 2
    assert "freeze was 'none', now '9'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("modle: none", [], "recipe.yaml: unknown key `modle`; did you mean `model`?"),
        ("learnin_rate: 1", [], "recipe.yaml: unknown key `learnin_rate`; did you mean `learning_rate`?"),
        ("model: none\ndataset: d", [], "recipe.yaml lacks `output_dir`; set it there or pass --output_dir."),
        ("dataset: d\noutput_dir: r", [], "recipe.yaml lacks `model`; set it there or pass --model."),
        ("{model: none, dataset: d, output_dir: r, seeds: 1}", [], "seeds must be a list: write `seeds: [1]`."),
        (
            "{model: none, dataset: d, output_dir: r}",
            ["more"],
            "recipe.yaml names model and dataset itself: leave out more.",
        ),
        (None, [], "Cannot read the recipe recipe.yaml: No such file or directory."),
    ],
)
def test_mistakes_in_a_recipe_are_explained_in_one_line(tmp_path, monkeypatch, capsys, content, words, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "recipe.yaml").write_text(content)
    assert main(["finetune", "recipe.yaml", *words]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("ark-hf finetune: error: ") and message in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected a recipe (.yaml, .yml, .json), or a model and a dataset, got none."),
        (["none"], "expected a recipe (.yaml, .yml, .json), or a model and a dataset, got none."),
        (["none", "d", "e"], "expected a recipe (.yaml, .yml, .json), or a model and a dataset, got none d e."),
        (["none", "d", "--model", "x"], "--model is for recipes: without one, MODEL and DATASET say it already."),
        (["none", "d"], "--output_dir is missing."),
    ],
)
def test_model_and_dataset_are_named_once(capsys, words, message):
    assert main(["finetune", *words]) == 2
    assert message in capsys.readouterr().err


def test_other_mistakes(site, run, tmp_path, capsys):
    assert main(["finetune", "none", site, "--output_dir", str(run), *TINY_MODEL, "--layer_decay", "0.5"]) == 2
    assert "layer_decay was 1.0, now 0.5" in capsys.readouterr().err
    assert main(["finetune", str(tmp_path / "no.pth"), site, "--output_dir", str(tmp_path / "x"), *TINY_MODEL]) == 2
    assert "is not a weights file" in capsys.readouterr().err


def test_the_model_goes_to_the_hub_with_its_own_numbers(hub, site, run, capsys):
    arguments = ["finetune", "none", site, "--output_dir", str(run), "--seeds", "0", "1", *TINY_MODEL]
    with hub.failing("POST .*/commit/", status=500):
        assert main([*arguments, "--push_to_hub", "someone/coast"]) == 2
    assert "The run is finished and kept: the same command tries again" in capsys.readouterr().err
    assert main([*arguments, "--push_to_hub", "someone/coast"]) == 0
    repository = hub.model("someone/coast")
    assert repository.private and {"model.safetensors", "modeling_ark.py", "README.md"} <= repository.files.keys()
    results = json.loads((run / "results.json").read_text())
    best = max(results["seeds"], key=lambda seed: seed["validation"]["mean_auroc"])
    card = repository.files["README.md"].decode()
    assert f"value: {round(best['test']['mean']['auroc'], 4)}" in card
    assert f"seed {best['seed']}; weights of step" in card and "mean (t interval over seeds)" in card
    assert f"{best['test']['labels'][2]['auroc']:.3f}" in card
    assert "normal, bacterial, viral" in card and str(run.parent) not in card
    loaded = AutoModelForImageClassification.from_pretrained("someone/coast")
    local = AutoModelForImageClassification.from_pretrained(run / f"seed-{best['seed']}" / "ark-cxr")
    assert all(torch.equal(value, local.state_dict()[key]) for key, value in loaded.state_dict().items())
