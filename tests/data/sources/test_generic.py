"""Any folder of radiographs with a table of labels: what is read of it, and that faults are told by line."""

import math
from pathlib import Path

import numpy as np
import pytest

from ark_hf.data.rows import Release, Row
from ark_hf.data.sources.generic import GenericSource, derive_splits, read_generic
from ark_hf.models.ark.configuration_ark import ArkTask

from ..build.generated import draw_picture, write_rows
from .generic_folders import FILES, PATIENT, SPLITS, fill, problems, read


@pytest.fixture
def rows() -> list[dict]:
    """Six good rows: lines 2 to 7 of the table."""
    return [
        {"image": name, "split": split, "patient_id": f"{PATIENT}-{number}", "Edema": "0", "Mass": "1"}
        for number, (name, split) in enumerate(zip(FILES, SPLITS, strict=True))
    ]


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, name in enumerate(FILES):
        draw_picture(tmp_path / "source" / name, number)
    return tmp_path / "source"


# The table -----------------------------------------------------------------------------------------------------------


def test_multi_label_values_become_0_1_uncertain_and_unknown(folder, rows):
    values = [("0", "1"), ("-1", ""), (" 1.0 ", "0.0"), ("-1.0", "1"), ("", ""), ("1", "0")]
    for row, (edema, mass) in zip(rows, values, strict=True):
        row |= {"Edema": edema, "Mass": mass}
    release = read(folder, rows)
    assert release.task == ArkTask("lungs", ["Edema", "Mass"]) and not release.problems
    expected = [[0, 1], [-1, math.nan], [1, 0], [-1, 1], [math.nan, math.nan], [1, 0]]
    np.testing.assert_equal([row.labels for row in release.rows], expected)


def test_class_names_become_indices_and_blank_becomes_unknown(folder, rows):
    for row, kind in zip(rows, ["viral", "normal", "", "bacterial", " viral ", "normal"], strict=True):
        row["kind"] = kind
    given = ["normal", "bacterial", "viral", "fungal"]
    for classes, names, expected in (
        ([], ["bacterial", "normal", "viral"], [2, 1, -1, 0, 2, 1]),
        (given, given, [2, 0, -1, 1, 2, 0]),
    ):
        release = read(folder, rows, label_column="kind", classes=classes)
        assert release.task == ArkTask("lungs", names, "single_label_classification")
        assert [row.labels for row in release.rows] == expected


