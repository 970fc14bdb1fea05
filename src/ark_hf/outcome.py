"""
How a pretraining ended: its last teacher and its best one, by validation, and whether they differ beyond chance.

Read off what training notes beside a model, see provenance.py: `validation` of this teacher, and as `best` or `last`
the number of a cycle or an epoch and the value there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Below the best by so much, and so many standard errors of a difference, an AUROC is clearly worse; a loss above it so
# many times: it is measured on the same crops and distortions each time, where healthy runs stayed within 1.03
LEAST_FALL, ERRORS, LOSS_RATIO = 0.02, 3.0, 1.2
# By kind of provenance: what is counted, the value that teachers are chosen by, and what it is called
MEASURES = {
    "pretraining": ("cycle", "mean_auroc", "mean validation AUROC"),
    "self-supervision": ("epoch", "total", "validation loss"),
}


@dataclass(frozen=True)
class Outcome:
    """The last teacher of a run and its best: the cycle (`turn`) of each, and its value of `key`, the `measure`."""

    turn: str
    key: str
    measure: str
    last: tuple[int, float]
    best: tuple[int, float]
    is_clearly_worse: bool

    def __str__(self) -> str:
        if self.last[0] == self.best[0]:
            return f"The last teacher, of {self.turn} {self.last[0]}, is the best: {self.measure} {self.last[1]:.4f}."
        return (
            f"{self.measure[0].upper()}{self.measure[1:]} of the last teacher, of {self.turn} {self.last[0]}: "
            f"{self.last[1]:.4f}; of the best, of {self.turn} {self.best[0]}: {self.best[1]:.4f}; difference "
            f"{self.last[1] - self.best[1]:+.4f}{', which is clearly worse' if self.is_clearly_worse else ''}."
        )


def read_outcome(origin: Mapping[str, Any] | None) -> Outcome | None:
    """
    What the provenance of a teacher says; None of a model that is none, or that was not validated.

    Args:
        origin: That of the last teacher, with `best`; or of the best, with `last`, where the run has ended.
    """
    if origin is None or origin["kind"] not in MEASURES:
        return None
    turn, key, measure = MEASURES[origin["kind"]]
    validation = origin.get("validation") or {}
    here = origin[turn], validation.get(key)
    noted = {name: (origin[name][turn], origin[name][key]) for name in ("last", "best") if origin.get(name)}
    last, best = noted.get("last", here), noted.get("best", here)
    if not noted or last[1] is None or best[1] is None:
        return None
    return Outcome(turn, key, measure, last, best, is_clearly_worse(validation, last[1], best[1]))


def has_just_fallen(validations: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether the last of a run's validations is clearly worse than the best before it, by `key`, and is the first."""
    return _has_fallen(validations, key) and not _has_fallen(validations[:-1], key)


def _has_fallen(validations: Sequence[Mapping[str, Any]], key: str) -> bool:
    defined = [each[key] for each in validations[:-1] if not math.isnan(each[key])]
    if not defined:
        return False
    best = min(defined) if key == "total" else max(defined)
    return is_clearly_worse(validations[-1], validations[-1][key], best)


def is_clearly_worse(validation: Mapping[str, Any], last: float, best: float) -> bool:
    """
    Whether the last value lies beyond what chance explains on the wrong side of the best.

    Args:
        validation: Of one of the two teachers; of an Ark it says how many images each AUROC rests on.
        last, best: Mean AUROCs; where `validation` has no tasks, losses.
    """
    if "tasks" not in validation:
        return last > LOSS_RATIO * best
    share = _share_of_variance(validation["tasks"])
    error = math.sqrt(share * (last * (1 - last) + best * (1 - best)))
    return best - last > max(LEAST_FALL, ERRORS * error)


def _share_of_variance(tasks: Mapping[str, Any]) -> float:
    """
    What a mean AUROC A has for a variance, as a share of A (1 - A).

    That of one label's is at most A (1 - A) over the number of positives or of negatives, whichever are fewer
    (Birnbaum and Klose, Annals of Mathematical Statistics 1957). Labels are taken for independent.
    """
    shares = []
    for task in tasks.values():
        fewer = [
            max(min(task["positives"][label], task["samples"] - task["positives"][label]), 1)
            for label, auroc in task["auroc"].items()
            if auroc is not None and not math.isnan(auroc)
        ]
        if fewer:
            shares.append(sum(1 / number for number in fewer) / len(fewer) ** 2)
    return sum(shares) / len(shares) ** 2 if shares else math.inf
