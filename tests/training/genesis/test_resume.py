"""A killed run resumes to the same weights, and two processes train alike."""

import json
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ..ark.test_resume import checkpoint_steps, finish, kill_after, same_weights, start
from .conftest import TINY_GENESIS, trainer


def write_recipe(folder, phantom_volumes, **settings):
    tasks = [{"dataset": str(phantom_volumes["phantom_ct_nodule"])}]
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**TINY_GENESIS, "tasks": tasks, **settings}))
    return folder / "recipe.yaml"


@pytest.mark.slow  # CI kills runs of Ark, whose folder and checkpoints are the same
def test_a_run_killed_three_times_ends_with_the_same_weights(tmp_path, phantom_volumes, volumes):
    settings = {"epochs": 8, "save_steps": 2}
    recipe = write_recipe(tmp_path, phantom_volumes, **settings)
    trainer(tmp_path / "whole", volumes, **settings).train()
    process = start(recipe, tmp_path / "killed")
    while not list((tmp_path / "killed").rglob("*.npy")):  # while it cuts, or a little later
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate()
    for step in (0, 12, 31):
        kill_after(start(recipe, tmp_path / "killed"), tmp_path / "killed", step)
    killed_at = checkpoint_steps(tmp_path / "killed")[-1]
    output = finish(start(recipe, tmp_path / "killed"))
    assert f"step {killed_at})" in output and killed_at < checkpoint_steps(tmp_path / "killed")[-1]
    assert same_weights(tmp_path / "whole" / "genesis", tmp_path / "killed" / "genesis")


@pytest.mark.slow  # CI trains Ark in two processes
def test_two_processes_train_alike(tmp_path, phantom_volumes, volumes):
    # Each cuts its share, and batch norm knows the cubes of one process alone
    settings = {"epochs": 1, "batch_size": 7}
    trainer(tmp_path / "one", volumes, **settings).train()
    recipe = write_recipe(tmp_path, phantom_volumes, **settings)
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ark_hf.cli")
    finish(start(recipe, tmp_path / "two", *launcher))
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "two")]
    assert metrics[1]["settings"]["num_processes"] == 2 and metrics[1]["cubes"] == metrics[0]["cubes"]
    cubes = [sorted((tmp_path / run / "cubes" / "phantom_ct_nodule").glob("*.npy")) for run in ("one", "two")]
    assert [each.read_bytes() for each in cubes[0]] == [each.read_bytes() for each in cubes[1]]
    for part in ("train", "validation"):
        one, two = (each["history"][0][part]["loss"] for each in metrics)
        assert two == pytest.approx(one, rel=0.1)
    one, two = (load_file(tmp_path / run / "genesis" / "model.safetensors") for run in ("one", "two"))
    assert all(torch.isfinite(two[key]).all() for key in one)
