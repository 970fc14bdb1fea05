"""What the verbs of `ark-hf` share: options from dataclasses, checks, and silence of the libraries' own bars."""

import argparse
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
    parser = HfArgumentParser(kind, prog=f"ark-hf {verb}", description=description)
    for name, settings in positionals.items():
        parser.add_argument(name, **settings)
    return parser


def check_at_least(lowest: int, **options: int) -> None:
    for name, value in options.items():
        if value < lowest:
            raise ValueError(f"--{name} must be at least {lowest}, got {value}.")


def quiet() -> None:
    """The libraries' own progress bars (loading, saving, converting) would drown ours."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