def test_lists_of_findings_become_a_label_each(folder, rows):
    cells = ["Mass|Effusion", "No Finding", "", " Mass | Edema ", "Edema", "no finding|Mass"]
    for row, cell in zip(rows, cells, strict=True):
        row["Finding Labels"] = cell
    release = read(folder, rows, label_column="Finding Labels", separator="|")
    assert release.task == ArkTask("lungs", ["Edema", "Effusion", "Mass"])
    unknown = [math.nan] * 3
    expected = [[0, 1, 1], [0, 0, 0], unknown, [1, 0, 1], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_equal([row.labels for row in release.rows], expected)

    classes = ["No Finding", "Mass", "Edema", "Effusion"]
    rows[5]["Finding Labels"] = "Masse"
    release = read(folder, rows, label_column="Finding Labels", separator="|", classes=classes)
    assert [row.labels for row in release.rows][:2] == [[0, 1, 0, 1], [1, 0, 0, 0]]
    assert problems(release) == {
        "labels.csv, line 7": f"Finding Labels 'Masse' is not a class; the classes are {classes}"
    }


BLANKS = ("nan", "NaN", "NA", "N/A", "None", "null", "<NA>", " ")


@pytest.mark.parametrize("blank", BLANKS)
def test_what_programs_write_for_nothing_is_blank_in_every_column(folder, rows, blank):
    for row in rows:
        row |= {"sex": "F", "age": "40", "view": "PA", "study_id": "s", "kind": "viral"}
    rows[2] |= dict.fromkeys(("patient_id", "sex", "age", "view", "study_id", "Edema", "kind"), blank)
    rows[3]["kind"] = "normal"
    release = read(folder, rows)
    assert not release.problems and math.isnan(release.rows[2].labels[0]) and release.rows[2].labels[1] == 1
    assert release.rows[2].metadata == dict.fromkeys(release.rows[2].metadata) | {"image_id": FILES[2]}
    release = read(folder, rows, label_column="kind")
    assert release.task.labels == ["normal", "viral"] and release.rows[2].labels == -1
    rows[1]["split"], rows[0]["image"] = blank, blank
    assert set(problems(read(folder, rows))) == {"labels.csv, line 2", "labels.csv, line 3"}


def test_a_class_called_none_is_named_among_the_classes_and_told_of_otherwise(folder, rows):
    for row, grade in zip(rows, ["None", "mild", "None", "mild", "severe", "none"], strict=True):
        row["grade"] = grade
    release = read(folder, rows, label_column="grade")
    assert [row.labels for row in release.rows] == [-1, 0, -1, 0, 1, -1]
    told = "Cells that count as unknown: 'None' (2), 'none' (1); --classes makes a class of a word."
    assert release.remarks == [told]
    release = read(folder, rows, label_column="grade", classes=["none", "mild", "severe"])
    assert [row.labels for row in release.rows] == [0, 1, 0, 1, 2, 0] and not release.remarks


def test_classes_that_are_numbers_are_read_and_sorted_as_numbers(folder, rows):
    for row, grade in zip(rows, ["10", "2.0", "0", "1", "2", "1.0"], strict=True):
        row["grade"] = grade
    release = read(folder, rows, label_column="grade")
    assert release.task.labels == ["0", "1", "2", "10"] and [row.labels for row in release.rows] == [3, 2, 0, 1, 2, 1]
    release = read(folder, rows, label_column="grade", classes=["10.0", "2", "1", "0.0"])
    assert [row.labels for row in release.rows] == [0, 1, 3, 2, 1, 2]
    for row, grade in zip(rows, ["stage 10", "stage 2", "none?", "stage 1", "stage 2", "stage 1"], strict=True):
        row["grade"] = grade
    assert read(folder, rows, label_column="grade").task.labels == ["none?", "stage 1", "stage 2", "stage 10"]


def test_names_that_differ_in_case_or_blanks_are_one_and_those_that_differ_in_little_else_are_refused(folder, rows):
    names = ["Pneumonia", "pneumonia", " PNEUMONIA", "normal", "viral  pneumonia", "Viral Pneumonia"]
    for row, kind in zip(rows, names, strict=True):
        row["kind"] = kind
    release = read(folder, rows, label_column="kind")
    assert release.task.labels == ["PNEUMONIA", "Viral Pneumonia", "normal"]
    assert [row.labels for row in release.rows] == [0, 0, 0, 2, 1, 1]
    assert "'PNEUMONIA' (also 'Pneumonia', 'pneumonia')" in release.remarks[0]
    release = read(folder, rows, label_column="kind", classes=["normal", "pneumonia", "viral pneumonia"])
    assert [row.labels for row in release.rows] == [1, 1, 1, 0, 2, 2]
    for row, found in zip(rows, ["Mass|edema", "mass", "EDEMA|edema", "no finding", "Mass ", "Edema"], strict=True):
        row["found"] = found
    release = read(folder, rows, label_column="found", separator="|")
    assert release.task.labels == ["Mass", "edema"], "each spelt as most often"
    assert [row.labels for row in release.rows] == [[1, 1], [1, 0], [0, 1], [0, 0], [1, 0], [0, 1]]

    rows[0]["kind"] = "viral_pneumonia"
    with pytest.raises(ValueError, match=r"\['Viral Pneumonia', 'viral_pneumonia'\] look like one"):
        read(folder, rows, label_column="kind")
    for options in ({"labels": ["Edema", "edema"]}, {"label_column": "kind", "classes": ["Normal", "normal"]}):
        for row in rows:
            row["edema"] = "1"
        with pytest.raises(ValueError, match="differ in case or blanks alone; keep one"):
            read(folder, rows, **options)


def test_words_for_labels_and_own_ones_are_mapped(folder, rows):
    words = [("True", "ja"), ("no", "nein"), ("Positive", "?"), ("neg", "k.A."), ("yes", "JA"), ("0", "1")]
    for row, (edema, mass) in zip(rows, words, strict=True):
        row |= {"Edema": edema, "Mass": mass}
    assert "'ja': use 0, 1, -1 (uncertain) or blank" in problems(read(folder, rows))["labels.csv, line 2"]
    release = read(folder, rows, label_map=["ja=1", "nein=0", "?=-1", "k.a.="])
    expected = [[1, 1], [0, 0], [1, -1], [0, math.nan], [1, 1], [0, 1]]
    assert not release.problems
    np.testing.assert_equal([row.labels for row in release.rows], expected)
    for row, kind in zip(rows, ["covid", "SARS-CoV-2", "COVID-19", "healthy", "normal", "?"], strict=True):
        row["kind"] = kind
    mapped = ["covid=COVID-19", "sars-cov-2=COVID-19", "healthy=normal", "?="]
    release = read(folder, rows, label_column="kind", label_map=mapped)
    assert release.task.labels == ["COVID-19", "normal"] and [row.labels for row in release.rows] == [
        0,
        0,
        0,
        1,
        1,
        -1,
    ]
    for wrong in (["ja"], ["ja=2"], ["ja=1", "JA=0"]):
        with pytest.raises(ValueError, match="--label_map"):
            read(folder, rows, label_map=wrong)


def test_rows_know_their_split_path_and_line(folder, rows):
    for row, split in zip(rows, ["test", "Train", " validation", "valid", "train", "VAL"], strict=True):
        row["split"] = split
    release = read(folder, rows)
    assert [row.split for row in release.rows] == ["test", "train", "validation", "validation", "train", "validation"]
    assert [row.path for row in release.rows] == [folder / name for name in FILES]
    assert [row.where for row in release.rows] == [f"labels.csv, line {line}" for line in range(2, 8)]
    assert [row.metadata["image_id"] for row in release.rows] == list(FILES) and "splits" not in release.facts


def test_metadata_columns_are_kept_where_the_table_knows_them(folder, rows):
    for row in rows:
        row |= {"age": "", "sex": "", "remark": "not kept"}
    rows[0] |= {"age": "63", "sex": "F"}
    rows[1] |= {"patient_id": "", "age": "414"}  # a typing error, as releases have them
    first, second = read(folder, rows).rows[:2]
    assert first.metadata == {
        "image_id": FILES[0],
        "patient_id": f"{PATIENT}-0",
        "study_id": None,
        "sex": "F",
        "age": 63.0,
        "view": None,
    }
    assert second.metadata == dict.fromkeys(first.metadata) | {"image_id": FILES[1]}


def test_metadata_are_found_and_read_in_any_spelling(folder, rows):
    renamed = {"image": "Image", "split": "SPLIT", "patient_id": "PatientID", "Edema": "edema"}
    rows = [{renamed.get(key, key): value for key, value in row.items()} for row in rows]
    for row, sex, age, view in zip(
        rows,
        ["Male", "f", "W", "O", "", "female"],
        ["045Y", "6M", ">89", "45,5", "", "300"],
        ["pa", "Antero-posterior", "LATERAL", "LL", "", "Swimmers"],
        strict=True,
    ):
        row |= {"Gender": sex, "Patient Age": age, "View Position": view}
    rows[0]["PatientID"], rows[1]["PatientID"] = "10000032.0", "10000032"
    release = read(folder, rows)
    metadata = [row.metadata for row in release.rows]
    assert not release.problems and [row.split for row in release.rows] == ["train"] * 4 + ["validation", "test"]
    assert [each["patient_id"] for each in metadata][:3] == ["10000032", "10000032", f"{PATIENT}-2"]
    assert [each["sex"] for each in metadata] == ["M", "F", "F", None, None, "F"]
    assert [each["age"] for each in metadata] == [45, 0.5, 90, 45.5, None, None]
    assert [each["view"] for each in metadata] == ["PA", "AP", "lateral", "lateral", None, "Swimmers"]
    told = "Read without being asked for: sex from 'Gender', age from 'Patient Age', view from 'View Position'."
    assert release.remarks == [told]

    release = read(folder, rows, sex_column=None, age_column="patient age", view_column=None)
    assert [release.rows[0].metadata[name] for name in ("sex", "age", "view")] == [None, 45, None]
    with pytest.raises(ValueError, match=r"has no columns \['nowhere'\]"):
        read(folder, rows, sex_column="nowhere")
    for row in rows:
        row["sex"] = "M"
    assert {row.metadata["sex"] for row in read(folder, rows).rows} == {"M"}, "the very name goes first"
    rows[0]["sex"], rows[1]["PatientID"] = "Sentinel", "1.23457E+12"
    told = problems(read(folder, rows))
    assert "sex must be M or F" in told["labels.csv, line 2"] and "rounded number" in told["labels.csv, line 3"]
    for row in rows:
        row["patient id"] = "p"
    with pytest.raises(
        ValueError, match=r"has the columns \['PatientID', 'patient id'\]; say which one is patient_id"
    ):
        read(folder, rows)


def test_unknown_patients_are_split_by_image_and_told_of(folder, rows):
    draw = [f"many/{number}.png" for number in range(60)]
    for number, name in enumerate(draw):
        draw_picture(folder / name, number, (2, 2))
    rows = [{"image": name, "patient_id": "nan", "Edema": "1", "Mass": "0"} for name in draw]
    release = read(folder, rows)
    assert {row.metadata["patient_id"] for row in release.rows} == {None}
    assert len({row.split for row in release.rows}) == 3 and "Not all patients are known" in release.facts["splits"]


def test_images_outside_the_folder_are_refused_by_line_without_the_way_there(folder, rows, tmp_path):
    draw_picture(tmp_path / "private" / "1.png", 9)
    rows[0]["image"], rows[1]["image"] = "../private/1.png", str(tmp_path / "private" / "1.png")
    rows[2]["image"] = str(folder / "images" / "2.jpg")
    rows[3]["image"] = "source\\images\\3.png"
    release = read(folder, rows)
    assert list(problems(release)) == ["labels.csv, line 2", "labels.csv, line 3"]
    assert "private" not in str(release.problems) and "outside" in release.problems[0].reason
    assert [row.metadata["image_id"] for row in release.rows] == list(FILES[2:])


def test_a_table_of_another_name_or_kind_in_the_folder_is_found(folder, rows):
    write_rows(folder, rows)
    whole = read(folder).rows
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").rename(folder / "Labels.CSV")
    assert [row.labels for row in read(folder).rows] == [row.labels for row in whole]
    (folder / "labels.tsv").write_text(text.replace(",", "\t"))
    with pytest.raises(ValueError, match=r"has \['Labels.CSV', 'labels.tsv'\]; say with --csv which one"):
        read(folder)
    (folder / "Labels.CSV").unlink()
    assert [row.labels for row in read(folder).rows] == [row.labels for row in whole]


def test_foreign_tables_and_headers_are_named_by_options(folder, rows, tmp_path):
    renamed = {"image": "Image Index", "split": "Set", "patient_id": "Patient ID"}
    write_rows(tmp_path, [{renamed.get(key, key): value for key, value in row.items()} for row in rows])
    table = (tmp_path / "labels.csv").rename(tmp_path / "Data Entry.csv")
    columns = {"image_column": "Image Index", "split_column": "Set", "patient_column": "Patient ID"}
    release = read(folder, csv=table, **columns)
    assert [row.split for row in release.rows] == ["train"] * 4 + ["validation", "test"]
    assert [row.metadata["patient_id"] for row in release.rows] == [row["patient_id"] for row in rows]
    assert release.rows[3].where == "Data Entry.csv, line 5"
    for column in columns:
        with pytest.raises(ValueError, match=r"has no columns \['nowhere'\]"):
            read(folder, csv=table, **columns | {column: "nowhere"})
    with pytest.raises(ValueError, match=r"no column 'split', but \['Set'\]; pass --split_column"):
        read(folder, csv=table, image_column="Image Index")


def test_images_are_found_by_name_where_there_is_one(folder, rows):
    rows[0]["image"], rows[3]["image"], rows[4]["image"] = "0", "3.png", "./images/4.png"
    release = read(folder, rows)
    assert [row.metadata["image_id"] for row in release.rows] == list(FILES) and not release.problems
    draw_picture(folder / "more" / "3.png", 9)
    assert "lies in 2 folders" in problems(read(folder, rows))["labels.csv, line 5"]


def test_a_table_without_splits_is_split_by_patient(folder):
    rows = []
    for number in range(100):
        draw_picture(folder / f"{number}.png", number, (2, 2))
        rows.append({"image": f"{number}.png", "patient_id": f"p{number // 2}", "Edema": "1", "Mass": "0"})
    release = read(folder, rows)
    by_patient = {(row.metadata["patient_id"], row.split) for row in release.rows}
    assert len(by_patient) == 50
    assert [sum(row.split == split for row in release.rows) for split in ("train", "validation", "test")] == [
        68,
        4,
        28,
    ]
    assert "derived by a hash of the patient: 10% for validation, 20% for test" in release.facts["splits"]
    again = read(folder, rows[::-1])
    assert {row.metadata["image_id"]: row.split for row in again.rows} == {
        row.metadata["image_id"]: row.split for row in release.rows
    }
    for row in rows:
        del row["patient_id"]
    assert "images of one may stand in two splits" in read(folder, rows).facts["splits"]


def unsplit(count: int) -> Release:
    """Of as many patients, one image each."""
    patients = [f"p{number}" for number in range(count)]
    rows = [Row("", Path(name), "", [1.0], {"patient_id": name, "image_id": name}) for name in patients]
    return Release(ArkTask("lungs", ["Mass"]), rows)


def test_more_patients_move_none_to_another_split():
    before, after = unsplit(1000), unsplit(1100)
    for release in (before, after):
        derive_splits(release)
    moved = [old for old, new in zip(before.rows, after.rows, strict=False) if old.split != new.split]
    assert not moved, f"{len(moved)} of 1,000 patients, {sum(row.split == 'train' for row in moved)} from train"


def test_shares_are_those_of_many_patients():
    release = unsplit(20_000)
    derive_splits(release)
    shares = [sum(row.split == split for row in release.rows) / 20_000 for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


def test_a_small_source_says_which_splits_stay_empty():
    release = unsplit(4)
    derive_splits(release)
    assert [row.split for row in release.rows] == ["train"] * 4  # for ever
    told = " None of the 4 patients fell to validation and test: give splits of your own."
    assert release.facts["splits"].endswith(told)
    release = unsplit(100)
    derive_splits(release)
    assert "fell to" not in release.facts["splits"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "images/absent.png"}, "'images/absent.png' is not below"),
        ({"image": "images"}, "'images' is not below"),
        ({"image": "x" * 5000}, "is not below"),
        ({"image": "a\0b"}, "is not below"),
        ({"image": " "}, "image is blank"),
        ({"split": ""}, "split '': use one of ['test', 'testing', 'train'"),
        ({"split": "dev"}, "split 'dev': use one of ['test', 'testing', 'train'"),
        ({"Edema": "2"}, "Edema is '2': use 0, 1, -1 (uncertain) or blank (unknown)"),
        ({"Mass": "0.5"}, "Mass is '0.5': use 0, 1, -1"),
        ({"split": "nan"}, "split 'nan': use one of"),
        ({"Mass": "perhaps"}, "Mass is 'perhaps': use 0, 1, -1"),
        ({"age": "old"}, "age must be a number of years or blank"),
        ({"age": "inf"}, "age must be a number of years or blank"),
        ({"age": "-3"}, "age must be a number of years or blank"),
    ],
)
def test_wrong_row_is_named_by_line_with_what_is_allowed(folder, rows, change, message):
    for row in rows:
        row["age"] = ""
    rows[4] |= change
    release = read(folder, rows)
    assert message in problems(release)["labels.csv, line 6"]
    assert len(release.problems) == 1 and len(release.rows) == 5


