"""`ark-hf data build NAME` end to end: tiny releases of every dataset become task datasets that load."""

import math
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from ark_hf.cli.main import main
from ark_hf.data.task_dataset import load_task_dataset
from tests.data.sources.tiny_releases import RELEASES, TinyRelease


def draw(path: Path) -> None:
    random = np.random.default_rng(zlib.crc32(str(path).encode()))
    PIL.Image.fromarray(random.integers(0, 256, (40, 36), dtype=np.uint8)).save(path)


def write(tiny: TinyRelease, folder: Path) -> Path:
    """The release with pictures, of which DICOM and MetaImage files are PNG, as in many people's copies."""
    images = [
        path if path.endswith((".png", ".jpg", ".jpeg")) else f"{path.rpartition('.')[0]}.png" for path in tiny.images
    ]
    return replace(tiny, images=images).write(folder, draw)


@pytest.mark.parametrize("name", RELEASES)
def test_dataset_is_built_and_loads(tmp_path, capsys, name):
    tiny = RELEASES[name]
    options = [text for option, value in tiny.options.items() for text in (f"--{option}", value)]
    raw, out = str(write(tiny, tmp_path / "raw")), tmp_path / "out"
    assert main(["data", "build", name, "--raw", raw, "--out", str(out), "--num_workers", "1", *options]) == 0
    assert "Not what the release has: images, all: " in capsys.readouterr().err
    for split in {row[0] for row in tiny.rows.values()}:
        built = {row["image_id"]: row for row in load_task_dataset(str(out), split)}
        assert set(built) == {image for image, row in tiny.rows.items() if row[0] == split}
        for image, row in built.items():
            _, labels, known = tiny.rows[image]
            stored = row["labels"]
            if not isinstance(labels, int):
                stored = [None if math.isnan(value) else value for value in stored]
            assert stored == labels
            assert {key: row[key] for key in known} == pytest.approx(known)


def test_wrong_options_and_folders_are_told_in_one_line(tmp_path, capsys):
    assert main(["data", "build", "vinbigdata", "--raw", "x", "--out", "y", "--readers", "all"]) == 2
    assert "--readers is 'all'; use one of (" in capsys.readouterr().err
    arguments = ["data", "build", "siim_acr", "--raw", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(arguments) != 0
    error = capsys.readouterr().err
    assert "There is no stage_2_train.csv or train-rle.csv below" in error and len(error.splitlines()) == 1
    assert main([*arguments, "--lists", str(tmp_path / "absent")]) != 0
    assert "absent" in capsys.readouterr().err
