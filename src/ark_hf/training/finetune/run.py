"""Fine-tuning of one task with the stock `Trainer`: a run a seed, resumable, tested once at the end."""

import json
import math
import shutil
import sys
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from transformers import Trainer

from ...data.leaks import SHARED_KEY
from ...data.open_dataset import TaskDataset
from ...data.summary import split_facts
from ...data.volume_samples import inference_samples
from ...files import replace_folder, write_json, write_text
from ...inference.predict import mean_probabilities, predict_logits
from ...models.ark.configuration_ark import ArkTask, SegmentationTask
from ...models.ark.image_processing_ark import ArkImageProcessor
from ...models.ark.modeling_ark import ArkForImageClassification
from ...models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from ...provenance import PROVENANCE_FILE, compute_facts, read_provenance, shown_name, write_provenance
from ..checkpoint import check_settings, is_whole
from ..curves import Curve, write_curves
from ..initial_weights import (
    StartArguments,
    build_segmenter,
    build_student,
    continues,
    initial_heads,
    initial_segmentation,
    processor_of,
    start_facts,
    start_sha256,
)
from ..interruption import LOCK_FILE, StopRequest, explained_faults, lock_run
from ..run import default_values, describe_model, write_recipe
from ..selection import label_aurocs
from .arguments import FinetuningArguments
from .data import check_leaks, choose_training_rows, cubes_per_sample, load_finetuning_data
from .losses import DIVERGED
from .report import SCORES, results_text, summarise, test_score, validation_score
from .scores import score_test
from .seed_folder import ARK_FOLDER, GENESIS_FOLDER, is_tested, is_trained, read_metrics, seed_model
from .segmentation import validation_scores
from .trainer import TRAINER_STATE, Finite, Sealed, Stopping, create_trainer, validation_metric
from .volume_start import initial_genesis
from .watching import Watching

GOES_ON = " What is trained is kept: the same command goes on from there."
SETTINGS_VERSION = 2  # in 1, batch_size counted the images of a micro-batch


def finetune(model: str, dataset: str, args: FinetuningArguments, data: TaskDataset | None = None) -> dict[str, Any]:
    """
    Fine-tunes `model` on a dataset, once a seed, and scores the test split.

    `args.output_dir` then holds `seed-N/ark-cxr` (an ordinary ark-cxr of one head), or of volumes `seed-N/genesis`,
    `seed-N/metrics.json`, `seed-N/report` and `seed-N/test_predictions.npz` (see [`score_test`]), and of all seeds
    `results.json` and `results.md`.
    The same call again goes on where it was stopped, and does not train finished seeds again.

    Args:
        model: "none" (from scratch), "imagenet", a weights file of the encoder, or a folder or Hub id of an ark-cxr;
            for volumes "none", or a folder or Hub id of a Genesis.
        dataset: Folder or Hub id of a task dataset, or with `args.label_columns` of any image dataset.
        args: The settings.
        data: The dataset's splits, where they are loaded already.

    Returns:
        What `results.json` holds: `seeds` (of each seed its metrics.json), `validation` and `test` (mean over the
        seeds of the mean AUROC, and its interval). What is undefined is None in `seeds` and NaN in the means.

    Raises:
        ValueError: Model, data and settings do not fit each other, held-out images are trained on, or the folder holds
            a run with other settings or is another process's.
        OSError: The disk is full, or a process that loads images died.
        SystemExit: SIGTERM or SIGINT came, and a checkpoint is saved.
    """
    data = check_leaks(data or load_finetuning_data(dataset, args), start_facts(model), args.allow_shared_images)
    folder = Path(args.output_dir)
    facts = run_facts(model, data)
    state = PartialState()
    with lock_run(folder) if state.is_main_process else nullcontext(), explained_faults(folder, lambda: GOES_ON):
        with state.main_process_first():
            check_same_run(folder, facts | args.lasting_settings() | {"num_processes": state.num_processes})
        if state.is_main_process:
            write_recipe(folder, {"model": model, "dataset": dataset, **asdict(args)})
        results = []
        for seed in args.seeds:
            results.append(_run_seed(model, data, args, seed, folder / f"seed-{seed}"))
    facts |= {"model": shown_name(model), SHARED_KEY: data.facts.get(SHARED_KEY, [])}
    summary = {**facts, "settings": args.lasting_settings(), **summarise(results)}
    if state.is_main_process:
        write_json(folder / "results.json", summary)
        write_text(folder / "results.md", results_text(summary))
        for seed in args.seeds:
            _note_seeds(seed_model(folder / f"seed-{seed}"), summary)
    state.wait_for_everyone()
    return summary


def run_facts(model: str, data: TaskDataset) -> dict[str, Any]:
    """What a run's models depend on beside its settings: what it starts from, and its data, by name and by content."""
    return {
        "model": model,
        "weights_sha256": start_sha256(model),
        "dataset": data.name,
        "dataset_sha256": data.digest(),
        "task": data.task.to_dict(),
        "train_images": len(data.splits["train"]),
    }


