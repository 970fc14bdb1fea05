"""Age, sex and view from DICOM headers: only where asked for, and only where the tables say nothing."""

import csv

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ark_hf.cli.main import main
from ark_hf.data.rows import Release, Row
from ark_hf.data.sources.dicom_rows import add_dicom_metadata
from ark_hf.models.ark.configuration_ark import ArkTask

from ..images.test_dicom import chest_like, make_dicom, save


@pytest.fixture
def release(tmp_path) -> Release:
    """Two DICOM files, a damaged one and a PNG."""
    tags = {"PatientAge": "034Y", "PatientSex": "F", "ViewPosition": "AP"}
    for name in ("one.dcm", "two.dcm"):
        save(make_dicom(chest_like(np.uint16, 4095), 12, **tags), tmp_path / name)
    (tmp_path / "bad.dcm").write_bytes(b"")
    Image.fromarray(chest_like(np.uint8, 255)).save(tmp_path / "three.png")
    known = [{"sex": None, "age": None}, {"sex": "M"}, {}, {"view": "PA"}]
    rows = [
        Row(f"labels.csv, line {number}", tmp_path / name, "train", [1.0], {"image_id": name, **metadata})
        for number, (name, metadata) in enumerate(
            zip(("one.dcm", "two.dcm", "bad.dcm", "three.png"), known, strict=True), 2
        )
    ]
    return Release(ArkTask("lungs", ["Edema"]), rows)


def test_tables_win_over_headers_and_others_stay_as_they_are(release):
    filled, asked = add_dicom_metadata(release, ["age", "sex", "view"])
    assert asked == 2
    assert [row.metadata for row in filled.rows] == [
        {"image_id": "one.dcm", "sex": "F", "age": 34.0, "view": "AP"},
        {"image_id": "two.dcm", "sex": "M", "age": 34.0, "view": "AP"},
        {"image_id": "bad.dcm"},
        {"image_id": "three.png", "view": "PA"},
    ]
    assert release.rows[0].metadata == {"image_id": "one.dcm", "sex": None, "age": None}
    filled, _ = add_dicom_metadata(release, ["view"])
    assert filled.rows[0].metadata == {"image_id": "one.dcm", "sex": None, "age": None, "view": "AP"}


def test_other_tags_and_releases_without_dicom_are_refused(release):
    with pytest.raises(ValueError, match="asked for .* alone"):
        add_dicom_metadata(release, ["PatientName"])
    release.rows = release.rows[2:]
    with pytest.raises(ValueError, match="none of the 2 images is a DICOM file"):
        add_dicom_metadata(release, ["age"])


def test_built_columns_are_those_that_were_asked_for(release, tmp_path, capsys):
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "Edema"], ["one.dcm", "train", 1], ["two.dcm", "test", 0]])
    noisy = chest_like(np.uint16, 4095)[::-1]
    save(make_dicom(noisy, 12, PatientAge="006M", PatientSex="M", ViewPosition="PA"), tmp_path / "two.dcm")
    common = ["data", "build", "generic", "--raw", str(tmp_path), "--labels", "Edema", "--name", "lungs", "--out"]
    assert main([*common, str(tmp_path / "asked"), "--dicom_metadata", "age", "sex"]) == 0
    assert "age, sex: looked up in 2 of 2 images." in capsys.readouterr().out
    assert main([*common, str(tmp_path / "plain")]) == 0
    for name, columns in (("asked", ["sex", "age"]), ("plain", [])):
        (row,) = pq.read_table(next((tmp_path / name / "data").glob("test-*"))).drop_columns("image").to_pylist()
        assert list(row) == ["labels", "image_id", *columns]
        assert [row[column] for column in columns] == ["M", 0.5][: len(columns)]
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".dcm":
            assert b"entinel" not in path.read_bytes(), path
