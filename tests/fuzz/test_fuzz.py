"""A slice of the fuzzing on every run, and that what is wrong is seen as such."""

import os
import warnings
from pathlib import Path
from random import Random

import pytest

from ark_hf.data.images.image_files import UnreadableImageError, naming_the_image

from . import MARKER
from .__main__ import Worker, remaining
from .judging import Case, judge
from .readers import READERS
from .report import write_report
from .shares import SHARES, shares

# Cases of a reader; fewer of those that load models and datasets for each
SLICE = dict.fromkeys(READERS, 20) | {
    "checkpoint": 10,
    "excel": 8,
    "dicom_series": 3,
    "model": 3,
    "parquet": 1,
    "command": 1,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS)
def test_a_slice_is_read_or_refused(reader, tmp_path):
    for number in range(SLICE[reader]):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = judge(READERS[reader], f"slice {reader} {number}", folder)
        assert outcome.answer != "wrong", f"{reader} {number} ({outcome.kind}): {outcome.why}"


def test_a_case_is_made_of_its_seed_alone(tmp_path):
    outcomes = []
    for number in range(2):
        (folder := tmp_path / str(number)).mkdir()
        outcomes.append(judge(READERS["dicom"], "a seed", folder))
    assert [each.kind for each in outcomes] == [outcomes[0].kind] * 2
    assert outcomes[0].answer == outcomes[1].answer


def _raising(error: Exception):
    def read() -> None:
        raise error

    return read


def _refusing(reason: str, name: str = "x.png"):
    def read() -> None:
        with naming_the_image(name):
            raise UnreadableImageError(reason)

    return read


def _library():
    return os.stat(b"\0")


def _hungry():
    return b"x" * 2**26


BAD = {
    "KeyError": lambda folder: _raising(KeyError("a")),
    "quotes it": lambda folder: _refusing(MARKER),
    "does not name": lambda folder: _refusing("it is damaged", "other"),
    "words of a library": lambda folder: _library,
    "control characters": lambda folder: _refusing("\x1b[2J"),
    "more memory": lambda folder: _refusing("cannot be read (MemoryError)"),
    "GiB": lambda folder: _hungry,
    "code of the input ran": lambda folder: lambda: (folder.parent / "canary").write_text(""),
    "os.system": lambda folder: lambda: os.system("true"),
    "outside of its folder": lambda folder: lambda: (folder / "../secret/a").read_bytes(),
    "a log or warning quotes": lambda folder: lambda: warnings.warn(MARKER, stacklevel=1),
}


@pytest.mark.parametrize("why", BAD)
def test_what_is_wrong_is_seen(why, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fuzz.judging.MAX_GROWTH", 2**25)

    def make(rng: Random, folder: Path) -> Case:
        return Case("bad", BAD[why](folder), "x.png")

    outcome = judge(make, "a seed", tmp_path)
    assert outcome.answer == "wrong" and why in outcome.why


def test_every_reader_has_its_share_and_a_stopped_run_goes_on(tmp_path):
    assert list(SHARES) == list(READERS) and sum(shares(10_000).values()) >= 10_000
    args = type("", (), {"cases": 100, "only": ["png", "csv"], "case": None})
    everything = list(remaining(args, set()))
    assert len(everything) >= 100 and list(remaining(args, set(everything[:40]))) == everything[40:]
    row = {"reader": "png", "kind": "cut", "answer": "refused", "seconds": 0.5, "bytes": 2_000_000}
    write_report(tmp_path, [row, {**row, "answer": "wrong", "kind": "bomb"}], 3)
    assert "| png | 2 | 2 | 0 | 1 | 1 | 0.5 | 2 |" in (tmp_path / "RESULTS.md").read_text()


@pytest.mark.slow
def test_a_process_that_dies_is_counted_and_replaced(tmp_path):
    worker = Worker(tmp_path / "log")
    first = worker.ask("csv", "a seed")
    worker.process.kill()
    assert worker.ask("csv", "a seed")["why"] == "the process died of signal 9"
    again = Worker(tmp_path / "log")
    assert again.ask("csv", "a seed")["answer"] == first["answer"] != "wrong"
    assert again.ask("no_such_reader", "a seed")["why"] == "it exits with 1"
    again.stop()
