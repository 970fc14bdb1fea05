"""Operating points hold for the weights that they were found on, and for no others."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.utils import logging

from ark_hf import ArkConfig, ArkForImageClassification, ArkImageProcessor, ArkTask

from ...training.conftest import TINY

TASKS = [
    ArkTask("findings", ["Edema", "Mass"], thresholds={"Edema": 0.3, "Mass": 0.6}),
    ArkTask("kinds", ["normal", "viral"], "single_label_classification", thresholds={"viral": 0.4}),
    ArkTask("tb", ["TB"]),
]
SETTINGS = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("calibrated")
    ArkForImageClassification(ArkConfig(**SETTINGS, tasks=TASKS)).save_pretrained(folder)
    ArkImageProcessor(size=32).save_pretrained(folder)
    return folder


@pytest.fixture
def model(folder) -> ArkForImageClassification:
    return ArkForImageClassification.from_pretrained(folder)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    logger, lines = logging.get_logger("ark_hf.models.ark.thresholds_ark"), []
    monkeypatch.setattr(logger, "warning", lines.append)
    return lines


def calibrated(model_or_folder) -> list[str]:
    config = getattr(model_or_folder, "config", None) or ArkConfig.from_pretrained(model_or_folder)
    return [task.name for task in config.tasks if task.thresholds]


BOTH = ["findings", "kinds"]


def saved_again(model, folder, **kwargs) -> list[str]:
    model.save_pretrained(folder, **kwargs)
    again = AutoModelForImageClassification.from_pretrained(folder)
    assert calibrated(folder) == calibrated(again)
    assert all((task.thresholds_digest is None) == (task.thresholds is None) for task in again.config.tasks)
    return calibrated(again)


@pytest.mark.parametrize("change", ["nothing", "other files", "other heads", "one head", "other order", "a float64"])
def test_what_keeps_the_weights_keeps_the_operating_points(model, tmp_path, said, change):
    kwargs, expected = {}, BOTH
    if change == "other files":
        kwargs["max_shard_size"] = "10KB"
    elif change == "other heads":
        model.add_task(ArkTask("new", ["a"]))
        model.remove_task("tb")
    elif change == "one head":
        model.keep_tasks(["kinds"])
        expected = ["kinds"]
    elif change == "other order":
        model.keep_tasks(["tb", "kinds", "findings"])
        expected = ["kinds", "findings"]
    elif change == "a float64":
        model.double().float()
        said.clear()  # that they were found in another type
    assert saved_again(model, tmp_path, **kwargs) == expected
    assert not said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda model: model.ark.encoder.stem[0].weight.data.add_(1e-6), []),
        (lambda model: model.ark.projector.bias.data.mul_(1.001), []),
        (lambda model: model.heads["kinds"].weight.data[0, 0].add_(1e-3), ["findings"]),
        (lambda model: model.heads["tb"].weight.data.zero_(), BOTH),
        (lambda model: model.load_state_dict({key: value + 1 for key, value in model.state_dict().items()}), []),
        (lambda model: model.set_image_size(64), []),
    ],
)
def test_what_changes_the_weights_loses_them_aloud(model, tmp_path, said, change, expected):
    with torch.no_grad():
        change(model)
    assert saved_again(model, tmp_path) == expected == calibrated(model)
    assert len(said) == (expected != BOTH)
    assert all(name in line for line in said for name in set(BOTH) - set(expected))
    said.clear()
    assert saved_again(model, tmp_path) == expected and not said  # once is enough


def test_a_stock_trainer_loses_them(model, tmp_path, said):
    rows = [{"pixel_values": torch.randn(3, 32, 32), "labels": torch.ones(5)} for _ in range(4)]
    arguments = TrainingArguments(str(tmp_path), max_steps=2, save_steps=1, report_to=[], use_cpu=True)
    Trainer(model, arguments, train_dataset=Dataset.from_list(rows).with_format("torch")).train()
    for number in (1, 2):
        again = ArkForImageClassification.from_pretrained(tmp_path / f"checkpoint-{number}")
        assert again.config.tasks == [ArkTask(task.name, task.labels, task.problem_type) for task in TASKS]
    assert len(said) == 1 and "ark-hf evaluate" in said[0]


def test_set_by_hand_they_are_bound_when_training_begins(tmp_path):
    model = ArkForImageClassification(ArkConfig(**SETTINGS, tasks=TASKS))
    assert saved_again(model, tmp_path / "untrained") == BOTH
    model = ArkForImageClassification(ArkConfig(**SETTINGS, tasks=TASKS)).train()
    with torch.no_grad():
        model.ark.projector.bias.add_(1)
    assert saved_again(model, tmp_path / "trained") == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "bfloat16", torch.float64])
def test_another_type_keeps_them_and_warns(folder, tmp_path, said, dtype):
    loaded = ArkForImageClassification.from_pretrained(folder, dtype=dtype)
    cast = ArkForImageClassification.from_pretrained(folder)
    assert not said[1:]
    cast.to(dtype if isinstance(dtype, torch.dtype) else torch.bfloat16)
    assert len(said) == 2 and all("were found in float32" in line for line in said)
    for model in (loaded, cast):
        assert calibrated(model) == BOTH
        assert saved_again(model, tmp_path / "again") == BOTH
        assert {task.thresholds_dtype for task in model.config.tasks if task.thresholds} == {"float32"}
        with torch.no_grad():
            model.ark.projector.weight.mul_(1.1)
        assert saved_again(model, tmp_path / "trained") == []
    assert loaded.config.tasks == cast.config.tasks


def test_trained_then_cast_loses_them(model, tmp_path):
    with torch.no_grad():
        model.ark.projector.weight.mul_(1.1)
    assert calibrated(model.half()) == []


def test_weights_of_another_model_under_the_config_lose_them(folder, tmp_path, said):
    torch.manual_seed(1)
    other = ArkForImageClassification(ArkConfig.from_pretrained(folder, tasks=[task.to_dict() for task in TASKS]))
    other.save_pretrained(tmp_path / "other")
    shutil.copytree(folder, tmp_path / "mixed")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "mixed")
    for kwargs in ({}, {"dtype": torch.bfloat16}, {"device_map": "cpu"}):
        said.clear()
        assert calibrated(ArkForImageClassification.from_pretrained(tmp_path / "mixed", **kwargs)) == []
        assert "nothing shows that they were found on these weights" in said[0]
    config = AutoConfig.from_pretrained(folder)
    assert calibrated(AutoModelForImageClassification.from_config(config)) == BOTH  # not looked at yet
    assert saved_again(AutoModelForImageClassification.from_config(config), tmp_path / "fresh") == []


def test_a_model_without_values_keeps_what_it_was_stored_with(folder):
    model = ArkForImageClassification.from_pretrained(folder, device_map="meta")
    assert calibrated(model) == BOTH
    stored = ArkConfig.from_pretrained(folder).tasks
    assert [task.thresholds_digest for task in model.config.tasks] == [task.thresholds_digest for task in stored]


def test_another_size_of_the_input_loses_them(folder):
    assert calibrated(ArkForImageClassification.from_pretrained(folder, image_size=64)) == []


@pytest.mark.parametrize(
    "record", ["none", "of the last calibration", "of other thresholds", "damaged", "of a later one"]
)
def test_without_a_digest_the_record_must_show_that_calibration_came_last(folder, tmp_path, said, record):
    shutil.copytree(folder, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    for task in config["tasks"]:
        task.pop("thresholds_digest", None), task.pop("thresholds_dtype", None)
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    entry = {"task": "findings", "thresholds": dict(TASKS[0].thresholds)}
    changed = entry | {"thresholds": {"Edema": 0.3, "Mass": 0.61}}
    text = {
        "of the last calibration": json.dumps([changed, entry]),
        "of other thresholds": json.dumps([entry | {"thresholds": {"Edema": 0.3}}]),
        "damaged": '[{"task": 3',
        "of a later one": json.dumps([entry, changed]),
    }
    if record in text:
        (tmp_path / "old" / "calibration.json").write_text(text[record])
    expected = ["findings"] if record == "of the last calibration" else []
    model = ArkForImageClassification.from_pretrained(tmp_path / "old", dtype=torch.bfloat16)
    assert calibrated(model) == expected
    model = ArkForImageClassification.from_pretrained(tmp_path / "old")
    assert calibrated(model) == expected and "'kinds'" in said[0]
    assert saved_again(model, tmp_path / "new") == expected


def test_a_model_in_memory_is_looked_at_before_its_operating_points_are_used(model, folder):
    processor = ArkImageProcessor.from_pretrained(folder)
    pipe = pipeline("chest-xray-classification", model=model, image_processor=processor)
    picture = torch.linspace(0, 1, 32 * 32).reshape(32, 32).numpy()
    thresholds = {row["label"]: row["threshold"] for row in pipe(picture)["tasks"]["findings"]}
    assert thresholds == TASKS[0].thresholds
    with torch.no_grad():
        model.ark.projector.weight.mul_(1.1)
    pipe = pipeline("chest-xray-classification", model=model, image_processor=processor)
    assert {row["threshold"] for row in pipe(picture)["tasks"]["findings"]} == {None}


def test_a_digest_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'findings': thresholds_digest must be a sha256"):
        ArkTask("findings", ["Edema"], thresholds={"Edema": 0.3}, thresholds_digest="abc")
