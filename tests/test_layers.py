"""Imports point one way, between rooms and inside them (DESIGN, section 2)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "ark_hf"
# From the bottom up: a module may import what stands below it or on its own line. A path names a file, or a folder and
# what has no line of its own in it.
LAYERS = """
files.py names.py cells.py signals.py plain_yaml.py
provenance.py hub_errors.py installation.py outcome.py
weights.py
pages
metrics
models
labels.py
data/images
data/volumes
data
data/build
data/leaks.py
data/sources
data/report
inference
evaluation
evaluation/report
evaluation/probing
evaluation/evaluate.py evaluation/evaluate_masks.py
training
training/ark
training/peac
training/genesis
training/recipe.py training/pretrain.py
training/finetune
hub
federated
serving
demonstration.py
auto.py __init__.py
cli __main__.py
"""
PLACES = {path: number for number, line in enumerate(LAYERS.splitlines()) for path in line.split()}
SHARED_FILES = ("ark/heads_ark.py", "ark/masks_ark.py", "ark/tasks_ark.py", "ark/thresholds_ark.py")
ARK_FILES = (
    *SHARED_FILES,
    "ark/configuration_ark.py",
    "ark/image_processing_ark.py",
    "ark/modeling_ark.py",
    "ark/modeling_ark_segmentation.py",
    "ark/swin_ark.py",
)
GENESIS_FILES = (
    *SHARED_FILES,
    "genesis/code_genesis.py",
    "genesis/configuration_genesis.py",
    "genesis/image_processing_genesis.py",
    "genesis/modeling_genesis.py",
)


def layer(path: Path) -> int:
    inside = path.relative_to(PACKAGE)
    return next(PLACES[str(place)] for place in (inside, *inside.parents) if str(place) in PLACES)


def imported_files(path: Path, text: str | None = None) -> list[Path]:
    """Files of the package that `path` imports, anywhere in it; with `text` those that it would import with that."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if text is None else text)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("ark_hf")):
            base = path.parents[node.level - 1] if node.level else PACKAGE.parent
            module = base.joinpath(*(node.module or "").split("."))
            for target in [module, *(module / alias.name for alias in node.names)]:
                found += [file for file in (target.with_suffix(".py"), target / "__init__.py") if file.is_file()]
        elif isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "ark_hf" for alias in node.names), (
                f"{path}: use relative imports"
            )
    return found


def imports_from_above(path: Path, text: str | None = None) -> list[str]:
    return [
        str(target.relative_to(PACKAGE))
        for target in imported_files(path, text)
        if layer(target) > layer(path) and target.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    assert not imports_from_above(path)


@pytest.mark.parametrize("path, travelling", [(path, files) for files in (ARK_FILES, GENESIS_FILES) for path in files])
def test_files_that_travel_to_the_hub_import_only_each_other(path, travelling):
    found = imported_files(PACKAGE / "models" / path)
    assert {str(target.relative_to(PACKAGE / "models")) for target in found} <= set(travelling)


@pytest.mark.parametrize(
    "path, line",
    [
        ("data/views.py", "from ..training.ema import MovingAverage"),
        ("metrics/auroc.py", "def f():\n    from ..models.ark import modeling_ark"),
        ("data/images/dicom.py", "from ..task_dataset import read_task"),
        ("data/volumes/reading.py", "from ..task_dataset import read_task"),
        ("data/rows.py", "from ark_hf.data.build.shards import Shard"),
        ("data/build/build.py", "from ..sources.phantom import SITES"),
        ("training/checkpoint.py", "from .finetune.losses import FinetuningLoss"),
        ("training/initial_weights.py", "from .ark.recipe import PretrainingArguments"),
        ("evaluation/scoring.py", "from .report import task_report"),
        ("inference/predict.py", "from ..cli.main import main"),
    ],
)
def test_an_import_from_above_is_found(path, line):
    assert imports_from_above(PACKAGE / path, line)
