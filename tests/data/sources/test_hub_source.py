"""Somebody else's dataset, in folders as the Hub would hold it, rewritten as a task dataset."""

import math
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Nifti, Value

from ark_hf.cli.main import main
from ark_hf.data.build.build import build_dataset
from ark_hf.data.radiograph import read_radiograph
from ark_hf.data.rows import Release
from ark_hf.data.sources.dicom_rows import add_dicom_metadata
from ark_hf.data.sources.hub_source import HubSource, read_hub
from ark_hf.data.task_dataset import load_task_dataset, read_task, split_names
from ark_hf.data.volumes.nifti import encode_nifti, stored_volume
from ark_hf.models.ark.configuration_ark import ArkTask
from tests.data.images.test_dicom import make_dicom, save
from tests.data.images.test_metaimage import metaimage
from tests.data.volumes.made import ct
from tests.wrong_inputs import chest

from ..build.generated import contents, draw_picture

KINDS = ClassLabel(names=["No Finding", "Mass", "Edema"])


def picture(number: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 24), dtype=np.uint8))


def write(folder: Path, split: str, features: dict, **columns) -> None:
    """Parquet files as on the Hub, with `img` beside the columns."""
    count = len(next(iter(columns.values())))
    table = {"img": [picture(number + len(split)) for number in range(count)], **columns}
    folder.mkdir(exist_ok=True)
    Dataset.from_dict(table, features=Features({"img": Image()} | features)).to_parquet(folder / f"{split}.parquet")


def read(folder: Path, **options) -> Release:
    return read_hub(HubSource(str(folder), "foreign", image_column="img", **options))


def labels(release: Release) -> list:
    return [row.labels for row in release.rows]


def test_columns_of_labels_and_metadata_are_mapped_and_pictures_kept(tmp_path):
    features = {"TB": Value("int64"), "Mass": Value("float64"), "who": Value("int64"), "sex": Value("string")}
    columns = {"TB": [1, None, 0], "Mass": [0.0, -1.0, math.nan], "who": [7, 7, None], "sex": ["F", "", None]}
    write(tmp_path / "in", "train", features, **columns)
    features = {"TB": Value("int64"), "Mass": Value("float64"), "who": Value("int64"), "sex": Value("string")}
    write(tmp_path / "in", "test", features, TB=[1], Mass=[1.0], who=[8], sex=["M"])
    release = read(tmp_path / "in", labels=["TB", "Mass"], patient_column="who", modality="OP")
    np.testing.assert_equal(labels(release), [[1, 0], [math.nan, -1], [0, math.nan], [1, 1]])
    assert [row.where for row in release.rows] == ["train, row 0", "train, row 1", "train, row 2", "test, row 0"]
    assert [row.metadata["patient_id"] for row in release.rows] == ["7", "7", None, "8"]
    report = build_dataset(release, tmp_path / "out", num_workers=1)
    assert report["rows"] == {"train": 3, "validation": 0, "test": 1}
    assert read_task(tmp_path / "out") == ArkTask("foreign", ["TB", "Mass"], modality="OP")
    for number, stored in enumerate(load_task_dataset(tmp_path / "out", "train")):
        np.testing.assert_array_equal(np.asarray(stored["image"]), np.asarray(picture(number + 5)))
        assert (stored["image_id"], stored["sex"]) == (f"train/{number}", ["F", None, None][number])


@pytest.mark.parametrize(
    ("feature", "values", "options", "names", "expected"),
    [
        (KINDS, [1, -1, 2], {}, ["No Finding", "Mass", "Edema"], [1, -1, 2]),
        (Value("string"), ["b", "", "a"], {}, ["a", "b"], [1, -1, 0]),
        (Value("int64"), [3, None, 1], {}, ["1", "3"], [1, -1, 0]),
        (Value("string"), ["b", None, "a"], {"classes": ["b", "a", "c"]}, ["b", "a", "c"], [0, -1, 1]),
        (Value("bool"), [True, False, None], {}, ["0", "1"], [1, 0, -1]),
    ],
)
def test_a_column_of_classes(tmp_path, feature, values, options, names, expected):
    write(tmp_path / "in", "train", {"kind": feature}, kind=values)
    release = read(tmp_path / "in", label_column="kind", **options)
    assert release.task == ArkTask("foreign", names, "single_label_classification")
    assert labels(release) == expected


