"""The builders of the catalog: tiny releases in every official layout, wrong rows, missing files, lists and splits."""

import math
import shutil
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf.data.rows import OPTIONAL_COLUMNS, hashed_split
from ark_hf.data.sources.catalog import read_catalog
from ark_hf.data.sources.releases import read_release
from tests.data.sources.tiny_releases import NIH_HEADER, RELEASES, TinyRelease, padchest_row

CATALOG = read_catalog()
ALL = pytest.mark.parametrize("name", RELEASES)
NAMED_BY_FILE = ("shenzhen", "montgomery", "kermany", "kermany_pneumonia")  # their images are their table
NAMED_BY_PATH = ("chexpert", "covidx", "tbx11k", "kermany", "kermany_pneumonia", "idrid", "idrid_referable")


def all_but(*names: str):
    return pytest.mark.parametrize("name", [name for name in RELEASES if name not in names])


def known(values):
    """Labels without NaN, which is not equal to itself."""
    return values if isinstance(values, int) else [None if math.isnan(value) else value for value in values]


def found(release) -> dict[str, tuple]:
    return {
        row.metadata["image_id"]: (
            row.split,
            known(row.labels),
            {column: row.metadata[column] for column in OPTIONAL_COLUMNS if row.metadata[column] is not None},
        )
        for row in release.rows
    }


def read(name: str, tiny: TinyRelease, root, lists=None):
    return read_release(name, tiny.write(root), lists, tiny.options)


def test_every_dataset_of_the_catalog_has_a_tiny_release():
    of_labels = [name for name, entry in CATALOG.items() if entry.masks is None and not entry.volumes]
    assert list(RELEASES) == of_labels


@ALL
def test_official_layout_is_read(tmp_path, name):
    tiny = RELEASES[name]
    release = read(name, tiny, tmp_path)
    assert release.problems == []
    assert found(release) == tiny.rows and len(release.rows) == len(tiny.rows)
    assert release.task.labels == CATALOG[name].labels and release.task.name == name
    for row in release.rows:
        assert row.path.is_file() and row.path.is_relative_to(tmp_path)
        assert row.where.split(", line ")[0] in {path.split("/")[-1] for path in tiny.files} | set(tiny.images)
    assert release.facts["expected"], "three images are never the whole release"
    assert {"title", "license", "access", "citation", "splits", "semantics"} <= set(release.facts)


@ALL
def test_converted_images_are_found_by_name_wherever_they_lie(tmp_path, name):
    tiny = RELEASES[name]
    moved = []
    for path in tiny.images:
        stem = path.rpartition(".")[0]
        if name not in NAMED_BY_PATH:
            stem = stem.replace("/", "/converted/", 1)
        moved.append(f"{stem}.jpg" if path.endswith(".png") else f"{stem}.png")
    rows = {image.rpartition(".")[0] if "." in image else image: row for image, row in tiny.rows.items()}
    release = read(name, replace(tiny, images=moved), tmp_path)
    assert release.problems == []
    images = {image.rpartition(".")[0] if "." in image else image: row for image, row in found(release).items()}
    assert images == rows


@all_but(*NAMED_BY_FILE)
def test_missing_image_is_a_problem_of_its_line_and_costs_no_other(tmp_path, name):
    tiny = RELEASES[name]
    root = tiny.write(tmp_path / "raw")
    whole = read_release(name, root, options=tiny.options)
    lost = whole.rows[-1]
    lost.path.unlink()
    release = read_release(name, root, options=tiny.options)
    assert [(problem.where, problem.reason) for problem in release.problems] == [
        (lost.where, f"image {lost.metadata['image_id']!r} is not below the release's folder")
    ]
    assert found(release) == {image: row for image, row in tiny.rows.items() if image != lost.metadata["image_id"]}


@ALL
def test_missing_table_is_named(tmp_path, name):
    tiny = RELEASES[name]
    with pytest.raises(ValueError, match=r"There is no .* below|holds no images of|is not a folder"):
        read_release(name, replace(tiny, files={}, images=[]).write(tmp_path / "raw"), options=tiny.options)
    (tmp_path / "raw").mkdir()
    with pytest.raises(ValueError, match=r"There is no .* below|holds no images of"):
        read_release(name, tmp_path / "raw", options=tiny.options)


