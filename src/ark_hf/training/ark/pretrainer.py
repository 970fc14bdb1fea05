"""Cyclic pretraining of Ark (Ma et al., MICCAI 2023, section 2; Ark+; specification of the originals, section 5)."""

import copy
import functools
import math
import time
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from ...data.loading import InferenceSamples, ViewSettings, default_num_workers, iterate, micro_batches
from ...data.views import resize_side
from ...files import replace_folder, write_json
from ...models.ark.configuration_ark import ArkTask
from ...models.ark.image_processing_ark import ArkImageProcessor
from ...models.ark.modeling_ark import ArkForImageClassification
from ...provenance import compute_facts, write_provenance
from ..checkpoint import load_newest_checkpoint, save_checkpoint
from ..initial_weights import build_student, start_facts
from ..optimizer import create_optimizer
from .curriculum import MixedPass, MixedSamples, plan_cycle
from .ema import update_teacher
from .growth import earlier_tasks, growth_table
from .objective import Objective
from .quirks import bce_everywhere, independent_teacher, teacher_train_until_test, zero_idle_grads
from .recipe import PretrainingArguments
from .schedules import Schedules, TrainerState
from .tasks import TaskData
from .validation import validate

# May differ between the runs that make up a resumed one: they change where or how fast it runs, not its result
RUN_TIME_SETTINGS = (
    "output_dir", "data_root", "dataloader_num_workers", "eval_batch_size", "save_steps", "save_total_limit",
    "log_with", "logging_steps",
)  # fmt: skip


