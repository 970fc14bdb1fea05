"""Any folder of radiographs: classes that are folders, builds from the command line, and faults of every kind."""

import json
import math
import os
import random
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ark_hf.cli.main import main
from ark_hf.data.build.build import build_dataset
from ark_hf.data.images.image_files import image_files_in
from ark_hf.data.radiograph import read_radiograph
from ark_hf.data.rows import Row
from ark_hf.data.sources.generic import GenericSource, read_generic
from ark_hf.data.task_dataset import load_task_dataset, read_task
from ark_hf.models.ark.configuration_ark import ArkTask

from ..build.generated import draw_picture, write_rows
from ..images.test_dicom import make_dicom, save
from .generic_folders import FILES, PATIENT, SPLITS, fill, read

# Folders as classes --------------------------------------------------------------------------------------------------


def test_folders_are_the_classes(tmp_path):
    fill(tmp_path, *(f"{kind}/{number}.png" for kind in ("NORMAL", "PNEUMONIA") for number in range(20)))
    (tmp_path / "NORMAL" / "Thumbs.db").write_text("")
    release = read_generic(GenericSource(tmp_path, "kids"))
    assert release.task == ArkTask("kids", ["NORMAL", "PNEUMONIA"], "single_label_classification")
    assert all(row.labels == (row.path.parent.name == "PNEUMONIA") for row in release.rows)
    assert len(release.rows) == 40 and not release.problems
    assert [sum(row.split == split for row in release.rows) for split in ("train", "validation", "test")] == [27, 5, 8]
    assert "derived by a hash of the image" in release.facts["splits"]


def test_every_file_that_is_not_taken_is_counted_and_named(tmp_path, capsys):
    raw = tmp_path / "raw"
    endings = (".png", ".jpg", ".bmp", ".webp", ".PNG", ".jpeg", ".tif", ".bmp")
    names = [f"{kind}/{number}{ending}" for kind in ("NORMAL", "TB") for number, ending in enumerate(endings)]
    fill(raw, *names, "TB/masks/0.png", "TB/masks/1.png", "no_mask/0.png")
    picture = PIL.Image.fromarray(np.random.default_rng(99).integers(0, 256, (48, 40), np.uint8))
    picture.save(raw / "TB/a.jfif", "JPEG")
    picture.save(raw / "TB/from_a_browser", "PNG")
    for name in ("TB/volume.nii.gz", "TB/old.gif", "TB/array.npy", "TB/Thumbs.db", "notes.txt", ".DS_Store"):
        (raw / name).write_bytes(b"x")
    (raw / "__MACOSX").mkdir()
    shutil.copy(raw / "TB/0.png", raw / "__MACOSX/0.png")
    command = ["data", "build", "generic", "--raw", str(raw), "--out", str(tmp_path / "out"), "--num_workers", "1"]
    assert main(command) == 2
    assert "no_mask/0.png: its folder has 'mask' in the name" in capsys.readouterr().err
    assert main([*command, "--skip_bad"]) == 0
    told = capsys.readouterr().err
    assert "2 files left out, such as TB/masks/0.png: its folder has 'mask' in the name" in told
    assert "1 files left out, such as TB/array.npy: it is no image" in told
    report = json.loads((tmp_path / "out" / "build_report.json").read_text())
    assert sum(report["rows"].values()) == 18
    reasons = {problem["where"]: problem["reason"] for problem in report["problems"]}
    assert reasons.keys() == {"no_mask/0.png", "TB/volume.nii.gz", "TB/old.gif"}
    assert "NIfTI holds volumes" in reasons["TB/volume.nii.gz"]
    assert [each["first"] for each in report["left_out"]] == [["TB/masks/0.png", "TB/masks/1.png"], ["TB/array.npy"]]
    assert "3 files of the source were left out" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("wrapper", ["", "chest_xray/"])
