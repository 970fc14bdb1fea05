"""Files with odd names, and the ways in which a path can be no plain file."""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from .judging import SECRET, Case

STEM = "zz7"  # what a refusal of a file must say
# Before the stem: a name may be anything but "/" and NUL
ODD = [
    "",
    " ",
    "-",
    "--out=",
    "é",
    "\u202e",
    "a\nb",
    "\x1b[2J",
    "\x9b31m",
    "%s{0}",
    "$(touch canary)",
    "𝔘" * 20,
    "\udcfc",
    "x" * 180,
    "..",
    "~",
]


def odd_path(rng: Random, folder: Path, suffix: str) -> Path:
    """A path in the folder, one in four with an odd name."""
    odd = rng.choice(ODD) if rng.random() < 0.25 else ""
    return folder / f"{odd}{STEM}{suffix}"


def written(rng: Random, folder: Path, suffix: str, content: bytes) -> Path:
    """The content in a file; sometimes seen through a link."""
    path = odd_path(rng, folder, suffix)
    path.write_bytes(content)
    if rng.random() < 0.03:
        link = path.with_name(f"link{path.name}"[-200:])
        link.symlink_to(path.name)
        return link
    return path


def no_file(rng: Random, folder: Path, suffix: str, read: Callable[[Path], Any], plain: bool = True) -> Case:
    """A path that is a folder, a pipe, a link to itself or to nothing, empty or not there."""
    path = odd_path(rng, folder, suffix)
    kind = rng.choice(("folder", "pipe", "loop", "dangling", "empty", "absent", "device", "unreadable"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("loop", "dangling", "device"):
        path.symlink_to({"loop": path.name, "dangling": "nothing", "device": "/dev/zero"}[kind])
    elif kind != "absent":
        path.write_bytes(b"")
    return Case(kind, lambda: read(path), STEM, plain=plain)


def plant_secret(folder: Path, name: str, content: bytes) -> str:
    """A file outside of the case's folder, and the way to it from there."""
    (folder.parent / SECRET / name).write_bytes(content)
    return f"../{SECRET}/{name}"
