"""Any image dataset as a task, and what is wrong with one."""

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from ark_hf.training.finetune.arguments import FinetuningArguments
from ark_hf.training.finetune.data import load_finetuning_data

PICTURE = PIL.Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))


def write_split(folder, split, columns, features):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows = Dataset.from_dict({"picture": [PICTURE] * len(next(iter(columns.values()))), **columns}, Features(features))
    rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def arguments(**settings) -> FinetuningArguments:
    return FinetuningArguments("runs/x", image_column="picture", **settings)


def test_a_column_of_classes_is_a_single_label_task(tmp_path):
    features = {"picture": Image(), "finding": ClassLabel(names=["normal", "covid"]), "labels": Value("string")}
    for split in ("train", "test"):
        write_split(tmp_path, split, {"finding": [0, 1, None], "labels": ["of", "something", "else"]}, features)
    data = load_finetuning_data(str(tmp_path), arguments(label_columns=["finding"], name="covid"))
    assert data.task.to_dict() == {
        "name": "covid",
        "labels": ["normal", "covid"],
        "problem_type": "single_label_classification",
    }
    assert list(data.splits) == ["train", "test"] and data.splits["train"][0]["image"].size == (8, 8)
    np.testing.assert_array_equal(data.targets("train"), [[1, 0], [0, 1], [np.nan, np.nan]])


def test_columns_of_zeros_and_ones_are_a_multi_label_task(tmp_path):
    features = {"picture": Image(), "TB": Value("int64"), "Edema": Value("float32")}
    write_split(tmp_path, "train", {"TB": [0, 1, -1], "Edema": [1.0, None, 0.0]}, features)
    data = load_finetuning_data(str(tmp_path), arguments(label_columns=["TB", "Edema"], name="two"))
    assert data.task.labels == ["TB", "Edema"] and data.task.problem_type == "multi_label_classification"
    np.testing.assert_array_equal(data.targets("train"), [[0, 1], [1, np.nan], [np.nan, 0]])
    assert data.targets("train", "ones")[2, 0] == 1


def test_what_is_wrong_with_columns_is_said(tmp_path):
    features = {"picture": Image(), "TB": Value("int64"), "text": Value("string")}
    write_split(tmp_path, "train", {"TB": [0, 3], "text": ["a", "b"]}, features)
    for settings, match in (
        ({"label_columns": ["TB"]}, "needs a --name"),
        ({"label_columns": ["tb"], "name": "x"}, r"has no columns \['tb'\]"),
        ({"label_columns": ["TB"], "name": "x"}, r"row 1: labels \[3.0\]; task 'x' takes 1 values, each 0, 1"),
        ({"label_columns": ["text"], "name": "x"}, "use 0, 1, -1 or nothing"),
    ):
        with pytest.raises(ValueError, match=match):
            load_finetuning_data(str(tmp_path), arguments(**settings))


def test_a_split_without_a_known_label_is_refused(tmp_path):
    features = {"picture": Image(), "TB": Value("int64")}
    write_split(tmp_path, "train", {"TB": [0, 1]}, features)
    write_split(tmp_path, "test", {"TB": [-1, None]}, features)
    with pytest.raises(ValueError, match="split 'test': no label of task 'x' is known"):
        load_finetuning_data(str(tmp_path), arguments(label_columns=["TB"], name="x"))
