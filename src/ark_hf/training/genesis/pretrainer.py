"""Models Genesis' self-supervised pretraining (Zhou et al., 2021; specification of the originals, section 10)."""

import math
import sys
import time
import zlib
from collections.abc import Hashable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ...data.leaks import DIGEST_KEY, SHARED_KEY, mark_shared_images, mark_trained_before
from ...data.loader import Loader, to_device
from ...data.loading import ORDER_STREAM, default_num_workers, micro_batches
from ...data.open_dataset import TaskDataset
from ...models.compile_blocks import compile_blocks
from ...models.genesis.modeling_genesis import GenesisForPreTraining
from ...provenance import compute_facts, write_provenance
from ..checkpoint import CONTENTS
from ..curves import write_curves
from ..ema import share_statistics
from ..health import Spread, clip_gradient
from ..interruption import explained_faults
from ..optimizer import create_optimizer
from ..restored import draw_restored
from ..run import RUN_TIME_SETTINGS, Run, create_accelerator, default_values, describe_model, start_folder
from ..sharding import check_sharding
from .arguments import GenesisArguments
from .cubes import Cutting, cut_cubes
from .objective import restoration_loss
from .samples import CubeSamples
from .schedules import Schedules
from .start import ARCHITECTURE, SEEN, Start, build_start, read_start, write_start

CUBES = "cubes"  # in the run's folder; they may be deleted when it has ended
MODEL = "genesis"
SECONDS_BETWEEN_FIGURES = 60  # drawing takes longer than a small epoch
CUBES_SHOWN = 4


