"""What the verbs of `ark-hf` share: options from dataclasses, checks, and silence of the libraries' own bars."""

import argparse
import sys
from typing import Any, TypeVar

from transformers import HfArgumentParser

Arguments = TypeVar("Arguments")


def parse(
    kind: type[Arguments], verb: str, argv: list[str], description: str, **positionals: dict[str, Any]
) -> tuple[Arguments, argparse.Namespace]:
    """The verb's options as its dataclass, and its positional arguments."""
    parser = make_parser(kind, verb, description, positionals)
    namespace = parser.parse_args(argv)
    options = {name: value for name, value in vars(namespace).items() if name not in positionals}
    return kind(**options), namespace


def make_parser(kind: type, verb: str, description: str, positionals: dict[str, dict[str, Any]]) -> HfArgumentParser:
    parser = _Parser(kind, prog=f"ark-hf {verb}", description=description)
    for action in parser._actions:
        if action.nargs == "?":
            action.metavar = "true|false"
    for name, settings in positionals.items():
        parser.add_argument(name, **settings)
    return parser


class _Parser(HfArgumentParser):
    """A boolean option alone is true, and takes `true` or `false` if that follows: nothing else, such as a path."""

    def parse_known_args(self, args=None, namespace=None):
        booleans = {name for name, action in self._option_string_actions.items() if action.nargs == "?"}
        words: list[str] = []
        for word in map(self._in_full, sys.argv[1:] if args is None else args):
            if words and words[-1] in booleans and word.lower() in ("true", "false"):
                words[-1] += f"={word}"
            else:
                words.append(word)
        return super().parse_known_args([f"{word}=true" if word in booleans else word for word in words], namespace)

    def _in_full(self, word: str) -> str:
        """An abbreviated option, as argparse allows it, in full."""
        options = self._option_string_actions
        named = [name for name in options if name.startswith(word)]
        unique = word.startswith("--") and len({options[name].dest for name in named}) == 1
        return named[0] if unique and word not in options else word


def check_at_least(lowest: int, **options: int) -> None:
    for name, value in options.items():
        if value < lowest:
            raise ValueError(f"--{name} must be at least {lowest}, got {value}.")


def quiet() -> None:
    """
    What a verb does before its work: registers Ark, so that the code is saved beside the weights, and silences the
    libraries' own progress bars (loading, saving, converting), which would drown ours.
    """
    import datasets
    from transformers.utils import logging

    from .. import auto  # noqa: F401

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
