"""Segmenters of random weights, whose masks have something in them."""

from pathlib import Path

import torch

from ark_hf import ArkConfig, ArkForSemanticSegmentation, ArkImageProcessor, SegmentationTask

SIZE = 32
ORGANS = SegmentationTask("organs", ["lungs", "heart"])
OVERLAPPING = SegmentationTask("chest", ["left lung", "right lung", "heart", "rib"], True, {"heart": 0.4})


def tiny_segmenter(task: SegmentationTask | None, **config) -> ArkForSemanticSegmentation:
    torch.manual_seed(0)
    small = {"backbone": "test_resnet", "image_size": SIZE, "projector_dim": None, "decoder_channels": 16}
    model = ArkForSemanticSegmentation(ArkConfig(**{**small, "segmentation": task, **config})).eval()
    with torch.no_grad():
        model.segmentation_head.weight.mul_(20)
    return model


def save_segmenter(folder: Path, task: SegmentationTask | None, processor: dict | None = None, **config) -> str:
    tiny_segmenter(task, **config).save_pretrained(folder)
    ArkImageProcessor(**{"size": SIZE, **(processor or {})}).save_pretrained(folder)
    return str(folder)
