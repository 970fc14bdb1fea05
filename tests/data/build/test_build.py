"""The engine of the builders: what it makes of a release, what it refuses, and that nothing done is ever lost."""

import errno
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Image, List, Value, load_dataset

from ark_hf.data.build import build, shards, workers
from ark_hf.data.rows import Problem, Release
from ark_hf.data.sources.phantom import SITES, draw_phantom_images
from ark_hf.data.sources.phantom_sites import build_phantom_sites
from ark_hf.data.task_dataset import load_task_dataset, read_task
from ark_hf.models.ark.configuration_ark import ArkTask

from .generated import Noise, contents, noise_rows

TASK = ArkTask("lungs", ["Edema", "Mass"])
reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(build, "ROWS_PER_SHARD", 8)


def build_dataset(given: Release, out: Path, num_workers: int = 1, **options) -> dict:
    return build.build_dataset(given, out, num_workers=num_workers, **options)


def release(train=30, validation=9, test=5, **noise) -> Release:
    return Release(TASK, noise_rows(train, validation, test), read_image=Noise(**noise))


def read_dataset(folder: Path) -> list[dict]:
    return [row for path in sorted((folder / "data").iterdir()) for row in pq.read_table(path).to_pylist()]


# What is built -------------------------------------------------------------------------------------------------------


def test_every_row_is_stored_in_order_with_its_labels_and_metadata(tmp_path):
    given = release()
    given.rows[3].metadata["age"] = None
    build_dataset(given, tmp_path / "out")
    for split, rows in (("train", given.rows[:30]), ("validation", given.rows[30:39]), ("test", given.rows[39:])):
        built = load_task_dataset(tmp_path / "out", split)
        assert built.column_names == ["image", "labels", "image_id", "patient_id", "age"]
        assert built["image_id"][:] == [row.metadata["image_id"] for row in rows]
        assert built["age"][:] == [row.metadata["age"] for row in rows]
        np.testing.assert_equal(built["labels"][:], [row.labels for row in rows])
        for row, stored in zip(rows, built, strict=True):
            np.testing.assert_array_equal(np.asarray(stored["image"]), Noise()(row)[0])


def test_datasets_sees_images_and_classes(tmp_path):
    given = release(3)
    for number, row in enumerate(given.rows):
        row.labels = number % 4 - 1
    given.task = ArkTask("kinds", ["a", "b", "c"], "single_label_classification")
    build_dataset(given, tmp_path / "out")
    features = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")).features
    assert features["image"] == Image() and features["labels"] == ClassLabel(names=["a", "b", "c"])
    assert [row["labels"] for row in load_task_dataset(tmp_path / "out", "train")] == [-1, 0, 1]
    build_dataset(release(3), tmp_path / "other")
    assert load_task_dataset(tmp_path / "other", "train").features["labels"] == List(Value("float32"))


def test_files_are_even_parts_of_a_split_in_small_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 3)
    build_dataset(release(20, 8, 0), tmp_path / "out")
    footers = {path.name: pq.read_metadata(path) for path in sorted((tmp_path / "out" / "data").iterdir())}
    assert {name: footer.num_rows for name, footer in footers.items()} == {
        "train-00000-of-00003.parquet": 6,
        "train-00001-of-00003.parquet": 7,
        "train-00002-of-00003.parquet": 7,
        "validation-00000-of-00001.parquet": 8,
    }
    assert max(footer.row_group(i).num_rows for footer in footers.values() for i in range(footer.num_row_groups)) == 3


def test_report_and_hashes_describe_what_is_there(tmp_path):
    given = release(12, 4, 0)
    given.facts = {"title": "The release", "expected": ["images: 16 found, 20 expected"]}
    report = build_dataset(given, tmp_path / "out", size=64)
    written = json.loads((tmp_path / "out" / "build_report.json").read_text())
    assert written == report
    assert report["rows"] == {"train": 12, "validation": 4, "test": 0} and list(report["splits"]) == [
        "train",
        "validation",
    ]
    assert report["splits"]["train"]["labels"]["Mass"] == {"positive": 3, "negative": 3, "uncertain": 3, "unknown": 3}
    assert report["splits"]["train"]["patients"] == 12
    assert (report["name"], report["size"], report["problems"]) == ("lungs", 64, [])
    assert report["facts"] == {"title": "The release"} and report["expected"] == ["images: 16 found, 20 expected"]
    hashes = pq.read_table(tmp_path / "out" / "image_hashes.parquet").to_pylist()
    assert [(row["split"], row["row"]) for row in hashes] == [("train", i) for i in range(12)] + [
        ("validation", i) for i in range(4)
    ]
    assert len({row["sha256"] for row in hashes}) == 16
    assert read_task(tmp_path / "out") == TASK


