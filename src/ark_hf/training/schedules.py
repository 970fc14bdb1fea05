"""Curves that learning rates and momenta follow over a run."""

import math


def cosine_schedule(
    start: float, end: float, index: int, length: int, warmup: int = 0, warmup_start: float = 0.0
) -> float:
    """
    Value number `index` (from 0) of `length` values: the first `warmup` rise in a line from `warmup_start` to `start`,
    the others follow a cosine from `start` to `end`, which is never reached.
    """
    if index < warmup:
        return warmup_start + (start - warmup_start) * index / max(warmup - 1, 1)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * (index - warmup) / (length - warmup)))


def warmup_length(warmup_steps: float, length: int) -> int:
    """Length of the warm-up: `warmup_steps`, or below 1 that share of the `length` of the schedule."""
    return round(warmup_steps * length) if warmup_steps < 1 else int(warmup_steps)


def scheduled_rate(peak: float, kind: str, step: int, total_steps: int, warmup_steps: float) -> float:
    """
    Learning rate of a step, counted from 0: after the warm-up a cosine to 0 over the run, or for the `kind` "constant"
    the peak.

    Args:
        warmup_steps: See [`warmup_length`].
    """
    warmup = warmup_length(warmup_steps, total_steps)
    end = 0.0 if kind == "cosine" else peak
    return cosine_schedule(peak, end, step, total_steps, warmup, peak / max(warmup, 1))
