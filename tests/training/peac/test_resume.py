"""A killed run resumes to the same weights, and two processes train as one."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ark_hf.training.peac.heads import HEADS_FILE

from ..ark.test_resume import checkpoint_steps, finish, kill_after, start
from .conftest import TINY_PEAC, trainer

MODELS = [(name, file) for name in ("ark-cxr", "student") for file in ("model.safetensors", HEADS_FILE)]


def write_recipe(folder, sites, **settings):
    recipe = {**TINY_PEAC, "tasks": [{"dataset": str(path)} for path in list(sites.values())[:2]], **settings}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@pytest.mark.slow  # CI kills runs of Ark, whose folder and checkpoints are the same
def test_a_run_killed_three_times_ends_with_the_same_weights(tmp_path, sites, images):
    recipe = write_recipe(tmp_path, sites, epochs=8, save_steps=2)
    trainer(tmp_path / "whole", images, epochs=8).train()
    for step in (0, 12, 31):  # before the first checkpoint, in the middle of an epoch, and late in the run
        kill_after(start(recipe, tmp_path / "killed"), tmp_path / "killed", step)
    killed_at = checkpoint_steps(tmp_path / "killed")[-1]
    output = finish(start(recipe, tmp_path / "killed"))
    assert f"step {killed_at})" in output and killed_at < checkpoint_steps(tmp_path / "killed")[-1]
    for name, file in MODELS:
        whole, killed = (load_file(tmp_path / run / name / file) for run in ("whole", "killed"))
        assert all(torch.equal(killed[key], value) for key, value in whole.items()), name


@pytest.mark.slow  # CI trains Ark in two processes
def test_two_processes_train_as_one(tmp_path, sites, images):
    # Batches of 7: the second process gets fewer images
    settings = {"epochs": 1, "batch_size": 7, "drop_path_rate": 0.0}
    trainer(tmp_path / "one", images, **settings).train()
    recipe = write_recipe(tmp_path, sites, **settings)
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ark_hf.cli")
    finish(start(recipe, tmp_path / "two", *launcher))
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "two")]
    assert metrics[1]["settings"]["num_processes"] == 2
    for part in ("train", "validation"):
        assert metrics[1]["history"][0][part] == pytest.approx(metrics[0]["history"][0][part], rel=1e-4)
    for name, file in MODELS:
        one, two = (load_file(tmp_path / run / name / file) for run in ("one", "two"))
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5)
