"""Segmentation datasets: masks follow their picture, unknown ones stay unknown, and what does not fit is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

from ark_hf import Release, Row, SegmentationTask, build_dataset, read_task
from ark_hf.data.build.masks import shrink_mask
from ark_hf.data.task_dataset import read_dataset_task

ORGANS = SegmentationTask("organs", ["lungs", "heart"])


def square(left: int, right: int) -> np.ndarray:
    mask = np.zeros((60, 80), dtype=bool)
    mask[10:40, left:right] = True
    return mask


MASKS = {
    "a": [square(0, 30), square(30, 60)],
    "b": [square(5, 20), None],
    "c": [square(40, 75), np.zeros((60, 80), dtype=bool)],
}


def picture(row: Row) -> np.ndarray:
    """White where any mask is."""
    known = [mask for mask in MASKS[row.masks] if mask is not None]
    return (np.any(known, axis=0) * 255).astype(np.uint8)[None]


def read_masks(row: Row) -> list:
    return MASKS[row.masks]


def release(task=ORGANS, names="abc", **changes) -> Release:
    splits = ("train", "validation", "test")
    rows = [
        Row(f"line {number}", Path(name), splits[number], [], {"image_id": name}, name)
        for number, name in enumerate(names)
    ]
    return Release(task, rows, **{"read_image": picture, "read_masks": read_masks, **changes})


def test_masks_have_the_geometry_of_their_picture_and_unknown_ones_are_none(tmp_path):
    report = build_dataset(release(), tmp_path / "organs", size=40, num_workers=1)
    rows = load_dataset(str(tmp_path / "organs"), cache_dir=str(tmp_path / "cache"))
    assert read_dataset_task(tmp_path / "organs") == ORGANS
    for split, name in {"train": "a", "validation": "b", "test": "c"}.items():
        (row,) = rows[split]
        seen = [None if mask is None else np.asarray(mask) for mask in row["masks"]]
        assert [mask is None for mask in seen] == [mask is None for mask in MASKS[name]]
        known = [mask for mask in seen if mask is not None]
        assert all(mask.shape == (30, 40) and set(np.unique(mask)) <= {0, 255} for mask in known)
        # the picture is its masks, shrunk by another filter: they agree but at borders
        assert np.mean((np.asarray(row["image"]) > 127) != np.any(known, axis=0)) < 0.02
    counts = {split: summary["labels"]["heart"] for split, summary in report["splits"].items()}
    assert [counts[split]["positive"] for split in ("train", "validation", "test")] == [1, 0, 0]
    assert counts["validation"]["unknown"] == 1 and counts["test"]["negative"] == 1


def test_the_card_says_what_kind_it_is_and_classification_refuses_it(tmp_path):
    build_dataset(release(), tmp_path / "organs", size=80, num_workers=1)
    card = (tmp_path / "organs" / "README.md").read_text()
    assert "ark_kind: segmentation" in card and "- image-segmentation" in card
    assert '["masks"]' in card and "ark-hf evaluate" not in card and "a pixel is in one at most" in card
    with pytest.raises(ValueError, match="holds segmentation masks"):
        read_task(tmp_path / "organs")


@pytest.mark.parametrize(
    "masks, task, reason",
    [
        ([square(0, 30)[:, :70], None], ORGANS, r"line 0: the mask of 'lungs' is 70 x 60, and the image 80 x 60"),
        ([np.zeros((3, 60, 80), dtype=bool), None], ORGANS, "is 80 x 60 x 3, and the image 80 x 60"),
        ([square(0, 30), square(29, 40)], ORGANS, "'heart' shares 30 pixels with the masks before it"),
        ([None, None], ORGANS, "none of its masks is known"),
        ([square(0, 30)], ORGANS, r"line 0: 1 masks for the labels \['lungs', 'heart'\]"),
        ([square(0, 30) * np.uint8(2), None], ORGANS, "'lungs' holds uint8, not true and false"),
    ],
)
def test_masks_that_do_not_fit_are_refused_by_file(tmp_path, masks, task, reason):
    white = {"read_image": lambda row: np.full((1, 60, 80), 255, np.uint8), "read_masks": lambda row: masks}
    with pytest.raises(ValueError, match=reason):
        build_dataset(release(task, "a", **white), tmp_path / "organs", num_workers=1)


def test_overlapping_labels_may_share_pixels(tmp_path):
    task = SegmentationTask("lesions", ["lungs", "nodule"], overlapping=True)
    masks = [square(0, 30), square(10, 12)]
    report = build_dataset(
        release(task, "a", read_masks=lambda row: masks), tmp_path / "lesions", size=80, num_workers=1
    )
    assert report["splits"]["train"]["labels"]["nodule"]["positive"] == 1


def test_a_label_that_no_image_has_is_refused(tmp_path):
    nowhere = {"read_masks": lambda row: [square(0, 30), np.zeros((60, 80), dtype=bool)]}
    with pytest.raises(ValueError, match="none of the 3 images has a pixel of 'heart'"):
        build_dataset(release(**nowhere), tmp_path / "organs", num_workers=1)


def test_the_spacing_of_pixels_grows_as_pictures_shrink_and_is_unknown_if_they_shrink_differently(tmp_path):
    task = SegmentationTask("organs", ["lungs", "heart"], pixel_spacing=[0.2, 0.3])
    sizes = {"b": 60}

    def cut(array: np.ndarray, row: Row) -> np.ndarray:
        return array[..., : sizes.get(row.masks), :]

    differing = release(
        task,
        read_image=lambda row: cut(picture(row), row),
        read_masks=lambda row: [mask if mask is None else cut(mask, row) for mask in MASKS[row.masks]],
    )
    for size, height, spacing in ((80, 60, [0.2, 0.3]), (40, 60, [0.4, 0.6]), (79, 59, None), (80, 59, [0.2, 0.3])):
        sizes["b"] = height
        build_dataset(differing, tmp_path / f"{size}-{height}", size=size, num_workers=1)
        assert read_dataset_task(tmp_path / f"{size}-{height}").pixel_spacing == spacing
    report = json.loads((tmp_path / "79-59" / "build_report.json").read_text())
    assert "their pixels have no spacing in common" in report["remarks"][0]


def test_a_segmentation_without_a_reader_of_masks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="read_masks"):
        build_dataset(release(read_masks=None), tmp_path / "organs", num_workers=1)


def test_a_shrunken_pixel_is_in_where_more_than_half_of_it_was():
    mask = np.zeros((4, 8), dtype=bool)
    mask[:, :3] = True
    mask[0, 4:6] = True
    np.testing.assert_array_equal(
        shrink_mask(mask, (2, 4)), [[True, False, False, False], [True, False, False, False]]
    )
