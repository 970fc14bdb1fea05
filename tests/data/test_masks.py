"""Stored masks: what is read, what is refused, and that they follow their picture."""

import io

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from datasets.table import InMemoryTable
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import EpsImagePlugin

from ark_hf import ArkImageProcessor, SegmentationTask, open_dataset
from ark_hf.data.build.pictures import encode_png
from ark_hf.data.loading import open_stored
from ark_hf.data.masks import (
    UNKNOWN,
    MaskInferenceSamples,
    MaskTrainingSamples,
    as_labels,
    mask_planes,
    read_masks,
    read_presence,
)

EXCLUSIVE = SegmentationTask("organs", ["lungs", "heart"])
OVERLAPPING = SegmentationTask("organs", ["lungs", "heart"], overlapping=True)
LEFT, RIGHT, ALL = np.zeros((3, 40, 40), dtype=bool)
LEFT[:, :15], RIGHT[:, 22:], ALL[:] = True, True, True
FEATURES = Features({"image": Image(), "masks": List(Image()), "image_id": Value("string")})


def cell(mask, values=(0, 255)):
    if mask is None or isinstance(mask, dict):
        return mask
    return encode_png(np.where(mask, values[1], values[0]).astype(np.uint8))


def coloured() -> dict:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (40, 40)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def rows(*of_images, picture=None) -> Dataset:
    stored = encode_png(np.zeros((40, 40), np.uint8) if picture is None else picture)
    listed = [
        {"image": stored, "masks": list(map(cell, masks)), "image_id": str(number)}
        for number, masks in enumerate(of_images)
    ]
    return Dataset(InMemoryTable(pa.Table.from_pylist(listed, schema=FEATURES.arrow_schema)))


def test_presence_is_that_of_the_masks():
    found = read_presence(rows((LEFT, None), (~ALL, RIGHT)), EXCLUSIVE, "here")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, np.nan], [0, 1]])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ((LEFT,), r"1 masks for the 2 labels \['lungs', 'heart'\]"),
        ((None, None), "none of its masks is known"),
        ((LEFT, RIGHT[:20]), "its masks differ in size: 40 x 20 and 40 x 40"),
        ((LEFT[:20], RIGHT[:20]), "its masks are 40 x 20, and its picture 40 x 40"),
        ((LEFT, ALL), "its masks share pixels; labels that may overlap make an overlapping task"),
        (
            (LEFT, cell(RIGHT, (0, 128))),
            "the mask of 'heart' has the values 0, 128; a mask has 0 and one of 1 and 255",
        ),
        ((LEFT, {"bytes": b"\x89PNG", "path": None}), "the mask of 'heart' cannot be decoded"),
        ((LEFT, {"bytes": None, "path": None}), "the mask of 'heart' cannot be decoded"),
        ((LEFT, {"bytes": b"%!PS-Adobe-3.0", "path": None}), "the mask of 'heart' cannot be decoded"),
        ((coloured(), RIGHT), "the mask of 'lungs' is a picture of mode RGB; masks are grey"),
    ],
)
def test_masks_that_cannot_be_used_are_refused_by_their_row(masks, message):
    with pytest.raises(ValueError, match=rf"^here, row 1: .*{message}"):
        read_presence(rows((LEFT, RIGHT), masks), EXCLUSIVE, "here")


@given(npst.arrays(bool, (3, 5, 6)), st.lists(st.booleans(), min_size=3, max_size=3).filter(any), st.booleans())
def test_targets_are_the_masks_and_tell_what_is_unknown(masks, known, overlapping):
    if not overlapping:
        masks[1] &= ~masks[0]
        masks[2] &= ~(masks[0] | masks[1])
    task = SegmentationTask("organs", ["a", "b", "c"], overlapping)
    given_masks = [mask if is_known else None for mask, is_known in zip(masks, known, strict=True)]
    labels = as_labels([mask_planes(given_masks, task)], task)[0]
    if overlapping:
        assert labels.dtype == torch.float32
        for plane, mask in zip(labels, given_masks, strict=True):
            assert torch.isnan(plane).all() if mask is None else np.array_equal(plane, mask)
        return
    assert labels.dtype == torch.int64
    for number, mask in enumerate(given_masks, start=1):
        assert np.array_equal(labels == number, np.zeros((5, 6), bool) if mask is None else mask)
    assert set(labels.unique().tolist()) <= ({0, 1, 2, 3} if all(known) else {1, 2, 3, UNKNOWN})


def test_no_other_program_is_asked_to_draw_a_mask_or_a_picture(monkeypatch):
    """Pillow hands PostScript to Ghostscript, of which a stranger's dataset may hold any."""
    content = io.BytesIO()
    PIL.Image.fromarray(np.zeros((40, 40), np.uint8)).save(content, "EPS")
    drawn = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: drawn.append(1))
    postscript = {"bytes": content.getvalue(), "path": None}
    with pytest.raises(ValueError, match="the mask of 'heart' cannot be decoded"):
        read_masks([cell(LEFT), postscript], EXCLUSIVE)
    data = rows((LEFT, RIGHT))
    table = data.data.table.set_column(0, "image", pa.array([postscript], FEATURES.arrow_schema.field("image").type))
    with pytest.raises(ValueError, match="row 0: its picture: this is no PNG"):
        read_presence(Dataset(InMemoryTable(table.cast(FEATURES.arrow_schema))), EXCLUSIVE, "here")
    with pytest.raises(ValueError, match="this is no PNG"):
        open_stored(postscript)
    assert not drawn


