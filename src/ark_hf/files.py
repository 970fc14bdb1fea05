"""Writing files and folders whole or not at all: under a temporary name first, then renamed; names as text."""

import errno
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

_COMMANDS = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """
    Lets `write` fill a new folder, then puts it in the place of `target`. Killed at any moment, it leaves the old
    folder or the new one, at the latest when it is called again.
    """
    target = target.resolve()  # "." has no name
    new, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        write(new)
        make_readable(new)
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def make_readable(folder: Path) -> None:
    """
    Gives the files below a folder the rights that the umask asks for, as the folder has them: safetensors writes files
    that nobody else may read.
    """
    rights = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o777 | rights)


def check_new_folder(output_dir: Path, option: str = "folder") -> None:
    """Raises `ValueError` if the folder, which `option` names, cannot be made without losing something."""
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} exists and is not empty; delete it or choose another {option}.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    A new file's path, to be written inside: it then takes the place of `path`, whole.

    Its name is one that no other process uses. If the block raises, or deletes the file or never writes it, what is at
    `path` stays and nothing else is left; killed, it leaves a hidden file that ends with `.new`.
    """
    new = path.with_name(f".{path.name}.{uuid4().hex}.new")
    try:
        yield new
        if new.exists():
            new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def printable(name: object) -> str:
    r"""
    A name as text that every file and terminal takes: what is no UTF-8 in it, as in names from old archives, becomes
    `\xfc`; so do line ends, what terminals take for commands, and marks that turn the direction of reading, by which
    one name looks like another. Other names stay as they are.
    """
    escaped = re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", str(name))
    escaped = _COMMANDS.sub(lambda character: character[0].encode("unicode_escape").decode(), escaped)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, see [`replacing`]."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """
    What a JSON file says.

    Raises:
        ValueError: It is no JSON in UTF-8, is nested too deep, or holds a number of thousands of digits; the message
            names it and quotes nothing.
        OSError: It cannot be read.
    """
    if not Path(path).is_file():  # a pipe or a device would be read for ever
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        place = f": line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{path} is not JSON{place}.") from None


def write_json(path: Path, values: Any) -> None:
    """Writes JSON; NaN and infinities, which JSON lacks, become null."""
    write_text(path, json.dumps(_finite(values), indent=1, allow_nan=False) + "\n")


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
