"""Weights as they travel: one float32 vector, and a table of the names and shapes in it."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

BATCH_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Vector:
    """
    Named tensors in one piece: transports charge by the array, and a model has hundreds.

    Args:
        values: float32 (n,).
        table: JSON, a list of [name, shape] in the order of the values.
    """

    values: np.ndarray
    table: str

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + len(self.table)

    def sha256(self) -> str:
        """Of table and values."""
        digest = hashlib.sha256(self.table.encode())
        digest.update(np.ascontiguousarray(self.values).data)
        return digest.hexdigest()


def shared_tensors(model: nn.Module, keep_batch_norm: bool = False) -> dict[str, torch.Tensor]:
    """What of an encoder and projector is shared: all floating point tensors, or none of batch norm's statistics."""
    return {
        name: value
        for name, value in model.state_dict().items()
        if value.is_floating_point() and not (keep_batch_norm and name.endswith(BATCH_STATISTICS))
    }


def has_batch_statistics(model: nn.Module) -> bool:
    return any(name.endswith(BATCH_STATISTICS) for name in model.state_dict())


def pack(tensors: Mapping[str, torch.Tensor]) -> Vector:
    """The tensors, in their order, as float32."""
    table = json.dumps([[name, list(value.shape)] for name, value in tensors.items()])
    values = np.empty(sum(value.numel() for value in tensors.values()), dtype=np.float32)
    start = 0
    for value in tensors.values():
        values[start : start + value.numel()] = value.detach().reshape(-1).float().cpu().numpy()
        start += value.numel()
    return Vector(values, table)


def unpack(vector: Vector) -> dict[str, torch.Tensor]:
    """
    The tensors by name: copies of their own.

    Raises:
        ValueError: Table and values do not fit each other.
    """
    entries = _entries(vector.table)
    if vector.values.dtype != np.float32 or vector.values.shape != (sum(size for _, _, size in entries),):
        raise ValueError(
            f"the table tells of {sum(size for _, _, size in entries):,} float32 numbers, there are "
            f"{vector.values.shape} of {vector.values.dtype}"
        )
    tensors, start = {}, 0
    for name, shape, size in entries:
        tensors[name] = torch.from_numpy(vector.values[start : start + size].copy()).reshape(shape)
        start += size
    return tensors


def load(model: nn.Module, vector: Vector, keep_batch_norm: bool = False) -> None:
    """
    Fills what the model shares with the vector.

    Raises:
        ValueError: The vector is of another model.
    """
    tensors = unpack(vector)
    ours = {name: value.shape for name, value in shared_tensors(model, keep_batch_norm).items()}
    if ours != {name: value.shape for name, value in tensors.items()}:
        raise ValueError("the weights that came are not of this model: names or shapes differ")
    model.load_state_dict(tensors, strict=False)


def average(vectors: Sequence[Vector], weights: Sequence[float]) -> Vector:
    """
    The weighted mean, summed in float64 in the given order.

    Args:
        vectors: Of one table.
        weights: Positive; their sum need not be 1.
    """
    total = torch.zeros(len(vectors[0].values), dtype=torch.float64)
    whole = math.fsum(weights)
    for vector, weight in zip(vectors, weights, strict=True):
        total.add_(torch.from_numpy(vector.values), alpha=weight / whole)
    return Vector(total.float().numpy(), vectors[0].table)


def fault(vector: Vector, table: str) -> str | None:
    """What is wrong with a vector that should have this table; None if nothing is."""
    if vector.table != table:
        return "its weights have other names or shapes"
    if vector.values.dtype != np.float32 or vector.values.shape != (_length(table),):
        return "its weights are not the float32 numbers that its table tells of"
    return None if np.isfinite(vector.values).all() else "its weights are not all finite numbers"


def _length(table: str) -> int:
    return sum(size for _, _, size in _entries(table))


def _entries(table: str) -> list[tuple[str, list[int], int]]:
    """Name, shape and size of each tensor; `ValueError` where it is no such table."""
    try:
        entries = [(name, shape, math.prod(shape)) for name, shape in json.loads(table)]
        sides = [side for _, shape, _ in entries for side in shape]
        well_formed = json.loads(table) == [[name, shape] for name, shape, _ in entries] and (
            all(type(name) is str for name, _, _ in entries)
            and all(type(side) is int and side >= 0 for side in sides)
            and len({name for name, _, _ in entries}) == len(entries)
        )
    except (TypeError, ValueError, RecursionError):
        well_formed = False
    if not well_formed:
        raise ValueError("the table of the weights is not a list of names and shapes")
    return entries
