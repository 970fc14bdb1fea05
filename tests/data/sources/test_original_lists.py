"""The originals' label lists: their targets to the last random digit, the public lists' facts, and wrong lines."""

import json
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.data.rows import Problem
from ark_hf.data.sources.original_lists import (
    FORMATS,
    ListedImage,
    find_lists,
    read_original_list,
)

from .original_targets import original_subset, original_targets

# The originals' dataset classes
TASKS = {
    "ChestXray14": "chestxray14",
    "CheXpert": "chexpert",
    "MIMIC": "mimic_cxr",
    "RSNAPneumonia": "rsna",
    "VinDrCXR": "vindr_cxr",
    "ShenzhenCXR": "shenzhen",
    "COVIDx": "covidx",
}
GOLDEN_CASES = 12


def read(path, task) -> list[ListedImage]:
    items = list(read_original_list(path, task))
    assert not any(isinstance(item, Problem) for item in items)
    return items


@pytest.mark.parametrize("number", range(GOLDEN_CASES))
def test_images_and_targets_are_the_originals(shared, tmp_path, number):
    golden = json.loads((shared / "golden" / "ark" / "label_parsing.json").read_text())
    assert len(golden) == GOLDEN_CASES
    case = golden[number]
    (tmp_path / case["file_name"]).write_text(case["file_text"])
    task, options = TASKS[case["dataset"]], case["kwargs"]
    assert set(options) <= {"uncertain_label", "annotation_percent"}

    images = read(tmp_path / case["file_name"], task)
    generator = random.Random(case["python_random_seed"])
    targets = original_targets(images, task, options.get("uncertain_label"), generator)
    kept = original_subset(len(images), options.get("annotation_percent", 100))
    assert [f"ROOT/{images[i].image}" for i in kept] == case["img_list"]
    assert [targets[i] for i in kept] == case["labels"]  # exact, soft labels too


def test_raw_values_keep_uncertain_and_blank(tmp_path):
    (tmp_path / "train.csv").write_text(
        "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join("abcdefghijklmn") + "\n"
        "CheXpert-v1.0/train/patient7/study1/view1_frontal.jpg,Male,40,Frontal,AP,1.0,0.0,-1.0" + "," * 11 + "\n"
    )
    (image,) = read(tmp_path / "train.csv", "chexpert")
    assert image.labels[:3] == [1, 0, -1] and all(math.isnan(value) for value in image.labels[3:])
    assert (image.patient, image.where) == ("patient7", "train.csv, line 2")


# Facts of the public lists: the README beside them, which the originals' release bears out
LISTS = {
    "chestxray14": {
        "ChestXray14/Xray14_train_official.txt": (75_312, 24_342),
        "ChestXray14/Xray14_val_official.txt": (11_212, 3_666),
        "ChestXray14/Xray14_test_official.txt": (25_596, 2_797),
    },
    "covidx": {
        "covidx3/train_COVIDx9A_clean.txt": (29_634, 16_424),
        "covidx3/test_COVIDx9A.txt": (400, 378),
    },
}


@pytest.mark.parametrize("task", LISTS)
def test_public_lists_have_their_rows_and_patients_and_no_patient_in_two(shared, task):
    patients = []
    for name, (rows, count) in LISTS[task].items():
        images = read(shared / "lists" / name, task)
        patients.append({image.patient for image in images})
        assert (len(images), len(patients[-1])) == (rows, count)
        assert len({image.image for image in images}) == rows
    assert len(set.union(*patients)) == sum(map(len, patients))


def test_chestxray14_lists_have_the_positives_of_the_official_table(shared):
    from ark_hf.data.sources.catalog import read_catalog

    entry = read_catalog()["chestxray14"]
    images = [image for name in LISTS["chestxray14"] for image in read(shared / "lists" / name, "chestxray14")]
    assert len(images) == 112_120
    totals = [int(sum(column)) for column in zip(*(image.labels for image in images), strict=True)]
    assert dict(zip(entry.labels, totals, strict=True)) == entry.expected["positives"]["all"]


def test_rsna_lists_name_all_images_once_with_the_challenge_s_classes(shared):
    images = {}
    for split, rows in {"train": 21_295, "val": 2_680, "test": 2_709}.items():
        listed = read(shared / "lists" / "RSNA" / f"RSNAPneumonia_{split}.txt", "rsna")
        assert len(listed) == rows
        images |= {image.image: image.labels for image in listed}
    assert Counter(images.values()) == {0: 8_851, 1: 11_821, 2: 6_012} and len(images) == 26_684


def test_shenzhen_lists_have_their_positives(shared):
    found = {}
    for split in ("train", "valid", "test"):
        listed = read(shared / "lists" / "Shenzhen" / f"ShenzenCXR_{split}_data.txt", "shenzhen")
        found[split] = (len(listed), sum(image.labels[0] for image in listed))
        assert all(image.image.endswith(f"_{int(image.labels[0])}.png") for image in listed)
    assert found == {"train": (463, 235), "valid": (65, 33), "test": (134, 68)}


def test_chestdr_lists_have_their_rows_and_positives(shared):
    from ark_hf.data.sources.catalog import read_catalog

    pool = read(shared / "lists" / "ChestDR" / "fewshot-pool.txt", "chestdr")
    test = read(shared / "lists" / "ChestDR" / "test.txt", "chestdr")
    assert (len(pool), len(test)) == (979, 3_869)
    entry = read_catalog()["chestdr"]
    totals = [int(sum(column)) for column in zip(*(image.labels for image in [*pool, *test]), strict=True)]
    assert dict(zip(entry.labels, totals, strict=True)) == entry.expected["positives"]["all"]