@ALL
def test_tables_are_found_packed_and_in_any_folder(tmp_path, name):
    import gzip

    tiny = RELEASES[name]
    root = replace(tiny, files={}).write(tmp_path / "raw")
    for path, text in tiny.files.items():
        if path.endswith((".csv", ".txt")) and "ClinicalReadings" not in path and "data/" not in path:
            folder = root / "elsewhere" / path.rpartition("/")[0]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{path.rpartition('/')[2]}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            replace(tiny, files={path: text}, images=[]).write(root)
    root.mkdir(exist_ok=True)
    assert found(read_release(name, root, options=tiny.options)) == tiny.rows


@all_but(*NAMED_BY_PATH)
def test_image_in_two_folders_is_a_problem(tmp_path, name):
    tiny = RELEASES[name]
    root = tiny.write(tmp_path / "raw")
    first = read_release(name, root, options=tiny.options).rows[0]
    (root / "another").mkdir()
    shutil.copy(first.path, root / "another" / first.path.name)
    problems = read_release(name, root, options=tiny.options).problems
    assert {problem.reason for problem in problems} == {
        f"image {first.metadata['image_id']!r} lies in 2 folders below the release's folder"
    }


WRONG_LINES = [
    (
        "chestxray14",
        "Data_Entry_2017_v2020.csv",
        2,
        "00000001_000.png,Cardiomegly" + ",1" * 9,
        "Finding Labels must be",
    ),
    ("chestxray14", "Data_Entry_2017_v2020.csv", 2, "00000001_000.png,Mass,0", "3 values, but the header names 11"),
    (
        "chexpert",
        "train.csv",
        2,
        "patient00001/study1/v.jpg,F,68,Frontal,AP,2.0" + "," * 13,
        "No Finding must be one of",
    ),
    ("chexpert", "train.csv", 2, "view1_frontal.jpg,F,68,Frontal,AP" + "," * 14, "Path must end with patientN/studyN"),
    ("mimic_cxr", "mimic-cxr-2.0.0-split.csv", 2, "02aa804e-bde0afdd,1,10000032,dev", "split must be one of train,"),
    (
        "mimic_cxr",
        "mimic-cxr-2.0.0-chexpert.csv",
        3,
        "10000980,2,maybe" + "," * 13,
        "Atelectasis must be one of blank,",
    ),
    ("vindr_cxr", "image_labels_test.csv", 2, "w0" + ",0" * 27 + ",?", "No finding must be one of 0, 1"),
    ("vinbigdata", "train.csv", 2, "b5,Nothing,14,R11,,,,", "class_name must be one of Aortic enlargement"),
    ("rsna", "stage_2_detailed_class_info.csv", 2, "r0,Sick", "class must be one of Normal"),
    ("rsna_opacity", "stage_2_train_labels.csv", 2, "r4,,,,,perhaps", "Target must be one of 0, 1"),
    ("covidx", "train_COVIDx9A.txt", 2, "p1 f1.png positive cohen", "the class must be one of normal, pneumonia,"),
    ("chestdr", "test.txt", 1, "5B91 0,1", "2 labels, but there must be 19"),
    ("tbx11k", "TBX11K_val.txt", 1, "extra/da+db/x.png", "the folder must be one of health, sick, tb"),
    ("siim_acr", "train-rle.csv", 2, "1.2.0,", "EncodedPixels is blank"),
    ("node21", "proccessed_data/metadata.csv", 5, "3,0,c0006.mha,2,0,0,0", "label must be one of 0, 1"),
    ("padchest", "01.02.19.csv", 2, padchest_row(0, "pat0", "normal"), "Labels must be a list in brackets, or nan"),
    ("aptos2019", "train.csv", 3, "001639a390f0,5", "diagnosis must be one of 0, 1, 2, 3, 4"),
    ("aptos2019", "train.csv", 4, "002c21358ce6,", "diagnosis must be one of 0, 1, 2, 3, 4"),
    ("idrid", "Training Labels.csv", 3, "IDRiD_002,-1,0,,,", "Retinopathy grade must be one of 0, 1, 2, 3, 4"),
    ("idrid_referable", "Testing Labels.csv", 2, "IDRiD_001,4,3", "Risk of macular edema must be one of 0, 1, 2"),
    (
        "messidor2",
        "messidor_data.csv",
        2,
        "20051020_43808_0100_PP.png,,0,1",
        "adjudicated_dr_grade must be one of 0, 1",
    ),
    ("messidor2", "messidor_data.csv", 4, "IM002385.jpg,,,", "adjudicated_gradable must be one of 0, 1"),
    (
        "messidor2_referable",
        "messidor_data.csv",
        3,
        "20051020_43832_0100_PP.png,1,,1",
        "adjudicated_dme must be one of",
    ),
    (
        "vindr_mammo",
        "level_annotations.csv",
        2,
        "b8d2,,4e3a,L,MLO,1,1,BI-RADS 0,DENSITY C,training",
        "breast_birads must be",
    ),
    (
        "vindr_mammo",
        "level_annotations.csv",
        3,
        "b8d2,,dac3,R,CC,1,1,BI-RADS 4,DENSITY C,dev",
        "split must be one of train",
    ),
    ("vindr_mammo", "level_annotations.csv", 4, ",,ba1c,L,CC,1,1,BI-RADS 5,DENSITY D,test", "study_id is blank"),
    (
        "vindr_mammo_density",
        "level_annotations.csv",
        4,
        "8269,,ba1c,B,CC,1,1,BI-RADS 5,DENSITY D,test",
        "laterality must be L",
    ),
    (
        "vindr_mammo_density",
        "level_annotations.csv",
        2,
        "b8d2,,4e3a,L,MLO,1,1,BI-RADS 1,E,training",
        "breast_density must be",
    ),
]


