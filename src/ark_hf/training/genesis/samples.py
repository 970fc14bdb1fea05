"""What Models Genesis sees of its cubes: each deformed, beside what is to be restored."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

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

    def batches(self, numbers: list[np.ndarray], num_workers: int) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of these cubes in order, by so many other processes, or in this one."""
        batches = [each.tolist() for each in numbers]
        return iter(DataLoader(self, batch_sampler=batches, num_workers=num_workers))  # type: ignore[arg-type]
