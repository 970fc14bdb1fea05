"""Task datasets to push to the Hub of the tests, and to load back."""

import shutil
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from ark_hf.hub.push_dataset import push_dataset
from tests.hub_stand_in import STRANGER

SHARD = "data/train-00000-of-00001.parquet"


@pytest.fixture
def city(sites, tmp_path):
    """A site of its own, to be spoiled."""
    shutil.copytree(sites["phantom_city"], tmp_path / "city")
    return tmp_path / "city"


@pytest.fixture
def patients(city):
    """The same as if it were of patients: its card names no licence."""
    card = city / "README.md"
    card.write_text(card.read_text().replace("license: apache-2.0", "license: other").replace("- phantom\n", ""))
    return city


@pytest.fixture(scope="module")
def pushed(hub, sites):
    """Id of a private repository with the first site."""
    push_dataset(sites["phantom_city"], "someone/phantom_city")
    return "someone/phantom_city"


@pytest.fixture
def no_waiting(monkeypatch):
    """huggingface_hub waits before it tries again."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def stranger(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", STRANGER)


def assert_same_rows(rows, others):
    rows, others = list(rows), list(others)
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(other["image"]))
        for key in row.keys() - {"image"}:
            np.testing.assert_equal(row[key], other[key], err_msg=key)


def sent_objects(requests) -> list[str]:
    return [request.path.rsplit("/")[-1] for request in requests if request.method == "PUT" and request.status == 200]


def rewrite(folder, change):
    """Changes the table of the training split's file."""
    pq.write_table(change(pq.read_table(folder / SHARD)), folder / SHARD)
