"""The page of the evidence is what its results say, and its figures are those that it names."""

import json
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "evidence"


@pytest.fixture(scope="module")
def findings():
    sys.path.insert(0, str(FOLDER))
    try:
        import findings

        yield findings
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def results():
    return json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


def test_the_page_is_written_from_the_results(findings, results):
    assert findings.render(results) == (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_page_names_the_figures_that_are_there():
    named = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(path.name for path in FOLDER.glob("*.png"))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.2, "shows"),
        (-0.1, 0.2, "does not show"),
        (0.0, 0.2, "does not show"),
        (-0.2, -0.1, "the opposite shows"),
    ],
)
def test_a_verdict_is_that_of_the_interval_alone(findings, low, high, expected):
    assert findings.verdict({"ci_low": low, "ci_high": high}) == expected