def _run_seed(model: str, data: TaskDataset, args: FinetuningArguments, seed: int, folder: Path) -> dict[str, Any]:
    """Trains a seed and scores its test split, each if that is not done yet."""
    tests = args.test and "test" in data.splits and not is_tested(folder)
    if is_trained(folder) and not tests:
        return read_metrics(folder)
    chosen = choose_training_rows(data, args, seed)
    metrics = train_seed(model, chosen, args, seed, folder)
    return score_test(chosen, args, folder) if tests else metrics


def _note_seeds(model_folder: Path, summary: dict[str, Any]) -> None:
    """Tells a seed's model what all seeds reached: its card shows it."""
    rows = [
        {
            "seed": each["seed"],
            "validation": validation_score(each),
            "test": test_score(each),
        }
        for each in summary["seeds"]
    ]
    seeds = {"runs": rows, "validation": summary["validation"], "test": summary["test"]}
    origin = read_provenance(model_folder)
    if origin is not None:  # a run of an earlier version has none
        write_json(model_folder / PROVENANCE_FILE, {**origin, "seeds": seeds})


def check_same_run(folder: Path, settings: dict[str, Any]) -> None:
    """
    Notes in a new run folder what its models depend on, and in one of an earlier run checks it.

    Raises:
        ValueError: The earlier run had other settings, or the folder is of something else.
    """
    path = folder / "settings.json"
    if not path.exists() and folder.exists() and any(each.name != LOCK_FILE for each in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no run of fine-tuning; choose another output_dir.")
    if not any(folder.rglob("seed-*")):  # nothing was trained yet
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings | {"version": SETTINGS_VERSION})
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    if saved.pop("version", 1) == 1:
        saved["batch_size"] = _images_per_step(saved, settings, folder)
    if settings.get("weights_sha256") is None:  # what it started from is gone, and was the same for all we know
        settings = settings | {"weights_sha256": saved.get("weights_sha256")}
    check_settings(saved, settings, default_values(FinetuningArguments), folder)


def _images_per_step(saved: dict[str, Any], settings: dict[str, Any], folder: Path) -> int:
    """The batch size of a run of version 1, which counted the images of a micro-batch, as it is counted now."""
    images = saved["batch_size"] * saved["gradient_accumulation_steps"] * PartialState().num_processes
    if settings["batch_size"] == saved["batch_size"] != images:
        raise ValueError(
            f"{folder} holds a run whose batch_size counted the images of a micro-batch; it counts those of a step "
            f"now. Write batch_size {images} to go on with it, or choose another output_dir for a new run."
        )
    return images


def train_seed(model: str, data: TaskDataset, args: FinetuningArguments, seed: int, folder: Path) -> dict[str, Any]:
    """
    Trains one seed, or reads back what it gave if it is finished: see [`finetune`].

    Returns:
        What `folder/metrics.json` holds: `seed`, `train_images`, `steps`, `best_step`, `history` (each validation) and
        `validation`: `mean_auroc` and by label `auroc`, of the weights that were kept; None where undefined.
    """
    if is_trained(folder):
        return read_metrics(folder)
    start, processor = (initial_genesis if data.has_volumes else initial_model)(model, data.task, args, seed)
    trainer = create_trainer(start, processor, data, args, seed, folder / "checkpoints")
    stop = StopRequest(PartialState().num_processes)
    for callback in (Sealed(), Stopping(stop), Finite(data.task.name), Watching(data.task.name, folder)):
        trainer.add_callback(callback)
    PartialState().print(describe(trainer, data, args), file=sys.stderr)  # stdout is for the results
    checkpoint = _newest_checkpoint(folder / "checkpoints")
    with stop.listening():
        trained = trainer.train(resume_from_checkpoint=checkpoint)
    tuned: Any = trainer.model if args.lora_rank is None else trainer.model.merge_and_unload()
    tuned.eval()
    if not all(torch.isfinite(parameter).all() for parameter in tuned.parameters()):
        raise FloatingPointError(DIVERGED)
    metrics = {
        "seed": seed,
        "train_images": len(data.splits["train"]),
        "head": "continued" if _continues(model, data.task, args) else "fresh",
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step or trainer.state.global_step,
        "history": _history(trainer.state.log_history, validation_metric(data)),
        "validation": _validation(tuned, processor, data, args),
    }

    counts = {
        split: split_facts(data.task, data.stored_labels(split), data.patients(split))
        for split in ("train", "validation")
        if split in data.splits
    }

    def save(target: Path) -> None:
        tuned.save_pretrained(target)
        processor.save_pretrained(target)
        kept = ("seed", "train_images", "head", "steps", "best_step", "validation")
        write_provenance(
            target,
            "fine-tuning",
            {
                **start_facts(model),
                "settings": args.lasting_settings(),
                "data": [{**data.facts, "uncertain": args.uncertain, "splits": counts}],
                "compute": compute_facts(
                    trainer.accelerator.device,
                    trained.metrics["train_runtime"] if checkpoint is None else None,  # of this sitting alone
                    trainer.accelerator.num_processes,
                    args.mixed_precision,
                ),
                **{name: metrics[name] for name in kept},
            },
        )

    if trainer.is_world_process_zero():
        replace_folder(folder / (GENESIS_FOLDER if data.has_volumes else ARK_FOLDER), save)
        _write_curves(folder, trainer.state.log_history, validation_metric(data))
        write_json(folder / "metrics.json", metrics)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    PartialState().wait_for_everyone()
    AcceleratorState._reset_state()  # Trainer's precision is not that of whatever runs next in this process
    return read_metrics(folder)


