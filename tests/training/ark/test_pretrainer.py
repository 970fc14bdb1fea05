"""The cycle on small phantom sites: what it writes, what it leaves alone, and what does not change its result."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from transformers import AutoImageProcessor, AutoModelForImageClassification

import ark_hf  # noqa: F401
from ark_hf import ArkTask
from ark_hf.data import loading
from ark_hf.data.build.build import build_dataset, encode_png, write_task_dataset
from ark_hf.data.loading import stored_picture
from ark_hf.data.sources.phantom_sites import phantom_release
from ark_hf.hub.save import save_conversion
from ark_hf.inference.load import load_ark
from ark_hf.models.ark.convert_ark_checkpoint import convert_checkpoint
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments, TaskSpec
from ark_hf.training.ark.start import build_start
from ark_hf.training.ark.tasks import load_tasks
from ark_hf.training.ark.validation import validate

from ...models.ark.original_files import swin_state_dict
from ..conftest import TINY, open_site


def pretrainer(folder, sites, accelerator=None, **settings) -> CyclicPretrainer:
    args = PretrainingArguments(output_dir=str(folder), **{**TINY, **settings})
    return CyclicPretrainer(args, [open_site(path) for path in sites.values()], accelerator=accelerator)


def run(*args, **settings) -> CyclicPretrainer:
    trainer = pretrainer(*args, **settings)
    trainer.train()
    return trainer


def after_a_cycle(*args, **settings) -> tuple[CyclicPretrainer, dict[str, float]]:
    """A trainer that has neither validated nor saved, and its mean losses."""
    trainer = pretrainer(*args, **settings)
    return trainer, trainer.run_cycle()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sites) -> CyclicPretrainer:
    """A run of one cycle that is over; tests read it and its folder."""
    return run(tmp_path_factory.mktemp("finished"), sites, cycles=1)


@pytest.fixture(scope="module")
def cycle(tmp_path_factory, sites) -> tuple[CyclicPretrainer, dict[str, float]]:
    """A trainer after one cycle without stochastic depth, and its mean losses."""
    return after_a_cycle(tmp_path_factory.mktemp("cycle"), sites, drop_path_rate=0.0)


def test_a_validation_picture_is_decoded_once_for_student_and_teacher(finished, sites, monkeypatch):
    trainer = finished
    models = {"student": trainer.student, "teacher": trainer.teacher}
    settings = trainer.criterion, trainer.accelerator, trainer.args.batch_size, trainer.loader
    alone = {
        name: validate({name: each}, trainer.validation_samples(), *settings)[name] for name, each in models.items()
    }
    decoded = []
    monkeypatch.setattr(loading, "stored_picture", lambda *args: decoded.append(1) or stored_picture(*args))
    together = trainer.validate()
    assert len(decoded) == 12 * len(sites)
    assert repr(together) == repr(alone) and alone["student"]["mean_loss"] != alone["teacher"]["mean_loss"]


def distance(one: torch.nn.Module, other: torch.nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def test_run_folder_holds_models_metrics_and_checkpoints(tmp_path, sites):
    trainer = run(tmp_path, sites)
    for name in ("ark-cxr", "student"):
        model = AutoModelForImageClassification.from_pretrained(tmp_path / name)
        assert [task.name for task in model.config.tasks] == list(sites)
        assert AutoImageProcessor.from_pretrained(tmp_path / name).size == {"height": 32, "width": 32}
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "ark-cxr")
    assert distance(saved, trainer.teacher) == 0
    assert distance(saved, AutoModelForImageClassification.from_pretrained(tmp_path / "student")) > 0

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [entry["cycle"] for entry in metrics["history"]] == [1, 2]
    for who in ("student", "teacher"):
        tasks = metrics["history"][-1]["validation"][who]["tasks"]
        assert list(tasks) == list(sites)
        assert metrics["history"][-1]["validation"][who]["mean_loss"] > 0
        assert all(0 <= value <= 1 for value in tasks["phantom_coast"]["auroc"].values())
    best = max(entry["validation"]["teacher"]["mean_auroc"] for entry in metrics["history"])
    assert metrics["best"]["mean_auroc"] == best
    assert (tmp_path / "best" / "model.safetensors").is_file()
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_finished_run_is_not_trained_again(finished, sites):
    again = run(finished.output_dir, sites, cycles=1)
    assert again.state.step == finished.state.step == 9
    assert distance(finished.teacher, again.teacher) == 0


def test_resuming_with_other_settings_is_refused(finished, sites):
    with pytest.raises(ValueError, match="learning_rate was 0.05, now 0.01"):
        run(finished.output_dir, sites, cycles=1, learning_rate=0.01)


@pytest.mark.slow_ci
def test_workers_and_where_it_runs_do_not_change_the_result(finished, tmp_path, sites):
    one = finished
    two = run(tmp_path / "two", sites, cycles=1, dataloader_num_workers=2, save_steps=2, eval_batch_size=5)
    assert distance(one.student, two.student) == 0
    assert distance(one.teacher, two.teacher) == 0


@pytest.mark.parametrize("reproduce", [[], ["zero_idle_grads"]])
def test_accumulation_gives_the_step_of_the_whole_batch(cycle, tmp_path, sites, reproduce):
    # Nothing known in some rows, as uncertain labels are ignored, and a last batch of 4: means of micro-batch means
    # would differ
    settings = {"drop_path_rate": 0.0, "reproduce": reproduce}
    whole, losses = after_a_cycle(tmp_path / "whole", sites, **settings) if reproduce else cycle
    parts, losses_of_parts = after_a_cycle(tmp_path / "parts", sites, gradient_accumulation_steps=3, **settings)
    assert 0 < distance(whole.student, parts.student) < 1e-5
    assert losses == pytest.approx(losses_of_parts, abs=1e-5)


@pytest.mark.parametrize("optim", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("reproduce", [[], ["zero_idle_grads"]])
def test_heads_of_other_tasks_are_untouched_during_a_pass_unless_asked(tmp_path, sites, optim, reproduce):
    settings = {**TINY, "optim": optim, "weight_decay": 0.1, "reproduce": reproduce}
    args = PretrainingArguments(output_dir=str(tmp_path), **settings)
    trainer = CyclicPretrainer(args, [open_site(path) for path in sites.values()])
    names = list(sites)
    steps = []
    for index, data in enumerate(trainer.passes):
        trainer.state.task_index = index
        before = {key: value.clone() for key, value in trainer.student.heads.state_dict().items()}
        for batches in trainer.train_batches(data, 0):
            steps.append(trainer._train_step(data, batches))
        moved = {
            key.split(".")[0]
            for key, value in trainer.student.heads.state_dict().items()
            if not torch.equal(value, before[key])
        }
        assert moved == ({names[index]} if not reproduce else set(names[: index + 1]))
    assert all(math.isfinite(step["task_loss"]) for step in steps)


def autocast_forward(trainer) -> bool:
    """Whether the student still computes in bfloat16."""
    seen = []
    hook = trainer.student.ark.projector.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    trainer.student(torch.rand(1, 3, 32, 32), task="phantom_city")
    hook.remove()
    return seen == [torch.bfloat16]


def test_mixed_precision_trains_close_to_float32(cycle, tmp_path, sites):
    exact, _ = cycle
    rough = run(tmp_path / "bf16", sites, cycles=1, drop_path_rate=0.0, mixed_precision="bf16")
    assert autocast_forward(rough), "saving the models has switched mixed precision off"
    assert rough.student.state_dict()["ark.projector.weight"].dtype == torch.float32
    assert 1e-6 < distance(exact.teacher, rough.teacher) < 0.05


def test_memory_options_do_not_change_the_result(cycle, tmp_path, sites):
    plain, _ = cycle
    spared, _ = after_a_cycle(tmp_path, sites, drop_path_rate=0.0, gradient_checkpointing=True, channels_last=True)
    assert distance(plain.student, spared.student) < 1e-4


@pytest.mark.parametrize("teacher_view", ["student", "resize"])
def test_teacher_follows_the_student_at_the_scheduled_momentum(tmp_path, sites, teacher_view):
    hill = {"phantom_hill": sites["phantom_hill"]}
    trainer, _ = after_a_cycle(tmp_path, hill, cycles=1, ema_mode="epoch", teacher_view=teacher_view)
    start = CyclicPretrainer(replace(trainer.args, output_dir=str(tmp_path / "start")), trainer.tasks)
    for key, value in trainer.teacher.state_dict().items():
        expected = 0.9 * start.teacher.state_dict()[key] + 0.1 * trainer.student.state_dict()[key]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


def test_the_teacher_averages_batch_norm_statistics(tmp_path, sites):
    settings = {"backbone": "test_resnet", "backbone_kwargs": None, "cycles": 1, "projector_dim": None}
    trainer, _ = after_a_cycle(tmp_path, {"phantom_hill": sites["phantom_hill"]}, ema_mode="epoch", **settings)
    statistic = next(key for key in trainer.teacher.state_dict() if key.endswith("running_mean"))
    student, teacher = (model.state_dict()[statistic] for model in (trainer.student, trainer.teacher))
    assert torch.count_nonzero(student) > 0
    torch.testing.assert_close(teacher, 0.1 * student)  # from 0, one update at momentum 0.9


class ListTracker(GeneralTracker):
    name = "list"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.config, self.values = None, []

    @property
    def tracker(self):
        return self.values

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **kwargs):
        self.values.append((step, values))


def test_trackers_get_losses_schedules_and_validation(tmp_path, sites):
    tracker = ListTracker()
    run(tmp_path, sites, cycles=1, logging_steps=2, accelerator=Accelerator(log_with=tracker))
    assert tracker.config["backbone"] == "convnext_atto"
    keys = {key for _, values in tracker.values for key in values}
    assert {"phantom_city/task_loss", "learning_rate", "teacher_momentum"} <= keys
    assert {"validation/teacher_mean_auroc", "validation/student_mean_loss"} <= keys


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, sites, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.is_comet_ml_available", lambda: False)
    with pytest.warns(UserWarning, match="comet_ml"), pytest.raises(ValueError, match="'comet_ml' is not installed"):
        run(tmp_path, sites, cycles=1, log_with="comet_ml")


def test_continuing_keeps_known_heads_and_adds_new_ones(tmp_path, sites):
    names = list(sites)
    first = run(tmp_path / "first", {name: sites[name] for name in names[:2]}, cycles=1)
    args = PretrainingArguments(
        output_dir=str(tmp_path / "second"), **{**TINY, "init": str(tmp_path / "first/ark-cxr")}
    )
    second = CyclicPretrainer(args, [open_site(sites[name]) for name in names[1:]])
    assert [task.name for task in second.student.config.tasks] == [names[1], names[2], names[0]]
    old, new = first.teacher.state_dict(), second.student.state_dict()
    assert all(torch.equal(old[key], new[key]) for key in old)


def test_starting_from_a_converted_encoder_or_its_original_file(tmp_path, sites):
    """PEAC's, SimMIM's and fine-tuned encoders have no heads; an original file holds attention buffers besides."""
    weights = swin_state_dict(projector=None, heads=[])
    torch.save({"state_dict": weights}, tmp_path / "original.pth")
    save_conversion(convert_checkpoint(tmp_path / "original.pth"), tmp_path / "encoder")
    swin = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2}
    tasks = [open_site(sites["phantom_hill"])]
    for init in ("encoder", "original.pth"):
        settings = {**TINY, "init": str(tmp_path / init), "projector_dim": 6}
        settings |= {"backbone": "swin_tiny_patch4_window7_224", "backbone_kwargs": swin}
        start = build_start(
            PretrainingArguments(output_dir=str(tmp_path / "run"), **settings), [data.task for data in tasks]
        )
        student = start.student
        assert torch.equal(student.ark.encoder.norm.bias, weights["norm.bias"])
        index = "layers.1.blocks.1.mlp.fc2.weight"
        assert torch.equal(student.ark.encoder.state_dict()[index], weights[index])
        assert [task.name for task in student.config.tasks] == ["phantom_hill"] and student.ark.embedding_dim == 6
        assert (start.processor is not None) == (init == "encoder")


@pytest.mark.parametrize(("image_size", "expected"), [(64, 64), (None, 32)])
def test_continuing_at_another_image_size(tmp_path, sites, image_size, expected):
    """The scale-up of Ark+: the same weights go on at more pixels, and the run ends as a model of that size."""
    tasks = [open_site(sites["phantom_hill"])]
    swin = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}
    settings = {**TINY, "backbone": "swin_tiny_patch4_window7_224", "backbone_kwargs": swin, "cycles": 1}
    first = CyclicPretrainer(PretrainingArguments(output_dir=str(tmp_path / "first"), **settings), tasks).train()
    settings |= {"init": str(tmp_path / "first/ark-cxr"), "image_size": image_size}
    args = PretrainingArguments(output_dir=str(tmp_path / "second"), **settings)
    second = CyclicPretrainer(args, tasks)
    old, new = first.state_dict(), second.student.state_dict()
    assert all(torch.equal(old[key], new[key]) for key in old)
    second.train()
    model, processor = load_ark(str(tmp_path / "second/ark-cxr"))
    assert model.config.image_size == processor.size["height"] == expected


@pytest.mark.parametrize(("image_size", "resize_size", "expected"), [(224, None, 256), (768, None, 878), (64, 72, 72)])
def test_resize_size_follows_the_models_size(tmp_path, sites, image_size, resize_size, expected):
    settings = {**TINY, "image_size": image_size, "resize_size": resize_size}
    tasks = [open_site(sites["phantom_hill"])]
    args = PretrainingArguments(output_dir=str(tmp_path), **settings)
    assert CyclicPretrainer(args, tasks).views.resize == expected
    args.resize_size = image_size - 1
    with pytest.raises(ValueError, match="is smaller than the model's image_size"):
        CyclicPretrainer(args, tasks)


def test_encoder_weights_file_is_loaded_by_name_or_by_order(tmp_path, sites):
    tasks = [open_site(sites["phantom_hill"])]
    args = PretrainingArguments(output_dir=str(tmp_path), **TINY)
    encoder = CyclicPretrainer(args, tasks).student.ark.encoder
    by_name = {f"module.{key}": value + 1 for key, value in encoder.state_dict().items()}
    by_order = {f"foreign_{i}": value + 1 for i, value in enumerate(encoder.state_dict().values())}
    for number, weights in enumerate([by_name, by_order | {"fc": torch.zeros(10, 4)}]):
        torch.save({"state_dict": weights}, tmp_path / f"{number}.pth")
        args.init = str(tmp_path / f"{number}.pth")
        loaded = CyclicPretrainer(args, tasks).student.ark.encoder
        assert all(
            torch.equal(b, a + 1)
            for a, b in zip(encoder.state_dict().values(), loaded.state_dict().values(), strict=True)
        )


def test_imagenet_weights_are_loaded_after_construction(tmp_path, sites, monkeypatch):
    # timm's weights cannot be downloaded here: a stand-in gives recognisable ones
    create_model = timm.create_model

    def with_weights(*names, pretrained=False, **kwargs):
        model = create_model(*names, pretrained=False, **kwargs)
        if pretrained:
            torch.nn.init.constant_(model.stem[0].weight, 3.0)
        return model

    monkeypatch.setattr(timm, "create_model", with_weights)
    args = PretrainingArguments(output_dir=str(tmp_path), **TINY, init="imagenet")
    student = CyclicPretrainer(args, [open_site(sites["phantom_hill"])]).student
    assert (student.ark.encoder.stem[0].weight == 3).all()


@pytest.mark.parametrize("init", ["imagenet", "weights/missing.pth", "missing.safetensors", "nobody/nothing"])
def test_initial_weights_that_cannot_be_had_are_explained(tmp_path, sites, init):
    args = PretrainingArguments(output_dir=str(tmp_path), **{**TINY, "init": init})
    args.backbone, args.backbone_kwargs = "convnext_atto.d2_in1k", None
    message = {"imagenet": "network, give `init` a local weights file", "nobody/nothing": "Cannot load an Ark model"}
    with pytest.raises(ValueError, match=message.get(init, "is not a weights file")):
        CyclicPretrainer(args, [open_site(sites["phantom_hill"])])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a weights file", "is not a weights file of torch or safetensors"),
        ({"a": torch.zeros(3)}, "is not of this encoder"),
        ({"epoch": 3}, "'epoch' is a int, no tensor"),
        (None, "is not a weights file"),
    ],
)
def test_wrong_weights_file_is_explained(tmp_path, sites, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    args = PretrainingArguments(output_dir=str(tmp_path), **{**TINY, "init": str(path)})
    with pytest.raises(ValueError, match=message):
        CyclicPretrainer(args, [open_site(sites["phantom_hill"])])


def test_wrong_tasks_are_explained_before_training(tmp_path, sites):
    city = str(sites["phantom_city"])
    with pytest.raises(ValueError, match="Two tasks are named 'phantom_city'"):
        load_tasks([TaskSpec(city), TaskSpec(city)], ".")
    with pytest.raises(ValueError, match="neither a folder with a task dataset nor a reachable Hub dataset"):
        load_tasks([TaskSpec("nowhere/nothing")], ".")
    args = PretrainingArguments(output_dir=str(tmp_path), **{**TINY, "backbone": "swin_bse", "backbone_kwargs": None})
    with pytest.raises(ValueError, match="Unknown backbone 'swin_bse'"):
        CyclicPretrainer(args, [open_site(sites["phantom_city"])])


def test_a_task_without_any_known_label_is_refused(tmp_path):
    row = {"image": encode_png(np.zeros((40, 40), np.uint8)), "labels": [math.nan], "image_id": "0"}
    write_task_dataset(tmp_path / "tb", ArkTask("tb", ["TB"]), {"train": lambda: iter([row])}, [], {})
    with pytest.warns(UserWarning, match="no split 'validation'"), pytest.raises(ValueError, match="'tb' is empty"):
        load_tasks([TaskSpec(str(tmp_path / "tb"))], ".")


def test_a_dataset_of_another_size_is_not_resumed_with(finished):
    tasks = [finished.tasks[0].select("train", range(10)), *finished.tasks[1:]]
    with pytest.raises(ValueError, match="tasks was"):
        CyclicPretrainer(finished.args, tasks).train()


def test_an_undecodable_image_is_named_by_task_and_row(tmp_path):
    row = {"image": {"bytes": b"no picture", "path": None}, "labels": [1.0], "image_id": "0"}
    write_task_dataset(tmp_path / "tb", ArkTask("tb", ["TB"]), {"train": lambda: iter([row])}, [], {})
    with pytest.warns(UserWarning, match="no split 'validation'"):
        tasks = load_tasks([TaskSpec(str(tmp_path / "tb"))], ".")
    args = PretrainingArguments(output_dir=str(tmp_path / "run"), **TINY)
    with pytest.raises(ValueError, match="Task 'tb', row 0: the image cannot be decoded"):
        CyclicPretrainer(args, tasks).train()


def test_an_empty_train_split_is_explained(tmp_path):
    build_dataset(phantom_release("phantom_hill", {"validation": 4}, 40, 0), tmp_path / "hill", 40, num_workers=1)
    with pytest.raises(ValueError, match="train"):
        load_tasks([TaskSpec(str(tmp_path / "hill"))], ".")


def test_a_loss_that_is_not_finite_stops_the_run_with_a_remedy(tmp_path, sites):
    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        run(tmp_path, sites, cycles=2, learning_rate=1e30)
