"""What the verbs of `ark-hf` share: options from dataclasses, checks, and silence of the libraries' own bars."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from ..names import check_name
from ..training.settings import coerce, kind_of, nearest

Arguments = TypeVar("Arguments")


def parse(
    kind: type[Arguments], verb: str, argv: list[str], description: str, **positionals: dict[str, Any]
) -> tuple[Arguments, argparse.Namespace]:
    """The verb's options as its dataclass, and its positional arguments."""
    given, words = read_options(kind, verb, argv, description, **positionals)
    return build(kind, given), words


def read_options(
    kind: type, verb: str, argv: list[str], description: str, **positionals: dict[str, Any]
) -> tuple[dict[str, Any], argparse.Namespace]:
    """The options that are given, as values of the dataclass's fields, and the positional arguments."""
    words = _make_parser(kind, verb, description, positionals).parse_args(argv)
    given = {
        name: _value(f"--{name}", annotation, vars(words)[name])
        for name, annotation in get_type_hints(kind).items()
        if name in vars(words)
    }
    return given, words


def build(kind: type[Arguments], values: Mapping[str, Any], recipe: str | None = None) -> Arguments:
    """The dataclass of these values; `ValueError` if one is missing that has no default."""
    for each in fields(kind):  # type: ignore[arg-type]
        if _is_required(each) and each.name not in values:
            if recipe is None:
                raise ValueError(f"--{each.name} is missing.")
            raise ValueError(f"{recipe} lacks `{each.name}`; set it there or pass --{each.name}.")
    return kind(**values)


def choose(prog: str, what: str, description: str, choices: Mapping[str, str], argv: list[str]) -> str | None:
    """The one of the choices, each with what it does, that the first word names; None if help was asked for."""
    width = max(map(len, choices))
    listed = "\n".join(f"  {name:{width}}  {text}" for name, text in choices.items())
    parser = _Parser(
        prog=prog,
        usage=f"{prog} {what.upper()} ...",
        description=description,
        epilog=f"{what}s:\n{listed}\n\n`{prog} {what.upper()} --help` explains it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if not argv:
        parser.print_help()
        return None
    if argv[0].startswith("-"):
        parser.parse_args(argv[:1])
    if argv[0] not in choices:
        raise ValueError(f"unknown {what} `{argv[0]}`; {nearest(argv[0], choices)}")
    return argv[0]


def _make_parser(kind: type, verb: str, description: str, positionals: dict[str, dict[str, Any]]) -> "_Parser":
    prog = f"ark-hf {verb}"
    words = [
        settings.get("metavar", name.upper()) + (" ..." if settings.get("nargs") == "+" else "")
        for name, settings in positionals.items()
    ]
    if "recipe" not in positionals:  # which may hold the required ones, too
        words += [f"--{each.name} {each.name.upper()}" for each in fields(kind) if _is_required(each)]
    parser = _Parser(prog=prog, usage=" ".join([prog, *words, "[--option value ...]"]), description=description)
    for name, settings in positionals.items():
        parser.add_argument(name, **{"metavar": name.upper(), **settings})
    hints = get_type_hints(kind)
    for each in fields(kind):
        if not each.init:  # it follows from others
            continue
        text = f"{each.metadata['help']} ({_default(each)})"
        parser.add_argument(f"--{each.name}", help=text.replace("%", "%%"), **_form(hints[each.name]))
    return parser


def _is_required(each: Field) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _default(each: Field) -> str:
    if _is_required(each):
        return "required"
    value = each.default if each.default_factory is MISSING else each.default_factory()
    if value is None or isinstance(value, bool):
        return f"default: {'null' if value is None else str(value).lower()}"
    return f"default: {' '.join(map(str, value)) or 'empty' if isinstance(value, list) else value}"


def _form(annotation: Any) -> dict[str, Any]:
    """How the help shows an option's value, and how many words it takes."""
    kind, may_be_none = kind_of(annotation)
    if kind is bool:
        return {"nargs": "?", "metavar": "true|false"}
    if get_origin(kind) is list:
        return {"nargs": "+"}
    if get_origin(kind) is Literal:
        return {"metavar": f"{{{','.join([*get_args(kind), *(['null'] if may_be_none else [])])}}}"}
    return {}


def _value(name: str, annotation: Any, words: str | list[str]) -> Any:
    """What stands on the command line as the field's type."""
    kind, may_be_none = kind_of(annotation)
    if isinstance(words, list):
        return [_value(name, get_args(kind)[0], word) for word in words]
    if may_be_none and words == "null":
        return None
    value: Any = words
    if kind is bool:
        value = {"true": True, "false": False}.get(words.lower(), words)
    elif kind is int:
        try:
            value = int(words)
        except ValueError:
            pass
    return coerce(name, annotation, value)


class _Parser(argparse.ArgumentParser):
    """
    A boolean option alone is true, and takes `true` or `false` if that follows: nothing else, such as a path. Options
    may be abbreviated, and have dashes for underscores. What is not given has no value. Mistakes are `ValueError`s.
    """

    def __init__(self, **settings: Any):
        super().__init__(argument_default=argparse.SUPPRESS, allow_abbrev=False, **settings)

    def parse_args(self, args, namespace=None):  # type: ignore[override]
        flags = {name for name, action in self._option_string_actions.items() if action.nargs == "?"}
        words: list[str] = []
        for word in map(self._in_full, args):
            if words and words[-1] in flags and word.lower() in ("true", "false"):
                words[-1] += f"={word}"
            else:
                words.append(word)
        return super().parse_args([f"{word}=true" if word in flags else word for word in words], namespace)

    def _in_full(self, word: str) -> str:
        name, separator, value = word.partition("=")
        if not name.startswith("--") or len(name) == 2:
            return word
        options = [option for option in self._option_string_actions if option.startswith("--")]
        name = name.replace("_", "-")
        meant = [option for option in options if option.replace("_", "-").startswith(name)]
        exact = [option for option in meant if option.replace("_", "-") == name]
        if len(exact or meant) != 1:
            hint = f"it may be {' or '.join(meant)}." if meant else nearest(word.partition("=")[0], options)
            raise ValueError(f"unknown option `{word.partition('=')[0]}`; {hint}")
        return f"{(exact or meant)[0]}{separator}{value}"

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; `{self.prog} --help` explains it.")


def check_at_least(lowest: int, **options: int) -> None:
    for name, value in options.items():
        if value < lowest:
            raise ValueError(f"--{name} must be at least {lowest}, got {value}.")


def check_names(model: str | None = None, datasets: Iterable[str] = ()) -> None:
    """What a verb does first, before any library is loaded: a mistyped path is answered at once."""
    if model is not None:
        check_name(model, "model")
    for dataset in datasets:
        check_name(dataset if Path(dataset).exists() else dataset.partition("@")[0], "dataset")


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
