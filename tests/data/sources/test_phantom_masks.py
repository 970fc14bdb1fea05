"""The phantoms' segmentation datasets: the drawn masks, and what the site does not know."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ark_hf import PHANTOM_SITES, draw_phantom_image
from ark_hf.cli.main import main
from ark_hf.data.build.masks import MaskStore
from ark_hf.data.sources.phantom_sites import MASK_TASKS
from ark_hf.data.task_dataset import read_dataset_task

SITE = PHANTOM_SITES["phantom_city"]
COUNTS = {"train": 24, "validation": 1, "test": 2}


def stored_rows(folder: Path, split: str) -> list[dict]:
    (path,) = (folder / "data").glob(f"{split}-*.parquet")
    features = MaskStore.features()
    return [features.decode_example(row) for row in pq.read_table(path, columns=list(features)).to_pylist()]


def test_datasets_hold_the_drawn_masks_and_none_where_the_site_does_not_know(tmp_path, capsys):
    counts = [word for split, count in COUNTS.items() for word in (f"--{split}", str(count))]
    assert main(["data", "build", "phantom_masks", "--out", str(tmp_path / "masks"), "--size", "40", *counts]) == 0
    assert "phantom_organs: 24 train, 1 validation, 2 test." in capsys.readouterr().out
    unknown = []
    for name, task in MASK_TASKS.items():
        folder = tmp_path / "masks" / name
        assert read_dataset_task(folder) == task and "- phantom" in (folder / "README.md").read_text()
        for split, count in COUNTS.items():
            rows = stored_rows(folder, split)
            assert len(rows) == count
            for index, row in enumerate(rows):
                drawn = draw_phantom_image(SITE, split, index, 40)
                np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(drawn["image"]))
                reported = dict(zip(SITE.labels, drawn["labels"], strict=True))
                for label, mask in zip(task.labels, row["masks"], strict=True):
                    if np.isnan(reported.get(label, 0)):
                        assert mask is None
                        unknown.append(label)
                    else:
                        place = drawn["masks"].get(label, np.zeros((row["image"].height, row["image"].width)))
                        np.testing.assert_array_equal(np.asarray(mask) > 0, place)
    assert unknown
