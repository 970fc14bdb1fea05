"""Small Genesis of random weights, whose maps have something in them."""

from pathlib import Path
from typing import Any

import torch

from ark_hf import (
    ArkTask,
    GenesisConfig,
    GenesisForImageClassification,
    GenesisForSemanticSegmentation,
    GenesisImageProcessor,
    SegmentationTask,
)

ORGANS = SegmentationTask("organs", ["lungs", "vessels"], modality="CT")
OVERLAPPING = SegmentationTask("chest", ["lungs", "lesion", "rib"], True, {"lesion": 0.4}, modality="CT")
NODULE = [ArkTask("nodule", ["nodule"], modality="CT"), ArkTask("air", ["emphysema"], modality="CT")]
CUBE = {"zyx": [4, 6, 8], "xyz": [8, 6, 4]}  # the same, in either order


def genesis_segmenter(task: SegmentationTask | None = ORGANS, axes="zyx", **config: Any):
    """A segmenter and its image processor."""
    torch.manual_seed(0)
    settings = {"width": 2, "depth": 2, "axes": axes, "cube_size": CUBE[axes], "segmentation": task}
    model = GenesisForSemanticSegmentation(GenesisConfig(**{**settings, **config})).eval()
    with torch.no_grad():
        model.segmentation_head.weight.normal_().mul_(20)
        logits = model(torch.rand(4, 1, *model.config.cube_size)).logits
        model.segmentation_head.bias -= logits.mean(dim=(0, 2, 3, 4))  # no class wins everywhere
    return model, GenesisImageProcessor.from_config(model.config)


def genesis_classifier(**config: Any):
    """A classifier and its image processor."""
    torch.manual_seed(0)
    settings = {"width": 2, "depth": 2, "cube_size": CUBE["zyx"], "tasks": NODULE}
    model = GenesisForImageClassification(GenesisConfig(**{**settings, **config})).eval()
    return model, GenesisImageProcessor.from_config(model.config)


def save_genesis(folder: Path, model_and_processor: tuple[Any, Any]) -> str:
    for each in model_and_processor:
        each.save_pretrained(folder)
    return str(folder)