@pytest.mark.parametrize(
    ("feature", "values", "options"),
    [
        (List(KINDS), [[1, 2], [0], None, [2]], {}),
        (List(Value("string")), [["Edema", "Mass"], ["No Finding"], [], ["Edema"]], {"classes": ["Mass", "Edema"]}),
        (Value("string"), ["Mass,Edema", "no_finding", "", "Edema"], {"classes": ["Mass", "Edema"], "separator": ","}),
    ],
    ids=["classes", "texts", "separated"],
)
def test_a_column_of_lists(tmp_path, feature, values, options):
    write(tmp_path / "in", "train", {"found": feature}, found=values)
    release = read(tmp_path / "in", label_column="found", **options)
    assert release.task == ArkTask("foreign", ["Mass", "Edema"])
    np.testing.assert_equal(labels(release), [[1, 1], [0, 0], [math.nan, math.nan], [0, 1]])


@pytest.mark.parametrize("feature", [Image(), Value("binary")], ids=["image", "binary"])
def test_cells_of_any_kind_that_is_read_are_built_as_their_files(tmp_path, feature):
    """`datasets` and the Hub keep DICOM as it is, with a name or without."""
    grey = chest().astype(np.uint16) * 16 + 3
    for number, name in enumerate(("a.dcm", "b.dcm")):
        dataset = make_dicom(grey // (number + 1), 12, PhotometricInterpretation="MONOCHROME1", PatientAge="061Y")
        save(dataset, tmp_path / name)
    (tmp_path / "c.mha").write_bytes(metaimage(grey, "MET_SHORT", compressed=True))
    PIL.Image.fromarray(grey).save(tmp_path / "d.tif")
    paths = [tmp_path / name for name in ("a.dcm", "b.dcm", "c.mha", "d.tif")]
    cells = [path.read_bytes() for path in paths]
    if not isinstance(feature, Value):
        cells = [{"bytes": cell, "path": name} for cell, name in zip(cells, ("a.dcm", None, None, "d"), strict=True)]
    (tmp_path / "in").mkdir()
    table = Dataset.from_dict({"img": cells, "TB": [0, 1, 0, 1]}, Features({"img": feature, "TB": Value("int64")}))
    for split in ("train", "test"):
        table.select(range(4) if split == "train" else range(1)).to_parquet(tmp_path / "in" / f"{split}.parquet")
    release, asked = add_dicom_metadata(read(tmp_path / "in", labels=["TB"]), ["age"])
    assert asked == 3 and [row.metadata["age"] for row in release.rows] == [61, 61, None, None, 61]
    build_dataset(release, tmp_path / "out", num_workers=1, allow_patient_overlap=True)
    built = load_task_dataset(tmp_path / "out", "train")["image"]
    for picture, path in zip(built, paths, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), read_radiograph(path)[0])


def test_ids_that_became_floats_stay_whole_and_metadata_are_read_as_of_tables(tmp_path):
    features = {
        "TB": ClassLabel(names=["positive", "negative"]),
        "Patient ID": Value("float64"),
        "study_id": Value("float32"),
        "Sex": ClassLabel(names=["male", "female"]),
        "age": Value("string"),
    }
    columns = {
        "TB": [0, 1, -1],
        "Patient ID": [10000032.0, 10000039.0, None],
        "study_id": [3.0, math.nan, 5.0],
        "Sex": [1, 0, -1],
        "age": ["045Y", "nan", ">89"],
    }
    write(tmp_path / "in", "train", features, **columns)
    write(tmp_path / "in", "test", features, **columns)
    release = read(tmp_path / "in", labels=["TB"])
    np.testing.assert_equal(labels(release)[:3], [[1], [0], [math.nan]])
    metadata = [row.metadata for row in release.rows[:3]]
    assert [each["patient_id"] for each in metadata] == ["10000032", "10000039", None]
    assert [each["study_id"] for each in metadata] == ["3", None, "5"]
    assert [each["sex"] for each in metadata] == ["F", "M", None] and [each["age"] for each in metadata] == [
        45,
        None,
        90,
    ]
    assert not read(tmp_path / "in", labels=["tb"], sex_column=None).problems, "columns in any case"


