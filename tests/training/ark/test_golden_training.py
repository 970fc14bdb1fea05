"""Training parity: the project's own trainer on the originals' batches gives the originals' losses and weights."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from ark_hf import ArkTask
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.inference.predict import mean_probabilities, predict_logits
from ark_hf.models.ark.convert_ark_checkpoint import convert_state_dict
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments
from ark_hf.training.ark.schedules import consistency_coefficient, lr_by_val_loss
from ark_hf.training.schedules import cosine_schedule

from ...models.ark.golden import golden_config, load_original, read_case, rule_state_dict

TRACES = {  # what each needs beside the defaults
    "plus_epoch_setnone": [],
    "plus_epoch_zeros": ["zero_idle_grads"],
    "plus_iteration_setnone": ["ema_index_by_pass"],
    "miccai_epoch_setnone": ["bce_everywhere"],
}
ENGINE_QUIRKS = ["lr_by_val_loss", "independent_teacher", "teacher_train_until_test"]


class Recorded(TaskDataset):
    """Whose rows are numbers of recorded batches, and have no content."""

    def digest(self) -> str:
        return "recorded"


class RecordedSamples:
    """Recorded views (n, [crops,] 3, H, W) and targets in the place of a validation or test split."""

    def __init__(self, task, views, targets):
        self.task, self.rows, self.targets = task, views.astype(np.float32), targets

    def __len__(self):
        return len(self.rows)

    def __getitems__(self, numbers):
        return [(self.rows[index], self.targets[index]) for index in numbers]

    def collate(self, samples):
        views, targets = (torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))
        return {"pixel_values": views, "labels": targets}


class RecordedPretrainer(CyclicPretrainer):
    """The trainer, fed with recorded passes and writing down what it does."""

    def __init__(self, *args, passes, **kwargs):
        super().__init__(*args, **kwargs)
        self.recorded = passes  # for each pass of the run its batches: student's view, teacher's view, targets
        self.begun, self.steps, self.statistics = [], [], []

    def train_batches(self, data, first_step):
        number = self.schedules.pass_number(self.state)
        self.begun.append((number, self.teacher.training))
        if number > 0:
            self.statistics.append(self.models_statistics())
        for student, teacher, targets in self.recorded[number][first_step:]:
            yield [
                {
                    "pixel_values": torch.from_numpy(student.astype(np.float32)),
                    "teacher_pixel_values": torch.from_numpy(teacher.astype(np.float32)),
                    "labels": torch.from_numpy(targets),
                    "weight": torch.ones(len(targets)),
                }
            ]

    def train_samples(self):
        return {}

    def log_step(self, data, losses, momentum):
        super().log_step(data, losses, momentum)
        (rate,) = {group["lr"] for group in self.optimizer.param_groups}
        self.steps.append([losses["coefficient"], losses["task_loss"], losses["consistency_loss"], momentum, rate])

    def train(self):
        teacher = super().train()
        self.statistics.append(self.models_statistics())
        return teacher

    def models_statistics(self):
        return {"student": statistics(self.student), "teacher": statistics(self.teacher)}


def statistics(model):
    """[sum, sum of |.|, L2 norm] of every parameter."""
    values = {key: value.double() for key, value in model.state_dict().items()}
    return {key: [value.sum().item(), value.abs().sum().item(), value.norm().item()] for key, value in values.items()}


def assert_statistics(actual, expected, model):
    """Compares with `expected`, which is by original name; sums cancel, so the sum of |.| is the scale."""
    renamed = convert_state_dict({key: torch.tensor(value) for key, value in expected.items()}, model)
    assert renamed.keys() == actual.keys()
    for key, value in renamed.items():
        np.testing.assert_allclose(actual[key], value, rtol=0, atol=1e-6 * value[1].item(), err_msg=key)


def build(case, parameters, weight_seed):
    """The case's model, its `parameters` (original names) by the weight rule."""
    config = golden_config(case)
    single_label = {**config.tasks[1].to_dict(), "problem_type": "single_label_classification"}
    config.tasks = [config.tasks[0], single_label, config.tasks[2]]
    model = ArkForImageClassification(config)
    ours = model.state_dict()
    numbers = convert_state_dict({key: torch.tensor(number) for number, key in enumerate(parameters)}, model)
    shapes = {parameters[number]: ours[key].shape for key, number in numbers.items()}
    load_original(model, rule_state_dict(shapes, weight_seed))
    return model


