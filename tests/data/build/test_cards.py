"""Dataset cards: what the Hub and `datasets` read of them, what people read, and what must not stand in them."""

import math
import re
from dataclasses import replace

import pytest
from datasets import ClassLabel, Features, Image, List, Value
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.data.build.cards import OPEN_LICENSES, dataset_card
from ark_hf.data.summary import split_summary
from ark_hf.models.ark.configuration_ark import ArkTask

FINDINGS = ArkTask("findings", ["Edema", "Mass | nodule"])
KINDS = ArkTask("kinds", ["normal", "viral"], "single_label_classification")
PATIENT = "Sentinel"
FACTS = {
    "title": "Findings of a hospital",
    "homepage": "https://example.org/findings",
    "license": "cc-by-4.0",
    "access": "Free download.",
    "citation": "@article{findings, title={{Findings}}, year={2020}}",
    "splits": "The release's own\ntest list.",
    "semantics": "Taken from reports.",
    "notes": "",
}


def features_of(task):
    labels = ClassLabel(names=task.labels) if task is KINDS else List(Value("float32"))
    columns = {"image_id": "string", "patient_id": "string", "sex": "string", "age": "float32", "view": "string"}
    return Features({"image": Image(), "labels": labels, **{name: Value(kind) for name, kind in columns.items()}})


def report_of(task, labels=None, facts=None, metadata=None, **more):
    """A build report of a train and a test split."""
    labels = labels or {"train": [[0, 1], [-1, math.nan], [1, 0], [0, 1]], "test": [[1, 1]]}
    metadata = metadata or {"patient_id": [f"{PATIENT}-1"], "sex": ["F"], "view": ["PA"], "age": [50.0]}
    splits = {
        split: split_summary(task, values, {name: column * len(values) for name, column in metadata.items()})
        for split, values in labels.items()
    }
    empty = {"problems": [], "duplicates": {}, "patient_overlap": [], "expected": []}
    counts = {split: len(values) for split, values in labels.items()}
    report = {"name": task.name, "rows": counts, "splits": splits, "size": 512, "facts": facts or FACTS}
    return report | empty | more


def card_of(report, task=FINDINGS) -> DatasetCard:
    return DatasetCard(dataset_card(task, features_of(task), report))


def table_rows(card, first) -> list[list[str]]:
    """Cells of the table rows that begin with `first`."""
    lines = [line for line in card.text.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.replace("\\|", "/").split("|")[1:-1]] for line in lines]


# What programs read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [FINDINGS, KINDS], ids=["several labels", "classes"])
def test_the_header_holds_task_files_columns_and_lengths(task):
    labels = {"train": [0, 1, -1], "test": [1]} if task is KINDS else None
    card = card_of(report_of(task, labels), task)
    assert ArkTask.from_dict(card.data.ark_task) == task
    info = DatasetInfosDict.from_dataset_card_data(card.data)["default"]
    assert info.features == features_of(task)
    counts = {"train": 3 if task is KINDS else 4, "test": 1}
    assert {name: split.num_examples for name, split in info.splits.items()} == counts
    files = MetadataConfigs.from_dataset_card_data(card.data)["default"]["data_files"]
    assert files == [{"split": split, "path": f"data/{split}-*.parquet"} for split in ("train", "test")]
    assert card.data.task_categories == ["image-classification"]
    assert card.data.pretty_name == "Findings of a hospital"


def test_radiographs_have_no_modality_in_the_header_and_other_images_have_it_beside_the_task():
    radiographs, fundus = (card_of(report_of(task), task) for task in (FINDINGS, replace(FINDINGS, modality="OP")))
    assert "ark_modality" not in radiographs.data.to_dict() and "ark_kind" not in radiographs.data.to_dict()
    assert radiographs.data.tags == ["chest-x-ray", "radiology", "medical", "ark"]
    assert fundus.data.ark_modality == "OP" and fundus.data.ark_task == radiographs.data.ark_task
    assert fundus.data.tags == ["medical", "ark"]
    assert table_rows(radiographs, "`image`")[0][1].startswith("the radiograph: one channel")
    assert table_rows(fundus, "`image`")[0][1].startswith("the image, of modality OP: one channel")


TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=30).filter(str.strip)


@given(st.lists(TEXT, min_size=1, max_size=5, unique=True))
def test_any_label_survives_the_header_and_breaks_no_table(labels):
    task = ArkTask("any", labels)
    report = report_of(task, {"train": [[1.0] * len(labels)]})
    card = card_of(report, task)
    assert ArkTask.from_dict(card.data.ark_task).labels == task.labels
    rows = [line for line in card.text.splitlines() if line.startswith("| ")]
    widths = {line.replace("\\|", "").count("|") for line in rows if line.endswith("| 1 | 100.0% | 0 | 0 | 0 |")}
    assert widths == {7}


@pytest.mark.parametrize(
    ("rows", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (112_120, "100K<n<1M"), (3_000_000, "1M<n<10M")],
)
def test_size_category(rows, category):
    assert card_of(report_of(FINDINGS) | {"rows": {"train": rows - 1, "test": 1}}).data.size_categories == [category]


@pytest.mark.parametrize("licence", OPEN_LICENSES)
def test_open_licences_stand_under_their_names_without_a_gate(licence):
    card = card_of(report_of(FINDINGS, facts=FACTS | {"license": licence}))
    assert card.data.license == licence
    assert not [key for key in card.data.to_dict() if key.startswith(("extra_gated", "license_"))]
    assert "The licence of the source holds for this copy too" in card.text


@pytest.mark.parametrize("licence", ["other", "cc-by-nc-nd-4.0", "", None])
def test_terms_of_a_source_become_a_gate(licence):
    facts = FACTS | {"license": licence, "access": "Signed agreement,\nno redistribution."}
    card = card_of(report_of(FINDINGS, facts=facts))
    assert card.data.license == (licence or "unknown")
    assert card.data.extra_gated_prompt == "Signed agreement, no redistribution."
    assert "I have accepted the terms of use of the source" in card.data.extra_gated_fields
    assert "**This copy is bound to the terms of its source.**" in card.text
    if licence == "other":
        assert card.data.license_name == "terms-of-findings" and card.data.license_link == FACTS["homepage"]


# What people read ----------------------------------------------------------------------------------------------------


def test_counts_of_every_label_and_split():
    card = card_of(report_of(FINDINGS))
    assert table_rows(card, "Edema") == [
        ["Edema", "1 of 3 (33.3%)", "1 of 1 (100.0%)"],
        ["Edema", "1", "33.3%", "2", "1", "0"],
        ["Edema", "1", "100.0%", "0", "0", "0"],
    ]
    assert table_rows(card, "Mass \\| nodule")[1][1:] == ["2", "66.7%", "1", "0", "1"]
    assert "| label | train: 4 images | test: 1 images |" in card.text and "### train: 4 images" in card.text


def test_a_label_that_is_never_known_has_no_prevalence():
    card = card_of(report_of(FINDINGS, {"train": [[math.nan, -1]]}))
    assert table_rows(card, "Edema") == [["Edema", "not known"], ["Edema", "0", "–", "0", "0", "1"]]


def test_demographics_of_every_split():
    metadata = {"patient_id": ["a"], "sex": ["F"], "view": ["PA"], "age": [50.0]}
    card = card_of(report_of(FINDINGS, {"train": [[0, 1]] * 20, "test": [[1, 1]] * 10}, metadata=metadata))
    ages = "mean 50.0, from 50 to 50; known of {} images"
    assert table_rows(card, "train")[-1] == ["train", "1", "F 100.0%", ages.format(20), "PA 100.0%"]
    assert table_rows(card, "test")[-1] == ["test", "1", "F 100.0%", ages.format(10), "PA 100.0%"]


def test_what_is_not_known_of_patients_is_said():
    card = card_of(report_of(FINDINGS, metadata={"sex": [None]}))
    assert table_rows(card, "train")[-1] == ["train", "unknown", "unknown", "unknown", "unknown"]
    assert "that no patient stands in two splits could not be checked" in card.text


