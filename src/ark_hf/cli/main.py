"""The `ark-hf` command. A verb is a file of this folder with a function of its name; this one finds it."""

import importlib
import inspect
import pkgutil
import signal
import sys
import warnings
from collections.abc import Callable

from ..files import printable
from ..provenance import package_version
from ..signals import ended_by_signals
from .arguments import choose

ABOUT = "Ark, an open foundation model for chest radiographs. Research use only. `ark-hf --version` names the version."
MAX_MESSAGE = 4000  # characters; a value in it may be a file's whole content
NOT_VERBS = ("__main__", "arguments", "data_arguments", "main")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    program = "ark-hf"
    usual, warnings.formatwarning = (
        warnings.formatwarning,
        lambda message, *_: f"Warning: {_printable_lines(message)}\n",
    )
    try:
        if argv[:1] == ["--version"]:
            print(program, package_version())
            return 0
        verb = argv[0] if argv[:1] and argv[0] in verbs() else choose(program, "verb", ABOUT, _summaries(), argv)
        if verb is None:
            return 0
        program = f"ark-hf {verb}"
        with ended_by_signals(f"{program} is stopped.", (signal.SIGTERM,)):
            return _function(verb)(argv[1:])
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"{program}: error: {_printable_lines(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program} is stopped.", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        warnings.formatwarning = usual


def _printable_lines(message: object) -> str:
    """A message whose lines do nothing to a terminal: names and values of others' files may stand in it."""
    text = "\n".join(map(printable, str(message).splitlines()))
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}... ({len(text):,} characters)"


def verbs() -> list[str]:
    """Names of the verbs that there are."""
    modules = pkgutil.iter_modules(importlib.import_module(__package__).__path__)
    return [module.name for module in modules if module.name not in NOT_VERBS]


def _function(verb: str) -> Callable[[list[str]], int]:
    return getattr(importlib.import_module(f".{verb}", __package__), verb)


def _summaries() -> dict[str, str]:
    return {verb: inspect.getdoc(_function(verb)) or "" for verb in verbs()}