@pytest.mark.parametrize(("name", "file", "line", "wrong", "reason"), WRONG_LINES)
def test_wrong_line_is_a_problem_by_file_and_line_and_costs_no_other_image(tmp_path, name, file, line, wrong, reason):
    tiny = RELEASES[name]
    (file,) = (path for path in tiny.files if path.endswith(file))
    lines = tiny.files[file].splitlines()
    lines[line - 1] = wrong
    release = read(name, replace(tiny, files={**tiny.files, file: "\n".join(lines)}), tmp_path)
    where = f"{file.split('/')[-1]}, line {line}"
    problems = [problem for problem in release.problems if problem.where == where]
    assert len(problems) == 1 and reason in problems[0].reason
    assert len(release.problems) <= 2, "at most that the image then stands in the list alone"
    assert not any(text in str(release.problems) for text in ("pat0", "10000032")), "no patient is quoted"
    expected = dict(tiny.rows)
    for image, row in found(release).items():
        # Of several rows an image, the others still count
        assert row == expected.pop(image) or name in ("vinbigdata", "siim_acr", "mimic_cxr")
    assert len(expected) <= 1


@all_but("kermany", "kermany_pneumonia")
@settings(max_examples=25)
@given(data=st.data())
def test_no_text_in_a_table_stops_the_builder_other_than_by_a_clear_refusal(tmp_path_factory, name, data):
    tiny = RELEASES[name]
    file = data.draw(st.sampled_from(sorted(tiny.files)))
    lines = tiny.files[file].splitlines()
    number = data.draw(st.integers(0, len(lines)))
    text = st.text(st.characters(codec="utf-8"), max_size=30)
    row = st.lists(text | st.sampled_from("".join(lines).split(",")), max_size=30).map(",".join)
    lines[number : number + data.draw(st.integers(0, 1))] = [data.draw(row)]
    root = replace(tiny, files={**tiny.files, file: "\n".join(lines)}).write(tmp_path_factory.mktemp("fuzz"))
    try:
        release = read_release(name, root, options=tiny.options)
    except ValueError as refusal:
        assert str(root) in str(refusal)
        return
    assert all(problem.where.split(", line ")[0] for problem in release.problems)
    whole = {image: row for image, row in tiny.rows.items() if found(release).get(image) == row}
    # Where a row concerns several images
    merged = ("vindr_cxr", "vindr_cxr_all", "vinbigdata", "mimic_cxr", "messidor2", "messidor2_referable")
    assert name in merged or len(whole) >= len(tiny.rows) - 2


def test_blank_may_count_as_zero_as_in_the_originals(tmp_path):
    for name in ("chexpert", "mimic_cxr"):
        release = read(name, replace(RELEASES[name], options={"blank": "zero"}), tmp_path / name)
        for row in release.rows:
            _, labels, _ = RELEASES[name].rows[row.metadata["image_id"]]
            if any(value is not None for value in labels):
                assert row.labels == [0 if value is None else value for value in labels]
        assert release.facts["options"] == {"blank": "zero"}


