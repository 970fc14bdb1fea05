"""Turning, resampling and coming back: voxel by voxel, for whatever axes, spacings and flips."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ark_hf.data.volumes.geometry import AXES, in_space_of, lie_alike, on_grid_of, reorient, resample
from ark_hf.data.volumes.volume import Volume
from tests.data.volumes.made import affine, ct

ORIENTATIONS = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]
SPACINGS = st.tuples(*[st.floats(0.3, 4)] * 3)
SHAPES = npst.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=6)
LABEL_MAPS = npst.arrays(np.uint8, SHAPES, elements=st.integers(0, 5))


def at(volume: Volume, place) -> float:
    """The value of the voxel at a place in mm, looked up by hand."""
    index = np.rint(np.linalg.inv(volume.affine) @ [*place, 1])[:3].astype(int)
    return volume.voxels[tuple(index)]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turning_moves_no_value_from_its_place(orientation):
    volume = ct()
    turned = reorient(volume, orientation)
    assert turned.orientation == orientation and np.shares_memory(turned.voxels, volume.voxels)
    for index in np.ndindex(volume.shape):
        assert at(turned, (volume.affine @ [*index, 1])[:3]) == volume.voxels[index]
    again = reorient(turned, "LPS")
    np.testing.assert_array_equal(again.voxels, volume.voxels)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-9)


def test_a_models_axes_are_those_of_dicom_or_their_reverse():
    volume = reorient(ct(), "RAS")
    x, z = (reorient(volume, AXES[axes]).voxels for axes in ("xyz", "zyx"))
    np.testing.assert_array_equal(z, x.transpose(2, 1, 0))
    np.testing.assert_array_equal(x, volume.voxels[::-1, ::-1])


@pytest.mark.parametrize("wrong", ["LP", "LPX", "LLS", "lps", "LPSS", "RLA"])
def test_other_orientations_are_refused(wrong):
    with pytest.raises(ValueError, match="use one letter of RL, AP and SI each"):
        reorient(ct(), wrong)


@settings(max_examples=40)
@given(LABEL_MAPS, SPACINGS, st.sampled_from(ORIENTATIONS), st.sampled_from(ORIENTATIONS))
def test_a_label_map_on_turned_axes_comes_back_voxel_by_voxel(labels, spacing, stored, drawn):
    original = reorient(Volume(labels, affine(spacing)), stored)
    there = reorient(original, drawn)
    back = in_space_of(Volume(there.voxels.copy(), there.affine), original)
    assert back.voxels.dtype == np.uint8
    np.testing.assert_array_equal(back.voxels, original.voxels)
    np.testing.assert_array_equal(back.affine, original.affine)


@settings(max_examples=40)
@given(LABEL_MAPS, SPACINGS, st.tuples(*[st.floats(0.25, 0.99)] * 3), st.sampled_from(ORIENTATIONS))
def test_a_label_map_on_a_finer_grid_comes_back_voxel_by_voxel(labels, spacing, finer, drawn):
    """The voxel of the finer grid that lies nearest to a voxel's centre has that voxel's value."""
    original = Volume(labels, affine(spacing))
    turned = reorient(original, drawn)
    there = resample(turned, np.array(turned.spacing) * finer, nearest=True)
    np.testing.assert_array_equal(in_space_of(there, original).voxels, labels)


@settings(max_examples=40)
@given(SHAPES, SPACINGS, SPACINGS)
def test_a_grid_of_another_spacing_covers_all_of_the_old_one(shape, spacing, other):
    volume = Volume(np.ones(shape, np.uint8), affine(spacing))
    there = resample(volume, other, nearest=True)
    np.testing.assert_allclose(there.spacing, other, rtol=1e-9)
    edges = [np.linalg.inv(volume.affine) @ grid.affine @ [-0.5, -0.5, -0.5, 1] for grid in (volume, there)]
    np.testing.assert_allclose(*edges, atol=1e-9)  # both begin at one edge
    for sides, steps, more, new in zip(shape, spacing, there.shape, other, strict=True):
        assert sides * steps - 1e-3 * new <= more * new < sides * steps + new
    assert in_space_of(there, volume).voxels.all()  # none of its voxels lies beyond


@settings(max_examples=40)
@given(SPACINGS, SPACINGS)
def test_what_lies_between_voxels_is_interpolated(spacing, other):
    """A ramp is a ramp on every grid, but for the half voxel at its borders."""
    index = np.indices((6, 7, 8))
    volume = Volume((3 * index[0] - 2 * index[1] + index[2]).astype(np.int16), affine(spacing))
    there = resample(volume, other)
    if there.voxels is volume.voxels:
        return
    assert there.voxels.dtype == np.float32
    places = np.stack([*np.indices(there.shape), np.ones(there.shape)]).reshape(4, -1)
    i, j, k, _ = np.linalg.inv(volume.affine) @ there.affine @ places
    inside = np.all(
        [(axis >= 0) & (axis <= side - 1) for axis, side in zip((i, j, k), volume.shape, strict=True)], axis=0
    )
    np.testing.assert_allclose(there.voxels.ravel()[inside], (3 * i - 2 * j + k)[inside], atol=1e-3)


def test_probabilities_come_back_smoothly():
    volume = ct((6, 6, 6))
    share = Volume(np.linspace(0, 1, 216, dtype=np.float32).reshape(6, 6, 6), volume.affine)
    finer = resample(share, (0.3, 0.3, 0.9))
    back = in_space_of(finer, volume, nearest=False)
    np.testing.assert_allclose(back.voxels[1:-1, 1:-1, 1:-1], share.voxels[1:-1, 1:-1, 1:-1], atol=0.02)


def test_the_same_spacing_is_the_volume_itself():
    volume = ct()
    assert resample(volume, volume.spacing).voxels is volume.voxels
    assert in_space_of(volume, volume).voxels is not None and np.shares_memory(
        in_space_of(volume, volume).voxels, volume.voxels
    )


def test_beyond_a_cropped_label_map_is_background():
    volume = Volume(np.ones((6, 6, 6), np.uint8), affine())
    crop = volume.affine.copy()
    crop[:3, 3] = (volume.affine @ [2, 0, 0, 1])[:3]
    back = in_space_of(Volume(np.ones((2, 6, 6), np.uint8), crop), volume)
    np.testing.assert_array_equal(np.flatnonzero(back.voxels.any((1, 2))), [2, 3])
    assert back.voxels[2:4].all()


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, -1), (1, np.nan, 1), (1e-4, 1e-4, 1e-4)])
def test_spacings_that_make_no_grid_are_refused(spacing):
    with pytest.raises(ValueError, match="spacing"):
        resample(ct(), spacing)


def test_masks_are_brought_onto_the_axes_of_their_volume():
    volume = ct()
    mask = reorient(Volume((volume.voxels > 0).astype(np.uint8), volume.affine), "RAS")
    fitting = on_grid_of(mask, volume.shape, volume.affine)
    np.testing.assert_array_equal(fitting.voxels, volume.voxels > 0)
    np.testing.assert_array_equal(fitting.affine, volume.affine)


def moved(by) -> np.ndarray:
    changed = affine()
    changed[:3, 3] += by
    return changed


@pytest.mark.parametrize(
    ("shape", "matrix", "alike"),
    [
        ((7, 6, 5), affine().astype(np.float32), True),
        ((7, 6, 5), moved([0.01, 0, 0]), True),
        ((7, 6, 5), moved([0.5, 0, 0]), False),
        ((7, 6, 5), moved([0, 0, 2.5]), False),
        ((7, 6, 5), affine(spacing=(0.7, 0.8, 2.6)), False),
        ((7, 6, 4), affine(), False),
        ((6, 7, 5), affine(), False),
    ],
)
def test_masks_of_another_geometry_are_refused(shape, matrix, alike):
    volume = ct()
    assert lie_alike(volume, shape, matrix) == alike
    mask = Volume(np.zeros(shape, np.uint8), matrix)
    if alike:
        on_grid_of(mask, volume.shape, volume.affine)
        return
    with pytest.raises(ValueError, match=r"it lies elsewhere than the volume: . x . x . voxels of 0.7 x"):
        on_grid_of(mask, volume.shape, volume.affine)
