"""The master: what the sites' students have in common, from its start to the model that is published."""

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..files import replace_folder, write_json
from ..models.ark.configuration_ark import ArkConfig, ArkTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification, ArkModel
from ..provenance import write_provenance
from ..training import run
from ..training.checkpoint import check_settings, is_whole, seal
from ..training.initial_weights import BROUGHT, StartArguments, build_student, processor_of, start_facts
from ..training.run import default_values
from .messages import Answer
from .recipe import SERVER_FIELDS, FederatedArguments
from .vector import Vector, fault, has_batch_statistics, load, pack, shared_tensors, unpack

MASTERS, WEIGHTS_FILE, STATE_FILE = "masters", "model.safetensors", "state.json"
# May differ between the runs that make up a resumed one
RUN_TIME_SETTINGS = (*run.RUN_TIME_SETTINGS, *SERVER_FIELDS)


@dataclass
class Master:
    """
    The shared weights after `round` rounds, and what all sites are told of the model.

    Args:
        model: Fields of its `ArkConfig`.
        processor: Fields of the image processor.
        facts: What cards tell of its start.
        history: An entry a round: what the report is written from.
    """

    model: dict[str, Any]
    processor: dict[str, Any]
    facts: dict[str, Any]
    vector: Vector
    round: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def begin(args: FederatedArguments) -> Master:
    """
    The master before any round, as `args.init` asks for.

    Raises:
        ValueError: `init` names nothing that can be loaded, or `keep_batch_norm` has no effect.
    """
    start = StartArguments(**{each.name: getattr(args, each.name) for each in fields(StartArguments)})
    # Heads are the sites'; the student has one that nobody sees
    student, saved = build_student(start, [ArkTask("none", ["none"])])
    if args.keep_batch_norm and not has_batch_statistics(student.ark):
        raise ValueError(f"keep_batch_norm has no effect: {student.config.backbone} has no batch norm. Leave it out.")
    config = student.config
    processor = processor_of(student, saved).to_dict()
    return Master(
        {name: getattr(config, name) for name in BROUGHT},
        processor,
        start_facts(args.init),
        pack(shared_tensors(student.ark, args.keep_batch_norm)),
    )


def write_master(folder: Path, args: FederatedArguments, sites: Sequence[str], master: Master) -> None:
    """Writes `folder/masters/round-<round>`, whole or not at all, and deletes all but the newest two."""
    state = {name: getattr(master, name) for name in ("model", "processor", "facts", "round", "history")}
    target = folder / MASTERS / f"round-{master.round:06d}"

    def write(new: Path) -> None:
        save_file(unpack(master.vector), new / WEIGHTS_FILE)
        write_json(new / STATE_FILE, {**state, "table": master.vector.table, "settings": _settings(args, sites)})
        seal(new)

    replace_folder(target, write)
    for stale in _saved(folder)[:-2]:
        shutil.rmtree(stale)


def read_master(folder: Path, args: FederatedArguments, sites: Sequence[str]) -> Master | None:
    """
    The newest whole one that [`write_master`] wrote; None if nothing is there. Warns of damaged ones.

    Raises:
        ValueError: It is of a federation with other settings; the message names them.
    """
    whole = [master for master in _saved(folder) if is_whole(master, STATE_FILE)]
    for damaged in _saved(folder)[len(whole) :]:
        warnings.warn(f"{damaged} is damaged: files are missing or cut. Going on from the round before.", stacklevel=2)
    if not whole:
        return None
    newest = whole[-1]
    state = json.loads((newest / STATE_FILE).read_text(encoding="utf-8"))
    check_settings(state.pop("settings"), _settings(args, sites), default_values(FederatedArguments), folder)
    tensors = load_file(newest / WEIGHTS_FILE)
    vector = pack({name: tensors[name] for name, _ in json.loads(state.pop("table"))})
    return Master(vector=vector, **state)


def publish(folder: Path, args: FederatedArguments, master: Master, finished: Sequence[Answer]) -> Path:
    """
    Writes the federation's model, `folder/ark-cxr`, with the heads that sites publish; without any it is an encoder.

    Returns:
        The model's folder.
    """
    published = [answer for answer in finished if answer.values.get("tasks")]
    tasks = [ArkTask.from_dict(task) for answer in published for task in answer.values["tasks"]]
    config = ArkConfig(**master.model, tasks=tasks or None)
    processor = ArkImageProcessor(**master.processor)
    model: ArkForImageClassification | ArkModel
    if tasks:
        model = ArkForImageClassification(config)
        load(model.ark, master.vector)
        model.heads.load_state_dict({key: value for answer in published for key, value in _heads(answer).items()})
        processor = processor_of(model, processor)
    else:
        model = ArkModel(config)
        load(model, master.vector)

    def write(new: Path) -> None:
        model.save_pretrained(new)
        processor.save_pretrained(new)
        write_provenance(
            new,
            "federated",
            {
                **master.facts,
                "rounds": master.round,
                "sites": sorted({name for entry in master.history for name in entry["sites"]}),
                "settings": {**args.training(), **master.model},
            },
        )

    replace_folder(folder / "ark-cxr", write)
    return folder / "ark-cxr"


def _saved(folder: Path) -> list[Path]:
    return sorted((folder / MASTERS).glob("round-*"))


def head_fault(master: Master, answer: Answer, announced: Sequence[str]) -> str | None:
    """What is wrong with the heads that a site publishes, which has `announced` their names; None if nothing is."""
    try:
        tasks = [ArkTask.from_dict(task) for task in answer.values["tasks"]]
        shapes = {name: value.shape for name, value in _heads(answer).items()}
        with torch.device("meta"):
            model = ArkForImageClassification(ArkConfig(**master.model, tasks=tasks))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"its heads are none ({type(error).__name__})"
    if [task.name for task in tasks] != list(announced):
        return "its heads are not those that it announced"
    if answer.vector is None or shapes != {name: value.shape for name, value in model.heads.state_dict().items()}:
        return "its heads are not those of its tasks"
    return fault(answer.vector, answer.vector.table)


def _heads(answer: Answer) -> dict[str, torch.Tensor]:
    return {} if answer.vector is None else unpack(answer.vector)


def _settings(args: FederatedArguments, sites: Sequence[str]) -> dict[str, Any]:
    """What must be the same when a federation is resumed."""
    kept: Mapping[str, Any] = {key: value for key, value in args.to_dict().items() if key not in RUN_TIME_SETTINGS}
    return {**kept, "sites": list(sites)}
