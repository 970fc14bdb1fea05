"""Slices of volumes as they are looked at: planes, proportions, grey values, and where they cut."""

import numpy as np
import pytest

from ark_hf import GenesisImageProcessor, SegmentationTask, Volume, draw_phantom_volume, reorient
from ark_hf.inference.overlays import label_colour
from ark_hf.inference.volume_slices import ENLARGED, GAP, VolumeSlices
from tests.data.volumes.made import affine

SHAPE, SPACING = (12, 10, 6), (1.0, 2.0, 4.0)  # 12 x 20 x 24 mm
STRAIGHT = affine(SPACING, directions=np.eye(3))
TASK = SegmentationTask("organs", ["lungs", "tumour"])
OVERLAPPING = SegmentationTask("organs", ["lungs", "tumour"], overlapping=True)


def slices(voxels: np.ndarray, found: np.ndarray | None = None, task=TASK, **processor) -> VolumeSlices:
    return VolumeSlices(Volume(voxels, STRAIGHT), GenesisImageProcessor(**processor), task, found)


def test_planes_show_the_patients_right_on_the_left_and_the_head_or_front_above():
    voxels = np.full(SHAPE, -1000, np.int16)  # x leads to the left, y to the back, z to the head
    voxels[0, 0, -1] = 1000  # right, front, head
    corner = {"axial": (-1, (0, 0)), "coronal": (0, (0, 0)), "sagittal": (0, (0, 0))}
    sizes = {"axial": (12, 20), "coronal": (12, 24), "sagittal": (20, 24)}  # width and height in mm
    shown = slices(voxels)
    for plane, (index, place) in corner.items():
        grey = np.asarray(shown.grey(plane, index, 1.0))
        assert grey.shape == sizes[plane][::-1] and grey[place] == grey.max() > 200
        assert grey[-1, -1] == 0
        assert shown.grey(plane, index, 0.5).size == tuple(2 * side for side in sizes[plane])


@pytest.mark.parametrize("orientation", ["SAR", "RAS", "ILA"])
def test_every_orientation_is_shown_alike(orientation):
    drawn = draw_phantom_volume("test", 0, 24)
    task = SegmentationTask("chest", ["lungs", "vessels", "nodules"])
    pictures = []
    for turned in ("LPS", orientation):
        volume, found = reorient(drawn["volume"], turned), reorient(drawn["mask"], turned).voxels
        pictures.append(np.asarray(VolumeSlices(volume, GenesisImageProcessor(), task, found).overlay()))
    assert np.array_equal(*pictures)


def test_grey_is_the_models_window_up_to_bone():
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[:, :, 0], voxels[:, :, 1], voxels[:, :, 2] = -300, 400, 1500
    shown = [np.unique(slices(voxels).grey("axial", index, 1.0)) for index in range(4)]
    assert [each.tolist() for each in shown] == [[128], [255], [255], [0]]
    assert np.unique(slices(voxels, hu_window=(-160, 240)).grey("axial", 1, 1.0)) == 255
    assert np.unique(slices(voxels, hu_window=(1000, 2000)).grey("axial", 2, 1.0)) == 128
    unit = slices(np.full(SHAPE, 0.25, np.float32), hu_window=None)
    assert np.unique(unit.grey("axial", 0, 1.0)) == 64


def test_slices_go_through_the_middle_of_the_largest_part():
    found = np.zeros(SHAPE, np.uint8)
    assert slices(np.zeros(SHAPE, np.int16), found).middle() == (6, 5, 3)
    found[0, 0, 0] = 1
    assert slices(np.zeros(SHAPE, np.int16), found).middle() == (0, 0, 0)
    found[5:10, 3:6, 2:5] = 2
    found[0, 0:8:2, 0] = 1  # more parts, but not larger ones
    assert slices(np.zeros(SHAPE, np.int16), found).middle() == (7, 4, 3)
    both = np.stack([found == 1, found == 2]).astype(np.uint8)
    assert slices(np.zeros(SHAPE, np.int16), both, OVERLAPPING).middle() == (7, 4, 3)
    large = np.zeros((400, 3, 3), np.uint8)
    large[201, 1, 1] = 1  # between the voxels of the coarse grid
    assert VolumeSlices(Volume(large, STRAIGHT), GenesisImageProcessor(), TASK, large).middle() == (201, 1, 1)


def test_labels_lie_over_the_slices_in_their_colours():
    found = np.zeros(SHAPE, np.uint8)
    found[4:8, 2:6, 1:5], found[6:8, 4:6, 2:4] = 1, 2
    shown = slices(np.full(SHAPE, -1000, np.int16), found)
    masks = shown.masks("axial", 2, 1.0)
    assert list(masks) == [0, 1] and masks[0].shape == (20, 12)
    assert np.argwhere(masks[1]).min(axis=0).tolist() == [8, 6] and masks[1].sum() == 2 * 4
    assert list(shown.masks("axial", 1, 1.0)) == [0] and shown.masks("axial", 0, 1.0) == {}
    both = np.stack([found > 0, found == 2]).astype(np.uint8)
    over = slices(np.full(SHAPE, -1000, np.int16), both, OVERLAPPING).masks("axial", 2, 1.0)
    assert over[0].sum() == 4 * 8 and np.array_equal(over[1], masks[1])

    picture = shown.overlay()
    assert picture.width == ENLARGED * (12 + 12 + 20) + 2 * GAP  # mm, a voxel being a millimetre
    colours = {tuple(each) for each in np.asarray(picture).reshape(-1, 3)}
    assert {label_colour(0), label_colour(1)} <= colours
    nothing = slices(np.full(SHAPE, -1000, np.int16), np.zeros(SHAPE, np.uint8)).overlay()
    assert np.unique(np.asarray(nothing)) == 0
