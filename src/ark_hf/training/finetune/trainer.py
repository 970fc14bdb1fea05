"""The stock `Trainer` as fine-tuning uses it: reproducible views, masked losses, the best validation's weights."""

import functools
import math
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from ...data.loading import DrawnSamples, RowSamples, TrainingSamples, ViewSettings
from ...data.open_dataset import TaskDataset
from ...data.views import resize_side
from ...data.volume_samples import VolumeMaskTrainingSamples, VolumeSamples, VolumeTrainingSamples, inference_samples
from ...evaluation.scoring import evaluated_columns
from ...files import make_readable
from ...inference.predict import mean_probabilities
from ...models.ark.configuration_ark import ArkTask, SegmentationTask
from ...models.compile_blocks import compile_blocks
from ..checkpoint import seal
from ..health import gradient_norm, is_constant
from ..interruption import StopRequest
from ..run import create_accelerator, flat
from ..selection import label_aurocs
from .arguments import FinetuningArguments
from .data import cubes_per_sample
from .layerwise import freeze_encoder, parameter_groups
from .lora import add_adapters
from .losses import DIVERGED, UNKNOWN, FinetuningLoss, class_weights
from .segmentation import (
    MaskCounts,
    MaskLoss,
    MeanDice,
    shows_labels,
    training_samples,
    validation_samples,
    validation_scores,
)

TRAINER_STATE = "trainer_state.json"  # the last file of a checkpoint
SHOWN = {"loss": "loss", "eval_mean_auroc": "validation AUROC", "eval_mean_dice": "validation Dice"}


class TrainerSamples(TorchDataset):
    """
    Samples as `Trainer` and its collator take them: `pixel_values`, and `labels` with -100 for unknown. Of a batch of
    volumes there may be several cubes each.
    """

    def __init__(self, samples: RowSamples | VolumeSamples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: list[int]) -> list[dict[str, torch.Tensor]]:
        batch = self.samples.collate(self.samples.__getitems__(numbers))
        if isinstance(self.samples, DrawnSamples):
            batch = self.samples.normalise(batch, "cpu")
        labels = batch["labels"]
        if labels.is_floating_point() and not isinstance(self.samples.task, SegmentationTask):
            labels = labels.nan_to_num(nan=UNKNOWN)
        return [
            {"pixel_values": picture, "labels": label}
            for picture, label in zip(batch["pixel_values"], labels, strict=True)
        ]


class NewViews(TrainerCallback):
    """Has each epoch draw its own views, whatever the number of processes and wherever the run was resumed."""

    def __init__(self, samples: Any):  # of pictures or volumes, with a `cycle`
        self.samples = samples

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.samples.cycle = int(state.epoch)


class Progress(TrainerCallback):
    """One progress bar a run in the place of `Trainer`'s, which also prints a line for every value it logs."""

    def __init__(self, description: str):
        self.description = description

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.description,
            unit="step",
            disable=not state.is_world_process_zero,
        )

        self.shown: dict[str, str] = {}

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs, **kwargs):
        for name, shown in SHOWN.items():
            if name in logs:
                self.shown[shown] = f"{shown} {logs[name]:.4f}"
        self.bar.set_postfix_str(", ".join(self.shown.values()))

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log = True  # also where an epoch has fewer steps than lie between two values

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


class Tracking(TrainerCallback):
    """Sends what `Trainer` logs to a tracker, as pretraining does: through accelerate."""

    def __init__(self, settings: FinetuningArguments, seed: int, folder: Path):
        self.settings, self.seed, self.folder = settings, seed, folder

    def on_train_begin(self, args, state, control, **kwargs):
        self.accelerator = create_accelerator(self.settings.mixed_precision, self.settings.log_with, self.folder)
        config = self.settings.lasting_settings() | {"seed": self.seed}
        self.accelerator.init_trackers("ark-hf", config=flat(config))

    def on_log(self, args, state, control, logs, **kwargs):
        values = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        self.accelerator.log(values, step=state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.accelerator.end_training()


class Sealed(TrainerCallback):
    """Lets others read the checkpoints that they may have to go on from, and notes what is in them."""

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            make_readable(Path(args.output_dir))
            seal(Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))


class Stopping(TrainerCallback):
    """Saves a checkpoint when a signal asks the run to stop, and stops with it."""

    def __init__(self, stop: StopRequest):
        self.stop = stop
        self.signal: signal.Signals | None = None

    def on_step_end(self, args, state, control, **kwargs):
        self.signal = self.stop.signal()
        # With its last step an epoch ends, and may be validated: a run that goes on from there would not do that
        is_last = state.epoch == int(state.epoch) or state.global_step >= state.max_steps
        if self.signal is not None and not is_last:
            control.should_save = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.signal is not None:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if self.signal is None:
            return
        if state.is_world_process_zero:
            tqdm.write(
                f"{self.signal.name}: stopped at step {state.global_step}. All is saved in {args.output_dir}: the "
                "same command goes on from there.",
                file=sys.stderr,
            )
        raise SystemExit(128 + self.signal)


