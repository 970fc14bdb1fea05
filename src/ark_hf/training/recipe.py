"""Recipes of pretraining: which method a file asks for, and its settings; no torch is loaded."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from .ark.recipe import PretrainingArguments
from .genesis.arguments import GenesisArguments
from .peac.arguments import PeacArguments
from .settings import nearest, read_mapping, reject_unknown_keys

Arguments = PretrainingArguments | PeacArguments | GenesisArguments
METHODS: dict[str, type[Arguments]] = {
    "ark": PretrainingArguments,
    "peac": PeacArguments,
    "genesis": GenesisArguments,
}


def read_recipe(path: str | Path, method: str | None = None) -> dict[str, Any]:
    """
    The fields of a YAML or JSON recipe, `tasks` among them: those of [`PretrainingArguments`], or with `method: peac`
    of [`PeacArguments`], with `method: genesis` of [`GenesisArguments`].

    Args:
        method: What it is read as, whatever it says itself.

    Raises:
        ValueError: The file is missing or not a mapping, or a key is unknown; the message names the nearest right key.
    """
    values = read_mapping(path)
    method = method or values.get("method", "ark")
    kind = arguments_of(method, f"{path}: method")
    for key in values:
        if other := other_method(key, kind):
            raise ValueError(f"{path}: unknown key `{key}` of method: {method}; it is one of method: {other}.")
    reject_unknown_keys(values, [each.name for each in fields(kind)] + ["tasks"], str(path))
    return values


def arguments_of(method: Any, where: str) -> type[Arguments]:
    """The settings of a method; `ValueError` if there is none of this name, as `where` says."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"{where} is {method!r}; {nearest(str(method), METHODS)}")
    return METHODS[method]


def other_method(name: Any, kind: type) -> str | None:
    """The methods that have a setting of this name, which those of `kind` lack; None if there is none."""
    having = [method for method, each in METHODS.items() if name in (setting.name for setting in fields(each))]
    return None if kind in [METHODS[method] for method in having] else ", ".join(having) or None
