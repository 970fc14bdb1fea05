"""Statistics of a dataset's pictures: the same numbers from the builder's file and from the pictures, decoded once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value

from ark_hf.data import image_statistics as module
from ark_hf.data import loading
from ark_hf.data.build.build import build_dataset
from ark_hf.data.image_statistics import STATISTICS_FILE, dataset_statistics, statistics_schema
from ark_hf.data.open_dataset import TaskDataset, open_dataset
from ark_hf.data.rows import Release, Row
from ark_hf.metrics.shortcut import SHORTCUT_STATISTICS, image_statistics
from ark_hf.models.ark.configuration_ark import ArkTask

from .build.generated import noise_rows

COUNTS = {"train": 9, "validation": 4, "test": 5}


@dataclass(frozen=True)
class Depths:
    """Pictures of 8 to 16 bits, some larger than they are stored."""

    def __call__(self, row: Row) -> np.ndarray:
        number = int(row.path.name)
        white, dtype = [(255, np.uint8), (4095, np.uint16), (65535, np.uint16)][number % 3]
        random = np.random.default_rng(number)
        return random.integers(0, white, (1, 40 + number, 60), dtype=dtype, endpoint=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("statistics") / "lungs"
    task = ArkTask("lungs", ["Edema", "Mass"])
    build_dataset(Release(task, noise_rows(*COUNTS.values()), read_image=Depths()), folder, 48, num_workers=1)
    return folder


@pytest.fixture
def bare(built, tmp_path) -> TaskDataset:
    """The same as an earlier version wrote it, whose pictures nobody has looked at yet."""
    (tmp_path / "data").symlink_to(built / "data")
    (tmp_path / "README.md").write_bytes((built / "README.md").read_bytes())
    module._computed.clear()
    return open_dataset(tmp_path)


@pytest.fixture
def decoded(monkeypatch) -> list:
    """Grows with each picture that is looked at in this process."""
    seen: list[int] = []
    monkeypatch.setattr(module, "image_statistics", lambda image: seen.append(1) or image_statistics(image))
    return seen


def of_pictures(data: TaskDataset, split: str) -> list:
    return [image_statistics(row["image"]).tolist() for row in data.splits[split]]


def test_a_builder_stores_what_the_loader_s_pictures_give(built, decoded):
    data = open_dataset(built)
    for split, count in COUNTS.items():
        found = dataset_statistics(data, split)
        assert found.dtype == np.float64 and found.shape == (count, 10)
        assert found.tolist() == of_pictures(data, split)
    assert not decoded
    table = pq.read_table(built / STATISTICS_FILE)
    assert table.schema.equals(statistics_schema(SHORTCUT_STATISTICS)) and table.column_names[-10:] == list(
        SHORTCUT_STATISTICS
    )
    places = [(split, row) for split, count in COUNTS.items() for row in range(count)]
    assert list(zip(table["split"].to_pylist(), table["row"].to_pylist(), strict=True)) == places


def test_some_rows_of_a_split_get_their_own(built, decoded):
    data = open_dataset(built)
    some = data.select("train", [7, 0, 3])
    assert dataset_statistics(some, "train").tolist() == [of_pictures(data, "train")[row] for row in (7, 0, 3)]
    assert not decoded


def test_without_the_file_each_picture_is_decoded_once_for_all_seeds(built, bare, decoded):
    stored = dataset_statistics(open_dataset(built), "train")
    for _ in range(2):
        assert dataset_statistics(bare, "train").tolist() == stored.tolist()
        some = bare.select("train", [1, 2])
        assert dataset_statistics(some, "train").tolist() == stored[1:3].tolist()
        assert dataset_statistics(open_dataset(bare.source), "train").tolist() == stored.tolist()
    assert len(decoded) == COUNTS["train"] + 2


def test_processes_give_the_same(built, bare, decoded, monkeypatch):
    monkeypatch.setattr(module, "PICTURES_PER_WORKER", 2)
    monkeypatch.setattr(loading, "usable_cores", lambda: 3)
    expected = dataset_statistics(open_dataset(built), "train")
    assert dataset_statistics(bare, "train").tolist() == expected.tolist()
    assert not decoded  # in this process


def test_a_file_that_does_not_know_the_rows_is_left_alone(built, bare, decoded):
    table = pq.read_table(built / STATISTICS_FILE)
    pq.write_table(table.slice(1), Path(bare.source) / STATISTICS_FILE)
    data = open_dataset(bare.source)
    assert dataset_statistics(data, "train").tolist() == of_pictures(data, "train")
    assert len(decoded) == COUNTS["train"]
    assert dataset_statistics(data, "test").tolist() == of_pictures(data, "test")
    assert len(decoded) == COUNTS["train"]


def test_a_damaged_file_is_named_and_left_alone(bare):
    (Path(bare.source) / STATISTICS_FILE).write_bytes(b"no parquet")
    with pytest.warns(UserWarning, match=f"{STATISTICS_FILE} is damaged"):
        found = dataset_statistics(bare, "test")
    assert found.tolist() == of_pictures(bare, "test")


def test_a_picture_that_cannot_be_decoded_is_named():
    features = Features({"image": Image(), "labels": List(Value("float32"))})
    broken = {"image": [{"bytes": b"no picture", "path": None}], "labels": [[1.0]]}
    data = TaskDataset("somewhere", ArkTask("tb", ["TB"]), {"test": Dataset.from_dict(broken, features=features)})
    with pytest.raises(ValueError, match="Row 0: the image cannot be decoded .* Rebuild"):
        dataset_statistics(data, "test")
