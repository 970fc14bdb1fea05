"""What Models Genesis sees of its cubes: each deformed, beside what is to be restored."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from ...data.views import sample_generator
from .cubes import Cubes
from .deformation import Axes
from .fast_deformation import LEVELS, deform_fast


class CubeSamples(Dataset):
    """
    Deformed cubes of one epoch.

    Args:
        cubes: Those of a split.
        axes: Of the cubes.
        seed, epoch: What is drawn for a cube is a function of them, and of the cube's name.
    """

    def __init__(self, cubes: Cubes, axes: Axes, seed: int, epoch: int):
        self.cubes, self.axes, self.seed, self.epoch = cubes, axes, seed, epoch

    def __len__(self) -> int:
        return len(self.cubes)

    def at(self, epoch: int) -> "CubeSamples":
        """The same cubes in another epoch."""
        other = copy.copy(self)
        other.epoch = epoch
        return other

    def __getitems__(self, batch: Iterable[Any]) -> list[dict[str, torch.Tensor]]:
        return [self[int(number)] for number in batch]

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """
        `pixel_values`, a deformed cube, and `labels`, the cube: both float32 (1, *cube_size) in [0, 1] and flipped
        alike; `weight`, 1, or 0 for a padding, see [`micro_batches`].
        """
        dataset, name, levels = self.cubes[max(number, ~number)]
        generator = sample_generator(self.seed, self.epoch, dataset, name)
        deformed, cube = deform_fast(levels[None] / LEVELS, generator, self.axes)
        return {
            "pixel_values": torch.from_numpy(deformed),
            "labels": torch.from_numpy(cube),
            "weight": torch.tensor(float(number >= 0)),
        }

    def collate(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Stacked, (batch, ...)."""
        return default_collate(samples)