def test_covidx_classes_and_the_source_that_is_misspelled(shared):
    train, test = (read(shared / "lists" / name, "covidx") for name in LISTS["covidx"])
    assert Counter(image.labels for image in train) == {2: 15_994, 0: 8_085, 1: 5_555}
    assert Counter(image.labels for image in test) == {2: 200, 0: 100, 1: 100}
    assert {image.image.split("/")[0] for image in train} == {"train"}
    assert {image.image.split("/")[0] for image in test} == {"test"}
    lines = (shared / "lists" / "covidx3" / "train_COVIDx9A_clean.txt").read_text().splitlines()
    assert sum(line.split()[3] == "rnsa" for line in lines) == 199, "its images are read like all others"


@pytest.mark.parametrize(
    ("folder", "validation"), [("ChestXray14", 1), ("RSNA", 1), ("Shenzhen", 1), ("ChestDR", 0), ("covidx3", 0)]
)
def test_public_lists_tell_their_splits_by_their_names(shared, folder, validation):
    lists = find_lists(shared / "lists" / folder)
    assert {split: len(files) for split, files in lists.items()} == {"train": 1, "validation": validation, "test": 1}


@pytest.mark.parametrize(
    ("task", "line", "reason"),
    [
        ("chestxray14", "a.png 0 1", "2 labels, but there must be 14"),
        ("chestxray14", "a.png" + " 0" * 13 + " 2", "label 14 of 14 must be 0 or 1"),
        ("chestxray14", "a.png" + " 0" * 13 + " -1", "label 14 of 14 must be 0 or 1"),
        ("chexpert", "p/patient1/study1/v.jpg,F,1,Frontal,AP" + ",0" * 13, "13 labels, but there must be 14"),
        ("chexpert", "p/patient1/study1/v.jpg,F,1,Frontal,AP" + ",0" * 13 + ",0.5", "must be 1, 0, -1 or blank"),
        ("mimic_cxr", "f.jpg,d,s,p,train", "0 labels, but there must be 14"),
        ("rsna", "r.png 3", "the class must be 0, 1 or 2"),
        ("rsna", "r.png", "1 fields, but there must be 2: name class"),
        ("vindr_cxr", "train_jpeg/v 1 1 1", "3 labels, but there must be 6"),
        ("shenzhen", "CHNCXR_0001_0.png", "label 1 of 1 must be 0 or 1"),
        ("shenzhen", "CHNCXR_0001_0.png,0 1", "2 fields"),
        ("covidx", "p f.png positive ricord", "the class must be one of normal, pneumonia, COVID-19"),
        ("covidx", "f.png normal", "2 fields, but there must be 4: patient file class source"),
        ("chestdr", "5E 0,1", "2 labels, but there must be 19"),
    ],
)
def test_wrong_line_is_a_problem_and_costs_no_other(tmp_path, task, line, reason):
    good = {
        "chestxray14": "b.png" + " 0" * 14,
        "chexpert": "p/patient2/study1/v.jpg,F,1,Frontal,AP" + "," * 14,
        "mimic_cxr": "g.jpg,d,s,p,train" + "," * 14,
        "rsna": "s.png 2",
        "vindr_cxr": "train_jpeg/w 0 0 0 0 0 1",
        "shenzhen": "CHNCXR_0002_1.png,1",
        "covidx": "q g.png normal cohen",
        "chestdr": "5F " + ",".join("0" * 19),
    }[task]
    path = tmp_path / "train.txt"
    header = "header\n" * FORMATS[task].is_table
    path.write_text(f"{header}{good}\n\n{line}\n{good}\n")
    first, problem, last = read_original_list(path, task)
    number = 3 + FORMATS[task].is_table
    assert problem.where == f"train.txt, line {number}" and reason in problem.reason
    assert (first.labels == last.labels) or repr(first.labels) == repr(last.labels)


@pytest.mark.parametrize("task", FORMATS)
@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
def test_no_line_stops_the_reading(tmp_path_factory, task, text):
    path = tmp_path_factory.mktemp("lists") / "train.txt"
    path.write_text(f"header\n{text}\n", encoding="utf-8")
    for item in read_original_list(path, task):
        assert isinstance(item, (ListedImage, Problem)) and item.where.startswith("train.txt, line ")


@pytest.mark.parametrize("name", ["train_val_list.txt", "all.txt", "training.csv"])
def test_list_whose_name_tells_no_split_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match="its name must tell its split by one of the words train, pool, val"):
        find_lists(tmp_path)


def test_folder_without_lists_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="holds no lists"):
        find_lists(tmp_path)


def test_dataset_without_lists_of_the_originals_is_refused(tmp_path):
    (tmp_path / "train.txt").touch()
    with pytest.raises(ValueError, match="The originals have no lists of padchest; they have those of chestxray14"):
        list(read_original_list(tmp_path / "train.txt", "padchest"))


def test_whole_list_is_not_shuffled():
    assert original_subset(5, 100) == [0, 1, 2, 3, 4]
    assert sorted(original_subset(50, 99)) != list(range(50)) and len(original_subset(50, 99)) == 49
