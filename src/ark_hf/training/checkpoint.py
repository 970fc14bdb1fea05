"""Checkpoints of a run: whole, written under a temporary name and renamed, so that a kill never leaves half of one."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..files import make_readable, write_json

PREFIX = "step-"
SETTINGS_FILE = "settings.json"
START_FOLDER = "start"


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

    `write_start` writes into its folder `start` what the run needs to be set up again, beside the weights.
    """
    target = folder / f"{PREFIX}{step:010d}"
    new = folder / f".{target.name}.new"
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(new))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(new / SETTINGS_FILE, settings)
        (new / START_FOLDER).mkdir()
        write_start(new / START_FOLDER)
        make_readable(new)
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
        for stale in sorted(folder.glob(f"{PREFIX}*"))[:-keep]:
            shutil.rmtree(stale)
    accelerator.wait_for_everyone()


def newest_checkpoint(folder: Path) -> Path | None:
    """The last that was written whole."""
    checkpoints = sorted(folder.glob(f"{PREFIX}*"))
    return checkpoints[-1] if checkpoints else None


def saved_settings(checkpoint: Path) -> dict[str, Any]:
    """The settings of its run."""
    return json.loads((checkpoint / SETTINGS_FILE).read_text(encoding="utf-8"))


def load_checkpoint(
    accelerator: Accelerator, checkpoint: Path, settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    """
    Restores everything registered with `accelerator`.

    Raises:
        ValueError: As in [`check_settings`].
    """
    check_settings(saved_settings(checkpoint), settings, defaults, checkpoint.parents[1])
    accelerator.load_state(str(checkpoint))


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
        raise ValueError(
            f"{folder} holds a run with other settings: "
            + "; ".join(f"{key} was {saved.get(key)!r}, now {now.get(key)!r}" for key in changed)
            + ". Use its settings to resume it, or another output_dir for a new run."
        )
