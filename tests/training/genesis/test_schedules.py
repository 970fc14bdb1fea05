"""The learning rate at any state of a run, the release's by its recorded values, and when a run has had enough."""

import json

import numpy as np
import pytest

from ark_hf.training.genesis.schedules import Schedules
from ark_hf.training.run import RunState


def schedules(**settings) -> Schedules:
    usual = {"peak": 1.0, "kind": "cosine", "warmup_steps": 0.05, "epochs": 40}
    return Schedules(**{**usual, "steps_in_epoch": 10, "patience": 5, **settings})


def states(epochs, steps_in_epoch):
    for epoch in range(epochs):
        for step in range(steps_in_epoch):
            yield RunState(cycle=epoch, step_in_pass=step, step=epoch * steps_in_epoch + step)


def test_rate_halved_by_epoch_is_the_recorded_one(shared):
    expected = json.loads((shared / "golden" / "genesis" / "lr_schedule.json").read_text())["lr_by_epoch"]
    quirk = schedules(reproduce=("lr_halved_by_epoch",), epochs=10_000)
    found = [[quirk.learning_rate(state) for state in states(170, 2)][step::2] for step in range(2)]
    np.testing.assert_array_equal(found, [expected] * 2)


def test_rate_rises_and_falls_by_step():
    rates = [schedules().learning_rate(state) for state in states(40, 10)]
    assert 0 < rates[0] < rates[1] < rates[19] == 1 and rates[20] > rates[21] > rates[-1] > 0
    assert rates[210] == pytest.approx(0.5)
    constant = schedules(kind="constant", warmup_steps=0)
    assert {constant.learning_rate(state) for state in states(40, 10)} == {1.0}


@pytest.mark.parametrize(
    "cycle, best, patience, over",
    [
        (39, 39, 5, False),
        (40, 39, 5, True),  # all epochs
        (9, 5, 5, False),
        (10, 5, 5, True),  # five since the best
        (10, 5, 6, False),
        (39, 1, None, False),
        (39, None, 5, False),  # nothing is validated
        (0, None, 5, False),
    ],
)
def test_a_run_ends_when_validation_has_not_been_better_for_long(cycle, best, patience, over):
    state = RunState(cycle=cycle, best=None if best is None else {"epoch": best})
    assert schedules(patience=patience).is_over(state) is over


def test_a_run_ends_as_the_release_does():
    """Counting as it does: epochs since the last better loss, until there are `patience` of them."""
    losses = np.random.default_rng(0).random(300)
    best, since, expected = 1.0, 0, 0
    while since < 5:
        loss = losses[expected]
        best, since = (loss, 0) if loss < best else (best, since + 1)
        expected += 1
    state, run = RunState(), schedules(epochs=300)
    while not run.is_over(state):
        loss = losses[state.cycle]
        state.cycle += 1
        if state.best is None or loss < state.best["loss"]:
            state.best = {"epoch": state.cycle, "loss": loss}
    assert state.cycle == expected < 300