def test_phantom_sites_are_the_drawn_images(tmp_path):
    counts = {"train": 5, "test": 3}
    folders = build_phantom_sites(tmp_path / "sites", counts, size=40, seed=3)
    assert list(folders) == list(SITES)
    for name, folder in folders.items():
        for split, count in counts.items():
            built = load_task_dataset(folder, split)
            for stored, drawn in zip(built, draw_phantom_images(SITES[name], split, count, 40, 3), strict=True):
                np.testing.assert_array_equal(np.asarray(stored["image"]), np.asarray(drawn["image"]))
                np.testing.assert_equal(stored["labels"], drawn["labels"])
                told = {key: stored[key] for key in ("patient_id", "sex", "age", "view")}
                assert told == {key: drawn[key] for key in told} and stored["image_id"] == drawn["sample_id"]
    with pytest.raises(ValueError, match="exists and is not empty"):
        build_phantom_sites(tmp_path / "sites", counts, size=40)


# The same bytes, whatever happens ------------------------------------------------------------------------------------


def test_two_processes_write_the_bytes_of_one(tmp_path):
    for name, processes in (("one", 1), ("two", 2)):
        report = build_dataset(release(bad=(3, 35)), tmp_path / name, num_workers=processes, skip_bad=True)
        assert [problem["where"] for problem in report["problems"]] == ["list, line 3", "list, line 35"]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def _build_in_a_process(out: Path, rows: int) -> None:
    build.ROWS_PER_SHARD = 8
    if rows:
        build_dataset(Release(TASK, noise_rows(rows, 20, 10), read_image=Noise(delay=0.01)), out, num_workers=2)


