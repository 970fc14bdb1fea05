"""Imports point one way: a module may import its own layer and those below, never above (DESIGN, section 2)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "ark_hf"
# From the bottom up; a path names a file or all files of a folder
LAYERS = [
    "files.py",
    "provenance.py",
    "hub_errors.py",
    "weights.py",
    "models",
    "labels.py",
    "data",
    "evaluation",
    "training",
    "push.py",
    "model_card.py",
    "hub.py",
    "push_dataset.py",
    "push_model.py",
    "pipelines.py",
    "export.py",
    "serve.py",
    "demo.py",
]
LAYERS += ["auto.py", "__init__.py", "cli_parse.py"]
LAYERS += ["cli_data.py", "cli_evaluate.py", "cli_export.py", "cli_finetune.py", "cli_probe.py", "cli_push.py"]
LAYERS += ["cli_serve.py", "cli.py"]
MODEL_FILES = ("configuration_ark.py", "image_processing_ark.py", "modeling_ark.py")


def layer(path: Path) -> int:
    return LAYERS.index(path.relative_to(PACKAGE).parts[0])


def imported_files(path: Path) -> list[Path]:
    """Files of the package that `path` imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    for target in imported_files(path):
        if target.name != "__init__.py":
            assert layer(target) <= layer(path), f"{path.name} imports {target.relative_to(PACKAGE)} from above"


@pytest.mark.parametrize("name", MODEL_FILES)
def test_files_that_travel_to_the_hub_import_only_each_other(name):
    folder = PACKAGE / "models" / "ark"
    assert {target.name for target in imported_files(folder / name)} <= set(MODEL_FILES)


def test_the_checker_sees_an_import_from_above(tmp_path):
    assert PACKAGE / "training" / "recipe.py" in imported_files(PACKAGE / "cli.py")
    assert layer(PACKAGE / "data" / "build.py") < layer(PACKAGE / "training" / "ema.py") < layer(PACKAGE / "cli.py")
