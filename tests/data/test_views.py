"""The student's view: a pure function of its seed, with the distributions of the specification (section 4).

Distributions are read off pictures whose grey value is a coordinate: where a pixel of the view came from is what it
shows.
"""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, ks_2samp, kstest
from torch.nn import functional as F

from ark_hf.data.views import Geometry, Sampling, Turn, View, draw_view, sample_generator, student_view

SIDE, SIZE, DRAWS = 224, 24, 800
MANY = 10_000
WHOLE = (0.0, 0.0, 1.0, 1.0)
TURNED = Geometry(WHOLE, Turn(0.15, 1.1, 0.05, -0.02))
COORDINATE = (torch.arange(SIDE) + 0.5) / SIDE  # of pixel centres, the sides being 0 and 1
COORDINATES = [COORDINATE.expand(1, SIDE, SIDE), COORDINATE[:, None].expand(1, SIDE, SIDE)]  # across and down


def noise(kind: torch.dtype, height: int = 40, width: int = 56) -> torch.Tensor:
    values = torch.rand(1, height, width, generator=torch.Generator().manual_seed(0))
    return (values * 255).to(kind) if kind == torch.uint8 else values


def show(image: torch.Tensor, resize: int, min_crop_scale: float, *key) -> tuple[torch.Tensor, torch.Tensor]:
    return student_view(image, draw_view(resize, min_crop_scale, sample_generator(*key)), resize, SIZE)


@functools.cache
def draw_many(min_crop_scale: float = 0.08) -> list[View]:
    return [draw_view(256, min_crop_scale, sample_generator(0, 0, "task", f"image {n}")) for n in range(MANY)]


@functools.cache
def draw_coordinates(min_crop_scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of `DRAWS` views: x and y that each pixel shows before the change of intensities, and x after it."""
    draws = []
    for sample in range(DRAWS):
        views = [show(picture, SIDE, min_crop_scale, 0, 0, "task", sample) for picture in COORDINATES]
        draws.append([views[0][1], views[1][1], views[0][0]])
    return tuple(np.array(draws, dtype=np.float64).reshape(DRAWS, 3, SIZE, SIZE).swapaxes(0, 1))


def affine_maps(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(DRAWS, 2, 3): what centre pixels show, (x, y), as a matrix times their own place, and a constant."""
    middle = slice(SIZE // 2 - 4, SIZE // 2 + 4)
    place = (np.arange(SIZE)[middle] + 0.5) / SIZE - 0.5
    columns, rows = np.meshgrid(place, place)
    places = np.stack([columns.ravel(), rows.ravel(), np.ones(64)], axis=1)
    shown = np.stack([x[:, middle, middle].reshape(-1, 64), y[:, middle, middle].reshape(-1, 64)], axis=2)
    return np.linalg.lstsq(places, shown.transpose(1, 0, 2).reshape(64, -1))[0].reshape(3, -1, 2).transpose(1, 2, 0)


def is_turned(x: np.ndarray) -> np.ndarray:
    """Shift, zoom and rotation come together, and a rotation tilts the lines of equal x."""
    return np.ptp(x, axis=1).max(axis=1) > 1e-4


def is_recoloured(x: np.ndarray, view: np.ndarray) -> np.ndarray:
    return np.abs(view - x).max(axis=(1, 2)) > 0


def assert_share(hits: np.ndarray, probability: float) -> None:
    assert binomtest(int(hits.sum()), hits.size, probability).pvalue > 0.001, hits.mean()


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    assert low - 1e-3 <= values.min() and values.max() <= high + 1e-3
    assert kstest(values, "uniform", (low, high - low)).pvalue > 0.001


# One view ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(40, 56), (300, 200), (24, 24)])
def test_view_is_a_square_of_the_pictures_kind_and_range(kind, shape):
    for sample in range(20):
        for view in show(noise(kind, *shape), 32, 0.08, 0, 0, "task", sample):
            assert view.shape == (1, SIZE, SIZE) and view.dtype == kind
            assert view.max() > 0 and (kind == torch.uint8 or 0 <= view.min() and view.max() <= 1)


def test_eight_bits_and_floats_give_the_same_view_to_a_grey_level():
    eight_bits = noise(torch.uint8, 32, 30)
    for sample in range(40):
        of_eight_bits, of_floats = (
            show(image, 32, 0.08, 0, 0, "task", sample) for image in (eight_bits, eight_bits / 255)
        )
        for one, other in zip(of_eight_bits, of_floats, strict=True):
            assert (one - other * 255).abs().max() <= 0.5 + 1e-3


def test_the_whole_picture_at_its_own_size_is_the_picture():
    picture = noise(torch.uint8, SIZE, SIZE)
    view, before = student_view(picture, View(Geometry(WHOLE)), SIZE, SIZE)
    assert torch.equal(view, picture) and torch.equal(before, picture)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.25, 0.125, 0.5, 0.75), (0.5, 0.5, 0.25, 0.25)])
