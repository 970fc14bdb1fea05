"""The verb `pretrain`: pretraining from a recipe, by the method that it names."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from ..training.ark.recipe import parse_tasks
from ..training.genesis.arguments import INIT
from ..training.recipe import METHODS, arguments_of, other_method, read_recipe
from ..training.settings import check_init, read_mapping
from .arguments import build, quiet, read_options

DESCRIPTIONS = {
    "ark": "Cyclic pretraining, or a baseline of it (`strategy`); `method: peac` in the recipe, or `--method peac`, "
    "trains without labels and has other options: see `ark-hf pretrain --method peac --help`; as does "
    "`method: genesis`, on volumes.",
    "peac": "Self-supervised pretraining by PEAC: order, restoration and consistency of two crops; labels of the "
    "datasets are not read.",
    "genesis": "Self-supervised pretraining by Models Genesis on volumes: deformed cubes of CT or MR are restored; "
    "labels of the datasets are not read.",
}
INITS = {"genesis": INIT}  # what `init` may be, where it is not as of Ark


def pretrain(argv: list[str]) -> int:
    """Pretraining from a recipe: Ark's cycles over labelled tasks; without labels PEAC, or on volumes Genesis."""
    method, where = _method(argv)
    kind = arguments_of(method, where)
    _reject_others(argv, method)
    given, words = read_options(
        kind,
        "pretrain",
        argv,
        f"{DESCRIPTIONS[method]} Options given here replace the recipe's.",
        recipe={"help": "YAML or JSON file of the options below and a list `tasks`."},
    )
    values = read_recipe(words.recipe, method) | given
    specs = parse_tasks(values.pop("tasks", None), words.recipe)
    args = build(kind, values, words.recipe)
    if not Path(args.output_dir).exists():  # a run that is resumed may need it no more
        check_init(args.init, *filter(None, [INITS.get(method)]))
    for spec in specs:
        spec.location(args.data_root)
    quiet()
    from accelerate import PartialState

    from ..training.pretrain import pretrain as run

    folder = run(args, specs)
    PartialState().print(f"The {'network' if method == 'genesis' else 'teacher'} is in {folder}.")
    return 0


def _method(argv: list[str]) -> tuple[Any, str]:
    """
    The method, and where it stands: `--method`, whose last counts, or else the recipe; Ark where neither says, or the
    recipe is still to be found wrong.
    """
    given, recipe = None, None
    for before, word, after in zip(["", *argv], argv, [*argv[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if len(name) > len("--m") and "--method".startswith(name):
            given = value if equals else after
        elif recipe is None and not word.startswith("-") and not _takes_value(before) and Path(word).is_file():
            recipe = word
    if given is not None:
        return given, "--method"
    return ("ark" if recipe is None else read_mapping(recipe).get("method", "ark")), f"{recipe}: method"


def _takes_value(word: str) -> bool:
    """Whether it is an option whose value is the next word: a boolean one takes no file."""
    name = word.lstrip("-").replace("-", "_")
    flags = [each.name for kind in METHODS.values() for each in fields(kind) if each.type is bool]
    return word.startswith("-") and "=" not in word and not any(flag.startswith(name) for flag in flags)


def _reject_others(argv: list[str], method: str) -> None:
    """Raises `ValueError` if an option is one of another method."""
    for word in argv:
        option = word.partition("=")[0]
        if option.startswith("--") and (other := other_method(option[2:].replace("-", "_"), METHODS[method])):
            raise ValueError(f"unknown option `{option}` of method: {method}; it is one of method: {other}.")
