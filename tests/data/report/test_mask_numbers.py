"""The data report of datasets with masks: presence and areas as drawn, masks on the contact sheet."""

import io
import shutil

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ark_hf.cli.main import main
from ark_hf.data.report.numbers import describe_dataset, small_jpeg
from tests.data.sources.test_generic_masks import stored
from tests.pages.html_page import Page


def test_presence_and_areas_are_those_of_the_masks(phantom_masks):
    folder = phantom_masks["phantom_findings"]
    report, thumbnails = describe_dataset(folder)
    labels = report["task"]["labels"]
    unknown = 0
    rows = stored(folder).values()
    for split, numbers in report["splits"].items():
        for place, label in enumerate(labels):
            masks = [row["masks"][place] for row in rows if row["split"] == split]
            areas = [mask.mean() for mask in masks if mask is not None]
            positive = [area for area in areas if area]
            lacking = len(masks) - len(areas)
            assert numbers["labels"][label] == {
                "positive": len(positive),
                "negative": len(areas) - len(positive),
                "uncertain": 0,
                "unknown": lacking,
            }
            unknown += lacking
            if positive:
                assert numbers["areas"][label]["median"] == pytest.approx(np.median(positive))
                assert numbers["areas"][label]["max"] == pytest.approx(max(positive))
            else:
                assert label not in numbers["areas"]
    assert unknown and {thumbnail.label for thumbnail in thumbnails} <= set(labels) and thumbnails


@pytest.mark.slow_ci  # figures
def test_the_page_tells_of_masks(phantom_masks, tmp_path):
    folder = phantom_masks["phantom_organs"]
    assert main(["data", "report", str(folder), "--out", str(tmp_path)]) == 0
    texts = Page((tmp_path / "report.html").read_text()).texts
    assert any("segmentation, exclusive" in text for text in texts)
    assert any("How much of an image the label covers" in text for text in texts)


def test_damaged_masks_are_refused_by_file_and_row(phantom_masks, tmp_path):
    folder = tmp_path / "organs"
    shutil.copytree(phantom_masks["phantom_organs"], folder)
    (path,) = (folder / "data").glob("test-*.parquet")
    table = pq.read_table(path)
    masks = table["masks"].to_pylist()
    masks[1] = masks[1][:1]
    place = table.column_names.index("masks")
    pq.write_table(table.set_column(place, "masks", pa.array(masks, table.schema.field("masks").type)), path)
    with pytest.raises(ValueError, match=f"Cannot read {path}: row 1: 1 masks for the 2 labels"):
        describe_dataset(folder)


def test_a_thumbnail_is_tinted_where_the_mask_is():
    pixels = np.full((1, 300, 200), 100, np.uint8)
    mask = np.zeros((300, 200), dtype=bool)
    mask[150:] = True
    small = np.asarray(PIL.Image.open(io.BytesIO(small_jpeg(pixels, mask)))).astype(int)
    assert small.shape == (176, 117, 3)
    assert np.ptp(small[:80], axis=-1).max() < 12 and np.ptp(small[100:], axis=-1).min() > 40
