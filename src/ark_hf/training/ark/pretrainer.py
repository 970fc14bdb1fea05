"""Cyclic pretraining of Ark (Ma et al., MICCAI 2023, section 2; Ark+; specification of the originals, section 5)."""

import math
import sys
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from ...data.leaks import SHARED_KEY, mark_shared_images, mark_trained_before
from ...data.loader import Loader, to_device
from ...data.loading import InferenceSamples, TrainingSamples, ViewSettings, default_num_workers, micro_batches
from ...data.open_dataset import TaskDataset
from ...data.streaming import StreamedRows
from ...data.views import resize_side
from ...models.ark.configuration_ark import ArkTask
from ...models.ark.image_processing_ark import ArkImageProcessor
from ...models.ark.modeling_ark import ArkForImageClassification
from ...models.compile_blocks import compile_blocks
from ...provenance import compute_facts, write_provenance
from ..checkpoint import CONTENTS
from ..curves import Curve, write_curves
from ..ema import MovingAverage, batch_norms, batch_statistics, share_statistics
from ..health import clip_gradient
from ..initial_weights import ARCHITECTURE, DEFAULT_DROP_PATH_RATE, processor_of
from ..optimizer import create_optimizer
from ..run import RUN_TIME_SETTINGS, Run, create_accelerator, default_values, describe_model, seed_step, start_folder
from ..sharding import (
    WholeState,
    begin_states,
    check_sharding,
    gathered,
    prepare_to_shard,
    shard_as,
    whole_weights,
)
from .curriculum import MixedPass, MixedSamples, TaskPass, check_can_mix, plan_cycle
from .growth import earlier_tasks, growth_table
from .objective import Objective
from .quirks import bce_everywhere, teacher_train_until_test, zero_idle_grads
from .recipe import PretrainingArguments
from .schedules import Schedules
from .start import Start, build_start, own_start, read_start, write_start
from .tasks import describe_modalities
from .validation import validate

SECONDS_BETWEEN_CURVES = 60  # drawing takes longer than a small cycle


