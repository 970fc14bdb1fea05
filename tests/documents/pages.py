"""
What a page tells a reader to do, in its order: files to write, commands, and blocks of Python.

A block of YAML whose first line names a file (`# recipe.yaml`) is that file. Commands are the lines of blocks of bash.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

PLACE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w-]+\.ya?ml)")
PROGRAMS = ("ark-hf", "accelerate", "python", "pip")


@dataclass(frozen=True)
class Command:
    text: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    name: str
    text: str


@dataclass(frozen=True)
class Python:
    source: str


Step = Command | Written | Python


def steps(page: Path) -> list[Step]:
    found: list[Step] = []
    for match in PLACE.finditer(page.read_text(encoding="utf-8")):
        language, block = match.groups()
        if language == "bash":
            found += commands(block)
        elif language == "python":
            found.append(Python(block))
        elif language == "yaml" and (file := FILE.match(block)):
            found.append(Written(file[1], block))
    return found


def commands(text: str) -> list[Command]:
    lines = text.replace("\\\n", " ").splitlines()
    words = [(line, tuple(shlex.split(line, comments=True))) for line in lines]
    return [Command(line.partition("  #")[0].strip(), found) for line, found in words if found]


def left_out(page: Path) -> dict[str, str]:
    """How the commands begin that are not run, each with the reason: the first table of docs/not-run.md."""
    table = page.read_text(encoding="utf-8").partition("## Not built yet")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", table, re.MULTILINE))