def test_a_crop_is_a_bilinear_interpolation_of_its_pixels(box):
    picture = noise(torch.float32, 32, 32)
    left, top, width, height = (round(32 * value) for value in box)
    crop = picture[:, top : top + height, left : left + width]
    expected = F.interpolate(crop[None], (SIZE, SIZE), mode="bilinear", antialias=False)[0]
    view, _ = student_view(picture, View(Geometry(box)), 32, SIZE)
    inner = slice(2, -2)  # at its border, a crop of the resized picture knows no pixels beyond
    torch.testing.assert_close(view[:, inner, inner], expected[:, inner, inner], rtol=0, atol=1e-5)


def test_a_larger_picture_is_resized_first_and_a_smaller_one_is_not():
    # Shrinking without a filter would show single pixels: white lines a pixel wide, eight apart, become even grey
    lines = torch.zeros(1, 256, 30)
    lines[:, ::8] = 1
    view, _ = student_view(lines, View(Geometry(WHOLE)), 32, SIZE)
    assert view.std() < 0.02 and view.mean() == pytest.approx(1 / 8, abs=0.01)


def test_view_depends_on_seed_cycle_task_and_sample_alone():
    def view(*key):
        return show(noise(torch.uint8), 32, 0.08, *key)[0]

    for sample, other_sample in [(5, 6), ("5.png", "6.png")]:
        first = view(3, 1, "city", sample)
        torch.manual_seed(99)
        np.random.seed(99)
        assert torch.equal(view(3, 1, "city", sample), first)
        keys = [(4, 1, "city", sample), (3, 2, "city", sample), (3, 1, "coast", sample), (3, 1, "city", other_sample)]
        for other in keys:
            assert not torch.equal(view(*other), first)


def test_stored_picture_is_left_as_it_is():
    for kind in (torch.float32, torch.uint8):
        image = noise(kind)
        before = image.clone()
        for sample in range(20):
            show(image, 64, 0.08, 0, 0, "task", sample)
        assert torch.equal(image, before)


# Masks ---------------------------------------------------------------------------------------------------------------


def hill(height: int, width: int) -> torch.Tensor:
    """Brightest at one place, which is not the middle."""
    down, across = (1 - (torch.linspace(-1, 1, side) - top).abs() for side, top in ((height, 0.3), (width, -0.15)))
    return (down[:, None] * across)[None]


# Of the mask, beside a picture of 40 x 50 pixels that is shrunk to 32 x 32
@pytest.mark.parametrize("shape", [(20, 24), (40, 50), (300, 200)])
def test_a_mask_shows_what_its_picture_shows_whatever_its_own_size(shape):
    mask = (hill(*shape) > 0.4).to(torch.uint8)
    for sample in range(40):
        sampling = Sampling(draw_view(32, 0.3, sample_generator(0, 0, "task", sample)).geometry, 32, SIZE)
        seen, covered = sampling.of_picture(hill(40, 50)), sampling.of_mask(mask)
        assert covered.shape == (1, SIZE, SIZE) and covered.dtype == torch.uint8
        sure = (seen - 0.4).abs() > 0.04 + 1 / min(shape)  # elsewhere, half a pixel decides
        assert torch.equal(covered[sure] == 1, seen[sure] > 0.4) and sure.float().mean() > 0.6


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_a_mask_keeps_its_values_and_its_channels(kind):
    # A label map of 255 for unknown and a NaN survive, which interpolation would mix with their neighbours
    mask = torch.randint(0, 2, (2, 30, 44), generator=torch.Generator().manual_seed(1)).to(kind)
    if kind.is_floating_point:
        mask[mask == 1] = math.nan
    elif kind != torch.bool:
        mask[mask == 1] = 255
    for geometry in (Geometry(WHOLE), TURNED, Geometry((0.5, 0.25, 0.2, 0.3))):
        shown = Sampling(geometry, 32, SIZE).of_mask(mask)
        assert shown.shape == (2, SIZE, SIZE) and shown.dtype == kind
        for channel, own in zip(shown, mask, strict=True):
            np.testing.assert_array_equal(np.unique(channel), np.unique(own))


