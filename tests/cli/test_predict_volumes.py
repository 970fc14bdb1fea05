"""`ark-hf predict` with a Genesis: label maps in the volumes' own space, tables, slices, and what is refused."""

import csv
import gzip
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ark_hf import (
    ArkConfig,
    ArkForImageClassification,
    ArkImageProcessor,
    GenesisModel,
    load_genesis,
    predict,
    read_volume,
    write_nifti,
)
from ark_hf.cli.main import main
from ark_hf.inference.sliding_window import classify_volume, segment_volume
from tests.data.volumes.made import ct, metaimage, nifti, series
from tests.inference.genesis_models import ORGANS, OVERLAPPING, genesis_classifier, genesis_segmenter, save_genesis
from tests.inference.test_sliding_window import smooth_ct

PATIENT = "Doe^Jane"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    made = {
        "organs": genesis_segmenter(ORGANS, spacing=[2.0, 1.5, 1.25]),
        "chest": genesis_segmenter(OVERLAPPING),
        "nodule": genesis_classifier(),
    }
    return {name: save_genesis(folder / name, each) for name, each in made.items()}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Volumes of every kind, one below another folder, a picture, and volumes that cannot be read."""
    folder = tmp_path_factory.mktemp("scans")
    write_nifti(folder / "a.nii.gz", smooth_ct((9, 12, 10)))
    (folder / "b.v1.mha").write_bytes(metaimage(smooth_ct((7, 9, 8))))
    series(folder / "study" / "c series", smooth_ct((8, 7, 6)), PatientName=PATIENT)
    gap = series(folder / "study" / "gap", ct())
    gap[2].unlink()
    (folder / "flat.nii").write_bytes(nifti(np.zeros((7, 6, 1), np.int16)))
    holes = ct().voxels.astype(np.float32)
    holes[3, 2, 1] = np.nan
    (folder / "holes.nii").write_bytes(nifti(holes))
    (folder / "huge.nii").write_bytes(nifti(np.zeros((2, 2, 2), np.int16), dim=[3, 2000, 2000, 2500, 1, 1, 1, 1]))
    (folder / "cut.nii.gz").write_bytes(gzip.compress(nifti(ct().voxels))[:-40])
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "picture.png")
    return folder


@pytest.fixture(scope="module")
def ark(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("ark")
    config = ArkConfig(backbone="test_resnet", image_size=32, projector_dim=None, num_labels=2)
    ArkForImageClassification(config).save_pretrained(folder)
    ArkImageProcessor(size=32).save_pretrained(folder)
    return str(folder)


READ = {"a.nii.gz": "a", "b.v1.mha": "b.v1", "study/c series": "c_series"}
UNREADABLE = {
    "cut.nii.gz": "cut short",
    "flat.nii": "it is 2D, 7 x 6",
    "holes.nii": "1 of its 210 voxels are NaN or infinite",
    "huge.nii": "it claims 2000 x 2000 x 2500 voxels, 20.0 GB",
    "study/gap": "1 slice is missing between",
}


def read_csv(path) -> list[dict]:
    return list(csv.DictReader(path.open()))


def test_label_maps_lie_in_the_volumes_own_space(models, scans, tmp_path, capsys):
    out = tmp_path / "today.csv"
    assert main(["predict", models["organs"], str(scans), "--out", str(out), "--batch_size", "3"]) == 0
    said = capsys.readouterr()
    assert f"3 volumes are in {out} (1 .nii.gz, 1 .mha, 1 DICOM series; cpu, float32)." in said.out
    assert f"Label maps are in {tmp_path / 'today.masks'}, overlays in {tmp_path / 'today.overlays'}." in said.out
    assert "1 files left out, such as" in said.err and "picture.png" in said.err
    unreadable = {row["image"]: row["reason"] for row in read_csv(tmp_path / "today.unreadable.csv")}
    assert list(unreadable) == [str(scans / name) for name in UNREADABLE]
    for name, reason in UNREADABLE.items():
        assert reason in unreadable[str(scans / name)]

    rows, (model, processor) = read_csv(out), load_genesis(models["organs"])
    sizes = [f"organs/{label} {unit}" for label in ORGANS.labels for unit in ("voxels", "ml")]
    assert list(rows[0]) == ["image", *sizes]
    for number, (row, (path, name)) in enumerate(zip(rows, READ.items(), strict=True), start=1):
        assert row["image"] == str(scans / path)
        volume, found = (
            read_volume(scans / path),
            read_volume(tmp_path / "today.masks" / f"{number:05d}_{name}.nii.gz"),
        )
        assert found.voxels.dtype == np.uint8
        np.testing.assert_allclose(found.affine, volume.affine, atol=1e-4)
        assert np.array_equal(found.voxels, segment_volume(model, processor, volume))
        for value, label in enumerate(ORGANS.labels, start=1):
            voxels = (found.voxels == value).sum()
            assert int(row[f"organs/{label} voxels"]) == voxels
            assert float(row[f"organs/{label} ml"]) == pytest.approx(voxels * 0.7 * 0.8 * 2.5 / 1000, abs=6e-4)
        with Image.open(tmp_path / "today.overlays" / f"{number:05d}_{name}.png") as shown:
            assert shown.mode == "RGB" and not shown.info
    assert len(list((tmp_path / "today.masks").iterdir())) == len(list((tmp_path / "today.overlays").iterdir())) == 3
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert PATIENT.encode() not in (gzip.decompress(content) if path.suffix == ".gz" else content)


def test_labels_that_overlap_have_a_file_each(models, scans, tmp_path):
    out = tmp_path / "out.csv"
    written = predict(models["chest"], [scans / "a.nii.gz", scans / "study" / "c series"], out, format="long")
    assert (written.images, written.masks, written.overlays) == (2, tmp_path / "out.masks", tmp_path / "out.overlays")
    rows = read_csv(out)
    assert [row["label"] for row in rows] == OVERLAPPING.labels * 2
    for row in rows:
        mask = read_volume(tmp_path / row["mask"]).voxels
        assert (mask == int(row["value"])).sum() == int(row["voxels"]) == mask.sum()
        assert float(row["threshold"]) == (0.4 if row["label"] == "lesion" else 0.5)
    assert rows[4]["mask"] == "out.masks/00002_c_series_001_chest_lesion.nii.gz"


def test_a_long_table_says_which_value_a_label_has(models, scans, tmp_path):
    predict(models["organs"], [scans / "a.nii.gz"], tmp_path / "out.jsonl", format="long")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    found = read_volume(tmp_path / rows[0]["mask"]).voxels
    assert [(row["value"], row["threshold"]) for row in rows] == [(1, None), (2, None)]
    assert [row["voxels"] for row in rows] == [(found == value).sum() for value in (1, 2)]


def test_a_classifier_gives_probabilities(models, scans, tmp_path):
    written = predict(models["nodule"], [scans / name for name in READ], tmp_path / "out.csv")
    assert (written.images, written.masks, written.overlays) == (3, None, None)
    model, processor = load_genesis(models["nodule"])
    for row, name in zip(read_csv(tmp_path / "out.csv"), READ, strict=True):
        expected = classify_volume(model, processor, read_volume(scans / name))
        found = [float(row[column]) for column in ("nodule/nodule", "air/emphysema")]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    predict(models["nodule"], [scans / "a.nii.gz"], tmp_path / "long.csv", format="long")
    assert [row["task"] for row in read_csv(tmp_path / "long.csv")] == ["nodule", "air"]


def test_reasons_for_doubt_are_told(models, tmp_path, capsys):
    (tmp_path / "mr.nii").write_bytes(
        nifti(np.arange(210, dtype=np.int16).reshape(7, 6, 5), qform_code=0, sform_code=0)
    )
    assert (
        main(["predict", models["nodule"], str(tmp_path), "--out", str(tmp_path / "out.csv"), "--format", "long"]) == 0
    )
    (row, _) = read_csv(tmp_path / "out.csv")
    assert "its header does not say how it is oriented" in row["warnings"]
    assert "no voxel is below -200 HU: it may not be a CT in Hounsfield units" in row["warnings"]
    assert "Warning: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, words, message",
    [
        ("organs", ["--heatmaps", "maps"], "heatmaps is for radiographs"),
        ("organs", ["--second_opinion"], "second_opinion is for radiographs"),
        ("nodule", ["--crops", "ten"], "crops is for radiographs"),
        ("nodule", ["--num_workers", "2"], "num_workers is for radiographs"),
        ("nodule", ["--batch_size", "2"], "batch_size counts windows, and .* is a classifier"),
        ("organs", ["--batch_size", "0"], "--batch_size must be at least 1"),
        ("organs", ["--out", "found.nii.gz"], "predictions are written as .csv or .jsonl"),
    ],
)
def test_options_without_meaning_are_refused_by_name(
    models, scans, tmp_path, monkeypatch, capsys, name, words, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", models[name], str(scans), *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_models_and_files_that_do_not_fit_are_told_apart(models, scans, tmp_path, monkeypatch, capsys, ark):
    monkeypatch.chdir(tmp_path)
    reasons = tmp_path / "predictions.unreadable.csv"
    assert main(["predict", models["organs"], str(scans / "picture.png")]) == 1
    assert "this is a 2D picture (PNG), which models of radiographs (Ark) take" in reasons.read_text()
    assert main(["predict", models["organs"], str(next((scans / "study" / "c series").iterdir()))]) == 1
    assert "this is one file of a DICOM series; name the folder that the series lies in" in reasons.read_text()
    assert main(["predict", ark, str(scans / "a.nii.gz")]) == 1
    assert "NIfTI holds volumes, which models of volumes (Genesis)" in reasons.read_text()
    assert not (tmp_path / "predictions.masks").exists()
    capsys.readouterr()
    (tmp_path / "pictures").mkdir()
    Image.new("L", (40, 40)).save(tmp_path / "pictures" / "a.png")
    wrong = {
        "pictures": "There are no volumes in pictures, but 1 pictures, which models of radiographs",
        "absent.nii": "absent.nii does not exist",
        "https://example.org/ct.nii": "is an address, and volumes are read from files; download it first",
    }
    for path, message in wrong.items():
        assert main(["predict", models["organs"], path]) == 2
        assert message in capsys.readouterr().err


def test_a_model_without_heads_or_a_named_task_is_refused(tmp_path, scans):
    model, processor = genesis_segmenter(None, num_labels=3)
    unnamed = save_genesis(tmp_path / "unnamed", (model, processor))
    with pytest.raises(ValueError, match=r"without a named task.*`GenesisForSemanticSegmentation.from_pretrained"):
        predict(unnamed, [scans / "a.nii.gz"], tmp_path / "out.csv")
    headless = save_genesis(tmp_path / "headless", (GenesisModel(model.config), processor))
    with pytest.raises(ValueError, match="neither classifies nor outlines; `ark-hf finetune`"):
        predict(headless, [scans / "a.nii.gz"], tmp_path / "out.csv")


def test_libraries_that_are_missing_are_named_before_any_file(models, scans, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ValueError, match=r'pip install "ark-hf\[volumes\]"'):
        predict(models["organs"], [scans / "a.nii.gz"], tmp_path / "out.csv")
    assert not list(tmp_path.iterdir())


def test_label_maps_that_are_there_are_kept(models, scans, tmp_path):
    (tmp_path / "out.masks").mkdir()
    (tmp_path / "out.masks" / "mine.nii.gz").touch()
    with pytest.raises(ValueError, match="out.masks exists and is not empty"):
        predict(models["organs"], [scans / "a.nii.gz"], tmp_path / "out.csv")


@pytest.mark.slow_ci
def test_two_processes_share_the_volumes_out(models, scans, tmp_path):
    words = [models["organs"], str(scans), "--out"]
    assert main(["predict", *words, str(tmp_path / "one.csv")]) == 0
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ark_hf.cli"]
    command = [sys.executable, "-m", *launcher, "predict", *words, str(tmp_path / "two.csv")]
    done = subprocess.run(command, env=os.environ | {"ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("csv", "unreadable.csv"):
        assert (tmp_path / f"two.{name}").read_text() == (tmp_path / f"one.{name}").read_text()
    for kind in ("masks", "overlays"):
        one, two = (sorted((tmp_path / f"{run}.{kind}").iterdir()) for run in ("one", "two"))
        assert [path.name for path in one] == [path.name for path in two]
        assert all(first.read_bytes() == second.read_bytes() for first, second in zip(one, two, strict=True))
