"""Checkpoints of a run: whole, written under a temporary name and renamed, so that a kill never leaves half of one."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..files import make_readable, write_json

PREFIX = "step-"
SETTINGS_FILE = "settings.json"
FILES_FILE = "files.json"
START_FOLDER = "start"
CONTENTS = "data_sha256"  # of the settings: by dataset what its rows hold


def save_checkpoint(
    accelerator: Accelerator,
    folder: Path,
    step: int,
    settings: dict[str, Any],
    keep: int,
    write_start: Callable[[Path], None],
) -> None:
    """
    Saves everything registered with `accelerator` as `folder/step-<step>` and deletes all but the newest `keep`.

    `write_start` writes into its folder `start` what the run needs to be set up again, beside the weights. What is
    saved is on the disk before anything is deleted, and what cannot be written whole leaves nothing behind.
    """
    target = folder / f"{PREFIX}{step:010d}"
    new, old = folder / f".{target.name}.new", _hidden(target)
    if accelerator.is_main_process:
        for begun in folder.glob(f".{PREFIX}*.new"):
            shutil.rmtree(begun)
        new.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(new))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_json(new / SETTINGS_FILE, settings)
            (new / START_FOLDER).mkdir()
            write_start(new / START_FOLDER)
            make_readable(new)
            seal(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if accelerator.is_main_process:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        new.rename(target)
        _sync(folder)
        kept = [each for each in _checkpoints(folder) if _step(each) <= step and each != old][-keep:]
        for stale in _checkpoints(folder):
            if stale not in kept:  # those of later steps are damaged, or the run would have gone on from there
                remove_checkpoint(stale)
    accelerator.wait_for_everyone()


def remove_checkpoint(checkpoint: Path) -> None:
    """Deletes it under another name: what is half deleted is no checkpoint any more."""
    hidden = _hidden(checkpoint)
    if hidden != checkpoint:
        shutil.rmtree(hidden, ignore_errors=True)
        checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def newest_checkpoint(folder: Path) -> Path | None:
    """The last that is whole: see [`is_whole`]."""
    return next((each for each in reversed(_checkpoints(folder)) if is_whole(each, SETTINGS_FILE)), None)


def damaged_checkpoints(folder: Path) -> list[Path]:
    """Those that are newer than the newest whole one."""
    found, newest = _checkpoints(folder), newest_checkpoint(folder)
    return found if newest is None else found[found.index(newest) + 1 :]


def _checkpoints(folder: Path) -> list[Path]:
    """All, the newest last, with those that a killed run was about to delete or to replace."""
    found = [*folder.glob(f"{PREFIX}*"), *folder.glob(f".{PREFIX}*.old")]
    return sorted(found, key=lambda path: (_step(path), path.name))


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(".").removesuffix(".old").removeprefix(PREFIX))


def _hidden(checkpoint: Path) -> Path:
    """What it is called while it is deleted."""
    return checkpoint if checkpoint.name.startswith(".") else checkpoint.with_name(f".{checkpoint.name}.old")


def seal(folder: Path) -> None:
    """Puts a folder's files on the disk, and notes in `files.json` how large each is: see [`is_whole`]."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILES_FILE)
    write_json(folder / FILES_FILE, {str(path.relative_to(folder)): path.stat().st_size for path in files})
    for path in (*files, folder / FILES_FILE, folder):
        _sync(path)


def is_whole(folder: Path, last: str) -> bool:
    """
    Whether a folder that [`seal`] was called for has all its files, each as large as it was.

    Args:
        last: Of a folder of an earlier version, which was not sealed, the file that was written last.
    """
    if not (folder / FILES_FILE).is_file():
        return (folder / last).is_file()
    try:
        sizes = json.loads((folder / FILES_FILE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _sync(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk: a power failure leaves zeros of what is not."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def saved_settings(checkpoint: Path) -> dict[str, Any]:
    """The settings of its run."""
    return json.loads((checkpoint / SETTINGS_FILE).read_text(encoding="utf-8"))


def load_checkpoint(
    accelerator: Accelerator, checkpoint: Path, settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    """
    Restores everything registered with `accelerator`.

    Raises:
        ValueError: As in [`check_settings`], or the checkpoint cannot be read.
    """
    check_settings(saved_settings(checkpoint), settings, defaults, checkpoint.parents[1])
    try:
        accelerator.load_state(str(checkpoint))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # safetensors, torch and pickle raise anything on a damaged file
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{checkpoint} cannot be read ({type(error).__name__}: {reason}). If it is damaged delete it: the same "
            "command then goes on from the one before, or from the start."
        ) from error


def check_settings(
    saved: Mapping[str, Any], settings: Mapping[str, Any], defaults: Mapping[str, Any], folder: Path
) -> None:
    """
    Compares a run's settings with those that it was begun with.

    What an earlier version did not write counts as its default, and as unchanged where there is none.

    Raises:
        ValueError: Some differ; the message names them, and the run's `folder`.
    """
    now, usual = (json.loads(json.dumps(values)) for values in (settings, defaults))  # tuples are lists in the file
    saved = {key: usual.get(key, value) for key, value in now.items()} | dict(saved)
    changed = sorted(key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key))
    if changed:
        told = [f"{key} was {saved.get(key)!r}, now {now.get(key)!r}" for key in changed]
        if CONTENTS in changed:
            told[changed.index(CONTENTS)] = _other_contents(saved[CONTENTS], now[CONTENTS])
        raise ValueError(
            f"{folder} holds a run with other settings: {'; '.join(told)}"
            ". Use its settings to resume it, or another output_dir for a new run."
        )


def _other_contents(saved: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
    return f"the images, labels or names in {', '.join(names)} are not those that it was begun with"
