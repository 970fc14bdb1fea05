"""What PEAC's student is taught by: order, restoration, and consistency of whole pictures and of single cells."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .heads import PeacEmbeddings, PeacOutput

TERMS = ("order", "restoration", "global", "local")


@dataclass(frozen=True)
class Objective:
    """
    The four losses (specification of the originals, section 9), means over the global batch.

    Args:
        weights: Of each of `TERMS` in the total.
        release_validation: As the release validates: the cells' embeddings are normalised along the cells, and half of
            one direction counts.
    """

    weights: dict[str, float]
    release_validation: bool = False

    def counts(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Number of pictures, and of matched cells of those whose first crop is in order: what sums are divided by."""
        pictures = batch["weight"].sum()
        return torch.stack([pictures, pictures.new_full((), len(batch["first_cells"]))])

    def losses(
        self,
        student: PeacOutput,
        teacher: tuple[PeacEmbeddings, PeacEmbeddings],
        batch: dict[str, torch.Tensor],
        counts: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            student: Of the batch.
            teacher: Its embeddings of the two crops.
            batch: As [`PeacSamples.normalise`] gives it.
            counts: Of the global batch, see [`counts`].

        Returns:
            (4,) in the order of `TERMS`, this batch's share of the global means, not yet weighted.
        """
        pictures, matches = counts.clamp(min=1)
        weight = batch["weight"]
        order = F.cross_entropy(student.order_logits.float().transpose(1, 2), batch["permutation"], reduction="none")
        restored = (student.restored.float() - batch["target"]).square().flatten(1).mean(dim=1)
        whole = _distance(student.first.whole, teacher[1].whole) + _distance(student.second.whole, teacher[0].whole)
        cells = self._distances_of_cells(student, teacher, batch)
        return torch.stack(
            [
                (order.mean(dim=1) * weight).sum() / pictures,
                (restored * weight).sum() / pictures,
                (whole * weight).sum() / pictures,
                cells / matches,
            ]
        )

    def _distances_of_cells(
        self,
        student: PeacOutput,
        teacher: tuple[PeacEmbeddings, PeacEmbeddings],
        batch: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        first, second = batch["first_cells"], batch["second_cells"]
        if not len(first):  # then the projector of cells has no gradient at all, and momentum does not move it
            return student.first.cells.new_zeros((), dtype=torch.float32)
        ours = [student.first.cells.float(), student.second.cells.float()]
        theirs = [each.cells.float() for each in teacher]
        if self.release_validation:
            ours, theirs = ([F.normalize(each, dim=1) for each in side] for side in (ours, theirs))
        ours, theirs = ([each.flatten(0, 1) for each in side] for side in (ours, theirs))
        forward = (ours[0][first] - theirs[1][second]).square().mean(dim=-1).sum()
        backward = (ours[1][second] - theirs[0][first]).square().mean(dim=-1).sum()
        return (backward if self.release_validation else forward + backward) / 2

    def total(self, losses: torch.Tensor) -> torch.Tensor:
        """The weighted sum of losses (4,)."""
        # Made where they are used: a copy from the host would be waited for
        weights = torch.stack([losses.new_full((), self.weights[term]) for term in TERMS])
        return (losses * weights).sum()


def _distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the directions of embeddings (batch, width), of each picture."""
    return (F.normalize(one.float(), dim=-1) - F.normalize(other.float(), dim=-1)).square().mean(dim=-1)
