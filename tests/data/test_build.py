"""The generic builder: what it makes of a folder of radiographs, and that it refuses bad input before any work."""

import csv
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from datasets.exceptions import DatasetGenerationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ark_hf.data import build
from ark_hf.data.build import GenericSource, Row, build_generic, build_phantom_sites, read_label_file
from ark_hf.data.dicom import read_radiograph
from ark_hf.data.task_dataset import read_task
from ark_hf.models.ark.configuration_ark import ArkTask

PATIENT = "Sentinel"
FILES = ("images/0.png", "images/1.png", "images/2.jpg", "images/3.png", "images/4.png", "images/5.png")
SPLITS = ("train", "train", "train", "train", "val", "test")


def draw_pictures(folder: Path) -> None:
    """8-bit PNG, 16-bit PNG, JPEG, a large 8-bit and a large 16-bit PNG, and one more."""
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    shapes = [(48, 40), (40, 48), (48, 40), (120, 80), (90, 144), (33, 33)]
    for number, (name, shape) in enumerate(zip(FILES, shapes, strict=True)):
        top, kind = (65536, np.uint16) if number in (1, 4) else (256, np.uint8)
        PIL.Image.fromarray(random.integers(0, top, shape, dtype=kind)).save(folder / name)


def write_rows(folder: Path, rows: list[dict]) -> None:
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def rows() -> list[dict]:
    """Six good rows: lines 2 to 7 of the label file."""
    return [
        {"image": name, "split": split, "patient_id": f"{PATIENT}-{number}", "Edema": "0", "Mass": "1"}
        for number, (name, split) in enumerate(zip(FILES, SPLITS, strict=True))
    ]


@pytest.fixture
def folder(tmp_path) -> Path:
    draw_pictures(tmp_path / "source")
    return tmp_path / "source"


def multi_label(folder: Path) -> GenericSource:
    return GenericSource(folder, "lungs", labels=["Edema", "Mass"])


def read_split(dataset: Path, split: str) -> list[dict]:
    return pq.read_table(next((dataset / "data").glob(f"{split}-*.parquet"))).to_pylist()


def read_dataset(dataset: Path) -> list[dict]:
    return [row for path in sorted((dataset / "data").iterdir()) for row in pq.read_table(path).to_pylist()]


def pixels(row: dict) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(row["image"]["bytes"])))


def refusal(folder: Path, rows: list[dict] | None = None, source: GenericSource | None = None) -> str:
    """The message of the refusal, which never quotes a patient."""
    if rows is not None:
        write_rows(folder, rows)
    with pytest.raises(ValueError) as caught:
        build_generic(source or multi_label(folder), folder.parent / "out")
    assert not (folder.parent / "out").exists()
    assert PATIENT not in str(caught.value)
    return str(caught.value)


# What is built -------------------------------------------------------------------------------------------------------


def test_multi_label_values_become_0_1_uncertain_and_unknown(folder, rows, tmp_path):
    values = [("0", "1"), ("-1", ""), (" 1.0 ", "0.0"), ("-1.0", "1"), ("", ""), ("1", "0")]
    for row, (edema, mass) in zip(rows, values, strict=True):
        row |= {"Edema": edema, "Mass": mass}
    write_rows(folder, rows)
    build_generic(multi_label(folder), tmp_path / "out")
    built = {row["image_id"]: row["labels"] for row in read_dataset(tmp_path / "out")}
    expected = [[0, 1], [-1, math.nan], [1, 0], [-1, 1], [math.nan, math.nan], [1, 0]]
    for name, labels in zip(FILES, expected, strict=True):
        np.testing.assert_equal(built[name], labels)


def test_class_names_become_indices_and_blank_becomes_unknown(folder, rows, tmp_path):
    for row, kind in zip(rows, ["viral", "normal", "", "bacterial", " viral ", "normal"], strict=True):
        row["kind"] = kind
    write_rows(folder, rows)
    build_generic(GenericSource(folder, "lungs", label_column="kind"), tmp_path / "sorted")
    given = ["normal", "bacterial", "viral", "fungal"]
    build_generic(GenericSource(folder, "lungs", label_column="kind", classes=given), tmp_path / "given")
    for name, classes, expected in (
        ("sorted", ["bacterial", "normal", "viral"], [2, 1, -1, 0, 2, 1]),
        ("given", given, [2, 0, -1, 1, 2, 0]),
    ):
        task = read_task(tmp_path / name)
        assert (task.labels, task.problem_type) == (classes, "single_label_classification")
        built = {row["image_id"]: row["labels"] for row in read_dataset(tmp_path / name)}
        assert [built[image] for image in FILES] == expected


