"""What is released: an sdist and the wheel of it, which works where its dependencies are and this tree is not."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from ark_hf.cli.main import verbs
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "src" / "ark_hf"
UV = (sys.executable, "-m", "uv")
ADDRESS = "https://host.example/someone/ark-hf"  # ours has none yet
DEMO = """
import sys
from pathlib import Path
import ark_hf, torch
assert Path(ark_hf.__file__).is_relative_to(sys.prefix), ark_hf.__file__
assert not Path(torch.__file__).is_relative_to(sys.prefix)
counts = {"train": 16, "validation": 8, "test": 8}
ark_hf.build_phantom_sites(Path("demo/phantom"), counts, size=40)
reports = ark_hf.train_demo(Path("demo"), cycles=1, image_size=32)
assert len(reports) == 4
site = ark_hf.PHANTOM_SITES["phantom_city"]
ark_hf.draw_phantom_image(site, "test", 0, size=64)["image"].save("chest.png")
"""
HELP = """
import sys; sys.argv = ["ark-hf"]
from ark_hf.cli.main import main, verbs
for verb in verbs():
    try:
        main([verb, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
"""


def run(*command: str, **settings) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run(command, capture_output=True, text=True, env=clean, **settings)
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made of it, of a copy of the tree that has an address."""
    root = tmp_path_factory.mktemp("distribution")
    tree = root / "tree"
    shutil.copytree(REPOSITORY / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(REPOSITORY / "tools", tree / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for path in REPOSITORY.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    settings = (tree / "setup.cfg").read_text()
    (tree / "setup.cfg").write_text(settings.replace("[metadata]\n", f"[metadata]\nurl = {ADDRESS}\n"))
    run(*UV, "build", "--quiet", "--out-dir", str(root / "dist"), str(tree))
    (sdist,), (wheel,) = (root / "dist").glob("*.tar.gz"), (root / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """The programs of a new environment with the wheel alone, which sees what this one has but for ark-hf."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run(*UV, "venv", "--quiet", "--python", sys.executable, str(folder))
    seen = [path for path in dict.fromkeys([sysconfig.get_path("purelib"), *sys.path]) if path.endswith("-packages")]
    (place,) = folder.glob("lib/python*/site-packages")
    (place / "seen.pth").write_text("\n".join(seen) + "\n")
    run(*UV, "pip", "install", "--quiet", "--no-deps", "--python", str(folder / "bin/python"), str(built[1]))
    return folder / "bin"


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.slow_ci
def test_every_file_of_the_package_is_in_the_wheel_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    there = {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*") if path.is_file()}
    assert packed == {name for name in there if "__pycache__" not in name}
    with tarfile.open(built[0]) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    assert source >= {"LICENSE", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "setup.py"}
    assert not any(name.startswith("tests") for name in source)


@pytest.mark.slow_ci
def test_an_index_shows_links_that_work(built):
    told = metadata(built[1])
    text = re.sub(r"^```.*?^```", "", told.get_payload(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^()\s]+)\)", text)
    assert all(target.startswith(("https://", "#")) for target in targets)
    for target in targets:
        if target.startswith(ADDRESS):
            place = re.fullmatch(rf"{ADDRESS}/(?:blob|raw)/main/([^#]+)(?:#.*)?", target)
            assert place and (REPOSITORY / place[1]).exists(), target
    urls = dict(each.split(", ", 1) for each in told.get_all("Project-URL"))
    assert urls["Changelog"] == f"{ADDRESS}/blob/main/CHANGELOG.md" and told["Keywords"]
    assert told["Description-Content-Type"].startswith("text/markdown")


@pytest.mark.slow_ci
def test_the_wheel_works_where_only_its_dependencies_are(installed, tmp_path):
    python, command = str(installed / "python"), str(installed / "ark-hf")
    assert run(command, "--version", cwd=tmp_path).startswith("ark-hf ")
    shown = run(python, "-c", HELP, cwd=tmp_path)
    assert all(f"usage: ark-hf {verb} " in shown for verb in verbs())
    assert "\nNothing is wrong.\n" in run(command, "doctor", cwd=tmp_path)
    run(python, "-c", DEMO, cwd=tmp_path)
    run(command, "predict", "demo/run/ark-cxr", "chest.png", "--out", "found.csv", cwd=tmp_path)
    assert "phantom_city/Effusion" in (tmp_path / "found.csv").read_text()


def test_what_is_cited_is_this_version_and_the_papers_of_the_cards():
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg")
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["version"] == settings["metadata"]["version"] and cited["license"] == "Apache-2.0"
    cards = yaml.safe_load((PACKAGE / "hub" / "templates" / "model_card.yaml").read_text())["citations"]
    text = "".join(cards.values())
    known = re.findall(r"doi=\{([^}]+)\}", text) + [
        f"arXiv:{each}" for each in re.findall(r"eprint=\{([^}]+)\}", text)
    ]
    told = [each.get("doi") or each["identifiers"][0]["value"] for each in cited["references"]]
    assert sorted(told) == sorted(known)


def test_changes_are_under_the_usual_headings():
    headings = re.findall(r"^### (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert set(headings) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert len(headings) == len(set(headings))  # of the one version that there is