def test_folders_of_splits_hold_folders_of_classes(tmp_path, wrapper):
    paths = ("train/NORMAL/a.png", "train/VIRAL/b/1.png", "val/NORMAL/c.png", "test/FUNGAL/d.jpeg", "test/e.png")
    fill(tmp_path, *(wrapper + path for path in paths))
    release = read_generic(GenericSource(tmp_path, "kids", classes=["VIRAL", "NORMAL", "FUNGAL", "OTHER"]))
    assert {row.where.removeprefix(wrapper): (row.split, row.labels) for row in release.rows} == {
        "train/NORMAL/a.png": ("train", 1),
        "train/VIRAL/b/1.png": ("train", 0),
        "val/NORMAL/c.png": ("validation", 1),
        "test/FUNGAL/d.jpeg": ("test", 2),
    }
    assert [problem.where.removeprefix(wrapper) for problem in release.problems] == ["test/e.png"]
    assert "splits" not in release.facts
    with pytest.raises(
        ValueError, match=r"it has \['FUNGAL', 'NORMAL', 'VIRAL'\], expected are \['VIRAL', 'NORMAL'\]"
    ):
        read_generic(GenericSource(tmp_path, "kids", classes=["VIRAL", "NORMAL"]))


def test_folders_that_differ_in_case_are_one_class_in_every_split(tmp_path):
    fill(tmp_path, "Train/NORMAL/a.png", "Train/PNEUMONIA/b.png", "test/normal/c.png", "test/Pneumonia /d.png")
    release = read_generic(GenericSource(tmp_path, "kids"))
    assert release.task.labels == ["NORMAL", "PNEUMONIA"] and [row.labels for row in release.rows] == [0, 1, 1, 0]
    assert [row.split for row in release.rows] == ["train", "train", "test", "test"]
    assert "'NORMAL' (also 'normal'), 'PNEUMONIA' (also 'Pneumonia ')" in release.remarks[0]
    release = read_generic(GenericSource(tmp_path, "kids", classes=["pneumonia", "normal"]))
    assert [row.labels for row in release.rows] == [1, 0, 0, 1] and not release.remarks
    fill(tmp_path, "test/PNEUMONIA-/e.png")
    with pytest.raises(ValueError, match=r"\['PNEUMONIA', 'PNEUMONIA-'\] look like one"):
        read_generic(GenericSource(tmp_path, "kids"))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "has no labels.csv, so its folders must be the classes; it has \\[\\]"),
        (["a.png", "b.png"], "it has \\[\\]"),
        (["NORMAL/a.png", "NORMAL/b.png"], "it has \\[\\], expected are at least two"),
        (["train/NORMAL/a.png", "VIRAL/b.png"], "folders of splits, \\['train'\\], beside \\['VIRAL', 'train'\\]"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, paths, message):
    with pytest.raises(ValueError, match=message):
        read_generic(GenericSource(fill(tmp_path, *paths), "kids"))


# The command ---------------------------------------------------------------------------------------------------------


def test_readme_commands_build(tmp_path, capsys):
    fill(tmp_path / "rsna", *(f"{number}.png" for number in range(4)))
    splits = ("train", "train", "val", "test")
    rows = [{"image": f"{i}.png", "split": split, "pneumonia": i % 2} for i, split in enumerate(splits)]
    write_rows(tmp_path / "rsna", rows)
    command = ["data", "build", "generic", "--raw", str(tmp_path / "rsna"), "--out", str(tmp_path / "data" / "rsna")]
    source = ["--title", "Our clinic", "--license", "cc-by-4.0", "--homepage", "https://clinic.example/cxr"]
    assert main([*command, "--labels", "pneumonia", *source]) == 0
    assert "2 train, 1 validation, 1 test; 0 rows or images left out" in capsys.readouterr().out
    assert read_task(tmp_path / "data" / "rsna") == ArkTask("rsna", ["pneumonia"])
    assert load_task_dataset(tmp_path / "data" / "rsna", "train")["labels"][:] == [[0.0], [1.0]]
    card = (tmp_path / "data" / "rsna" / "README.md").read_text()
    assert "license: cc-by-4.0\n" in card and "| home | https://clinic.example/cxr |" in card
    assert "# Our clinic" in card

    fill(tmp_path / "kids", *(f"{kind}/{number}.png" for kind in ("NORMAL", "PNEUMONIA") for number in range(9)))
    command = ["data", "build", "generic", "--raw", str(tmp_path / "kids"), "--out", str(tmp_path / "data" / "kids")]
    (tmp_path / "kids" / "NORMAL" / "3.png").write_text("no picture")
    (tmp_path / "kids" / "PNEUMONIA" / "4.png").write_text("no picture")
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "NORMAL/3.png: this is no PNG" in told and "--skip_bad" in told and "PNEUMONIA/4.png" in told
    assert main([*command, "--modality", "DX"]) == 2
    assert "Every radiograph of the chest is CR" in capsys.readouterr().err
    assert main([*command, "--skip_bad", "--num_workers", "1", "--modality", "CT"]) == 0
    assert read_task(tmp_path / "data" / "kids").modality == "CT"
    assert "2 rows or images left out" in (out := capsys.readouterr().out) and "Splits: The source has none" in out
    assert main([*command, "--num_workers", "0"]) == 2
    assert "--num_workers must be at least 1" in capsys.readouterr().err


