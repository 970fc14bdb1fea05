"""Signs of sick training: numbers not finite, gradients or losses that explode, heads that answer all alike."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

TROUBLES_FILE = "troubles.jsonl"
MOST_LINES = 1000  # of a kind in the file
SHOWN_ROWS = 8
# A gradient explodes if it is so many times the median of the last ones
EXPLODED, LEAST_NORMS, MOST_NORMS = 100.0, 20, 50
# A loss does if it is above all before it, and so many times their median; of a few steps' the first can be far apart
LOSS_EXPLODED, LOSS_EXPLODED_EARLY = 3.0, 10.0
MOST_SKIPPED = 20  # steps in a row: float16's scale is then a millionth of what it was
SAME = 1e-6  # outputs that differ by less, relative to their size, are the same

Rows = Mapping[str, Sequence[int]]  # of each dataset some rows, by number


@dataclass(frozen=True)
class Step:
    """What a step leaves on the device: its losses and the norm of its gradient, scalars; and which samples it saw."""

    number: int
    what: str
    losses: Mapping[str, torch.Tensor]
    norm: torch.Tensor
    rows: Callable[[], Rows]


def clip_gradient(
    accelerator: Accelerator, parameters: Iterable[torch.nn.Parameter], most: float | None
) -> torch.Tensor:
    """Cuts the gradient to the norm `most`, if there is such a limit; its norm before, a scalar on the device."""
    if most is not None:
        return _whole(accelerator.clip_grad_norm_(parameters, most))
    accelerator.unscale_gradients()
    return gradient_norm(parameters)


def gradient_norm(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """A scalar on the device, of all shards together."""
    return _whole(get_total_norm([each.grad for each in parameters if each.grad is not None]))


def _whole(norm: torch.Tensor) -> torch.Tensor:
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).detach().float()


def explodes(norm: float, usual: list[float]) -> bool:
    """Whether a finite norm is far above those before it, `usual`, to which it is then added."""
    exploded = len(usual) >= LEAST_NORMS and norm > EXPLODED * median(usual)
    usual.append(norm)
    del usual[:-MOST_NORMS]
    return exploded


def has_just_exploded(losses: Sequence[float], early: int = 0) -> bool:
    """
    Whether the last of finite losses is far above all before it, and the one before was not yet.

    Args:
        losses: Means over cycles, or over a few steps.
        early: Of how many the next must be further above.
    """
    return _has_exploded(losses, early) and not _has_exploded(losses[:-1], early)


def _has_exploded(losses: Sequence[float], early: int) -> bool:
    *earlier, last = losses or [0.0]
    if not earlier or last <= max(earlier):
        return False
    return last > (LOSS_EXPLODED_EARLY if len(earlier) <= early else LOSS_EXPLODED) * median(earlier)


def is_constant(outputs: np.ndarray) -> bool:
    """Whether several samples, along the first axis, all have the same outputs: a head or a network that is dead."""
    if len(outputs) < 2 or not np.isfinite(outputs).all():
        return False
    return bool(np.ptp(outputs, axis=0).max() <= SAME * max(1.0, float(np.abs(outputs).max())))


class Spread:
    """Lowest and highest outputs over the samples of many batches, for [`is_constant`]."""

    def __init__(self) -> None:
        self.ends: torch.Tensor | None = None

    def add(self, outputs: torch.Tensor) -> None:
        """Of a batch (samples, ...)."""
        outputs = outputs.detach().float()
        if self.ends is not None:
            outputs = torch.cat([self.ends, outputs])
        self.ends = torch.stack([outputs.amin(0), outputs.amax(0)])

    def is_constant(self) -> bool:
        return self.ends is not None and is_constant(self.ends.cpu().numpy())


def told_rows(rows: Rows) -> str:
    """Rows for a message, the first of each dataset by number."""
    told = []
    for name, numbers in rows.items():
        more = f" and {len(numbers) - SHOWN_ROWS} more" if len(numbers) > SHOWN_ROWS else ""
        told.append(f"rows {', '.join(map(str, numbers[:SHOWN_ROWS]))}{more} of {name}")
    return "; ".join(told)


def note_trouble(folder: Path | None, counts: dict[str, int], kind: str, told: Mapping[str, Any]) -> None:
    """Counts a trouble, and adds it to the list in `folder` while that is not too long: a JSON object a line."""
    counts[kind] = counts.get(kind, 0) + 1
    if folder is not None and counts[kind] <= MOST_LINES:
        values = {key: _plain(value) for key, value in {"kind": kind, **told}.items()}
        with open(folder / TROUBLES_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(values, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
