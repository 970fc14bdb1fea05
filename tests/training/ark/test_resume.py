"""A killed run resumes to the same weights, and two processes train as one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import QUIRKS, PretrainingArguments

from ..conftest import TINY, open_site

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}


def write_recipe(folder: Path, sites: dict[str, Path], **settings) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {**TINY, "tasks": [{"dataset": str(path)} for path in sites.values()], **settings}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def start(recipe: Path, output_dir: Path, *launcher: str) -> subprocess.Popen:
    command = [sys.executable, "-m", *(launcher or ("ark_hf.cli",)), "pretrain", str(recipe)]
    command += ["--output_dir", str(output_dir)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def checkpoint_steps(output_dir: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (output_dir / "checkpoints").glob("step-*"))


def kill_after(process: subprocess.Popen, output_dir: Path, step: int) -> None:
    """Kills the run as soon as a checkpoint of `step` or later exists (0: once it has begun to train)."""
    while process.poll() is None:
        begun = (output_dir / "checkpoints").exists() or (step == 0 and output_dir.exists())
        if begun and (step == 0 or any(found >= step for found in checkpoint_steps(output_dir))):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"


def same_weights(one: Path, other: Path) -> bool:
    weights, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return weights.keys() == others.keys() and all(torch.equal(weights[key], others[key]) for key in weights)


@pytest.mark.slow_ci
def test_a_run_killed_three_times_ends_with_the_same_weights(tmp_path, sites):
    recipe = write_recipe(tmp_path, sites, cycles=6, save_steps=2)
    finish(start(recipe, tmp_path / "whole"))
    # Before the first checkpoint, in the middle of a pass, and late in the run
    for step in (0, 12, 31):
        kill_after(start(recipe, tmp_path / "killed"), tmp_path / "killed", step)
    killed_at = checkpoint_steps(tmp_path / "killed")[-1]
    output = finish(start(recipe, tmp_path / "killed"))
    assert f"step {killed_at})" in output and killed_at < checkpoint_steps(tmp_path / "killed")[-1]
    for model in ("ark-cxr", "student"):
        assert same_weights(tmp_path / "whole" / model, tmp_path / "killed" / model)


class Killed(Exception):
    pass


class MortalPretrainer(CyclicPretrainer):
    """Dies at the end of a step, in the middle of a pass, and writes nothing more."""

    dies_at: int | None = None

    def log_step(self, data, losses, momentum):
        super().log_step(data, losses, momentum)
        if self.state.step == self.dies_at:
            raise Killed


@pytest.mark.slow_ci
@pytest.mark.parametrize("optim", [pytest.param("sgd", marks=pytest.mark.slow), "adamw"])
def test_a_run_with_all_quirks_resumes_to_the_same_weights(tmp_path, sites, optim):
    # A warm-up of one epoch: the learning rate of every cycle but the first is in proportion to the validation loss.
    # Without the small layer scale stochastic depth matters
    settings = {**TINY, "cycles": 3, "save_steps": 2, "warmup_steps": 1, "optim": optim, "weight_decay": 0.01}
    settings["backbone_kwargs"] = {**TINY["backbone_kwargs"], "ls_init_value": 1.0}

    def pretrainer(name: str) -> MortalPretrainer:
        args = PretrainingArguments(output_dir=str(tmp_path / name), reproduce=[*QUIRKS], **settings)
        return MortalPretrainer(args, [open_site(path) for path in sites.values()])

    whole = pretrainer("whole")
    whole.train()
    for step in (5, 13, 21):  # cycles of 9 steps: a teacher in train mode, and two rates from a loss read back
        mortal = pretrainer("killed")
        mortal.dies_at = step
        with pytest.raises(Killed):
            mortal.train()
    resumed = pretrainer("killed")
    resumed.train()
    assert resumed.schedules.learning_rate(resumed.state) == whole.schedules.learning_rate(whole.state) > 1e-3
    for model in ("ark-cxr", "student"):
        assert same_weights(tmp_path / "whole" / model, tmp_path / "killed" / model)


@pytest.mark.slow_ci
@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"strategy": "concurrent"}, marks=pytest.mark.slow),
        pytest.param({"cycles": 2, "reproduce": [*QUIRKS]}, marks=pytest.mark.slow),  # lr_by_val_loss: from the second
    ],
)
def test_two_processes_train_as_one(tmp_path, sites, settings):
    usual = {"cycles": 1, "drop_path_rate": 0.0, "warmup_steps": 1, "gradient_checkpointing": True}
    recipe = write_recipe(tmp_path, sites, **usual | settings)
    finish(start(recipe, tmp_path / "one"))
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ark_hf.cli")
    finish(start(recipe, tmp_path / "two", *launcher))
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "two")]
    assert metrics[1]["settings"]["num_processes"] == 2
    for one, two in zip(*(each["history"] for each in metrics), strict=True):
        assert two["train"] == pytest.approx(one["train"], rel=1e-4)
        for role, figures in one["validation"].items():
            assert two["validation"][role]["mean_loss"] == pytest.approx(figures["mean_loss"], rel=1e-4)
    for model in ("ark-cxr", "student"):
        one = load_file(tmp_path / "one" / model / "model.safetensors")
        two = load_file(tmp_path / "two" / model / "model.safetensors")
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5)
