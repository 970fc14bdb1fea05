"""The cells of a radiograph from which PEAC cuts its two crops, and which of their cells show the same tissue."""

import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ...data.area_resize import resize_area


@dataclass(frozen=True)
class Grid:
    """
    A crop is a square of whole cells, and what an encoder makes one token of is a cell.

    Args:
        image_size: Side of a crop in pixels.
        cell: Side of a cell in pixels, the encoder's stride.
    """

    image_size: int
    cell: int

    def __post_init__(self):
        if self.image_size % self.cell or self.side < 2:
            raise ValueError(
                f"image_size {self.image_size} is not two or more cells of {self.cell} pixels, the encoder's stride. "
                f"The nearest that is: {max(round(self.image_size / self.cell), 2) * self.cell}."
            )

    @property
    def side(self) -> int:
        """Cells of a crop along a side."""
        return self.image_size // self.cell

    @property
    def reach(self) -> int:
        """The farthest that a crop may lie from another, in cells along a side: 4 for the originals' 14."""
        return round(4 * self.side / 14)

    @property
    def source(self) -> int:
        """Side in pixels of the square that crops are cut from: room for their reach, and a shift within a cell."""
        return (self.side + self.reach + 1) * self.cell


class Placement(NamedTuple):
    """
    Where two crops lie.

    Args:
        down, right: By how many pixels, less than a cell, the cells of both are shifted.
        first, second: Row and column of each crop's first cell.
    """

    down: int
    right: int
    first: tuple[int, int]
    second: tuple[int, int]


def draw_placement(grid: Grid, python: random.Random) -> Placement:
    """Draws the two shifts, and for the first and then the second crop its row and its column."""
    down, right = (python.randint(0, grid.cell - 1) for _ in range(2))
    first_row, first_column, second_row, second_column = (python.randint(0, grid.reach) for _ in range(4))
    return Placement(down, right, (first_row, first_column), (second_row, second_column))


def cut_crops(picture: torch.Tensor, grid: Grid, placement: Placement) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The two crops of a picture, whose shorter side is resized to `grid.source`, and of whose middle they are.

    Args:
        picture: (C, H, W), uint8, or float in [0, 1].

    Returns:
        Two of (C, image_size, image_size) of the same range, uint8 or float32. The cells that both show are equal.
    """
    short = min(picture.shape[-2:])
    height, width = (grid.source * side // short for side in picture.shape[-2:])
    top, left = (round((length - grid.source) / 2) for length in (height, width))  # 85.5 is 86, as in the originals
    rows, columns = (
        [offset * grid.cell for offset in offsets] for offsets in zip(placement.first, placement.second, strict=True)
    )
    # Of the whole picture only the part that the two show
    size, row, column = grid.image_size, min(rows), min(columns)
    top, left = top + placement.down + row, left + placement.right + column
    window = (top, left, max(rows) - row + size, max(columns) - column + size)
    shown = resize_area(picture, (height, width), window)
    first, second = (
        shown[:, down - row : down - row + size, right - column : right - column + size]
        for down, right in zip(rows, columns, strict=True)
    )
    return first, second


def matches(grid: Grid, placement: Placement, transposed: bool) -> tuple[np.ndarray, np.ndarray]:
    """
    Which cells of the first crop the second shows too, and which of the second the first.

    Args:
        transposed: The published masks instead, in which rows and columns are exchanged: the k-th cell of one and the
            k-th of the other then show the same tissue only if both crops are as far apart in rows as in columns.

    Returns:
        Two of bool (side * side,), row by row, equally many true: the k-th true cell of one is the k-th of the other.
    """
    first, second = placement.first, placement.second
    if transposed:
        first, second = first[::-1], second[::-1]
    return _shared(grid.side, first, second), _shared(grid.side, second, first)


def _shared(side: int, own: tuple[int, ...], other: tuple[int, ...]) -> np.ndarray:
    cells = [np.arange(side) + start - start_of_other for start, start_of_other in zip(own, other, strict=True)]
    rows, columns = ((line >= 0) & (line < side) for line in cells)
    return np.logical_and.outer(rows, columns).ravel()