class GenesisPretrainer:
    """
    Trains a 3D U-Net to restore deformed cubes of volumes. Labels are not read.

    The cubes are cut once, when the trainer is made; see [`cut_cubes`]. An epoch is one pass over all of them, each
    deformed anew, in an order of its own; a validation follows, in the same deformations after every epoch. The run
    ends with its epochs, or when none of the last `patience` of them had a lower loss.

    Where the run folder holds a checkpoint, model and `state` are those of the newest.

    Args:
        args: The settings.
        data: Datasets of volumes, see [`load_volumes`]; those with a split `validation` are validated.
        start: A network of your own and its processor; by default what `args.init` asks for.
        accelerator: For a tracker or plugin of your own; by default made from `args`.

    Raises:
        ValueError: Settings, network and datasets do not fit each other, volumes that are trained on are held out too,
            none gives a cube, or a run with others is in the folder.
    """

    def __init__(
        self,
        args: GenesisArguments,
        data: list[TaskDataset],
        start: Start | None = None,
        accelerator: Accelerator | None = None,
    ):
        self.args, self.data = args, mark_shared_images(data, args.allow_shared_images)
        self.output_dir = Path(args.output_dir)
        self.accelerator = accelerator or create_accelerator(args.mixed_precision, args.log_with, self.output_dir)
        check_sharding(self.accelerator, args.method)
        workers = args.dataloader_num_workers
        self.num_workers = default_num_workers(self.accelerator.device) if workers is None else workers
        saved = start_folder(self.output_dir, args.method)
        self.start = start or (build_start(args, data[0].task.modality) if saved is None else read_start(saved))
        self.data = mark_trained_before(self.data, self.start.facts, args.allow_shared_images)
        self.processor, self.config = self.start.processor, self.start.model.config
        cutting = Cutting(self.processor, args.cubes_per_volume, args.border, args.most_tissue, args.seed)
        if args.channels_last:
            self.start.model.to(memory_format=torch.channels_last_3d)
        device = self.accelerator.device
        optimizer = create_optimizer(self.start.model, args.optim, args.learning_rate, args.weight_decay, device)
        self.model: Any
        self.optimizer: Any
        self.model, self.optimizer = self.accelerator.prepare(self.start.model, optimizer)
        self.loader = Loader(self._samples, self.num_workers, device)
        if args.torch_compile:
            compile_blocks(self.start.model)
        self.run = Run(
            self.output_dir,
            self.accelerator,
            self._settings(),
            default_values(GenesisArguments),
            args.save_total_limit,
            lambda folder: write_start(folder, self.start),
        )
        self.state = self.run.state
        self.run.resume()
        with explained_faults(self.output_dir, self.run.what_is_kept):
            self.cubes = cut_cubes(self.data, cutting, self.output_dir / CUBES, self._cut_by(), self.accelerator)
        self.schedules = Schedules(
            args.learning_rate,
            args.lr_scheduler_type,
            args.warmup_steps,
            args.epochs,
            math.ceil(len(self.cubes["train"]) / args.batch_size),
            args.patience,
            args.reproduce,
        )

    # Running ------------------------------------------------------------------------------------------------------

    def train(self) -> GenesisForPreTraining:
        """
        Runs to the last epoch, from the newest checkpoint in the run folder if there is one.

        Returns:
            What is in `output_dir/genesis`: the network of the lowest validation loss; without validation the last.
        """
        self.run.begin(self.args.to_dict())
        self._drawn_at = time.monotonic()
        self.accelerator.print(self.describe(), file=sys.stderr)
        with self.run.sitting(), self.run.bar("pretraining", self.schedules.total_steps), self.loader:
            while not self.schedules.is_over(self.state):
                started = time.monotonic()
                for batches in self.train_batches(self.state.step_in_pass):
                    self._step(batches)
                    self.run.end_step(self.state.step % self.args.save_steps == 0 and self._steps_left() > 0)
                self._finish_epoch(started)
        if self.state.best is not None:
            last, best = self.state.history[-1], self.state.best
            self.accelerator.print(
                f"Validation loss of the last epoch, {last['epoch']}: {last['validation']['loss']:.4f}; of the best, "
                f"{best['epoch']}, whose network is kept: {best['loss']:.4f}."
            )
        self.accelerator.end_training()
        return GenesisForPreTraining.from_pretrained(self.output_dir / MODEL).to(self.accelerator.device)

    def describe(self) -> str:
        """What is trained, on what and for how long."""
        processes, precision = self.accelerator.num_processes, self.accelerator.mixed_precision
        counts = {split: (len(cubes), len(cubes.sources)) for split, cubes in self.cubes.items()}
        told = ", ".join(f"{cubes:,} of {volumes:,} volumes ({split})" for split, (cubes, volumes) in counts.items())
        return (
            f"{describe_model(self.start.model, self.accelerator.device, processes, precision)}\n"
            f"Cubes: {told}.\n"
            f"Steps: up to {self.schedules.total_steps:,} of {self.args.batch_size:,} cubes, "
            f"{self.schedules.steps_in_epoch:,} in each of up to {self.args.epochs:,} epochs."
        )

    def _steps_left(self) -> int:
        """Steps that are left of the epoch."""
        return self.schedules.steps_in_epoch - self.state.step_in_pass

    def train_batches(self, first_step: int) -> Iterator[list[dict[str, torch.Tensor]]]:
        """For each remaining step of the epoch, this process's micro-batches; see [`CubeSamples`]."""
        processes, accumulation = self.accelerator.num_processes, self.args.gradient_accumulation_steps
        plan = self._plan(self.state.cycle)[first_step:]
        steps = [micro_batches(numbers, processes, accumulation) for numbers in plan]
        mine = [[group[self.accelerator.process_index] for group in groups] for groups in steps]
        loaded = self.loader.load([("train", numbers) for step in mine for numbers in step], self.state.cycle)
        for step in mine:
            yield [next(loaded) for _ in step]

    def _plan(self, epoch: int) -> list[np.ndarray]:
        """Of each step of an epoch its cubes, by number."""
        count, size = len(self.cubes["train"]), self.args.batch_size
        generator = np.random.default_rng([self.args.seed, epoch, zlib.crc32(b"cubes"), ORDER_STREAM])
        if "batches_drawn_anew" in self.args.reproduce:
            steps = range(self.schedules.steps_in_epoch)
            return [generator.choice(count, min(size, count), replace=False) for _ in steps]
        order = generator.permutation(count)
        return [order[start : start + size] for start in range(0, count, size)]

    def _rows(self, epoch: int, step: int) -> dict[str, list[int]]:
        """The volumes whose cubes a step of an epoch has seen: rows by dataset."""
        return self.cubes["train"].rows(self._plan(epoch)[step])

    def _samples(self) -> dict[Hashable, CubeSamples]:
        """All that an epoch loads, by split."""
        return {split: CubeSamples(each, self.config.axes, self.args.seed, 0) for split, each in self.cubes.items()}

    def _step(self, batches: list[dict[str, torch.Tensor]]) -> None:
        self.model.train()
        loss = self.train_step(batches)
        share_statistics(self.accelerator.unwrap_model(self.model), self.accelerator)
        self.log_step(loss)
        self.state.step += 1
        self.state.step_in_pass += 1
        self.run.progress.update()

    def train_step(self, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """One optimiser step; returns the global mean of the loss before it, a scalar on the device."""
        device = self.accelerator.device
        batches = [to_device(batch, device) for batch in batches]
        count = self.accelerator.reduce(torch.stack([batch["weight"].sum() for batch in batches]).sum(), "sum")
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedules.learning_rate(self.state)
        total = torch.zeros((), device=device)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                logits = self.model(batch["pixel_values"]).logits
                loss = restoration_loss(logits, batch["labels"], batch["weight"], count)
                # DDP averages the gradients over processes; the loss is already divided by the global count
                self.accelerator.backward(loss * self.accelerator.num_processes)
            total += loss.detach()
        self.gradient_norm = clip_gradient(self.accelerator, [*self.model.parameters()], self.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self.accelerator.reduce(total, "sum")

    def log_step(self, loss: torch.Tensor) -> None:
        """Keeps the step's loss; now and then reads what is kept, shows it and sends it to the tracker."""
        rows = partial(self._rows, self.state.cycle, self.state.step_in_pass)
        self.run.note_step("restoration", {"loss": loss}, self.gradient_norm, rows)
        if self.state.step % self.args.logging_steps == 0:
            read, rate = self._read_losses(), self.schedules.learning_rate(self.state)
            self.accelerator.log({**read, "learning_rate": rate}, step=self.state.step)

    def _read_losses(self) -> dict[str, float]:
        """As [`Run.read_losses`]; shows the last beside the bar."""
        losses = self.run.read_losses()
        if losses:
            where = f"epoch {self.state.cycle + 1}/{self.args.epochs}"
            self.run.progress.set_postfix_str(f"{where}, loss {losses['loss']:.4f}", False)
        return losses

    # The end of an epoch ------------------------------------------------------------------------------------------

    def _finish_epoch(self, started: float) -> None:
        self._read_losses()
        train, loss = float(np.mean(self.state.pass_losses["loss"])), self.validate()
        entry: dict[str, Any] = {
            "epoch": self.state.cycle + 1,
            "step": self.state.step,
            "seconds": round(time.monotonic() - started, 1),
            "train": {"loss": train},
            "validation": {"loss": loss},
        }
        self.state.history.append(entry)
        losses = {"restoration": train} | ({} if math.isnan(loss) else {"restoration in validation": loss})
        self.run.watch_losses(losses, self._remedy())
        self.state.cycle, self.state.step_in_pass, self.state.pass_losses = self.state.cycle + 1, 0, {}
        if not math.isnan(loss) and (self.state.best is None or loss < self.state.best["loss"]):
            self.state.best = {"epoch": self.state.cycle, "loss": loss}
        self.accelerator.log({"validation/loss": loss}, step=self.state.step)
        self.run.print(f"epoch {self.state.cycle}/{self.args.epochs}: loss {train:.4f}, validation {loss:.4f}")
        if self.state.best is None or self.state.best["epoch"] == self.state.cycle:
            self.save_model(entry)
        self.write_metrics()
        self._draw()
        self.run.end_step(True)

    def _remedy(self) -> str:
        """Against losses that explode."""
        best = self.state.best
        kept = f" {self.output_dir / MODEL} has the network of epoch {best['epoch']}." if best else ""
        return f"Lower learning_rate, in another output_dir.{kept}"

    @torch.no_grad()
    def validate(self) -> float:
        """The loss over the cubes of validation; NaN where there are none."""
        numbers = np.arange(len(self.cubes["validation"]))
        if not len(numbers):
            return math.nan
        model = self.accelerator.unwrap_model(self.model).eval()
        device, size = self.accelerator.device, self.args.eval_batch_size or self.args.batch_size
        cut = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        mine = [
            ("validation", group[self.accelerator.process_index])
            for each in cut
            for group in micro_batches(each, self.accelerator.num_processes, 1)
        ]
        epoch = self.state.cycle if "validation_drawn_anew" in self.args.reproduce else 0
        total, outputs = torch.zeros((), device=device), Spread()
        for batch in self.loader.load(mine, epoch):
            batch = to_device(batch, device)
            with self.accelerator.autocast():
                logits = model(batch["pixel_values"]).logits
            total += restoration_loss(logits, batch["labels"], batch["weight"], torch.ones_like(total))
            outputs.add(logits)
        share_statistics(model, self.accelerator)  # which move in evaluation too, if reproduce says so
        loss = self.accelerator.reduce(total, "sum").item() / len(numbers)
        self.run.check_finite(loss, "restoration in validation", self.state.step)
        if outputs.is_constant():
            self.run.report("all restored cubes are the same", "restoration", self.state.step)
        return loss

    def save_model(self, entry: dict[str, Any]) -> None:
        """
        Writes the network into the run's folder.

        Args:
            entry: Of the history, for its notes.
        """

        def write(folder: Path) -> None:
            self.accelerator.unwrap_model(self.model).save_pretrained(folder)
            self.processor.save_pretrained(folder)
            write_provenance(folder, "self-supervision", self._provenance(entry))

        self.run.save_model(MODEL, write)

    def _provenance(self, entry: dict[str, Any]) -> dict[str, Any]:
        settings = {key: value for key, value in self.run.settings.items() if key not in ("init", "data", CONTENTS)}
        settings |= {name: getattr(self.config, name) for name in (*ARCHITECTURE, *SEEN)}
        return {
            **self.start.facts,
            "method": "genesis",
            "settings": settings,
            "data": [{"task": data.task.name, **data.facts} for data in self.data],
            "compute": compute_facts(
                self.accelerator.device,
                self.run.count_seconds(),
                self.accelerator.num_processes,
                self.accelerator.mixed_precision,
            ),
            "epoch": entry["epoch"],
            "validation": entry["validation"],
        }

    def write_metrics(self) -> None:
        """Writes `metrics.json`: settings, numbers of cubes and history."""
        metrics = {
            "settings": self.run.settings,
            "cubes": {split: len(cubes) for split, cubes in self.cubes.items()},
            "best": self.state.best,
            SHARED_KEY: [each for data in self.data for each in data.facts.get(SHARED_KEY, ())],
            "history": self.state.history,
        }
        self.run.write_metrics(metrics)

    def _draw(self) -> None:
        is_due = self.schedules.is_over(self.state) or time.monotonic() - self._drawn_at > SECONDS_BETWEEN_FIGURES
        if is_due and self.accelerator.is_main_process:
            parts = ("train", "validation")
            losses = {part: [(each["step"], each[part]["loss"]) for each in self.state.history] for part in parts}
            write_curves(self.output_dir, losses, {})
            draw_restored(self.output_dir, self._restored())
            self._drawn_at = time.monotonic()

    @torch.no_grad()
    def _restored(self) -> dict[str, np.ndarray]:
        """Middle axial slices of some cubes: as the network sees them, as it restores them, and as they are."""
        split = "validation" if len(self.cubes["validation"]) else "train"
        count = len(self.cubes[split])
        numbers = np.linspace(0, count - 1, min(CUBES_SHOWN, count)).astype(int)
        (batch,) = self.loader.load([(split, numbers)], 0)
        model = self.accelerator.unwrap_model(self.model).eval()
        kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
        restored = model(batch["pixel_values"].to(self.accelerator.device)).reconstruction.cpu()
        for name, buffer in model.named_buffers():  # batch norm of the originals moves them in evaluation, too
            buffer.copy_(kept[name])
        shown = {
            "what it sees": batch["pixel_values"],
            "what it restores": restored,
            "what was there": batch["labels"],
        }
        return {title: self._slices(cubes).numpy() for title, cubes in shown.items()}

    def _slices(self, cubes: torch.Tensor) -> torch.Tensor:
        """(n, y, x) of (n, 1, and the axes of the model)."""
        turned = cubes[:, 0] if self.config.axes == "zyx" else cubes[:, 0].permute(0, 3, 2, 1)
        return turned[:, turned.shape[1] // 2]

    def _settings(self) -> dict[str, Any]:
        settings = {key: value for key, value in self.args.to_dict().items() if key not in RUN_TIME_SETTINGS}
        settings["data"] = [_data_settings(each) for each in self.data]
        settings[CONTENTS] = {each.task.name: each.digest() for each in self.data}
        settings["num_processes"] = self.accelerator.num_processes
        return settings

    def _cut_by(self) -> dict[str, Any]:
        """All that the cubes depend on."""
        names = ("seed", "cubes_per_volume", "border", "most_tissue", "data")
        seen = {name: getattr(self.processor, name) for name in ("axes", *SEEN)}
        return {name: self.run.settings[name] for name in names} | seen


def _data_settings(data: TaskDataset) -> dict[str, Any]:
    """What must stay as it is for a run to be resumed."""
    splits = {split: len(data.splits[split]) for split in ("train", "validation") if split in data.splits}
    digests = {split: digest for split, digest in data.facts.get(DIGEST_KEY, {}).items() if split in splits}
    return {"name": data.task.name, "volumes": splits, DIGEST_KEY: digests}
