"""Recipes of pretraining: which method a file asks for, and its settings; no torch is loaded."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from .ark.recipe import PretrainingArguments
from .peac.arguments import PeacArguments
from .settings import nearest, read_mapping, reject_unknown_keys

METHODS: dict[str, type[PretrainingArguments] | type[PeacArguments]] = {
    "ark": PretrainingArguments,
    "peac": PeacArguments,
}


def read_recipe(path: str | Path, method: str | None = None) -> dict[str, Any]:
    """
    The fields of a YAML or JSON recipe, `tasks` among them: those of [`PretrainingArguments`], or with `method: peac`
    of [`PeacArguments`].

    Args:
        method: What it is read as, whatever it says itself.

    Raises:
        ValueError: The file is missing or not a mapping, or a key is unknown; the message names the nearest right key.
    """
    values = read_mapping(path)
    kind = arguments_of(method or values.get("method", "ark"), str(path))
    reject_unknown_keys(values, [each.name for each in fields(kind)] + ["tasks"], str(path))
    return values


def arguments_of(method: Any, where: str) -> type[PretrainingArguments] | type[PeacArguments]:
    """The settings of a method; `ValueError` if there is none of this name."""
    if method not in METHODS:
        raise ValueError(f"{where}: method is {method!r}; {nearest(str(method), METHODS)}")
    return METHODS[method]
