"""A small model with tasks of two modalities, for the tests of what each picture is answered by."""

from pathlib import Path

import numpy as np
import torch

from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.data.test_colours import fundus
from tests.training.conftest import TINY

SIZE = 32
# The tasks of one modality do not stand together: an order that is no modality's own
TASKS = [
    ArkTask("chest", ["Edema", "Mass"], thresholds={"Edema": 0.4}),
    ArkTask("eye", ["any_dr", "Edema"], modality="OP"),
    ArkTask("kinds", ["normal", "bacterial", "viral"], "single_label_classification"),
]
OF_CHESTS, OF_EYES = [0, 1, 4, 5, 6], [2, 3]
SETTINGS = {"OP": {"image_mean": [0.4, 0.3, 0.2]}}
EYE = fundus(7, 64, 64)
CHEST = np.random.default_rng(3).integers(0, 256, (1, 70, 64), dtype=np.uint8)


def model_of_both(tasks: list[ArkTask] = TASKS) -> ArkForImageClassification:
    torch.manual_seed(0)
    settings = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "projector_dim")}
    model = ArkForImageClassification(ArkConfig(image_size=SIZE, tasks=tasks, **settings)).eval()
    with torch.no_grad():
        for head in model.heads.values():
            head.weight.normal_(std=5)
    return model


def processor_of_both(kind: type = ArkImageProcessor):
    return kind(size=SIZE, modalities=SETTINGS)


def save_both(folder: Path) -> Path:
    model_of_both().save_pretrained(folder)
    processor_of_both().save_pretrained(folder)
    return folder
