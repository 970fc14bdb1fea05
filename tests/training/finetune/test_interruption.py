"""A run of fine-tuning that is stopped, or whose checkpoints are damaged, ends the same."""

import json
import math
import os
import shutil
import signal

import pytest
import torch

from ark_hf.training.checkpoint import is_whole
from ark_hf.training.finetune import run as module
from ark_hf.training.finetune.run import check_same_run, finetune
from ark_hf.training.finetune.trainer import TRAINER_STATE, Finite, Progress

from .test_run import arguments, hill, weights  # noqa: F401  (hill is a fixture)

EVERY_TWO = {"eval_steps": 2, "gradient_accumulation_steps": 1, "test": False}  # an epoch has three steps


@pytest.fixture(scope="module")
def whole(hill, tmp_path_factory):  # noqa: F811
    """By whether it is validated every two steps or every epoch: the folder of an undisturbed run, and its seed."""
    found = {}
    for name, settings in {"steps": EVERY_TWO, "epoch": {"test": False}}.items():
        folder = tmp_path_factory.mktemp(name) / "run"
        found[name] = folder, finetune("none", "hill", arguments(folder, **settings), hill)["seeds"]
    return found


def same(one, other) -> bool:
    first, second = weights(one / "seed-0"), weights(other / "seed-0")
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("when", "step", "saved"),
    # In the middle of an epoch, at its end, which is then validated as ever, and at the end of all
    [("epoch", 4, 4), ("epoch", 3, 3), ("steps", 5, 5), ("steps", 6, 6), ("steps", 9, 9)],
)
def test_a_signal_ends_a_run_with_a_checkpoint(hill, whole, tmp_path, monkeypatch, capsys, when, step, saved):  # noqa: F811
    args = arguments(tmp_path / "run", **(EVERY_TWO if when == "steps" else {"test": False}))
    usual = Progress.on_step_end

    def ask(self, training, state, control, **kwargs):
        usual(self, training, state, control, **kwargs)
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", ask)
        with pytest.raises(SystemExit) as left:
            finetune("none", "hill", args, hill)
    assert left.value.code == 128 + signal.SIGTERM
    assert f"SIGTERM: stopped at step {saved}." in capsys.readouterr().err
    checkpoint = tmp_path / "run" / "seed-0" / "checkpoints" / f"checkpoint-{saved}"
    assert (checkpoint / "files.json").exists() and is_whole(checkpoint, TRAINER_STATE)
    folder, seeds = whole[when]
    assert finetune("none", "hill", args, hill)["seeds"] == seeds and same(folder, tmp_path / "run")


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 10)])
def test_what_is_damaged_is_not_gone_on_with(hill, whole, tmp_path, monkeypatch, damage):  # noqa: F811
    args = arguments(tmp_path / "run", **EVERY_TWO)

    def stop(self, training, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune("none", "hill", args, hill)
    checkpoints = tmp_path / "run" / "seed-0" / "checkpoints"
    for checkpoint in checkpoints.iterdir():
        damage(checkpoint / "model.safetensors")
    with pytest.warns(UserWarning, match="is damaged: files are missing or cut"):
        resumed = finetune("none", "hill", args, hill)
    folder, seeds = whole["steps"]
    assert resumed["seeds"] == seeds and same(folder, tmp_path / "run")


def test_a_checkpoint_whose_best_weights_are_gone_is_not_gone_on_with(tmp_path):
    for step, best in ((2, 2), (4, 2), (6, 2)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state = f'{{"best_model_checkpoint": "/elsewhere/checkpoint-{best}"}}'
        (tmp_path / f"checkpoint-{step}" / TRAINER_STATE).write_text(state)
    assert module._newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-6")
    shutil.rmtree(tmp_path / "checkpoint-2")
    with pytest.warns(UserWarning, match="needs the best weights"):
        assert module._newest_checkpoint(tmp_path) is None


def test_another_number_of_processes_is_refused(tmp_path):
    settings = {"num_processes": 1, "train_images": 20}
    check_same_run(tmp_path, settings)
    (tmp_path / "seed-0").mkdir()
    check_same_run(tmp_path, settings)
    with pytest.raises(ValueError, match="num_processes was 1, now 2"):
        check_same_run(tmp_path, settings | {"num_processes": 2})


def test_a_divergence_is_told_in_its_epoch(hill, tmp_path, monkeypatch, capsys):  # noqa: F811
    usual = Progress.on_epoch_end

    def spoil(self, args, state, control, model=None, **kwargs):
        usual(self, args, state, control, **kwargs)
        if state.global_step == 3:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 100)

    monkeypatch.setattr(Progress, "on_epoch_end", spoil)
    finetune("none", "hill", arguments(tmp_path / "run", test=False, learning_rate=1e-9), hill)
    (line,) = [json.loads(each) for each in (tmp_path / "run/seed-0/troubles.jsonl").read_text().splitlines()]
    assert line["kind"] == "loss exploded" and 1 < line["epoch"] <= 2 and line["value"] > 3
    assert "Warning: loss exploded: task 'phantom_hill', epoch 2.00, step 6" in "".join(capsys.readouterr())


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_is_saved(hill, tmp_path, monkeypatch):  # noqa: F811
    usual = Finite.on_pre_optimizer_step

    def spoil(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            next(each for each in model.parameters() if each.grad is not None).grad.fill_(math.nan)
        usual(self, args, state, control, model=model, **kwargs)

    monkeypatch.setattr(Finite, "on_pre_optimizer_step", spoil)
    with pytest.raises(FloatingPointError, match="Task 'phantom_hill', step 1: the gradient is not finite"):
        finetune("none", "hill", arguments(tmp_path / "run", **EVERY_TWO), hill)
    assert not [*tmp_path.rglob("*.safetensors")]