def test_majority_and_union_of_three_readers_differ_as_documented(tmp_path):
    majority = read("vindr_cxr", RELEASES["vindr_cxr"], tmp_path)
    union = read("vindr_cxr", replace(RELEASES["vindr_cxr"], options={"readers": "union"}), tmp_path)
    labels = CATALOG["vindr_cxr"].labels

    def positives(release):
        return {
            row.metadata["image_id"]: [name for name, value in zip(labels, row.labels, strict=True) if value]
            for row in release.rows
        }

    assert positives(majority) == {"v3": ["PE"], "v0": ["No finding"], "w0": ["Lung tumor", "Other diseases"]}
    assert positives(union) == {
        "v3": ["PE", "Pneumonia", "Tuberculosis"],
        "v0": ["Other diseases"],
        "w0": ["Lung tumor", "Other diseases"],
    }


def test_images_of_neither_list_and_lines_of_no_image_are_problems(tmp_path):
    tiny = RELEASES["chestxray14"]
    files = {**tiny.files, "train_val_list.txt": "00000001_000.png\n00000003_001.png\n00000099_000.png\n"}
    release = read("chestxray14", replace(tiny, files=files), tmp_path)
    assert [(problem.where, problem.reason) for problem in release.problems] == [
        ("test_list.txt, line 1", "this image stands in train_val_list.txt too"),
        (
            "Data_Entry_2017_v2020.csv, line 3",
            "this image is in neither list",
        ),
        ("Data_Entry_2017_v2020.csv, line 4", "this image is in both lists"),
        ("train_val_list.txt, line 3", "this image has no row in Data_Entry_2017_v2020.csv"),
    ]


def test_release_of_2017_has_other_ages(tmp_path):
    tiny = RELEASES["chestxray14"]
    text = f"{NIH_HEADER},\n00000001_000.png,Mass,0,1,058Y,M,PA,1,1,1,1,\n"
    files = {"Data_Entry_2017.csv": text, "train_val_list.txt": "00000001_000.png", "test_list.txt": ""}
    release = read("chestxray14", replace(tiny, files=files), tmp_path)
    assert [row.metadata["age"] for row in release.rows] == [58] and not release.problems


def test_rsna_s_mapping_keeps_a_patient_of_chestxray14_in_one_split(tmp_path):
    tiny = RELEASES["rsna"]
    mapping = "pneumonia-challenge-dataset-mappings_2018.json"
    files = {name: text for name, text in tiny.files.items() if name != mapping}
    release = read("rsna", replace(tiny, files=files), tmp_path / "without")
    assert [row.metadata["patient_id"] for row in release.rows] == ["r0", "r1", "r2"]
    for text in ("[1]", "{", '[{"img_id": "1"}]'):
        with pytest.raises(ValueError, match="must be a list of mappings with subset_img_id and img_id"):
            read("rsna", replace(tiny, files={**files, mapping: text}), tmp_path / "broken")


def test_column_that_the_release_does_not_have_is_named(tmp_path):
    tiny = RELEASES["vindr_cxr"]
    name = "annotations/image_labels_train.csv"
    files = {**tiny.files, name: tiny.files[name].replace("Tuberculosis", "Tbc")}
    with pytest.raises(
        ValueError, match=r"image_labels_train.csv has no columns for \['Tuberculosis'\]; its first line"
    ):
        read("vindr_cxr", replace(tiny, files=files), tmp_path)


def test_misnamed_pictures_in_kermany_are_problems(tmp_path):
    tiny = RELEASES["kermany"]
    extra = ["chest_xray/train/NORMAL/person9_virus_1.jpeg", "chest_xray/test/PNEUMONIA/x.jpeg", "chest_xray/x.jpeg"]
    release = read("kermany", replace(tiny, images=[*tiny.images, *extra]), tmp_path)
    assert {problem.where for problem in release.problems} == set(extra[:2])
    assert found(release) == tiny.rows


def test_two_classes_of_covidx_are_refused_line_by_line(tmp_path):
    files = {"train.txt": "p1 f1.png positive rsna\n", "test.txt": "p2 f0.png negative rsna\n"}
    release = read("covidx", replace(RELEASES["covidx"], files=files), tmp_path)
    assert len(release.problems) == 2 and release.rows == []


