"""The notebooks run from their first cell to the last, and are kept without outputs."""

import ast
import contextlib
import json
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.models.ark.original_files import swin_state_dict, training_checkpoint

NOTEBOOKS = sorted((REPOSITORY / "examples" / "notebooks").glob("*.ipynb"))
WEIGHTS = "WEIGHTS = None"


def cells(path: Path) -> list[str]:
    made = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in made if cell["cell_type"] == "code"]


def run(path: Path, **replaced: str) -> dict:
    """Runs all cells in one namespace; what a cell ends with is shown, as a notebook shows it."""
    names: dict = {}
    for source in cells(path):
        for old, new in replaced.items():
            source = source.replace(f"{old} = None", f"{old} = {new!r}")
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), names)
        if last is not None:
            assert repr(eval(compile(ast.Expression(last.value), path.name, "eval"), names))
    return names


def test_notebooks_are_plain_and_without_outputs():
    assert len(NOTEBOOKS) == 2
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None
        assert path.stat().st_size < 20_000 and "from ark_hf." not in "".join(cells(path))


@pytest.mark.slow_ci
def test_fine_tuning_on_a_folder(tmp_path, no_figures):
    with contextlib.chdir(tmp_path):
        names = run(REPOSITORY / "examples" / "notebooks" / "finetune_on_your_own_data.ipynb")
    assert names["report"]["rows"]["train"] > 80 and names["results"]["validation"]["mean"] > 0.6
    assert {label["label"] for label in names["labels"]} == {"Effusion", "Cardiomegaly"}


@pytest.mark.slow_ci
@pytest.mark.parametrize("released", [False, True])
def test_from_weights_to_a_report(tmp_path, no_figures, released):
    """Without the weights, and with a file in their layout."""
    torch.save(training_checkpoint(swin_state_dict(1), swin_state_dict()), tmp_path / "Ark6_small.pth.tar")
    with contextlib.chdir(tmp_path):
        names = run(
            REPOSITORY / "examples" / "notebooks" / "from_weights_to_a_report.ipynb",
            **({"WEIGHTS": "Ark6_small.pth.tar"} if released else {}),
        )
    assert names["tested"].page.is_file() or (tmp_path / names["tested"].page).is_file()
    (report,) = names["tested"].reports
    assert {label.label for label in report.labels} == {"Effusion", "Cardiomegaly", "Nodule", "No Finding"}