def test_pictures_that_their_reader_doubts_are_counted_and_listed(tmp_path, capsys):
    for number in range(6):
        path = tmp_path / "raw" / ("NORMAL", "VIRAL")[number % 2] / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset = make_dicom(np.random.default_rng(number).integers(0, 4096, (40, 48), dtype=np.uint16), 12)
        dataset.PresentationLUTShape = "INVERSE" if number in (2, 5) else "IDENTITY"
        save(dataset, path)
    command = ["data", "build", "generic", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "kids")]
    assert main([*command, "--num_workers", "1"]) == 0
    assert "Warning: 2 images: its tags say MONOCHROME2, but Presentation LUT INVERSE" in capsys.readouterr().err
    report = json.loads((tmp_path / "kids" / "build_report.json").read_text())
    assert sorted(doubt["where"] for doubt in report["doubts"]) == ["NORMAL/2.dcm", "VIRAL/5.dcm"]
    assert "2 times the reader doubts an image" in (tmp_path / "kids" / "README.md").read_text()


def test_files_and_folders_whose_names_are_no_utf8_are_named(tmp_path):
    """As they come out of an old archive."""
    raw, latin = tmp_path / "raw", os.fsdecode(b"m\xfcller")
    fill(raw, *(f"{kind}/{number}.png" for kind in ("NORMAL", "VIRAL") for number in range(6)))
    (raw / "VIRAL" / "5.png").rename(raw / "VIRAL" / f"{latin}.png")
    with pytest.raises(ValueError, match=r"VIRAL/m\\xfcller.png: the name of its image, .*xfcller.png, is not"):
        build_dataset(read_generic(GenericSource(raw, "kids")), tmp_path / "out", num_workers=1)
    report = build_dataset(read_generic(GenericSource(raw, "kids")), tmp_path / "out", num_workers=1, skip_bad=True)
    assert sum(report["rows"].values()) == 11 and len(report["problems"]) == 1
    (raw / "VIRAL" / f"{latin}.png").rename(raw / "VIRAL" / "5.png")
    (raw / "NORMAL").rename(raw / latin)
    with pytest.raises(ValueError, match=r"the name of the folder m\\xfcller is no plain UTF-8 text; rename it"):
        read_generic(GenericSource(raw, "kids"))
    write_rows(raw, [{"image": f"{number}.png", "split": "train", "TB": 1} for number in range(6)])
    (raw / "VIRAL").rename(tmp_path / "VIRAL")
    with pytest.raises(ValueError, match=r"labels.csv, line 2: the name of its image, m\\xfcller/0.png, is not UTF-8"):
        build_dataset(read(raw, labels=["TB"]), tmp_path / "other")


@pytest.mark.parametrize(
    ("folder", "name"), [("covid-19", "covid_19"), ("CheXpert-v1.0", "chexpert_v1_0"), ("train", ""), ("2020", "")]
)
def test_a_task_is_called_as_its_folder_where_it_can_be(tmp_path, capsys, folder, name):
    fill(tmp_path / folder, *(f"{kind}/{number}.png" for kind in ("normal", "tb") for number in range(6)))
    command = ["data", "build", "generic", "--raw", str(tmp_path / folder), "--out", str(tmp_path / "out")]
    assert main(command) == (0 if name else 2)
    if name:
        assert read_task(tmp_path / "out").name == name
    else:
        assert f"The task would be called as the folder is, {folder!r}" in (told := capsys.readouterr().err)
        assert "--name" in told


