"""
A site of a federation: local cycles from the server's master, with heads, teacher and optimiser of its own.

What it keeps is a run folder: checkpoints, `ark-cxr` (its teacher), `student`, `metrics.json`; at the end also
`master`, the federation's encoder with the site's heads. `audit.jsonl` lists what has left.
"""

import json
import math
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models.ark.configuration_ark import ArkConfig
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification
from ..training.ark.pretrainer import CyclicPretrainer
from ..training.ark.recipe import TaskSpec
from ..training.ark.tasks import load_tasks
from ..training.ark.validation import validate
from ..training.initial_weights import processor_of
from .messages import Answer, Failure, Request
from .recipe import SITE_FIELDS, FederatedArguments, SiteArguments
from .vector import Vector, load, pack, shared_tensors

AUDIT_FILE, ERROR_FILE = "audit.jsonl", "errors.log"


def answer(site: SiteArguments, tasks: list[TaskSpec], request: Request) -> Answer | Failure:
    """
    Does what the server asks. What leaves is in the audit file before it is returned.

    Whatever goes wrong is told in the site's own `errors.log`; the server learns the kind of the fault alone.
    """
    folder = Path(site.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        given = ANSWERS[request.kind](site, tasks, request)
        _append(folder / AUDIT_FILE, json.dumps(_audited(request, given)))
        return given
    except Exception as error:
        _append(folder / ERROR_FILE, f"{_now()} {request.kind} {request.values.get('round', '')}\n{_text(error)}")
        return Failure(site.name, type(error).__name__)


def _introduce(site: SiteArguments, tasks: list[TaskSpec], request: Request) -> Answer:
    names = [data.task.name for data in load_tasks(tasks, site.data_root, site.streaming)]
    return Answer(site.name, {"heads": names if site.publish_heads and request.values["publish_heads"] else []})


def _train(site: SiteArguments, tasks: list[TaskSpec], request: Request) -> Answer:
    args, trainer = _trainer(site, tasks, request)
    with trainer.run.sitting(), trainer.loader:
        entry = _begin_round(trainer, args, request)
        started = time.monotonic()
        while trainer.state.cycle < entry["until"]:
            entry["losses"].append(trainer.run_cycle())
            trainer.run.save_checkpoint()
        if "validation" not in entry:
            trainer.teacher.eval()
            _end_round(trainer, entry, started)
    student = trainer.accelerator.unwrap_model(trainer.student)
    losses = ("task_loss", "consistency_loss")
    values: dict[str, Any] = {name: _mean(entry["train"], name) for name in losses}
    if args.weighting == "samples":
        values["samples"] = sum(each.num_samples for each in trainer.passes)
    if site.share_metrics and args.share_metrics:
        values["auroc"] = {name: _auroc(found) for name, found in entry["validation"].items()}
    return Answer(site.name, values, pack(shared_tensors(student.ark, args.keep_batch_norm)))


def _finish(site: SiteArguments, tasks: list[TaskSpec], request: Request) -> Answer:
    args, trainer = _trainer(site, tasks, request)
    student = trainer.accelerator.unwrap_model(trainer.student)
    load(student.ark, _vector(request), args.keep_batch_norm)
    with trainer.run.sitting(), trainer.loader:
        validation = _validate(trainer, "master", student)
    trainer.state.history.append(
        {"cycle": trainer.state.cycle, "step": trainer.state.step, "train": {}, "validation": {"master": validation}}
    )
    trainer.save_model("master", student, "master")
    trainer.write_metrics()
    trainer.run.print(
        f"The federation is over for {site.name}: its own model is {trainer.output_dir / 'ark-cxr'}, that of the "
        f"last master {trainer.output_dir / 'master'}."
    )
    values: dict[str, Any] = {}
    if site.share_metrics and args.share_metrics:
        values["auroc"] = {"master": _auroc(validation)}
    if not (site.publish_heads and args.publish_heads):
        return Answer(site.name, values)
    published = [task.to_dict() for task in student.config.tasks or []]
    return Answer(site.name, {**values, "tasks": published}, pack(student.heads.state_dict()))


ANSWERS = {"introduce": _introduce, "train": _train, "finish": _finish}


def _trainer(
    site: SiteArguments, specs: list[TaskSpec], request: Request
) -> tuple[FederatedArguments, CyclicPretrainer]:
    """The site's trainer as its folder has it; where that is empty, at the start of everything."""
    own = {name: value for name, value in asdict(site).items() if name in SITE_FIELDS}
    args = FederatedArguments(**own, **request.values["recipe"])
    tasks = load_tasks(specs, site.data_root, site.streaming)
    torch.manual_seed(args.seed)
    config = ArkConfig(**request.values["model"], tasks=[data.task for data in tasks])
    student = ArkForImageClassification(config)
    processor = processor_of(student, ArkImageProcessor(**request.values["processor"]))
    return args, CyclicPretrainer(args, tasks, student, processor, facts=request.values["facts"])


def _begin_round(trainer: CyclicPretrainer, args: FederatedArguments, request: Request) -> dict[str, Any]:
    """The round's entry in the history: one that is begun is gone on with, a new one starts from the master."""
    vector = _vector(request)
    key = {"round": request.values["round"], "received_sha256": vector.sha256()}
    history = trainer.state.history
    if history and key.items() <= history[-1].items():
        return history[-1]
    student = trainer.accelerator.unwrap_model(trainer.student)
    load(student.ark, vector, args.keep_batch_norm)
    if not history:  # the teacher begins as the student does
        load(trainer.teacher.ark, vector, args.keep_batch_norm)
    until = min(trainer.state.cycle + args.cycles_per_round, args.cycles)
    history.append({**key, "until": until, "losses": [], "received": _validate(trainer, "master", student)})
    return history[-1]


def _end_round(trainer: CyclicPretrainer, entry: dict[str, Any], started: float) -> None:
    losses = entry.pop("losses")
    entry |= {
        "cycle": trainer.state.cycle,
        "step": trainer.state.step,
        "seconds": round(time.monotonic() - started, 1),
        "train": {key: float(np.mean([each[key] for each in losses])) for key in losses[0]} if losses else {},
        "validation": trainer.validate() | {"master": entry.pop("received")},
    }
    trainer.watch_teacher()
    trainer.save_models()
    trainer.write_metrics()
    trainer.run.save_checkpoint()


def _validate(trainer: CyclicPretrainer, name: str, model: ArkForImageClassification) -> dict[str, Any]:
    return validate(
        {name: model},
        trainer.validation_samples(),
        trainer.criterion,
        trainer.accelerator,
        trainer.args.eval_batch_size or trainer.args.batch_size,
        trainer.loader,
    )[name]


def _vector(request: Request) -> Vector:
    if request.vector is None:
        raise ValueError(f"the server's message {request.kind!r} came without weights")
    return request.vector


def _mean(losses: Mapping[str, float], name: str) -> float | None:
    """Over the passes, whose names are those of tasks and stay here; None where there was no step."""
    values = [value for key, value in losses.items() if key.endswith(f"/{name}")]
    return float(np.mean(values)) if values else None


def _auroc(validation: Mapping[str, Any]) -> float | None:
    value = validation["mean_auroc"]
    return None if math.isnan(value) else value


def _audited(request: Request, given: Answer) -> dict[str, Any]:
    """What has left: every value as it is, and of weights their names and a sum."""
    line = {"time": _now(), "request": request.kind, "round": request.values.get("round"), "values": given.values}
    if given.vector is not None:
        names = [name for name, _ in json.loads(given.vector.table)]
        line["weights"] = {"bytes": given.vector.nbytes, "sha256": given.vector.sha256(), "tensors": names}
    return line


def _append(path: Path, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")
        file.flush()
        os.fsync(file.fileno())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _text(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