def test_the_whole_mask_at_its_own_size_is_the_mask():
    mask = torch.randint(0, 9, (1, SIZE, SIZE), generator=torch.Generator().manual_seed(2))
    assert torch.equal(Sampling(Geometry(WHOLE), SIZE, SIZE).of_mask(mask), mask)


# Many draws ----------------------------------------------------------------------------------------------------------


def test_areas_and_ratios_of_crops_are_those_of_the_specification():
    boxes = np.array([view.geometry.box for view in draw_many()])
    areas, ratios = boxes[:, 2] * boxes[:, 3], boxes[:, 2] / boxes[:, 3]
    # The specified draw: area and log ratio uniform, drawn again where the crop would not fit
    random = np.random.default_rng(1)
    area, ratio = random.uniform(0.08, 1, 10**5), np.exp(random.uniform(math.log(3 / 4), math.log(4 / 3), 10**5))
    fit = (area * ratio <= 1) & (area / ratio <= 1)
    assert ks_2samp(areas, area[fit]).pvalue > 0.001
    assert ks_2samp(np.log(ratios), np.log(ratio[fit])).pvalue > 0.001
    assert 0.08 - 0.003 < areas.min() < 0.081 and 0.7 < ratios.min() < 0.76 and 1.32 < ratios.max() < 1.4


def test_crops_lie_inside_and_anywhere():
    boxes = np.array([view.geometry.box for view in draw_many()])
    starts, sides = boxes[:, :2], boxes[:, 2:]
    assert starts.min() >= 0 and (starts + sides).max() <= 1
    room = (sides < 0.9).all(axis=1)
    across, down = (starts[room] / (1 - sides[room])).T
    for places in (across, down):
        # Whole pixels, so that the ends have half a bin too much: within a pixel of uniform
        assert kstest(places, "uniform").statistic < 0.03
    assert abs(np.corrcoef(across, down)[0, 1]) < 0.03


def test_half_are_turned_by_angles_zooms_and_shifts_that_are_uniform_and_independent():
    views = draw_many()
    turns = [view.geometry.turn for view in views]
    assert_share(np.array([turn is not None for turn in turns]), 0.5)
    turns = np.array([turn for turn in turns if turn is not None])
    for values, bound, centre in zip(turns.T, (math.radians(10), 0.1, 0.0625, 0.0625), (0, 1, 0, 0), strict=True):
        assert_uniform(values, centre - bound, centre + bound)
    assert np.abs(np.corrcoef(turns.T) - np.eye(4)).max() < 0.04


def test_three_in_ten_change_intensities_half_of_them_by_gamma():
    views = draw_many()
    changes = [view.intensities for view in views]
    gammas = np.array([change.gamma for change in changes if change.gamma != 1])
    linear = np.array([[change.contrast, change.brightness] for change in changes if change.contrast != 1])
    assert not any(change.gamma != 1 and change.contrast != 1 for change in changes)
    assert_share(np.array([change.gamma != 1 or change.contrast != 1 for change in changes]), 0.3)
    assert_share(np.arange(len(gammas) + len(linear)) < len(gammas), 0.5)
    assert_uniform(gammas, 0.8, 1.2)
    assert_uniform(linear[:, 0], 0.8, 1.2)
    assert_uniform(linear[:, 1], -0.2, 0.2)
    turned = [view.geometry.turn is not None for view in views]
    assert abs(np.corrcoef(turned, [change == (1, 0, 1) for change in changes])[0, 1]) < 0.03


def test_a_turn_rotates_and_magnifies_about_the_centre_and_then_shifts():
    # What pixel of the view shows the centre of the picture, and which way from it the right side of the picture lies
    x, y = (student_view(picture, View(TURNED), SIDE, SIZE)[0] for picture in COORDINATES)
    ((a, b, c), (d, e, f)) = affine_maps(x.numpy(), y.numpy())[0]
    back = np.linalg.inv([[a, b], [d, e]])  # from the picture to the view
    np.testing.assert_allclose(back @ [0.5 - c, 0.5 - f], [0.05, -0.02], atol=1e-4)
    np.testing.assert_allclose(back @ [1, 0], [1.1 * math.cos(0.15), 1.1 * math.sin(0.15)], atol=1e-4)


# Many views ----------------------------------------------------------------------------------------------------------


def test_half_of_the_views_are_shifted_zoomed_and_rotated():
    x, _, _ = draw_coordinates(0.08)
    assert_share(is_turned(x), 0.5)


