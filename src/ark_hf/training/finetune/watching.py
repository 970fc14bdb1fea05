"""A training loss of fine-tuning that explodes is told, and listed where the seed is trained."""

from pathlib import Path

from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..health import TROUBLES_FILE, has_just_exploded, note_trouble

EARLY = 3  # losses that a first batch, or a warm-up, may set apart


class Watching(TrainerCallback):
    """
    Tells when what `Trainer` logs as the loss is far above all before it; the best weights are kept in any case.

    Args:
        task: Its name, for the message.
        folder: Of the seed.
    """

    def __init__(self, task: str, folder: Path):
        self.task, self.folder = task, folder
        self.counts: dict[str, int] = {}

    def on_log(self, args, state, control, logs, **kwargs):
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        if "loss" not in logs or not state.is_world_process_zero or not has_just_exploded(losses, EARLY):
            return
        kind, step = "loss exploded", state.global_step
        told = {"what": f"task {self.task!r}", "epoch": state.epoch, "step": step, "value": losses[-1], "rows": {}}
        note_trouble(self.folder, self.counts, kind, told)
        tqdm.write(
            f"Warning: {kind}: task {self.task!r}, epoch {state.epoch:.2f}, step {step}, {losses[-1]:.3g}; "
            f"{TROUBLES_FILE} lists it. Lower learning_rate, in another output_dir."
        )
