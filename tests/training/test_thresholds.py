"""Whatever trains a calibrated model drops its operating points: they were found on other weights."""

import pytest
import torch

from ark_hf import ArkConfig, ArkForImageClassification, ArkImageProcessor
from ark_hf.data.task_dataset import read_task
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments
from ark_hf.training.finetune.arguments import FinetuningArguments
from ark_hf.training.finetune.lora import add_adapters
from ark_hf.training.finetune.run import finetune

from .conftest import TINY, open_site

SWIN = {
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_kwargs": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "image_size": 32,
    "projector_dim": 16,
}


@pytest.fixture(scope="module")
def calibrated(sites, tmp_path_factory) -> str:
    torch.manual_seed(0)
    tasks = [read_task(folder) for folder in sites.values()]
    for task in tasks:
        task.thresholds = dict.fromkeys(task.labels, 0.3)
    folder = tmp_path_factory.mktemp("calibrated") / "ark-cxr"
    ArkForImageClassification(ArkConfig(**SWIN, tasks=tasks)).save_pretrained(folder)
    ArkImageProcessor(size=32).save_pretrained(folder)
    assert thresholds(folder) == {task.name: task.thresholds for task in tasks}
    return str(folder)


def thresholds(folder) -> dict:
    return {task.name: task.thresholds for task in ArkConfig.from_pretrained(folder).tasks}


def test_pretraining_that_goes_on_from_it(calibrated, sites, tmp_path, caplog):
    settings = {name: value for name, value in TINY.items() if name not in SWIN}
    args = PretrainingArguments(output_dir=str(tmp_path / "run"), init=calibrated, **{**settings, "cycles": 1})
    CyclicPretrainer(args, [open_site(sites["phantom_city"])]).train()
    assert all(each is None for each in thresholds(tmp_path / "run" / "ark-cxr").values())
    assert "operating points" in caplog.text


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 2}])
def test_fine_tuning_from_it(calibrated, sites, tmp_path, settings):
    args = FinetuningArguments(str(tmp_path), seeds=[0], batch_size=8, max_steps=3, test=False, **settings)
    finetune(calibrated, str(sites["phantom_city"]), args)
    (model,) = (path.parent for path in tmp_path.rglob("model.safetensors"))
    assert all(each is None for each in thresholds(model).values())


def test_merged_adapters(calibrated, tmp_path):
    pytest.importorskip("peft")
    for trained in (False, True):
        adapted = add_adapters(ArkForImageClassification.from_pretrained(calibrated), 2)
        if trained:
            with torch.no_grad():
                next(value for key, value in adapted.named_parameters() if "lora_B" in key).add_(0.1)
        adapted.merge_and_unload().save_pretrained(tmp_path / str(trained))
    assert thresholds(tmp_path / "False") == thresholds(calibrated)
    assert all(each is None for each in thresholds(tmp_path / "True").values())