def test_three_in_ten_views_change_intensities_and_the_second_output_is_without():
    # That the second output shows coordinates means that its intensities are unchanged.
    x, _, view = draw_coordinates(0.08)
    changed = is_recoloured(x, view)
    assert_share(changed, 0.3)
    turned = is_turned(x)
    assert_share(changed[turned], 0.3)
    assert_share(changed[~turned], 0.3)


def test_crop_has_the_areas_ratios_and_places_of_the_specification():
    x, y, _ = draw_coordinates(0.08)
    plain = ~is_turned(x)
    maps = affine_maps(x[plain], y[plain])
    width, height = maps[:, 0, 0], maps[:, 1, 1]
    left, top = maps[:, 0, 2] - width / 2, maps[:, 1, 2] - height / 2

    # The specified draw: area and log ratio uniform, drawn again where the crop would not fit.
    random = np.random.default_rng(1)
    areas, ratios = random.uniform(0.08, 1, 10**5), np.exp(random.uniform(math.log(3 / 4), math.log(4 / 3), 10**5))
    fit = (areas * ratios <= 1) & (areas / ratios <= 1)

    assert 0.08 - 0.005 < (width * height).min() and max(width.max(), height.max()) < 1 + 1e-3
    assert ks_2samp(width * height, areas[fit]).pvalue > 0.001
    assert ks_2samp(np.log(width / height), np.log(ratios[fit])).pvalue > 0.001
    room = (1 - width > 0.1) & (1 - height > 0.1)  # whole pixels are too coarse for less
    across, down = (left / (1 - width))[room], (top / (1 - height))[room]
    assert_uniform(across, 0, 1)
    assert_uniform(down, 0, 1)
    assert abs(np.corrcoef(across, down)[0, 1]) < 0.15


def test_smallest_crop_scale_bounds_the_area():
    x, y, _ = draw_coordinates(0.5)
    plain = ~is_turned(x)
    maps = affine_maps(x[plain], y[plain])
    areas = maps[:, 0, 0] * maps[:, 1, 1]
    assert 0.5 - 0.01 < areas.min() < 0.55 and areas.max() > 0.95


def test_shift_zoom_and_rotation_are_uniform_in_their_ranges():
    x, y, _ = draw_coordinates(1.0)  # only the whole picture has its full area
    turned = is_turned(x)
    maps = affine_maps(x[turned], y[turned])
    np.testing.assert_allclose(maps[:, 0, 0], maps[:, 1, 1], atol=1e-3)
    np.testing.assert_allclose(maps[:, 0, 1], -maps[:, 1, 0], atol=1e-3)
    angle = np.degrees(np.arctan2(maps[:, 0, 1], maps[:, 0, 0]))
    assert_uniform(angle, -10, 10)
    assert_uniform(np.linalg.det(maps[:, :, :2]) ** -0.5, 0.9, 1.1)
    shift = np.linalg.solve(maps[:, :, :2], 0.5 - maps[:, :, 2:])[..., 0]  # where in the view the centre is shown
    assert_uniform(shift[:, 0], -0.0625, 0.0625)
    assert_uniform(shift[:, 1], -0.0625, 0.0625)


def test_border_is_filled_by_reflection():
    x, y, _ = draw_coordinates(1.0)
    maps = affine_maps(x, y)
    place = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    source = maps[:, 0, 0, None, None] * place + maps[:, 0, 1, None, None] * place[:, None] + maps[:, 0, 2, None, None]
    assert source.min() < -0.15 and source.max() > 1.15
    assert np.abs(x - (1 - np.abs(1 - np.abs(source)))).max() < 1 / SIZE


def test_intensities_change_by_brightness_and_contrast_or_by_gamma():
    x, _, view = draw_coordinates(0.08)
    changed = is_recoloured(x, view)
    gammas, contrasts, brightnesses = [], [], []
    for before, after in zip(x[changed], view[changed], strict=True):
        open_range = (before > 0.02) & (before < 0.98) & (after > 0) & (after < 1)
        before, after = before[open_range], after[open_range]
        gamma = np.median(np.log(after) / np.log(before))
        if np.abs(before**gamma - after).max() < 1e-4:
            gammas.append(gamma)
        else:
            contrast, brightness = np.polyfit(before, after, 1)
            np.testing.assert_allclose(contrast * before + brightness, after, atol=1e-4)
            contrasts.append(contrast)
            brightnesses.append(brightness)
    assert_share(np.arange(len(gammas) + len(contrasts)) < len(gammas), 0.5)
    assert_uniform(np.array(gammas), 0.8, 1.2)
    assert_uniform(np.array(contrasts), 0.8, 1.2)
    assert_uniform(np.array(brightnesses), -0.2, 0.2)
