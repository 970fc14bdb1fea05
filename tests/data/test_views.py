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

from ark_hf.data.views import sample_generator, student_view

SIDE, SIZE, DRAWS = 224, 24, 2000
COORDINATE = (torch.arange(SIDE) + 0.5) / SIDE  # of pixel centres, the sides being 0 and 1


def noise(kind: torch.dtype, height: int = 40, width: int = 56) -> torch.Tensor:
    values = torch.rand(1, height, width, generator=torch.Generator().manual_seed(0))
    return (values * 255).to(kind) if kind == torch.uint8 else values


@functools.cache
def draw_coordinates(min_crop_scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of `DRAWS` views: x and y that each pixel shows before the change of intensities, and x after it."""
    pictures = [COORDINATE.expand(1, SIDE, SIDE), COORDINATE[:, None].expand(1, SIDE, SIDE)]
    draws = []
    for sample in range(DRAWS):
        views = [
            student_view(picture, SIDE, SIZE, min_crop_scale, sample_generator(0, 0, "task", sample))
            for picture in pictures
        ]
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
def test_view_is_a_float_square_in_the_unit_range(kind, shape):
    for sample in range(20):
        views = student_view(noise(kind, *shape), 32, SIZE, 0.08, sample_generator(0, 0, "task", sample))
        for view in views:
            assert view.shape == (1, SIZE, SIZE) and view.dtype == torch.float32
            assert 0 <= view.min() and view.max() <= 1


def test_eight_bits_and_floats_give_the_same_view_to_a_few_grey_levels():
    eight_bits = noise(torch.uint8)
    for sample in range(20):
        views = [
            student_view(image, 32, SIZE, 0.08, sample_generator(0, 0, "task", sample))[1]
            for image in (eight_bits, eight_bits / 255)
        ]
        assert (views[0] - views[1]).abs().max() < 4 / 255


def test_view_depends_on_seed_cycle_task_and_sample_alone():
    def view(*key):
        return student_view(noise(torch.uint8), 32, SIZE, 0.08, sample_generator(*key))[0]

    first = view(3, 1, "city", 5)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(view(3, 1, "city", 5), first)
    for other in [(4, 1, "city", 5), (3, 2, "city", 5), (3, 1, "coast", 5), (3, 1, "city", 6)]:
        assert not torch.equal(view(*other), first)


def test_stored_picture_is_left_as_it_is():
    image = noise(torch.float32)
    before = image.clone()
    for sample in range(20):
        student_view(image, 32, SIZE, 0.08, sample_generator(0, 0, "task", sample))
    assert torch.equal(image, before)


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
    assert_uniform(maps[:, 0, 2] - 0.5, -0.0625, 0.0625)
    assert_uniform(maps[:, 1, 2] - 0.5, -0.0625, 0.0625)


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
