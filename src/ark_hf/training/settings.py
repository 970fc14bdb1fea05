"""What a recipe or a command line says, as the fields of a dataclass: one reading for both; no torch is loaded."""

import difflib
import json
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..names import may_be_on_hub, what_is_there

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")

Uncertain = Literal["ignore", "ones", "zeros", "lsr_ones", "lsr_zeros"]
ALLOW_SHARED_HELP = (
    "Train although images or patients that are trained on, now or by the model that training starts from, are held "
    "out too for validation or test. Card and reports then say so."
)


def kind_of(annotation: Any) -> tuple[Any, bool]:
    """A field's type without None, and whether it may be None."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return annotation, False
    (kind,) = [each for each in typing.get_args(annotation) if each is not types.NoneType]
    return kind, True


def coerce(name: str, annotation: Any, value: Any) -> Any:
    """
    A value as the field's type: 1e-3 is a string to YAML, 1 an int where a float is meant, `no` false.

    Raises:
        ValueError: It is none; the message calls it `name` and says what is allowed.
    """
    kind, may_be_none = kind_of(annotation)
    if value is None and may_be_none:
        return None
    arguments, kind = typing.get_args(kind), typing.get_origin(kind) or kind
    if kind is Literal:
        value = "no" if value is False and "no" in arguments else value
        if value not in arguments:
            raise ValueError(f"{name} is {value!r}; use one of {arguments}.")
        return value
    if kind is list:
        if isinstance(value, str | int | float):
            raise ValueError(f"{name} must be a list: write `{name}: [{value}]`.")
        if isinstance(value, list | tuple):
            return [coerce(name, arguments[0], each) for each in value]
    if kind is dict and isinstance(value, str):
        return _json_object(name, value)
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        return _finite(name, value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{name} must be {kind.__name__}, got {value!r}.")


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object, got {text!r}.")
    return value


def _finite(name: str, value: int | float | str) -> float:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} must be float, got {value!r}.") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {value!r}.")
    return number


def coerce_fields(settings: Any, where: str = "") -> None:
    """What the `__post_init__` of settings does first: every field as its type, or a `ValueError` that names it."""
    for name, annotation in typing.get_type_hints(type(settings)).items():
        setattr(settings, name, coerce(f"{where}{name}", annotation, getattr(settings, name)))


def check_init(init: str, what: str = "a weights file, a folder with an ark-cxr, `none` or `imagenet`") -> None:
    """
    Raises `ValueError` if a recipe's `init`, which may be `what`, can be nothing to start from, and names the nearest
    file or folder.
    """
    if init in ("none", "imagenet") or Path(init).exists() or names_ark(init):
        return
    raise ValueError(f"init: {init!r} is not {what}: {what_is_there(init)}")


def names_ark(init: str) -> bool:
    """Whether it is an ark-cxr, in a folder or on the Hub, and not a weights file."""
    return Path(init, "config.json").is_file() or Path(init).suffix not in WEIGHTS_SUFFIXES and may_be_on_hub(init)


def check_projector(dim: int | None, kind: str) -> None:
    """Raises `ValueError` if settings give a kind to a projector that they leave out."""
    if dim is None and kind != "linear":
        raise ValueError(f"projector_dim null leaves the projector out, so projector_type {kind} has no effect.")


def read_settings(path: str | Path, allowed: Sequence[str]) -> dict[str, Any]:
    """
    What a YAML or JSON file maps the names in `allowed` to.

    Raises:
        ValueError: The file is missing or not a mapping, or a key is unknown; the message names the nearest right key.
    """
    values = read_mapping(path)
    reject_unknown_keys(values, allowed, str(path))
    return values


def read_mapping(path: str | Path) -> dict[str, Any]:
    """What a YAML or JSON file maps to what; `ValueError` if it is missing or no mapping, or as of [`read_yaml`]."""
    from ..plain_yaml import read_yaml  # `ark-hf doctor` works where no library is

    values = read_yaml(path, "the recipe")
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} must map settings to values, such as `seed: 10`.")
    return dict(values)


def reject_unknown_keys(values: Mapping, allowed: Sequence[str], where: str) -> None:
    """Raises `ValueError` naming the first unknown key and the nearest allowed one."""
    for key in values:
        if key not in allowed:
            raise ValueError(f"{where}: unknown key `{key}`; {nearest(str(key), allowed)}")


def nearest(word: str, allowed: Iterable[str]) -> str:
    """For the end of a message: the allowed word that a mistyped one was meant to be, or all of them."""
    names = list(allowed)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else f"allowed are {names}."