class CyclicPretrainer:
    """
    Trains a student on one task after another, in cycles, and an EMA teacher that the student is held close to.

    A cycle is one pass over every task, then a validation. The teacher starts as a copy of the student and is always
    in eval mode. What the releases do otherwise is off unless `args.reproduce` names it; see quirks.py. With another
    `args.strategy` the passes mix the tasks; see baselines.py.

    A task without train rows is only evaluated. Where the model goes on from one that knew some of the tasks, the
    first entry of the history is of cycle 0, before any step. The best model is that of the highest mean over all
    tasks that are validated, trained or not: what forgets is not best.

    Args:
        args: The settings.
        tasks: The tasks in the order of training, which is the order of the heads.
        student: The model to train; by default the one that `args.init` asks for.
        processor: Makes the teacher's view and normalises the student's; by default a resize to the model's size.
        accelerator: For a tracker or plugin of your own; by default made from `args`.
        teacher: With `reproduce: [independent_teacher]` and a `student` of your own, the teacher beside it.

    Raises:
        ValueError: Settings, models and tasks do not fit each other.
    """

    def __init__(
        self,
        args: PretrainingArguments,
        tasks: list[TaskData],
        student: ArkForImageClassification | None = None,
        processor: ArkImageProcessor | None = None,
        accelerator: Accelerator | None = None,
        teacher: ArkForImageClassification | None = None,
    ):
        self.args, self.tasks = args, tasks
        self.curriculum = plan_cycle(args.strategy, tasks)
        self.passes = self.curriculum.passes
        self.output_dir = Path(args.output_dir)
        self.accelerator = accelerator or Accelerator(
            mixed_precision=args.mixed_precision,
            log_with=None if args.log_with == "none" else args.log_with,
            project_dir=args.output_dir,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        if args.log_with != "none" and accelerator is None and not self.accelerator.log_with:
            raise ValueError(f"log_with: the tracker {args.log_with!r} is not installed; install it or use none.")
        workers = args.dataloader_num_workers
        self.num_workers = default_num_workers(self.accelerator.device) if workers is None else workers
        if "lr_by_val_loss" in args.reproduce and not any(data.has_known_validation() for data in tasks):
            raise ValueError("reproduce: lr_by_val_loss needs a task whose validation split has a known label.")
        init = args.init if student is None else None
        student, self.teacher, saved_processor = self._initial_models(student, teacher)
        self.start = {} if init is None else start_facts(init)
        self.earlier = earlier_tasks(self.curriculum, init)
        learning = {task.name for each in self.passes for task in each.learners}
        for name, head in student.heads.items():
            if name not in learning:  # in mixed batches it would have gradients of 0, and with them weight decay
                head.requires_grad_(False)
        processor = processor or saved_processor
        size = student.config.image_size
        self.processor = processor or ArkImageProcessor(size={"height": size, "width": size})
        resize = args.resize_size or resize_side(size)
        if resize < size:
            raise ValueError(f"resize_size {resize} is smaller than the model's image_size {size}.")
        self.views = ViewSettings(resize, size, args.min_crop_scale, args.teacher_view)
        if args.channels_last:
            student.to(memory_format=torch.channels_last)
            self.teacher.to(memory_format=torch.channels_last)
        self.teacher.to(self.accelerator.device).eval().requires_grad_(False)
        if args.gradient_checkpointing:
            student.activation_checkpointing_enable()
        self.optimizer: Any
        self.student: Any
        self.student, self.optimizer = self.accelerator.prepare(student, create_optimizer(student, args))
        self.state = TrainerState()
        self.schedules = Schedules(args, len(self.passes), sum(self.steps_in_pass(data) for data in self.passes))
        self.accelerator.register_for_checkpointing(self.teacher, self.state)

    def _initial_models(
        self, student: ArkForImageClassification | None, teacher: ArkForImageClassification | None
    ) -> tuple[ArkForImageClassification, ArkForImageClassification, ArkImageProcessor | None]:
        independent, processor = "independent_teacher" in self.args.reproduce, None
        if (teacher is not None) != (independent and student is not None):
            raise ValueError(
                "With reproduce: [independent_teacher] a `student` of your own needs a `teacher`; in every other case "
                "the trainer makes the teacher."
            )
        if student is None:
            heads = self.curriculum.heads
            student, processor = build_student(self.args, heads)
            teacher = independent_teacher(self.args, heads) if independent else None
        if teacher is None:
            teacher = copy.deepcopy(student)
        if _shapes(teacher) != _shapes(student):
            raise ValueError("The teacher's architecture and heads must be the student's.")
        return student, teacher, processor

    def steps_in_pass(self, data: TaskData | MixedPass) -> int:
        return math.ceil(data.num_samples / self.args.batch_size)

    # Running ------------------------------------------------------------------------------------------------------

    def train(self) -> ArkForImageClassification:
        """
        Runs to the last cycle, from the newest checkpoint in the run folder if there is one.

        Returns:
            The teacher, which is also in `output_dir/ark-cxr`.
        """
        self.counted_until = time.monotonic()
        resumed = load_newest_checkpoint(self.accelerator, self.output_dir / "checkpoints", self._settings())
        if resumed is not None:
            self.accelerator.print(f"Resuming from {resumed} (cycle {self.state.cycle + 1}, step {self.state.step}).")
        if self.accelerator.is_main_process:
            self.output_dir.mkdir(parents=True, exist_ok=True)
        if self.accelerator.log_with:
            self.accelerator.init_trackers("ark-hf", config=_flat(self.args.to_dict()))
        with tqdm(
            total=self.schedules.total_steps,
            initial=self.state.step,
            desc="pretraining",
            unit="step",
            disable=not self.accelerator.is_main_process,
        ) as self.progress:
            if self.earlier and self.state.step == 0 and not self.state.history:
                self.state.history.append(self._measure(0, time.monotonic()))
            while self.state.cycle < self.args.cycles:
                started = time.monotonic()
                while self.state.task_index < len(self.passes):
                    self._run_pass(self.passes[self.state.task_index])
                self._finish_cycle(started)
        if self.earlier and self.state.history[0]["cycle"] == 0:
            self.accelerator.print(growth_table(self.state.history, self.earlier))
        self.accelerator.end_training()
        return self.teacher

    def _run_pass(self, data: TaskData | MixedPass) -> None:
        due = False
        self.student.train()
        if "teacher_train_until_test" in self.args.reproduce:
            teacher_train_until_test(self.teacher, self.state.cycle)
        self.progress.set_postfix_str(f"cycle {self.state.cycle + 1}/{self.args.cycles}, {data.name}")
        for batches in self.train_batches(data, self.state.step_in_pass):
            momentum = self.schedules.teacher_momentum(self.state)
            losses = self._train_step(data, batches)
            if self.args.ema_mode == "iteration":
                self._update_teacher(momentum)
            self.log_step(data, losses, momentum)
            self.state.step += 1
            self.state.step_in_pass += 1
            self.progress.update()
            due = self.state.step % self.args.save_steps == 0
            if due and self.state.step_in_pass < self.steps_in_pass(data):
                self._save_checkpoint()
        if self.args.ema_mode == "epoch":
            self._update_teacher(self.schedules.teacher_momentum(self.state))
        self.state.task_index += 1
        self.state.step_in_pass = 0
        if due and self.state.task_index < len(self.passes):
            self._save_checkpoint()

    def train_batches(self, data: TaskData | MixedPass, first_step: int) -> Iterator[list[dict[str, torch.Tensor]]]:
        """For each remaining step of the pass, this process's micro-batches; see [`TrainingSamples.normalise`]."""
        samples = data.samples(self.processor, self.views, self.args.seed, self.state.cycle)
        order = data.order(self.args.seed, self.state.cycle)
        size = self.args.batch_size
        plan = [
            micro_batches(
                order[start : start + size], self.accelerator.num_processes, self.args.gradient_accumulation_steps
            )
            for start in range(first_step * size, len(order), size)
        ]
        mine = [group[self.accelerator.process_index] for groups in plan for group in groups]
        loaded = iterate(samples, mine, self.num_workers)
        for groups in plan:
            try:
                batches = [next(loaded) for _ in groups]
            except OSError as error:  # a stream has broken off
                raise OSError(f"{error} The last checkpoint is intact: the same command goes on from it.") from error
            yield [samples.normalise(batch, self.accelerator.device) for batch in batches]

    def criterion(self, labels: torch.Tensor, task: ArkTask) -> tuple[torch.Tensor, str]:
        """The labels and the problem type that the loss is computed with, in training and in validation."""
        return bce_everywhere(labels, task) if "bce_everywhere" in self.args.reproduce else (labels, task.problem_type)

    def _train_step(self, data: TaskData | MixedPass, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        """One optimiser step; returns the global means of the losses before it."""
        coefficient = self.schedules.consistency_coefficient(self.state)
        device = self.accelerator.device
        objective = Objective(data.learners, self.teacher.config.tasks or [], self.criterion)
        batches = [{key: value.to(device) for key, value in batch.items()} for batch in batches]
        for batch in batches:
            batch["labels"] = _without_padding(batch["labels"], batch["weight"])
        counts = sum(objective.counts(batch["labels"]) for batch in batches)
        num_samples = sum(batch["weight"].sum() for batch in batches)
        counts, num_samples = self.accelerator.reduce((counts, num_samples), "sum")

        for group in self.optimizer.param_groups:
            group["lr"] = self.schedules.learning_rate(self.state)
        totals = torch.zeros(2, device=device)
        for number, batch in enumerate(batches):
            self._seed_step(number)
            last = number == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.student):
                outputs = self.student(batch["pixel_values"], task=objective.head)
                with torch.no_grad(), self.accelerator.autocast():
                    target = self.teacher.ark(batch["teacher_pixel_values"]).embeddings
                task_loss = objective.loss(outputs.logits, batch["labels"], counts)
                distance = F.mse_loss(outputs.embeddings.float(), target.float(), reduction="none").mean(dim=1)
                consistency = (distance * batch["weight"]).sum() / num_samples
                loss = (1 - coefficient) * task_loss + coefficient * consistency
                # DDP averages the gradients over processes; the losses are already divided by the global counts
                self.accelerator.backward(loss * self.accelerator.num_processes)
            totals += torch.stack([task_loss.detach(), consistency.detach()])
        if self.args.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.student.parameters(), self.args.max_grad_norm)
        if "zero_idle_grads" in self.args.reproduce:
            zero_idle_grads(self.optimizer)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        task_loss, consistency = self.accelerator.reduce(totals, "sum").tolist()
        if not math.isfinite(task_loss + consistency):
            raise FloatingPointError(
                f"The loss of task {data.name!r} is not finite at step {self.state.step}. Lower learning_rate, "
                "set max_grad_norm, or train without mixed precision. The last checkpoint is intact."
            )
        return {"task_loss": task_loss, "consistency_loss": consistency, "coefficient": coefficient}

    def _seed_step(self, number: int) -> None:
        # Stochastic depth draws from torch's global generator: seeded by position, a resumed run draws the same
        position = (self.args.seed, self.state.step, number, self.accelerator.process_index)
        torch.manual_seed(zlib.crc32(repr(position).encode()))

    def _update_teacher(self, momentum: float) -> None:
        student = self.accelerator.unwrap_model(self.student)
        if self.accelerator.num_processes > 1:  # each process has seen other images, and all must keep one teacher
            for module in student.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    for statistic in (module.running_mean, module.running_var):
                        statistic.copy_(self.accelerator.reduce(statistic, "mean"))
        update_teacher(self.teacher, student, momentum)

    def log_step(self, data: TaskData | MixedPass, losses: dict[str, float], momentum: float) -> None:
        """Keeps the pass's losses and sends them to the tracker now and then."""
        for key in ("task_loss", "consistency_loss"):
            self.state.pass_losses.setdefault(f"{data.name}/{key}", []).append(losses[key])
        if self.state.step % self.args.logging_steps == 0:
            values = {f"{data.name}/{key}": value for key, value in losses.items()}
            values |= {"learning_rate": self.schedules.learning_rate(self.state), "teacher_momentum": momentum}
            self.accelerator.log(values, step=self.state.step)

    # The end of a cycle -------------------------------------------------------------------------------------------

    def _finish_cycle(self, started: float) -> None:
        self.teacher.eval()  # until here, teacher_train_until_test may have had it in train mode
        self.state.history.append(self._measure(self.state.cycle + 1, started))
        self.state.cycle += 1
        self.state.pass_losses = {}
        self.state.task_index = 0
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
        self.progress.write(
            f"cycle {self.state.cycle}/{self.args.cycles}: validation AUROC teacher {mean:.4f}, "
            f"student {validation['student']['mean_auroc']:.4f}"
        )
        if self.accelerator.is_main_process:
            self._save_models(improved)
            write_json(self.output_dir / "metrics.json", self._metrics())
        self._save_checkpoint()

    def _measure(self, cycle: int, started: float) -> dict[str, Any]:
        """The entry of the history for a cycle that is over; 0 for the model before any step."""
        validation = {
            "student": self.validate(self.accelerator.unwrap_model(self.student), "student"),
            "teacher": self.validate(self.teacher, "teacher"),
        }
        return {
            "cycle": cycle,
            "step": self.state.step,
            "seconds": round(time.monotonic() - started, 1),
            "train": {key: float(np.mean(values)) for key, values in self.state.pass_losses.items()},
            "validation": validation,
        }

    def validate(self, model: ArkForImageClassification, name: str) -> dict[str, Any]:
        """Loss and AUROC on the validation splits; [`validation.validate`] says which."""
        return validate(
            model,
            self.validation_samples(),
            self.criterion,
            self.accelerator,
            self.args.eval_batch_size or self.args.batch_size,
            self.num_workers,
            name,
        )

    def validation_samples(self) -> list[InferenceSamples] | list[MixedSamples]:
        """The validation split of each task that has one, or of a merged head."""
        return self.curriculum.validation_samples(self.processor)

    def _save_models(self, improved: bool) -> None:
        self._count_seconds()
        student = self.accelerator.unwrap_model(self.student)
        models = {"ark-cxr": self.teacher, "student": student} | ({"best": self.teacher} if improved else {})
        for folder, model in models.items():
            replace_folder(self.output_dir / folder, functools.partial(self._save_model, model))

    def _save_model(self, model: ArkForImageClassification, folder: Path) -> None:
        model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        write_provenance(folder, "pretraining", self._provenance("teacher" if model is self.teacher else "student"))

    def _provenance(self, role: str) -> dict[str, Any]:
        settings = {key: value for key, value in self._settings().items() if key not in ("init", "tasks")}
        last = self.state.history[-1]
        return {
            **self.start,
            "settings": settings,
            "data": [{"task": data.name, **data.facts, "uncertain": data.uncertain} for data in self.tasks],
            "compute": compute_facts(
                self.accelerator.device,
                self.state.seconds,
                self.accelerator.num_processes,
                self.accelerator.mixed_precision,
            ),
            "cycle": last["cycle"],
            "validation": last["validation"][role],
        }

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self.counted_until
        self.counted_until = now

    def _metrics(self) -> dict[str, Any]:
        return {
            "settings": self._settings(),
            "best": self.state.best,
            "earlier_tasks": self.earlier,
            "history": self.state.history,
        }

    def _settings(self) -> dict[str, Any]:
        settings = {key: value for key, value in self.args.to_dict().items() if key not in RUN_TIME_SETTINGS}
        settings["tasks"] = [data.settings() for data in self.tasks]
        settings["num_processes"] = self.accelerator.num_processes
        return settings

    def _save_checkpoint(self) -> None:
        self._count_seconds()
        save_checkpoint(
            self.accelerator,
            self.output_dir / "checkpoints",
            self.state.step,
            self._settings(),
            self.args.save_total_limit,
        )


def _without_padding(labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    padding = (weight == 0).reshape(-1, *[1] * (labels.ndim - 1))
    return labels.masked_fill(padding, torch.nan if labels.is_floating_point() else -100)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, (int, float, str, bool)) else str(value) for key, value in settings.items()
    }
