"""The student before its first step, and the image processor beside it."""

from datasets import Dataset

from ark_hf import CyclicPretrainer, PretrainingArguments
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from ark_hf.training.initial_weights import processor_of

from .conftest import TINY


def test_the_processor_is_for_images_of_the_first_task_whether_it_is_new_or_saved():
    shape = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
    tasks = [ArkTask("fundus", ["dr"], modality="OP"), ArkTask("lungs", ["Mass"])]
    student = ArkForImageClassification(ArkConfig(**shape, tasks=tasks))
    new = processor_of(student, None)
    assert new.modality == "OP" and dict(new.size) == {"height": 32, "width": 32}
    saved = ArkImageProcessor(size=40, image_mean=[0.5] * 3)
    assert processor_of(student, saved) is saved and saved.modality == "OP" and saved.image_mean == (0.5,) * 3
    student.keep_tasks(["lungs"])
    assert processor_of(student, saved).modality == "CR"


def test_a_pretrained_model_s_processor_has_the_modality_of_its_data(tmp_path):
    task = ArkTask("fundus", ["dr"], modality="OP")
    rows = Dataset.from_dict({"labels": [[1.0], [0.0]]})
    trainer = CyclicPretrainer(
        PretrainingArguments(output_dir=str(tmp_path), **TINY), [TaskDataset("fundus", task, {"train": rows})]
    )
    assert trainer.processor.modality == "OP" and trainer.teacher.config.tasks == [task]
