"""The volume processor: what it takes, the window, other voxels, cubes, both orders of axes, and label maps."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf.models.ark.masks_ark import ArkSemanticSegmenterOutput
from ark_hf.models.genesis.configuration_genesis import GenesisConfig
from ark_hf.models.genesis.image_processing_genesis import GenesisImageProcessor, resample

RANDOM = np.random.RandomState(0)
CUBE = [4, 6, 8]


def hounsfield(size=(10, 12, 14), dtype=np.int16) -> np.ndarray:
    return RANDOM.randint(-1500, 1500, size).astype(dtype)


def whole(**kwargs) -> GenesisImageProcessor:
    return GenesisImageProcessor(cube_size=CUBE, do_center_crop=False, **kwargs)


def pixels(processor, volume, **kwargs) -> torch.Tensor:
    return processor(volume, return_tensors="pt", **kwargs)["pixel_values"]


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32, np.float64, ">i2"])
def test_the_window_becomes_zero_to_one(dtype):
    volume = hounsfield(dtype=dtype)
    expected = (np.clip(volume.astype(float), -1000, 1000) + 1000) / 2000
    before = volume.copy()
    np.testing.assert_allclose(pixels(whole(), volume)[0, 0], expected, rtol=0, atol=1e-6)
    assert np.array_equal(volume, before)
    narrow = (np.clip(volume.astype(float), -160, 240) + 160) / 400
    np.testing.assert_allclose(pixels(whole(hu_window=(-160, 240)), volume)[0, 0], narrow, rtol=0, atol=1e-6)


def test_floats_in_the_unit_range_are_not_scaled_again():
    volume = RANDOM.rand(4, 6, 8).astype(np.float32)
    np.testing.assert_array_equal(pixels(whole(), volume)[0, 0], volume)
    np.testing.assert_array_equal(pixels(whole(hu_window=None), volume)[0, 0], volume)
    rounded = pixels(whole(), torch.tensor([[[-1e-6, 1 + 1e-6]]]))
    assert (rounded.min(), rounded.max()) == (0, 1)
    zeros = pixels(whole(), np.zeros((4, 6, 8), np.int16))  # integers are Hounsfield units
    assert torch.equal(zeros.unique(), torch.tensor([0.5]))


@pytest.mark.parametrize(
    "volume, message",
    [
        (np.full((4, 4, 4), np.nan), "NaN or infinite"),
        (np.array([[[0.0, np.inf]]]), "NaN or infinite"),
        (np.zeros((4, 4)), r"must be \(depth, height, width\) or .* got shape \(4, 4\)"),
        (np.zeros((0, 4, 4)), "at least one voxel"),
        (np.zeros((4, 4, 4), bool), "integers or floats, got torch.bool"),
        (np.zeros((4, 4, 4), complex), "integers or floats, got torch.complex128"),
        ([[[0.0]]], "a NumPy array or a tensor, got list"),
        ("chest.nii.gz", "a NumPy array or a tensor, got str"),
    ],
)
def test_what_is_no_volume_is_refused(volume, message):
    with pytest.raises(ValueError, match=message):
        GenesisImageProcessor()(volume)


def test_without_a_window_values_must_be_scaled():
    with pytest.raises(ValueError, match="no window of Hounsfield units: scale the volume .* values from 0 to 900"):
        whole(hu_window=None)(np.array([[[0, 900]]]))


# --- several volumes, channels, modality ---------------------------------------------------------------------------


def test_lists_batches_and_channels():
    volumes = [hounsfield(size) for size in ((10, 12, 14), (3, 20, 5))]
    processor = GenesisImageProcessor(cube_size=CUBE)
    both = pixels(processor, volumes)
    assert both.shape == (2, 1, *CUBE) and both.dtype == torch.float32
    assert all(torch.equal(both[[number]], pixels(processor, each)) for number, each in enumerate(volumes))
    stacked = np.stack([volumes[0], volumes[0] + 1])[:, None]
    assert torch.equal(pixels(processor, stacked), pixels(processor, list(stacked[:, 0])))
    assert pixels(processor, np.concatenate([volumes[0][None]] * 3)).shape == (1, 3, *CUBE)
    assert [each.shape for each in whole()(volumes)["pixel_values"]] == [(1, 10, 12, 14), (1, 3, 20, 5)]
    with pytest.raises(ValueError, match="of different sizes are no single tensor"):
        whole()(volumes, return_tensors="pt")


def test_other_modalities_are_refused_when_told():
    assert pixels(whole(), hounsfield(), modality="CT").shape == (1, 1, 10, 12, 14)
    with pytest.raises(ValueError, match="for volumes of modality CT, not MR"):
        whole()(hounsfield(), modality="MR")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"axes": "zxy"}, "axes must be one of"),
        ({"modality": "XX"}, "modality 'XX' is unknown"),
        ({"cube_size": [4, 4]}, "cube_size must be three positive integers"),
        ({"spacing": [1, -1, 1]}, "spacing must be three positive numbers"),
        ({"hu_window": [1, 0]}, "hu_window must be two numbers"),
    ],
)
def test_settings_that_make_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        GenesisImageProcessor(**wrong)


# --- cubes --------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(size=st.tuples(*[st.integers(1, 11)] * 3), cube=st.tuples(*[st.integers(1, 11)] * 3))
def test_the_cube_is_the_middle_and_what_lies_outside_is_air(size, cube):
    volume = np.arange(1, np.prod(size) + 1).reshape(size) / (np.prod(size) + 1.0)
    found = pixels(GenesisImageProcessor(cube_size=cube), volume)[0, 0].numpy()
    assert found.shape == cube
    for axis in range(3):  # each plane of the cube is one of the volume, or empty
        inside = np.moveaxis(found, axis, 0).reshape(cube[axis], -1).any(axis=1)
        assert inside.sum() == min(size[axis], cube[axis])
        assert abs(inside.argmax() - inside[::-1].argmax()) <= 1
    kept = found[found > 0]
    starts = [max(side - wanted, 0) // 2 for side, wanted in zip(size, cube, strict=True)]
    middle = tuple(slice(start, start + wanted) for start, wanted in zip(starts, cube, strict=True))
    np.testing.assert_allclose(kept, volume[middle].ravel(), rtol=0, atol=1e-6)


def test_axes_of_the_originals():
    volume = hounsfield((8, 6, 4))
    turned = pixels(GenesisImageProcessor(axes="xyz", cube_size=CUBE), volume)
    assert turned.shape == (1, 1, *CUBE) and turned.is_contiguous()
    straight = pixels(GenesisImageProcessor(cube_size=CUBE[::-1]), volume)
    assert torch.equal(turned[0, 0], straight[0, 0].permute(2, 1, 0))
    assert GenesisImageProcessor(axes="xyz").cube_size == [64, 64, 32]
    assert GenesisImageProcessor().cube_size == [32, 64, 64]


# --- spacing ------------------------------------------------------------------------------------------------------


def test_other_voxels_keep_the_place_of_things():
    z, y, x = np.meshgrid(*(np.arange(side) + 0.5 for side in (8, 12, 21)), indexing="ij")
    places = torch.from_numpy(np.stack([z * 3.0, y * 1.0, x * 0.5])).float()  # mm from the first edge, of each voxel
    found = resample(places, (3.0, 1.0, 0.5), (1.5, 2.0, 1.0))
    assert found.shape == (3, 16, 6, 11)  # the last voxel along x reaches beyond the volume
    for axis, (side, step, last) in enumerate(zip((16, 6, 11), (1.5, 2.0, 1.0), (22.5, 11.5, 10.25), strict=True)):
        along = found[axis].movedim(axis, 0).flatten(1)
        expected = ((torch.arange(side) + 0.5) * step).clamp(places[axis].min(), last)
        torch.testing.assert_close(along, expected[:, None].expand_as(along), rtol=0, atol=1e-5)


@settings(max_examples=25)
@given(old=st.floats(0.3, 5), new=st.floats(0.3, 5))
def test_resampling_is_that_of_the_sampler_of_volumes(old, new):
    volume = np.random.RandomState(1).rand(6, 7, 8).astype(np.float32)
    found = resample(torch.from_numpy(volume)[None], (old, 1, old), (new, 1, new))[0]
    factors = np.array([new / old, 1, new / old])
    expected = scipy.ndimage.affine_transform(
        volume, factors, (factors - 1) / 2, found.shape, order=1, mode="nearest", prefilter=False
    )
    assert found.shape == (np.ceil(6 / factors[0] - 1e-4), 7, np.ceil(8 / factors[0] - 1e-4))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_volumes_are_brought_to_the_models_spacing():
    volume = hounsfield((6, 8, 10))
    model = whole(spacing=[2.0, 1.0, 0.5])
    assert pixels(model, volume, spacing=(1.0, 1.0, 1.0)).shape == (1, 1, 3, 8, 20)
    turned = whole(axes="xyz", spacing=[0.5, 1.0, 2.0])
    found = pixels(turned, volume, spacing=np.array([1.0, 1.0, 1.0]))
    assert torch.equal(found[0, 0].permute(2, 1, 0), pixels(model, volume, spacing=(1, 1, 1))[0, 0])
    pair = model([volume, volume], spacing=[(1, 1, 1), (2, 1, 0.5)])["pixel_values"]
    assert [each.shape for each in pair] == [(1, 3, 8, 20), (1, 6, 8, 10)]
    as_scanned = whole()
    assert torch.equal(pixels(as_scanned, volume, spacing=(3, 1, 1)), pixels(as_scanned, volume))


@pytest.mark.parametrize(
    "spacing, message",
    [
        (None, r"this model sees voxels of \[2.0, 1.0, 0.5\] mm \(zyx\): give `spacing`"),
        ((1, 1), "spacing must be three positive numbers"),
        ((1, 0, 1), "spacing must be three positive numbers"),
        ([(1, 1, 1), (1, 1, 1)], "one for each, 1; got 2"),
        ((1e4, 1e4, 1e4), "has 50000 x 120000 x 280000 voxels of .2.0, 1.0, 0.5. mm: is it in mm"),
    ],
)
def test_a_spacing_that_is_missing_or_wrong(spacing, message):
    with pytest.raises(ValueError, match=message):
        whole(spacing=[2.0, 1.0, 0.5])(hounsfield(), spacing=spacing)


# --- saved, and the way back --------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    axes=st.sampled_from(["zyx", "xyz"]),
    spacing=st.none() | st.just([1.0, 2.0, 3.0]),
    window=st.none() | st.just([-160.0, 240.0]),
    crop=st.booleans(),
    modality=st.sampled_from(["CT", "MR"]),
)
def test_every_setting_survives_json(axes, spacing, window, crop, modality):
    values = {"axes": axes, "spacing": spacing, "hu_window": window, "do_center_crop": crop, "modality": modality}
    processor = GenesisImageProcessor(cube_size=CUBE, **values)
    again = GenesisImageProcessor.from_dict(processor.to_dict())
    assert again.to_dict() == processor.to_dict()
    assert {name: getattr(again, name) for name in values} == values and again.cube_size == CUBE
    assert GenesisImageProcessor.from_dict(processor.to_dict(), cube_size=[8, 8, 8]).cube_size == [8, 8, 8]


def test_the_processor_of_a_model():
    config = GenesisConfig(axes="xyz", spacing=[1, 1, 2.5], hu_window=[-160, 240], cube_size=[16, 16, 8])
    processor = GenesisImageProcessor.from_config(config)
    for name in ("axes", "spacing", "hu_window", "cube_size"):
        assert getattr(processor, name) == getattr(config, name)


@pytest.mark.parametrize("axes", ["zyx", "xyz"])
def test_label_maps_come_back_in_the_volumes_own_axes_and_size(axes):
    truth = torch.zeros(6, 8, 10, dtype=torch.long)
    truth[:3, 4:, :5] = 1
    truth[3:, :2] = 2
    small = truth[::2, ::2]  # as seen in larger voxels
    logits = torch.nn.functional.one_hot(small, 3).permute(3, 0, 1, 2).float()[None]
    if axes == "xyz":
        logits = logits.permute(0, 1, 4, 3, 2)
    outputs = ArkSemanticSegmenterOutput(logits=logits)
    processor = whole(axes=axes)
    (found,) = processor.post_process_semantic_segmentation(outputs)
    assert torch.equal(found, small)
    (found,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[truth.shape])
    assert found.shape == truth.shape and (found == truth).float().mean() > 0.9
    (scored,) = processor.post_process_semantic_segmentation(outputs, [truth.shape], return_segmentation_scores=True)
    assert torch.equal(scored["segmentation_scores"].argmax(dim=0), scored["segmentation"])
    with pytest.raises(ValueError, match="one size an image: 2 for 1"):
        processor.post_process_semantic_segmentation(outputs, [truth.shape] * 2)


def test_label_maps_lie_on_the_voxels_that_were_resampled():
    truth = torch.zeros(7, 9, 12, dtype=torch.long)  # 7 voxels of 1 mm are 4 of 2 mm, which reach beyond them
    truth[:4, 4:, :6] = 1
    values, own = {"spacing": [2.0, 1.0, 0.5], "hu_window": None}, (1.0, 1.0, 1.0)
    for axes in ("zyx", "xyz"):
        model = whole(axes=axes, **(values if axes == "zyx" else {**values, "spacing": [0.5, 1.0, 2.0]}))
        seen = torch.cat([pixels(model, (truth == each).float(), spacing=own) for each in (0, 1)], dim=1)
        outputs = ArkSemanticSegmenterOutput(logits=torch.cat([seen, seen]))
        found = model.post_process_semantic_segmentation(outputs, [truth.shape] * 2, spacing=own)
        assert [torch.equal(each, truth) for each in found] == [True, True]
        (scored, _) = model.post_process_semantic_segmentation(outputs, [truth.shape] * 2, True, [own] * 2)
        assert scored["segmentation_scores"].shape == (2, *truth.shape)
        with pytest.raises(ValueError, match="give `spacing`"):
            model.post_process_semantic_segmentation(outputs, [truth.shape] * 2)
        with pytest.raises(ValueError, match="one size an image: 1 for 2"):
            model.post_process_semantic_segmentation(outputs, [truth.shape], spacing=own)


def test_of_overlapping_labels_a_map_shows_the_one_with_the_largest_margin():
    logits = torch.tensor([[-3.0, 2.0, 0.1], [-3.0, -0.5, 0.2]])[None, :, None, None]
    outputs = ArkSemanticSegmenterOutput(logits=logits, cutoffs=torch.tensor([[0.0, -1.0]]))
    (found,) = whole().post_process_semantic_segmentation(outputs)
    assert found.tolist() == [[[0, 1, 2]]]
