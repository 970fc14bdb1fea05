"""Where a model comes from: a JSON file beside its weights, from which its card is written."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import read_json, write_json
from .names import may_be_on_hub

if TYPE_CHECKING:
    import torch

PROVENANCE_FILE, CALIBRATION_FILE, WEIGHTS_FILE = "provenance.json", "calibration.json", "model.safetensors"
STATISTICS_FILE = "training_statistics.safetensors"
# How weights come about, and what a card has to know of it
KINDS = {
    "pretraining": ("cycle",),
    "self-supervision": ("method", "epoch"),
    "fine-tuning": ("head", "train_images", "steps", "best_step", "seed"),
    "conversion": ("source", "summary"),
    "federated": ("rounds", "sites"),
}


def package_version() -> str:
    """That of ark-hf; "0+unknown" of a source tree that is not installed, whose version nobody has noted."""
    try:
        return version("ark-hf")
    except PackageNotFoundError:
        return "0+unknown"


def shown_name(name_or_path: str | Path) -> str:
    """A Hub id or another name as it is, of a file or folder its own name: reports tell nothing of the machine."""
    path = Path(name_or_path)
    if path.exists():
        return path.resolve().name
    return path.name if path.is_absolute() or len(path.parts) > 2 else str(name_or_path)


def write_provenance(folder: Path, kind: str, facts: Mapping[str, Any]) -> None:
    """
    Writes `provenance.json` into a model's folder.

    Args:
        folder: Of the model.
        kind: How the weights came about, one of `KINDS`.
        facts: Ready for JSON and free of paths, at least those that `KINDS` names. Further, of a training: `start`,
            the name of what it started from; `start_provenance`, the same facts of that; `settings`; `data`, of each
            dataset [`training_data_facts`] and `splits`; `compute`, see [`compute_facts`]; `validation`; `best` or
            `last`, see [`read_outcome`]; `seeds`. Of
            a conversion: `method`, where the original was not trained as Ark is ("peac", "genesis").
    """
    versions = {"ark-hf": package_version(), **{name: version(name) for name in ("torch", "transformers", "timm")}}
    write_json(folder / PROVENANCE_FILE, {"kind": kind, **facts, "versions": versions})


def read_provenance(name_or_path: str | Path) -> dict[str, Any] | None:
    """
    What [`write_provenance`] wrote beside a model, in a folder or on the Hub; None if there is nothing.

    Raises:
        ValueError: It is damaged.
    """
    path = file_beside(name_or_path, PROVENANCE_FILE)
    if path is None:
        return None
    try:
        values = read_json(path)
        missing = {"kind", *KINDS[values["kind"]]} - set(values)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what ark-hf wrote ({type(error).__name__}): save the model again.") from None
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}: save the model again.")
    return values


def read_calibrations(name_or_path: str | Path) -> list[dict[str, Any]]:
    """
    What calibrations of a model, in a folder or on the Hub, did, the last one last; empty if there was none.

    Raises:
        ValueError: The record is damaged.
    """
    path = file_beside(name_or_path, CALIBRATION_FILE)
    if path is None:
        return []
    try:
        entries = read_json(path)
    except ValueError:
        entries = None
    if not isinstance(entries, list):
        raise ValueError(f"{path} is not what ark-hf wrote: calibrate the model anew, or delete the file.")
    return entries


def copy_notes(name_or_path: str | Path, folder: Path) -> None:
    """Copies what a model's folder, or its repository, says of its weights: the card and where they come from."""
    for name in ("README.md", PROVENANCE_FILE):
        path = file_beside(name_or_path, name)
        if path is not None:
            shutil.copyfile(path, folder / name)


def compute_facts(
    device: "torch.device", seconds: float | None, num_processes: int = 1, precision: str | None = "no"
) -> dict[str, Any]:
    """
    What a training took, for the card.

    Args:
        device: Of this process.
        seconds: Time spent in it, all sittings of a resumed run together; None if not all were counted.
        num_processes: Processes, each with a device of its own.
        precision: "no" (float32), "bf16" or "fp16".
    """
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return {
        "device": f"{name}, {os.cpu_count()} cores" if device.type == "cpu" else name,
        "num_processes": num_processes,
        "precision": precision or "no",
        "seconds": None if seconds is None else round(seconds, 1),
    }


def weights_sha256(name_or_path: str | Path) -> str | None:
    """
    The sha256 of a model's safetensors files in order, by which a report knows the weights that it is about.

    None if it has no such files; `ValueError` if the list of them is damaged, or leads out of the folder.

    Args:
        name_or_path: Folder or Hub id of the model.
    """
    index = file_beside(name_or_path, f"{WEIGHTS_FILE}.index.json")
    names = [WEIGHTS_FILE]
    if index is not None:
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            names = []
        if not names or any(Path(name).name != name for name in names):  # of another folder, or not of files
            raise ValueError(f"{index} is no list of the files of weights beside it: save the model again.")
    digest = hashlib.sha256()
    for name in names:
        path = file_beside(name_or_path, name)
        if path is None:
            return None
        with open(path, "rb") as file:
            for part in iter(lambda: file.read(2**20), b""):
                digest.update(part)
    return digest.hexdigest()


def file_beside(name_or_path: str | Path, name: str, revision: str | None = None) -> str | None:
    """Path of a model's file, of one on the Hub, in a revision, as it lies in the cache; None if it has none."""
    from transformers.utils import cached_file

    if not name_or_path or not Path(name_or_path).is_dir() and not may_be_on_hub(name_or_path):  # gone, or never saved
        return None
    return cached_file(
        str(name_or_path),
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