def test_rows_go_to_their_split_in_the_order_of_the_file(folder, rows, tmp_path):
    for row, split in zip(rows, ["test", "Train", " validation", "valid", "train", "VAL"], strict=True):
        row["split"] = split
    write_rows(folder, rows)
    build_generic(multi_label(folder), tmp_path / "out")
    for split, numbers in {"train": [1, 4], "validation": [2, 3, 5], "test": [0]}.items():
        assert [row["image_id"] for row in read_split(tmp_path / "out", split)] == [FILES[i] for i in numbers]


def test_split_without_rows_is_left_out(folder, rows, tmp_path):
    write_rows(folder, rows[:4])
    report = build_generic(multi_label(folder), tmp_path / "out")
    assert report["rows"] == {"train": 4, "validation": 0, "test": 0}
    assert [path.name for path in (tmp_path / "out" / "data").iterdir()] == ["train-00000-of-00001.parquet"]


def test_metadata_columns_are_kept_where_the_file_knows_them(folder, rows, tmp_path):
    for row in rows:
        row |= {"age": "", "sex": "", "view": "", "remark": "not kept"}
    rows[0] |= {"age": "63", "sex": "F"}
    rows[1] |= {"patient_id": ""}
    write_rows(folder, rows)
    build_generic(multi_label(folder), tmp_path / "out")
    built = read_split(tmp_path / "out", "train")
    assert list(built[0]) == ["image", "labels", "image_id", "patient_id", "sex", "age"]
    assert [(row["patient_id"], row["sex"], row["age"]) for row in built[:3]] == [
        (f"{PATIENT}-0", "F", 63.0),
        (None, None, None),
        (f"{PATIENT}-2", None, None),
    ]


def test_small_pictures_keep_every_pixel(folder, rows, tmp_path):
    write_rows(folder, rows)
    build_generic(multi_label(folder), tmp_path / "out", size=144)
    for row in read_dataset(tmp_path / "out"):
        original = read_radiograph(folder / row["image_id"])[0]
        assert pixels(row).dtype == original.dtype
        np.testing.assert_array_equal(pixels(row), original)
    assert {pixels(row).dtype for row in read_dataset(tmp_path / "out")} == {np.dtype("uint8"), np.dtype("uint16")}


def test_longer_side_is_shrunk_to_size_and_the_aspect_kept(folder, rows, tmp_path):
    write_rows(folder, rows)
    build_generic(multi_label(folder), tmp_path / "out", size=60)
    built = {row["image_id"]: pixels(row) for row in read_dataset(tmp_path / "out")}
    assert [built[name].shape for name in FILES] == [(48, 40), (40, 48), (48, 40), (60, 40), (38, 60), (33, 33)]
    for name in (FILES[3], FILES[4]):
        original = read_radiograph(folder / name)
        assert built[name].dtype == original.dtype
        assert built[name].mean() == pytest.approx(original.mean(), rel=0.01)


def test_shrinking_never_leaves_the_range_of_the_picture():
    image = np.full((1, 100, 100), 1000, dtype=np.uint16)
    image[:, :, 50:] = 5000  # an edge, on which the filter rings
    small = build.shrink(image, 50)
    assert (small.dtype, small.min(), small.max()) == (np.uint16, 1000, 5000)


def test_card_gives_back_the_task_whatever_its_labels_are_called(folder, rows, tmp_path):
    names = ["No", "1", "Mass/Nodule", 'Größe: "x"', "a | b, c", "null", "- dash"]
    for row in rows:
        row |= dict.fromkeys(names, "0")
    write_rows(folder, rows)
    build_generic(GenericSource(folder, "lungs", labels=names), tmp_path / "out")
    assert read_task(tmp_path / "out") == ArkTask("lungs", names)


def test_report_counts_rows_and_labels(folder, rows, tmp_path):
    rows[1] |= {"Edema": "1", "Mass": "-1"}
    write_rows(folder, rows)
    report = build_generic(multi_label(folder), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "build_report.json").read_text())
    assert report == {"unreadable": [], "rows": {"train": 4, "validation": 1, "test": 1}}
    assert written == report | {
        "counts": {
            "train": {"images": 4, "Edema": 1, "Mass": 3},
            "validation": {"images": 1, "Edema": 0, "Mass": 1},
            "test": {"images": 1, "Edema": 0, "Mass": 1},
        }
    }