def test_what_a_build_joined_found_and_lacks_is_told(tmp_path, capsys):
    fill(tmp_path, *(f"{number}.png" for number in range(4)))
    shutil.copy(tmp_path / "0.png", tmp_path / "3.png")
    rows = [{"image": f"{n}.png", "split": "train", "kind": "aAbB"[n], "Gender": "m"} for n in range(4)]
    write_rows(tmp_path, rows)
    command = ["data", "build", "generic", "--raw", str(tmp_path), "--out", str(tmp_path / "out"), "--name", "lungs"]
    assert main([*command, "--label_column", "kind"]) == 0
    told = capsys.readouterr()
    assert "'A' (also 'a'), 'B' (also 'b')" in told.out and "sex from 'Gender'" in told.out
    assert "There are no images of validation and test" in told.err
    assert (
        "1 images are the same, to the pixel, as one with other labels, such as those of labels.csv, line 5"
        in told.err
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "1 images are the same, to the pixel, as one that has other labels." in card and "(also 'a')" in card


def test_dicom_files_without_a_suffix_are_built_as_predict_reads_them(tmp_path):
    """As PACS exports and CDs hold them, with an index beside them that is a DICOM file without pixels."""
    for number in range(6):
        path = (
            tmp_path / "raw" / ("NORMAL", "VIRAL")[number % 2] / (f"IM{number}", f"1.2.840.{number}")[number % 3 > 0]
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(path, number)
    shutil.copy(path, tmp_path / "raw" / "DICOMDIR")
    files = image_files_in(tmp_path / "raw")
    release = read_generic(GenericSource(tmp_path / "raw", "kids"))
    assert sorted(row.path for row in release.rows) == files and len(files) == 6 and not release.problems
    report = build_dataset(release, tmp_path / "out", num_workers=1)
    assert sum(report["rows"].values()) == 6
    write_rows(tmp_path / "raw", [{"image": "IM0", "split": "train", "TB": 1}])
    (row,) = read(tmp_path / "raw", labels=["TB"]).rows
    assert row.path == tmp_path / "raw" / "NORMAL" / "IM0"


def test_real_radiographs_build_with_the_counts_of_their_readme(shared, tmp_path):
    labels = [f"sev_{region}" for region in "ABCDEF"]
    source = GenericSource(shared / "realdata" / "brixia_severity", "brixia", labels=labels)
    report = build_dataset(read_generic(source), tmp_path / "out", size=128)
    assert report["rows"] == {"train": 58, "validation": 8, "test": 13} and not report["problems"]
    assert report["duplicates"] == {"equal": [], "near": [], "within_splits": 0, "contradicting": []}
    assert read_task(tmp_path / "out").labels == labels
    assert all(max(row["image"].size) == 128 for row in load_task_dataset(tmp_path / "out", "test"))


# Faults --------------------------------------------------------------------------------------------------------------


def truncate(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def write_dicom(path: Path, number: int) -> None:
    save(make_dicom(np.random.default_rng(number).integers(0, 4096, (40, 48), dtype=np.uint16), 12), path)


# For each kind: what it does to a good row and its file, and what is told
ROW_FAULTS = {
    "wrong value": (lambda row, random: row.update(Mass=random.choice(["2", "x", "0.5", "perhaps"])), "use 0, 1, -1"),
    "wrong split": (lambda row, random: row.update(split=random.choice(["dev", "", "3"])), "use one of"),
    "no image": (lambda row, random: row.update(image=" "), "image is blank"),
    "missing file": (lambda row, random: row.update(image="images/none.png"), "is not below"),
    "wrong age": (lambda row, random: row.update(age=random.choice(["old", "inf", "-1"])), "age must be a number"),
}
FILE_FAULTS = {
    "empty": (lambda path, random: path.write_bytes(b""), "the file is empty"),
    "text": (lambda path, random: path.write_text("no picture at all" * 20), ""),
    "cut short": (lambda path, random: truncate(path, random.uniform(0.05, 0.9)), ""),
    "a folder": (lambda path, random: (path.unlink(), path.mkdir()), "is not below"),
}


def test_500_faulty_rows_and_files_are_each_told_and_cost_nothing_else(tmp_path):
    random_, folder = random.Random(0), tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    rows, expected, good = [], {}, []
    for number in range(800):
        line, kind = number + 2, ("png", "jpg", "dcm", "png")[number % 4]
        name = f"images/{number}.{kind}"
        if kind == "dcm":
            write_dicom(folder / name, number)
        else:
            draw_picture(folder / name, number)
        split = random_.choice(["train", "train", "val", "test"])
        row = {"image": name, "split": split, "patient_id": f"{PATIENT}{number}", "age": "", "Edema": "1", "Mass": "0"}
        fault = random_.choice([*ROW_FAULTS, *FILE_FAULTS, "repeated", "wide"]) if number % 8 < 5 else None
        if fault in ROW_FAULTS:
            change, expected[line] = ROW_FAULTS[fault]
            change(row, random_)
        elif fault in FILE_FAULTS:
            change, expected[line] = FILE_FAULTS[fault]
            change(folder / name, random_)
        elif fault == "repeated":
            expected[line] = "stands in" if good else ""
            row.update(good[-1] if good else {"image": "images/none.png"})
        elif fault == "wide":
            expected[line] = "7 values, but the header names 6 columns"
        else:
            good.append(row)
        rows.append(row)
    write_rows(folder, rows)
    lines = (folder / "labels.csv").read_text().splitlines()
    for line, told in expected.items():
        lines[line - 1] += ",1" * told.startswith("7 values")
    (folder / "labels.csv").write_text("\n".join(lines))
    assert len(expected) == 500

    release = read(folder)
    report = build_dataset(release, tmp_path / "out", num_workers=1, skip_bad=True)
    told = {problem["where"]: problem["reason"] for problem in report["problems"]}
    assert set(told) == {f"labels.csv, line {line}" for line in expected} and len(report["problems"]) == 500
    for line, part in expected.items():
        reason = told[f"labels.csv, line {line}"]
        assert part in reason and reason and PATIENT not in reason
    built = {}
    for split in ("train", "validation", "test"):
        dataset = load_task_dataset(tmp_path / "out", split)
        built |= dict(zip(dataset["image_id"][:], dataset, strict=True))
    assert sorted(built) == sorted(row["image"] for row in good) and len(good) == 300
    for name in [row["image"] for row in good[::10]]:
        np.testing.assert_array_equal(np.asarray(built[name]["image"]), read_radiograph(folder / name)[0])
        assert built[name]["labels"] == [1, 0]


GOOD_TABLE = "image,split,patient_id,age,Edema,Mass\n" + "".join(
    f"{name},{split},p{number},{20 + number},{number % 2},{('', '-1', '1')[number % 3]}\n"
    for number, (name, split) in enumerate(zip(FILES, SPLITS, strict=True))
)
PIECES = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b",", b'"', b"'", b"\n", b"\r", b"\0", b" ", b"\xff", b"\xef\xbb\xbf", "é".encode(), b"\n,,,,,\n", b"x" * 300]
        + [b"-1", b"2", b"nan", b"1e999", b"train", b"p0", b"/", b"..", b"~", b"image", b"Edema", b"images/0.png"]
    ),
)


