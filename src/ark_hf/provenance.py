"""Where a model comes from: a JSON file beside its weights, from which its card is written."""

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.utils.sha import sha_fileobj

from .files import write_json

PROVENANCE_FILE, WEIGHTS_FILE = "provenance.json", "model.safetensors"


def shown_name(name_or_path: str | Path) -> str:
    """A Hub id or another name as it is, of a file or folder its own name: reports tell nothing of the machine."""
    path = Path(name_or_path)
    if path.exists():
        return path.resolve().name
    return path.name if path.is_absolute() or len(path.parts) > 2 else str(name_or_path)


def write_provenance(
    folder: Path, kind: Literal["pretraining", "fine-tuning", "conversion"], facts: Mapping[str, Any]
) -> None:
    """
    Writes `provenance.json` into a model's folder.

    Args:
        folder: Of the model.
        kind: How the weights came about.
        facts: What else is known, ready for JSON and free of paths: of a training `settings`, `start` (what it started
            from), `data` (see [`describe_dataset`]), `compute` (see [`compute_facts`]) and what was measured in
            training; of a conversion `source` and `summary`.
    """
    versions = {name: version(name) for name in ("ark-hf", "torch", "transformers", "timm")}
    write_json(folder / PROVENANCE_FILE, {"kind": kind, **facts, "versions": versions})


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What [`write_provenance`] wrote, None if there is no file. Raises `ValueError` if it is damaged."""
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); save the model again, or delete the file.") from None
    if not isinstance(values, dict) or "kind" not in values:
        raise ValueError(f"{path} is not what training or conversion wrote; delete it.")
    return values


def compute_facts(seconds: float, num_processes: int = 1, precision: str = "no") -> dict[str, Any]:
    """
    What a training took, for the card.

    Args:
        seconds: Time spent in it, all sittings of a resumed run together.
        num_processes: Processes, each with a device of its own.
        precision: "no" (float32), "bf16" or "fp16".
    """
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    return {"device": device, "num_processes": num_processes, "precision": precision, "seconds": round(seconds, 1)}


def weights_sha256(name_or_path: str) -> str | None:
    """
    The sha256 of a model's `model.safetensors`, by which a report knows the weights that it is about.

    None if the model has no such file, or in several parts.

    Args:
        name_or_path: Folder or Hub id of the model.
    """
    from transformers.utils import cached_file

    path = cached_file(
        name_or_path,
        WEIGHTS_FILE,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return None
    with open(path, "rb") as file:
        return sha_fileobj(file).hex()
