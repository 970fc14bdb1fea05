"""What the package exports: one list for Python and for type checkers, and all that scripts of users need."""

import ast
import importlib.metadata
import re
import subprocess
import sys

import pytest

import ark_hf
from ark_hf import provenance
from ark_hf.cli.main import verbs
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "src" / "ark_hf"
# What these benchmarks take apart is nobody's interface
INSIDE = {
    f"benchmarks/{name}.py"
    for name in (
        "input_pipeline",
        "peac_views",
        "genesis_deformation",
        "precision",
        "steps",
        "training_loop",
        "unlike",
    )
}
SCRIPTS = [
    path
    for folder in ("examples", "benchmarks", "hub_cards")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
    if str(path.relative_to(REPOSITORY)) not in INSIDE
]
DOCUMENTS = [*sorted((REPOSITORY / "docs").rglob("*.md")), *sorted((REPOSITORY / "examples").rglob("*.md"))]
DOCUMENTS += [REPOSITORY / "README.md", *sorted((PACKAGE / "hub" / "templates").glob("*.md"))]


def names_for_type_checkers() -> dict[str, str]:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    names = {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                original = "" if alias.asname == alias.name else f":{alias.name}"
                names[alias.asname] = f"{'.' * node.level}{node.module}{original}"
    return names


def deep_imports(source: str) -> list[str]:
    """What a script imports from inside the package."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("ark_hf.")]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if node.module.startswith("ark_hf."):
                found.append(node.module)
            elif node.module == "ark_hf":
                found += [alias.name for alias in node.names if alias.name not in ark_hf.__all__]
    return found


def test_type_checkers_see_the_names_that_python_sees():
    assert names_for_type_checkers() == ark_hf._EXPORTS
    assert (PACKAGE / "py.typed").is_file()


def test_every_name_is_there_and_shown():
    for name in ark_hf.__all__:
        value = getattr(ark_hf, name)
        assert getattr(value, "__doc__", None), name
        assert not isinstance(value, type(ark_hf)), f"{name} is a module"
    assert set(ark_hf.__all__) <= set(dir(ark_hf))
    with pytest.raises(AttributeError, match="has no attribute 'load_arc'"):
        _ = ark_hf.load_arc


def test_no_module_takes_the_place_of_a_name():
    """Python sets a package's attribute when its module is imported, whatever was to be found there."""
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(ark_hf.__all__)


def test_a_verb_is_a_function_of_the_same_name():
    grouped = {"data", "push", "export"}  # of several functions, or of one that names its format
    own = {"doctor", "completion"}  # of the command itself
    assert set(verbs()) - grouped - own <= set(ark_hf.__all__)
    assert {"build_dataset", "describe_datasets", "push_model", "push_dataset", "export_onnx"} <= set(ark_hf.__all__)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_scripts_use_public_names_alone(path):
    assert not deep_imports(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_documents_use_public_names_alone(path):
    for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        if "{{" not in block and "{%" not in block:  # a template
            assert not deep_imports(block)
        assert not re.findall(r"(?:from|import) ark_hf\.\w+", block)
        for name in re.findall(r"\bark_hf\.(\w+)", block):
            assert name in ark_hf.__all__


def test_a_deep_import_is_found():
    for source in (
        "import ark_hf.labels",
        "from ark_hf.labels import normalise",
        "def f():\n    from ark_hf import labels",
    ):
        assert deep_imports(source)
    assert not deep_imports("import ark_hf\nfrom ark_hf import load_ark, ArkTask as Task")


def test_a_source_tree_that_is_not_installed_has_a_version(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(provenance, "version", missing)
    assert ark_hf.__version__ == "0+unknown"


@pytest.mark.slow  # mypy reads much
def test_types_of_a_users_script(tmp_path):
    names = [name for name in ark_hf.__all__ if name != "__version__"]
    lines = [f"from ark_hf import {name}\nreveal_type({name})" for name in names]
    script = tmp_path / "script.py"
    script.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(REPOSITORY / "pyproject.toml"), str(script)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY / "src")
    revealed = re.findall(r'Revealed type is "(.*)"', result.stdout)
    assert len(revealed) == len(names), result.stdout
    # Our settings leave torch unread, and so what its decorators wrap
    typed = [
        hasattr(getattr(ark_hf, name), "__wrapped__") or kind != "Any"
        for name, kind in zip(names, revealed, strict=True)
    ]
    assert all(typed), result.stdout
