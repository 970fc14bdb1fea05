"""The precision of a run is that of no other that follows it in the same process: accelerate keeps it in one state."""

import numpy as np
import torch

from ark_hf import (
    CyclicPretrainer,
    FinetuningArguments,
    PretrainingArguments,
    TaskSpec,
    finetune,
    load_ark,
    load_tasks,
)
from ark_hf.data.task_dataset import load_task_dataset

from .ark.test_pretrainer import autocast_forward
from .conftest import TINY

SHAPE = {key: TINY[key] for key in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}


def probabilities(folder, site) -> np.ndarray:
    """Of the test images, as float32 arithmetic gives them."""
    model, processor = load_ark(str(folder))
    with torch.no_grad():
        pixel_values = processor(list(load_task_dataset(site, "test")["image"]), return_tensors="pt").pixel_values
        return model(pixel_values).logits.double().sigmoid().numpy()


def test_after_fine_tuning_in_bf16_the_test_is_scored_in_float32(sites, tmp_path):
    settings = {**SHAPE, "batch_size": 8, "epochs": 1, "bootstrap": 0, "mixed_precision": "bf16"}
    finetune("none", str(sites["phantom_hill"]), FinetuningArguments(output_dir=str(tmp_path), **settings))
    stored = np.load(tmp_path / "seed-0" / "test_predictions.npz")["probabilities"]
    expected = probabilities(tmp_path / "seed-0" / "ark-cxr", sites["phantom_hill"])
    np.testing.assert_allclose(stored, expected, rtol=0, atol=1e-6)


def test_a_loaded_model_does_not_choose_the_precision_of_the_next_run(sites, tmp_path):
    spec = [TaskSpec(str(sites["phantom_city"]))]
    settings = {**TINY, "cycles": 1}
    for precision in ("no", "bf16", "no"):
        args = PretrainingArguments(output_dir=str(tmp_path / "run"), **settings, mixed_precision=precision)
        trainer = CyclicPretrainer(args, load_tasks(spec, "."))
        assert trainer.accelerator.mixed_precision == precision
        assert autocast_forward(trainer) == (precision == "bf16")
        trainer.student.save_pretrained(tmp_path / precision)
        trainer.processor.save_pretrained(tmp_path / precision)
        load_ark(str(tmp_path / precision))
