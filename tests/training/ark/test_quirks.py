"""Each quirk of the releases does what its name says, and nothing else does it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ark_hf import ArkTask
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.quirks import bce_everywhere, teacher_train_until_test, zero_idle_grads
from ark_hf.training.ark.recipe import QUIRKS, PretrainingArguments
from ark_hf.training.ark.schedules import Schedules, lr_by_val_loss
from ark_hf.training.ark.start import build_start
from ark_hf.training.run import RunState

from ..conftest import TINY, open_site


def pretrainer(folder, sites, kind=CyclicPretrainer, models=None, **settings) -> CyclicPretrainer:
    args = PretrainingArguments(output_dir=str(folder), **{**TINY, "cycles": 1, **settings})
    return kind(args, [open_site(path) for path in sites.values()], **models or {})


def equal_parts(one: torch.nn.Module, other: torch.nn.Module) -> set[str]:
    """Names of the weights (not the biases, which may start as zeros) that are the same in both."""
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    return {key for key, value in mine.items() if value.ndim > 1 and torch.equal(value, theirs[key])}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_a_cycle_runs_with_each_quirk(tmp_path, sites, quirk):
    losses = pretrainer(tmp_path, sites, reproduce=[quirk]).run_cycle()
    assert len(losses) == 6 and all(0 <= loss < math.inf for loss in losses.values())


def test_a_cycle_runs_with_all_quirks(tmp_path, sites):
    trainer = pretrainer(tmp_path, sites, reproduce=[*QUIRKS])
    teacher = trainer.train()
    assert not teacher.training
    (entry,) = trainer.state.history
    assert all(0 < entry["validation"][who]["mean_loss"] < math.inf for who in ("student", "teacher"))


# lr_by_val_loss


def test_learning_rate_follows_the_students_last_validation_loss(tmp_path, sites):
    rates = {}

    class Noting(CyclicPretrainer):
        def log_step(self, data, losses, momentum):
            super().log_step(data, losses, momentum)
            rates.setdefault(self.state.cycle, set()).update(group["lr"] for group in self.optimizer.param_groups)

    settings = {"reproduce": ["lr_by_val_loss"], "warmup_steps": 5, "cycles": 3}
    trainer = pretrainer(tmp_path, dict(list(sites.items())[1:]), Noting, **settings)
    trainer.train()
    losses = [entry["validation"]["student"]["mean_loss"] for entry in trainer.state.history]
    assert rates[0] == {1e-6}
    for cycle in (1, 2):
        assert rates[cycle] == {lr_by_val_loss(0.05, 5, losses[cycle - 1])}
        (rate,) = rates[cycle]
        assert rate == pytest.approx(losses[cycle - 1] * 0.05 / 5, rel=1e-3)


@given(st.floats(1e-4, 1), st.integers(0, 250), st.floats(0, 1e6))
def test_learning_rate_by_validation_loss_stays_in_its_range(peak, warmup_epochs, loss):
    assert 1e-6 <= lr_by_val_loss(peak, warmup_epochs, loss) <= peak * (1 + 1e-12)


def test_learning_rate_by_validation_loss_needs_a_validation_split(tmp_path, sites):
    args = PretrainingArguments(output_dir=str(tmp_path), **TINY, reproduce=["lr_by_val_loss"])
    tasks = [open_site(path) for path in sites.values()]
    for data in tasks[1:]:
        del data.splits["validation"]
    CyclicPretrainer(args, tasks)  # one is enough
    train, validation = tasks[0].splits["train"], tasks[0].splits["validation"]
    unknown = validation.map(lambda row: {"labels": [math.nan] * len(row["labels"])})
    for splits in ({"train": train, "validation": unknown}, {"train": train}):
        tasks[0] = TaskDataset("city", tasks[0].task, splits)
        with pytest.raises(ValueError, match="lr_by_val_loss needs a task whose validation split has a known label"):
            CyclicPretrainer(args, tasks)


# ema_index_by_pass


@given(cycles=st.integers(1, 5), steps=st.lists(st.integers(1, 9), min_size=1, max_size=4), by_pass=st.booleans())
def test_momentum_is_indexed_by_step_or_by_pass(cycles, steps, by_pass):
    reproduce = ["ema_index_by_pass"] if by_pass else []
    args = PretrainingArguments(output_dir="run", cycles=cycles, ema_mode="iteration", reproduce=reproduce)
    schedules, step = Schedules(args, len(steps), sum(steps)), 0
    length = cycles * sum(steps)
    momenta = [0.9 + 0.05 * (1 - math.cos(math.pi * index / length)) for index in range(length)]
    for number in range(cycles * len(steps)):
        cycle, task = divmod(number, len(steps))
        for step_in_pass in range(steps[task]):
            state = RunState(cycle, task, step_in_pass, step)
            index, first = (number + step_in_pass, number) if by_pass else (step, step)
            assert schedules.teacher_momentum(state) == pytest.approx(momenta[index], abs=1e-12)
            assert schedules.consistency_coefficient(state) == pytest.approx(5 * (momenta[first] - 0.9), abs=1e-12)
            step += 1


# coefficient_from_0.9


@given(st.floats(0, 0.999), st.integers(1, 9))
def test_the_coefficient_of_ark_plus_hangs_on_the_momentum_alone(start, cycles):
    def schedules(**settings):
        return Schedules(PretrainingArguments("run", ema_momentum=start, cycles=cycles, **settings), 1, 1)

    fixed, ours = schedules(reproduce=["coefficient_from_0.9"]), schedules()
    for cycle in range(cycles):
        state = RunState(cycle, 0, 0, cycle)
        momentum = fixed.teacher_momentum(state)
        assert fixed.consistency_coefficient(state) == pytest.approx(5 * (momentum - 0.9), abs=1e-12)
        assert -1e-12 <= ours.consistency_coefficient(state) <= 0.5
    with pytest.raises(ValueError, match="consistency 0.1 has no effect"):
        schedules(reproduce=["coefficient_from_0.9"], consistency=0.1)


# zero_idle_grads


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_zero_idle_grads_is_what_zeroing_instead_of_dropping_gradients_gives(kind):
    def train(zero, restart):
        torch.manual_seed(0)
        heads = torch.nn.ModuleList(torch.nn.Linear(3, 2) for _ in range(3))

        def optimizer():
            if kind == "adamw":
                return torch.optim.AdamW(heads.parameters(), lr=0.1, weight_decay=0.1)
            return torch.optim.SGD(heads.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)

        steps = optimizer()
        for number in (0, 0, 1, 0, 1, 1, 0):  # the third is never trained
            heads[number](torch.ones(1, 3)).pow(2).sum().backward()
            zero(steps)
            steps.step()
            steps.zero_grad(set_to_none=zero is zero_idle_grads)
            if restart:
                saved, steps = steps.state_dict(), optimizer()
                steps.load_state_dict(saved)
        return heads

    expected = train(lambda optimizer: None, restart=False)
    for restart in (False, True):
        actual = train(zero_idle_grads, restart)
        assert all(torch.equal(a, b) for a, b in zip(actual.parameters(), expected.parameters(), strict=True))


# independent_teacher


def test_independent_teacher_differs_where_init_covers_nothing(tmp_path, sites):
    copied = pretrainer(tmp_path, sites)
    assert len(equal_parts(copied.student, copied.teacher)) > 10
    apart = pretrainer(tmp_path, sites, reproduce=["independent_teacher"])
    assert equal_parts(apart.student, apart.teacher) == set()
    assert equal_parts(apart.student, copied.student) == equal_parts(copied.student, copied.teacher)
    assert not apart.teacher.training and not any(weight.requires_grad for weight in apart.teacher.parameters())
    again = pretrainer(tmp_path, sites, reproduce=["independent_teacher"])
    assert equal_parts(apart.teacher, again.teacher) == equal_parts(copied.student, copied.teacher)


def test_independent_teacher_shares_loaded_weights(tmp_path, sites):
    names = list(sites)
    encoder = pretrainer(tmp_path, sites, seed=7).student.ark.encoder.state_dict()
    torch.save(encoder, tmp_path / "encoder.pth")
    trainer = pretrainer(tmp_path, sites, init=str(tmp_path / "encoder.pth"), reproduce=["independent_teacher"])
    shared = equal_parts(trainer.student, trainer.teacher)
    assert shared == {f"ark.encoder.{key}" for key, value in encoder.items() if value.ndim > 1}

    first = pretrainer(tmp_path / "run", {name: sites[name] for name in names[:2]}, seed=7)
    first.teacher.save_pretrained(tmp_path / "first")
    first.processor.save_pretrained(tmp_path / "first")
    settings = {"init": str(tmp_path / "first"), "reproduce": ["independent_teacher"]}
    continued = pretrainer(tmp_path / "second", sites, **settings)
    everything = equal_parts(continued.student, continued.student)
    assert everything - equal_parts(continued.student, continued.teacher) == {f"heads.{names[2]}.weight"}


def test_a_student_of_ones_own_needs_a_teacher_of_ones_own(tmp_path, sites):
    tasks = [data.task for data in pretrainer(tmp_path, sites).tasks]
    args = PretrainingArguments(output_dir=str(tmp_path), reproduce=["independent_teacher"], **TINY)

    def models(*names):
        start = build_start(args, tasks)
        return {name: getattr(start, name) for name in names}

    apart = {"reproduce": ["independent_teacher"]}
    for names, settings in [
        (["student"], apart),
        (["teacher"], apart),
        (["student", "teacher"], {}),
        (["teacher"], {}),
    ]:
        with pytest.raises(ValueError, match="a `student` of your own needs a `teacher`"):
            pretrainer(tmp_path, sites, models=models(*names), **settings)
    given_models = models("student", "teacher")
    trainer = pretrainer(tmp_path, sites, models=given_models, **apart)
    assert trainer.student is given_models["student"] and trainer.teacher is given_models["teacher"]

    given_models["teacher"] = build_start(args, tasks[:2]).teacher
    with pytest.raises(ValueError, match="teacher's architecture and heads must be the student's"):
        pretrainer(tmp_path, sites, models=given_models, **apart)


# teacher_train_until_test


@pytest.mark.slow_ci
def test_teacher_trains_in_the_first_cycle_only(tmp_path, sites):
    modes, losses = [], []

    class Noting(CyclicPretrainer):
        def train_batches(self, data, first_step):
            modes.append(self.teacher.training)
            return super().train_batches(data, first_step)

    # Without the small layer scale stochastic depth matters
    encoder = {"backbone_kwargs": {**TINY["backbone_kwargs"], "ls_init_value": 1.0}, "drop_path_rate": 0.5}
    for reproduce in ([], ["teacher_train_until_test"]):
        trainer = pretrainer(tmp_path / f"{reproduce}", sites, Noting, cycles=2, reproduce=reproduce, **encoder)
        trainer.train()
        losses.append(trainer.state.history[0]["train"]["phantom_city/consistency_loss"])
    assert modes == [False] * 6 + [True] * 3 + [False] * 3
    assert abs(losses[0] - losses[1]) > 1e-4


def test_batch_norm_keeps_to_its_averages_in_a_training_teacher():
    teacher = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout())
    teacher_train_until_test(teacher, cycle=0)
    assert (teacher.training, teacher[0].training, teacher[1].training) == (True, False, True)
    teacher_train_until_test(teacher, cycle=1)
    assert not any(module.training for module in teacher.modules())


# bce_everywhere


def test_bce_everywhere_makes_columns_of_classes():
    classes = ArkTask("pneumonia", ["no", "bacterial", "viral"], "single_label_classification")
    labels, problem_type = bce_everywhere(torch.tensor([2, -100, 0]), classes)
    assert problem_type == "multi_label_classification"
    expected = torch.tensor([[0.0, 0, 1], [math.nan] * 3, [1, 0, 0]])
    torch.testing.assert_close(labels, expected, equal_nan=True)
    findings = ArkTask("findings", ["a", "b"])
    targets = torch.tensor([[0.7, math.nan]])
    assert bce_everywhere(targets, findings)[0] is targets
