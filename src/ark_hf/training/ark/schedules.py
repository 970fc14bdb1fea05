"""What follows from where a run is: learning rate, momentum of the teacher, weight of the consistency loss."""

import math
from dataclasses import dataclass

from ..run import RunState
from ..schedules import cosine_schedule, scheduled_rate, warmup_length
from .recipe import PretrainingArguments

# The releases' defaults of --epochs, --warmup-lr and --min-lr, which the published commands leave alone
RELEASE_EPOCHS, RELEASE_WARMUP_RATE, RELEASE_LOWEST_RATE = 200, 1e-6, 1e-5


@dataclass(frozen=True)
class Schedules:
    """The values that a run's settings ask for, at any state of it."""

    args: PretrainingArguments
    num_passes: int
    steps_in_cycle: int

    @property
    def total_steps(self) -> int:
        return self.args.cycles * self.steps_in_cycle

    def pass_number(self, state: RunState) -> int:
        """Number of the present pass, counted from 0 over the whole run."""
        return state.cycle * self.num_passes + state.task_index

    def learning_rate(self, state: RunState) -> float:
        """Learning rate of the present step."""
        peak = self.args.learning_rate
        if "lr_by_val_loss" in self.args.reproduce:
            return lr_by_val_loss(peak, self.args.warmup_steps, _validation_loss(state))
        kind, warmup = self.args.lr_scheduler_type, self.args.warmup_steps
        return scheduled_rate(peak, kind, state.step, self.total_steps, warmup)

    def teacher_momentum(self, state: RunState) -> float:
        """Momentum of the teacher at the present pass or step; its index is what `ema_mode` says."""
        if self.args.ema_mode == "epoch":
            index, length = self.pass_number(state), self.args.cycles * self.num_passes
        elif "ema_index_by_pass" in self.args.reproduce:
            index, length = self.pass_number(state) + state.step_in_pass, self.total_steps
        else:
            index, length = state.step, self.total_steps
        return cosine_schedule(self.args.ema_momentum, 1.0, index, length)

    def consistency_coefficient(self, state: RunState) -> float:
        """Weight of the consistency loss in the present step: it rises with the teacher's momentum."""
        momentum = self.teacher_momentum(state)
        if "ema_index_by_pass" in self.args.reproduce:  # the releases read it once a pass
            momentum = cosine_schedule(self.args.ema_momentum, 1.0, self.pass_number(state), self.total_steps)
        start = 0.9 if "coefficient_from_0.9" in self.args.reproduce else self.args.ema_momentum
        return consistency_coefficient(momentum, start, self.args.consistency)


def _validation_loss(state: RunState) -> float:
    """The student's mean loss after the last cycle; 0 in the first."""
    return state.history[-1]["validation"]["student"]["mean_loss"] if state.cycle else 0.0


def consistency_coefficient(momentum: float, initial_momentum: float, maximum: float) -> float:
    """Weight of the consistency loss: rises from 0 to `maximum` as the momentum rises from its start to 1."""
    return maximum * (momentum - initial_momentum) / (1 - initial_momentum)


def lr_by_val_loss(peak: float, warmup_steps: float, validation_loss: float) -> float:
    """
    Learning rate of a cycle under the quirk of that name: timm 0.5.4's cosine over 200 epochs, given the validation
    loss in place of the epoch (specification of the originals, section 6).

    A loss seldom reaches the length of the warm-up, so the rate follows the loss, stays low and never decays.

    Args:
        peak: Rate at the end of the warm-up.
        warmup_steps: Epochs of the warm-up, or below 1 a share of the 200; the cosine is not shifted by it.
        validation_loss: Not negative; 0 in the first cycle.
    """
    warmup = warmup_length(warmup_steps, RELEASE_EPOCHS)
    if validation_loss < warmup:
        return RELEASE_WARMUP_RATE + validation_loss * (peak - RELEASE_WARMUP_RATE) / warmup
    if validation_loss < RELEASE_EPOCHS:
        cosine = math.cos(math.pi * validation_loss / RELEASE_EPOCHS)
        return RELEASE_LOWEST_RATE + 0.5 * (peak - RELEASE_LOWEST_RATE) * (1 + cosine)
    return RELEASE_LOWEST_RATE
