"""Training parity: the project's own trainer on the originals' batches gives the originals' losses and weights."""

import json

import numpy as np
import pytest
import torch

from ark_hf.models.ark.convert_ark_checkpoint import convert_state_dict
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from ark_hf.training.ema import consistency_coefficient, cosine_schedule
from ark_hf.training.pretrain_ark import CyclicPretrainer
from ark_hf.training.recipe import PretrainingArguments
from ark_hf.training.tasks import TaskData

from ..models.ark.golden import golden_config, load_original, read_case, rule_state_dict


class GoldenPretrainer(CyclicPretrainer):
    """The trainer, fed with the recorded batches and writing down what it does."""

    def __init__(self, *args, arrays, **kwargs):
        super().__init__(*args, **kwargs)
        self.arrays, self.steps, self.statistics = arrays, [], []

    def train_batches(self, data, first_step):
        number = self.state.task_index
        for step in range(first_step, self.steps_in_pass(data)):
            views = (self.arrays[f"{view}_view_{number}"][step] for view in ("student", "teacher"))
            student, teacher = (torch.from_numpy(view.astype(np.float32)) for view in views)
            labels = torch.from_numpy(self.arrays[f"targets_{number}"][step])
            yield [
                {
                    "pixel_values": student,
                    "teacher_pixel_values": teacher,
                    "labels": labels,
                    "weight": torch.ones(len(labels)),
                }
            ]

    def log_step(self, data, losses, momentum):
        super().log_step(data, losses, momentum)
        self.steps.append([losses["coefficient"], losses["task_loss"], losses["consistency_loss"]])


@pytest.mark.parametrize("name", ["plus_epoch_setnone", "miccai_epoch_setnone"])
def test_trace_of_the_original_trainer(shared, tmp_path, name):
    folder = shared / "golden" / "train"
    case, expected = read_case(folder, name)
    arrays = dict(np.load(folder / case["data"]))
    case["image_size"] = case["kwargs"]["img_size"]
    config = golden_config(case)
    config.tasks = [
        {**task.to_dict(), "problem_type": problem_type}
        for task, problem_type in zip(
            config.tasks,
            ["multi_label_classification", "single_label_classification", "multi_label_classification"],
            strict=True,
        )
    ]
    student = ArkForImageClassification(config)
    shapes = {key: list(expected[f"student/{key}"].shape) for key in case["parameter_order"] if key[:5] != "head."}
    load_original(student, rule_state_dict(shapes, case["weight_seed"]))
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
        image_size=case["image_size"],
        reproduce=["bce_everywhere"] if case["flavour"] == "miccai" else [],
    )
    rows = range(case["steps_per_task"] * case["batch_size"])
    trainer = GoldenPretrainer(args, [TaskData(task, rows) for task in config.tasks], student, arrays=arrays)
    teacher = trainer.train()

    recorded = expected["steps"]
    np.testing.assert_allclose(np.array(trainer.steps), recorded[:, 4:7], rtol=0, atol=5e-6)
    for prefix, model in {"student": trainer.student, "teacher": teacher}.items():
        original = {key: torch.from_numpy(expected[f"{prefix}/{key}"]) for key in shapes}
        actual = model.state_dict()
        for key, value in convert_state_dict(original, student).items():
            np.testing.assert_allclose(actual[key], value, rtol=0, atol=5e-6, err_msg=f"{prefix} {key}")


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
