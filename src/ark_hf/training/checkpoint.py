"""Checkpoints of a run: whole, written under a temporary name and renamed, so that a kill never leaves half of one."""

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..files import write_json

PREFIX = "step-"
SETTINGS_FILE = "settings.json"


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, settings: dict[str, Any], keep: int) -> None:
    """Saves everything registered with `accelerator` as `folder/step-<step>` and deletes all but the newest `keep`."""
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
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
        for stale in sorted(folder.glob(f"{PREFIX}*"))[:-keep]:
            shutil.rmtree(stale)
    accelerator.wait_for_everyone()


def load_newest_checkpoint(accelerator: Accelerator, folder: Path, settings: dict[str, Any]) -> Path | None:
    """
    Restores everything registered with `accelerator` from the newest checkpoint in `folder`, if there is one.

    Raises:
        ValueError: The checkpoint is of a run with other settings; the message names them.
    """
    checkpoints = sorted(folder.glob(f"{PREFIX}*"))
    if not checkpoints:
        return None
    saved = json.loads((checkpoints[-1] / SETTINGS_FILE).read_text(encoding="utf-8"))
    changed = sorted(key for key in saved.keys() | settings.keys() if saved.get(key) != settings.get(key))
    if changed:
        raise ValueError(
            f"{folder.parent} holds a run with other settings: "
            + "; ".join(f"{key} was {saved.get(key)!r}, now {settings.get(key)!r}" for key in changed)
            + ". Use its settings to resume it, or another output_dir for a new run."
        )
    accelerator.load_state(str(checkpoints[-1]))
    return checkpoints[-1]
