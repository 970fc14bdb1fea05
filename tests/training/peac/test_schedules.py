"""The learning rate and the teacher's momentum at any state of a run; the release's by its recorded values."""

import json

import numpy as np
import pytest

from ark_hf.training.peac.arguments import PeacArguments
from ark_hf.training.peac.schedules import Schedules
from ark_hf.training.run import RunState


def schedules(steps_in_epoch=5, **settings):
    return Schedules(PeacArguments("runs/peac", **settings), steps_in_epoch)


def states(epochs, steps_in_epoch):
    for epoch in range(epochs):
        for step in range(steps_in_epoch):
            yield RunState(cycle=epoch, step_in_pass=step, step=epoch * steps_in_epoch + step)


def recorded(shared):
    return json.loads((shared / "golden" / "peac" / "schedules.json").read_text())


def test_rate_by_epoch_is_the_recorded_one(shared):
    quirk = schedules(1, reproduce=["lr_by_epoch"])
    expected = recorded(shared)["lr_by_epoch_default_400"][:400]
    np.testing.assert_allclose([quirk.learning_rate(state) for state in states(400, 1)], expected, rtol=0, atol=1e-12)


def test_momentum_is_the_recorded_one(shared):
    expected = recorded(shared)["teacher_momentum_4epochs_x5"]
    usual = [schedules(epochs=4).teacher_momentum(state) for state in states(4, 5)]
    np.testing.assert_allclose(usual, expected, rtol=0, atol=1e-12)
    ahead = schedules(epochs=4, reproduce=["ema_index_from_epoch_1"])
    values = [ahead.teacher_momentum(state) for state in states(4, 5)]
    np.testing.assert_allclose(values[:15], expected[5:], rtol=0, atol=1e-12)
    assert set(values[15:]) == {values[14]}  # the release's list ends here


def test_rate_rises_and_falls_by_step():
    ours = schedules(steps_in_epoch=10, epochs=40)
    rates = [ours.learning_rate(state) for state in states(40, 10)]
    assert 0 < rates[0] < rates[1] < rates[4] == pytest.approx(0.1) and rates[5] > rates[6] > rates[-1] > 0
    constant = schedules(lr_scheduler_type="constant", warmup_steps=0)
    assert {constant.learning_rate(state) for state in states(3, 5)} == {0.1}