@pytest.fixture(scope="module")
def start_build():
    """Starts a build with two processes in a process of its own, which takes no time to import anything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ark_hf.data.build.build", "tests.data.build.test_build"])

    def start(out: Path, rows: int):
        process = context.Process(target=_build_in_a_process, args=(out, rows))
        process.start()
        return process

    start(Path(), 0).join()
    return start


def kill_at_random(start_build, tmp_path, rows: int, kills: int, seed: int) -> int:
    """Kills builds at random moments and lets the last end; how many of the killed had not ended by themselves."""
    started = time.monotonic()
    process = start_build(tmp_path / "whole", rows)
    process.join()
    duration = time.monotonic() - started
    assert process.exitcode == 0
    moments, unfinished = random.Random(seed), 0
    for _ in range(kills):
        process = start_build(tmp_path / "killed", rows)
        process.join(moments.uniform(0.05, 0.6) * duration)
        process.kill()
        process.join()
        unfinished += not (tmp_path / "killed").exists()
        if (tmp_path / "killed").exists():
            assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
            (tmp_path / "killed").rename(tmp_path / f"ended-{seed}-{unfinished}-{process.pid}")
    process = start_build(tmp_path / "killed", rows)
    process.join()
    assert process.exitcode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not (tmp_path / ".killed.building").exists()
    return unfinished


@pytest.mark.slow_ci
def test_a_build_killed_at_random_moments_ends_with_the_same_bytes(start_build, tmp_path):
    assert kill_at_random(start_build, tmp_path, rows=150, kills=4, seed=0) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_build_killed_twenty_times_ends_with_the_same_bytes(start_build, tmp_path, seed):
    assert kill_at_random(start_build, tmp_path, rows=800, kills=5, seed=seed) >= 3


@pytest.mark.slow_ci
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_stopped_says_so_and_continues(start_build, tmp_path, capfd, number):
    process = start_build(tmp_path / "out", 150)
    while not list(tmp_path.glob(".out.building/records/*.json")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number and not (tmp_path / "out").exists()
    assert f"{number.name}: the build is stopped" in capfd.readouterr().err
    for folder in ("out", "whole"):
        process = start_build(tmp_path / folder, 150)
        process.join()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_error_in_the_middle_keeps_what_is_done(tmp_path, monkeypatch):
    build_dataset(release(), tmp_path / "whole")
    written, write = [], shards.write_parquet

    def fill_the_disk(path, schema, rows):
        if len(written) == 3:
            next(rows)
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(path, schema, rows)

    monkeypatch.setattr(shards, "write_parquet", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        build_dataset(release(), tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(build, "ROWS_PER_SHARD", 8)
    assert not (tmp_path / "out").exists()

    log = tmp_path / "log"
    build_dataset(release(log=log), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert log.stat().st_size == 44 - (7 + 7 + 8)  # three of the four shards of split train were done


def test_a_process_that_is_killed_stops_the_build_which_then_continues(tmp_path):
    spared = tmp_path / "spared"
    with pytest.raises(ChildProcessError, match=r"exit code -9.*the same command continues"):
        build_dataset(release(fatal=25, spared=spared), tmp_path / "out", num_workers=2)
    spared.touch()
    build_dataset(release(fatal=25, spared=spared), tmp_path / "out", num_workers=2)
    build_dataset(release(), tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_fault_in_a_process_is_told(tmp_path):
    given = release()
    given.rows[20].path = Path("no number")
    with pytest.raises(RuntimeError, match="ValueError: invalid literal"):
        build_dataset(given, tmp_path / "out", num_workers=2)


def test_other_rows_start_anew_and_say_so(tmp_path, capsys):
    with pytest.raises(ValueError, match="it is bad"):
        build_dataset(release(bad=(43,)), tmp_path / "out")
    log = tmp_path / "log"
    given = release(log=log)
    given.rows[0].labels = [1.0, 1.0]
    build_dataset(given, tmp_path / "out")
    assert "had other rows or settings; starting anew" in capsys.readouterr().err
    assert log.stat().st_size == 44
    assert load_task_dataset(tmp_path / "out", "train")[0]["labels"] == [1.0, 1.0]


def test_a_changed_file_is_read_again_and_a_mended_one_too(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()

    def files(**noise) -> Release:
        given = release(**noise)
        for number, row in enumerate(given.rows):
            row.path = folder / str(number)
            if not row.path.exists():
                row.path.write_text("")
        return given

    with pytest.raises(ValueError, match="2 rows or images cannot be used"):
        build_dataset(files(bad=(2, 20)), tmp_path / "out")
    (folder / "40").write_text("changed")
    log = tmp_path / "log"
    with pytest.raises(ValueError, match="1 rows or images cannot be used"):
        build_dataset(files(bad=(20,), log=log), tmp_path / "out")
    # Images 2 and 20 are tried; the shards of 2, which can be read now, and of 40 are built, 7 and 5 images
    assert log.stat().st_size == 2 + 7 + 5
    build_dataset(files(), tmp_path / "out")
    build_dataset(files(), tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow_ci
def test_a_second_build_to_the_same_folder_is_refused(tmp_path, start_build):
    process = start_build(tmp_path / "out", 400)
    try:
        lock = tmp_path / ".out.building" / "records"  # appears after the lock is taken
        while not lock.exists():
            assert process.is_alive()
            time.sleep(0.01)
        with pytest.raises(ValueError, match="Another build is writing .*out; wait for its end"):
            build_dataset(release(), tmp_path / "out")
    finally:
        process.kill()
        process.join()
    build_dataset(release(), tmp_path / "out")  # the killed one holds no lock
    assert len(read_dataset(tmp_path / "out")) == 44


@pytest.mark.slow_ci
@reads_proc
def test_a_process_that_outlives_its_parent_ends_at_its_next_image(tmp_path, start_build):
    process = start_build(tmp_path / "out", 2000)
    while not list((tmp_path).glob(".out.building/records/*")):
        assert process.is_alive()
        time.sleep(0.01)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    process.kill()
    process.join()
    left = {int(pid) for pid in children.stdout.split()}
    assert left
    for _ in range(500):
        left = {pid for pid in left if Path(f"/proc/{pid}").exists()}
        if not left:
            return
        time.sleep(0.02)
    raise AssertionError(f"{left} live on")


# Memory --------------------------------------------------------------------------------------------------------------

MEASURE = """
import json, sys
from pathlib import Path

