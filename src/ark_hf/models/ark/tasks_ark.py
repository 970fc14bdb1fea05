"""What a model of Ark or Genesis answers, its named tasks, and the labels that a config derives from them."""

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from transformers import PreTrainedConfig as _Config
else:
    _Config = object  # a mixin: the config's own base class comes beside it

PROBLEM_TYPES = ("multi_label_classification", "single_label_classification")

# DICOM's codes of what images are taken with
MODALITIES = tuple("CR CT MR MG US PT NM XA RF PX IO OP OPT ES DMS XC GM SM OT".split())
DEFAULT_MODALITY = "CR"  # where none is told, and then none is written
COLOUR_MODALITIES = ("OP", "ES", "DMS", "XC", "GM", "SM")  # of visible light
MAX_LABELS = 2**16
BACKGROUND = "background"  # 0 in a label map, and class 0 of an exclusive segmentation


def check_modality(modality: Any, what: str) -> None:
    """Raises `ValueError`, which begins with `what`, if it is none of `MODALITIES`."""
    if modality not in MODALITIES:
        raise ValueError(
            f"{what} {modality!r} is unknown; use DICOM's code, one of {MODALITIES}. Every radiograph of the chest is "
            "CR, digital ones (DX) and films (RG) too."
        )


def is_in_colour(modality: str) -> bool:
    """Whether images of a modality keep their colours; those of others are grey, whatever they are stored as."""
    return modality in COLOUR_MODALITIES


@dataclass
class _StoredTask:
    """The JSON form of a task, whatever its kind."""

    @classmethod
    def from_dict(cls, values: Self | dict[str, Any]) -> Self:
        """Builds a task from its JSON form; a task is returned as it is."""
        return values if isinstance(values, cls) else cls(**_checked_fields(cls, values))

    def to_dict(self) -> dict[str, Any]:
        """JSON form without the fields that are not set, nor the modality of radiographs."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        if values["modality"] == DEFAULT_MODALITY:
            del values["modality"]
        return values


@dataclass
class ArkTask(_StoredTask):
    """
    One task, that is one dataset with its own label space and its own head.

    Args:
        name: Name of the task and of its head, `^[a-z][a-z0-9_]*$`.
        labels: Names of the head's outputs, in order. They may contain "/".
        problem_type: "multi_label_classification" (a sigmoid a label; a binary task is multi-label with one label)
            or "single_label_classification" (a softmax over at least two classes).
        eval_labels: The labels that the published evaluation reports, where it leaves some out.
        thresholds: Operating point in probability, [0, 1], for some or all labels.
        modality: DICOM's code of what its images are taken with: "CR" for radiographs, "CT", "MR", "OP", ...
        thresholds_digest: What the thresholds are bound to: a sha256 of the encoder, the projector and this head, see
            [`ArkForImageClassification.bind_thresholds`]. Thresholds without one are bound when
            a model with them is put into training mode or saved.
        thresholds_dtype: What the model computed in when the thresholds were found, "float32", "bfloat16", ...

    Raises:
        ValueError: A field is not as described above.
    """

    name: str
    labels: list[str]
    problem_type: str = "multi_label_classification"
    eval_labels: list[str] | None = None
    thresholds: dict[str, float] | None = None
    modality: str = DEFAULT_MODALITY
    thresholds_digest: str | None = None
    thresholds_dtype: str | None = None

    def __post_init__(self):
        self.labels = _checked_names(self.name, self.labels)
        if self.problem_type not in PROBLEM_TYPES:
            raise ValueError(
                f"Task {self.name!r}: problem_type {self.problem_type!r} is unknown; use one of {PROBLEM_TYPES}."
            )
        if self.problem_type == "single_label_classification" and len(self.labels) < 2:
            raise ValueError(
                f"Task {self.name!r}: single_label_classification needs at least two labels; "
                "a binary task is multi_label_classification with one label."
            )
        _check_among_labels(self.name, self.labels, self.eval_labels, "eval_labels")
        _check_thresholds(self.name, self.labels, self.thresholds)
        digest = self.thresholds_digest
        if digest is not None and not (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)):
            raise ValueError(f"Task {self.name!r}: thresholds_digest must be a sha256 in hexadecimal, got {digest!r}.")
        if not self.thresholds:
            self.thresholds_digest = self.thresholds_dtype = None
        check_modality(self.modality, f"Task {self.name!r}: modality")


@dataclass
class SegmentationTask(_StoredTask):
    """
    What a segmenter outlines in an image.

    Args:
        name: Name of the task, `^[a-z][a-z0-9_]*$`.
        labels: Names of the structures, in order, without the background.
        overlapping: Whether a pixel may belong to several labels (ribs, lesions in lungs): then every label has a
            sigmoid of its own. Otherwise a softmax chooses one of `background`, class 0 of the logits, and the labels.
        thresholds: Of overlapping labels, some or all: the probability, [0, 1], from which a pixel belongs to them;
            0.5 where none is given.
        pixel_spacing: (row, column) spacing of the images' pixels in mm, where it is one and known.
        modality: As in [`ArkTask`].

    Raises:
        ValueError: A field is not as described above.
    """

    name: str
    labels: list[str]
    overlapping: bool = False
    thresholds: dict[str, float] | None = None
    pixel_spacing: list[float] | None = None
    modality: str = DEFAULT_MODALITY

    def __post_init__(self):
        self.labels = _checked_names(self.name, self.labels)
        if BACKGROUND in self.labels:
            raise ValueError(f"Task {self.name!r}: {BACKGROUND!r} is not named among the labels; it is what is left.")
        if not isinstance(self.overlapping, bool):
            raise ValueError(f"Task {self.name!r}: overlapping must be true or false, got {self.overlapping!r}.")
        _check_thresholds(self.name, self.labels, self.thresholds)
        if self.thresholds and not self.overlapping:
            raise ValueError(f"Task {self.name!r}: thresholds are of overlapping labels; a softmax has none.")
        if self.pixel_spacing is not None:
            spacing = self.pixel_spacing
            if not isinstance(spacing, (list, tuple)) or len(spacing) != 2 or not all(map(_is_positive, spacing)):
                raise ValueError(
                    f"Task {self.name!r}: pixel_spacing must be two positive numbers, of rows and columns in mm, got "
                    f"{spacing!r}."
                )
            self.pixel_spacing = [float(value) for value in spacing]
        check_modality(self.modality, f"Task {self.name!r}: modality")

    @property
    def classes(self) -> list[str]:
        """Names of the logits' channels: the labels, after `background` if they exclude each other."""
        return self.labels if self.overlapping else [BACKGROUND, *self.labels]

    @property
    def cutoffs(self) -> list[float]:
        """Of overlapping labels the logit of each from which a pixel belongs to it: its threshold's log-odds."""
        thresholds = [(self.thresholds or {}).get(label, 0.5) for label in self.labels]
        ends = {0.0: -math.inf, 1.0: math.inf}
        return [ends[each] if each in ends else math.log(each / (1 - each)) for each in thresholds]


