"""A fine-tuning folder is of the weights and the data that it began with, whatever stands at their paths since."""

import pytest
import torch
from datasets import List, Value

from ark_hf import ArkConfig, ArkForImageClassification, FinetuningArguments, finetune
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.training.finetune.data import load_finetuning_data

from ..conftest import TINY

SHAPE = {key: TINY[key] for key in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}


def arguments(folder, seed: int) -> FinetuningArguments:
    return FinetuningArguments(output_dir=str(folder), seeds=[seed], **SHAPE, batch_size=8, max_steps=1, test=False)


def save_teacher(folder, seed: int) -> str:
    torch.manual_seed(seed)
    ArkForImageClassification(ArkConfig(**SHAPE, tasks=[{"name": "old", "labels": ["A"]}])).save_pretrained(folder)
    ArkImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def test_seeds_of_two_teachers_at_one_path_are_not_averaged(sites, tmp_path):
    hill = load_finetuning_data(str(sites["phantom_hill"]), arguments("runs/x", 0))
    teacher = save_teacher(tmp_path / "teacher", seed=0)
    finetune(teacher, "hill", arguments(tmp_path / "run", 0), hill)
    save_teacher(tmp_path / "teacher", seed=1)
    with pytest.raises(ValueError, match="weights_sha256 was '[0-9a-f]{64}', now '[0-9a-f]{64}'"):
        finetune(teacher, "hill", arguments(tmp_path / "run", 1), hill)
    save_teacher(tmp_path / "teacher", seed=0)
    finetune(teacher, "hill", arguments(tmp_path / "run", 1), hill)  # the first teacher is there again
    assert (tmp_path / "run" / "seed-1" / "ark-cxr").is_dir()


def test_other_labels_of_the_same_images_are_other_data(sites, tmp_path):
    hill = load_finetuning_data(str(sites["phantom_hill"]), arguments("runs/x", 0))
    finetune("none", "hill", arguments(tmp_path / "run", 0), hill)
    labels = hill.splits["train"]["labels"][:]
    labels[3] = [1 - labels[3][0]]
    train = hill.splits["train"].remove_columns("labels").add_column("labels", labels, feature=List(Value("float32")))
    other = TaskDataset(hill.source, hill.task, {**hill.splits, "train": train}, facts=hill.facts)
    with pytest.raises(ValueError, match="dataset_sha256 was"):
        finetune("none", "hill", arguments(tmp_path / "run", 1), other)
