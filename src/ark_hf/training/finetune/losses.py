"""
Losses of fine-tuning for rare classes: class weights and the focal loss, over the labels that are known.

Their names are the options' choices: torch is imported where it is used, as `ark-hf finetune --help` does without.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

    from ...models.ark.modeling_ark import ArkImageClassifierOutput

Loss = Literal["cross_entropy", "focal", "dice"]
LOSS_HELP = (
    "focal (Lin et al. 2017) weighs down what is already right: for long tails. Of masks: cross_entropy has the soft "
    "Dice loss beside it; dice is that alone."
)
ClassWeighting = Literal["none", "balanced", "effective"]
DIVERGED = "The model's outputs are no longer finite. Lower learning_rate, or train without mixed precision."
UNKNOWN = -100.0  # of multi-label targets too: by it Trainer counts the known elements of a step


class FinetuningLoss:
    """
    Weighted cross-entropy or focal loss (Lin et al., ICCV 2017), as `compute_loss_func` of `Trainer`.

    With p the probability that the head gives to a target's class (or to a label's state, present or absent), an
    element costs -weight factor log p, see [`factor`]; a smoothed target costs the mean of its two states. The sum is
    divided by the number of known elements of the whole step.

    Args:
        problem_type: As in [`ArkTask`].
        class_weights: float (2, labels), of absence and of presence, or (classes,); 1 unless given.
        loss: The name of the loss.
        focal_gamma: Exponent of the focal loss; 0 is cross-entropy.
    """

    def __init__(
        self,
        problem_type: str,
        class_weights: "torch.Tensor | None" = None,
        loss: Loss = "cross_entropy",
        focal_gamma: float = 2.0,
    ):
        self.multi_label = problem_type == "multi_label_classification"
        self.class_weights, self.loss, self.focal_gamma = class_weights, loss, focal_gamma

    def __call__(
        self,
        outputs: "ArkImageClassifierOutput",
        labels: "torch.Tensor",
        num_items_in_batch: "torch.Tensor | int | None" = None,
    ) -> "torch.Tensor":
        """
        Args:
            outputs: With `logits`, (batch, labels).
            labels: float (batch, labels) in [0, 1], or int (batch,); -100 is unknown.
            num_items_in_batch: Known elements of the step; by default those of `labels`.

        Returns:
            Scalar, zero with a graph if nothing is known.
        """
        import torch

        known = labels != UNKNOWN
        costs = self._of_labels if self.multi_label else self._of_classes
        logits: torch.Tensor = outputs.logits  # type: ignore[assignment]
        total = torch.where(known, costs(logits.float(), labels.masked_fill(~known, 0)), 0).sum()
        number = known.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        return total / number.to(total.device).clamp(min=1)

    def _of_labels(self, logits: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        import torch
        from torch.nn.functional import logsigmoid

        absent, present = torch.ones(2, 1) if self.class_weights is None else self.class_weights
        cost_if_present = -logsigmoid(logits) * self.factor(torch.sigmoid(-logits))
        cost_if_absent = -logsigmoid(-logits) * self.factor(torch.sigmoid(logits))
        weighted_presence = targets * present.to(logits.device)
        return weighted_presence * cost_if_present + (1 - targets) * absent.to(logits.device) * cost_if_absent

    def _of_classes(self, logits: "torch.Tensor", classes: "torch.Tensor") -> "torch.Tensor":
        log_p = logits.log_softmax(dim=-1).gather(1, classes[:, None]).squeeze(1)
        weights = 1.0 if self.class_weights is None else self.class_weights.to(logits.device)[classes]
        return -weights * self.factor(1 - log_p.exp()) * log_p

    def factor(self, doubt: "torch.Tensor") -> "torch.Tensor | float":
        """What the loss multiplies an element's cross-entropy by, from `doubt`, 1 - p: here a loss differs."""
        return doubt**self.focal_gamma if self.loss == "focal" else 1.0


def class_weights(
    targets: np.ndarray, problem_type: str, weighting: ClassWeighting, beta: float = 0.999
) -> "torch.Tensor | None":
    """
    Weights of the classes from how often each is in the training split; those of a class that is not there are 0.

    Args:
        targets: float (rows, labels) in [0, 1], NaN unknown; of a single-label task a column per class.
        problem_type: As in [`ArkTask`]. Each label of a multi-label task is a problem of two classes, its absence and
            its presence.
        weighting: "none"; "balanced": n / (C n_c), by which every class weighs the same; or "effective": (1 - beta) /
            (1 - beta^n_c), scaled so that the C weights sum to C (Cui et al., CVPR 2019).
        beta: In [0, 1): 0 weighs nothing, towards 1 it tends to the inverse frequency.

    Returns:
        float32 (2, labels) or (classes,) as [`FinetuningLoss`] takes them, or None for "none".
    """
    if weighting == "none":
        return None
    import torch

    present = np.nansum(targets, axis=0)
    if problem_type == "single_label_classification":
        return torch.from_numpy(_weights(present, weighting, beta)).float()
    absent = np.nansum(1 - targets, axis=0)
    return torch.from_numpy(_weights(np.stack([absent, present]), weighting, beta)).float()


def _weights(counts: np.ndarray, weighting: ClassWeighting, beta: float) -> np.ndarray:
    """Of counts whose first axis is the classes, the weights; 0 where there is nothing to weigh."""
    there = counts > 0
    counts = np.where(there, counts, 1.0)
    if weighting == "balanced":
        return np.where(there, (counts * there).sum(axis=0) / (len(counts) * counts), 0.0)
    weights = np.where(there, (1 - beta) / (1 - beta**counts), 0.0)
    total = weights.sum(axis=0)  # 0 of a label that no image knows
    return weights * len(counts) / np.where(total > 0, total, 1.0)
