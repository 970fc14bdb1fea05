"""The student before its first step, and the image processor beside it."""

from dataclasses import fields

import pytest
from datasets import Dataset

from ark_hf import CyclicPretrainer, FinetuningArguments, PretrainingArguments
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask, SegmentationTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification, ArkModel
from ark_hf.training.ark.start import build_start, own_start
from ark_hf.training.finetune.run import initial_model
from ark_hf.training.initial_weights import StartArguments, build_segmenter, processor_of
from tests.models.ark.several_modalities import SETTINGS, save_both

from .conftest import TINY


def test_the_processor_is_for_images_of_the_first_task_whether_it_is_new_or_saved():
    shape = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    tasks = [ArkTask("fundus", ["dr"], modality="OP"), ArkTask("lungs", ["Mass"])]
    student = ArkForImageClassification(ArkConfig(**shape, tasks=tasks))
    new = processor_of(student, None)
    assert new.modality == "OP" and dict(new.size) == {"height": 32, "width": 32}
    saved = ArkImageProcessor(size=40, image_mean=[0.5] * 3)
    kept = processor_of(student, saved)
    assert (kept.modality, kept.modalities, kept.image_mean) == ("OP", {"CR": {}}, (0.5,) * 3)
    student.keep_tasks(["lungs"])
    assert processor_of(student, kept).modality == "CR"
    assert processor_of(student, saved).to_dict() == saved.to_dict()


def test_a_pretrained_model_s_processor_has_the_modality_of_its_data(tmp_path):
    task = ArkTask("fundus", ["dr"], modality="OP")
    rows = Dataset.from_dict({"labels": [[1.0], [0.0]]})
    trainer = CyclicPretrainer(
        PretrainingArguments(output_dir=str(tmp_path), **TINY), [TaskDataset("fundus", task, {"train": rows})]
    )
    assert trainer.processor.modality == "OP" and trainer.teacher.config.tasks == [task]


SHAPE = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
TASK = ArkTask("lungs", ["Mass"])


def saved_ark(folder, **changes) -> str:
    kind = ArkForImageClassification if changes.get("tasks", TASK) else ArkModel
    kind(ArkConfig(**{**SHAPE, "drop_path_rate": 0.2, "tasks": [TASK], **changes})).save_pretrained(folder)
    ArkImageProcessor(size=32).save_pretrained(folder)
    return str(folder)


def started_by(verb: str, folder: str, **settings) -> ArkForImageClassification:
    """The model that pretraining or fine-tuning starts from."""
    if verb == "pretrain":
        return build_start(PretrainingArguments(output_dir="run", init=folder, **settings), [TASK]).student
    return initial_model(folder, TASK, FinetuningArguments(output_dir="run", **settings), seed=0)[0]


def drop_rates(model) -> list[float]:
    return [module.drop_prob for module in model.ark.encoder.modules() if hasattr(module, "drop_prob")]


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
@pytest.mark.parametrize(("asked", "expected"), [(None, 0.2), (0.3, 0.3), (0.0, 0.0)])
def test_a_drop_path_rate_that_is_set_replaces_that_of_the_model(tmp_path, verb, asked, expected):
    folder = saved_ark(tmp_path / "ark")
    model = started_by(verb, folder, drop_path_rate=asked)
    assert model.config.drop_path_rate == expected and max(drop_rates(model), default=0.0) == pytest.approx(expected)
    loaded = ArkForImageClassification.from_pretrained(folder).state_dict()
    assert all((value == loaded[key]).all() for key, value in model.state_dict().items())


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backbone", "swin_tiny_patch4_window7_224"),
        ("backbone_kwargs", {"depths": [2, 1, 1, 1]}),
        ("projector_dim", 32),
        ("projector_dim", None),
        ("projector_type", "mlp"),
    ],
)
def test_an_architecture_that_the_loaded_model_has_not_is_refused(tmp_path, verb, name, value):
    folder = saved_ark(tmp_path / "ark")
    with pytest.raises(ValueError, match=f"has {name} .*leave {name} out"):
        started_by(verb, folder, **{name: value})
    assert started_by(verb, folder, **SHAPE).config.backbone == SHAPE["backbone"]  # what it has may be said


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_a_model_without_tasks_keeps_its_projector_and_an_encoder_alone_gets_the_one_asked_for(tmp_path, verb):
    classifier = saved_ark(tmp_path / "classifier", tasks=None)
    model = started_by(verb, classifier)
    loaded = ArkModel.from_pretrained(classifier)
    assert (model.ark.projector.weight == loaded.projector.weight).all() and model.config.drop_path_rate == 0.2
    encoder = saved_ark(tmp_path / "encoder", tasks=None, projector_dim=None)
    assert started_by(verb, encoder, projector_dim=24, projector_type="mlp").ark.projector[2].out_features == 24
    assert started_by(verb, encoder, projector_dim=None).ark.projector is None


@pytest.mark.parametrize(
    "settings", [{"projector_dim": 32}, {"image_size": 64}, {"drop_path_rate": 0.5}, {"backbone": "resnet18"}]
)
def test_settings_that_a_callers_own_student_contradicts_are_refused(settings):
    student = ArkForImageClassification(ArkConfig(**SHAPE, drop_path_rate=0.2, tasks=[TASK]))
    with pytest.raises(ValueError, match=next(iter(settings))):
        own_start(PretrainingArguments(output_dir="run", **settings), student, None)


def test_cards_tell_the_architecture_that_was_trained(tmp_path):
    folder = saved_ark(tmp_path / "ark")
    rows = Dataset.from_dict({"labels": [[1.0], [0.0]]})
    args = PretrainingArguments(output_dir=str(tmp_path / "run"), init=folder)
    trainer = CyclicPretrainer(args, [TaskDataset("lungs", TASK, {"train": rows})])
    trainer.state.history.append({"cycle": 1, "validation": {"teacher": {}}})
    told = trainer._provenance("teacher")["settings"]
    assert {name: told[name] for name in SHAPE} == SHAPE and told["drop_path_rate"] == 0.2


def test_a_segmenter_of_one_modality_starts_from_a_model_of_several(tmp_path):
    folder = save_both(tmp_path / "both")
    settings = {each.name: getattr(FinetuningArguments("x"), each.name, None) for each in fields(StartArguments)}
    start = StartArguments(**{**settings, "init": str(folder), "image_size": None, "seed": 0, "drop_path_rate": None})
    model, processor = build_segmenter(start, SegmentationTask("vessels", ["vessels"], modality="OP"), "fpn", 32)
    assert processor.all_modalities == ["OP"] and model.config.tasks is None
    assert list(processor.image_mean) == SETTINGS["OP"]["image_mean"]
