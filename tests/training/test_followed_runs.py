"""What a run can be followed by: words at its start, its recipe and curves, trackers, and files others may read."""

import re

import pytest
import yaml
from accelerate import Accelerator

from ark_hf import FinetuningArguments, PretrainingArguments, TaskSpec, finetune, parse_tasks, pretrain
from ark_hf.cli.finetune import FinetuneCommand
from ark_hf.training.ark.pretrainer import history_curves
from ark_hf.training.finetune import trainer as finetuning
from ark_hf.training.finetune.data import load_finetuning_data
from ark_hf.training.recipe import read_recipe
from ark_hf.training.settings import read_settings

from .ark.test_pretrainer import ListTracker
from .conftest import TINY

SHAPE = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}


def closed_to_others(folder) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and not path.stat().st_mode & 0o044 == 0o044]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, sites):
    folder = tmp_path_factory.mktemp("pretrained")
    args = PretrainingArguments(output_dir=str(folder / "run"), data_root=str(sites["phantom_hill"].parent), **TINY)
    pretrain(args, [TaskSpec("phantom_hill", uncertain="ones")])
    return folder / "run"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, sites):
    """A run of fine-tuning, and what its tracker was told."""
    folder, tracker = tmp_path_factory.mktemp("tuned") / "run", ListTracker()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "create_accelerator", lambda precision, name, folder: Accelerator(log_with=tracker))
        dataset = str(sites["phantom_hill"])
        args = FinetuningArguments(str(folder), **SHAPE, batch_size=8, epochs=2, test=False, log_with="list")
        finetune("none", dataset, args)
    return folder, tracker


def test_pretraining_says_what_it_trains_on_what_and_for_how_long(pretrained, sites, tmp_path, capsys):
    args = PretrainingArguments(output_dir=str(tmp_path), **{**TINY, "cycles": 1})
    pretrain(args, [TaskSpec(str(sites["phantom_hill"]))])
    words = capsys.readouterr()
    assert re.search(
        r"Model: convnext_atto, 32 pixels, projector linear, 16, drop path rate 0.2; [\d,]+ parameters", words.err
    )
    assert re.search(r"Device: (CPU, \d+ cores|.+); float32\.", words.err)
    assert "Data: 20 images a cycle: phantom_hill (20)." in words.err
    assert "Steps: 3 of 8 images, 3 in each of 1 cycles." in words.err
    assert re.search(r"cycle 1/1, phantom_hill, loss \d\.\d{4}", words.err)


def test_the_recipe_in_a_run_folder_goes_on_with_the_run(pretrained, capsys):
    values = read_recipe(pretrained / "recipe.yaml")
    specs = parse_tasks(values.pop("tasks"), "recipe")
    assert specs[0].uncertain == "ones" and specs[0].location(values["data_root"]) == specs[0].dataset
    args = PretrainingArguments(**values)
    assert args.optim == "sgd" and args.warmup_steps == 0.1 and args.cycles == TINY["cycles"]
    pretrain(args, specs)
    assert "Resuming from" in capsys.readouterr().out


def test_curves_and_files_that_colleagues_can_read(pretrained, tuned):
    folder, _ = tuned
    for image in (pretrained / "curves.png", folder / "seed-0" / "curves.png"):
        assert image.read_bytes().startswith(b"\x89PNG")
    assert (pretrained / "ark-cxr" / "model.safetensors").is_file() and list(pretrained.glob("checkpoints/*/*"))
    assert not closed_to_others(pretrained) and not closed_to_others(folder)


def test_curves_hold_each_cycle_s_losses_and_aurocs():
    entries = [
        {
            "cycle": cycle,
            "step": 10 * cycle,
            "train": {"a/task_loss": 1 / cycle, "a/consistency_loss": 0.0} if cycle else {},
            "validation": {who: {"mean_auroc": 0.5 + cycle / 10} for who in ("teacher", "student")},
        }
        for cycle in range(3)
    ]
    losses, aurocs = history_curves(entries)
    assert losses == {"a": [(10, 1.0), (20, 0.5)]} and aurocs["student"] == [(0, 0.5), (10, 0.6), (20, 0.7)]


def test_finetuning_tells_a_tracker_what_pretraining_does(tuned):
    folder, tracker = tuned
    assert tracker.config["backbone"] == "convnext_atto" and tracker.config["seed"] == 0
    steps = {name: [step for step, values in tracker.values if name in values] for name in ("loss", "eval_mean_auroc")}
    assert steps == {"loss": [1, 3, 6], "eval_mean_auroc": [3, 6]}


def test_the_recipe_of_finetuning_is_one_that_the_verb_reads(tuned, sites):
    folder, _ = tuned
    values = read_settings(folder / "recipe.yaml", list(FinetuneCommand.__dataclass_fields__))
    assert (
        values["dataset"] == str(sites["phantom_hill"])
        and values["model"] == "none"
        and values["weight_decay"] == 0.05
    )
    assert FinetuneCommand(**values).epochs == 2


def test_finetuning_says_what_it_trains(sites, tmp_path, capsys):
    data = load_finetuning_data(str(sites["phantom_hill"]), FinetuningArguments(str(tmp_path)))
    args = FinetuningArguments(str(tmp_path / "run"), **SHAPE, batch_size=8, max_steps=2, freeze="encoder", test=False)
    finetune("none", "hill", args, data)
    words = capsys.readouterr()
    assert re.search(r"[\d,]+ parameters, [\d,]+ of them trained\.", words.err)
    assert "Data: 20 train, 12 validation, 12 test images of phantom_hill, task phantom_hill." in words.err
    assert "Steps: 2 of 8 images." in words.err and re.search(r"loss \d\.\d{4}, validation AUROC", words.err)


def test_a_tracker_that_is_not_installed_is_refused(sites, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.is_comet_ml_available", lambda: False)
    args = FinetuningArguments(str(tmp_path / "run"), **SHAPE, max_steps=1, test=False, log_with="comet_ml")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="'comet_ml' is not installed"):
        finetune("none", str(sites["phantom_hill"]), args)


def test_a_loss_that_would_diverge_again_is_not_sent_back_to_a_checkpoint(tmp_path, sites):
    args = PretrainingArguments(output_dir=str(tmp_path), **{**TINY, "learning_rate": 1e30, "save_steps": 1})
    with pytest.raises(FloatingPointError, match="in another output_dir") as caught:
        pretrain(args, [TaskSpec(str(sites["phantom_hill"]))])
    assert "intact" not in str(caught.value)
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["learning_rate"] == 1e30