def test_photographs_that_are_there_twice_are_in_one_split(tmp_path):
    names = [f"{number:012x}" for number in range(60)]
    table = "\n".join(["id_code,diagnosis", *(f"{name},{number % 5}" for number, name in enumerate(names))])
    root = TinyRelease({"train.csv": table}, [f"train_images/{name}.png" for name in names], {}).write(
        tmp_path, lambda path: path.write_bytes(bytes([int(path.stem, 16) // 2]))
    )
    splits = {row.metadata["image_id"]: row.split for row in read_release("aptos2019", root).rows}
    assert all(splits[one] == splits[other] for one, other in zip(names[::2], names[1::2], strict=True))
    assert all(splits[name] == derived_split("aptos2019", name) for name in names[::2]), "the first has its own"
    assert set(splits.values()) == {"train", "validation", "test"}


def test_a_training_image_that_is_a_test_image_is_a_problem(tmp_path):
    tiny = RELEASES["idrid"]
    root = tiny.write(tmp_path, lambda path: path.write_bytes(b"1" if path.stem == "IDRiD_001" else b"2"))
    release = read_release("idrid", root)
    assert [(problem.where.partition(",")[2], problem.reason) for problem in release.problems] == [
        (" line 2", "its file is the same as b. Testing Set/IDRiD_001, of test")
    ]
    kept = {name: row for name, row in tiny.rows.items() if name != "a. Training Set/IDRiD_001"}
    assert found(release) == kept


def test_both_eyes_of_an_examination_are_in_one_split_and_an_image_has_one_pair(tmp_path):
    names = [f"IM{number:06d}.JPG" for number in range(80)]
    columns = "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable"
    table = "\n".join([columns, *(f"{name.replace('JPG', 'jpg')},2,1,1" for name in names)])
    pairs = [f"{left};{right}" for left, right in zip(names[::2], names[1::2], strict=True)]
    files = {"messidor_data.csv": table, "messidor-2.csv": "\n".join(["left;right", *pairs, f"{names[0]};{names[3]}"])}
    release = read_release("messidor2", TinyRelease(files, [f"IMAGES/{name}" for name in names], {}).write(tmp_path))
    assert [problem.where for problem in release.problems] == ["messidor-2.csv, line 42"]
    assert release.problems[0].reason == "one of its images stands in an earlier pair"
    splits: dict[str, set] = {}
    for row in release.rows:
        splits.setdefault(row.metadata["patient_id"], set()).add(row.split)
    assert len(splits) == 40 and all(len(each) == 1 for each in splits.values())
    assert {row.split for row in release.rows} == {"train", "validation", "test"}


# Splits


def derived_split(name: str, key: str) -> str:
    return hashed_split(CATALOG[name].seed, key, CATALOG[name].shares)


def test_derived_splits_never_change():
    """Pinned: a change would mix the train and test images of datasets that people have built."""
    pinned = {
        ("chestxray14", "00000021"): "validation",
        ("chestxray14", "00000001"): "train",
        ("rsna", "r4"): "test",
        ("rsna_opacity", "r4"): "test",
        ("vindr_cxr_all", "v3"): "validation",
        ("padchest", "pat1"): "test",
        ("chestdr", "5E26"): "train",
        ("aptos2019", "000c1434d8d7"): "train",
        ("idrid_referable", "a. Training Set/IDRiD_001"): "train",
        ("messidor2_referable", "20051020_43808_0100_PP"): "train",
        ("vindr_mammo_density", "b8d2"): "train",
    }
    assert {key: derived_split(*key) for key in pinned} == pinned


def test_derived_splits_have_the_shares_of_the_entry():
    counts = Counter(derived_split("padchest", f"patient{number}") for number in range(20_000))
    assert abs(counts["validation"] - 2_000) < 150 and abs(counts["test"] - 4_000) < 200  # over 3 standard deviations


def test_a_patient_stays_in_one_split(tmp_path):
    lines = [f"00000{number:03d}_{image:03d}.png" for number in range(60) for image in range(3)]
    files = {
        "Data_Entry_2017.csv": "\n".join([NIH_HEADER, *(f"{name},Mass,0,1,50,M,PA,1,1,1,1" for name in lines)]),
        "train_val_list.txt": "\n".join(lines[:150]),
        "test_list.txt": "\n".join(lines[150:]),
    }
    release = read("chestxray14", TinyRelease(files, [f"images/{name}" for name in lines], {}), tmp_path)
    splits: dict[str, set] = {}
    for row in release.rows:
        splits.setdefault(row.metadata["patient_id"], set()).add(row.split)
    assert all(len(of_patient) == 1 for of_patient in splits.values()) and len(splits) == 60
    assert Counter(row.split for row in release.rows)["validation"] > 0


# Lists


def test_lists_say_images_splits_and_labels_and_tables_the_rest(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "Xray14_train_official.txt").write_text("00000021_003.png" + " 1" * 14 + "\n")
    (lists / "Xray14_val_official.txt").write_text("00000003_001.png" + " 0" * 14 + "\n00000007_000.png" + " 0" * 14)
    (lists / "Xray14_test_official.txt").write_text("00000001_000.png" + " 0" * 13 + "\n")
    release = read("chestxray14", RELEASES["chestxray14"], tmp_path / "raw", lists)
    assert found(release) == {
        "00000021_003.png": ("train", [1] * 14, {"patient_id": "00000021", "sex": "F", "view": "AP"}),
        "00000003_001.png": (
            "validation",
            [0] * 14,
            {"patient_id": "00000003", "sex": "F", "age": 11 / 12, "view": "PA"},
        ),
    }
    assert [(problem.where, problem.reason) for problem in release.problems] == [
        ("Xray14_val_official.txt, line 2", "image '00000007_000' is not below the release's folder"),
        ("Xray14_test_official.txt, line 1", "13 labels, but there must be 14"),
    ]
    assert "Xray14_train_official.txt" in release.facts["splits"] and "expected" not in release.facts


LINES = {
    "chestxray14": ("00000001_000.png" + " 0" * 14, "images/00000001_000.png", "00000001"),
    "chexpert": (
        "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg,F,1,Frontal,AP,-1.0" + "," * 13,
        "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg",
        "patient00001",
    ),
    "mimic_cxr": ("files/p10/p1/s2/d0.jpg,d0,2,1,train,-1.0" + "," * 13, "files/p10/p1/s2/d0.jpg", "1"),
    "rsna": ("r0.png 2", "stage_2_train_images/r0.dcm", None),
    "vindr_cxr": ("train_jpeg/v0 0 0 0 0 0 1 ", "train_jpeg/v0.jpeg", None),
    "shenzhen": ("CHNCXR_0001_0.png,0", "CXR_png/CHNCXR_0001_0.png", None),
    "covidx": ("p1 f1.png normal rnsa", "train/f1.png", "p1"),
    "chestdr": ("5E26 " + ",".join("0" * 19), "images/5E26.png", None),
}


@pytest.mark.parametrize("name", LINES)
def test_lists_alone_are_enough(tmp_path, name):
    line, image, patient = LINES[name]
    lists = tmp_path / "lists"
    lists.mkdir()
    table = name in ("chexpert", "mimic_cxr")
    (lists / ("train.csv" if table else "train.txt")).write_text("header\n" * table + line + "\n")
    release = read(name, TinyRelease({}, [image], {}), tmp_path / "raw", lists)
    assert release.problems == []
    (row,) = release.rows
    assert (row.split, row.path, row.metadata["patient_id"]) == ("train", tmp_path / "raw" / image, patient)


def test_lists_of_a_dataset_that_the_originals_have_not_are_refused(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").touch()
    with pytest.raises(ValueError, match="The originals have no lists of siim_acr"):
        read("siim_acr", RELEASES["siim_acr"], tmp_path / "raw", tmp_path / "lists")


# Options and counts


def test_unknown_names_and_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no dataset 'chexpert_small' in the catalog; it has chestxray14"):
        read_release("chexpert_small", tmp_path)
    with pytest.raises(ValueError, match=r"siim_acr has no options \['readers'\]; it has \['splits'\]"):
        read_release("siim_acr", tmp_path, options={"readers": "union"})
    with pytest.raises(ValueError, match=r"--readers of vindr_cxr must be one of \['majority', 'union'\], not 'all'"):
        read_release("vindr_cxr", tmp_path, options={"readers": "all"})
    with pytest.raises(ValueError, match="is not a folder; --raw names the one"):
        read_release("siim_acr", tmp_path / "absent")


def test_counts_that_are_not_the_official_ones_are_told(tmp_path):
    release = read("kermany", RELEASES["kermany"], tmp_path)
    assert release.facts["expected"] == [
        "images, all: 7 found, 5,856 expected",
        "images, test: 2 found, 624 expected",
        "positives, all, Normal: 3 found, 1,583 expected",
        "positives, all, Bacterial pneumonia: 2 found, 2,780 expected",
        "positives, all, Viral pneumonia: 2 found, 1,493 expected",
        "positives, test, Normal: 1 found, 234 expected",
        "positives, test, Bacterial pneumonia: 0 found, 242 expected",
        "positives, test, Viral pneumonia: 1 found, 148 expected",
    ]
    assert release.facts["expected_source"] == CATALOG["kermany"].expected["source"]


def test_option_that_changes_the_counts_changes_what_is_expected(tmp_path):
    release = read("node21", RELEASES["node21"], tmp_path)
    assert release.facts["expected"] == [
        "images, all: 2 found, 4,265 expected",
        "positives, all, Nodule: 1 found, 517 expected",
    ]
