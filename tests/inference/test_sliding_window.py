"""A Genesis on whole volumes: windows that blend as MONAI's, maps on the volume's own grid, cubes for classifiers."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference

from ark_hf import Volume, in_space_of, reorient
from ark_hf.inference import sliding_window
from ark_hf.inference.sliding_window import classify_volume, label_mask, segment_volume
from ark_hf.models.ark.masks_ark import ArkSemanticSegmenterOutput, segmenter_output
from ark_hf.models.genesis.image_processing_genesis import resample
from tests.data.volumes.made import ROTATED, affine, orthonormal
from tests.inference.genesis_models import CUBE, OVERLAPPING, genesis_classifier, genesis_segmenter

SPACING = [2.0, 1.5, 1.25]
HALFWAY = orthonormal(np.array([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))  # between two directions


def smooth_ct(shape=(19, 13, 11), matrix=None, seed=0) -> Volume:
    """Hounsfield units that change from place to place, but not from voxel to voxel."""
    random = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.linspace(0, 1, side) for side in shape], indexing="ij")
    values = sum(np.sin(random.uniform(2, 9, 3) @ np.stack([each.ravel() for each in grid]) + k) for k in range(4))
    return Volume((400 * values.reshape(shape)).astype(np.int16), affine() if matrix is None else matrix)


def whole_logits(model, processor, volume: Volume) -> torch.Tensor:
    """By MONAI in one piece, with the weights of windows that ours have."""
    turned = reorient(volume, "SPL")
    pixels = processor(turned.voxels, spacing=turned.spacing, do_center_crop=False, return_tensors="pt")[
        "pixel_values"
    ]
    size, z = tuple(model.config.cube_size), processor.axes.index("z")
    along = compute_importance_map((size[z],), mode="gaussian").view([-1 if axis == z else 1 for axis in range(3)])
    across = compute_importance_map(size[:z] + size[z + 1 :], mode="gaussian").unsqueeze(z)
    with torch.no_grad():
        return sliding_window_inference(
            pixels, size, 1, lambda cubes: model(cubes).logits, 0.25, "gaussian", roi_weight_map=along * across
        )


def whole_map(model, processor, volume: Volume) -> np.ndarray:
    turned = reorient(volume, "SPL")
    outputs = segmenter_output(model.config, whole_logits(model, processor, volume))
    found = processor.post_process_semantic_segmentation(outputs, [turned.shape], spacing=turned.spacing)[0]
    return in_space_of(Volume(found.numpy().astype(np.uint8), turned.affine), volume).voxels


@pytest.mark.parametrize("axes, spacing", [("zyx", None), ("zyx", SPACING), ("xyz", SPACING)])
@pytest.mark.parametrize("shape", [(19, 13, 11), (5, 3, 2), (9, 8, 30)])
def test_the_map_is_that_of_monai_on_the_whole_volume(axes, spacing, shape, monkeypatch):
    model, processor = genesis_segmenter(axes=axes, spacing=spacing)
    volume = smooth_ct(shape)
    monkeypatch.setattr(sliding_window, "PLANES", 3)
    found = segment_volume(model, processor, volume, windows=3)
    assert found.dtype == np.uint8 and found.shape == volume.shape
    expected = whole_map(model, processor, volume)
    assert len(np.unique(expected)) == 3 or shape == (5, 3, 2)
    assert (found != expected).mean() < 2e-3  # voxels on whose border two classes are equal to the last digit


def test_logits_are_blended_as_in_one_piece():
    model, processor = genesis_segmenter(axes="xyz")
    volume = smooth_ct()
    pixels = processor(reorient(volume, "SPL").voxels, do_center_crop=False, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        slabs = list(sliding_window._blended_logits(model, pixels, 4, 2, None))
    assert [each.shape[4] for each in slabs] == [3, 3, 1, 4]  # windows of 4 planes begin at 0, 3, 6 and 7 of 11
    torch.testing.assert_close(torch.cat(slabs, 4), whole_logits(model, processor, volume), rtol=1e-4, atol=1e-4)


def by_brightness(cubes: torch.Tensor) -> ArkSemanticSegmenterOutput:
    """A network that looks at each voxel alone: 0 below -200 HU, 1 below 200 HU, 2 from there."""
    centres = torch.tensor([-400.0, 0.0, 400.0]).view(1, 3, 1, 1, 1)
    hounsfield = 2000 * cubes - 1000 + 0.5  # half way between whole ones
    return ArkSemanticSegmenterOutput(logits=centres * hounsfield - centres**2 / 2)


@settings(max_examples=12)
@given(
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 3),
    turn=st.sampled_from([np.eye(3), orthonormal(ROTATED), HALFWAY]),
    shape=st.tuples(*[st.integers(2, 14)] * 3),
    axes=st.sampled_from(["zyx", "xyz"]),
)
def test_every_voxel_is_labelled_in_its_own_place(order, signs, turn, shape, axes):
    model, processor = genesis_segmenter(axes=axes)
    model.forward = by_brightness
    directions = np.eye(3)[list(order)] * signs @ turn
    volume = smooth_ct(shape, affine((0.7, 0.8, 2.5), directions=directions))
    found = segment_volume(model, processor, volume)
    assert np.array_equal(found, np.digitize(volume.voxels, [-200, 200]))
    assert all(np.array_equal(label_mask(found, number), found == number + 1) for number in (0, 1))


def test_labels_that_overlap_have_a_map_each():
    model, processor = genesis_segmenter(OVERLAPPING, spacing=SPACING)
    volume = smooth_ct()
    found = segment_volume(model, processor, volume)
    assert found.shape == (3, *volume.shape) and found.dtype == np.uint8 and found.max() == 1
    turned = reorient(volume, "SPL")
    logits = resample(whole_logits(model, processor, volume)[0], SPACING, turned.spacing, turned.shape)
    for number, cutoff in enumerate(OVERLAPPING.cutoffs):
        expected = in_space_of(Volume((logits[number] >= cutoff).numpy().astype(np.uint8), turned.affine), volume)
        assert 0 < expected.voxels.mean() < 1
        assert (label_mask(found, number) != expected.voxels).mean() < 2e-3


def test_a_segmenter_in_training_is_left_as_it_was():
    model, processor = genesis_segmenter()
    expected, running = segment_volume(model, processor, smooth_ct()), model.state_dict()
    found = segment_volume(model.train(), processor, smooth_ct())
    assert model.training and np.array_equal(found, expected)
    assert all(torch.equal(value, running[name]) for name, value in model.state_dict().items())


def test_a_classifier_sees_the_cube_of_its_image_processor():
    model, processor = genesis_classifier(spacing=SPACING)
    volume = smooth_ct((30, 20, 25))
    found = classify_volume(model, processor, volume)
    turned = reorient(volume, "SPL")
    cube = processor(turned.voxels, spacing=turned.spacing, return_tensors="pt")
    assert cube["pixel_values"].shape == (1, 1, *CUBE["zyx"])
    with torch.no_grad():
        expected = model(**cube).logits.sigmoid()[0]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(classify_volume(model, processor, reorient(volume, "AIR")), found, atol=1e-6)


def test_what_a_model_cannot_take_is_refused(monkeypatch):
    model, processor = genesis_segmenter(hu_window=None)
    with pytest.raises(ValueError, match="no window of Hounsfield units"):
        segment_volume(model, processor, smooth_ct())
    model.config.num_channels = 2
    with pytest.raises(ValueError, match="this model takes volumes of 2 channels, and a file has one"):
        segment_volume(model, processor, smooth_ct())
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ValueError, match=r'needs MONAI: pip install "ark-hf\[volumes\]"'):
        segment_volume(*genesis_segmenter(), smooth_ct())