def _checked_fields(cls: type, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"A task is one of class {cls.__name__} or its dictionary, got {values!r}.")
    allowed = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if set(values) - set(allowed) or not {"name", "labels"} <= set(values):
        raise ValueError(
            f"A task has the fields {allowed}, 'name' and 'labels' required; got {sorted(map(str, values))}."
        )
    return values


def _checked_names(name: Any, labels: Any) -> list[str]:
    """The labels as a list, once they and the task's name are as described above."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"Task name {name!r}: use lower-case letters, digits and underscores, a letter first")
    from torch import nn  # which readers of pictures, who ask for modalities here, do without

    if hasattr(nn.ModuleDict(), name):
        raise ValueError(f"Task name {name!r} is reserved by torch.nn.ModuleDict; choose another name.")
    sequence = isinstance(labels, (list, tuple))  # a lone string would become one label a letter
    if not sequence or not labels or not all(isinstance(label, str) and label for label in labels):
        raise ValueError(f"Task {name!r}: labels must be a non-empty list of strings, got {labels!r}.")
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise ValueError(f"Task {name!r}: labels occur more than once: {repeated}.")
    return list(labels)


def _check_among_labels(name: str, labels: list[str], named: Any, what: str) -> None:
    if named is not None and not (
        isinstance(named, (list, tuple, dict)) and all(isinstance(each, str) for each in named)
    ):
        raise ValueError(f"Task {name!r}: {what} must name labels, got {named!r:.200}.")
    unknown = sorted(set(named or ()) - set(labels))
    if unknown:
        raise ValueError(f"Task {name!r}: {what} name {unknown}, which are not among its labels {labels}.")


def _check_thresholds(name: str, labels: list[str], thresholds: dict[str, float] | None) -> None:
    if thresholds is not None and not isinstance(thresholds, dict):
        raise ValueError(f"Task {name!r}: thresholds must map labels to numbers, got {thresholds!r:.200}.")
    _check_among_labels(name, labels, thresholds, "thresholds")
    for label, threshold in (thresholds or {}).items():
        if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise ValueError(
                f"Task {name!r}: the threshold of {label!r} must be a number in [0, 1], got {threshold!r}."
            )


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < float("inf")


class TaskLabelsMixin(_Config):
    """
    The fields `tasks` and `segmentation` of a config, and `id2label`, which is derived from them.

    With tasks it is `task/label` in head order (plain labels for a single task); with a segmentation it names the
    values of a label map: 0 background, then the labels. A caller's `num_labels` or `id2label` that disagrees wins:
    both fields become `None` and the stored `problem_type` is dropped.
    """

    tasks: Any
    segmentation: Any

    def __post_init__(self, **kwargs):
        asked_id2label, asked_num_labels = self.id2label, kwargs.get("num_labels")
        asked_problem_type = self.problem_type
        if isinstance(asked_num_labels, int) and asked_num_labels > MAX_LABELS:  # each would get a name
            raise ValueError(f"num_labels must be at most {MAX_LABELS:,}, and is more.")
        if self.tasks is not None and self.segmentation is not None:
            raise ValueError("A model has tasks, which classify, or a segmentation, never both.")
        if self.tasks is not None or self.segmentation is not None:
            self._derive_labels()
            if asked_id2label is not None and _with_int_keys(asked_id2label) != self.id2label:
                self._drop_tasks(asked_id2label)
            if asked_num_labels is not None and asked_num_labels != self.num_labels:
                self._drop_tasks(_generic_id2label(asked_num_labels))
            if self.tasks is None:
                self.__dict__["problem_type"] = asked_problem_type
        super().__post_init__(**kwargs)
        self._label_rules_active = True

    def __setattr__(self, key, value):
        active = self.__dict__.get("_label_rules_active")
        if active and key == "tasks" and value is not None:
            value = _checked_tasks(value)  # before anything is set, so that an error leaves the config as it was
        if active and key == "segmentation" and value is not None:
            value = SegmentationTask.from_dict(value)
        super().__setattr__(key, value)
        if not active:
            return
        if key in ("tasks", "segmentation") and value is not None:
            self.__dict__["segmentation" if key == "tasks" else "tasks"] = None
            self._derive_labels()
        elif key == "id2label" and value is not None:
            if self._derived_id2label() not in (None, _with_int_keys(value)):
                self._drop_tasks(value)
            else:
                self.__dict__["id2label"] = _with_int_keys(value)

    def _derived_id2label(self) -> dict[int, str] | None:
        if self.segmentation is not None:
            return dict(enumerate([BACKGROUND, *self.segmentation.labels]))
        return None if self.tasks is None else _task_id2label(self.tasks)

    def _derive_labels(self) -> None:
        if self.segmentation is None:
            self.__dict__["tasks"] = _checked_tasks(self.tasks or [])
            self.__dict__["problem_type"] = _task_problem_type(self.tasks or [])
        else:
            self.__dict__["segmentation"] = SegmentationTask.from_dict(self.segmentation)
            self.__dict__["problem_type"] = None
        self.__dict__["id2label"] = self._derived_id2label()
        self.__dict__["label2id"] = {label: i for i, label in self.__dict__["id2label"].items()}

    def _drop_tasks(self, id2label: dict) -> None:
        if self.tasks and self.problem_type == _task_problem_type(self.tasks):
            self.__dict__["problem_type"] = None
        self.__dict__["tasks"] = self.__dict__["segmentation"] = None
        self.__dict__["id2label"] = _with_int_keys(id2label)
        self.__dict__["label2id"] = {label: i for i, label in self.__dict__["id2label"].items()}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        # With tasks the stored problem_type is derived, so only the caller's own is passed on, and after the labels.
        config_dict = {k: v for k, v in config_dict.items() if k != "problem_type" or not config_dict.get("tasks")}
        # Beside `id2label`, `num_labels` only repeats its length. Alone, on a checkpoint of several heads, it asks for
        # one fresh head, also when its number happens to be the old total.
        if kwargs.get("id2label") is not None:
            kwargs.pop("num_labels", None)
        elif kwargs.get("num_labels") is not None and not kwargs.get("tasks"):
            if len(config_dict.get("tasks") or []) > 1:
                kwargs["id2label"] = _generic_id2label(kwargs.pop("num_labels"))
        # A caller's tasks or segmentation take the place of whichever is stored
        for key in ("tasks", "segmentation"):
            if kwargs.get(key) is not None:
                dropped = ("tasks", "segmentation", "id2label", "label2id")
                config_dict = {k: v for k, v in config_dict.items() if k not in dropped}
        if "problem_type" in kwargs:
            kwargs["problem_type"] = kwargs.pop("problem_type")
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        output.pop("_label_rules_active", None)
        if self.tasks is not None:
            output["tasks"] = [task.to_dict() for task in self.tasks]
        if self.segmentation is not None:
            output["segmentation"] = self.segmentation.to_dict()
        return output


def _checked_tasks(values: list) -> list[ArkTask]:
    tasks = [ArkTask.from_dict(task) for task in values]
    names = [task.name for task in tasks]
    if not tasks:
        raise ValueError("tasks must name at least one task; None makes an ordinary classifier.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"Two tasks have the same name: {repeated}; every head needs its own name.")
    return tasks


def _with_int_keys(id2label: dict) -> dict[int, str]:
    return {int(key): label for key, label in id2label.items()}


def _generic_id2label(num_labels: int) -> dict[int, str]:
    return {i: f"LABEL_{i}" for i in range(num_labels)}


def _task_id2label(tasks: list[ArkTask]) -> dict[int, str]:
    if len(tasks) == 1:
        return dict(enumerate(tasks[0].labels))
    return dict(enumerate(f"{task.name}/{label}" for task in tasks for label in task.labels))


def _task_problem_type(tasks: list[ArkTask]) -> str:
    return tasks[0].problem_type if len(tasks) == 1 else "multi_label_classification"
