"""What `ark-hf doctor` says of an installation that is whole, and of broken ones."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

import ark_hf.installation
from ark_hf.cli.main import main
from ark_hf.installation import MODULES, machine, parts, to_install
from tests.conftest import REPOSITORY


@pytest.fixture
def requirements(monkeypatch):
    """Makes the package require these lines alone."""
    return lambda *lines: monkeypatch.setattr(ark_hf.installation, "requires", lambda name: list(lines))


def test_what_the_core_requires_is_found_and_loads():
    found = {part.requirement.name: part for part in parts() if part.extra is None}
    assert {"torch", "transformers", "pillow", *MODULES} <= found.keys()
    assert not [part for part in found.values() if part.fault or part.version is None]


def test_extras_are_told_apart_and_those_of_others_left_out(requirements):
    requirements(
        "numpy>=1",
        'nowhere-to-be-had>=1; extra == "lora"',
        'ark-hf[lora]; extra == "demo"',
        'nowhere-to-be-had>=1; extra == "dev"',
        'numpy>=1; python_version > "3" and extra == "volumes"',
    )
    found = [(part.requirement.name, part.extra, part.fault) for part in parts()]
    assert found == [("numpy", None, None), ("nowhere-to-be-had", "lora", "missing"), ("numpy", "volumes", None)]


def test_what_is_wrong_is_named_with_the_remedy(requirements, monkeypatch, tmp_path, capsys):
    (tmp_path / "brokenlib.py").write_text("raise RuntimeError('undefined symbol\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODULES, "pydicom", "brokenlib")
    requirements("numpy>=99", "pydicom>=2", "nowhere-to-be-had>=1", 'nor-this>=2; extra == "serve"')
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"numpy +\S+ >=99 is needed", printed)
    assert re.search(r"pydicom +\S+ cannot be loaded: RuntimeError: undefined symbol\n", printed)
    assert re.search(r"nowhere-to-be-had +missing", printed) and re.search(r"serve +not there \(nor-this\)", printed)
    assert "3 of the core wrong. Try: pip install --force-reinstall " in printed
    assert 'For all extras: pip install "ark-hf[serve]"' in printed


def test_a_missing_extra_is_no_fault(requirements, capsys):
    requirements("numpy>=1", 'nor-this>=2; extra == "serve"', 'this>=1; extra == "lora"')
    assert main(["doctor"]) == 0
    assert 'For all extras: pip install "ark-hf[lora,serve]"\n\nNothing is wrong.\n' in capsys.readouterr().out


def test_a_source_tree_that_is_not_installed_says_so(monkeypatch, capsys):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(ark_hf.installation, "requires", missing)
    assert main(["doctor"]) == 1 and "pip install ." in capsys.readouterr().out


def test_the_machine_is_told_even_where_torch_is_broken(monkeypatch):
    assert {"cores", "bfloat16 on the CPU", "accelerators"} <= machine().keys()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert {"cores", "system"} <= machine().keys() and "accelerators" not in machine()


def test_nothing_to_install_is_no_command():
    assert to_install([]) is None


def test_the_doctor_comes_where_no_library_is(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'src')!r}); sys.argv = ['ark-hf']\n"
    code += "from ark_hf.cli.main import main; sys.exit(main(['doctor']))"
    bare = [sys.executable, "-I", "-S", "-c", code]
    result = subprocess.run(bare, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1 and "packaging is missing" in result.stdout and not result.stderr
