"""A teacher with batch norm: by what its targets are normalised, and that its averages are its own."""

import json

import pytest
import torch

from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments
from ark_hf.training.checkpoint import seal
from ark_hf.training.ema import batch_norms

from ..conftest import TINY, open_site
from .test_resume import Killed, MortalPretrainer

NORMED = {**TINY, "backbone": "test_resnet", "backbone_kwargs": None, "drop_path_rate": 0.0, "cycles": 1}
NEW, OLD = {"teacher_batch_norm": "batch"}, {"teacher_batch_norm": "running"}


def pretrainer(folder, sites, kind=CyclicPretrainer, **settings):
    args = PretrainingArguments(output_dir=str(folder), **{**NORMED, **settings})
    return kind(args, [open_site(sites["phantom_hill"])])


def first_step(trainer) -> float:
    """The consistency loss of the first step, when the teacher is still its student's copy."""
    next(trainer.cycle_steps())
    trainer.run.read_losses()
    return trainer.state.pass_losses["phantom_hill/consistency_loss"][0]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_copy_of_the_student_that_sees_the_same_is_at_no_distance(tmp_path, sites, monkeypatch, accumulation):
    train_batches = CyclicPretrainer.train_batches

    def same(self, data, first_step):
        for batches in train_batches(self, data, first_step):
            yield [{**batch, "teacher_pixel_values": batch["pixel_values"]} for batch in batches]

    monkeypatch.setattr(CyclicPretrainer, "train_batches", same)
    settings = {"gradient_accumulation_steps": accumulation}
    assert first_step(pretrainer(tmp_path / "new", sites, **settings)) == 0
    assert first_step(pretrainer(tmp_path / "old", sites, **settings, **OLD)) > 1e-3


def test_the_teacher_s_averages_are_means_of_the_student_s_alone(tmp_path, sites):
    trainer = pretrainer(tmp_path / "run", sites, ema_mode="epoch")
    expected = [norm.running_var.clone() for norm in batch_norms(trainer.teacher)]
    first_step(trainer)
    for norm, variance in zip(batch_norms(trainer.teacher), expected, strict=True):
        assert torch.equal(norm.running_var, variance) and norm.num_batches_tracked == 0
        assert not norm.training and norm.track_running_stats
    other = pretrainer(tmp_path / "old", sites, ema_mode="epoch", **OLD)
    first_step(other)  # before it both students are the same
    for one, two in zip(batch_norms(trainer.student), batch_norms(other.student), strict=True):
        assert torch.equal(one.running_var, two.running_var)


def test_averages_come_back_where_a_step_fails(tmp_path, sites):
    trainer = pretrainer(tmp_path / "run", sites)
    trainer.teacher.register_forward_pre_hook(lambda *args: (_ for _ in ()).throw(OSError("a full disk")))
    with pytest.raises(OSError, match="a full disk"):
        first_step(trainer)
    assert not any(norm.training for norm in batch_norms(trainer.teacher))


@pytest.mark.slow_ci
def test_a_killed_run_ends_with_the_same_weights(tmp_path, sites):
    whole = pretrainer(tmp_path / "whole", sites, save_steps=2)
    whole.train()
    mortal = pretrainer(tmp_path / "killed", sites, MortalPretrainer, save_steps=2)
    mortal.dies_at = whole.state.step - 1
    with pytest.raises(Killed):
        mortal.train()
    resumed = pretrainer(tmp_path / "killed", sites, save_steps=2)
    assert 0 < resumed.state.step < whole.state.step
    resumed.train()
    theirs = resumed.teacher.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in whole.teacher.state_dict().items())


def without_the_setting(trainer) -> None:
    """As an earlier version wrote its checkpoint."""
    (path,) = trainer.output_dir.glob("checkpoints/*/settings.json")
    settings = json.loads(path.read_text())
    settings.pop("teacher_batch_norm", None)
    path.write_text(json.dumps(settings))
    seal(path.parent)


def test_a_run_of_an_earlier_version_goes_on_as_it_was_or_says_how(tmp_path, sites):
    trainer = pretrainer(tmp_path / "run", sites, **OLD)
    next(trainer.cycle_steps())
    trainer.run.save_checkpoint()
    without_the_setting(trainer)
    with pytest.raises(ValueError, match="teacher_batch_norm was 'running', now 'batch'"):
        pretrainer(tmp_path / "run", sites)
    assert pretrainer(tmp_path / "run", sites, **OLD).state.step == 1


def test_without_batch_norm_the_setting_is_none(tmp_path, sites):
    shape = {name: TINY[name] for name in ("backbone", "backbone_kwargs")}
    losses = [
        pretrainer(tmp_path / str(number), sites, **shape, **each).run_cycle()
        for number, each in enumerate((NEW, OLD))
    ]
    assert losses[0] == losses[1]
    trainer = pretrainer(tmp_path / "run", sites, **shape)
    assert "teacher_batch_norm" not in trainer.run.settings
