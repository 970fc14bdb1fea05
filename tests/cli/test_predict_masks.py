"""`ark-hf predict` with a segmenter: tables of areas, every mask at the picture's size, overlays, what is refused."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ark_hf import predict
from ark_hf.cli.main import main
from tests.data.images.test_dicom import make_dicom, save
from tests.inference.segmenters import ORGANS, OVERLAPPING, SIZE, save_segmenter, tiny_segmenter
from tests.wrong_inputs import chest


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {task.name: save_segmenter(folder / task.name, task) for task in (ORGANS, OVERLAPPING)}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A picture that is not square, one that is none, one in colour, and a DICOM file with the size of its pixels."""
    folder = tmp_path_factory.mktemp("scans")
    Image.fromarray(chest()[:100]).save(folder / "a.png")
    (folder / "b.png").write_text("not a picture")
    Image.new("RGB", (80, 70), "red").save(folder / "c.png")
    save(make_dicom(chest(), 8, PixelSpacing=[2.5, 2.0]), folder / "d.dcm")
    return folder


def read_csv(path) -> list[dict]:
    return list(csv.DictReader(path.open()))


def test_a_row_an_image_and_a_picture_a_mask(models, scans, tmp_path, capsys):
    out = tmp_path / "today.csv"
    assert main(["predict", models["organs"], str(scans), "--out", str(out), "--batch_size", "2"]) == 0
    said = capsys.readouterr()
    assert f"Masks are in {tmp_path / 'today.masks'}, overlays in {tmp_path / 'today.overlays'}." in said.out
    assert "c.png: it is in colour" in said.err
    assert "b.png" in (tmp_path / "today.unreadable.csv").read_text()
    rows, width = read_csv(out), chest().shape[1]
    shapes = {"a.png": (100, width), "c.png": (70, 80), "d.dcm": chest().shape}
    areas = [f"organs/{label} {unit}" for label in ORGANS.labels for unit in ("pixels", "mm2")]
    assert list(rows[0]) == ["image", *areas, "cardiothoracic_ratio"]
    assert [os.path.basename(row["image"]) for row in rows] == list(shapes)
    for number, (row, (name, shape)) in enumerate(zip(rows, shapes.items(), strict=True), start=1):
        beginning = f"{number:05d}_{name[0]}"
        for column, label in enumerate(ORGANS.labels):
            with Image.open(tmp_path / "today.masks" / f"{beginning}_{column:03d}_organs_{label}.png") as mask:
                assert mask.mode == "1"
                mask = np.asarray(mask)
            pixels = int(row[f"organs/{label} pixels"])
            assert mask.shape == shape and mask.sum() == pixels
            assert row[f"organs/{label} mm2"] == (f"{5 * pixels:.1f}" if name == "d.dcm" else "")
        with Image.open(tmp_path / "today.overlays" / f"{beginning}.jpg") as shown:
            assert shown.width == shape[1] and shown.height >= shape[0]
    assert len(list((tmp_path / "today.masks").iterdir())) == 6
    assert len(list((tmp_path / "today.overlays").iterdir())) == 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_row_an_image_and_label(models, scans, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    written = predict(models["chest"], [scans], out, format="long")
    assert (written.images, written.masks, written.overlays) == (3, tmp_path / "out.masks", tmp_path / "out.overlays")
    rows = read_csv(out) if suffix == "csv" else [json.loads(line) for line in out.open()]
    assert [row["label"] for row in rows] == OVERLAPPING.labels * 3
    for row in rows:
        assert float(row["threshold"]) == (0.4 if row["label"] == "heart" else 0.5)
        mask = np.asarray(Image.open(tmp_path / row["mask"]))
        assert mask.sum() == int(row["pixels"])
        if not mask.any():
            assert row["score"] in ("", None)
        else:
            assert float(threshold := row["threshold"]) <= float(row["score"]) <= 1, threshold
    assert any(np.asarray(Image.open(tmp_path / row["mask"])).any() for row in rows)
    known = [row["mm2"] not in ("", None) for row in rows]
    assert known == [False] * 8 + [True] * 4
    assert bool(rows[4]["warnings"]) and not rows[0]["warnings"]


@pytest.mark.parametrize("options", [["--crops", "ten"], ["--second_opinion"], ["--heatmaps", "heat"]])
def test_what_is_for_classifiers_is_refused(models, scans, tmp_path, options, capsys):
    assert main(["predict", models["organs"], str(scans), "--out", str(tmp_path / "x.csv"), *options]) == 2
    name = options[0].removeprefix("--")
    assert f"{name} is for classifiers, and {models['organs']} is a segmenter" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_masks_that_are_there_are_not_mixed_with_others(models, scans, tmp_path, capsys):
    (tmp_path / "x.masks").mkdir()
    (tmp_path / "x.masks" / "mine.png").touch()
    assert main(["predict", models["organs"], str(scans), "--out", str(tmp_path / "x.csv")]) == 2
    assert "x.masks exists and is not empty; delete it or choose another out" in capsys.readouterr().err


def test_a_segmenter_without_a_named_task_is_refused_with_the_remedy(scans, tmp_path, capsys):
    model = save_segmenter(tmp_path / "unnamed", None, num_labels=3)
    assert main(["predict", model, str(scans), "--out", str(tmp_path / "x.csv")]) == 2
    said = capsys.readouterr().err
    assert "a segmenter without a named task" in said and "segmentation=SegmentationTask('organs', ['LABEL_1'" in said
    named = tiny_segmenter(None, num_labels=3).from_pretrained(model, segmentation=ORGANS)
    named.save_pretrained(model)
    assert predict(model, [scans / "a.png"], tmp_path / "x.csv").images == 1


def test_a_processor_that_crops_is_refused(scans, tmp_path, capsys):
    model = save_segmenter(tmp_path / "crops", ORGANS, {"size": 40, "do_center_crop": True, "crop_size": SIZE})
    assert main(["predict", model, str(scans), "--out", str(tmp_path / "x.csv")]) == 2
    assert "Masks are of whole pictures" in capsys.readouterr().err


def test_nothing_that_can_be_read_writes_no_masks(models, scans, tmp_path, capsys):
    assert main(["predict", models["organs"], str(scans / "b.png"), "--out", str(tmp_path / "x.csv")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.unreadable.csv"]


@pytest.mark.slow_ci
def test_two_processes_write_what_one_writes(models, scans, tmp_path):
    def command(name: str) -> list[str]:
        out = str(tmp_path / name / "out.csv")
        return ["predict", models["chest"], str(scans), "--out", out, "--format", "long", "--batch_size", "1"]

    assert main(command("one")) == 0
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ark_hf.cli"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(
        [sys.executable, "-m", *launcher, *command("two")], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("3 images are in") == 1
    one, other = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*.*") if p.is_file()}
        for f in (tmp_path / "one", tmp_path / "two")
    )
    assert len([path for path in one if path.suffix == ".png"]) == 12
    tables = [read_csv(tmp_path / name / "out.csv") for name in ("one", "two")]
    for row, same in zip(*tables, strict=True):
        assert float(row.pop("score") or 0) == pytest.approx(float(same.pop("score") or 0), abs=1e-5)
    tables_aside = [{path: each for path, each in files.items() if path.name != "out.csv"} for files in (one, other)]
    assert tables[0] == tables[1] and tables_aside[0] == tables_aside[1]
