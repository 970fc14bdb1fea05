"""Measurements on masks of organs, by hand."""

import math

import numpy as np
import pytest

from ark_hf import cardiothoracic_ratio


def box(top, bottom, left, right, shape=(60, 100)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


LEFT, RIGHT = box(5, 50, 10, 35), box(10, 55, 60, 90)  # of the picture, 80 apart in rows 10 to 50
HEART = box(35, 52, 38, 70) | box(30, 40, 30, 60)  # from 30 to 70, in different rows


def test_widths_are_those_of_the_heart_and_of_both_lungs_in_one_row():
    assert cardiothoracic_ratio(HEART, LEFT | RIGHT) == 40 / 80
    assert cardiothoracic_ratio(HEART, LEFT, RIGHT) == cardiothoracic_ratio(HEART, RIGHT, LEFT) == 40 / 80
    tilted = box(5, 10, 0, 30) | box(10, 50, 10, 40) | RIGHT  # the leftmost pixels are in rows without a right lung
    assert cardiothoracic_ratio(HEART, tilted) == 40 / 80


def test_specks_do_not_count():
    specks = box(58, 60, 0, 3) | box(0, 2, 97, 100)
    assert cardiothoracic_ratio(HEART | specks, LEFT | specks, RIGHT | specks) == 40 / 80
    third = box(5, 50, 0, 3)  # a tenth of the left lung
    assert cardiothoracic_ratio(HEART, LEFT | third, RIGHT) == 40 / 90


def test_what_is_absent_gives_no_ratio():
    nothing = np.zeros_like(HEART)
    for masks in ((nothing, LEFT | RIGHT), (HEART, nothing), (HEART, LEFT, nothing), (HEART, box(5, 50, 10, 30))):
        assert math.isnan(cardiothoracic_ratio(*masks))


@pytest.mark.parametrize("lungs", [[LEFT[:50]], [LEFT.astype(int)], [LEFT[None]], []])
def test_masks_that_do_not_fit_are_refused(lungs):
    with pytest.raises(ValueError, match="must be bool and of one shape"):
        cardiothoracic_ratio(HEART, *lungs)
