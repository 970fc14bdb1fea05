"""How a run ended: last against best, and what chance explains."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.metrics.auroc import auroc
from ark_hf.outcome import has_just_fallen, is_clearly_worse, read_outcome

NAN = math.nan


def validation(mean: float, positives: int = 200, samples: int = 600) -> dict:
    task = {"auroc": {"a": mean, "b": mean}, "positives": {"a": positives, "b": positives}, "samples": samples}
    return {"mean_auroc": mean, "tasks": {"city": task}}


def pretraining(cycle: int, mean: float, **facts) -> dict:
    return {"kind": "pretraining", "cycle": cycle, "validation": validation(mean), **facts}


def test_it_names_both_teachers_and_their_difference():
    last = pretraining(180, 0.65, best={"cycle": 47, "mean_auroc": 0.95})
    best = pretraining(47, 0.95, last={"cycle": 180, "mean_auroc": 0.65})
    assert read_outcome(last) == read_outcome(best)
    assert str(read_outcome(last)) == (
        "Mean validation AUROC of the last teacher, of cycle 180: 0.6500; of the best, of cycle 47: 0.9500; "
        "difference -0.3000, which is clearly worse."
    )
    near = pretraining(180, 0.949, best={"cycle": 47, "mean_auroc": 0.95})
    assert str(read_outcome(near)).endswith("difference -0.0010.")
    same = pretraining(47, 0.95, best={"cycle": 47, "mean_auroc": 0.95})
    assert str(read_outcome(same)) == "The last teacher, of cycle 47, is the best: mean validation AUROC 0.9500."


def test_of_peac_the_lower_loss_is_better():
    peac = {"kind": "self-supervision", "epoch": 9, "validation": {"total": 3.0}, "best": {"epoch": 4, "total": 2.0}}
    outcome = read_outcome(peac)
    assert outcome.is_clearly_worse and "loss of the last teacher, of epoch 9: 3.0000" in str(outcome)
    assert not read_outcome({**peac, "validation": {"total": 2.1}}).is_clearly_worse


@pytest.mark.parametrize(
    "origin",
    [
        None,
        {"kind": "conversion", "source": "x", "summary": ""},
        {"kind": "fine-tuning", "validation": validation(0.9), "best": {"cycle": 1, "mean_auroc": 0.9}},
        pretraining(3, 0.9),  # of an earlier version
        {
            **pretraining(3, 0.9, best={"cycle": 1, "mean_auroc": 0.95}),
            "validation": {"mean_auroc": None, "tasks": {}},
        },
        {"kind": "self-supervision", "epoch": 3, "validation": {"total": None}, "best": None},
    ],
)
def test_where_nothing_is_known_nothing_is_said(origin):
    assert read_outcome(origin) is None


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 50), st.integers(2, 200))
def test_what_is_better_is_not_worse_and_more_images_show_more(last, best, positives, samples):
    worse = is_clearly_worse(validation(last, positives, samples), last, best)
    assert not (worse and last >= best - 0.02)
    assert not worse or is_clearly_worse(validation(last, 100 * positives, 100 * samples), last, best)


def test_an_auroc_of_few_images_may_move():
    assert not is_clearly_worse(validation(0.6, 3, 10), 0.6, 0.9)
    assert is_clearly_worse(validation(0.6, 100, 300), 0.6, 0.9)
    assert not is_clearly_worse({"mean_auroc": NAN, "tasks": {}}, NAN, 0.9)
    nothing = {"auroc": {"a": None}, "positives": {"a": 0}, "samples": 5}
    assert not is_clearly_worse({"mean_auroc": 0.1, "tasks": {"city": nothing}}, 0.1, 0.9)


def test_two_draws_of_equal_models_seldom_differ_clearly():
    random = np.random.default_rng(0)

    def drawn() -> float:
        labels = np.repeat([1.0, 0.0], [20, 40])
        return auroc(labels, labels + random.normal(0, 1, 60))

    means = [np.mean([drawn(), drawn()]) for _ in range(400)]
    pairs = zip(means[::2], means[1::2], strict=True)
    assert not any(is_clearly_worse(validation(one, 20, 60), *sorted([one, other])) for one, other in pairs)


def test_a_fall_is_told_once():
    means = [0.7, 0.9, NAN, 0.89, 0.5, 0.5, 0.9, 0.4]
    history = [validation(mean) for mean in means]
    fallen = [has_just_fallen(history[:count], "mean_auroc") for count in range(1, len(means) + 1)]
    assert fallen == [False] * 4 + [True, False, False, True]
    losses = [{"total": loss} for loss in (3.0, 2.0, 2.1, 2.6, 2.7)]
    assert [has_just_fallen(losses[:count], "total") for count in range(1, 6)] == [False, False, False, True, False]
