"""Resizing by area: against the mean over a picture in which every pixel is repeated until both sizes divide it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf.data.area_resize import resize_area

SIDES = st.integers(1, 40)


def drawn(kind: torch.dtype, *shape: int) -> torch.Tensor:
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    return (values * 256).to(kind) if kind == torch.uint8 else values


def repeated_mean(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    repeated = plane.astype(np.float64).repeat(height, 0).repeat(width, 1)
    return repeated.reshape(height, plane.shape[0], width, plane.shape[1]).mean((1, 3))


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@settings(max_examples=40)
@given(st.integers(1, 3), SIDES, SIDES, SIDES, SIDES)
def test_pixels_are_means_of_what_they_cover(kind, channels, height, width, new_height, new_width):
    picture = drawn(kind, channels, height, width)
    resized = resize_area(picture, (new_height, new_width))
    assert resized.dtype == kind and resized.is_contiguous()
    expected = np.stack([repeated_mean(plane, new_height, new_width) for plane in picture.numpy()])
    np.testing.assert_allclose(resized, expected, rtol=0, atol=0.501 if kind == torch.uint8 else 2e-6)


@settings(max_examples=40)
@given(SIDES, SIDES, st.data())
def test_a_window_is_that_part_of_the_whole(height, width, data):
    (top, bottom), (left, right) = (
        sorted(data.draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True))) for side in (33, 21)
    )
    picture = drawn(torch.float32, 2, height, width)
    window = resize_area(picture, (33, 21), (top, left, bottom - top, right - left))
    assert torch.equal(window, resize_area(picture, (33, 21))[:, top:bottom, left:right])


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(1, 300))
def test_white_and_black_stay_so(kind, length, size):
    white = 255 if kind == torch.uint8 else 1
    columns = torch.tensor([0, white]).to(kind)[:, None].expand(1, 2, length)
    resized = resize_area(columns, (2, size))
    torch.testing.assert_close(resized, columns[..., :1].expand(1, 2, size), rtol=0, atol=4e-5)
    assert resized.max() <= white
