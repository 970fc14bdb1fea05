"""Whether a reader answered a hostile input as it should: it reads it, or it refuses it in words of its own."""

import gc
import logging
import os
import re
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import ark_hf
from ark_hf.data.images.dicom import _silence_pydicom

from . import MARKER

PACKAGE = str(Path(ark_hf.__file__).parent)
CANARY = "canary"  # the file that planted code makes
SECRET = "secret"  # the folder beside a case's own that no reader may open
MAX_MESSAGE = 4000  # characters
MAX_GROWTH = 2**31  # bytes of memory that one input may take
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# What a program does that runs code or reaches the network
FORBIDDEN = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "ctypes.dlopen",
)


@dataclass(frozen=True)
class Case:
    """
    One hostile input.

    Args:
        kind: How it was made, such as "cut" or "bomb".
        read: What has to read it.
        named: What a refusal must name; nothing unless set.
        private: Whether `MARKER` stands in it, and a message must not quote it.
        plain: Whether a message must be free of what terminals take for commands: of settings and models the command
            line takes them out.
    """

    kind: str
    read: Callable[[], Any]
    named: str = ""
    private: bool = True
    plain: bool = True


Make = Callable[[Random, Path], Case]


@dataclass
class Outcome:
    """What became of a case: `answer` is "read", "refused" or "wrong"; of the last `why` tells."""

    kind: str
    answer: str
    why: str = ""
    message: str = ""
    seconds: float = 0.0  # of this process's computing
    bytes: int = 0  # by which memory grew at its height

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(make: Make, seed: str, folder: Path) -> Outcome:
    """Makes the case of a seed in an empty folder and lets it be read."""
    inside = folder / "case"
    inside.mkdir()
    (folder / SECRET).mkdir()
    try:
        case = make(Random(seed), inside)
    except Exception as fault:  # of ours, which must not stop the others
        return Outcome("none", "wrong", f"the case cannot be made: {fault!r}"[:MAX_MESSAGE])
    error: BaseException | None = None
    before = _high_water(reset=True)
    started = resource.getrusage(resource.RUSAGE_SELF)
    with _watched(folder) as seen, _heard() as heard:
        try:
            case.read()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as caught:
            error = caught
    ended = resource.getrusage(resource.RUSAGE_SELF)
    seconds = ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime
    growth = max(_high_water() - before, 0)
    why = next(_faults(case, error, seen, heard, folder, growth), "")
    answer = "wrong" if why else "read" if error is None else "refused"
    message = "" if error is None else f"{type(error).__name__}: {error}"[:MAX_MESSAGE]
    del error
    gc.collect(0)
    return Outcome(case.kind, answer, why, message, round(seconds, 3), growth)


def _faults(
    case: Case, error: BaseException | None, seen: list[str], heard: list[str], folder: Path, growth: int
) -> Iterator[str]:
    if (folder / CANARY).exists():
        yield "code of the input ran"
    if seen:
        yield seen[0]
    if growth > MAX_GROWTH:
        yield f"it took {growth / 2**30:.1f} GiB"
    if case.private and any(MARKER in text for text in heard):
        yield "a log or warning quotes it"
    if error is None:
        return
    text = str(error)
    if "MemoryError" in f"{type(error).__name__} {text}":
        yield "it wants more memory than there may be"
    if type(error) is not ValueError and not type(error).__module__.startswith("ark_hf."):
        yield f"{type(error).__name__} from {_place(error)}: {text[:200]}"
    elif not _place(error).startswith("ark_hf"):
        yield f"words of a library, from {_place(error)}: {text[:200]}"
    if case.private and MARKER in text:
        yield "the message quotes it"
    if case.named and case.named not in text:
        yield f"the message does not name the file: {text[:200]}"
    if case.plain and len(text) > MAX_MESSAGE:
        yield f"the message has {len(text):,} characters"
    if case.plain and CONTROL.search(text):
        yield f"the message holds control characters: {text[:200]!r}"


def _place(error: BaseException) -> str:
    """Where it was raised, such as "ark_hf/weights.py"; of a library its own path from where packages lie."""
    frames = traceback.extract_tb(error.__traceback__)
    path = frames[-1].filename if frames else "?"
    if path.startswith(PACKAGE):
        return f"ark_hf{path.removeprefix(PACKAGE)}:{frames[-1].lineno}"
    return f"{path.rpartition('site-packages/')[2]}:{frames[-1].lineno if frames else 0}"


def _high_water(reset: bool = False) -> int:
    """The most memory this process held, since it was last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


_watching: list[tuple[str, list[str]]] = []  # a hook of audit stays for ever: this tells it what to look for


def _hook(event: str, arguments: tuple) -> None:
    if not _watching:
        return
    secret, seen = _watching[-1]
    if event.startswith(FORBIDDEN):
        seen.append(f"it does {event}")
    elif event == "open" and isinstance(arguments[0], str | bytes):
        if os.fsdecode(os.path.realpath(arguments[0])).startswith(secret):
            seen.append("it opens a file outside of its folder")


@contextmanager
def _watched(folder: Path) -> Iterator[list[str]]:
    """Everything forbidden that the interpreter does inside."""
    if _hook not in _hooked:
        sys.addaudithook(_hook)
        _hooked.append(_hook)
    seen: list[str] = []
    _watching.append((f"{os.path.realpath(folder)}/{SECRET}", seen))
    try:
        yield seen
    finally:
        _watching.pop()


_hooked: list[Callable] = []


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]):
        super().__init__(logging.WARNING)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@contextmanager
def _heard() -> Iterator[list[str]]:
    """All warnings and log lines inside."""
    heard: list[str] = []
    listener = _Listener(heard)
    logging.getLogger().addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _silence_pydicom.__wrapped__()  # as the package does, once
            yield heard
        heard += [str(each.message) for each in caught]
    finally:
        logging.getLogger().removeHandler(listener)