def test_ids_that_their_type_has_rounded_are_refused(tmp_path):
    features = {"TB": Value("int64"), "patient_id": Value("float32")}
    write(tmp_path / "in", "train", features, TB=[0, 1], patient_id=[20000001.0, 20000002.0])
    with pytest.raises(ValueError, match=r"ids in 'patient_id' are float32, which rounds those beyond 16,777,216"):
        read(tmp_path / "in", labels=["TB"])
    assert len(read(tmp_path / "in", labels=["TB"], patient_column=None).rows) == 2


def test_class_labels_that_differ_in_case_are_one(tmp_path):
    kind = ClassLabel(names=["Normal", "viral", "normal", "10"])
    write(tmp_path / "in", "train", {"kind": kind}, kind=[0, 1, 2, 3])
    release = read(tmp_path / "in", label_column="kind")
    assert release.task.labels == ["Normal", "viral", "10"] and labels(release) == [0, 1, 0, 2]
    assert "'Normal' (also 'normal')" in release.remarks[0]


def test_pictures_that_are_but_paths_come_from_the_dataset_alone(tmp_path):
    for name in ("in/a.png", "private/b.png"):
        draw_picture(tmp_path / name, 1)
    paths = [
        str(tmp_path / "in" / "a.png"),
        str(tmp_path / "private" / "b.png"),
        str(tmp_path / "in/../private/b.png"),
    ]
    rows = {"img": [{"bytes": None, "path": path} for path in paths], "TB": [0, 1, 1]}
    storage = pa.table(rows, schema=Features(img=Image(), TB=Value("int64")).arrow_schema)
    pq.write_table(storage, tmp_path / "in" / "train.parquet")
    report = build_dataset(read(tmp_path / "in", labels=["TB"]), tmp_path / "out", num_workers=1, skip_bad=True)
    assert {problem["where"] for problem in report["problems"]} >= {"train, row 1", "train, row 2"}
    assert all("leads out of the dataset" in problem["reason"] for problem in report["problems"])


@pytest.mark.slow_ci
def test_an_image_folder_is_read_too_by_two_processes_as_by_one(tmp_path):
    for number in range(40):
        kind = ("normal", "viral")[number % 2]
        draw_picture(tmp_path / "in" / "train" / kind / f"{number}.png", number)
    (tmp_path / "in" / "train" / "viral" / "7.png").write_text("no picture")
    source = HubSource(str(tmp_path / "in"), "kids", label_column="label")
    for name, processes in (("one", 1), ("two", 2)):
        report = build_dataset(read_hub(source), tmp_path / name, num_workers=processes, skip_bad=True)
        assert report["rows"] == {"train": 29, "validation": 4, "test": 6}
        (problem,) = report["problems"]
        assert problem["where"].startswith("train, row ") and problem["reason"].startswith("this is no PNG")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert "derived by a hash of the image" in report["facts"]["splits"]


def test_wrong_and_empty_rows_are_told_by_split_and_row(tmp_path):
    features = {"TB": Value("float64"), "age": Value("string")}
    write(tmp_path / "in", "train", features, TB=[1, 0.5, 0], age=["30", "31", "old"])
    release = read(tmp_path / "in", labels=["TB"])
    assert {problem.where: problem.reason for problem in release.problems} == {
        "train, row 1": "TB is '0.5': use 0, 1, -1 (uncertain) or blank (unknown), or say with --label_map what it "
        "stands for",
        "train, row 2": "age must be a number of years or blank, such as 45, 045Y, 6M or >89",
    }
    (tmp_path / "none").mkdir()
    table = Dataset.from_dict(
        {"img": [None, picture(0), picture(1)], "TB": [1, 0, 1]}, Features(img=Image(), TB=Value("int64"))
    )
    table.to_parquet(tmp_path / "none" / "train.parquet")
    report = build_dataset(read(tmp_path / "none", labels=["TB"]), tmp_path / "out", num_workers=1, skip_bad=True)
    assert report["problems"] == [{"where": "train, row 0", "reason": "the row has no image"}]