def test_two_builds_are_identical_to_the_byte(folder, rows, tmp_path):
    write_rows(folder, rows)
    contents = []
    for name in ("one", "two"):
        build_generic(multi_label(folder), tmp_path / name, size=60)
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert len(contents[0]) == 5  # three splits, card, report
    assert contents[0] == contents[1]


def test_real_radiographs_build_with_the_counts_of_their_readme(shared, tmp_path):
    labels = [f"sev_{region}" for region in "ABCDEF"]
    source = GenericSource(shared / "realdata" / "brixia_severity", "brixia", labels=labels)
    report = build_generic(source, tmp_path / "out", size=128)
    assert report == {"unreadable": [], "rows": {"train": 58, "validation": 8, "test": 13}}
    assert read_task(tmp_path / "out").labels == labels
    assert all(max(pixels(row).shape) == 128 for row in read_split(tmp_path / "out", "test"))


# The label file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "images/absent.png"}, "'images/absent.png' does not exist"),
        ({"image": "images"}, "'images' does not exist"),
        ({"image": "x" * 5000}, "does not exist"),
        ({"image": "a\0b"}, "does not exist"),
        ({"image": " "}, "image is blank"),
        ({"image": FILES[0]}, f"'{FILES[0]}' (validation) stands in line 2 (train) too"),
        ({"image": FILES[0], "split": "train"}, f"'{FILES[0]}' (train) stands in line 2 (train) too"),
        ({"split": ""}, "split '': use one of ['test', 'train', 'val'"),
        ({"split": "dev"}, "split 'dev': use one of ['test', 'train', 'val'"),
        ({"Edema": "2"}, "Edema is '2': use 0, 1, -1 (uncertain) or blank (unknown)"),
        ({"Mass": "0.5"}, "Mass is '0.5': use 0, 1, -1"),
        ({"Mass": "nan"}, "Mass is 'nan': use 0, 1, -1"),
        ({"Mass": "yes"}, "Mass is 'yes': use 0, 1, -1"),
        ({"age": "old"}, "age is 'old': it must be a number or blank"),
        ({"patient_id": f"{PATIENT}-0"}, "its patient (validation) stands in line 2 (train) too"),
    ],
)
def test_wrong_row_is_named_by_line_with_what_is_allowed(folder, rows, change, message):
    for row in rows:
        row["age"] = ""
    rows[4] |= change
    lines = refusal(folder, rows).splitlines()
    assert len(lines) == 2 and "labels.csv has 1 wrong rows" in lines[0]
    assert lines[1].startswith("line 6: ") and message in lines[1]


def test_unknown_class_is_named_with_the_classes(folder, rows):
    for row in rows:
        row["kind"] = "normal"
    rows[2]["kind"] = "wiral"
    source = GenericSource(folder, "lungs", label_column="kind", classes=["normal", "viral"])
    message = refusal(folder, rows, source)
    assert "line 4: kind 'wiral' is not a class; the classes are ['normal', 'viral']" in message


def test_all_wrong_rows_are_counted_and_the_first_ten_shown(folder, rows):
    message = refusal(folder, [row | {"Edema": "?", "split": "train", "patient_id": ""} for row in rows * 2])
    assert "has 12 wrong rows" in message and "line 11:" in message and "... and 2 more" in message


@pytest.mark.parametrize("values", [2, 6], ids=["short", "long"])
def test_row_of_another_width_than_the_header_is_refused(folder, rows, values):
    write_rows(folder, rows)
    lines = (folder / "labels.csv").read_text().splitlines()
    lines[3] = ",".join((lines[3].split(",") + ["1"])[:values])
    (folder / "labels.csv").write_text("\n".join(lines))
    assert f"line 4: {values} values, but the header names 5 columns" in refusal(folder)


def test_open_quote_is_reported_where_it_opens(folder, rows):
    write_rows(folder, rows)
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace(FILES[2], f'"{FILES[2]}'))
    assert "line 4: 1 values, but the header names 5 columns" in refusal(folder)


def test_lines_count_blank_lines_and_line_breaks_in_quotes(folder, rows):
    rows[0]["remark"] = "two\nlines"
    rows[1]["Mass"] = "?"
    write_rows(folder, rows)
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("\n", "\n\n", 1))
    assert "line 5: Mass is '?'" in refusal(folder)


@pytest.mark.parametrize("column", ["image", "split", "Mass"])
def test_missing_column_is_named(folder, rows, column):
    for row in rows:
        del row[column]
    assert f"labels.csv has no columns ['{column}']" in refusal(folder, rows)


