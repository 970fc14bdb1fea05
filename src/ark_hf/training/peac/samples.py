"""What PEAC sees of a radiograph: two crops of one grid, of which the first is distorted or its cells shuffled."""

import random

import numpy as np
import torch

from ...data.loader import to_device
from ...data.loading import DrawnSamples, stack_pictures
from .distortion import distort
from .grid import Grid, cut_crops, draw_placement, matches

PICTURES = ("first", "target", "second")


class PeacSamples(DrawnSamples):
    """
    Samples of one dataset in one epoch; labels are ignored.

    Args:
        rows, task, processor, seed: As for [`DrawnSamples`].
        epoch: What is drawn is a function of it, too.
        grid: What crops and cells are.
        transposed: Whether cells are matched as published, see [`matches`].
    """

    def __init__(self, rows, task, processor, seed: int, epoch: int, grid: Grid, transposed: bool = False):
        super().__init__(rows, task, processor, seed, epoch)
        self.grid, self.transposed = grid, transposed

    def samples(self, numbers: list[int], rows: list[dict], pictures: list[torch.Tensor]) -> list[dict]:
        samples = []
        for number, row, picture in zip(numbers, rows, pictures, strict=True):
            sample = self._crops(picture, self.generator(number, row))
            samples.append({**sample, "weight": torch.tensor(float(number >= 0))})
        return samples

    def _crops(self, picture: torch.Tensor, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        # The distortion draws from generators of three kinds, which this one seeds
        seeds = generator.integers(2**32, size=3).tolist()
        python, numbers = random.Random(seeds[0]), np.random.RandomState(seeds[1])
        uniform = torch.Generator().manual_seed(seeds[2])
        placement = draw_placement(self.grid, python)
        target, second = cut_crops(picture, self.grid, placement)
        first_matches, second_matches = map(torch.from_numpy, matches(self.grid, placement, self.transposed))
        cells = self.grid.side**2
        shuffled = python.random() < 0.5
        if shuffled:
            first, permutation = target, torch.randperm(cells, generator=uniform)
        else:
            first = torch.from_numpy(distort(target.numpy(), python, numbers, uniform))
            permutation = torch.arange(cells)
        return {
            "first": first, "target": target, "second": second,
            "permutation": permutation, "shuffled": torch.tensor(shuffled),
            "first_matches": first_matches, "second_matches": second_matches,
        }  # fmt: skip

    def collate(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        """
        Of (batch, 1, size, size), uint8, or float32 in [0, 1] if a picture is deeper than 8 bits: `first`, crop 1,
        distorted where it is not shuffled; `target`, crop 1 as it is; `second`, crop 2.

        Beside them `permutation`, int64 (batch, cells), the cell that stands at each place of the shuffled crop, its
        own where `shuffled`, bool (batch,), is false; `weight` (batch,), 0 for a padding; and `first_cells` and
        `second_cells`, see [`matched_cells`].
        """
        parts = {name: [sample[name] for sample in samples] for name in samples[0]}
        batch = {name: (stack_pictures if name in PICTURES else torch.stack)(each) for name, each in parts.items()}
        first, second = batch.pop("first_matches"), batch.pop("second_matches")
        return batch | matched_cells(first, second, batch["shuffled"], batch["weight"])

    def normalise(self, batch: dict[str, torch.Tensor], device: torch.device | str) -> dict[str, torch.Tensor]:
        """A batch on `device`, its pictures float32 (batch, 3, size, size) as the processor normalises them."""
        others = {name: value for name, value in batch.items() if name not in PICTURES}
        return super().normalise({name: batch[name] for name in PICTURES}, device) | to_device(others, device)


def matched_cells(
    first_matches: torch.Tensor, second_matches: torch.Tensor, shuffled: torch.Tensor, weight: torch.Tensor
) -> dict[str, torch.Tensor]:
    """
    Which cells of a batch teach by what both crops show: those of pictures that count whose first crop is in order.

    They are counted where batches are made: on an accelerator every step would have to wait for their number.

    Args:
        first_matches, second_matches: Bool (batch, cells), see [`matches`].
        shuffled, weight: (batch,), see [`PeacSamples.collate`].

    Returns:
        `first_cells` and `second_cells`, int64 (matches,): numbers of the cells of all pictures, counted through. The
        k-th of both show one tissue.
    """
    counts = ((weight > 0) & ~shuffled)[:, None]
    first, second = ((found & counts).flatten().nonzero().flatten() for found in (first_matches, second_matches))
    return {"first_cells": first, "second_cells": second}
