"""What follows from where a run of PEAC is: learning rate and the teacher's momentum."""

import math
from dataclasses import dataclass

from ..run import RunState
from ..schedules import cosine_schedule, scheduled_rate
from .arguments import PeacArguments

RELEASE_WARMUP_EPOCHS = 5


@dataclass(frozen=True)
class Schedules:
    """The values that a run's settings ask for, at any state of it."""

    args: PeacArguments
    steps_in_epoch: int

    @property
    def total_steps(self) -> int:
        return self.args.epochs * self.steps_in_epoch

    def learning_rate(self, state: RunState) -> float:
        """Learning rate of the present step."""
        peak = self.args.learning_rate
        if "lr_by_epoch" in self.args.reproduce:
            return lr_by_epoch(peak, state.cycle, self.args.epochs)
        kind, warmup = self.args.lr_scheduler_type, self.args.warmup_steps
        return scheduled_rate(peak, kind, state.step, self.total_steps, warmup)

    def teacher_momentum(self, state: RunState) -> float:
        """Momentum of the teacher after the present step: from `ema_momentum` to 1 on a cosine over the run."""
        index = state.step
        if "ema_index_from_epoch_1" in self.args.reproduce:  # the release's list ends an epoch too early
            index = min(index + self.steps_in_epoch, self.total_steps - 1)
        return cosine_schedule(self.args.ema_momentum, 1.0, index, self.total_steps)


def lr_by_epoch(peak: float, epoch: int, epochs: int) -> float:
    """The release's learning rate of an epoch, counted from 0 (specification of the originals, section 9)."""
    warmup = RELEASE_WARMUP_EPOCHS
    part = min(max((epoch - warmup) / max(epochs - warmup, 1), 0.0), 1.0)
    return peak * 0.5 * (1 + math.cos(math.pi * part)) * min(1.0, epoch / warmup)
