"""What is measured on a segmenter's masks, and which files of the world it reads."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ark_hf import (
    ArkImageProcessor,
    SegmentationTask,
    heat_maps,
    label_masks,
    mask_overlay,
    read_radiograph,
    segment_files,
)
from ark_hf.inference.measurements import heart_and_lungs, measure
from ark_hf.inference.overlays import label_colour
from tests.data.images.test_dicom import make_dicom, save
from tests.inference.segmenters import ORGANS, OVERLAPPING, SIZE, tiny_segmenter

# In the picture, 4 logits a side: two lungs, and a heart that lies over one
LUNGS = [[0, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1], [1, 0, 0, 1]]
HEART = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]


def logits_of(*planes) -> torch.Tensor:
    return torch.tensor(np.array(planes)).float() * 10 - 5


@pytest.mark.parametrize("overlapping", [False, True])
def test_areas_scores_and_ratio_by_hand(overlapping):
    task = SegmentationTask("organs", ["heart", "lungs", "stent"], overlapping)
    planes = logits_of(HEART, LUNGS, np.zeros((4, 4)))
    logits = planes if overlapping else torch.cat([torch.full((1, 4, 4), -2.0), planes])
    masks, measured = measure(logits, task, (4, 4), (0.5, 0.25))
    assert np.array_equal(masks[:2], np.array([HEART, LUNGS]) > 0)
    assert measured.pixels == [4, 6, 0] and measured.mm2 == [0.5, 0.75, 0]
    expected = 1 / (1 + math.exp(-5)) if overlapping else math.exp(5) / (math.exp(5) + math.exp(-2) + 2 * math.exp(-5))
    assert measured.scores[:2] == pytest.approx([expected] * 2) and math.isnan(measured.scores[2])
    assert measured.cardiothoracic_ratio == 2 / 4
    assert measure(logits, task, (4, 4), None)[1].mm2 is None


def test_scores_are_means_over_the_enlarged_masks():
    for task in (ORGANS, OVERLAPPING):
        logits = torch.randn(len(task.classes), 5, 6, generator=torch.Generator().manual_seed(0)) * 3
        masks, measured = measure(logits, task, (40, 30), None)
        enlarged = torch.nn.functional.interpolate(logits[None], size=(40, 30), mode="bilinear")[0]
        probabilities = enlarged.sigmoid() if task.overlapping else enlarged.softmax(dim=0)[1:]
        for mask, score, each in zip(masks, measured.scores, probabilities, strict=True):
            assert score == pytest.approx(float(each[torch.from_numpy(mask)].mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (["lungs", "heart"], [1, 0]),
        (["Heart", "Left Lung", "rib", "right_lung"], [0, 1, 3]),
        (["cardiac silhouette", "lung fields"], [0, 1]),
        (["heart", "left lung"], None),
        (["lungs", "cardiomegaly"], None),
    ],
)
def test_heart_and_lungs_are_known_by_their_names(labels, numbers):
    assert heart_and_lungs("organs", tuple(labels)) == numbers


def test_labels_without_heart_and_lungs_have_no_ratio():
    task = SegmentationTask("lesions", ["nodule"], True)
    assert measure(logits_of(HEART), task, (4, 4), None)[1].cardiothoracic_ratio is None


def test_files_are_measured_at_their_own_size(tmp_path):
    generator = np.random.default_rng(0)
    pixels = [generator.integers(0, 255, shape, dtype=np.uint8) for shape in ((70, 90), (64, 100), (80, 80))]
    paths = [tmp_path / "0.png", tmp_path / "1.dcm", tmp_path / "2.png"]
    for each, path in zip(pixels, paths, strict=True):
        if path.suffix == ".png":
            Image.fromarray(each).save(path)
        else:
            save(make_dicom(each, 8, PixelSpacing=[4, 3.5]), path)
    model, processor, seen = tiny_segmenter(ORGANS), ArkImageProcessor(size=SIZE), []
    files = [paths[0], tmp_path / "gone.png", *paths[1:]]
    results = list(segment_files(model, processor, files, 2, lambda *each: seen.append(each)))
    assert [path for path, _ in results] == files and "no such file" in results[1][1]
    for (image, measured, masks), path, result in zip(seen, paths, [results[0], *results[2:]], strict=True):
        assert result == (path, measured) and image.name == str(path)
        with torch.no_grad():
            logits = model(processor(read_radiograph(path), return_tensors="pt").pixel_values).logits[0]
        assert np.array_equal(masks, label_masks(logits, ORGANS, image.pixels.shape[1:]))
        assert measured.pixels == masks.sum(axis=(1, 2)).tolist()
    assert [measured.mm2 is None for _, measured, _ in seen] == [True, False, True]
    assert seen[1][1].mm2 == [14.0 * count for count in seen[1][1].pixels]


def test_crops_are_refused():
    processor = ArkImageProcessor(size=SIZE, do_center_crop=True, crop_size=SIZE)
    with pytest.raises(ValueError, match="Masks are of whole pictures"):
        next(segment_files(tiny_segmenter(ORGANS), processor, ["x.png"]))


def test_heat_maps_are_refused():
    with pytest.raises(ValueError, match="Heat maps are of classifiers; a segmenter's masks say where"):
        heat_maps(tiny_segmenter(ORGANS), torch.zeros(1, 3, SIZE, SIZE), [0])


def test_an_overlay_shows_each_mask_in_its_colour_and_a_legend():
    pixels, nothing = np.full((1, 200, 300), 100, np.uint8), np.zeros((200, 300), bool)
    masks = {0: nothing.copy(), 2: ~nothing}
    masks[0][50:100, 50:100] = True
    shown = np.asarray(mask_overlay(pixels, masks))
    assert shown.shape == (200, 300, 3)
    assert tuple(shown[50, 75]) == label_colour(0) and tuple(shown[0, 0]) == label_colour(2)
    inside, outside = shown[75, 75].astype(int), shown[150, 200].astype(int)
    assert np.abs(outside - 100).max() > 10 and np.abs(inside - outside).max() > 10
    assert (np.asarray(mask_overlay(pixels, {})) == 100).all()
    legend = np.asarray(mask_overlay(pixels, masks, ["heart", "aorta", "a very long name " * 4]))
    assert np.array_equal(legend[:200], shown) and len(legend) > 220 and legend[200:].max() == 255
    with pytest.raises(ValueError, match="not of the picture's size"):
        mask_overlay(pixels, {0: masks[0][:100]})