def test_first_row_in_place_of_the_header_is_not_quoted(folder, rows):
    write_rows(folder, rows)
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.split("\n", 1)[1])
    assert "its first line must name the columns" in refusal(folder)


def test_column_that_stands_twice_is_refused(folder, rows):
    write_rows(folder, rows)
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("Mass", "Edema", 1))
    source = GenericSource(folder, "lungs", labels=["Edema"])
    assert "has several columns ['Edema']" in refusal(folder, source=source)


def test_column_without_a_name_is_no_obstacle(folder, rows):
    for number, row in enumerate(rows):
        row[""] = str(number)  # as pandas writes its index
    write_rows(folder, rows)
    assert len(read_label_file(multi_label(folder))[1]) == len(FILES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no columns ['image', 'split', 'Edema', 'Mass']"),
        (b"image,split,patient_id,Edema,Mass\n", "has no rows"),
        (b"image,split,patient_id,Edema,Mass\nimages/0.png,test,,0,1\n", "has no rows with split train"),
        ("image,split,Edema,Mass\nimages/é.png,train,0,1\n".encode("latin-1"), "needs a UTF-8 file"),
        ("image,split,Edema,Mass\nimages/0.png,train,0,1\n".encode("utf-16"), "needs a UTF-8 file"),
        (b"image,split,Edema,Mass\n" + b"x" * 200_000, "field larger than field limit"),
    ],
    ids=["empty", "header only", "no train", "latin-1", "utf-16", "huge field"],
)
def test_file_that_is_no_table_is_refused_by_name(folder, content, message):
    (folder / "labels.csv").write_bytes(content)
    text = refusal(folder)
    assert str(folder / "labels.csv") in text and message in text


def test_absent_label_file_is_refused_by_name(folder):
    assert f"Cannot read {folder / 'labels.csv'}" in refusal(folder)


def test_byte_order_mark_and_windows_line_ends_are_read(folder, rows):
    write_rows(folder, rows)
    plain = read_label_file(multi_label(folder))
    content = (folder / "labels.csv").read_bytes()
    assert b"\r\n" in content
    for variant in (b"\xef\xbb\xbf" + content, content.replace(b"\r\n", b"\n"), content.replace(b"\r\n", b"\r")):
        (folder / "labels.csv").write_bytes(variant)
        assert read_label_file(multi_label(folder)) == plain


@pytest.mark.parametrize("kinds", [{}, {"labels": ["Edema"], "label_column": "Mass"}], ids=["neither", "both"])
def test_labels_or_a_label_column_must_be_given(folder, rows, kinds):
    message = refusal(folder, rows, GenericSource(folder, "lungs", **kinds))
    assert "either --labels" in message and "or --label_column" in message


def test_name_that_no_task_can_have_is_refused(folder, rows):
    assert "lower-case letters" in refusal(folder, rows, GenericSource(folder, "Lungs 1", labels=["Edema"]))


GOOD_FILE = "image,split,patient_id,age,Edema,Mass\n" + "".join(
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
def damaged_files(draw) -> bytes:
    content = GOOD_FILE.encode()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = draw(st.integers(start, min(start + 20, len(content))))
        content = content[:start] + draw(PIECES) + content[stop:]
    return content


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "source"
    draw_pictures(folder)
    return folder


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=damaged_files())
def test_damaged_label_file_gives_good_rows_or_a_named_refusal(fuzz_folder, content):
    (fuzz_folder / "labels.csv").write_bytes(content)
    try:
        task, rows = read_label_file(multi_label(fuzz_folder))
    except ValueError as error:
        assert "labels.csv" in str(error)
        return
    assert task.labels == ["Edema", "Mass"]
    for row in rows:
        assert isinstance(row, Row) and row.path.is_file() and row.split in ("train", "validation", "test")
        assert len(row.labels) == 2 and all(value in (0, 1, -1) or math.isnan(value) for value in row.labels)
        assert row.metadata["age"] is None or isinstance(row.metadata["age"], float)


# The pictures --------------------------------------------------------------------------------------------------------


def damage(folder: Path) -> None:
    """A text named like a picture (line 3), a JPEG cut short (line 4), an empty file (line 6)."""
    (folder / FILES[1]).write_text("no picture")
    (folder / FILES[2]).write_bytes((folder / FILES[2]).read_bytes()[:-100])
    (folder / FILES[4]).write_bytes(b"")


