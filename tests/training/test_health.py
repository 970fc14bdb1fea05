"""Sick training stops or is told, with the samples that it came from; it is never gone on with in silence."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ark_hf.data.loading import RowSamples
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.health import (
    LEAST_NORMS,
    MOST_LINES,
    MOST_SKIPPED,
    Spread,
    explodes,
    has_just_exploded,
    is_constant,
    note_trouble,
)

from .methods import METHODS


def troubles(trainer) -> list[dict]:
    path = trainer.output_dir / "troubles.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_that_is_not_finite_stops_the_run_before_it_is_saved(make, method):
    """Though the loss of its step is finite, and the step the last before a checkpoint."""
    trainer = make(method, logging_steps=100, save_steps=2)
    model = trainer.model if method == "genesis" else trainer.student
    weight = next(each for each in model.parameters() if each.requires_grad)
    weight.register_hook(lambda gradient: gradient * math.nan if trainer.state.step == 1 else gradient)
    with pytest.raises(FloatingPointError, match=r"gradient of .* is not finite at step 1, .* It saw rows \d+, \d+"):
        trainer.train()
    assert not [*trainer.output_dir.glob("checkpoints/*"), *trainer.output_dir.glob("*/*.safetensors")]
    (line,) = troubles(trainer)
    assert line["kind"] == "gradient not finite" and line["step"] == 1 and line["value"] == "nan"
    if method == "ark":
        order = trainer.passes[0].order(trainer.args.seed, 0)
        assert line["rows"] == {"phantom_city": order[8:16].tolist()}


@pytest.mark.parametrize("strategy", ["cyclic", "concurrent"])
def test_the_rows_of_a_step_are_those_that_were_loaded(make, strategy, monkeypatch):
    trainer = make("ark", cycles=1, strategy=strategy)
    seen: list[int] = []
    picture = RowSamples.picture

    def note(self, number, row):
        seen.append(number)
        return picture(self, number, row)

    monkeypatch.setattr(RowSamples, "picture", note)
    for data in trainer.passes:
        for step in range(trainer.steps_in_pass(data)):
            seen.clear()
            next(trainer.train_batches(data, step))
            told = trainer._rows(data, 0, step)
            assert sorted(seen[: trainer.args.batch_size]) == sorted(sum(told.values(), []))


def noted(trainer, norm: float, step: int) -> None:
    trainer.state.step = step
    trainer.run.note_step("it", {"loss": torch.tensor(1.0)}, torch.tensor(norm), lambda: {"city": [step]})
    trainer.run.read_losses()


def test_a_gradient_that_explodes_is_told_and_counted_unless_it_is_cut(make, capsys):
    trainer, cut = make("ark"), make("ark", "cut", max_grad_norm=1.0)
    for each in (trainer, cut):
        for step in range(LEAST_NORMS):
            noted(each, 1.0 + step % 3, step)
        noted(each, 1e4, 30)
        noted(each, 1.0, 31)
    assert [(line["kind"], line["rows"]) for line in troubles(trainer)] == [("gradient exploded", {"city": [30]})]
    assert trainer.state.troubles == {"gradient exploded": 1} and cut.state.troubles == {}
    assert "gradient exploded: it, cycle 1, step 30, 1e+04, rows 30 of city" in "".join(capsys.readouterr())
    trainer.run.write_metrics({})
    assert json.loads((trainer.output_dir / "metrics.json").read_text())["troubles"] == {"gradient exploded": 1}


def test_float16_may_leave_steps_out_but_not_for_ever(make):
    trainer = make("ark")
    trainer.accelerator.scaler = object()
    noted(trainer, math.inf, 0)
    noted(trainer, 1.0, 1)
    for step in range(MOST_SKIPPED):
        noted(trainer, math.inf, step)
    assert trainer.state.troubles == {"step left out": MOST_SKIPPED + 1}
    with pytest.raises(FloatingPointError, match="gradient of it"):
        noted(trainer, math.inf, MOST_SKIPPED)


def test_a_head_that_answers_all_alike_is_told(make):
    trainer = make("ark")
    assert not trainer.validate()["teacher"]["tasks"]["phantom_city"]["constant"]
    trainer.run.state.troubles.clear()
    for parameter in trainer.teacher.heads["phantom_city"].parameters():
        torch.nn.init.zeros_(parameter)
    trainer.output_dir.mkdir(exist_ok=True)
    trainer.validate()
    assert trainer.state.troubles == {"all outputs of the teacher are the same": 1}
    assert troubles(trainer)[0]["what"] == "task 'phantom_city'"


@pytest.mark.parametrize("method", ["peac", "genesis"])
def test_a_network_that_answers_all_alike_is_told(make, method):
    trainer = make(method)
    trainer.validate()
    assert trainer.state.troubles == {}
    for model in [trainer.model] if method == "genesis" else [trainer.student, trainer.teacher]:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    trainer.validate()
    assert len(trainer.state.troubles) == 1


@given(arrays(np.float32, st.tuples(st.integers(2, 6), st.integers(1, 3)), elements=st.sampled_from([0.0, 1.0, -2.5])))
def test_what_many_batches_show_is_what_all_samples_show(outputs):
    spread = Spread()
    for batch in np.array_split(outputs, 2):
        spread.add(torch.from_numpy(batch))
    assert spread.is_constant() == is_constant(outputs) == bool((outputs == outputs[0]).all())


def test_one_sample_is_not_all_alike():
    assert not is_constant(np.zeros((1, 3))) and not Spread().is_constant()


def test_norms_are_compared_with_the_last_ones():
    usual: list[float] = []
    assert not any(explodes(1.0, usual) for _ in range(LEAST_NORMS))
    assert explodes(101.0, usual) and not explodes(99.0, usual)
    assert not any(explodes(100.0, usual) for _ in range(200)) and not explodes(9000.0, usual)


def test_the_list_of_troubles_is_bounded_and_the_count_is_not(tmp_path):
    counts: dict[str, int] = {}
    for step in range(MOST_LINES + 5):
        note_trouble(tmp_path, counts, "it", {"step": step})
    assert counts == {"it": MOST_LINES + 5}
    assert len((tmp_path / "troubles.jsonl").read_text().splitlines()) == MOST_LINES


def test_nothing_is_told_of_a_run_that_is_well(make):
    trainer = make("ark", cycles=1)
    trainer.train()
    assert isinstance(trainer, CyclicPretrainer) and trainer.state.troubles == {} and not troubles(trainer)


def test_a_teacher_that_falls_clearly_is_told_in_its_cycle_and_at_the_end(make, capsys, monkeypatch):
    """Though its losses say nothing."""
    made = {"mean_auroc": 0.0, "mean_loss": 1.0}

    def validated(trainer):
        cycle = trainer.state.cycle + 1
        figures = {"auroc": {"a": [0.9, 0.95, 0.4][cycle - 1]}, "positives": {"a": 200}, "samples": 600}
        teacher = {**made, "mean_auroc": figures["auroc"]["a"], "tasks": {"phantom_city": figures}}
        return {"student": {**made, "tasks": {}}, "teacher": teacher}

    monkeypatch.setattr(CyclicPretrainer, "validate", validated)
    trainer = make("ark", cycles=3)
    trainer.train()
    (line,) = troubles(trainer)
    assert line["kind"] == "teacher clearly below its best" and (line["cycle"], line["value"]) == (3, 0.4)
    printed = "".join(capsys.readouterr())
    best = trainer.output_dir / "best"
    assert f"Lower learning_rate or consistency, in another output_dir. {best} has the teacher of cycle 2." in printed
    assert (
        f"of cycle 3: 0.4000; of the best, of cycle 2: 0.9500; difference -0.5500, which is clearly worse. Take {best}"
        in printed
    )
    assert json.loads((best / "provenance.json").read_text())["last"] == {"cycle": 3, "mean_auroc": 0.4}
    notes = json.loads((trainer.output_dir / "ark-cxr" / "provenance.json").read_text())
    assert notes["best"] == {"cycle": 2, "mean_auroc": 0.95}
    assert "best" not in json.loads((trainer.output_dir / "student" / "provenance.json").read_text())


@given(st.lists(st.floats(0, 1e6), max_size=8), st.floats(0, 1e6), st.integers(0, 4))
def test_a_loss_explodes_where_it_is_far_above_all_others_and_once(earlier, loss, early):
    exploded = has_just_exploded([*earlier, loss], early)
    assert not exploded or loss > max(earlier)
    assert not (exploded and has_just_exploded([*earlier, loss, 2 * loss + 1], early))
    factor = 3 if len(earlier) > early else 10
    assert not earlier or has_just_exploded([*sorted(earlier, reverse=True), factor * max(earlier) + 1], early)


@pytest.mark.parametrize("method", METHODS)
def test_a_divergence_is_told_in_its_cycle_with_the_remedy(make, method, capsys):
    """Weights that have grown beyond use after the first of two cycles, as a rate that is too high leaves them."""
    name = "cycles" if method == "ark" else "epochs"
    trainer = make(method, **{name: 2}, learning_rate=1e-12)
    model = trainer.model if method == "genesis" else trainer.student
    end_step = trainer.run.end_step

    def spoil(is_due):
        end_step(is_due)
        if trainer.state.cycle == 1 and trainer.state.step_in_pass == trainer.state.task_index == 0:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1e3 if method == "ark" else 1e2)
                    parameter.add_(torch.randn_like(parameter) * 10)

    trainer.run.end_step = spoil
    trainer.train()
    lines = [line for line in troubles(trainer) if line["kind"] == "loss exploded"]
    what = {"ark": "task 'phantom_city'", "peac": "PEAC", "genesis": "restoration"}[method]
    told = [line for line in lines if line["what"] == what]
    assert [line["cycle"] for line in told] == [2] and trainer.state.troubles["loss exploded"] == len(lines)
    turn = "cycle" if method == "ark" else "epoch"
    printed = "".join(capsys.readouterr())
    assert f"Warning: loss exploded: {what}, {turn} 2, step " in printed and "Lower learning_rate" in printed
    assert f"has the {'network' if method == 'genesis' else 'teacher'} of {turn} 1." in printed
