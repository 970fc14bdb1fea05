"""The table of docs/divergence.md is what its results say, and its script tells a run that is lost."""

import json
import sys

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "examples" / "evidence"


@pytest.fixture(scope="module")
def divergence():
    sys.path.insert(0, str(FOLDER))
    try:
        import divergence

        yield divergence
    finally:
        sys.path.remove(str(FOLDER))


def test_the_table_is_written_from_the_results(divergence):
    results = json.loads((FOLDER / "divergence.json").read_text(encoding="utf-8"))
    page = (REPOSITORY / "docs" / "divergence.md").read_text(encoding="utf-8")
    assert divergence.table(results) in page
    assert all(results[arm]["settings"] == divergence.ARMS[arm][0] for arm in results)


@pytest.mark.parametrize(("losses", "diverged"), [([0.1, 99.0], None), ([0.1, 150.0, 3.0], 2)])
def test_a_run_is_lost_from_the_first_cycle_beyond_all_use(divergence, tmp_path, losses, diverged):
    history = [
        {
            "train": {"s1/consistency_loss": loss, "s2/consistency_loss": loss, "s1/task_loss": 1e9},
            "validation": {"teacher": {"mean_auroc": 0.9}},
        }
        for loss in losses
    ]
    (tmp_path / "metrics.json").write_text(json.dumps({"history": history}))
    found = divergence.summarise(tmp_path)
    assert found["diverged"] == diverged and found["consistency"] == losses and found["told"] is None
    (tmp_path / "troubles.jsonl").write_text('{"kind": "loss exploded", "cycle": 2}\n')
    assert divergence.summarise(tmp_path)["told"] == 2


@pytest.mark.slow_ci
def test_an_arm_is_trained_left_and_not_trained_again(divergence, tmp_path, monkeypatch):
    monkeypatch.setattr(divergence, "COUNTS", {"train": 16, "validation": 6})
    monkeypatch.setitem(divergence.ARMS, "was, bounded distance", (divergence.RUNNING | {"cycles": 3}, 2))
    found = divergence.run("was, bounded distance", tmp_path)
    assert found["cycles"] == 2 and [each["cycle"] for each in found["sizes"]] == [1]
    assert found["sizes"][0]["student"] == pytest.approx(1, abs=1e-3)  # whose mean square is bounded
    monkeypatch.setattr(divergence, "build_sites", None)
    assert divergence.run("was, bounded distance", tmp_path) == found
