"""What classifiers of Ark and Genesis share: named heads, and losses over the labels that are known."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import ModelOutput

from .tasks_ark import MODALITIES, ArkTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object  # a mixin: the model's own base class comes beside it


@dataclass
class ArkImageClassifierOutput(ModelOutput):
    """
    Args:
        loss: Scalar, with `labels`.
        logits: (batch, labels), always float32.
        embeddings: What the heads look at: of Ark (batch, projector_dim), of Genesis the pooled features.
        hidden_states: With `output_hidden_states=True`, those of the encoder.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


def known_elements(labels: torch.Tensor, problem_type: str) -> torch.Tensor:
    """Which elements (multi-label) or rows (single-label) carry a label; NaN and -100 are unknown."""
    if problem_type == "multi_label_classification":
        return ~torch.isnan(labels)
    return ~torch.isnan(labels).any(dim=-1) if labels.is_floating_point() else labels != -100


def masked_classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str, num_known: torch.Tensor | int | None = None
) -> torch.Tensor:
    """
    Binary or ordinary cross-entropy over the elements whose label is known.

    Args:
        logits: (batch, labels), float.
        labels: Multi-label: float (batch, labels) in [0, 1], NaN unknown; (batch,) for one label. Single-label: int
            (batch,), -100 unknown, or float (batch, labels) probabilities, a row with NaN unknown.
        problem_type: "multi_label_classification" or "single_label_classification".
        num_known: Number of known elements to divide by; by default those of this call. Training passes the number
            in the global batch, so that the mean runs over all processes and accumulation steps.

    Returns:
        Scalar, zero with a graph if nothing is known.

    Raises:
        ValueError: The labels do not fit the logits.
    """
    if problem_type == "multi_label_classification":
        labels = labels[:, None] if labels.ndim == 1 and logits.shape[-1] == 1 else labels
        if labels.shape != logits.shape or not labels.is_floating_point():
            raise ValueError(
                f"Multi-label classification takes float labels of shape {tuple(logits.shape)}; "
                f"got {labels.dtype} of shape {tuple(labels.shape)}."
            )
    elif labels.shape != (logits.shape if labels.is_floating_point() else logits.shape[:1]):
        raise ValueError(
            f"Single-label classification takes class indices of shape ({len(logits)},) or float probabilities of "
            f"shape {tuple(logits.shape)}; got {labels.dtype} of shape {tuple(labels.shape)}."
        )

    known = known_elements(labels, problem_type)
    if num_known is None:
        num_known = known.sum()
    logits = logits.float()
    if problem_type == "multi_label_classification":
        targets = torch.where(known, labels, 0).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    elif labels.is_floating_point():
        losses = F.cross_entropy(logits, torch.where(known[:, None], labels, 0).to(logits.dtype), reduction="none")
    else:
        losses = F.cross_entropy(logits, labels.long(), reduction="none", ignore_index=-100)
    return torch.where(known, losses, 0).sum() / torch.as_tensor(num_known, device=logits.device).clamp(min=1)


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Per-class log-odds of a softmax, (batch, classes): the sigmoid of the result is exactly the softmax."""
    differences = logits.unsqueeze(-2) - logits.unsqueeze(-1)  # first of all, or large logits would lose digits
    itself = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return -differences.masked_fill(itself, -torch.inf).logsumexp(dim=-1)


class ArkLinear(nn.Linear):
    """A linear layer of the projector or a head: as in the originals it keeps PyTorch's default initialisation."""


def check_classifies(config: Any) -> None:
    """Raises `ValueError` if the config is a segmenter's."""
    if config.segmentation is not None:
        raise ValueError(
            f"This is a segmenter of {config.segmentation.labels}: load it with AutoModelForSemanticSegmentation, "
            "or give `num_labels=`, `id2label=` or `tasks=` for a classifier with its encoder."
        )


