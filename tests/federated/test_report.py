"""The report of a federation: every number where it belongs."""

import json

import pytest

from ark_hf.federated.report import aurocs, write_report


def entry(number: int, told: dict, failures: dict | None = None, **more) -> dict:
    sites = {name: {"task_loss": 0.5, "samples": 1234, "auroc": each} for name, each in told.items()}
    return {"round": number, "seconds": 1.5, "bytes_down": 4_000_000, "bytes_up": 2_000_000, "sites": sites,
            "failures": failures or {}, **more}  # fmt: skip


HISTORY = [
    entry(1, {"a": {"student": 0.6, "teacher": 0.55, "master": 0.5}, "b": {"student": 0.61}}),
    entry(2, {"a": {"student": 0.7, "teacher": 0.65, "master": 0.68}}, {"b": "ValueError <b>"}),
    entry(3, {"a": {"student": 0.8, "teacher": 0.75, "master": 0.78}}, finished={"a": {"master": 0.81}}),
]


def test_the_auroc_of_a_master_is_told_a_round_later():
    assert aurocs(HISTORY, "a", "student") == [(1, 0.6), (2, 0.7), (3, 0.8)]
    assert aurocs(HISTORY, "a", "master") == [(0, 0.5), (1, 0.68), (2, 0.78), (3, 0.81)]
    assert aurocs(HISTORY, "b", "master") == []


@pytest.fixture
def folder(tmp_path, arguments):
    write_report(tmp_path, arguments(), HISTORY)
    return tmp_path


def test_tables_hold_every_round_and_site(folder):
    text = (folder / "report.md").read_text()
    assert "| 2 | a | 0.5000 | 0.700 | 0.650 | 0.780 | 1,234 |" in text
    assert "| 1 | b | 0.5000 | 0.610 | | | 1,234 |" in text
    assert "| 2 | 1.5 | 4.0 | 2.0 | a | b (ValueError <b>) |" in text


def test_the_page_names_who_is_left_out_and_draws_curves(folder):
    page = (folder / "report.html").read_text()
    assert "Round 2: b is left out (ValueError &lt;b&gt;)." in page and "<b>" not in page
    assert page.count("<svg") == 3 and "AUROC of a" in page and "Task loss" in page


def test_the_json_has_all_numbers_and_no_path(folder, tmp_path):
    values = json.loads((folder / "report.json").read_text())
    assert values["history"] == HISTORY and values["recipe"]["cycles"] == 2
