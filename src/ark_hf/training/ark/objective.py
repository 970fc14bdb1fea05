"""The loss of a step: of the head that learns in a pass, or of several heads at once in a mixed batch."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from ...models.ark.configuration_ark import ArkTask
from ...models.ark.heads_ark import known_elements, masked_classification_loss

# Of labels and their task: the labels and the problem type that the loss is computed with
Criterion = Callable[[torch.Tensor, ArkTask], tuple[torch.Tensor, str]]


class Objective:
    """
    The loss over the known labels of a global batch.

    With several learners it is the sum of their losses, each a mean over its known labels, weighted by the learner's
    share of the batch's images that have a label. So an image weighs what it weighs in a batch of its task alone.

    Args:
        learners: The tasks whose heads learn. Labels are in the columns of all their labels, in this order.
        heads: All tasks of the model, in its order.
        criterion: See [`Criterion`].
    """

    def __init__(self, learners: list[ArkTask], heads: list[ArkTask], criterion: Criterion):
        self.learners, self.heads, self.criterion = learners, heads, criterion

    @property
    def head(self) -> str | None:
        """The `task` of the model's forward: None, all heads, where several learn."""
        return self.learners[0].name if len(self.learners) == 1 else None

    def counts(self, labels: torch.Tensor) -> torch.Tensor:
        """Known elements and images with a known one, float (2, learners): to be summed over the global batch."""
        known = [known_elements(*each) for each in self._targets(labels)]
        images = [each.reshape(len(each), -1).any(dim=1) for each in known]
        return torch.stack([torch.stack([each.sum() for each in part]) for part in (known, images)]).float()

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Scalar of a micro-batch, to be summed over the global batch whose `counts` are given; 0 if nothing known."""
        num_known, images = counts
        losses = [
            masked_classification_loss(each, *targets, number)
            for each, targets, number in zip(self._logits(logits), self._targets(labels), num_known, strict=True)
        ]
        return (torch.stack(losses) * images / images.sum().clamp(min=1)).sum()

    def _targets(self, labels: torch.Tensor) -> list[tuple[torch.Tensor, str]]:
        parts = (
            [labels] if self.head is not None else labels.split([len(task.labels) for task in self.learners], dim=1)
        )
        return [self.criterion(part, task) for part, task in zip(parts, self.learners, strict=True)]

    def _logits(self, logits: torch.Tensor) -> list[torch.Tensor]:
        if self.head is not None:
            return [logits]
        parts = logits.split([len(task.labels) for task in self.heads], dim=1)
        by_name = {task.name: part for task, part in zip(self.heads, parts, strict=True)}
        return [
            # All heads give log-odds: those of a softmax back to logarithms of its probabilities
            by_name[task.name]
            if task.problem_type == "multi_label_classification"
            else F.logsigmoid(by_name[task.name])
            for task in self.learners
        ]
