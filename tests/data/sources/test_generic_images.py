"""Folders of radiographs without labels: what is built of them, what is said of it, and who may use it for what."""

import json

import datasets
import numpy as np
import PIL.Image
import pytest
from huggingface_hub import DatasetCard

from ark_hf import (
    FinetuningArguments,
    TaskSpec,
    Unlabelled,
    build_dataset,
    describe_datasets,
    finetune,
    load_task_dataset,
    load_tasks,
    open_dataset,
    open_images,
    read_task,
    read_unlabelled,
    write_data_report,
)
from ark_hf.cli.main import main
from ark_hf.data.open_dataset import check_disjoint
from ark_hf.data.sources.generic import GenericSource
from ark_hf.evaluation.probing.probe_task import load_probe_data
from tests.pages.html_page import Page

from ..build.generated import draw_picture, write_rows
from .generic_folders import PATIENT, fill, problems, read

ROWS = [
    {
        "image": f"images/{number}.png",
        "Patient ID": f"{PATIENT} {number // 2}",
        "Gender": "female" if number % 2 else "M",
        "patient_age": f"{40 + number}Y",
        "ViewPosition": "AP",
        "Mass": number % 2,
    }
    for number in range(40)
]


def read_images(folder, **options):
    return read_unlabelled(GenericSource(folder, "chests", **options))


