"""Streams: the rows of the loaded dataset, each once a pass, in an order fixed by its key, within bounded memory."""

import io
import math
import shutil
import time

import numpy as np
import PIL.Image
import psutil
import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from datasets import Features, Image, List, Value
from fsspec.implementations.local import LocalFileOpener
from huggingface_hub import HfApi
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.data import streaming
from ark_hf.data.build.build import encode_png, write_task_dataset
from ark_hf.data.loading import InferenceSamples, TrainingSamples, ViewSettings, iterate, micro_batches, pass_order
from ark_hf.data.open_dataset import TaskDataset, check_disjoint, open_dataset
from ark_hf.data.streaming import Run, StreamedRows, read_ahead
from ark_hf.data.task_dataset import load_task_dataset
from ark_hf.models.ark.configuration_ark import ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor

TASK = ArkTask("findings", ["Edema", "Mass"])
SIZE = 24
FILES = [9, 1, 14]  # rows a file of the train split
ROWS = sum(FILES)
LABELS = [[0.0, 1.0], [-1.0, math.nan], [1.0, -1.0]]


def png(number: int) -> dict:
    y, x = np.mgrid[: 30 + number % 3, :28]
    plane = (127 + 100 * np.sin(x / 5 + number) * np.cos(y / 7)).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(plane).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_files(folder, columns, schema, counts, split="train", group=4) -> None:
    (folder / "data").mkdir(exist_ok=True)
    table, start = pyarrow.table(columns, schema=schema), 0
    for number, count in enumerate(counts):
        path = folder / "data" / f"{split}-{number:05d}-of-{len(counts):05d}.parquet"
        pyarrow.parquet.write_table(table.slice(start, count), path, row_group_size=group)
        start += count


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """A task dataset with three files of train rows, and one of two validation rows."""
    folder = tmp_path_factory.mktemp("findings")
    features = {"image": Image(), "labels": List(Value("float32")), "image_id": Value("string")}
    schema = Features(features | {"patient_id": Value("string")}).arrow_schema
    for split, counts in {"train": FILES, "validation": [2]}.items():
        numbers = range(sum(counts))
        columns = {
            "image": [png(number) for number in numbers],
            "labels": [LABELS[number % 3] for number in numbers],
            "image_id": [f"{split}/{number}.png" for number in numbers],
            "patient_id": [f"{split}-{number // 2}" for number in numbers],
        }
        write_files(folder, columns, schema, counts, split)
    data_files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in ("train", "validation")]
    card = {"ark_task": TASK.to_dict(), "configs": [{"config_name": "default", "data_files": data_files}]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Other columns, images as plain bytes, no card."""
    folder = tmp_path_factory.mktemp("foreign")
    columns = {
        "img": [png(number)["bytes"] for number in range(5)],
        "TB": [1, 0, None, 1, 0],
        "Mass": [0.0, 1.0, -1.0, None, 1.0],
        "site": ["a", "b", "a", "b", "a"],
    }
    write_files(folder, columns, pyarrow.table(columns).schema, [5])
    return folder


@pytest.fixture
def small_memory(monkeypatch):
    """A window of 8 rows, 3 read at a time, from one row group after the other."""
    for name, value in {"WINDOW": 8, "CHUNK": 3, "AT_ONCE": 0}.items():
        monkeypatch.setattr(streaming, name, value)


class NumberedRows(StreamedRows):
    """Rows that are their numbers, in groups of given lengths, and the groups that have been read."""

    def __init__(self, lengths, window=1000):
        self.window = window
        starts = np.cumsum([0, *lengths])
        self.runs = [
            Run("", [i], int(start), length, 0)
            for i, (start, length) in enumerate(zip(starts[:-1], lengths, strict=True))
        ]
        self.length = int(starts[-1])
        self.groups_read: list[int] = []
        self.rows_read = 0

    def _read_run(self, run):
        self.groups_read += run.groups
        for start in range(run.start, run.start + run.rows, streaming.CHUNK):
            stop = min(start + streaming.CHUNK, run.start + run.rows)
            self.rows_read += stop - start
            yield pyarrow.record_batch({"number": np.arange(start, stop)})

    def _rows(self, batch):
        return batch.column("number").to_pylist()


def order_of(rows: StreamedRows, seed=0, cycle=0, task="city") -> np.ndarray:
    return pass_order(rows, seed, cycle, task)


def in_batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


# The order of a pass -------------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


@given(LENGTHS, st.integers(0, 2**40), st.integers(0, 1000), st.text(max_size=10))
def test_pass_has_every_row_once_in_an_order_fixed_by_its_key(lengths, seed, cycle, task):
    order = order_of(NumberedRows(lengths), seed, cycle, task)
    assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(sum(lengths)))
    np.testing.assert_array_equal(order, order_of(NumberedRows(lengths), seed, cycle, task))


def test_order_differs_between_seeds_cycles_and_tasks():
    keys = [(0, 0, "city"), (1, 0, "city"), (0, 1, "city"), (0, 0, "coast")]
    assert len({tuple(order_of(NumberedRows([30, 30]), *key)) for key in keys}) == len(keys)


def test_rows_of_all_groups_come_early_and_late_and_beside_any_other():
    rows = NumberedRows([10] * 30, window=50)
    places, neighbours = [], set()
    for cycle in range(200):
        order = order_of(rows, cycle=cycle)
        places.append(np.argsort(order)[[0, 9, 150, 299]])
        neighbours.update(abs(np.diff(order)).tolist())
    # Each of 200 orders puts a row anywhere in 300 places: mean 149.5, standard error 6.1
    np.testing.assert_allclose(np.mean(places, axis=0), 149.5, atol=25)
    assert np.min(places) < 15 and np.max(places) > 285 and len(neighbours) > 200


# Reading -------------------------------------------------------------------------------------------------------------


@given(LENGTHS, st.integers(1, 7), st.integers(0, 300), st.integers(0, 5))
def test_rows_come_as_ordered_wherever_a_pass_is_resumed(lengths, size, first, cycle):
    rows = NumberedRows(lengths)
    batches = in_batches(order_of(rows, cycle=cycle)[first:], size)
    assert [[place for place, _ in batch] for batch in rows.read(batches)] == [batch.tolist() for batch in batches]
    rows.groups_read.clear()
    assert all(place == row for batch in rows.read(batches) for place, row in batch)
    assert len(rows.groups_read) == len(set(rows.groups_read)), "a group was read twice"
    starts = [run.start for run in rows.runs if run.rows]
    needed = {int(np.searchsorted(starts, row, side="right")) for batch in batches for row in batch}
    assert len(rows.groups_read) == len(needed), "a group was read that has nothing for the rest of the pass"


@given(LENGTHS, st.integers(1, 60), st.integers(1, 4), st.integers(1, 3))
def test_processes_share_a_pass_between_them(lengths, size, processes, accumulation):
    plan = [
        group
        for step in in_batches(order_of(NumberedRows(lengths)), size)
        for group in micro_batches(step, processes, accumulation)
    ]
    seen: list[int] = []
    for process in range(processes):
        for batch in NumberedRows(lengths).read([group[process] for group in plan]):
            assert all(row == (place if place >= 0 else ~place) for place, row in batch)
            seen += [place for place, _ in batch if place >= 0]
    assert sorted(seen) == list(range(sum(lengths)))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 5))
def test_rows_that_wait_for_their_turn_fill_no_more_than_the_window(lengths, cycle):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "CHUNK", 4)
        rows = NumberedRows(lengths, window=20)
        given_out = 0
        for batch in rows.read(in_batches(order_of(rows, cycle=cycle), 3)):
            given_out += len(batch)
            # What is read but not given out; of a run that is begun, and of the one before it, some rows come late
            assert rows.rows_read - given_out <= 20 + max(lengths) + 4


def test_no_rows_are_no_batches():
    assert list(NumberedRows([5]).read([])) == []


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["small_memory", None])
def test_stream_has_the_rows_and_columns_of_the_loaded_dataset(findings, request, memory):
    if memory:
        request.getfixturevalue(memory)
    streamed, loaded = StreamedRows(findings, "train"), load_task_dataset(findings, "train")
    assert len(streamed) == len(loaded) == ROWS and streamed.column_names == loaded.column_names
    checked = streamed.without_images()
    assert checked.column_names == ["labels", "image_id", "patient_id"]
    for column in checked.column_names:
        np.testing.assert_equal(checked[column][:], loaded[column][:])
    order = np.random.default_rng(0).permutation(ROWS)
    read = [pair for batch in streamed.read(in_batches(order, 4)) for pair in batch]
    assert [number for number, _ in read] == order.tolist()
    for number, row in read:
        assert row["image"] == png(number) and row["image_id"] == f"train/{number}.png"
        np.testing.assert_equal(row["labels"], LABELS[number % 3])


@pytest.mark.parametrize("memory", ["small_memory", None])
def test_columns_of_a_foreign_dataset_become_image_and_labels(foreign, request, memory):
    if memory:
        request.getfixturevalue(memory)
    columns = {"image": "img", "labels": ["Mass", "TB"]}
    streamed = StreamedRows(foreign, "train", columns)
    loaded = load_task_dataset(foreign, "train", columns=columns)
    assert sorted(streamed.column_names) == sorted(loaded.column_names)
    np.testing.assert_equal(streamed.without_images()["labels"][:], loaded["labels"][:])
    ((_, row),) = next(streamed.read([np.array([3])]))
    assert row["image"]["bytes"] == png(3)["bytes"]
    np.testing.assert_equal(row["labels"], [math.nan, 1.0])


def test_a_streamed_dataset_is_checked_as_a_loaded_one(findings):
    streamed, loaded = (open_dataset(findings, streaming=streaming) for streaming in (True, False))
    assert all(isinstance(rows, StreamedRows) for rows in streamed.splits.values())
    for split in ("train", "validation"):
        np.testing.assert_equal(streamed.labels(split), loaded.labels(split))
        assert streamed.patients(split) == loaded.patients(split) and streamed.has_known_label(split)
    assert streamed.digest() == loaded.digest() and streamed.facts == loaded.facts
    with pytest.raises(ValueError, match="split 'train', row 0: labels"):
        open_dataset(findings, task=ArkTask("x", ["A"]), streaming=True)
    twice = TaskDataset("here", TASK, {"train": streamed.splits["train"], "validation": streamed.splits["train"]})
    with pytest.raises(ValueError, match="row 0 of split 'validation' and row 0 of split 'train' are of one patient"):
        check_disjoint(twice)


@pytest.mark.parametrize(
    "call", [lambda path: load_task_dataset(path, "test"), lambda path: StreamedRows(path, "test")]
)
def test_missing_split_is_refused_with_those_there_are(findings, call):
    with pytest.raises(ValueError, match=r"Cannot load split 'test' of .*findings.*\['train', 'validation'\]"):
        call(findings)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": "img", "labels": ["Edema"]}, r"has no columns \['Edema'\]; it has \['img', 'TB'"),
        ({"image": "img"}, "columns must be {image: COLUMN, labels: "),
        (None, r"lacks the columns \['image', 'labels'\]; it has .* Name them in the recipe: columns"),
    ],
)
def test_wrong_columns_are_refused_with_what_is_there(foreign, columns, message):
    with pytest.raises(ValueError, match=message) as caught:
        StreamedRows(foreign, "train", columns)
    assert str(foreign) in str(caught.value)


def test_labels_that_are_no_numbers_are_refused(foreign):
    rows = StreamedRows(foreign, "train", {"image": "img", "labels": ["TB", "site"]})
    for read in (rows.without_images, lambda: next(rows.read([np.array([0])]))):
        with pytest.raises(ValueError, match="{'TB': 1, 'site': 'a'}; use 0, 1, -1 or nothing"):
            read()


def test_images_in_files_of_their_own_cannot_be_streamed(tmp_path):
    (tmp_path / "train").mkdir()
    PIL.Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "train" / "1.png")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,TB\n1.png,1\n")
    with pytest.raises(ValueError, match="not in parquet files and cannot be streamed: set streaming to false"):
        StreamedRows(tmp_path, "train", {"image": "image", "labels": ["TB"]})


def test_a_split_without_rows_is_refused(tmp_path):
    schema = Features({"image": Image(), "labels": List(Value("float32"))}).arrow_schema
    write_files(tmp_path, {"image": [], "labels": []}, schema, [0])
    with pytest.raises(ValueError, match="Cannot load split 'train' of .*: it is empty"):
        StreamedRows(tmp_path, "train")


@pytest.mark.parametrize("damage", ["cut", "overwritten", "gone"])
def test_a_damaged_file_is_named_without_its_rows(findings, tmp_path, damage):
    shutil.copytree(findings, tmp_path / "copy")
    rows = StreamedRows(tmp_path / "copy", "train")
    file = tmp_path / "copy" / "data" / "train-00002-of-00003.parquet"
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(
            content[: len(content) // 2] if damage == "cut" else content[:4] + bytes(2000) + content[2004:]
        )
    if damage == "cut":
        with pytest.raises(ValueError, match="Cannot read train-00002-of-00003.parquet of split 'train'"):
            StreamedRows(tmp_path / "copy", "train")
    with pytest.raises(OSError, match="Cannot read train-00002-of-00003.parquet of split 'train'") as caught:
        for batch in rows.read([np.arange(9), np.arange(9, ROWS)]):
            assert len(batch) == 9
    assert "train-5" not in str(caught.value)


# Samples -------------------------------------------------------------------------------------------------------------


def assert_same_batches(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            torch.testing.assert_close(batch[key], other[key], rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_those_of_the_loaded_dataset_whatever_the_number_of_workers(findings, small_memory, workers):
    processor = ArkImageProcessor(size={"height": SIZE, "width": SIZE})
    views = ViewSettings(28, SIZE, 0.3, "resize")
    streamed, loaded = StreamedRows(findings, "train"), load_task_dataset(findings, "train")
    batches = in_batches(order_of(streamed), 5)
    batches[2] = np.append(batches[2], ~batches[2][0])
    assert_same_batches(
        iterate(TrainingSamples(streamed, TASK, "lsr_ones", processor, views, 0, 3), batches, workers),
        iterate(TrainingSamples(loaded, TASK, "lsr_ones", processor, views, 0, 3), batches, 0),
    )
    batches = in_batches(np.arange(ROWS)[1::2], 4)
    assert_same_batches(
        iterate(InferenceSamples(streamed, TASK, processor), batches, workers),
        iterate(InferenceSamples(loaded, TASK, processor), batches, 0),
    )


def test_an_undecodable_picture_is_named_by_task_and_row(tmp_path):
    schema = Features({"image": Image(), "labels": List(Value("float32"))}).arrow_schema
    columns = {"image": [png(0), {"bytes": b"no picture", "path": None}, None], "labels": [[1.0], [0.0], [1.0]]}
    write_files(tmp_path, columns, schema, [3])
    samples = InferenceSamples(StreamedRows(tmp_path, "train"), ArkTask("tb", ["TB"]), ArkImageProcessor())
    for row in (1, 2):
        with pytest.raises(ValueError, match=f"Task 'tb', row {row}: the image cannot be decoded"):
            next(iterate(samples, [np.array([row])], 0))


def write_noise(folder, count: int) -> None:
    """Pictures of 16 kB that no codec can compress."""
    random = np.random.default_rng(0)

    def rows():
        for _ in range(count):
            yield {"image": encode_png(random.integers(0, 256, (128, 128), np.uint8)), "labels": [1.0, 0.0]}

    write_task_dataset(folder, TASK, {"train": rows}, [], {})


def test_checks_read_no_picture(tmp_path, monkeypatch):
    write_noise(tmp_path / "noise", 128)
    read, amounts = LocalFileOpener.read, []
    monkeypatch.setattr(
        LocalFileOpener, "read", lambda self, *size: amounts.append(len(content := read(self, *size))) or content
    )
    rows = StreamedRows(tmp_path / "noise", "train")
    assert len(rows.without_images()) == 128 and 0 < sum(amounts) < 10**5
    list(rows.read([np.arange(128)]))
    assert sum(amounts) > 2 * 10**6


@pytest.mark.slow_ci
@pytest.mark.parametrize("kind", [StreamedRows, load_task_dataset])
def test_memory_does_not_grow_over_a_pass(tmp_path, monkeypatch, kind):
    """33 MB of pictures, of which 100 wait in memory at most."""
    monkeypatch.setattr(streaming, "WINDOW", 100)
    monkeypatch.setattr(streaming, "AT_ONCE", 2**20)
    write_noise(tmp_path / "noise", 2000)
    samples = TrainingSamples(
        kind(tmp_path / "noise", "train"),
        TASK,
        "ones",
        ArkImageProcessor(size={"height": SIZE, "width": SIZE}),
        ViewSettings(28, SIZE, 0.3, "resize"),
        0,
        0,
    )
    process, memory = psutil.Process(), []
    for _ in iterate(samples, in_batches(order_of(samples.rows), 20), 0):
        used = process.memory_info()
        memory.append((used.rss - getattr(used, "shared", 0)) / 1e6)
    assert np.median(memory[-20:]) - np.median(memory[20:40]) < 10


# Reading ahead -------------------------------------------------------------------------------------------------------


def test_items_are_made_ahead_in_order_and_no_further():
    made = []

    def make():
        for number in range(10):
            made.append(number)
            yield number

    items = read_ahead(make(), 3)
    assert next(items) == 0
    for _ in range(200):
        if len(made) == 4:
            break
        time.sleep(0.01)
    assert made == [0, 1, 2, 3]
    assert list(items) == list(range(1, 10))


def test_an_error_comes_where_its_item_would():
    def make():
        yield 1
        raise OSError("broken off")

    items = read_ahead(make(), 2)
    assert next(items) == 1
    with pytest.raises(OSError, match="broken off"):
        next(items)


# The Hub -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_hub(hub, findings):
    HfApi().create_repo("someone/findings", repo_type="dataset")
    HfApi().upload_folder(folder_path=findings, repo_id="someone/findings", repo_type="dataset")
    return "someone/findings"


def test_a_dataset_of_the_hub_is_streamed_as_one_on_disk(on_hub, findings):
    remote, local = StreamedRows(on_hub, "train"), StreamedRows(findings, "train")
    assert len(remote) == ROWS and remote.column_names == local.column_names
    np.testing.assert_equal(remote.without_images()[:], local.without_images()[:])
    np.testing.assert_array_equal(order_of(remote), order_of(local))
    batches = in_batches(order_of(remote), 5)
    for batch, other in zip(remote.read(batches), local.read(batches), strict=True):
        np.testing.assert_equal(batch, other)


def test_window_is_of_rows_or_of_bytes(findings, monkeypatch):
    assert StreamedRows(findings, "train").window == 2000
    monkeypatch.setattr(streaming, "WINDOW_BYTES", 5000)  # a picture takes more than 500
    assert 3 <= StreamedRows(findings, "train").window < 10
    monkeypatch.setattr(streaming, "WINDOW_BYTES", 5)
    assert StreamedRows(findings, "train").window == 1


def test_what_a_pass_has_behind_it_is_not_fetched_again(hub, on_hub, monkeypatch):
    monkeypatch.setattr(streaming, "WINDOW", 1)
    rows = StreamedRows(on_hub, "train")
    last = order_of(rows)[-1:]
    with hub.recording() as requests:
        list(rows.read([last]))
    files = {request.path for request in requests if ".parquet" in request.path}
    assert len(files) == 1


def test_a_stream_that_breaks_off_says_so(hub, on_hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits before it tries again
    rows = StreamedRows(on_hub, "train")
    with hub.failing(r"GET /storage/", status=0, skip=1):
        with pytest.raises(OSError, match=r"Cannot read .*parquet of split 'train' of 'someone/findings': the Hub"):
            list(rows.read([np.arange(ROWS)]))
    assert len(next(rows.read([np.arange(ROWS)]))) == ROWS
    with hub.failing(r"GET /storage/", status=500, times=2):
        assert len(next(rows.read([np.arange(ROWS)]))) == ROWS