def test_unknown_class_is_named_with_the_classes(folder, rows):
    for row in rows:
        row["kind"] = "normal"
    rows[2]["kind"] = "wiral"
    release = read(folder, rows, label_column="kind", classes=["normal", "viral"])
    assert problems(release) == {
        "labels.csv, line 4": "kind 'wiral' is not a class; the classes are ['normal', 'viral']"
    }


@pytest.mark.parametrize("values", [2, 6], ids=["short", "long"])
def test_row_of_another_width_than_the_header_is_left_out(folder, rows, values):
    write_rows(folder, rows)
    lines = (folder / "labels.csv").read_text().splitlines()
    lines[3] = ",".join((lines[3].split(",") + ["1"])[:values])
    (folder / "labels.csv").write_text("\n".join(lines))
    release = read(folder)
    assert problems(release) == {"labels.csv, line 4": f"{values} values, but the header names 5 columns"}
    assert len(release.rows) == 5


def test_lines_count_blank_lines_and_line_breaks_in_quotes(folder, rows):
    rows[0]["remark"] = "two\nlines"
    rows[1]["Mass"] = "?"
    write_rows(folder, rows)
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("\n", "\n\n", 1))
    assert list(problems(read(folder))) == ["labels.csv, line 5"]


@pytest.mark.parametrize("column", ["image", "Mass"])
def test_missing_column_is_named(folder, rows, column):
    for row in rows:
        del row[column]
    with pytest.raises(ValueError, match=rf"labels.csv has no columns \['{column}'\]"):
        read(folder, rows)