def build(release, folder, **options):
    return build_dataset(release, folder, num_workers=1, **options)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Forty pictures of twenty patients, with a table that has a label too."""
    folder = fill(tmp_path_factory.mktemp("raw"), *(row["image"] for row in ROWS))
    write_rows(folder, ROWS)
    return folder


@pytest.fixture(scope="module")
def chests(raw, tmp_path_factory):
    """That folder, built: its patients are known, its label is not."""
    folder = tmp_path_factory.mktemp("built") / "chests"
    build(read_images(raw), folder)
    return folder


# What is built -------------------------------------------------------------------------------------------------------


def test_every_image_below_a_folder_counts_and_is_split_by_a_hash_of_itself(tmp_path, capsys):
    raw = fill(tmp_path / "scans", *(f"{'ab'[number % 2]}/{number}.png" for number in range(30)))
    fill(raw, "a/masks/1.png")
    command = ["data", "build", "generic", "--unlabelled", "--raw", str(raw), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "derived by a hash of the image: 10% for validation, 20% for test. Not all patients are known" in told.out
    assert "1 files left out, such as a/masks/1.png: its folder has 'mask' in the name" in told.err
    data = open_images(tmp_path / "out")
    assert data.task == Unlabelled("scans") and data.columns("train") == ["image", "image_id"]
    names = [name for split in data.splits for name in data.column(split, "image_id")]
    assert sorted(names) == sorted(f"{'ab'[number % 2]}/{number}.png" for number in range(30))
    assert datasets.load_dataset(str(tmp_path / "out"), split="train").column_names == ["image", "image_id"]


def test_folders_of_splits_are_the_splits(tmp_path):
    release = read_images(fill(tmp_path, "train/x/1.png", "val/2.png", "test/3.png", "stray.png"))
    assert [row.split for row in release.rows] == ["test", "train", "validation"]
    assert problems(release) == {"stray.png": "it lies in no folder of a split"} and "splits" not in release.facts


def test_a_table_tells_of_patients_and_its_labels_do_not_count(raw, chests):
    data = open_images(chests)
    columns = {"image_id", "patient_id", "sex", "age", "view"}
    assert set(data.columns("train")) == {"image", *columns}
    names = sorted(columns)
    found = []
    for split in data.splits:
        found += zip(*(data.column(split, name) for name in names), strict=True)
    expected = [(40.0 + n, f"images/{n}.png", f"{PATIENT} {n // 2}", "MF"[n % 2], "AP") for n in range(40)]
    assert sorted(found) == sorted(expected)
    check_disjoint(data)
    told = json.loads((chests / "build_report.json").read_text())
    assert told["facts"]["splits"].startswith("The source has none; derived by a hash of the patient:")
    assert "sex from 'Gender'" in told["remarks"][0]


def test_splits_are_those_of_a_labelled_build_of_the_same_name(raw):
    labelled = read(raw, labels=["Mass"])
    theirs = {row.metadata["image_id"]: row.split for row in labelled.rows}
    ours = {row.metadata["image_id"]: row.split for row in read_unlabelled(GenericSource(raw, "lungs")).rows}
    assert ours == theirs and set(ours.values()) == {"train", "validation", "test"}


def test_a_table_that_names_missing_files_is_refused_by_line(raw, tmp_path):
    write_rows(tmp_path, [{"image": "1.png"}, {"image": "gone.png"}])
    release = read_images(fill(tmp_path, "1.png", "2.png"))
    assert problems(release) == {"labels.csv, line 3": "image 'gone.png' is not below the release's folder"}
    assert release.left_out["no row that can be used names it"] == ["2.png"]
    with pytest.raises(ValueError, match="labels.csv, line 3: image 'gone.png' is not.*\n.*pass --skip_bad"):
        build(release, tmp_path / "out")
    assert build(release, tmp_path / "out", skip_bad=True)["rows"]["train"] == 1


def test_bad_pictures_are_treated_as_those_with_labels(tmp_path):
    """Black, damaged and equal pictures: the same words and counts as beside labels."""
    reports = {}
    for name in ("labelled", "unlabelled"):
        raw = fill(tmp_path / name, *(f"train/{kind}/{number}.png" for kind in "NP" for number in range(3)))
        (raw / "train" / "N" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        PIL.Image.fromarray(np.zeros((40, 40), np.uint8)).save(raw / "train" / "P" / "black.png")
        draw_picture(raw / "test" / "N" / "copy.png", 0)
        draw_picture(raw / "test" / "P" / "own.png", 9)
        source = GenericSource(raw, "chests")
        release = read_unlabelled(source) if name == "unlabelled" else read(raw, label_column=None, labels=[])
        with pytest.raises(ValueError, match="damaged.png: .*\n.*pass --skip_bad"):
            build(release, tmp_path / f"{name}_built")
        with pytest.raises(ValueError, match="pictures stand in two splits, 1 times"):
            build(release, tmp_path / f"{name}_built", skip_bad=True)
        reports[name] = build(release, tmp_path / f"{name}_built", skip_bad=True, allow_patient_overlap=True)
    for what in ("problems", "doubts", "rows", "left_out", "patient_overlap"):
        assert reports["labelled"][what] == reports["unlabelled"][what], what
    for what in ("equal", "near", "within_splits"):
        assert reports["labelled"]["duplicates"][what] == reports["unlabelled"]["duplicates"][what], what
    assert reports["unlabelled"]["duplicates"]["contradicting"] == [] != reports["unlabelled"]["problems"]


def test_the_card_tells_of_no_labels_and_who_can_use_it(chests):
    card = DatasetCard.load(chests / "README.md")
    entries = card.data.to_dict()
    assert (entries["ark_kind"], entries["ark_name"]) == ("unlabelled", "chests") and "ark_task" not in entries
    assert entries["task_categories"] == ["image-feature-extraction"]
    assert [each["name"] for each in entries["dataset_info"]["features"]][:2] == ["image", "image_id"]
    assert "## Labels" not in card.text and "`labels`" not in card.text and "load_task_dataset" not in card.text
    assert (
        "`method: peac`" in card.text
        and f"- train: {entries['dataset_info']['splits'][0]['num_examples']} images" in card.text
    )
    assert "| train | " in card.text and PATIENT not in card.text


def test_another_modality_is_kept(raw, tmp_path):
    build(read_images(raw, modality="OP"), tmp_path / "eyes")
    assert open_images(tmp_path / "eyes").task == Unlabelled("chests", "OP")


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "Mass"], "--labels is of labels, and --unlabelled reads none: leave one of the two out."),
        (["--label_column", "Mass"], "--label_column is of labels, and --unlabelled"),
        (["--classes", "a", "b"], "--classes is of labels"),
        (["--masks", "lungs=M"], "--masks is of masks, and --unlabelled reads none: leave one of the two out."),
        (["--label_maps", "M"], "--label_maps is of masks"),
        (
            ["--patient_column", "pid"],
            "no labels.csv, of which --patient_column names a column: give the table with --csv",
        ),
        (["--csv", "absent.csv"], "absent.csv"),
        (["--name", "Chests"], "Name 'Chests' of unlabelled images: use lower-case letters"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_a_line(tmp_path, capsys, options, message):
    raw = fill(tmp_path / "raw", "1.png")
    command = ["data", "build", "generic", "--unlabelled", "--raw", str(raw), "--out", str(tmp_path / "out")]
    assert main([*command, *options]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("none")
    with pytest.raises(ValueError, match="holds no images; --raw names the folder of the radiographs"):
        read_images(tmp_path)
    with pytest.raises(ValueError, match="holds no images beside masks, as folders with 'mask' in their names hold;"):
        read_images(fill(tmp_path, "masks/1.png"))


WANTS_LABELS = (
    "chests' holds images without labels, and labels are wanted here: it serves `ark-hf pretrain` with `method:"
)


@pytest.mark.parametrize(
    "use",
    [
        read_task,
        open_dataset,
        load_probe_data,
        lambda folder: load_tasks([TaskSpec(str(folder))]),
        lambda folder: finetune("none", str(folder), FinetuningArguments(output_dir=str(folder.with_name("run")))),
    ],
    ids=["read_task", "open_dataset", "probe", "pretrain", "finetune"],
)
def test_what_needs_labels_refuses_it_with_the_remedy(chests, use):
    with pytest.raises(ValueError, match=WANTS_LABELS):
        use(chests)


def test_rows_with_labels_are_not_to_be_had_of_it(chests):
    with pytest.raises(ValueError, match="lacks the columns .'labels'.;.*Images alone: `open_images`"):
        load_task_dataset(chests, "train")


# What it is for ------------------------------------------------------------------------------------------------------


def test_its_report_has_all_but_labels(chests, tmp_path):
    numbers, thumbnails = describe_datasets([chests])
    dataset = numbers["datasets"]["chests"]
    assert dataset["task"] == {"name": "chests", "labels": []}
    assert dataset["shortcut"] is None and dataset["co_occurrence"] is None
    splits = dataset["splits"].values()
    assert sum(each["rows"] for each in splits) == sum(each["images_looked_at"] for each in splits) == 40
    assert sum(each["patients"] for each in splits) == 20 and sum(each["sex"]["F"] for each in splits) == 20
    assert all(each["statistics"] and each["sizes"] and each["age"] and not each["labels"] for each in splits)
    assert {each.label for each in thumbnails["chests"]} == set(dataset["splits"])
    html = write_data_report(numbers, thumbnails, tmp_path).read_text()
    assert "Images without labels." in html and "<h3>Patients</h3>" in html and html.count("data:image/jpeg") >= 8
    assert not any(f"<h3>{what}</h3>" in html for what in ("Labels", "Shortcuts", "Masks"))
    assert "no known label" not in html and "positive" not in html and PATIENT not in html
    Page(html)