@st.composite
def damaged_tables(draw) -> bytes:
    content = GOOD_TABLE.encode()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = draw(st.integers(start, min(start + 20, len(content))))
        content = content[:start] + draw(PIECES) + content[stop:]
    return content


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "source"
    for number, name in enumerate(FILES):
        draw_picture(folder / name, number)
    yield folder
    shutil.rmtree(folder)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=damaged_tables())
def test_damaged_table_gives_good_rows_and_named_problems_or_a_named_refusal(fuzz_folder, content):
    (fuzz_folder / "labels.csv").write_bytes(content)
    try:
        release = read_generic(GenericSource(fuzz_folder, "lungs", labels=["Edema", "Mass"]))
    except ValueError as error:
        assert "labels.csv" in str(error)
        return
    assert release.rows or release.problems
    for problem in release.problems:
        assert problem.where.startswith("labels.csv, line ") and problem.reason
    for row in release.rows:
        assert isinstance(row, Row) and row.path.is_file() and row.split in ("train", "validation", "test")
        assert len(row.labels) == 2 and all(value in (0, 1, -1) or math.isnan(value) for value in row.labels)
        assert row.metadata["age"] is None or 0 <= row.metadata["age"] < math.inf


def test_picture_files_of_any_kind_are_kept_as_they_are(tmp_path):
    folder = tmp_path / "raw"
    for name in ("a.png", "b.jpg", "c.tif"):
        draw_picture(folder / name, 1)
    PIL.Image.fromarray(np.arange(2500, dtype=np.uint16).reshape(50, 50) * 26).save(folder / "d.png")
    write_dicom(folder / "e.dcm", 5)
    names = ["a.png", "b.jpg", "c.tif", "d.png", "e.dcm"]
    write_rows(folder, [{"image": name, "split": "train", "Edema": "0", "Mass": "1"} for name in names])
    build_dataset(read(folder), tmp_path / "out", num_workers=1)
    for stored in load_task_dataset(tmp_path / "out", "train"):
        expected = read_radiograph(folder / stored["image_id"])[0]
        np.testing.assert_array_equal(np.asarray(stored["image"]), expected)
        assert stored["image"].mode == ("L" if expected.dtype == np.uint8 else "I;16")
