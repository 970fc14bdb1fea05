"""Reads `report.json` back: the results that a model's card is filled from."""

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any

from ...files import read_json
from .mask_report import MaskReport
from .task_report import TaskReport

# What `report.json` says of itself. A new field has a default, which it has in the reports that lack it. The version
# rises only when what read the one before would read the new one wrongly.
KIND, MASK_KIND, VERSION = "evaluation", "segmentation", 1


def read_report(path: Path, kind: str = KIND) -> tuple[dict[str, Any], list[Any]]:
    """
    Args:
        path: A `report.json` of [`write_report`] or [`write_mask_report`], or its folder.
        kind: Which of the two, `KIND` or `MASK_KIND`.

    Returns:
        What stands at its top (`model`, `weights_sha256`, ...), and a [`TaskReport`] or [`MaskReport`] a task.

    Raises:
        ValueError: There is no such file, or it is something else, or of a later version of ark-hf.
    """
    file = path / "report.json" if path.is_dir() else path
    each = TaskReport if kind == KIND else MaskReport
    try:
        values = read_json(file)
        found, version = values.get("kind", KIND), values.get("version", 0)  # the first reports have neither
        if found == kind and version <= VERSION:
            reports = [_restore(each, task) for task in values.pop("tasks")]
            return values, reports
    except FileNotFoundError:
        raise ValueError(f"{file} does not exist; `ark-hf evaluate ... --out FOLDER` writes it.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is not a report of this version ({type(error).__name__}: {error}); evaluate again."
        ) from None
    if found != kind:
        raise ValueError(f"{file} is a report of the kind {found!r}, not {kind!r}; `ark-hf evaluate` writes that.")
    raise ValueError(f"{file} is of a later version of ark-hf: update ark-hf, or evaluate again.")


def _restore(kind: Any, value: Any) -> Any:
    """A JSON value as the annotated type has it, its known fields alone; null is NaN where that is a float."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints, names = typing.get_type_hints(kind), [field.name for field in dataclasses.fields(kind)]
        return kind(**{name: _restore(hints[name], value[name]) for name in names if name in value})
    if kind is float:
        return math.nan if value is None else float(value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _restore(arguments[0], value)
    if origin is list:
        return [_restore(arguments[0], each) for each in value]
    if origin is dict:
        return {key: _restore(arguments[1], each) for key, each in value.items()}
    if origin is tuple:
        return tuple(_restore(arguments[0], each) for each in value)
    return value
