"""
What the package rests on: the oldest and the newest set that its bounds allow, a try of either, and all licences.

    python tools/dependencies.py resolve oldest            # prints the set, pinned; so does newest
    python tools/dependencies.py try oldest --venv FOLDER  # installs it into a new environment, and runs tests there
    python tools/dependencies.py licences                  # writes docs/dependencies.md from what is installed

The bounds stand in setup.cfg. Sets are resolved by uv, from wheels alone; a set is about 5 GB, most of it torch.
"""

import argparse
import configparser
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
# Of every dependency something, in some minutes
TRIED = """
    tests/cli/test_main.py tests/cli/test_finetune.py tests/cli/test_predict.py tests/data/images tests/data/volumes
    tests/data/test_streaming.py tests/federated/test_vector.py tests/federated/test_flower_app.py
    tests/inference/test_pipeline.py tests/inference/test_export_onnx.py tests/metrics
    tests/models/ark/test_modeling_ark.py tests/models/ark/test_modeling_ark_segmentation.py
    tests/models/genesis tests/training/ark tests/training/finetune tests/hub/test_push_dataset.py tests/serving
""".split()
TABLE = ROOT / "docs" / "dependencies.md"
HEAD = """# Dependencies

`python tools/dependencies.py licences` wrote this page from the metadata of what was installed. Bounds are those of
setup.cfg: the lower ones are the oldest that were tried (`python tools/dependencies.py try oldest`), the upper ones
the next major version of libraries on whose insides we rely.

Known weaknesses of the newest set are looked up, on a machine that reaches PyPI or OSV, by

    python tools/dependencies.py resolve newest > newest.txt && uvx pip-audit --requirement newest.txt --no-deps

**Copyleft**: pylibjpeg-libjpeg, the decoder of JPEG in DICOM of the extra `dicom`, is under the GPL 3. It is loaded by
pydicom where it is installed, and neither needed nor brought by the rest.

| what | bounds | for | licence |
|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("resolve", "try"):
        action = actions.add_parser(name)
        action.add_argument("end", choices=RESOLUTIONS)
    action.add_argument("--venv", type=Path, required=True, help="new folder of the environment")
    actions.add_parser("licences")
    args = parser.parse_args()
    if args.action == "licences":
        TABLE.write_text(licences())
    elif args.action == "resolve":
        print(resolve(args.end))
    else:
        sys.exit(try_it(args.end, args.venv))


def requirements() -> dict[str, list[Requirement]]:
    """Of the package itself, as `core`, and of each extra that is not made of others alone."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    groups = {"core": settings["options"]["install_requires"], **settings["options.extras_require"]}
    read = {
        group: [Requirement(line) for line in text.split("\n") if line and not line.startswith("ark-hf")]
        for group, text in groups.items()
    }
    return {group: found for group, found in read.items() if found}


def resolve(end: str) -> str:
    """The set, a pinned requirement a line."""
    wanted = "\n".join(str(each) for group in requirements().values() for each in group)
    command = ["uv", "pip", "compile", "-", "--quiet", "--no-build", "--no-header", "--no-annotate"]
    command += ["--resolution", RESOLUTIONS[end], "--python-version", f"{sys.version_info[0]}.{sys.version_info[1]}"]
    return subprocess.run(command, input=wanted, text=True, stdout=subprocess.PIPE, check=True).stdout.strip()


def try_it(end: str, venv: Path) -> int:
    """Exit status of the tests with the set."""
    python = str(venv / "bin" / "python")
    subprocess.run(["uv", "venv", "--python", sys.executable, str(venv)], check=True)
    install = ["uv", "pip", "install", "--python", python]
    subprocess.run([*install, "--requirement", "-"], input=resolve(end), text=True, check=True)
    subprocess.run([*install, "--no-deps", "--editable", str(ROOT)], check=True)
    return subprocess.run([python, "-m", "pytest", "-m", "not slow", *TRIED], cwd=ROOT).returncode


def licences() -> str:
    """The page."""
    groups = requirements()
    direct = {canonicalize_name(each.name) for group in groups.values() for each in group}
    rows = [
        f"| {each.name} | {str(each.specifier) or 'any'} | {group} | {licence(each.name)} |"
        for group, found in groups.items()
        for each in sorted(found, key=lambda each: each.name.lower())
    ]
    brought = sorted(_brought(groups) - direct)
    others = [f"- {name}: {licence(name)}" for name in brought]
    return HEAD + "\n".join([*rows, "\n## What these bring\n", *others]) + "\n"


def licence(name: str) -> str:
    """As the package itself says: its expression, or else its classifiers, or else the first line of its text."""
    about = distribution(name).metadata
    if expression := about.get("License-Expression"):
        return expression
    known = [each.split(" :: ")[-1] for each in about.get_all("Classifier", []) if each.startswith("License ::")]
    return ", ".join(known) or (about.get("License") or "not said").splitlines()[0]


def _brought(groups: dict[str, list[Requirement]]) -> set[str]:
    """Names of all that is installed because of these, development aside."""
    waiting = [each for group, found in groups.items() if group != "dev" for each in found]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            key = (canonicalize_name(wanted.name), extra)
            if key in seen:
                continue
            try:
                needed = distribution(wanted.name).requires or []
            except PackageNotFoundError:  # for another system
                continue
            seen.add(key)
            applies = [Requirement(each) for each in needed]
            waiting += [each for each in applies if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


if __name__ == "__main__":
    main()