def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path):
    write(tmp_path / "in", "train", {"TB": Value("int64")}, TB=[1, 0])
    for options, message in (
        ({"labels": ["Mass"]}, r"has no columns \['Mass'\]; it has \['img', 'TB'\]"),
        ({"labels": ["TB"], "patient_column": "who"}, r"has no columns \['who'\]"),
        ({}, "either --labels"),
        ({"label_column": "TB", "classes": ["1"]}, "at least two labels"),
    ):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "in", **options)
    with pytest.raises(ValueError, match="nowhere"):
        read(tmp_path / "nowhere", labels=["TB"])
    write(tmp_path / "in", "extra", {"TB": Value("int64")}, TB=[1])
    (tmp_path / "in" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: train.parquet}\n"
        "  - {split: extra, path: extra.parquet}\n---\n"
    )
    with pytest.raises(ValueError, match=r"has the splits \['train', 'extra'\]"):
        read(tmp_path / "in", labels=["TB"])


def test_the_command_builds_from_a_folder(tmp_path, capsys):
    write(tmp_path / "in", "train", {"found": List(KINDS)}, found=[[1], [2]] * 5)
    command = ["data", "build", "hub", "--raw", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main([*command, "--name", "foreign", "--image_column", "img", "--label_column", "found"]) == 0
    told = capsys.readouterr().out
    assert "6 train, 2 validation, 2 test" in told and "Splits: The source has none" in told
    assert read_task(tmp_path / "out") == ArkTask("foreign", ["Mass", "Edema"])


def volumes(folder: Path, paths: bool = False) -> None:
    """What `niftifolder` or a map makes: a column of NIfTI, its files within or beside."""
    (folder / "nifti").mkdir(parents=True)
    cells = []
    for number in range(3):
        path = folder / "nifti" / f"{number}.nii.gz"
        path.write_bytes(encode_nifti(ct(seed=number)))
        cells.append({"path": str(path), "bytes": None} if paths else {"path": None, "bytes": path.read_bytes()})
    features = Features({"scan": Nifti(), "sick": Value("int64")})
    (folder / "data").mkdir()
    table = pa.Table.from_pylist([{"scan": each, "sick": 1} for each in cells], schema=features.arrow_schema)
    pq.write_table(table, folder / "data" / "train-0.parquet")


@pytest.mark.parametrize("paths", [False, True])
def test_volumes_are_stored_as_they_are_wherever_their_bytes_lie(tmp_path, paths):
    """`to_parquet` stores the paths of NIfTI files in place of what is in them."""
    volumes(tmp_path / "in", paths)
    command = [
        "data",
        "build",
        "hub",
        "--raw",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
        "--name",
        "scans",
    ]
    command += ["--image_column", "scan", "--labels", "sick", "--num_workers", "1"]
    assert main(command) == 2  # no modality
    assert main([*command, "--modality", "MR", "--size", "64"]) == 2
    assert main([*command, "--modality", "MR"]) == 0
    assert read_task(tmp_path / "out") == ArkTask("scans", ["sick"], modality="MR")
    found = {
        row["image_id"]: row
        for split in split_names(tmp_path / "out")
        for row in load_task_dataset(tmp_path / "out", split)
    }
    for number in range(3):
        volume = stored_volume(found[f"train/{number}"]["volume"])
        np.testing.assert_array_equal(volume.voxels, ct(seed=number).voxels)
        np.testing.assert_allclose(volume.affine, ct().affine, atol=1e-5)


def test_volumes_that_lead_out_of_the_dataset_are_refused(tmp_path):
    volumes(tmp_path / "in", paths=True)
    (tmp_path / "in" / "nifti").rename(tmp_path / "elsewhere")
    table = pq.read_table(tmp_path / "in" / "data" / "train-0.parquet").to_pylist()
    for row in table:
        row["scan"]["path"] = row["scan"]["path"].replace("/in/nifti", "/elsewhere")
    schema = Features({"scan": Nifti(), "sick": Value("int64")}).arrow_schema
    pq.write_table(pa.Table.from_pylist(table, schema=schema), tmp_path / "in" / "data" / "train-0.parquet")
    release = read_hub(HubSource(str(tmp_path / "in"), "scans", image_column="scan", labels=["sick"], modality="CT"))
    with pytest.raises(ValueError, match="the image is but a path, and leads out of the dataset"):
        build_dataset(release, tmp_path / "out", num_workers=1)