def test_unreadable_pictures_stop_the_build_and_are_listed_beside_it(folder, rows):
    damage(folder)
    message = refusal(folder, rows)
    report_file = folder.parent / "out.build_report.json"
    assert "labels.csv: 3 of 6 images cannot be read" in message
    assert str(report_file) in message and "--skip_unreadable" in message
    for line, name in ((3, FILES[1]), (4, FILES[2]), (6, FILES[4])):
        assert f"line {line}: {folder / name}: " in message
    assert [entry["line"] for entry in json.loads(report_file.read_text())["unreadable"]] == [3, 4, 6]
    assert PATIENT not in report_file.read_text()


def test_unreadable_pictures_are_skipped_when_asked_and_listed_within(folder, rows, tmp_path):
    damage(folder)
    write_rows(folder, rows)
    report = build_generic(multi_label(folder), tmp_path / "out", skip_unreadable=True)
    assert report["rows"] == {"train": 2, "validation": 0, "test": 1}
    assert {row["image_id"] for row in read_dataset(tmp_path / "out")} == {FILES[0], FILES[3], FILES[5]}
    written = json.loads((tmp_path / "out" / "build_report.json").read_text())
    assert [(entry["line"], entry["image"]) for entry in written["unreadable"]] == [
        (line, str(folder / FILES[line - 2])) for line in (3, 4, 6)
    ]


def test_nothing_is_built_when_every_training_picture_is_skipped(folder, rows, tmp_path):
    damage(folder)
    write_rows(folder, [rows[1], rows[2], rows[5]])
    with pytest.raises(ValueError, match="none of the images of split train can be read"):
        build_generic(multi_label(folder), tmp_path / "out", skip_unreadable=True)
    assert not (tmp_path / "out").exists()


def test_same_picture_under_two_names_in_two_splits_is_refused(folder, rows):
    PIL.Image.open(folder / FILES[3]).save(folder / FILES[5], compress_level=1)
    assert (folder / FILES[3]).read_bytes() != (folder / FILES[5]).read_bytes()
    message = refusal(folder, rows)
    assert "labels.csv has pictures in two splits" in message
    assert f"line 7: '{FILES[5]}' (test) is the same picture as '{FILES[3]}' (train), line 5" in message


def test_same_picture_under_two_names_in_one_split_is_kept(folder, rows, tmp_path):
    (folder / FILES[3]).write_bytes((folder / FILES[0]).read_bytes())
    write_rows(folder, rows)
    assert build_generic(multi_label(folder), tmp_path / "out")["rows"]["train"] == 4


# The output folder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["folder", "file"])
def test_output_that_exists_is_refused_and_untouched(folder, rows, tmp_path, make):
    write_rows(folder, rows)
    out = tmp_path / "out"
    if make == "folder":
        out.mkdir()
    kept = out / "mine.txt" if make == "folder" else out
    kept.write_text("mine")
    for construct in (lambda: build_generic(multi_label(folder), out), lambda: build_phantom_sites(out, size=32)):
        with pytest.raises(ValueError, match="out exists and is not empty; delete it or choose another --out"):
            construct()
    assert kept.read_text() == "mine" and sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_empty_output_folder_is_used(folder, rows, tmp_path):
    write_rows(folder, rows)
    (tmp_path / "out").mkdir()
    build_generic(multi_label(folder), tmp_path / "out")
    assert len(read_dataset(tmp_path / "out")) == 6


def test_size_that_shows_nothing_is_refused(folder, rows, tmp_path):
    write_rows(folder, rows)
    for construct in (
        lambda: build_generic(multi_label(folder), tmp_path / "out", size=0),
        lambda: build_phantom_sites(tmp_path / "out", size=31),
    ):
        with pytest.raises(ValueError, match="size must be at least 32 pixels"):
            construct()


def test_failure_while_writing_leaves_nothing_behind(folder, rows, tmp_path, monkeypatch):
    write_rows(folder, rows)
    written = []

    def encode(plane):
        written.append(plane)
        if len(written) == 5:
            raise OSError("no space left on device")
        return {"bytes": b"", "path": None}

    monkeypatch.setattr(build, "encode_png", encode)
    for construct in (
        lambda: build_generic(multi_label(folder), tmp_path / "out"),
        lambda: build_phantom_sites(tmp_path / "out", {"train": 3}, size=32),
    ):
        written.clear()
        with pytest.raises(DatasetGenerationError):
            construct()
        assert len(written) == 5 and os.listdir(tmp_path) == ["source"]
