"""What a card tells of a model's config and processor: what it looks at, and what its heads answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..inference.task_labels import UNNAMED_TASK, label_names, modalities_of
from ..models.ark.configuration_ark import ArkTask
from ..models.ark.tasks_ark import DEFAULT_MODALITY
from .card_parts import cell
from .families import Family


def subject(folder: Path, family: Family, config: Any) -> str:
    """
    What the model looks at, as the prose of cards is sorted by it: "volumes", "radiographs", or "pictures" where it
    takes those of other modalities, beside radiographs or alone.
    """
    if family.sees == "volumes":
        return family.sees
    return family.sees if modalities(folder, family, config) == [DEFAULT_MODALITY] else "pictures"


def modalities(folder: Path, family: Family, config: Any) -> list[str]:
    """DICOM's codes of what it takes: those of its heads; of pictures, without any, those of its processor."""
    known = modalities_of(config)
    if known or family.sees == "volumes":
        return known
    return family.processor_class.from_pretrained(folder).all_modalities


def view(folder: Path, family: Family, config: Any) -> str:
    """What the network sees of a picture or volume."""
    if family.sees == "volumes":
        sides = " x ".join(map(str, config.cube_size))
        spacing = "as scanned" if config.spacing is None else f"of {' x '.join(f'{mm:g}' for mm in config.spacing)} mm"
        window = "" if config.hu_window is None else ": {:g} to {:g} Hounsfield units".format(*config.hu_window)
        return (
            f"`pixel_values` (batch, {config.num_channels}, {', '.join(config.axes)}), float in [0, 1]{window}. It "
            f"was trained on cubes of {sides} voxels {spacing}; sides must be multiples of {config.stride}"
        )
    processor = family.processor_class.from_pretrained(folder)
    picture = "radiograph" if modalities(folder, family, config) == [DEFAULT_MODALITY] else "picture"
    if processor.do_ten_crop or processor.do_center_crop:
        what = "ten crops" if processor.do_ten_crop else "the centre"
        crop, size = (f"{side['height']} x {side['width']}" for side in (processor.crop_size, processor.size))
        return f"{what} of {crop} pixels of the {picture}, resized to {size}"
    size = processor.size
    return f"the whole {picture}, resized to {size['height']} x {size['width']} pixels"


def answers(config: Any, outlines: bool) -> str:
    """What comes out of a model with heads, in a sentence."""
    if config.segmentation is not None:
        labels = config.segmentation.labels
        return f"It outlines {_count(len(labels), 'structure')}: {cell(', '.join(labels))}."
    names = label_names(config)
    if outlines:  # a stock script's segmenter, whose classes no task names
        return f"It tells {_count(len(names), 'class', 'classes')} apart in each pixel."
    if config.tasks is None or len(config.tasks) == 1:
        name = UNNAMED_TASK if config.tasks is None else config.tasks[0].name
        return f"It gives {_count(len(names), 'probability', 'probabilities')}, of the labels of `{name}`."
    return f"It gives {len(names)} probabilities, of the labels of {len(config.tasks)} tasks, each with its own head."


def heads_by_modality(config: Any) -> list[dict[str, Any]]:
    """Of a model whose tasks are of several modalities, which heads are for the pictures of which."""
    known = modalities_of(config)
    if len(known) < 2:
        return []
    return [
        {"modality": each, "tasks": [task.name for task in config.tasks if task.modality == each]} for each in known
    ]


def label_rows(config: Any) -> list[dict[str, str]]:
    """A row per head."""
    if config.segmentation is not None:
        task = config.segmentation
        kind = "masks that may overlap" if task.overlapping else "masks that exclude each other"
        return [{"name": task.name, "kind": kind + _of(task), "labels": cell(", ".join(task.labels))}]
    if config.tasks is None:
        names = label_names(config)
        return [{"name": UNNAMED_TASK, "kind": _kind(config.problem_type), "labels": cell(", ".join(names))}]
    return [
        {"name": task.name, "kind": _kind(task.problem_type) + _of(task), "labels": cell(", ".join(task.labels))}
        for task in config.tasks
    ]


def operating_points(config: Any) -> list[str]:
    """Of a segmenter the thresholds of its labels, else the tasks that have some."""
    if config.segmentation is not None:
        thresholds = config.segmentation.thresholds or {}
        return [f"{cell(label)} {threshold:g}" for label, threshold in thresholds.items()]
    return [f"`{task.name}`" for task in config.tasks or [] if task.thresholds]


def untested(config: Any, reports: Sequence[Any]) -> list[str]:
    """The tasks of which none of the reports is."""
    if config.tasks is None:
        return []
    tested = {report.task for report in reports if report.matches is None}
    return [f"`{task.name}`" for task in config.tasks if reports and task.name not in tested]


def _of(task: ArkTask) -> str:
    return "" if task.modality == DEFAULT_MODALITY else f", modality {task.modality}"


def _kind(problem_type: str | None) -> str:
    return "several labels per image" if problem_type == "multi_label_classification" else "one class per image"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"