@pytest.mark.parametrize("name", TRACES)
def test_trace_of_the_original_trainer(shared, tmp_path, name):
    folder = shared / "golden" / "train"
    case, expected = read_case(folder, name)
    arrays = dict(np.load(folder / case["data"]))
    parameters = [key for key in case["parameter_order"] if not key.startswith("head.")]
    student = build(case, parameters, case["weight_seed"])
    args = PretrainingArguments(
        output_dir=str(tmp_path),
        cycles=case["cycles"],
        batch_size=case["batch_size"],
        optim=case["opt"],
        learning_rate=case["lr"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        ema_mode=case["ema_mode"],
        ema_momentum=case["momentum_teacher"],
        reproduce=TRACES[name],
    )
    cycle = [
        list(zip(*(arrays[f"{part}_{task}"] for part in ("student_view", "teacher_view", "targets")), strict=True))
        for task in range(3)
    ]
    rows = range(case["steps_per_task"] * case["batch_size"])
    tasks = [Recorded("recorded", task, {"train": rows}) for task in student.config.tasks]
    trainer = RecordedPretrainer(args, tasks, student, passes=cycle * case["cycles"])
    teacher = trainer.train()

    steps = np.array(trainer.steps)
    np.testing.assert_allclose(steps[:, 0], expected["steps"][:, 4], rtol=0, atol=1e-12)
    np.testing.assert_allclose(steps[:, 1:3], expected["steps"][:, 5:7], rtol=0, atol=5e-6)
    momenta = [
        each["ema_momenta_used"] * (case["steps_per_task"] if case["ema_mode"] == "epoch" else 1)
        for each in case["tasks"]
    ]
    np.testing.assert_allclose(steps[:, 3], np.concatenate(momenta), rtol=0, atol=1e-12)
    for number, models in enumerate(trainer.statistics):
        for who, values in models.items():
            recorded = dict(zip(case["parameter_order"], expected[f"{who}_stats"][number], strict=True))
            assert_statistics(values, {key: recorded[key] for key in parameters}, student)
    for who, model in {"student": trainer.student, "teacher": teacher}.items():
        original = {key: torch.from_numpy(expected[f"{who}/{key}"]) for key in parameters}
        actual = model.state_dict()
        for key, value in convert_state_dict(original, student).items():
            np.testing.assert_allclose(actual[key], value, rtol=0, atol=5e-6, err_msg=f"{who} {key}")


class EnginePretrainer(RecordedPretrainer):
    """Also validates on recorded views, and tests after the validation of the cycles that the original tested in."""

    def __init__(self, *args, validation, test, test_cycles, **kwargs):
        super().__init__(*args, **kwargs)
        self.validation, self.test, self.test_cycles = validation, test, test_cycles
        self.probabilities = []

    def validation_samples(self):
        return self.validation

    def validate(self):
        figures = super().validate()
        if self.state.cycle in self.test_cycles:
            for task, samples in enumerate(self.test):
                *logits, _ = predict_logits([self.student, self.teacher], samples, self.args.batch_size)
                for name, of_model in zip(("student", "teacher"), logits, strict=True):
                    probabilities = mean_probabilities(of_model, samples.task)
                    self.probabilities.append((self.state.cycle, task, name, probabilities))
        return figures


def known(task: ArkTask) -> Dataset:
    """All that the trainer itself asks of a recorded validation split: a label."""
    single = task.problem_type == "single_label_classification"
    return Dataset.from_dict({"labels": [0] if single else [[0.0] * len(task.labels)]})


def test_whole_run_of_the_original_engine(shared, tmp_path):
    folder = shared / "golden" / "train"
    case = json.loads((folder / "engine_plus.json").read_text())
    arrays = dict(np.load(folder / "engine_plus_data.npz"))
    settings = case["args"]
    case |= {key: settings[key] for key in ("projector_features", "use_mlp")}
    parameters = [key for key in case["final_student_stats"] if not key.startswith("head.")]
    student, teacher = (build(case, parameters, case[f"{who}_weight_seed"]) for who in ("student", "teacher"))
    args = PretrainingArguments(
        output_dir=str(tmp_path),
        cycles=settings["pretrain_epochs"],
        batch_size=settings["batch_size"],
        optim=settings["opt"],
        learning_rate=settings["lr"],
        warmup_steps=settings["warmup_epochs"],
        ema_mode=settings["ema_mode"],
        ema_momentum=settings["momentum_teacher"],
        reproduce=ENGINE_QUIRKS,
    )
    passes = []
    for call in case["calls"]:
        parts = [
            arrays[f"train_{call['task']}_{part}"][call["sample_order"]] for part in ("view1", "view2", "targets")
        ]
        ends = np.cumsum(call["batch_sizes"])[:-1]
        passes.append(list(zip(*(np.split(part, ends) for part in parts), strict=True)))
    samples = {
        split: [
            RecordedSamples(task, arrays[f"{split}_{number}_view1"], arrays[f"{split}_{number}_targets"])
            for number, task in enumerate(student.config.tasks)
        ]
        for split in ("val", "test")
    }
    tasks = [
        Recorded("recorded", task, {"train": range(len(arrays[f"train_{number}_targets"])), "validation": known(task)})
        for number, task in enumerate(student.config.tasks)
    ]
    trainer = EnginePretrainer(
        args,
        tasks,
        student,
        teacher=teacher,
        passes=passes,
        validation=samples["val"],
        test=samples["test"],
        test_cycles=(0, 2),
    )
    trainer.train()

    assert trainer.begun == [(call["it"], call["teacher_training_mode"]) for call in case["calls"]]
    steps = np.array(trainer.steps)
    losses = [list(pair) for call in case["calls"] for pair in zip(call["loss_cls"], call["loss_mse"], strict=True)]
    np.testing.assert_allclose(steps[:, 1:3], losses, rtol=0, atol=1e-5)

    history = [entry["validation"]["student"] for entry in trainer.state.history]
    recorded = np.array(case["val_losses"]).reshape(args.cycles, 3)
    validation_losses = [[task["loss"] for task in entry["tasks"].values()] for entry in history]
    np.testing.assert_allclose(validation_losses, recorded, rtol=0, atol=1e-5)
    rates = [call["lr"] for call in case["calls"] for _ in call["batch_sizes"]]
    np.testing.assert_allclose(steps[:, 4], rates, rtol=0, atol=1e-6)  # of losses that may differ by 1e-5
    means = [0.0, *recorded.mean(axis=1)]
    exact = [lr_by_val_loss(args.learning_rate, args.warmup_steps, means[call["epoch"]]) for call in case["calls"]]
    np.testing.assert_allclose(exact, [call["lr"] for call in case["calls"]], rtol=0, atol=1e-12)
    last = lr_by_val_loss(args.learning_rate, args.warmup_steps, means[-1])
    assert last == pytest.approx(case["last_checkpoint"]["lr"], rel=0, abs=1e-12)

    # The original goes through the tasks, and asks student and teacher of each
    order = sorted(trainer.probabilities, key=lambda each: each[:2])
    for (_, task, name, probabilities), expected in zip(order, case["tests"], strict=True):
        assert (name, task) == (expected["who"], expected["task"])
        np.testing.assert_allclose(probabilities, expected["p"], rtol=0, atol=1e-5)
    for who, values in trainer.statistics[-1].items():
        expected = case[f"final_{who}_stats"]
        assert_statistics(values, {key: expected[key] for key in parameters}, student)


def test_momentum_and_coefficient_schedules(shared):
    schedules = json.loads((shared / "golden" / "train" / "schedules.json").read_text())
    small = schedules["epoch_mode_10x6"]
    momenta = [cosine_schedule(0.9, 1, index, 60) for index in range(60)]
    np.testing.assert_allclose(momenta, small["momentum"], rtol=0, atol=1e-12)
    coefficients = [consistency_coefficient(momentum, 0.9, 0.5) for momentum in momenta]
    np.testing.assert_allclose(coefficients, small["ark_plus_coff"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(coefficients, small["ark_miccai_coef"], rtol=0, atol=1e-12)
    long = [cosine_schedule(0.9, 1, index, 1200) for index in range(1200)]
    np.testing.assert_allclose(long[:12], schedules["readme_200x6"]["first12"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(long[-12:], schedules["readme_200x6"]["last12"], rtol=0, atol=1e-12)
    warm = schedules["with_warmup_5x4"]
    warmup, length = warm["warmup_epochs"] * warm["per_epoch"], warm["epochs"] * warm["per_epoch"]
    values = [cosine_schedule(0.9, 1, index, length, warmup, warm["start_warmup_value"]) for index in range(length)]
    np.testing.assert_allclose(values, warm["schedule"], rtol=0, atol=1e-12)


def test_learning_rate_by_validation_loss(shared):
    cases = json.loads((shared / "golden" / "train" / "lr_scheduler.json").read_text())
    assert len(cases) == 3
    for case in cases.values():
        peak, epochs = case["args"]["lr"], case["args"]["warmup_epochs"]
        for warmup_steps in {epochs, epochs / case["args"]["epochs"]}:  # in epochs, and as a share
            rates = [lr_by_val_loss(peak, warmup_steps, value) for value in [0.0, *case["step_argument"]]]
            expected = [case["lr_before_first_step"], *case["lr_after"]]
            np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-12)