def initial_model(
    model: str, task: ArkTask | SegmentationTask, args: FinetuningArguments, seed: int
) -> tuple[ArkForImageClassification | ArkForSemanticSegmentation, ArkImageProcessor]:
    """
    The model before its first step, with the task's head or decoder alone, and its processor.

    A head of the same name and labels goes on, and a decoder of the same labels, unless `args.new_head`; otherwise it
    is fresh.

    Raises:
        ValueError: `model` names nothing that can be loaded, or has a head of the same name with other labels.
    """
    recipe = StartArguments(
        init=model,
        backbone=args.backbone,
        backbone_kwargs=args.backbone_kwargs,
        image_size=args.image_size,
        projector_dim=args.projector_dim,
        projector_type=args.projector_type,
        drop_path_rate=args.drop_path_rate,
        seed=seed,
    )
    if isinstance(task, SegmentationTask):
        segmenter, shown = build_segmenter(recipe, task, args.decoder_type, args.decoder_channels, args.new_head)
        return segmenter.train(), shown
    start, processor = build_student(recipe, [task])
    start.keep_tasks([task.name])
    if args.new_head:
        torch.manual_seed(seed)
        start.heads[task.name].reset_parameters()
    return start.train(), processor_of(start, processor)


def _continues(model: str, task: ArkTask | SegmentationTask, args: FinetuningArguments) -> bool:
    """Whether a head or a decoder of what training starts from goes on."""
    if args.new_head:
        return False
    if isinstance(task, SegmentationTask):
        return continues(initial_segmentation(model), task)
    return task.name in initial_heads(model)


def _validation(model, processor, data: TaskDataset, args: FinetuningArguments) -> dict[str, Any] | None:
    if "validation" not in data.splits:
        return None
    if isinstance(data.task, SegmentationTask):
        return validation_scores(model, processor, data, args.eval_batch_size)
    samples = inference_samples(data.splits["validation"], data.task, processor)
    logits, targets = predict_logits([model], samples, args.eval_batch_size)
    return label_aurocs(mean_probabilities(logits, data.task), targets, data.task)


def _history(log: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    return [
        {"step": entry["step"], "loss": entry.get("eval_loss"), metric: entry[f"eval_{metric}"]}
        for entry in log
        if f"eval_{metric}" in entry
    ]


def _write_curves(folder: Path, log: list[dict[str, Any]], metric: str) -> None:
    names = {"loss": "training", "eval_loss": "validation"}
    losses: dict[str, Curve] = {
        shown: [(each["step"], each[name]) for each in log if name in each] for name, shown in names.items()
    }
    scores: Curve = [(each["step"], each[metric]) for each in _history(log, metric)]
    write_curves(folder, losses, {"validation": scores}, SCORES[metric])


def describe(trainer: Trainer, data: TaskDataset, args: FinetuningArguments) -> str:
    """What is trained, on what and for how long."""
    accelerator: Any = trainer.accelerator
    images = ", ".join(f"{len(rows):,} {split}" for split, rows in data.splits.items())
    cubes = cubes_per_sample(data, args)
    passes = math.ceil(len(data.splits["train"]) * cubes / args.batch_size)
    steps = args.max_steps or math.ceil(args.epochs * passes)
    what = "images" if cubes == 1 else f"cubes, {cubes} of a volume"
    epochs = f", {args.epochs:g} epochs" if args.max_steps is None else ""
    return (
        f"{describe_model(trainer.model, accelerator.device, accelerator.num_processes, args.mixed_precision)}\n"  # type: ignore[arg-type]
        f"Data: {images} images of {data.name}, task {data.task.name}.\n"
        f"Steps: {steps:,} of {args.batch_size:,} {what}{epochs}."
    )


def _newest_checkpoint(folder: Path) -> str | None:
    """
    The newest checkpoint that is whole, and whose best weights are; `Trainer` writes its state last. What is damaged
    is deleted, aloud unless it is what a kill leaves that came in the middle of saving.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = {path.name for path in found if is_whole(path, TRAINER_STATE)}
    for checkpoint in [each for each in found if each.name not in whole]:
        if (checkpoint / TRAINER_STATE).exists():
            warnings.warn(f"{checkpoint} is damaged: files are missing or cut. It is deleted.", stacklevel=2)
        shutil.rmtree(checkpoint)
    for checkpoint in reversed([each for each in found if each.name in whole]):
        best = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))["best_model_checkpoint"]
        if best is None or Path(best).name in whole:
            return str(checkpoint)
        warnings.warn(
            f"{checkpoint} needs the best weights, {Path(best).name}, which are gone. It is deleted.", stacklevel=2
        )
        shutil.rmtree(checkpoint)
    return None