if __name__ == "__main__":  # the processes of the build would import all that
    from ark_hf.data.build.build import build_dataset
    from ark_hf.data.rows import Release
    from ark_hf.models.ark.configuration_ark import ArkTask
    from tests.data.build.generated import Noise, noise_rows, peak_memory

    found = []
    for rows in (50, *map(int, sys.argv[2:])):
        peaks = Path(f"{rows}.peaks")
        release = Release(ArkTask("lungs", ["Edema", "Mass"]), noise_rows(rows), read_image=Noise(256, peaks=peaks))
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
        build_dataset(release, Path(f"{rows}"), num_workers=int(sys.argv[1]))
        found.append([peak_memory(), max(map(float, peaks.read_text().split()))])
    print(json.dumps(found[1:]))
"""


def measure(folder: Path, workers: int, *counts: int) -> np.ndarray:
    """Largest memory in MB of the process that builds and of the one that reads, for each number of images."""
    (folder / "measure.py").write_text(MEASURE)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(folder / "measure.py"), *map(str, (workers, *counts))]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, check=True)
    return np.array(json.loads(done.stdout))


@pytest.mark.slow_ci
@reads_proc
def test_peak_memory_does_not_grow_with_the_build(tmp_path):
    (small, _), (large, _) = measure(tmp_path, 1, 200, 800)
    assert large - small < 12  # 600 images are 39 MB


@pytest.mark.slow
@reads_proc
def test_peak_memory_of_no_process_grows_with_the_build(tmp_path):
    small, large = measure(tmp_path, 2, 300, 3000)
    assert (large - small < 20).all()  # 2,700 images are 177 MB


# What is refused -----------------------------------------------------------------------------------------------------


def refusal(given: Release, out: Path, **options) -> tuple[str, list]:
    with pytest.raises(ValueError) as caught:
        build_dataset(given, out, **options)
    assert not out.exists()
    listed = out.with_name(f"{out.name}.problems.json")
    assert f"(list: {listed})" in str(caught.value)
    return str(caught.value), json.loads(listed.read_text())


def test_wrong_rows_stop_the_build_before_any_image_is_read(tmp_path):
    given = release(log=tmp_path / "log")
    given.problems = [Problem("list, line 99", "it is wrong")]
    given.rows[5] = replace(given.rows[4], where="list, line 5")
    message, listed = refusal(given, tmp_path / "out")
    assert message.splitlines()[0].startswith("lungs: 2 rows or images cannot be used")
    assert "list, line 5: its image (train) stands in list, line 4 (train) too" in message and "--skip_bad" in message
    assert [problem["where"] for problem in listed] == ["list, line 99", "list, line 5"]
    assert not (tmp_path / "log").exists()

    report = build_dataset(given, tmp_path / "out", skip_bad=True)
    assert report["problems"] == listed and report["rows"]["train"] == 29
    assert not (tmp_path / "out.problems.json").exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"labels": [1.0, 0.0]}, "label"),
        ({"labels": [0.0, 1.0]}, "label"),  # where the first row does not know
        ({"split": "test"}, "split"),
        ({"patient_id": "p9"}, "patient_id"),
        ({"age": None}, "age"),
    ],
)
def test_of_rows_that_contradict_each_other_none_is_kept(tmp_path, change, what):
    given = release(8, 0, 2)
    first, same = given.rows[3], replace(given.rows[4], where="list, line 21")
    metadata = first.metadata | {name: value for name, value in change.items() if name in first.metadata}
    fields = {name: value for name, value in change.items() if name not in first.metadata}
    given.rows += [replace(first, where="list, line 20", metadata=metadata, **fields), same]
    _, listed = refusal(given, tmp_path / "out")
    told = {problem["where"]: problem["reason"] for problem in listed}
    assert set(told) == {"list, line 3", "list, line 20", "list, line 21"}
    assert told["list, line 3"] == f"its image stands in list, line 20 too, with another {what}"
    assert f"with another {what}: none of its rows can be trusted" in told["list, line 20"] and "p9" not in str(told)
    build_dataset(given, tmp_path / "out", skip_bad=True)
    assert {row["image_id"] for row in read_dataset(tmp_path / "out")} == {f"{n}.png" for n in range(10) if n != 3}


def test_patients_of_two_sexes_are_told(tmp_path):
    given = release(6, 0, 2)
    for row, patient, sex in zip(given.rows, "aabbccdd", "MFMMFFM ", strict=True):
        row.metadata |= {"patient_id": patient, "sex": sex.strip() or None}
    report = build_dataset(given, tmp_path / "out")
    assert report["remarks"] == ["1 patients have two sexes, such as the one of list, line 0 and list, line 1."]


def test_equal_pictures_with_other_labels_are_told(tmp_path):
    given = release(8, 0, 4)
    for row, path, labels in (
        (given.rows[5], "0", given.rows[0].labels),
        (given.rows[6], "1", [0.0, math.nan]),
        (given.rows[7], "3", [1.0, math.nan]),
        (given.rows[9], "1", [0.0, 1.0]),
    ):
        row.path, row.labels = Path(path), labels
    report = build_dataset(given, tmp_path / "out", allow_patient_overlap=True)
    assert [(pair["where"], pair["other"]) for pair in report["duplicates"]["contradicting"]] == [
        ("list, line 6", "list, line 1"),
        ("list, line 9", "list, line 1"),
    ]


def test_all_unreadable_images_are_listed_and_the_first_ten_shown(tmp_path):
    bad = tuple(range(3, 40, 3))
    message, listed = refusal(release(bad=bad), tmp_path / "out")
    assert len(listed) == len(bad) == 13 and "... and 3 more" in message
    assert message.splitlines()[1] == "list, line 3: it is bad" and len(message.splitlines()) == 13
    report = build_dataset(release(bad=bad), tmp_path / "out", skip_bad=True)
    assert report["problems"] == listed
    assert {row["image_id"] for row in read_dataset(tmp_path / "out")} == {
        f"{number}.png" for number in range(44) if number not in bad
    }


def test_a_split_whose_images_are_all_bad_is_left_out_but_not_the_training_split(tmp_path):
    report = build_dataset(release(bad=tuple(range(30, 39))), tmp_path / "out", skip_bad=True)
    assert report["rows"] == {"train": 30, "validation": 0, "test": 5} and "validation" not in report["splits"]
    assert load_task_dataset(tmp_path / "out", "test").num_rows == 5
    with pytest.raises(ValueError, match="no image of split train can be read"):
        build_dataset(release(bad=tuple(range(30))), tmp_path / "other", skip_bad=True)
    with pytest.raises(ValueError, match="no image can be read"):
        build_dataset(release(5, 0, 0, bad=tuple(range(5))), tmp_path / "none", skip_bad=True)
    with pytest.raises(ValueError, match="there is no row to build"):
        build_dataset(release(0, 0, 0), tmp_path / "empty", skip_bad=True)


def test_a_shard_whose_images_are_all_bad_has_no_file(tmp_path):
    report = build_dataset(release(16, 0, 0, bad=tuple(range(8))), tmp_path / "out", skip_bad=True)
    assert os.listdir(tmp_path / "out" / "data") == ["train-00001-of-00002.parquet"]
    assert load_task_dataset(tmp_path / "out", "train")["image_id"][:] == [f"{i}.png" for i in range(8, 16)]
    assert len(report["problems"]) == 8


def test_a_patient_in_two_splits_is_refused_by_row_unless_allowed(tmp_path):
    given = release(log=tmp_path / "log")
    given.rows[31].metadata["patient_id"] = given.rows[40].metadata["patient_id"] = "p7"
    given.rows[8].metadata["patient_id"] = "p7"  # twice in one split is as it should be
    given.rows[1].metadata["patient_id"] = given.rows[33].metadata["patient_id"] = None
    message, listed = refusal(given, tmp_path / "out", skip_bad=True)
    assert "patients stand in two splits, 2 times" in message
    assert "Keep each in one split, or pass --allow_patient_overlap." in message
    assert "list, line 31 (validation) and list, line 7 (train)" in message and "p7" not in message
    assert listed[1] == {"where": "list, line 40", "split": "test", "other": "list, line 7", "other_split": "train"}
    assert not (tmp_path / "log").exists()
    report = build_dataset(given, tmp_path / "out", allow_patient_overlap=True)
    assert report["patient_overlap"] == listed and report["rows"] == {"train": 30, "validation": 9, "test": 5}


def test_a_picture_in_two_splits_is_refused_by_row_unless_allowed(tmp_path):
    given = release(log=tmp_path / "log")
    given.rows[41].path, given.rows[2].path = Path("7"), Path("7")
    message, listed = refusal(given, tmp_path / "out")
    assert "pictures stand in two splits, 1 times" in message
    assert "Keep one file of each, or both in one split, or pass --allow_patient_overlap." in message
    assert listed == [{"where": "list, line 41", "split": "test", "other": "list, line 2", "other_split": "train"}]
    report = build_dataset(given, tmp_path / "out", allow_patient_overlap=True)
    contradicting = [{"where": "list, line 7", "split": "train", "other": "list, line 2", "other_split": "train"}]
    contradicting.append({"where": "list, line 41", "split": "test", "other": "list, line 2", "other_split": "train"})
    duplicates = {"equal": listed, "near": [], "within_splits": 1, "contradicting": contradicting}
    assert report["duplicates"] == duplicates
    assert (tmp_path / "log").stat().st_size == 44  # the refused build was not in vain


def test_nearly_equal_pictures_in_two_splits_are_reported(tmp_path):
    given = Release(TASK, noise_rows(6, 2), read_image=_Chests())
    report = build_dataset(given, tmp_path / "out")
    (near,) = report["duplicates"]["near"]
    assert near["where"] == "list, line 7" and near["other"] == "list, line 2" and 0 <= near["distance"] <= 24
    assert report["duplicates"]["equal"] == []


class _Chests:
    """Phantoms; number 7 is number 2, brighter."""

    def __call__(self, row):
        number = int(row.path.name)
        drawn = list(draw_phantom_images(SITES["phantom_city"], "train", 8, 64))[2 if number == 7 else number]
        return np.asarray(drawn["image"])[None] // (1 if number == 7 else 2)


@pytest.mark.parametrize("make", ["folder", "file"])
def test_output_that_exists_is_refused_and_untouched(tmp_path, make):
    out = tmp_path / "out"
    if make == "folder":
        out.mkdir()
    kept = out / "mine.txt" if make == "folder" else out
    kept.write_text("mine")
    for construct in (lambda: build_dataset(release(), out), lambda: build_phantom_sites(out, size=32)):
        with pytest.raises(ValueError, match="out exists and is not empty; delete it or choose another --out"):
            construct()
    assert kept.read_text() == "mine" and os.listdir(tmp_path) == ["out"]


def test_empty_output_folder_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    build_dataset(release(), tmp_path / "out")
    assert len(read_dataset(tmp_path / "out")) == 44


def test_size_that_shows_nothing_is_refused(tmp_path):
    for construct in (
        lambda: build_dataset(release(), tmp_path / "out", size=0),
        lambda: build_phantom_sites(tmp_path / "out", size=31),
    ):
        with pytest.raises(ValueError, match="size must be at least 32 pixels"):
            construct()


def test_a_script_without_a_main_guard_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "name", workers.PROCESS_NAME)
    with pytest.raises(RuntimeError, match="__name__ == '__main__'"):
        build_dataset(release(), tmp_path / "out")


def test_processes_of_a_build_load_no_torch(tmp_path):
    """They would take seconds and half a gigabyte each; the name of the process tells the package."""
    code = (
        "import multiprocessing, sys; multiprocessing.current_process().name = 'ark-hf build'\n"
        "import ark_hf.data.build.masks, ark_hf.data.build.workers, ark_hf.data.mask_files\n"
        "print([name for name in ('torch', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_unknown_labels_stay_unknown(tmp_path):
    given = release(4, 0, 0)
    given.rows[0].labels = [math.nan, -1.0]
    build_dataset(given, tmp_path / "out")
    labels = pq.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")["labels"].to_pylist()
    assert math.isnan(labels[0][0]) and labels[0][1] == -1.0


def test_lock_file_of_a_dead_build_is_no_lock(tmp_path):
    (tmp_path / ".out.building").mkdir()
    (tmp_path / ".out.building" / "lock").write_text("")
    with filelock.FileLock(tmp_path / ".out.building" / "lock"):
        with pytest.raises(ValueError, match="Another build"):
            build_dataset(release(), tmp_path / "out")
    build_dataset(release(), tmp_path / "out")