class TaskHeadsMixin(_Model):
    """The heads of a classifier, one per task and named; with `tasks=None` an ordinary one, `classifier`."""

    def build_heads(self, width: int) -> None:
        """Makes the heads that the config asks for, over features of `width` numbers."""
        self.head_width = width
        self.num_labels = self.config.num_labels
        if self.config.tasks is None:
            self.classifier = ArkLinear(width, self.config.num_labels)
        else:
            self.heads = nn.ModuleDict({task.name: self._new_head(task) for task in self.config.tasks})

    def _new_head(self, task: ArkTask) -> ArkLinear:
        return ArkLinear(self.head_width, len(task.labels))

    def add_task(self, task: ArkTask) -> None:
        """Adds a head with fresh weights, after the others. Raises `ValueError` if the name is taken."""
        task = ArkTask.from_dict(task)
        self.config.tasks = [*self._tasks(), task]
        head = self._new_head(task)
        reference = next(self.parameters())
        self.heads[task.name] = head.to(device=reference.device, dtype=reference.dtype)
        self.num_labels = self.config.num_labels

    def remove_task(self, name: str) -> None:
        """Removes a head. Raises `ValueError` if there is none of this name or it is the last one."""
        self._task(name)
        self.keep_tasks([task.name for task in self._tasks() if task.name != name])

    def keep_tasks(self, names: list[str]) -> None:
        """Keeps the named heads, in the given order, and removes the others. Raises `ValueError` on unknown names."""
        kept = [self._task(name) for name in names]
        self.config.tasks = kept
        self.heads = nn.ModuleDict({task.name: self.heads[task.name] for task in kept})
        self.num_labels = self.config.num_labels

    def _tasks(self) -> list[ArkTask]:
        if self.config.tasks is None:
            raise ValueError(
                "This model is an ordinary classifier without named tasks (config.tasks is None). If label maps were "
                "set on the config of a loaded multi-task model, load the model with that config instead."
            )
        return self.config.tasks

    def _task(self, name: str) -> ArkTask:
        tasks = {task.name: task for task in self._tasks()}
        if name not in tasks:
            raise ValueError(f"Unknown task {name!r}; this model has {list(tasks)}.")
        return tasks[name]

    def answer(
        self,
        features: torch.Tensor,
        labels: torch.Tensor | None,
        task: str | None,
        modality: str | torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """
        Loss and logits of a batch, as the models' `forward` describes them.

        Args:
            features: (batch, width).
            labels: For one head see [`masked_classification_loss`]. For several heads without `task`: float
                (batch, num_labels) in `id2label` order, NaN unknown; the loss is the mean over the tasks that have a
                known element. None: no loss.
            task: Name of the head whose raw logits are wanted.
            modality: What the images were taken with, a code or int (batch,) of numbers in `MODALITIES`: of several
                heads those of another one are not asked, and their logits are -inf.

        Raises:
            ValueError: The task is unknown, no head is of the modality, or the labels do not fit.
        """
        loss = None
        if self.config.tasks is None and hasattr(self, "classifier") and task is None:
            logits = self.classifier(features).float()
            if labels is not None:
                loss = self._classifier_loss(logits, labels)
        elif task is not None or len(self._tasks()) == 1:
            chosen = self._task(task) if task is not None else self._tasks()[0]
            logits = self.heads[chosen.name](features).float()
            if labels is not None:
                loss = masked_classification_loss(logits, labels, chosen.problem_type)
        else:
            raw = {each.name: self.heads[each.name](features).float() for each in self._tasks()}
            if labels is not None:
                loss = self._mean_task_loss(raw, labels)
            logits = torch.cat(
                [
                    raw[each.name] if each.problem_type == "multi_label_classification" else log_odds(raw[each.name])
                    for each in self._tasks()
                ],
                dim=-1,
            )
            if modality is not None:
                logits = logits.masked_fill(self._not_asked(modality, logits.device), -torch.inf)
        return loss, logits

    def _not_asked(self, modality: str | torch.Tensor, device: torch.device) -> torch.Tensor:
        """Bool (batch or 1, num_labels): the outputs of heads of another modality."""
        if isinstance(modality, str):
            known = sorted({task.modality for task in self._tasks()})
            if modality not in known:
                raise ValueError(
                    f"This model has no head for images of modality {modality!r}; it has some of {known}."
                )
            modality = torch.tensor([MODALITIES.index(modality)])
        heads = [MODALITIES.index(task.modality) for task in self._tasks() for _ in task.labels]
        return modality.to(device)[:, None] != torch.tensor(heads, device=device)

    def _classifier_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.config.problem_type is None:  # inferred and remembered, as transformers does
            if self.config.num_labels == 1:
                self.config.problem_type = "regression"
            elif labels.is_floating_point():
                self.config.problem_type = "multi_label_classification"
            else:
                self.config.problem_type = "single_label_classification"
        if self.config.problem_type == "regression":
            return F.mse_loss(logits.reshape(labels.shape), labels.to(logits.dtype))
        return masked_classification_loss(logits, labels, self.config.problem_type)

    def _mean_task_loss(self, logits: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        expected = (len(next(iter(logits.values()))), self.config.num_labels)
        if labels.shape != expected or not labels.is_floating_point():
            raise ValueError(
                f"A model of several tasks takes float labels of shape {expected}, NaN where unknown, or `task=` and "
                f"that task's labels; got {labels.dtype} of shape {tuple(labels.shape)}. To train one new head of "
                "your own classes, load the model with `id2label=` or `num_labels=`."
            )
        losses, known = [], []
        for task, part in zip(self._tasks(), labels.split([len(t.labels) for t in self._tasks()], dim=1), strict=True):
            losses.append(masked_classification_loss(logits[task.name], part, task.problem_type))
            known.append(known_elements(part, task.problem_type).any())
        return torch.stack(losses).sum() / torch.stack(known).sum().clamp(min=1)
