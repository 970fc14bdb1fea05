"""PEAC's self-supervised pretraining (Zhou et al., BMVC 2023; specification of the originals, section 9)."""

import copy
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

from ...data.leaks import SHARED_KEY, mark_shared_images, mark_trained_before
from ...data.loader import Loader, to_device
from ...data.loading import default_num_workers, micro_batches, pass_order
from ...data.open_dataset import TaskDataset
from ...data.streaming import StreamedRows
from ...models.compile_blocks import compile_blocks
from ...provenance import compute_facts, write_provenance
from ..checkpoint import CONTENTS
from ..ema import MovingAverage, share_statistics
from ..health import Spread, clip_gradient
from ..initial_weights import DEFAULT_DROP_PATH_RATE, for_modalities
from ..optimizer import create_optimizer
from ..run import RUN_TIME_SETTINGS, Run, create_accelerator, default_values, describe_model, seed_step, start_folder
from ..sharding import check_sharding
from .arguments import PeacArguments
from .figures import write_losses, write_restored
from .grid import Grid
from .heads import PeacModel, save_heads
from .objective import TERMS, Objective
from .samples import PeacSamples
from .schedules import Schedules
from .start import Start, build_start, read_start, write_start

SECONDS_BETWEEN_FIGURES = 60  # drawing takes longer than a small epoch
PICTURES_SHOWN = 4