def test_rare_values_and_the_oldest_are_not_told_apart():
    summary = report_of(FINDINGS)
    summary["splits"]["train"] |= {"rows": 40, "age": {"known": 40, "mean": 60.0, "min": 20.0, "max": 97.0}}
    summary["splits"]["train"]["view"] = {f"view {number}": 12 - number for number in range(1, 9)}
    cells = table_rows(card_of(summary), "train")[-1]
    assert cells[3] == "mean 60.0, from 20 to 90 or older; known of 40 images"
    assert "view 6 15.0%, others 22.5%" in cells[4] and "view 7" not in cells[4]


def test_nothing_is_one_patients():
    report = report_of(FINDINGS, metadata={"patient_id": [f"{PATIENT}-1"], "age": [67.0], "sex": ["M"]})
    text = str(card_of(report))
    assert PATIENT not in text and "67" not in text


def test_source_terms_citation_and_use():
    text = card_of(report_of(FINDINGS)).text
    for said in (
        "# Findings of a hospital",
        "Research use only. Not for diagnosis",
        "| home | https://example.org/findings |",
        "| access | Free download. |",
        "```bibtex\n@article{findings, title={{Findings}}, year={2020}}\n```",
        "Taken from reports.",
        "longer side of at most 512 pixels",
        "Splits: The release's own test list.",
        'load_task_dataset("path/to/this/dataset", "train")',
        "No patient stands in two splits",
    ):
        assert said in text, said
    assert "notes" not in text and "phantom" not in text and "None" not in text


def test_problems_are_counted():
    pair = {"where": "a.csv, line 2", "split": "test", "other": "a.csv, line 9", "other_split": "train"}
    report = report_of(
        FINDINGS,
        problems=[{"where": "a.csv, line 3", "reason": "no such image"}] * 1200,
        duplicates={"equal": [pair], "near": [pair | {"distance": 3}] * 2, "within_splits": 7},
        patient_overlap=[pair] * 5,
        expected=["images: 100 expected, 99 found"],
    )
    text = card_of(report).text
    for said in (
        "- 1,200 rows or files of the source could not be used.",
        "- 1 images are the same, to the pixel, as one of an earlier split.",
        "- 2 images are nearly the same as one of an earlier split.",
        "- 7 images repeat a picture of their own split.",
        "- 5 images are of a patient who stands in an earlier split too.",
        "- Not what the release has: images: 100 expected, 99 found",
        "**Some patients stand in several splits**",
    ):
        assert said in text, said
    assert "Known problems" not in card_of(report_of(FINDINGS)).text


def test_phantoms_are_called_phantoms():
    card = card_of(report_of(FINDINGS, facts={"phantom": True}))
    assert "phantom" in card.data.tags and card.data.license in OPEN_LICENSES
    assert "never evidence about patients" in card.text and "Drawn by `ark_hf.data.sources.phantom`" in card.text
    assert "Source and terms" not in card.text and "ark-hf data build`" not in card.text


def test_a_dataset_of_unknown_origin_says_so():
    card = card_of(report_of(FINDINGS, facts={"title": ""}))
    assert card.data.license == "unknown" and "# findings" in card.text
    assert "Ask its owner for the terms of use." in card.data.extra_gated_prompt


@pytest.mark.parametrize("labels", [2, 30])
def test_two_screens_come_before_what_is_folded(labels):
    task = ArkTask("many", [f"label {number}" for number in range(labels)])
    problem = {"where": "a.csv, line 3", "reason": "no such image"}
    report = report_of(task, {split: [[1] * labels] for split in ("train", "validation", "test")}, problems=[problem])
    text = card_of(report, task).text.rstrip() + "\n\n"
    visible = re.sub(r"<details>.*?</details>\n?", "", text, flags=re.DOTALL)
    assert len(visible.strip().splitlines()) <= 60 and "\n\n\n" not in text
    assert text.count("<details>") == len(re.findall(r"(?<=\n\n)</details>\n\n", text))
    order = ["# Findings", "**Research use only.", "The licence of the source", "Known problems are counted", "## Use"]
    assert sorted(map(visible.index, order)) == [visible.index(each) for each in order]
    row = "| label 1 | 1 of 1 (100.0%) | 1 of 1 (100.0%) | 1 of 1 (100.0%) |"
    assert (row in visible) == (labels == 2) and row in text