class Finite(TrainerCallback):
    """Stops a run whose gradient is not finite, before anything is saved; the other callbacks have spoken then."""

    def __init__(self, task: str):
        self.task = task
        self.norms: list[tuple[int, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if not args.fp16:  # whose scale leaves such steps out
            self.norms.append((state.global_step, gradient_norm(model.parameters())))

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save or control.should_log or control.should_evaluate:
            self._read()

    def on_epoch_end(self, args, state, control, **kwargs):
        self._read()

    def _read(self) -> None:
        steps, norms = [step for step, _ in self.norms], [norm for _, norm in self.norms]
        self.norms = []
        for step, norm in zip(steps, torch.stack(norms).tolist() if norms else [], strict=True):
            if not math.isfinite(norm):
                raise FloatingPointError(f"Task {self.task!r}, step {step}: the gradient is not finite. {DIVERGED}")


class VolumeTrainer(Trainer):
    """Validates a segmenter of volumes as it is used: on whole volumes, one at a time, by windows."""

    def __init__(self, *args, data: TaskDataset, processor: Any, **kwargs):
        super().__init__(*args, **kwargs)
        self.data, self.processor = data, processor

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise FloatingPointError(DIVERGED)
        scores = validation_scores(self.model, self.processor, self.data, self.args.eval_batch_size)
        metrics = {f"{metric_key_prefix}_mean_dice": scores["mean_dice"]}
        return EvalLoopOutput(None, None, metrics, len(self.data.splits["validation"]))


def create_trainer(
    model: Any,
    processor: Any,
    data: TaskDataset,
    args: FinetuningArguments,
    seed: int,
    folder: Path,
) -> Trainer:
    """
    The stock `Trainer` on the training images of `data`.

    Args:
        model, processor: An Ark, or if `data` has volumes a Genesis.
        folder: Of its checkpoints.
    """
    if args.attn_implementation is not None:
        model.set_attn_implementation(args.attn_implementation)
    freeze_encoder(model, args.freeze)
    trained = model if args.lora_rank is None else add_adapters(model, args.lora_rank)
    if args.channels_last:
        model.to(memory_format=torch.channels_last_3d if data.has_volumes else torch.channels_last)  # type: ignore[call-overload]
    of_kind = _of_labels
    if isinstance(data.task, SegmentationTask):
        of_kind = _of_label_maps if data.has_volumes else _of_masks
    samples, validation, functions = of_kind(model, processor, data, args, seed)
    callbacks: list[TrainerCallback] = [
        NewViews(samples),
        Progress(f"fine-tuning {data.task.name}, seed {seed}"),
    ]
    if args.log_with != "none":
        callbacks.append(Tracking(args, seed, folder.parent))
    if validation is None:
        shows, score = (
            ("there is any of the labels", "Dice")
            if isinstance(data.task, SegmentationTask)
            else ("a label has both images with it and images without", "AUROC")
        )
        lack = f"{data.name} has no validation split in which {shows}"
        if args.patience is not None:
            raise ValueError(f"patience: {lack}, so there is no {score} to watch.")
        warnings.warn(f"{lack}: the last weights are kept, not the best.", stacklevel=2)
    elif args.patience is not None:
        callbacks.append(EarlyStoppingCallback(args.patience))
    groups = parameter_groups(model, args.learning_rate, args.layer_decay, args.weight_decay)
    metric = None if validation is None else validation_metric(data)
    kind: Any = Trainer
    if of_kind is _of_label_maps:
        kind = functools.partial(VolumeTrainer, data=data, processor=processor)
    trainer = kind(
        trained,
        training_arguments(args, seed, folder, metric, cubes_per_sample(data, args)),
        train_dataset=TrainerSamples(samples),
        eval_dataset=None if validation is None else TrainerSamples(validation),
        callbacks=callbacks,
        optimizers=(torch.optim.AdamW(groups, fused=True), None),
        **functions,
    )
    trainer.remove_callback(PrinterCallback)
    if args.torch_compile:  # on the device, where `Trainer` has moved the model; its own option compiles it as a whole
        compile_blocks(model)
    return trainer


def validation_metric(data: TaskDataset) -> str:
    """By what the weights are chosen: the name of the mean over labels in each validation."""
    return "mean_dice" if isinstance(data.task, SegmentationTask) else "mean_auroc"


def _of_labels(
    model: Any, processor: Any, data: TaskDataset, args: FinetuningArguments, seed: int
) -> tuple[Any, Any, dict[str, Any]]:
    """Images of training and of validation, if these define an AUROC, and loss and metric as `Trainer` has them."""
    rows = data.splits["train"]
    samples: Any
    if data.has_volumes:
        samples = VolumeTrainingSamples(rows, data.task, args.uncertain, processor, seed, cycle=0)
    else:
        size = model.config.image_size
        views = ViewSettings(resize_side(size), size, args.min_crop_scale, teacher_view="student")
        samples = TrainingSamples(rows, data.task, args.uncertain, processor, views, seed, cycle=0)
    validation = inference_samples(data.splits["validation"], data.task, processor) if has_two_classes(data) else None
    targets, kind = data.targets("train", args.uncertain), data.task.problem_type
    weights = class_weights(targets, kind, args.class_weighting, args.effective_beta)
    return samples, validation, {
        "compute_loss_func": FinetuningLoss(kind, weights, args.loss, args.focal_gamma),
        "compute_metrics": functools.partial(_mean_auroc, task=data.task),
    }  # fmt: skip


def _of_masks(
    model: Any, processor: Any, data: TaskDataset, args: FinetuningArguments, seed: int
) -> tuple[Any, Any, dict[str, Any]]:
    """As [`_of_labels`], of a segmentation."""
    samples = training_samples(data, processor, args, model.config.image_size, seed)
    return samples, validation_samples(data, processor), {
        "compute_loss_func": MaskLoss(args.loss),
        "compute_metrics": MeanDice(),
        "preprocess_logits_for_metrics": MaskCounts(data.task),
    }  # fmt: skip


def _of_label_maps(
    model: Any, processor: Any, data: TaskDataset, args: FinetuningArguments, seed: int
) -> tuple[Any, Any, dict[str, Any]]:
    """As [`_of_labels`], of a segmentation of volumes, whose validation [`VolumeTrainer`] reads itself."""
    cubes = cubes_per_sample(data, args)
    samples = VolumeMaskTrainingSamples(data.splits["train"], data.task, processor, seed, 0, cubes)
    validation = VolumeSamples(data.splits["validation"], data.task, processor) if shows_labels(data) else None
    return samples, validation, {"compute_loss_func": MaskLoss(args.loss)}


def training_arguments(
    args: FinetuningArguments, seed: int, folder: Path, metric: str | None, cubes: int = 1
) -> TrainingArguments:
    """
    Ours as `Trainer`'s: with a `metric` the weights of the validation where it is best are kept, else the last.

    Args:
        cubes: Of the images of a step that each row of the data gives.
    """
    every = "epoch" if args.eval_steps is None else "steps"
    parts = args.gradient_accumulation_steps * PartialState().num_processes * cubes
    if args.batch_size % parts:
        lower = args.batch_size // parts * parts
        near = f"{lower} or {lower + parts}" if lower else f"{parts}"
        each = " and cube of a volume (cubes_per_volume)" if cubes > 1 else ""
        raise ValueError(
            f"batch_size {args.batch_size} cannot be cut into {parts} equal parts, one for each process and "
            f"accumulation step{each}: use {near}."
        )
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=args.epochs,
        max_steps=args.max_steps or -1,
        per_device_train_batch_size=args.batch_size // parts,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        per_device_eval_batch_size=args.eval_batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=args.warmup,
        eval_strategy=every if metric else "no",
        save_strategy=every,
        logging_strategy="steps",
        logging_first_step=True,
        eval_steps=args.eval_steps,
        save_steps=args.eval_steps or 500,
        logging_steps=args.logging_steps,
        save_total_limit=1,
        load_best_model_at_end=metric is not None,
        restore_callback_states_from_checkpoint=True,  # or patience would start anew when a run is resumed
        metric_for_best_model=metric,
        greater_is_better=True if metric else None,
        batch_eval_metrics=metric == "mean_dice",  # or the masks of all images would be kept
        bf16=args.mixed_precision == "bf16",
        fp16=args.mixed_precision == "fp16",
        use_cpu=not torch.accelerator.is_available(),  # without it bf16 is refused there
        dataloader_num_workers=args.dataloader_num_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
    )


def has_two_classes(data: TaskDataset) -> bool:
    """Whether the validation split defines an AUROC of any evaluated label."""
    if "validation" not in data.splits:
        return False
    targets = data.targets("validation")[:, evaluated_columns(data.task)]
    return bool(((targets == 1).any(axis=0) & (targets == 0).any(axis=0)).any())


def _mean_auroc(prediction: EvalPrediction, task: ArkTask) -> dict[str, float]:
    targets: Any = prediction.label_ids
    if task.problem_type == "multi_label_classification":
        targets = np.where(targets == UNKNOWN, np.nan, targets)
    logits = np.asarray(prediction.predictions)
    if not np.isfinite(logits).all():
        raise FloatingPointError(DIVERGED)
    if is_constant(logits):
        warnings.warn(f"Task {task.name!r}: all validation images have the same outputs.", stacklevel=2)
    scores = mean_probabilities(logits, task)
    return {"mean_auroc": label_aurocs(scores, targets, task)["mean_auroc"]}
