"""Crops of PEAC: those of the originals; and cells of the same tissue, read off pictures that name their places."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf.training.peac.grid import Grid, Placement, cut_crops, draw_placement, matches

PUBLISHED = Grid(448, 32)
GRIDS = st.builds(lambda side, cell: Grid(side * cell, cell), st.integers(2, 20), st.integers(1, 8))
SEEDS = st.integers(0, 2**32)


def cells_of(crop: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(cells, cell, cell), row by row."""
    return crop[0].unfold(0, grid.cell, grid.cell).unfold(1, grid.cell, grid.cell).reshape(-1, grid.cell, grid.cell)


@pytest.mark.parametrize(("image_size", "cell", "source"), [(448, 32, 608), (224, 16, 304), (224, 32, 320)])
def test_a_picture_leaves_room_for_reach_and_shift(image_size, cell, source):
    assert Grid(image_size, cell).source == source


@pytest.mark.parametrize(("image_size", "cell", "nearest"), [(230, 32, 224), (32, 32, 64)])
def test_crops_are_of_whole_cells(image_size, cell, nearest):
    with pytest.raises(ValueError, match=rf"^image_size {image_size} is no.* {cell} pixels.* nearest .* {nearest}\.$"):
        Grid(image_size, cell)


def test_crops_of_the_original(shared):
    cases = np.load(shared / "golden" / "peac" / "crops.npz")
    picture = torch.from_numpy(cases["image_u8"]).permute(2, 0, 1)
    rows = cases["rows_seed_startrow_startcol_x1_y1_x2_y2"].tolist()
    assert len(rows) == 4
    for seed, down, right, x1, y1, x2, y2 in rows:
        placement = draw_placement(PUBLISHED, random.Random(seed))
        assert placement == (down, right, (x1, y1), (x2, y2))
        views = torch.cat(cut_crops(picture, PUBLISHED, placement))[:, ::8, ::8].permute(1, 2, 0)
        np.testing.assert_allclose(views.int(), cases[f"views_strided_s{seed}"], rtol=0, atol=1)
        for number, mask in enumerate(matches(PUBLISHED, placement, transposed=True), start=1):
            np.testing.assert_array_equal(mask, cases[f"mask{number}_s{seed}"])


@pytest.mark.parametrize(("name", "transposed"), [("true", False), ("official", True)])
def test_matches_of_the_original(shared, name, transposed):
    cases = np.load(shared / "golden" / "peac" / "match_indices.npz")
    boxes = cases["boxes_x1y1x2y2"].tolist()
    assert len(boxes) == 313
    for box, *packed in zip(boxes, cases[f"{name}_mask1"], cases[f"{name}_mask2"], strict=True):
        found = matches(PUBLISHED, Placement(0, 0, tuple(box[:2]), tuple(box[2:])), transposed)
        np.testing.assert_array_equal(found, [np.unpackbits(mask)[: PUBLISHED.side**2] for mask in packed])


@settings(max_examples=40)
@given(GRIDS, SEEDS)
def test_matched_cells_are_those_that_show_the_same_tissue(grid, seed):
    placement = draw_placement(grid, random.Random(seed))
    places = torch.arange(grid.source**2).reshape(1, grid.source, grid.source) / grid.source**2
    first, second = (cells_of(crop, grid) for crop in cut_crops(places, grid, placement))
    in_first, in_second = map(torch.from_numpy, matches(grid, placement, transposed=False))
    assert torch.equal(first[in_first], second[in_second])
    assert not torch.isin(first[~in_first], second).any() and not torch.isin(second[~in_second], first).any()
    rows, columns = (abs(a - b) for a, b in zip(placement.first, placement.second, strict=True))
    assert in_first.sum() == in_second.sum() == (grid.side - rows) * (grid.side - columns)


@settings(max_examples=40)
@given(GRIDS, SEEDS)
def test_transposed_matches_are_right_only_for_equal_distances(grid, seed):
    placement = draw_placement(grid, random.Random(seed))
    published, true = (np.stack(matches(grid, placement, transposed)) for transposed in (True, False))
    assert (published.sum(axis=1) == true.sum() / 2).all()
    (row, column), (other_row, other_column) = placement.first, placement.second
    assert np.array_equal(published, true) == (row - other_row == column - other_column)


@settings(max_examples=40)
@given(GRIDS, SEEDS, st.integers(1, 90), st.integers(1, 90))
def test_crops_of_any_picture_share_their_cells(grid, seed, height, width):
    picture = torch.randint(256, (1, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    placement = draw_placement(grid, random.Random(seed))
    crops = cut_crops(picture, grid, placement)
    assert all(crop.shape == (1, grid.image_size, grid.image_size) and crop.dtype == torch.uint8 for crop in crops)
    masks = map(torch.from_numpy, matches(grid, placement, transposed=False))
    first, second = (cells_of(crop, grid)[mask] for crop, mask in zip(crops, masks, strict=True))
    assert torch.equal(first, second)


@pytest.mark.parametrize("upright", [True, False])
def test_crops_are_of_the_middle(upright):
    grid = Grid(32, 8)  # of 48 pixels
    across = torch.arange(100).expand(1, 48, 100) / 100
    first, _ = cut_crops(across.mT if upright else across, grid, Placement(3, 2, (1, 1), (0, 0)))
    shown = first.mT if upright else first
    start = 26 + (3 if upright else 2) + 8
    torch.testing.assert_close(shown, across[:, :32, start : start + 32])


def test_every_place_is_drawn():
    grid = Grid(12, 3)
    drawn = [draw_placement(grid, random.Random(seed)) for seed in range(300)]
    assert {(place.down, place.right) for place in drawn} == {(a, b) for a in range(3) for b in range(3)}
    assert {place.first for place in drawn} == {place.second for place in drawn} == {(0, 0), (0, 1), (1, 0), (1, 1)}
