"""What every training has beside its loop: a folder, a place to resume from, whole checkpoints, models and metrics."""

import math
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import nn
from tqdm.auto import tqdm

from ..files import replace_folder, write_json, write_text
from ..outcome import has_just_fallen, read_outcome
from ..plain_yaml import dump_yaml
from ..provenance import PROVENANCE_FILE, compute_facts, read_provenance
from .checkpoint import (
    START_FOLDER,
    damaged_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    saved_settings,
)
from .health import MOST_SKIPPED, TROUBLES_FILE, Rows, Step, explodes, has_just_exploded, note_trouble, told_rows
from .interruption import StopRequest, explained_faults, lock_run

CHECKPOINTS, METRICS_FILE, RECIPE_FILE = "checkpoints", "metrics.json", "recipe.yaml"
PRECISIONS = {"no": "float32", "bf16": "bfloat16 beside float32", "fp16": "float16 beside float32"}
# May differ between the runs that make up a resumed one: they change where or how fast it runs, not its result
RUN_TIME_SETTINGS = (
    "output_dir", "data_root", "dataloader_num_workers", "eval_batch_size", "save_steps", "save_total_limit",
    "log_with", "logging_steps", "allow_shared_images",
)  # fmt: skip


@dataclass
class RunState:
    """Where a run is, and what it has measured: saved with every checkpoint."""

    cycle: int = 0
    task_index: int = 0
    step_in_pass: int = 0
    step: int = 0
    pass_losses: dict[str, list[float]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    seconds: float = 0.0
    norms: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    skipped: int = 0
    troubles: dict[str, int] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


class Run:
    """
    A run's folder: `checkpoints`, a folder for each model, and `metrics.json`. As long as [`sitting`] lasts, or until
    then, no other process has it.

    Args:
        folder: Of the run.
        accelerator: What is prepared by it, or registered with it, is what a checkpoint holds beside `state`.
        settings: Ready for JSON. Those that must be the same when the run is resumed.
        defaults: Of those settings, for checkpoints of versions that did not know them.
        save_total_limit: Checkpoints that are kept.
        write_start: Writes into a folder what sets the run up again.

    Raises:
        ValueError: Another process trains in the folder.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        settings: dict[str, Any],
        defaults: Mapping[str, Any],
        save_total_limit: int,
        write_start: Callable[[Path], None],
    ):
        self.folder, self.accelerator, self.settings, self.defaults = folder, accelerator, settings, defaults
        self.save_total_limit, self.write_start = save_total_limit, write_start
        self.state = RunState()
        self.turn = "cycle" if settings["method"] == "ark" else "epoch"  # as users know what `state.cycle` counts
        self.resumed_from: Path | None = None
        self.progress = tqdm(disable=True)
        self._unread: list[Step] = []
        self._lock: AbstractContextManager = lock_run(folder) if accelerator.is_main_process else nullcontext()
        self._stop = StopRequest(accelerator.num_processes)
        self._counted_until = time.monotonic()
        accelerator.register_for_checkpointing(self.state)

    def resume(self) -> None:
        """
        Restores the newest whole checkpoint in the folder, if there is one, and warns of damaged ones.

        Raises:
            ValueError: It is of a run with other settings; the message names them. Or it cannot be read.
        """
        self.resumed_from = newest_checkpoint(self.folder / CHECKPOINTS)
        for damaged in damaged_checkpoints(self.folder / CHECKPOINTS):
            instead = "the start" if self.resumed_from is None else self.resumed_from.name
            warnings.warn(f"{damaged} is damaged: files are missing or cut. Going on from {instead}.", stacklevel=2)
        if self.resumed_from is not None:
            load_checkpoint(self.accelerator, self.resumed_from, self.settings, self.defaults)

    def begin(self, tracked: Mapping[str, Any]) -> None:
        """Says where the run goes on, makes the folder, starts to count the time, and tells trackers the settings."""
        if self.resumed_from is not None:
            self.accelerator.print(f"Resuming from {self.resumed_from} (step {self.state.step}).")
        self._counted_until = time.monotonic()
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.accelerator.log_with:
            self.accelerator.init_trackers("ark-hf", config=flat(tracked))

    @contextmanager
    def sitting(self) -> Iterator[None]:
        """
        Surrounds all steps, until the run ends or is interrupted; other processes may have the folder after it.

        Inside, SIGTERM and SIGINT wait for [`end_step`].

        Raises:
            OSError: The disk is full or a loader process has died, in plain words.
        """
        with self._lock, self._stop.listening(), explained_faults(self.folder, self.what_is_kept):
            yield

    def end_step(self, is_due: bool) -> None:
        """
        What follows a step or a validation: a checkpoint if one `is_due`, or if a signal has come, with which the run
        then stops.

        Raises:
            SystemExit: Of 128 and the number of the signal. The same run goes on from here.
        """
        stopped = self._stop.signal()
        if is_due or stopped is not None:
            self.save_checkpoint()
        if stopped is None:
            return
        if self.accelerator.is_main_process:
            self.progress.write(
                f"{stopped.name}: stopped at step {self.state.step}. All is saved in {self.folder}: the same command "
                "goes on from there.",
                file=sys.stderr,
            )
        raise SystemExit(128 + stopped)

    def bar(self, description: str, total: int) -> tqdm:
        """The run's progress bar, over its steps, from where it is; shown by the main process alone."""
        self.progress = tqdm(
            total=total,
            initial=self.state.step,
            desc=description,
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        return self.progress

    def print(self, text: str) -> None:
        """A line above the bar, from the main process alone."""
        if self.accelerator.is_main_process:
            self.progress.write(text)

    def count_seconds(self) -> float:
        """Those spent in the run until now, all its sittings together."""
        now = time.monotonic()
        self.state.seconds += now - self._counted_until
        self._counted_until = now
        return self.state.seconds

    def save_checkpoint(self) -> None:
        """Everything registered with the accelerator, under the present step; see [`read_losses`] for its errors."""
        self.read_losses()
        self.count_seconds()
        save_checkpoint(
            self.accelerator,
            self.folder / CHECKPOINTS,
            self.state.step,
            self.settings,
            self.save_total_limit,
            self.write_start,
        )

    def save_model(self, name: str, write: Callable[[Path], None]) -> None:
        """
        Replaces the folder `name` by what `write` writes, whole or not at all; by the main process alone. See
        [`read_losses`] for its errors.
        """
        self.read_losses()
        if self.accelerator.is_main_process:
            replace_folder(self.folder / name, write)

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Writes `metrics.json`, by the main process alone."""
        if self.accelerator.is_main_process:
            write_json(self.folder / METRICS_FILE, {**metrics, "troubles": self.state.troubles})

    def note_step(
        self, what: str, losses: Mapping[str, torch.Tensor], norm: torch.Tensor, rows: Callable[[], Rows]
    ) -> None:
        """
        Keeps what the present step left on the device until [`read_losses`].

        Args:
            what: Is trained, for messages.
            losses: Scalars by name.
            norm: Of the gradient, a scalar.
            rows: The samples of the step, all processes' together, should they be asked for.
        """
        self._unread.append(Step(self.state.step, what, losses, norm, rows))

    def read_losses(self) -> dict[str, float]:
        """
        Moves what has been noted into `state.pass_losses`. This waits for the device, so it is done now and then:
        at the latest before weights are saved, so that none are that a loss has spoilt.

        A gradient that is far larger than those before it, where `max_grad_norm` does not cut it, is reported.

        Returns:
            The losses of the last step that was noted; nothing if none was since the last reading.

        Raises:
            FloatingPointError: A loss or a gradient is not finite; the message names the first such step and its
                samples. Nothing can be saved then.
        """
        if not self._unread:
            return {}
        together = torch.stack([each for step in self._unread for each in (*step.losses.values(), step.norm)])
        values, read = iter(together.tolist()), []
        for step in self._unread:
            read.append({name: next(values) for name in step.losses})
            for loss in read[-1].values():
                self.check_finite(loss, step.what, step.number, step.rows)
            self._check_norm(step, next(values))
        for of_step in read:
            for name, loss in of_step.items():
                self.state.pass_losses.setdefault(name, []).append(loss)
        self._unread = []
        return read[-1]

    def check_finite(
        self, value: float, what: str, step: int, rows: Callable[[], Rows] = dict, kind: str = "loss"
    ) -> None:
        """Raises `FloatingPointError` if a loss is not, or what else the `kind` is."""
        if math.isfinite(value):
            return
        samples = rows()
        self._list_trouble(f"{kind} not finite", what, step, value, samples)
        seen = f" It saw {told_rows(samples)}; {TROUBLES_FILE} has all." if samples else ""
        raise FloatingPointError(
            f"The {kind} of {what} is not finite at step {step}, and would be so again. Lower "
            f"learning_rate, set max_grad_norm, or train without mixed precision, in another output_dir.{seen}"
        )

    def _check_norm(self, step: Step, norm: float) -> None:
        # A step in float16 whose gradient is not finite was left out: its scale is still to be found
        was_skipped = self.accelerator.scaler is not None and not math.isfinite(norm)
        self.state.skipped = self.state.skipped + 1 if was_skipped else 0
        if was_skipped and self.state.skipped <= MOST_SKIPPED:
            self._list_trouble("step left out", step.what, step.number, norm, step.rows())
            return
        self.check_finite(norm, step.what, step.number, step.rows, "gradient")
        usual = self.state.norms.setdefault(step.what, [])
        if explodes(norm, usual) and self.settings.get("max_grad_norm") is None:
            self.report("gradient exploded", step.what, step.number, norm, step.rows())

    def watch_losses(self, losses: Mapping[str, float], remedy: str) -> None:
        """
        Reports what of a cycle's mean losses, each the whole of what is minimised, has exploded since the cycles
        before; once, until it has come down again.

        Args:
            losses: By what is trained.
            remedy: A sentence.
        """
        for what, loss in losses.items():
            known = self.state.losses.setdefault(what, [])
            known.append(loss)
            if has_just_exploded(known):
                self.report("loss exploded", what, self.state.step, loss, remedy=remedy)

    def watch_teacher(self, validations: Sequence[Mapping[str, Any]], key: str, cycle: int, remedy: str) -> None:
        """
        Reports it where the teacher has become clearly worse than its best; once, until it is well again.

        Args:
            validations: Of the teacher, one a cycle, until `cycle`.
            key: By which the best is found in them; see [`has_just_fallen`].
            remedy: A sentence.
        """
        if has_just_fallen(validations, key):
            value = validations[-1][key]
            self.report("teacher clearly below its best", key, self.state.step, value, remedy=remedy, cycle=cycle)

    def tell_outcome(self, origin: Mapping[str, Any]) -> None:
        """
        Tells at the end how the last teacher compares with the best, on the screen and in the notes of `best`.

        Args:
            origin: The last teacher's provenance.
        """
        outcome, best = read_outcome(origin), self.folder / "best"
        if outcome is None or not self.accelerator.is_main_process:
            return
        self.print(f"{outcome}{f' Take {best}.' if outcome.is_clearly_worse else ''}")
        notes = read_provenance(best)
        if notes is not None:
            last = dict(zip((outcome.turn, outcome.key), outcome.last, strict=True))
            write_json(best / PROVENANCE_FILE, {**notes, "last": last})

    def report(
        self,
        kind: str,
        what: str,
        step: int,
        value: float | None = None,
        rows: Rows | None = None,
        remedy: str = "",
        cycle: int | None = None,
    ) -> None:
        """
        Tells of a trouble with which the run goes on: prints it, lists it in `troubles.jsonl` and counts it.

        Args:
            cycle: The present one unless given.
        """
        cycle = cycle or self.state.cycle + 1
        self._list_trouble(kind, what, step, value, rows or {}, cycle)
        told = [f"{kind}: {what}, {self.turn} {cycle}, step {step}"]
        told += [f"{value:.3g}"] if value is not None else []
        told += [told_rows(rows)] if rows else []
        self.print(f"Warning: {', '.join(told)}; {TROUBLES_FILE} lists it.{f' {remedy}' if remedy else ''}")

    def _list_trouble(
        self, kind: str, what: str, step: int, value: float | None, rows: Rows, cycle: int | None = None
    ) -> None:
        told = {
            "what": what,
            "cycle": cycle or self.state.cycle + 1,
            "step": step,
            "value": value,
            "rows": {name: list(each) for name, each in rows.items()},
        }
        note_trouble(self.folder if self.accelerator.is_main_process else None, self.state.troubles, kind, told)

    def what_is_kept(self) -> str:
        """For the message of a run that stops: that it can go on, if it can."""
        if newest_checkpoint(self.folder / CHECKPOINTS) is None:
            return ""
        return " The last checkpoint is intact: the same command goes on from it."


def describe_model(
    model: nn.Module, device: torch.device, num_processes: int = 1, precision: str | None = "no"
) -> str:
    """A line on what is trained, and where: for whoever starts a run."""
    config: Any = model.config
    numbers = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = "" if trained == numbers else f", {trained:,} of them trained"
    facts = compute_facts(device, None, num_processes, precision)
    where = facts["device"] if num_processes == 1 else f"{num_processes} processes, each on {facts['device']}"
    return (
        f"Model: {_architecture(config)}; {numbers:,} parameters{frozen}.\n"
        f"Device: {where}; {PRECISIONS[facts['precision']]}."
    )


def _architecture(config: Any) -> str:
    if config.model_type == "genesis":
        spacing, cube = "as scanned", "x".join(map(str, config.cube_size))
        if config.spacing is not None:
            spacing = f"of {'x'.join(f'{each:g}' for each in config.spacing)} mm"
        return (
            f"Genesis, width {config.width}, {config.depth} levels, cubes of {cube} voxels {spacing} ({config.axes})"
        )
    projector = "none" if config.projector_dim is None else f"{config.projector_type}, {config.projector_dim}"
    rate = f"drop path rate {config.drop_path_rate:g}"
    return f"{config.backbone}, {config.image_size} pixels, projector {projector}, {rate}"


def write_recipe(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes `recipe.yaml`, every setting as it was resolved: the verb goes on with the run by it, or repeats it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECIPE_FILE, dump_yaml(dict(settings)))


def start_folder(folder: Path, method: str) -> Path | None:
    """
    What [`Run`]'s `write_start` wrote into the newest checkpoint of a run; None if there is nothing.

    Raises:
        ValueError: The run is of another method, which writes something else.
    """
    checkpoint = newest_checkpoint(folder / CHECKPOINTS)
    of = method if checkpoint is None else saved_settings(checkpoint).get("method", "ark")
    if of != method:
        raise ValueError(
            f"{folder} holds a run of method: {of}; this is method: {method}. Use another output_dir for a new run."
        )
    start = None if checkpoint is None else checkpoint / START_FOLDER
    return start if start is not None and start.is_dir() else None


def create_accelerator(mixed_precision: str, log_with: str, folder: Path) -> Accelerator:
    """
    The accelerator of a run.

    Accelerators of a process share one state. That of an earlier run with another precision would be refused here, or
    lend this run its own.

    Raises:
        ValueError: The tracker `log_with` is not installed.
    """
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed_precision:
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        log_with=None if log_with == "none" else log_with,
        project_dir=str(folder),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if log_with != "none" and not accelerator.log_with:
        raise ValueError(f"log_with: the tracker {log_with!r} is not installed; install it or use none.")
    return accelerator


def default_values(arguments: type) -> dict[str, Any]:
    """Of a dataclass of arguments the fields that have a default."""
    defaults = {each.name: each.default for each in fields(arguments) if each.default is not MISSING}
    made = {each.name: each.default_factory() for each in fields(arguments) if each.default_factory is not MISSING}
    return defaults | made


def seed_step(seed: int, step: int, micro_batch: int, process: int) -> None:
    """
    Seeds torch's global generator, from which stochastic depth draws, by the position in the run: a resumed run draws
    the same.
    """
    torch.manual_seed(zlib.crc32(repr((seed, step, micro_batch, process)).encode()))


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as trackers take them."""
    return {
        key: value if isinstance(value, (int, float, str, bool)) else str(value) for key, value in settings.items()
    }
