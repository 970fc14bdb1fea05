"""A model that goes on to a new task keeps the heads of the earlier ones, and says what it does to them."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ark_hf.cli.main import main
from ark_hf.data.build.build import build_dataset
from ark_hf.data.loading import InferenceSamples
from ark_hf.data.sources.phantom_sites import build_phantom_sites, phantom_release
from ark_hf.data.task_dataset import load_task_dataset, read_task
from ark_hf.inference.load import load_ark
from ark_hf.inference.predict import mean_probabilities, predict_logits
from ark_hf.metrics.auroc import one_vs_rest
from ark_hf.training.ark.growth import growth_table
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments, TaskSpec
from ark_hf.training.ark.tasks import load_tasks

from ..conftest import TINY, open_site
from .test_resume import Killed, MortalPretrainer, same_weights, write_recipe

EARLIER, NEW = ["phantom_city", "phantom_coast"], "phantom_hill"


@pytest.fixture(scope="module")
def first(tmp_path_factory, sites):
    """The folder of a model of two sites."""
    folder = tmp_path_factory.mktemp("first")
    tasks = [open_site(sites[name]) for name in EARLIER]
    CyclicPretrainer(PretrainingArguments(output_dir=str(folder), **{**TINY, "cycles": 1}), tasks).train()
    return folder / "ark-cxr"


def grown(folder, first, sites, kind=CyclicPretrainer, rehearse=False, **settings) -> CyclicPretrainer:
    args = PretrainingArguments(output_dir=str(folder), **{**TINY, "init": str(first), **settings})
    tasks = [open_site(sites[NEW]), *(open_site(sites[name], train=rehearse) for name in EARLIER)]
    return kind(args, tasks)


def mean_auroc(model, processor, folder) -> float:
    task = read_task(folder)
    samples = InferenceSamples(load_task_dataset(folder, "validation"), task, processor)
    logits, targets = predict_logits([model], samples, 12)
    targets = one_vs_rest(targets, len(task.labels)) if targets.ndim == 1 else targets
    aurocs = []
    for target, scores in zip(targets.T, mean_probabilities(logits, task).T, strict=True):
        known = ~np.isnan(target)
        aurocs.append(roc_auc_score(target[known], scores[known]))
    return float(np.mean(aurocs))


@pytest.mark.parametrize("strategy", ["cyclic", "concurrent"])
def test_heads_that_are_not_trained_stay_bit_for_bit(tmp_path, first, sites, strategy):
    """Whatever moves the others: weight decay, gradients of zero in mixed batches, the teacher's rounding."""
    trainer = grown(tmp_path, first, sites, strategy=strategy, weight_decay=0.1, ema_momentum=0.7, cycles=1)
    start = {key: value.clone() for key, value in trainer.student.state_dict().items()}
    trainer.train()
    for name in ("ark-cxr", "student"):
        model = load_ark(str(tmp_path / name))[0]
        kept = {key for key, value in model.state_dict().items() if torch.equal(value, start[key])}
        heads = {key for key in start if key.startswith("heads.")}
        assert kept & heads == {key for key in heads if NEW not in key}
        assert "ark.projector.weight" not in kept


