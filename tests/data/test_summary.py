"""Summaries of splits against counting row by row."""

import json
import math

import numpy as np
import pytest
from datasets import Dataset, Image
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.data.open_dataset import TaskDataset
from ark_hf.data.summary import split_facts, split_summary, training_data_facts
from ark_hf.models.ark.configuration_ark import ArkTask

FINDINGS = ArkTask("lungs", ["Edema", "Mass"])
KINDS = ArkTask("kinds", ["a", "b", "c"], "single_label_classification")
VALUES = {"positive": 1.0, "negative": 0.0, "uncertain": -1.0}


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, -1.0, math.nan, None])] * 2), max_size=30))
def test_every_value_of_every_label_is_counted(rows):
    labels = split_summary(FINDINGS, [list(row) for row in rows], {})["labels"]
    for position, label in enumerate(FINDINGS.labels):
        column = [row[position] for row in rows]
        counts = {name: column.count(value) for name, value in VALUES.items()}
        assert labels[label] == counts | {"unknown": len(rows) - sum(counts.values())}


@given(st.lists(st.sampled_from([0, 1, 2, -1, None]), max_size=30))
def test_a_class_counts_against_all_others(rows):
    labels = split_summary(KINDS, rows, {})["labels"]
    unknown = sum(row in (-1, None) for row in rows)
    for position, label in enumerate(KINDS.labels):
        positive = rows.count(position)
        negative = len(rows) - unknown - positive
        assert labels[label] == {"positive": positive, "negative": negative, "uncertain": 0, "unknown": unknown}


def test_patients_sex_view_and_age():
    metadata = {
        "patient_id": ["p1", "p1", "p2", None, ""],
        "sex": ["F", None, "M", "F", ""],
        "view": ["PA", "PA", "AP", "PA", None],
        "age": [30, None, math.nan, 41.5, 50],
    }
    summary = split_summary(FINDINGS, np.zeros((5, 2)), metadata)
    assert summary["rows"] == 5 and summary["patients"] == 2
    assert summary["sex"] == {"F": 2, "M": 1} and summary["view"] == {"AP": 1, "PA": 3}
    assert summary["age"] == {"known": 3, "mean": pytest.approx(40.5), "min": 30, "max": 50}
    json.dumps(summary, allow_nan=False)


def test_what_is_not_known_is_left_open():
    summary = split_summary(FINDINGS, [[0, 1]], {"age": [None], "patient_id": [None]})
    assert summary["patients"] is None and summary["age"] is None and summary["sex"] == {} == summary["view"]


def test_labels_of_a_binary_task_may_be_plain_numbers():
    counts = split_summary(ArkTask("tb", ["TB"]), np.array([0, 1, 1, np.nan]), {})["labels"]["TB"]
    assert counts == {"positive": 2, "negative": 1, "uncertain": 0, "unknown": 1}


def test_counts_of_a_split_are_those_of_its_summary_and_read_no_image():
    labels = [[1.0, None], [0.0, -1.0], [math.nan, 1.0], [1.0, 0.0], [1.0, 1.0]]
    patients = ["p1", "p1", None, "", "p2"]
    rows = Dataset.from_dict({"image": [{"bytes": b"no picture", "path": None}] * 5, "labels": labels,
                              "patient_id": patients}).cast_column("image", Image())  # fmt: skip
    whole = split_summary(FINDINGS, labels, {"patient_id": patients})
    data = TaskDataset("clinic", FINDINGS, {"train": rows})
    facts = split_facts(FINDINGS, data.stored_labels("train"), data.patients("train"))
    assert facts == {name: whole[name] for name in ("rows", "patients", "labels")}
    some = split_facts(FINDINGS, data.stored_labels("train")[[4, 0]], None)
    assert some["rows"] == 2 and some["patients"] is None and some["labels"]["Edema"]["positive"] == 2


def test_facts_of_a_source_come_from_its_build_report_or_its_card(tmp_path):
    folder = tmp_path / "clinic"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: [mit, cc-by-4.0]\n---\n# Clinic\n")
    assert training_data_facts(folder, FINDINGS) == {"task": "lungs", "dataset": "clinic", "license": "mit, cc-by-4.0"}
    facts = {"title": "Clinic", "license": "cc-by-4.0", "citation": "", "splits": "not told here"}
    (folder / "build_report.json").write_text(json.dumps({"facts": facts}))
    assert training_data_facts(folder, FINDINGS) == {
        "task": "lungs", "dataset": "clinic", "title": "Clinic", "license": "cc-by-4.0",
    }  # fmt: skip
    assert training_data_facts("/nowhere/else/clinic", FINDINGS) == {"task": "lungs", "dataset": "clinic"}
