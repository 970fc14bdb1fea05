import numpy as np
import pytest
import torch

from ark_hf import ArkConfig, ArkForSemanticSegmentation, ArkImageProcessor, SegmentationTask
from ark_hf.inference.masks import label_masks

LABELS = ["lungs", "heart"]


@pytest.mark.parametrize("overlapping", [False, True])
def test_masks_are_those_of_the_processors_map(overlapping):
    """Where one label alone reaches its threshold, the stock pipeline's map and the masks are one."""
    thresholds = {"heart": 0.7} if overlapping else None
    task = SegmentationTask("organs", LABELS, overlapping, thresholds)
    config = ArkConfig(backbone="test_resnet", image_size=32, projector_dim=None, segmentation=task)
    model = ArkForSemanticSegmentation(config).eval()
    with torch.no_grad():
        outputs = model(torch.randn(2, 3, 32, 32))
        outputs["logits"] = torch.randn_like(outputs.logits) * 3
    sizes = [(50, 40), (32, 64)]
    maps = ArkImageProcessor(size=32).post_process_semantic_segmentation(outputs, sizes)
    for logits, size, shown in zip(outputs.logits, sizes, maps, strict=True):
        masks = label_masks(logits, task, size)
        assert (masks.shape, masks.dtype) == ((2, *size), bool)
        alone = masks.sum(axis=0) <= 1
        expected = np.where(masks[0], 1, np.where(masks[1], 2, 0))
        assert np.array_equal(shown.numpy()[alone], expected[alone])
        assert overlapping != bool(alone.all()) and masks.any(axis=(1, 2)).all()


def test_masks_of_overlapping_labels_keep_to_their_thresholds():
    logits = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 4, 4)
    task = SegmentationTask("organs", LABELS, True, {"lungs": 0.5, "heart": 0.75})
    masks = label_masks(logits, task, (8, 8))
    assert masks[0].all() and not masks[1].any()