def test_a_cell_names_a_file_of_this_machine_and_no_address(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("it was asked for"))
    path = tmp_path / "chest.png"
    PIL.Image.fromarray(picture_of_masks()).save(path)
    assert np.array_equal(open_stored({"bytes": None, "path": str(path)}), picture_of_masks())
    for name in ("http://127.0.0.1:9/chest.png", "hf://datasets/someone/x/chest.png", "", None):
        with pytest.raises(ValueError, match="no such file|neither bytes nor a path"):
            open_stored({"bytes": None, "path": name})


def picture_of_masks() -> np.ndarray:
    return np.where(LEFT, 100, np.where(RIGHT, 200, 0)).astype(np.uint8)


@pytest.mark.parametrize("task", [EXCLUSIVE, OVERLAPPING])
def test_masks_follow_the_picture_through_every_view(task):
    """The picture shows its own masks in grey, so that each pixel of a view tells what its label must be."""
    samples = MaskTrainingSamples(
        rows(*[(LEFT, RIGHT)] * 12, picture=picture_of_masks()), task, ArkImageProcessor(size=32), 0, 0, 37, 32, 0.4
    )
    batch = samples.collate(samples.__getitems__(list(range(12))))
    grey = batch["pixel_values"][:, 0].float()
    labels = batch["labels"]
    lungs, heart = labels.unbind(1) if task.overlapping else (labels == 1, labels == 2)
    unlike = 0
    for view, left, right in zip(grey, lungs.bool(), heart.bool(), strict=True):
        middle = [view[where].median() for where in (left, right) if where.any()]  # after a change of intensities
        assert middle == sorted(middle)
        if left.any() and right.any():
            shown = (view > (middle[0] + middle[1]) / 2) & ~left
            unlike += int((shown != right).sum())
    assert unlike < 0.02 * grey.numel()  # of borders, which a picture's interpolation makes grey


def test_views_are_drawn_by_seed_cycle_and_name_alone():
    data = rows(*[(LEFT, RIGHT)] * 2, picture=picture_of_masks())
    samples = MaskTrainingSamples(data, EXCLUSIVE, ArkImageProcessor(size=32), 0, 0, 37, 32, 0.4)
    first, second = (sample["target"] for sample in samples.__getitems__([0, 1]))
    assert not torch.equal(first, second)
    assert torch.equal(samples[1]["target"], second)
    samples.cycle = 1
    assert not torch.equal(samples[1]["target"], second)


def test_whole_pictures_have_their_masks_at_both_sizes():
    samples = MaskInferenceSamples(rows((LEFT, None)), EXCLUSIVE, ArkImageProcessor(size=20))
    batch = samples.collate(samples.__getitems__([0]))
    assert (batch["pixel_values"].shape, batch["labels"].shape) == ((1, 3, 20, 20), (1, 20, 20))
    np.testing.assert_array_equal(batch["masks"][0][0], LEFT)
    assert batch["masks"][0][1] is None
    # 255: outside what is known of the one label, the other may be there
    np.testing.assert_array_equal(batch["labels"][0], np.where(LEFT[1::2, 1::2], 1, UNKNOWN))


def test_a_dataset_with_masks_is_opened_and_checked(phantom_masks):
    data = open_dataset(phantom_masks["phantom_findings"])
    assert isinstance(data.task, SegmentationTask) and data.task.overlapping
    present = data.targets("train")
    assert present.shape == (9, len(data.task.labels))
    assert data.facts["splits"]["train"]["labels"]["lungs"]["positive"] == 9
    assert len(data.select("train", [4, 2]).targets("train")) == 2
    masks = [read_masks(row["masks"], data.task) for row in rows_of(data, "train")]
    expected = [[np.nan if mask is None else mask.any() for mask in of_row] for of_row in masks]
    np.testing.assert_array_equal(present, np.array(expected, dtype=float))


def rows_of(data, split):
    return data.splits[split].cast_column("masks", List(Image(decode=False)))


def test_the_digest_is_of_the_masks_too(phantom_masks):
    data = open_dataset(phantom_masks["phantom_organs"], ["validation"])
    moved = data.splits["validation"].cast_column("masks", List(Image(decode=False)))
    moved = moved.map(lambda row: {"masks": row["masks"][::-1]}, features=moved.features)
    other = open_dataset(phantom_masks["phantom_organs"], ["validation"])
    other.splits["validation"] = moved
    assert data.digest() == open_dataset(phantom_masks["phantom_organs"], ["validation"]).digest() != other.digest()
