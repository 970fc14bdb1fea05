"""The models before a run's first step: what `init` asks for, a caller's own, or those of a run that goes on."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...files import write_json
from ...models.ark.configuration_ark import ArkConfig, ArkTask
from ...models.ark.image_processing_ark import ArkImageProcessor
from ...models.ark.modeling_ark import ArkForImageClassification
from ..initial_weights import StartArguments, build_student, check_architecture, initial_heads, start_facts
from .quirks import independent_teacher
from .recipe import PretrainingArguments

START_FILE = "start.json"


@dataclass
class Start:
    """
    Student and teacher, and of what `init` names: the processor if it has one, what cards tell of it (`facts`), and
    the names of its `heads`, None of a caller's own model.
    """

    student: ArkForImageClassification
    teacher: ArkForImageClassification
    processor: ArkImageProcessor | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    heads: list[str] | None = None


def build_start(args: PretrainingArguments, heads: list[ArkTask]) -> Start:
    """
    What `args.init` asks for, with one head per task.

    Raises:
        ValueError: As in [`build_student`].
    """
    start = StartArguments(**{each.name: getattr(args, each.name) for each in fields(StartArguments)})
    student, processor = build_student(start, heads)
    independent = "independent_teacher" in args.reproduce
    teacher = independent_teacher(start, heads) if independent else copy.deepcopy(student)
    return Start(student, teacher, processor, start_facts(args.init), initial_heads(args.init))


def own_start(
    args: PretrainingArguments,
    student: ArkForImageClassification | None,
    teacher: ArkForImageClassification | None,
    facts: Mapping[str, Any] | None = None,
) -> Start:
    """
    A caller's own student, and the teacher beside it, and what cards tell of its start.

    Raises:
        ValueError: There is a teacher where the trainer makes it, or none where `reproduce` needs it; or it differs;
            or the settings ask for another architecture.
    """
    if student is None or (teacher is not None) != ("independent_teacher" in args.reproduce):
        raise ValueError(
            "With reproduce: [independent_teacher] a `student` of your own needs a `teacher`; in every other case the "
            "trainer makes the teacher."
        )
    check_architecture(args, student.config, "The student")
    for name in ("image_size", "drop_path_rate"):
        if getattr(args, name) not in (None, getattr(student.config, name)):
            raise ValueError(f"The student has {name} {getattr(student.config, name)}, not {getattr(args, name)}.")
    if teacher is not None and _shapes(teacher) != _shapes(student):
        raise ValueError("The teacher's architecture and heads must be the student's.")
    return Start(student, copy.deepcopy(student) if teacher is None else teacher, facts=dict(facts or {}))


def write_start(folder: Path, config: ArkConfig, processor: ArkImageProcessor, start: Start) -> None:
    """Writes into a checkpoint what [`read_start`] reads: a run that goes on does not need `init` any more."""
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_json(folder / START_FILE, {"facts": start.facts, "heads": start.heads})


def read_start(folder: Path) -> Start:
    """Models of the right shapes; the checkpoint then fills in all their tensors."""
    values = json.loads((folder / START_FILE).read_text(encoding="utf-8"))
    student = ArkForImageClassification(ArkConfig.from_pretrained(folder))
    processor = ArkImageProcessor.from_pretrained(folder)
    return Start(student, copy.deepcopy(student), processor, values["facts"], values["heads"])


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}