class PeacPretrainer:
    """
    Trains a student on two crops of each picture, beside an EMA teacher that sees the same ones.

    The first crop is distorted, or its cells are shuffled; the student tells where each cell belongs, restores the
    crop, and comes close to what the teacher makes of the other crop, as a whole and in each cell that both crops
    show. Labels are not read. An epoch is one pass over the images of all datasets, each batch from one of them, in
    an order of its own; a validation of the same losses follows.

    Where the run folder holds a checkpoint, models and `state` are those of the newest.

    Args:
        args: The settings.
        data: The datasets, see [`open_images`]; those with a split `validation` are validated.
        start: A network of your own and its processor; by default what `args.init` asks for.
        accelerator: For a tracker or plugin of your own; by default made from `args`.

    Raises:
        ValueError: Settings, network and datasets do not fit each other, images that are trained on are held out too,
            or a run with others is in the folder.
    """

    def __init__(
        self,
        args: PeacArguments,
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
        self.start = start or (build_start(args) if saved is None else read_start(saved, args))
        self.data = mark_trained_before(self.data, self.start.facts, args.allow_shared_images)
        student = self.start.model
        self.processor = for_modalities(self.start.processor, [each.task.modality for each in self.data])
        self.grid = Grid(student.config.image_size, student.heads.cell)
        if args.attn_implementation is not None:
            student.ark.set_attn_implementation(args.attn_implementation)
        self.teacher = copy.deepcopy(student).to(self.accelerator.device).eval().requires_grad_(False)
        if args.gradient_checkpointing:
            student.ark.activation_checkpointing_enable()
        device = self.accelerator.device
        optimizer = create_optimizer(student, args.optim, args.learning_rate, args.weight_decay, device)
        self.student: Any
        self.optimizer: Any
        self.student, self.optimizer = self.accelerator.prepare(student, optimizer)
        self.average = MovingAverage(self.teacher, self.accelerator.unwrap_model(self.student))
        self.loader = Loader(self._samples, self.num_workers, device)
        if args.torch_compile:
            compile_blocks(student.ark)
            compile_blocks(self.teacher.ark)
        self.objective = Objective(args.weights)
        self.schedules = Schedules(args, sum(math.ceil(len(each.splits["train"]) / args.batch_size) for each in data))
        self.accelerator.register_for_checkpointing(self.teacher)
        self.run = Run(
            self.output_dir,
            self.accelerator,
            self._settings(),
            default_values(PeacArguments),
            args.save_total_limit,
            lambda folder: write_start(folder, self.start),
        )
        self.state = self.run.state
        self.run.resume()

    # Running ------------------------------------------------------------------------------------------------------

    def train(self) -> PeacModel:
        """
        Runs to the last epoch, from the newest checkpoint in the run folder if there is one.

        Returns:
            The teacher; its encoder is also in `output_dir/ark-cxr`.
        """
        self.run.begin(self.args.to_dict())
        self._drawn_at = time.monotonic()
        self.accelerator.print(self.describe(), file=sys.stderr)
        with self.run.sitting(), self.run.bar("pretraining", self.schedules.total_steps), self.loader:
            while self.state.cycle < self.args.epochs:
                started = time.monotonic()
                for batches in self.train_batches(self.state.step_in_pass):
                    self._step(batches)
                    self.run.end_step(self.state.step % self.args.save_steps == 0 and self._steps_left() > 0)
                self._finish_epoch(started)
        self.run.tell_outcome({"kind": "self-supervision", **self._provenance()})
        self.accelerator.end_training()
        return self.teacher

    def describe(self) -> str:
        """What is trained, on what and for how long."""
        student = self.accelerator.unwrap_model(self.student)
        processes, precision = self.accelerator.num_processes, self.accelerator.mixed_precision
        sizes = {each.task.name: len(each.splits["train"]) for each in self.data}
        return (
            f"{describe_model(student, self.accelerator.device, processes, precision)}\n"
            f"PEAC: {self.grid.side} x {self.grid.side} cells of {self.grid.cell} pixels.\n"
            f"Data: {sum(sizes.values()):,} images an epoch: "
            f"{', '.join(f'{name} ({size:,})' for name, size in sizes.items())}.\n"
            f"Steps: {self.schedules.total_steps:,} of {self.args.batch_size:,} images, "
            f"{self.schedules.steps_in_epoch:,} in each of {self.args.epochs:,} epochs."
        )

    def _steps_left(self) -> int:
        """Steps that are left of the epoch."""
        return self.schedules.steps_in_epoch - self.state.step_in_pass

    def train_batches(self, first_step: int) -> Iterator[list[dict[str, torch.Tensor]]]:
        """For each remaining step of the epoch, this process's micro-batches; see [`PeacSamples.normalise`]."""
        turns, steps = self._plan(self.state.cycle)
        waiting = [iter(groups) for groups in steps]
        left = [(("train", self.data[turn].task.name), next(waiting[turn])) for turn in turns][first_step:]
        mine = [(name, group[self.accelerator.process_index]) for name, groups in left for group in groups]
        loaded = self.loader.load(mine, self.state.cycle)
        for name, groups in left:
            try:
                batches = [next(loaded) for _ in groups]
            except OSError as error:  # a stream has broken off
                raise OSError(f"{error}{self.run.what_is_kept()}") from error
            yield [self.loader.samples[name].normalise(batch, self.accelerator.device) for batch in batches]

    def _plan(self, epoch: int) -> tuple[np.ndarray, list[list[list[list[np.ndarray]]]]]:
        """Of an epoch whose turn each step is, by number of the dataset; and of each dataset the steps' samples."""
        seed, size = self.args.seed, self.args.batch_size
        processes, accumulation = self.accelerator.num_processes, self.args.gradient_accumulation_steps
        steps = []
        for each in self.data:
            order = pass_order(each.splits["train"], seed, epoch, each.task.name)
            cut = [order[start : start + size] for start in range(0, len(order), size)]
            steps.append([micro_batches(numbers, processes, accumulation) for numbers in cut])
        turns = np.repeat(np.arange(len(steps)), [len(each) for each in steps])
        return np.random.default_rng([seed, epoch, zlib.crc32(b"datasets")]).permutation(turns), steps

    def _rows(self, epoch: int, step: int) -> dict[str, list[int]]:
        """The training rows of a step of an epoch, by dataset."""
        turns, steps = self._plan(epoch)
        groups = steps[turns[step]][int((turns[:step] == turns[step]).sum())]
        numbers = np.concatenate([share for group in groups for share in group])
        return {self.data[turns[step]].task.name: numbers[numbers >= 0].tolist()}

    def _samples(self) -> dict[Hashable, PeacSamples]:
        """All that an epoch loads, by split and name of the dataset."""
        transposed = "transposed_matches" in self.args.reproduce
        return {
            (split, each.task.name): PeacSamples(
                each.splits[split], each.task, self.processor, self.args.seed, 0, self.grid, transposed
            )
            for split in ("train", "validation")
            for each in self.data
            if split in each.splits
        }

    def _step(self, batches: list[dict[str, torch.Tensor]]) -> None:
        self.student.train()
        momentum = self.schedules.teacher_momentum(self.state)
        losses = self.train_step(batches)
        student = self.accelerator.unwrap_model(self.student)
        share_statistics(student, self.accelerator)
        self.average.update(momentum)
        self.log_step(losses, momentum)
        self.state.step += 1
        self.state.step_in_pass += 1
        self.run.progress.update()

    def train_step(self, batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """
        One optimiser step; returns the global means of the losses before it, by term, and their `total`: scalars on
        the device.
        """
        device = self.accelerator.device
        batches = [to_device(batch, device) for batch in batches]
        counts = self.accelerator.reduce(sum(self.objective.counts(batch) for batch in batches), "sum")
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedules.learning_rate(self.state)
        sums = torch.zeros(len(TERMS), device=device)
        for number, batch in enumerate(batches):
            seed_step(self.args.seed, self.state.step, number, self.accelerator.process_index)
            last = number == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.student):
                losses = self._losses(self.student, batch, counts, self.objective)
                # DDP averages the gradients over processes; the losses are already divided by the global counts
                self.accelerator.backward(self.objective.total(losses) * self.accelerator.num_processes)
            sums += losses.detach()
        self.gradient_norm = clip_gradient(self.accelerator, [*self.student.parameters()], self.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self._named(self.accelerator.reduce(sums, "sum"))

    def _losses(
        self,
        student: Any,
        batch: dict[str, torch.Tensor],
        counts: torch.Tensor,
        objective: Objective,
        embeddings: Spread | None = None,
    ) -> torch.Tensor:
        """
        [`Objective.losses`] of a batch: its shares of the means over `counts`; with counts of 1 its sums. Those of the
        teacher's embeddings of whole crops are added to `embeddings`.
        """
        crops = batch["first"], batch["second"], batch["permutation"]
        outputs = student(*crops)
        with torch.no_grad(), self.accelerator.autocast():
            targets = self.teacher.embeddings(*crops)
        if embeddings is not None:
            embeddings.add(targets[1].whole)
        return objective.losses(outputs, targets, batch, counts)

    def _named(self, losses: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**dict(zip(TERMS, losses, strict=True)), "total": self.objective.total(losses)}

    def log_step(self, losses: dict[str, torch.Tensor], momentum: float) -> None:
        """Keeps the step's losses; now and then reads what is kept, shows it and sends it to the tracker."""
        rows = partial(self._rows, self.state.cycle, self.state.step_in_pass)
        self.run.note_step("PEAC", losses, self.gradient_norm, rows)
        if self.state.step % self.args.logging_steps == 0:
            read, rate = self._read_losses(), self.schedules.learning_rate(self.state)
            self.accelerator.log({**read, "learning_rate": rate, "teacher_momentum": momentum}, step=self.state.step)

    def _read_losses(self) -> dict[str, float]:
        """As [`Run.read_losses`]; shows the last beside the bar."""
        losses = self.run.read_losses()
        if losses:
            where = f"epoch {self.state.cycle + 1}/{self.args.epochs}"
            self.run.progress.set_postfix_str(f"{where}, loss {losses['total']:.4f}", False)
        return losses

    # The end of an epoch ------------------------------------------------------------------------------------------

    def _finish_epoch(self, started: float) -> None:
        self._read_losses()
        entry = {
            "epoch": self.state.cycle + 1,
            "step": self.state.step,
            "seconds": round(time.monotonic() - started, 1),
            "train": {key: float(np.mean(values)) for key, values in self.state.pass_losses.items()},
            "validation": self.validate(),
        }
        self.state.history.append(entry)
        self._watch()
        self.state.cycle, self.state.step_in_pass, self.state.pass_losses = self.state.cycle + 1, 0, {}
        total = entry["validation"]["total"]
        improved = not math.isnan(total) and (self.state.best is None or total < self.state.best["total"])
        if improved:
            self.state.best = {"epoch": self.state.cycle, "total": total}
        self.accelerator.log(
            {f"validation/{key}": value for key, value in entry["validation"].items()}, step=self.state.step
        )
        self.run.print(
            f"epoch {self.state.cycle}/{self.args.epochs}: loss {entry['train']['total']:.4f}, validation {total:.4f}"
        )
        self.save_models(improved)
        self.write_metrics()
        self._draw()
        self.run.end_step(True)

    def _watch(self) -> None:
        """Reports losses that explode, and a teacher that becomes worse, by the newest entry of the history."""
        remedy, best = "Lower learning_rate, in another output_dir.", self.state.best
        if best is not None:
            remedy += f" {self.output_dir / 'best'} has the teacher of epoch {best['epoch']}."
        entry = self.state.history[-1]
        self.run.watch_losses({"PEAC": entry["train"]["total"]}, remedy)
        self.run.watch_teacher([each["validation"] for each in self.state.history], "total", entry["epoch"], remedy)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """
        The losses of training, means over the validation splits in the same crops and distortions after every epoch;
        NaN where no dataset has such a split.
        """
        student = self.accelerator.unwrap_model(self.student).eval()
        objective = Objective(self.args.weights, "release_validation" in self.args.reproduce)
        device, size = self.accelerator.device, self.args.eval_batch_size or self.args.batch_size
        sums, counts = torch.zeros(len(TERMS), device=device), torch.zeros(2, device=device)
        embeddings = Spread()
        for data in self.data:
            if "validation" not in data.splits:
                continue
            name = "validation", data.task.name
            samples = self.loader.samples[name]
            numbers = np.arange(len(samples))
            cut = [numbers[start : start + size] for start in range(0, len(numbers), size)]
            mine = [
                (name, group[self.accelerator.process_index])
                for each in cut
                for group in micro_batches(each, self.accelerator.num_processes, 1)
            ]
            for batch in map(samples.normalise, self.loader.load(mine, 0), [device] * len(mine)):
                with self.accelerator.autocast():
                    sums += self._losses(student, batch, torch.ones_like(counts), objective, embeddings)
                counts += objective.counts(batch)
        sums, counts = self.accelerator.reduce((sums, counts), "sum")
        pictures, matches = counts.tolist()
        if not pictures:
            return dict.fromkeys((*TERMS, "total"), math.nan)
        means = self._named(sums / sums.new_tensor([pictures, pictures, pictures, max(matches, 1)]))
        named = {name: loss.item() for name, loss in means.items()}
        self.run.check_finite(named["total"], "PEAC in validation", self.state.step)
        if embeddings.is_constant():
            self.run.report("all embeddings of the teacher are the same", "PEAC", self.state.step)
        return named

    def save_models(self, improved: bool = False) -> None:
        """Writes the teacher's encoder as `ark-cxr`, and if it has `improved` as `best`, and that of the `student`."""
        self.save_model("ark-cxr", self.teacher)
        self.save_model("student", self.accelerator.unwrap_model(self.student))
        if improved:
            self.save_model("best", self.teacher)

    def save_model(self, name: str, model: PeacModel) -> None:
        """Writes an encoder into the run's folder, its heads beside it."""

        def write(folder: Path) -> None:
            model.ark.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            save_heads(model.heads, folder)
            write_provenance(folder, "self-supervision", self._provenance())

        self.run.save_model(name, write)

    def _provenance(self) -> dict[str, Any]:
        settings = {key: value for key, value in self.run.settings.items() if key not in ("init", "data", CONTENTS)}
        own = ("backbone", "backbone_kwargs", "image_size", "drop_path_rate")  # of the model, whatever the recipe says
        settings |= {name: getattr(self.teacher.config, name) for name in own}
        last = self.state.history[-1]
        return {
            **self.start.facts,
            **({"best": self.state.best} if self.state.best else {}),
            "method": "peac",
            "settings": settings,
            "data": [{"task": data.task.name, **data.facts} for data in self.data],
            "compute": compute_facts(
                self.accelerator.device,
                self.run.count_seconds(),
                self.accelerator.num_processes,
                self.accelerator.mixed_precision,
            ),
            "epoch": last["epoch"],
            "validation": last["validation"],
        }

    def write_metrics(self) -> None:
        """Writes `metrics.json`: settings and history."""
        metrics = {
            "settings": self.run.settings,
            "best": self.state.best,
            SHARED_KEY: [each for data in self.data for each in data.facts.get(SHARED_KEY, ())],
            "history": self.state.history,
        }
        self.run.write_metrics(metrics)

    def _draw(self) -> None:
        is_due = self.state.cycle == self.args.epochs or time.monotonic() - self._drawn_at > SECONDS_BETWEEN_FIGURES
        if is_due and self.accelerator.is_main_process:
            write_losses(self.output_dir, self.state.history)
            write_restored(self.output_dir, self._restored(), self.processor)
            self._drawn_at = time.monotonic()

    @torch.no_grad()
    def _restored(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of some pictures the first crop as the student sees it, as the student restores it, and as it is."""
        held_out = [data for data in self.data if "validation" in data.splits]
        data, split = (held_out[0], "validation") if held_out else (self.data[0], "train")
        name = split, data.task.name
        samples = self.loader.samples[name]
        (batch,) = self.loader.load([(name, np.arange(min(PICTURES_SHOWN, len(samples))))], 0)
        batch = samples.normalise(batch, self.accelerator.device)
        student = self.accelerator.unwrap_model(self.student).eval()
        seen = student.permuted(batch["first"], batch["permutation"])
        return seen, student(batch["first"], batch["second"], batch["permutation"]).restored, batch["target"]

    def _settings(self) -> dict[str, Any]:
        settings = {key: value for key, value in self.args.to_dict().items() if key not in RUN_TIME_SETTINGS}
        if self.args.drop_path_rate is None:
            settings["drop_path_rate"] = DEFAULT_DROP_PATH_RATE
        settings["data"] = [_data_settings(each) for each in self.data]
        settings[CONTENTS] = {each.task.name: each.digest() for each in self.data}
        settings["num_processes"] = self.accelerator.num_processes
        return settings


def _data_settings(data: TaskDataset) -> dict[str, Any]:
    """What must stay as it is for a run to be resumed."""
    train = data.splits["train"]
    settings = {"name": data.task.name, "train_samples": len(train)}
    return settings | ({"layout": train.layout} if isinstance(train, StreamedRows) else {})
