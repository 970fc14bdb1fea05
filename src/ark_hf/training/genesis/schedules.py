"""What follows from where a run of Models Genesis is: the learning rate, and whether it has gone on long enough."""

from collections.abc import Collection
from dataclasses import dataclass

from ..run import RunState
from ..schedules import scheduled_rate

RELEASE_EPOCHS_TO_HALVE = 40  # four fifths of the epochs without a better loss that end its run


@dataclass(frozen=True)
class Schedules:
    """
    The values that a run's settings ask for, at any state of it.

    Args:
        peak: Of the learning rate, 1 in the release.
        kind: "cosine" or "constant", see [`scheduled_rate`].
        warmup_steps: Steps, or below 1 a share of the run.
        epochs: The most there are.
        steps_in_epoch: Of the optimiser.
        patience: Epochs without a better validation loss after which the run ends, 50 in the release; never if `None`.
        reproduce: Quirks; `lr_halved_by_epoch` is one of the learning rate, see [`lr_halved_by_epoch`].
    """

    peak: float
    kind: str
    warmup_steps: float
    epochs: int
    steps_in_epoch: int
    patience: int | None
    reproduce: Collection[str] = ()

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_in_epoch

    def learning_rate(self, state: RunState) -> float:
        """Learning rate of the present step."""
        if "lr_halved_by_epoch" in self.reproduce:
            return lr_halved_by_epoch(self.peak, state.cycle)
        return scheduled_rate(self.peak, self.kind, state.step, self.total_steps, self.warmup_steps)

    def is_over(self, state: RunState) -> bool:
        """
        Whether the run ends before its next epoch: it has had all, or none of the last `patience` was better.

        Without validation, and so without a best epoch (`state.best["epoch"]`, counted from 1), it has all.
        """
        if state.cycle >= self.epochs or self.patience is None or state.best is None:
            return state.cycle >= self.epochs
        return state.cycle - state.best["epoch"] >= self.patience


def lr_halved_by_epoch(peak: float, epoch: int) -> float:
    """The release's learning rate of an epoch, counted from 0 (specification of the originals, section 10)."""
    return peak * 0.5 ** (epoch // RELEASE_EPOCHS_TO_HALVE)