def test_a_missing_column_of_images_says_which_option_names_it(folder, rows):
    for row in rows:
        row["Filename"], row["Age"] = row.pop("image"), 50
    with pytest.raises(ValueError, match=r"has no columns \['image'\]; its first line .* --image_column says\.$"):
        read(folder, rows)  # "Age" is not like it


def test_column_that_stands_twice_is_refused_where_it_counts(folder, rows):
    write_rows(folder, rows)
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("Mass", "Edema", 1))
    with pytest.raises(ValueError, match=r"has several columns \['Edema'\]"):
        read(folder, labels=["Edema"])
    (folder / "labels.csv").write_text(text.replace("Mass", "patient_id", 1))
    with pytest.raises(ValueError, match=r"has several columns \['patient_id'\]"):
        read(folder, labels=["Edema"])
    (folder / "labels.csv").write_text(text.replace("Mass", "", 1))  # as pandas names its index
    assert len(read(folder, labels=["Edema"]).rows) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"has no columns \['image', 'Edema', 'Mass'\]"),
        (b"image,split,patient_id,Edema,Mass\n", "has no rows"),
        ("image,split,Edema,Mass\nimages/é.png,train,0,1\n".encode("latin-1"), "needs a UTF-8 file"),
        ("image,split,Edema,Mass\nimages/0.png,train,0,1\n".encode("utf-16-le"), "looks like UTF-16 without a mark"),
    ],
    ids=["empty", "header only", "latin-1", "utf-16"],
)
def test_file_that_is_no_table_is_refused_by_name(folder, content, message):
    (folder / "labels.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(folder)
    assert str(folder / "labels.csv") in str(caught.value)


def test_absent_table_is_refused_by_name(folder):
    with pytest.raises(ValueError, match=f"Cannot read {folder / 'labels.csv'}"):
        read(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "either --labels .* or --label_column"),
        ({"labels": ["Edema"], "label_column": "Mass"}, "either --labels .* or --label_column"),
        ({"classes": ["a"]}, "--classes and --separator go with --label_column"),
        ({"separator": "|"}, "--classes and --separator go with --label_column"),
        ({"label_column": "Mass", "separator": ""}, "--separator must not be empty"),
        ({"label_column": "Mass"}, "at least two labels"),
        ({"labels": ["Edema", "Edema"]}, "occur more than once"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(folder, rows, options, message):
    with pytest.raises(ValueError, match=message):
        read(folder, rows, **options)


def test_name_that_no_task_can_have_is_refused(folder, rows):
    write_rows(folder, rows)
    with pytest.raises(ValueError, match="lower-case letters"):
        read_generic(GenericSource(folder, "Lungs 1", labels=["Edema"]))


def test_images_that_no_row_of_the_table_names_are_counted_and_named(folder, rows):
    fill(folder, "more/1.png", "more/2.webp")
    left_out = {reason: names for reason, names in read(folder, rows).left_out.items() if names}
    assert left_out == {"no row that can be used names it": ["more/1.png", "more/2.webp"]}