def test_earlier_tasks_stand_before_and_after_in_the_metrics_and_in_the_table(tmp_path, first, sites, capsys):
    tasks = [{"dataset": str(sites[NEW])}, *({"dataset": str(sites[name]), "train": False} for name in EARLIER)]
    recipe = write_recipe(tmp_path, sites, init=str(first), tasks=tasks)
    assert main(["pretrain", str(recipe), "--output_dir", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["earlier_tasks"] == EARLIER
    assert [entry["cycle"] for entry in metrics["history"]] == [0, 1, 2]
    assert not any(name in key for entry in metrics["history"] for key in entry["train"] for name in EARLIER)
    printed = capsys.readouterr().out
    for folder, entry in ((first, metrics["history"][0]), (tmp_path / "run/ark-cxr", metrics["history"][-1])):
        model, processor = load_ark(str(folder))
        for name in EARLIER:
            found = entry["validation"]["teacher"]["tasks"][name]["mean_auroc"]
            assert found == pytest.approx(mean_auroc(model, processor, sites[name]), abs=1e-12)
            (row,) = [line for line in printed.splitlines() if line.startswith(f"| {name} |")]
            assert f" {found:.4f} |" in row
    assert f"| {NEW} (new) |" in printed


def test_tasks_that_are_rehearsed_are_compared_too(tmp_path, first, sites):
    trainer = grown(tmp_path, first, sites, rehearse=True, cycles=1)
    trainer.train()
    assert trainer.earlier == EARLIER and [entry["cycle"] for entry in trainer.state.history] == [0, 1]
    assert f"{EARLIER[1]}/task_loss" in trainer.state.history[1]["train"]


def test_a_model_that_knew_none_of_the_tasks_has_no_before(tmp_path, first, sites):
    args = PretrainingArguments(output_dir=str(tmp_path), **{**TINY, "init": str(first), "cycles": 1})
    trainer = CyclicPretrainer(args, [open_site(sites[NEW])])
    trainer.train()
    assert trainer.earlier == [] and [entry["cycle"] for entry in trainer.state.history] == [1]
    assert [task.name for task in trainer.teacher.config.tasks] == [NEW, *EARLIER]


@pytest.mark.slow_ci
def test_a_killed_run_keeps_what_was_before(tmp_path, first, sites):
    grown(tmp_path / "whole", first, sites, save_steps=2).train()
    mortal = grown(tmp_path / "killed", first, sites, MortalPretrainer, save_steps=2)
    mortal.dies_at = 4
    with pytest.raises(Killed):
        mortal.train()
    grown(tmp_path / "killed", first, sites, save_steps=2).train()
    assert same_weights(tmp_path / "whole/ark-cxr", tmp_path / "killed/ark-cxr")
    histories = [json.loads((tmp_path / run / "metrics.json").read_text())["history"] for run in ("whole", "killed")]
    for entry in sum(histories, []):
        del entry["seconds"]
    assert histories[0] == histories[1] and histories[0][0]["cycle"] == 0


@pytest.mark.slow_ci
def test_a_new_disease_is_learned(tmp_path):
    """After a site of other findings, tuberculosis: well above chance on phantoms that were never seen."""
    sites = build_phantom_sites(tmp_path / "sites", {"train": 96, "validation": 48}, size=64)
    settings = {**TINY, "backbone": "test_resnet", "backbone_kwargs": None, "image_size": 64, "drop_path_rate": 0.0}
    settings |= {"batch_size": 12, "optim": "adamw", "learning_rate": 3e-3, "consistency": 0.1, "min_crop_scale": 0.7}
    settings |= {"ema_momentum": 0.5, "cycles": 1}
    args = PretrainingArguments(output_dir=str(tmp_path / "first"), **settings)
    CyclicPretrainer(args, load_tasks([TaskSpec(str(sites["phantom_lake"]))], ".")).train()
    settings |= {"init": str(tmp_path / "first/ark-cxr"), "cycles": 6}
    args = PretrainingArguments(output_dir=str(tmp_path / "second"), **settings)
    specs = [TaskSpec(str(sites[NEW])), TaskSpec(str(sites["phantom_lake"]), train=False)]
    trainer = CyclicPretrainer(args, load_tasks(specs, "."))
    trainer.train()
    before, after = (trainer.state.history[at]["validation"]["teacher"]["tasks"][NEW]["mean_auroc"] for at in (0, -1))
    assert after > 0.7 > 0.65 > before  # of a fresh head, about chance


def test_what_cannot_be_only_evaluated_is_said(tmp_path, first, sites):
    settings = {**TINY, "output_dir": str(tmp_path / "run")}
    new, hill = open_site(sites[EARLIER[0]]), open_site(sites[NEW], train=False)
    for init in ("none", str(first)):
        with pytest.raises(ValueError, match=r"evaluates heads that `init` has; .* has none for \['phantom_hill'\]"):
            CyclicPretrainer(PretrainingArguments(**settings, init=init), [new, hill])
    with pytest.raises(ValueError, match="nothing to train"):
        CyclicPretrainer(PretrainingArguments(**settings), [hill])
    with pytest.raises(ValueError, match="single_head has no heads of single tasks"):
        CyclicPretrainer(PretrainingArguments(**settings, strategy="single_head"), [new, hill])
    build_dataset(phantom_release(NEW, {"train": 4}, 40, 0), tmp_path / "hill", 40, num_workers=1)
    with pytest.raises(ValueError, match="validation"):
        load_tasks([TaskSpec(str(tmp_path / "hill"), train=False)], ".")


def test_the_table_says_what_is_undefined_and_takes_no_mean_of_it():
    def entry(**aurocs):
        return {"validation": {"teacher": {"tasks": {name: {"mean_auroc": value} for name, value in aurocs.items()}}}}

    history = [entry(new=0.5, a=0.8, b=0.6), entry(new=0.9, a=0.7, b=0.7)]
    assert growth_table(history, ["a", "b"]).splitlines()[2:] == [
        "| a | 0.8000 | 0.7000 | -0.1000 |",
        "| b | 0.6000 | 0.7000 | +0.1000 |",
        "| mean of the earlier tasks | 0.7000 | 0.7000 | +0.0000 |",
        "| new (new) | 0.5000 | 0.9000 | +0.4000 |",
    ]
    history = [entry(new=0.5, a=math.nan), entry(new=0.9, a=0.7)]
    assert growth_table(history, ["a"]).splitlines()[2:4] == [
        "| a | undefined | 0.7000 | undefined |",
        "| mean of the earlier tasks | undefined | 0.7000 | undefined |",
    ]