class CyclicPretrainer:
    """
    Trains a student on one task after another, in cycles, and an EMA teacher that the student is held close to.

    A cycle is one pass over every task, then a validation. The teacher starts as a copy of the student and is always
    in eval mode. What the releases do otherwise is off unless `args.reproduce` names it; see quirks.py. With another
    `args.strategy` the passes mix the tasks; see curriculum.py.

    A task without train rows is only evaluated. Where the model goes on from one that knew some of the tasks, the
    first entry of the history is of cycle 0, before any step. The best model is that of the highest mean over all
    tasks that are validated, trained or not: what forgets is not best.

    Where the run folder holds a checkpoint, models and `state` are those of the newest.

    Args:
        args: The settings.
        tasks: The tasks in the order of training, which is the order of the heads.
        student: The model to train; by default the one that `args.init` asks for.
        processor: Makes the teacher's view and normalises the student's; by default a resize to the model's size.
        accelerator: For a tracker or plugin of your own; by default made from `args`.
        teacher: With `reproduce: [independent_teacher]` and a `student` of your own, the teacher beside it.
        facts: Of a `student` of your own what cards tell of its start: see [`start_facts`].

    Raises:
        ValueError: Settings, models and tasks do not fit each other, images that are trained on are held out too, or a
            run with others is in the folder.
    """

    def __init__(
        self,
        args: PretrainingArguments,
        tasks: list[TaskDataset],
        student: ArkForImageClassification | None = None,
        processor: ArkImageProcessor | None = None,
        accelerator: Accelerator | None = None,
        teacher: ArkForImageClassification | None = None,
        facts: Mapping[str, Any] | None = None,
    ):
        self.args, self.tasks = args, mark_shared_images(tasks, args.allow_shared_images)
        self.curriculum = plan_cycle(args.strategy, self.tasks)
        self.passes = self.curriculum.passes
        self.output_dir = Path(args.output_dir)
        self.accelerator = accelerator or create_accelerator(args.mixed_precision, args.log_with, self.output_dir)
        check_sharding(self.accelerator, args.method)
        self.is_sharded = self.accelerator.is_fsdp2
        workers = args.dataloader_num_workers
        self.num_workers = default_num_workers(self.accelerator.device) if workers is None else workers
        if "lr_by_val_loss" in args.reproduce and not any(data.has_known_label("validation") for data in tasks):
            raise ValueError("reproduce: lr_by_val_loss needs a task whose validation split has a known label.")
        self.start = self._start(student, teacher, facts)
        self.tasks = mark_trained_before(self.tasks, self.start.facts, args.allow_shared_images)
        student, self.teacher = self.start.student, self.start.teacher
        self.earlier = earlier_tasks(self.curriculum, self.start.heads, args.init)
        learning = {task.name for each in self.passes for task in each.learners}
        for name, head in student.heads.items():
            if name not in learning:  # in mixed batches it would have gradients of 0, and with them weight decay
                head.requires_grad_(False)
        size = student.config.image_size
        self.processor = processor or processor_of(student, self.start.processor)
        check_can_mix(args.strategy, self.tasks, self.processor)
        resize = args.resize_size or resize_side(size)
        if resize < size:
            raise ValueError(f"resize_size {resize} is smaller than the model's image_size {size}.")
        self.views = ViewSettings(resize, size, args.min_crop_scale, args.teacher_view)
        if args.attn_implementation is not None:
            for model in (student, self.teacher):
                model.set_attn_implementation(args.attn_implementation)
        if args.channels_last:
            student.to(memory_format=torch.channels_last)
            self.teacher.to(memory_format=torch.channels_last)
        self.teacher.to(self.accelerator.device).eval().requires_grad_(False)
        if args.gradient_checkpointing:
            student.activation_checkpointing_enable()
        device = self.accelerator.device
        optimizer = create_optimizer(student, args.optim, args.learning_rate, args.weight_decay, device)
        self.optimizer: Any
        self.student: Any
        if self.is_sharded:
            prepare_to_shard(self.accelerator, student)
        self.student, self.optimizer = self.accelerator.prepare(student, optimizer)
        if self.is_sharded:
            shard_as(self.student, self.teacher)
            begin_states(self.optimizer.optimizer)
        self.average = MovingAverage(self.teacher, self.accelerator.unwrap_model(self.student))
        # By its averages the teacher's embeddings would be larger than the student's, who would chase them for ever
        self.norms_by_batch = batch_norms(self.teacher) if args.teacher_batch_norm == "batch" else []
        self.loader = Loader(self._samples, self.num_workers, device)
        if args.torch_compile:
            compile_blocks(student)
            compile_blocks(self.teacher)
        self.schedules = Schedules(args, len(self.passes), sum(self.steps_in_pass(each) for each in self.passes))
        self.accelerator.register_for_checkpointing(WholeState(self.teacher) if self.is_sharded else self.teacher)
        self.run = Run(
            self.output_dir,
            self.accelerator,
            self._settings(),
            default_values(PretrainingArguments) | {"sharded": False, "teacher_batch_norm": "running"},
            args.save_total_limit,
            self._write_start,
        )
        self.state = self.run.state
        self.run.resume()

    def _start(
        self,
        student: ArkForImageClassification | None,
        teacher: ArkForImageClassification | None,
        facts: Mapping[str, Any] | None,
    ) -> Start:
        if student is not None or teacher is not None:
            return own_start(self.args, student, teacher, facts)
        saved = start_folder(self.output_dir, self.args.method)
        return build_start(self.args, self.curriculum.heads) if saved is None else read_start(saved)

    def _samples(self) -> dict[Hashable, Any]:
        """All that a cycle loads, by its part and the name of the pass or task."""
        samples: dict[Hashable, Any] = {("train", name): each for name, each in self.train_samples().items()}
        validation: list[Any] = [*self.validation_samples()]
        return samples | {("validation", each.task.name): each for each in validation}

    def train_samples(self) -> dict[str, TrainingSamples | MixedSamples]:
        """The training samples of each pass by its name; the passes of mixed tasks are parts of the same ones."""
        return {each.name: each.samples(self.processor, self.views, self.args.seed) for each in self.passes}

    def _write_start(self, folder: Path) -> None:
        write_start(folder, self.teacher.config, self.processor, self.start)

    def steps_in_pass(self, data: TaskPass | MixedPass) -> int:
        return math.ceil(data.num_samples / self.args.batch_size)

    # Running ------------------------------------------------------------------------------------------------------

    def train(self) -> ArkForImageClassification:
        """
        Runs to the last cycle, from the newest checkpoint in the run folder if there is one.

        Returns:
            The teacher, which is also in `output_dir/ark-cxr`.
        """
        self.run.begin(self.args.to_dict())
        self._drawn_at = time.monotonic()
        self.accelerator.print(self.describe(), file=sys.stderr)
        with self.run.sitting(), self.run.bar("pretraining", self.schedules.total_steps), self.loader:
            if self.earlier and self.state.step == 0 and not self.state.history:
                self.state.history.append(self._measure(0, time.monotonic()))
            while self.state.cycle < self.args.cycles:
                started = time.monotonic()
                for _ in self.cycle_steps():
                    is_due = self.state.step % self.args.save_steps == 0
                    self.run.end_step(is_due and self.state.task_index < len(self.passes))
                self._finish_cycle(started)
        if self.earlier and self.state.history[0]["cycle"] == 0:
            self.accelerator.print(growth_table(self.state.history, self.earlier))
        self.run.tell_outcome({"kind": "pretraining", **self._provenance("teacher")})
        self.accelerator.end_training()
        return self.teacher

    def describe(self) -> str:
        """What is trained, on what and for how long."""
        student = self.accelerator.unwrap_model(self.student)
        processes, precision = self.accelerator.num_processes, self.accelerator.mixed_precision
        images = sum(each.num_samples for each in self.passes)
        tasks = ", ".join(f"{each.name} ({each.num_samples:,})" for each in self.passes)
        return (
            f"{describe_model(student, self.accelerator.device, processes, precision)}\n"
            f"Data: {images:,} images a cycle: {tasks}.\n{describe_modalities(self.tasks)}"
            f"Steps: {self.schedules.total_steps:,} of {self.args.batch_size:,} images, "
            f"{self.schedules.steps_in_cycle:,} in each of {self.args.cycles:,} cycles."
        )

    def run_cycle(self) -> dict[str, float]:
        """
        The present cycle from where `state` is to its end, without validation and without a word to the disk; but in
        a [`Run.sitting`] a signal ends it with a checkpoint.

        `state`, `student`, `teacher` and `optimizer` are then those at the next cycle's start: the caller's to keep,
        as is `loader`, to be closed after the last.

        Returns:
            The cycle's mean losses, by `PASS/task_loss` and `PASS/consistency_loss`; its images are
            `sum(each.num_samples for each in passes)`.
        """
        for _ in self.cycle_steps():
            self.run.end_step(False)
        return self._begin_next_cycle()

    def cycle_steps(self) -> Iterator[None]:
        """Takes the steps that are left of the cycle; hands over after each, when `state` is that of the next."""
        while self.state.task_index < len(self.passes):
            yield from self._pass_steps(self.passes[self.state.task_index])

    def _pass_steps(self, data: TaskPass | MixedPass) -> Iterator[None]:
        self.student.train()
        if "teacher_train_until_test" in self.args.reproduce:
            teacher_train_until_test(self.teacher, self.state.cycle)
        self._show(data)
        for batches in self.train_batches(data, self.state.step_in_pass):
            momentum = self.schedules.teacher_momentum(self.state)
            losses = self._train_step(data, batches)
            if self.args.ema_mode == "iteration":
                self._update_teacher(momentum)
            self.log_step(data, losses, momentum)
            self.state.step += 1
            self.state.step_in_pass += 1
            self.run.progress.update()
            if self.state.step_in_pass < self.steps_in_pass(data):
                yield
        self._show(data, self.run.read_losses())
        if self.args.ema_mode == "epoch":
            self._update_teacher(self.schedules.teacher_momentum(self.state))
        self.state.task_index += 1
        self.state.step_in_pass = 0
        yield

    def _show(self, data: TaskPass | MixedPass, losses: Mapping[str, float] | None = None) -> None:
        """Beside the bar where the run is, and the loss that was last read."""
        where = f"cycle {self.state.cycle + 1}/{self.args.cycles}, {data.name}"
        if losses is None:
            self.run.progress.set_postfix_str(where)
        elif losses:
            self.run.progress.set_postfix_str(f"{where}, loss {losses[f'{data.name}/task_loss']:.4f}", False)

    def train_batches(self, data: TaskPass | MixedPass, first_step: int) -> Iterator[list[dict[str, torch.Tensor]]]:
        """For each remaining step of the pass, this process's micro-batches; see [`TrainingSamples.normalise`]."""
        order = data.order(self.args.seed, self.state.cycle)
        size = self.args.batch_size
        plan = [
            micro_batches(
                order[start : start + size], self.accelerator.num_processes, self.args.gradient_accumulation_steps
            )
            for start in range(first_step * size, len(order), size)
        ]
        mine = [group[self.accelerator.process_index] for groups in plan for group in groups]
        name = "train", data.name
        loaded = self.loader.load([(name, numbers) for numbers in mine], self.state.cycle)
        for groups in plan:
            try:
                batches = [next(loaded) for _ in groups]
            except OSError as error:  # a stream has broken off
                raise OSError(f"{error}{self.run.what_is_kept()}") from error
            yield [self.loader.samples[name].normalise(batch, self.accelerator.device) for batch in batches]

    def criterion(self, labels: torch.Tensor, task: ArkTask) -> tuple[torch.Tensor, str]:
        """The labels and the problem type that the loss is computed with, in training and in validation."""
        return bce_everywhere(labels, task) if "bce_everywhere" in self.args.reproduce else (labels, task.problem_type)

    def _train_step(self, data: TaskPass | MixedPass, batches: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """One optimiser step; returns the global means of the losses before it, scalars on the device."""
        coefficient = self.schedules.consistency_coefficient(self.state)
        device = self.accelerator.device
        objective = Objective(data.learners, self.teacher.config.tasks or [], self.criterion)
        batches = [to_device(batch, device) for batch in batches]
        for batch in batches:
            batch["labels"] = _without_padding(batch["labels"], batch["weight"])
        counts = sum(objective.counts(batch["labels"]) for batch in batches)
        num_samples = sum(batch["weight"].sum() for batch in batches)
        counts, num_samples = self.accelerator.reduce((counts, num_samples), "sum")

        for group in self.optimizer.param_groups:
            group["lr"] = self.schedules.learning_rate(self.state)
        totals = torch.zeros(2, device=device)
        for number, batch in enumerate(batches):
            seed_step(self.args.seed, self.state.step, number, self.accelerator.process_index)
            last = number == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.student):
                with self.accelerator.autocast():  # which accelerate leaves out where it shards
                    outputs = self.student(batch["pixel_values"], task=objective.head)
                with torch.no_grad(), self.accelerator.autocast(), batch_statistics(self.norms_by_batch):
                    # Sharded weights are gathered for a call of the whole model alone
                    target = self.teacher(batch["teacher_pixel_values"], task=objective.head).embeddings
                task_loss = objective.loss(outputs.logits, batch["labels"], counts)
                distance = F.mse_loss(outputs.embeddings.float(), target.float(), reduction="none").mean(dim=1)
                consistency = (distance * batch["weight"]).sum() / num_samples
                loss = (1 - coefficient) * task_loss + coefficient * consistency
                # DDP averages the gradients over processes; the losses are already divided by the global counts
                self.accelerator.backward(loss * self.accelerator.num_processes)
            totals += torch.stack([task_loss.detach(), consistency.detach()])
        self.gradient_norm = clip_gradient(self.accelerator, [*self.student.parameters()], self.args.max_grad_norm)
        if "zero_idle_grads" in self.args.reproduce:
            zero_idle_grads(self.optimizer)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        task_loss, consistency = self.accelerator.reduce(totals, "sum")
        return {"task_loss": task_loss, "consistency_loss": consistency, "coefficient": coefficient}

    def _update_teacher(self, momentum: float) -> None:
        student = self.accelerator.unwrap_model(self.student)
        share_statistics(student, self.accelerator)
        self.average.update(momentum)

    def log_step(self, data: TaskPass | MixedPass, losses: dict[str, Any], momentum: float) -> None:
        """Keeps the step's losses; now and then reads what is kept, shows it and sends it to the tracker."""
        noted = {f"{data.name}/{key}": losses[key] for key in ("task_loss", "consistency_loss")}
        rows = partial(self._rows, data, self.state.cycle, self.state.step_in_pass)
        self.run.note_step(f"task {data.name!r}", noted, self.gradient_norm, rows)
        if self.state.step % self.args.logging_steps == 0:
            read = self.run.read_losses()
            self._show(data, read)
            values = read | {f"{data.name}/coefficient": losses["coefficient"], "teacher_momentum": momentum}
            self.accelerator.log(
                values | {"learning_rate": self.schedules.learning_rate(self.state)}, step=self.state.step
            )

    def _rows(self, data: TaskPass | MixedPass, cycle: int, step: int) -> dict[str, list[int]]:
        """The training rows of a step of a pass, by task."""
        size = self.args.batch_size
        return data.rows(data.order(self.args.seed, cycle)[step * size : (step + 1) * size])

    # The end of a cycle -------------------------------------------------------------------------------------------

    def _finish_cycle(self, started: float) -> None:
        self.teacher.eval()  # until here, teacher_train_until_test may have had it in train mode
        self.state.history.append(self._measure(self.state.cycle + 1, started))
        self.watch_teacher()
        self._begin_next_cycle()
        validation = self.state.history[-1]["validation"]
        mean = validation["teacher"]["mean_auroc"]
        improved = not math.isnan(mean) and (self.state.best is None or mean > self.state.best["mean_auroc"])
        if improved:
            self.state.best = {"cycle": self.state.cycle, "mean_auroc": mean}
        self.accelerator.log(
            {
                f"validation/{name}_{figure}": values[figure]
                for name, values in validation.items()
                for figure in ("mean_loss", "mean_auroc")
            },
            step=self.state.step,
        )
        self.run.print(
            f"cycle {self.state.cycle}/{self.args.cycles}: validation AUROC teacher {mean:.4f}, "
            f"student {validation['student']['mean_auroc']:.4f}"
        )
        self.save_models(improved)
        self.write_metrics()
        self._draw_curves()
        self.run.end_step(True)

    def _draw_curves(self) -> None:
        is_due = self.state.cycle == self.args.cycles or time.monotonic() - self._drawn_at > SECONDS_BETWEEN_CURVES
        if is_due and self.accelerator.is_main_process:
            write_curves(self.output_dir, *history_curves(self.state.history))
            self._drawn_at = time.monotonic()

    def _begin_next_cycle(self) -> dict[str, float]:
        """Sets `state` to the start of the next cycle; the mean losses of the one that is over."""
        losses = {key: float(np.mean(values)) for key, values in self.state.pass_losses.items()}
        self._watch_losses(losses)
        self.state.cycle += 1
        self.state.pass_losses = {}
        self.state.task_index = 0
        return losses

    def _watch_losses(self, means: Mapping[str, float]) -> None:
        """Reports what of the tasks' losses, task and consistency together, has exploded in the cycle."""
        share = self.schedules.consistency_coefficient(self.state)
        names = [key.removesuffix("/task_loss") for key in means if key.endswith("/task_loss")]
        whole = {
            f"task {name!r}": (1 - share) * means[f"{name}/task_loss"] + share * means[f"{name}/consistency_loss"]
            for name in names
        }
        self.run.watch_losses(whole, self._remedy())

    def watch_teacher(self) -> None:
        """Reports a teacher whose last validation is clearly worse than an earlier one."""
        found = [each["validation"]["teacher"] for each in self.state.history if each["cycle"]]
        self.run.watch_teacher(found, "mean_auroc", self.state.history[-1]["cycle"], self._remedy())

    def _remedy(self) -> str:
        """Against losses that explode, and teachers that become worse."""
        remedy = "Lower learning_rate or consistency, in another output_dir."
        if self.args.teacher_batch_norm == "running" and batch_norms(self.teacher):
            remedy = "Set teacher_batch_norm to batch, in another output_dir; see docs/divergence.md."
        best = self.state.best
        return f"{remedy} {self.output_dir / 'best'} has the teacher of cycle {best['cycle']}." if best else remedy

    def _measure(self, cycle: int, started: float) -> dict[str, Any]:
        """The entry of the history for a cycle that is over; 0 for the model before any step."""
        return {
            "cycle": cycle,
            "step": self.state.step,
            "seconds": round(time.monotonic() - started, 1),
            "train": {key: float(np.mean(values)) for key, values in self.state.pass_losses.items()},
            "validation": self.validate(),
        }

    def validate(self) -> dict[str, dict[str, Any]]:
        """Loss and AUROC of student and teacher on the validation splits; [`validation.validate`] says which."""
        models = {"student": self.accelerator.unwrap_model(self.student), "teacher": self.teacher}
        with gathered(list(models.values())):
            found = validate(
                models,
                self.validation_samples(),
                self.criterion,
                self.accelerator,
                self.args.eval_batch_size or self.args.batch_size,
                self.loader,
            )
        for role, of_role in found.items():
            for task, figures in of_role["tasks"].items():
                if figures["constant"]:
                    self.run.report(f"all outputs of the {role} are the same", f"task {task!r}", self.state.step)
        return found

    def validation_samples(self) -> list[InferenceSamples] | list[MixedSamples]:
        """The validation split of each task that has one, or of a merged head."""
        return self.curriculum.validation_samples(self.processor)

    def save_models(self, improved: bool = False) -> None:
        """Writes the teacher as `ark-cxr`, and if it has `improved` as `best`, and the `student`."""
        student = self.accelerator.unwrap_model(self.student)
        self.save_model("ark-cxr", self.teacher, "teacher")
        self.save_model("student", student, "student")
        if improved:
            self.save_model("best", self.teacher, "teacher")

    def save_model(self, name: str, model: ArkForImageClassification, role: str) -> None:
        """Writes a model into the run's folder, with the last validation of that role in its notes."""
        weights = whole_weights(model)

        def write(folder: Path) -> None:
            model.save_pretrained(folder, state_dict=weights)
            self.processor.save_pretrained(folder)
            write_provenance(folder, "pretraining", self._provenance(role))

        self.run.save_model(name, write)

    def _provenance(self, role: str) -> dict[str, Any]:
        settings = {key: value for key, value in self.run.settings.items() if key not in ("init", "tasks", CONTENTS)}
        own = (*ARCHITECTURE, "image_size", "drop_path_rate")  # of the model, whatever the recipe leaves to it
        settings |= {name: getattr(self.teacher.config, name) for name in own}
        last = self.state.history[-1]
        best = {"best": self.state.best} if role == "teacher" and self.state.best else {}
        return {
            **self.start.facts,
            **best,
            "settings": settings,
            "data": [{"task": data.task.name, **data.facts, "uncertain": data.uncertain} for data in self.tasks],
            "compute": compute_facts(
                self.accelerator.device,
                self.run.count_seconds(),
                self.accelerator.num_processes,
                self.accelerator.mixed_precision,
            ),
            "cycle": last["cycle"],
            "validation": last["validation"][role],
        }

    def write_metrics(self) -> None:
        """Writes `metrics.json`: settings and history."""
        metrics = {
            "settings": self.run.settings,
            "best": self.state.best,
            "earlier_tasks": self.earlier,
            SHARED_KEY: [each for data in self.tasks for each in data.facts.get(SHARED_KEY, ())],
            "history": self.state.history,
        }
        self.run.write_metrics(metrics)

    def _settings(self) -> dict[str, Any]:
        settings = {key: value for key, value in self.args.to_dict().items() if key not in RUN_TIME_SETTINGS}
        if self.args.drop_path_rate is None:  # as earlier versions wrote it
            settings["drop_path_rate"] = DEFAULT_DROP_PATH_RATE
        settings["tasks"] = [_task_settings(data) for data in self.tasks]
        settings[CONTENTS] = {data.task.name: data.digest() for data in self.tasks}
        settings["num_processes"] = self.accelerator.num_processes
        settings["sharded"] = self.is_sharded
        if not batch_norms(self.teacher):  # the two are one, and runs of earlier versions go on
            del settings["teacher_batch_norm"]
        return settings


def _task_settings(data: TaskDataset) -> dict[str, Any]:
    """What must stay as it is for a run to be resumed."""
    train = data.splits.get("train")
    settings = {"uncertain": data.uncertain, "train_samples": 0 if train is None else len(train)}
    if isinstance(train, StreamedRows):
        settings["layout"] = train.layout
    return {**data.task.to_dict(), **settings}


def history_curves(history: list[dict[str, Any]]) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Of a run's history the training loss of each pass, and the mean validation AUROCs, by step."""
    names = dict.fromkeys(key for entry in history for key in entry["train"] if key.endswith("/task_loss"))
    losses: dict[str, Curve] = {
        name.removesuffix("/task_loss"): [(e["step"], e["train"][name]) for e in history if name in e["train"]]
        for name in names
    }
    aurocs: dict[str, Curve] = {
        who: [(entry["step"], entry["validation"][who]["mean_auroc"]) for entry in history]
        for who in ("teacher", "student")
    }
    return losses, aurocs


def _without_padding(labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    padding = (weight == 0).reshape(-1, *[1] * (labels.ndim - 1))
    return labels.masked_fill(padding, torch.nan if labels.is_floating_point() else -100)
