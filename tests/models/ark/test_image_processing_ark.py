"""The processors against the original views, and the contract of what they accept."""

import json
from functools import cache

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor

import ark_hf  # noqa: F401  (registers the processors)
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor, ArkImageProcessorPil

BACKENDS = {"torchvision": ArkImageProcessor, "pil": ArkImageProcessorPil}
MEAN, STD = np.array(ArkImageProcessor.image_mean), np.array(ArkImageProcessor.image_std)
GREY_LEVEL = 1 / 255 / STD.min()
PILLOW_13 = PIL.__version__ >= "13"  # made the goldens; earlier ones resize 8-bit grey by other roundings

both_backends = pytest.mark.parametrize("processor_class", BACKENDS.values(), ids=BACKENDS)


@cache
def small(processor_class):
    return processor_class(size=24)


def pixels(processor, images, **kwargs) -> np.ndarray:
    return processor(images, return_tensors="pt", **kwargs).pixel_values.numpy()


def levels(pixel_values: np.ndarray) -> np.ndarray:
    """Pixel values back on the scale [0, 1]."""
    return pixel_values * STD[:, None, None] + MEAN[:, None, None]


@st.composite
def grey_pictures(draw):
    """Smooth, as radiographs are: on noise the saturation of 8-bit resizing, and its order of axes, would dominate."""
    height, width, seed = draw(st.integers(5, 60)), draw(st.integers(5, 60)), draw(st.integers(0, 2**32 - 1))
    coarse = np.random.default_rng(seed).integers(20, 236, (4, 4), dtype=np.uint8)
    coarse[1, 1] = 235
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


# --- the original views -------------------------------------------------------------------------------------------

CHESTXRAY = {"image_mean": [0.5056] * 3, "image_std": [0.252] * 3}
VIEWS = {
    "teacher_view": lambda resize, crop: {"intermediate_size": resize, "size": crop},
    "valid_imagenet": lambda resize, crop: {"size": resize, "do_center_crop": True, "crop_size": crop},
    "valid_chestxray_norm": lambda resize, crop: {
        "size": resize,
        "do_center_crop": True,
        "crop_size": crop,
        **CHESTXRAY,
    },
    "test_tencrop": lambda resize, crop: {"size": resize, "do_ten_crop": True, "crop_size": crop},
    "zeroshot_direct": lambda resize, crop: {"size": crop},
}


@both_backends
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("case", ["gray_300x260", "rgb_512x640"])
def test_original_views(shared, case, view, processor_class):
    golden = np.load(shared / "golden" / "ark" / f"preprocess_{case}.npz")
    processor = processor_class(**VIEWS[view](int(golden["resize"]), int(golden["crop"])))
    values = pixels(processor, Image.fromarray(golden["image"]))[0]
    assert values.dtype == np.float32
    assert values.shape == tuple(golden[f"{view}_shape"])

    stride = int(golden["stride"])
    difference = np.abs(values[..., ::stride, ::stride] - golden[f"{view}_strided"])
    exact = values.astype(np.float64)
    stats = np.array([exact.sum(), np.abs(exact).sum(), np.sqrt((exact**2).sum())])
    scale = golden[f"{view}_stats"][[1, 1, 2]]
    if processor_class is ArkImageProcessorPil and (PILLOW_13 or case.startswith("rgb")):
        assert difference.max() <= 1e-6
        np.testing.assert_allclose(stats / scale, golden[f"{view}_stats"] / scale, rtol=0, atol=1e-6)
    elif processor_class is ArkImageProcessorPil:
        assert difference.max() <= 1.001 * GREY_LEVEL
        assert (difference > 1e-6).mean() <= 0.02
        np.testing.assert_allclose(stats / scale, golden[f"{view}_stats"] / scale, rtol=0, atol=5e-5)
    else:
        assert difference.max() <= 0.018
        assert (difference > 1e-6).mean() <= 0.03
        np.testing.assert_allclose(stats / scale, golden[f"{view}_stats"] / scale, rtol=0, atol=1e-3)


@both_backends
def test_ten_crops_come_in_the_original_order(processor_class):
    picture = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    whole = pixels(processor_class(do_resize=False), picture)[0]
    crops = pixels(processor_class(do_resize=False, do_ten_crop=True, crop_size=(32, 40)), picture)[0]
    mirror = whole[..., ::-1]
    expected = [
        each[:, top : top + 32, left : left + 40]
        for each in (whole, mirror)
        for top, left in [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]
    ]
    np.testing.assert_array_equal(crops, np.stack(expected))


@both_backends
def test_ten_crops_of_a_batch_and_without_tensors(processor_class):
    pictures = [np.zeros((50, 40), np.uint8), np.zeros((30, 60, 3), np.uint8)]
    processor = processor_class(size=32, do_ten_crop=True, do_center_crop=True, crop_size=24)
    assert pixels(processor, pictures).shape == (2, 10, 3, 24, 24)
    assert [each.shape for each in processor(pictures).pixel_values] == [(10, 3, 24, 24)] * 2
    with pytest.raises(ValueError, match="at least that size"):
        processor(pictures, crop_size=33)


# --- what is accepted ---------------------------------------------------------------------------------------------


@both_backends
@settings(max_examples=25, deadline=None)
@given(picture=grey_pictures())
def test_one_picture_in_every_layout_gives_one_result(processor_class, picture):
    processor = small(processor_class)
    reference = pixels(processor, Image.fromarray(picture))
    assert reference.shape == (1, 3, 24, 24)
    assert reference.dtype == np.float32
    rgb = np.repeat(picture[..., None], 3, axis=-1)
    layouts = [
        picture,
        picture[None],
        picture[..., None],
        rgb,
        rgb.transpose(2, 0, 1),
        np.dstack([rgb, np.zeros_like(picture)]),
        picture.astype(np.int64),
        np.asfortranarray(picture),
        picture[:, ::-1][:, ::-1],
    ]
    for layout in layouts:
        np.testing.assert_array_equal(pixels(processor, layout), reference)
        np.testing.assert_array_equal(pixels(processor, torch.from_numpy(layout.copy())), reference)
    np.testing.assert_array_equal(pixels(processor, layouts), np.repeat(reference, len(layouts), axis=0))
    for mode in ("RGB", "RGBA", "LA", "P"):
        np.testing.assert_array_equal(pixels(processor, Image.fromarray(picture).convert(mode)), reference)


@both_backends
@settings(max_examples=25, deadline=None)
@given(picture=grey_pictures())
def test_one_picture_of_any_depth_gives_one_result(processor_class, picture):
    processor = small(processor_class)
    reference = pixels(processor, picture)
    wide = picture.astype(np.uint16) * 257
    unit = picture.astype(np.float32) / 255
    deep = [
        wide,
        wide.astype(">u2"),
        wide.astype(np.int32)[None],
        torch.from_numpy(wide),
        Image.fromarray(wide),
        Image.fromarray(wide.astype(np.int32)),
        unit,
        unit.astype(np.float64)[..., None],
        np.repeat(unit[None], 3, axis=0),
        np.repeat(unit[..., None], 3, axis=-1),
        Image.fromarray(unit),
    ]
    results = [pixels(processor, each) for each in deep]
    for result in results:
        # Floats are rounded nowhere, the 8-bit picture after each of the two axes.
        assert np.abs(result - reference).max() <= 1.5 * GREY_LEVEL
        np.testing.assert_allclose(result, results[0], rtol=0, atol=2e-6)
    mixed = pixels(processor, [picture, *deep], disable_grouping=False)
    np.testing.assert_allclose(mixed, np.concatenate([reference, *results]), rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(picture=grey_pictures(), deep=st.booleans())
def test_backends_agree(picture, deep):
    picture = picture.astype(np.uint16) * 257 if deep else picture
    torchvision, pil = (pixels(small(each), picture) for each in BACKENDS.values())
    assert np.abs(torchvision - pil).max() <= (1e-5 if deep else 2.1 * GREY_LEVEL)


@both_backends
@pytest.mark.parametrize(
    ("maximum", "white"),
    [
        (0, 255),
        (255, 255),
        (256, 1023),
        (1023, 1023),
        (1024, 4095),
        (4096, 16383),
        (16384, 32767),
        (32768, 65535),
        (65535, 65535),
    ],
)
def test_integers_are_scaled_by_their_bit_depth(processor_class, maximum, white):
    picture = np.full((30, 40), maximum, np.uint16)
    np.testing.assert_allclose(levels(pixels(small(processor_class), picture)), maximum / white, atol=1e-6)


@both_backends
def test_floats_beyond_the_range_by_rounding_are_clipped(processor_class):
    picture = np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)
    beyond = picture.copy()
    beyond[0, 0], beyond[-1, -1] = -1e-7, 1 + 1e-6
    expected = pixels(small(processor_class), picture)
    for source in (beyond, Image.fromarray(beyond), torch.from_numpy(beyond)):
        np.testing.assert_array_equal(pixels(small(processor_class), source), expected)


@both_backends
def test_floats_are_never_rescaled(processor_class):
    picture = np.full((30, 40), 0.5, np.float32)
    for do_rescale in (True, False):
        values = pixels(small(processor_class), picture, do_rescale=do_rescale)
        np.testing.assert_allclose(levels(values), 0.5, atol=1e-6)


@both_backends
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((9, 9), 1.01), r"must lie in \[0, 1\]"),
        (np.full((9, 9), -0.01, np.float32), r"must lie in \[0, 1\]"),
        (np.full((9, 9, 3), 128.0), r"must lie in \[0, 1\]"),
        (np.array([[0, np.nan], [0.5, 1]] * 5), "NaN"),
        (np.full((9, 9), np.inf), r"must lie in \[0, 1\]"),
        (Image.fromarray(np.full((9, 9), 200, np.float32)), r"must lie in \[0, 1\]"),
        (np.full((9, 9), -1, np.int16), "0..65535"),
        (np.full((9, 9), 65536, np.int32), "0..65535"),
        (np.full((9, 9), 2**40, np.int64), "0..65535"),
        (np.ones((9, 9), bool), "integers or floats"),
        (np.ones((9, 9), np.complex64), "integers or floats"),
        (np.zeros((9, 9, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((7, 9, 9), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((0, 9), np.uint8), "at least one pixel"),
    ],
)
def test_other_images_raise(processor_class, image, message):
    with pytest.raises(ValueError, match=message):
        small(processor_class)(image)


@both_backends
def test_sizes_without_height_and_width_raise(processor_class):
    for arguments in ({"size": {"shortest_edge": 24}}, {"intermediate_size": {"longest_edge": 24}}):
        with pytest.raises(ValueError, match="height and width"):
            processor_class(**arguments)


@both_backends
def test_files_are_read_at_their_full_depth(processor_class, tmp_path):
    picture = np.linspace(0, 4095, 40 * 30).reshape(40, 30).astype(np.uint16)
    Image.fromarray(picture).save(tmp_path / "deep.png")
    processor = small(processor_class)
    np.testing.assert_array_equal(pixels(processor, str(tmp_path / "deep.png")), pixels(processor, picture))


@both_backends
def test_batches_and_kinds_of_output(processor_class):
    pictures = [np.zeros(shape, np.uint8) for shape in [(30, 20), (20, 30), (25, 25, 3)]]
    processor = small(processor_class)
    assert pixels(processor, pictures).shape == (3, 3, 24, 24)
    assert pixels(processor, np.zeros((5, 30, 30, 3), np.uint8)).shape == (5, 3, 24, 24)
    assert pixels(processor, torch.zeros((5, 1, 30, 30), dtype=torch.uint8)).shape == (5, 3, 24, 24)
    tensors = processor(pictures, return_tensors="pt").pixel_values
    assert tensors.is_contiguous() and tensors.dtype == torch.float32
    assert isinstance(processor(pictures, return_tensors="np").pixel_values, np.ndarray)
    assert [tuple(each.shape) for each in processor(pictures).pixel_values] == [(3, 24, 24)] * 3


@both_backends
def test_inputs_are_left_as_they_were(processor_class):
    picture = np.random.default_rng(0).random((24, 24), np.float32)
    before = picture.copy()
    pixels(small(processor_class), picture)
    pixels(small(processor_class), torch.from_numpy(picture))
    np.testing.assert_array_equal(picture, before)


# --- saving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", BACKENDS)
@pytest.mark.parametrize("loaded", BACKENDS)
def test_the_modality_is_saved_unless_it_is_that_of_radiographs(tmp_path, saved, loaded):
    BACKENDS[saved](size=24).save_pretrained(tmp_path)
    assert "modality" not in json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert AutoImageProcessor.from_pretrained(tmp_path, backend=loaded).modality == "CR"
    BACKENDS[saved](size=24, modality="OP").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["modality"] == "OP"
    assert AutoImageProcessor.from_pretrained(tmp_path, backend=loaded).modality == "OP"
    assert AutoImageProcessor.from_pretrained(tmp_path, backend=loaded, modality="MR").modality == "MR"


@both_backends
def test_images_of_another_modality_are_refused_and_the_pixels_do_not_depend_on_it(processor_class):
    picture = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    fundus = processor_class(size=24, modality="OP")
    np.testing.assert_array_equal(pixels(fundus, picture), pixels(small(processor_class), picture))
    np.testing.assert_array_equal(pixels(fundus, picture, modality="OP"), pixels(fundus, picture))
    with pytest.raises(ValueError, match="this image processor is for images of modality OP, not CR"):
        fundus(picture, modality="CR")
    for refuse in (lambda: processor_class(modality="fundus"), lambda: fundus(picture, modality="fundus")):
        with pytest.raises(ValueError, match="modality 'fundus' is unknown; use DICOM's code"):
            refuse()


@both_backends
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_network_of_other_channels_sees_grey_alone(tmp_path, processor_class, channels):
    processor = processor_class(size=24, image_mean=[0.5] * channels, image_std=[0.25] * channels)
    plain = processor_class(size=24, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    assert (processor.num_channels, plain.num_channels, processor_class(image_mean=0.5).num_channels) == (
        channels,
        3,
        3,
    )
    picture = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    deep = picture.astype(np.uint16) * 257
    for grey in (picture, picture[None], deep, picture / 255, Image.fromarray(picture), Image.fromarray(deep)):
        found = pixels(processor, grey)
        assert found.shape == (1, channels, 24, 24)
        np.testing.assert_array_equal(found, np.repeat(pixels(plain, grey)[:, :1], channels, axis=1))
    colours = Image.fromarray(np.stack([picture, picture // 2, 255 - picture], axis=-1))
    np.testing.assert_array_equal(pixels(processor, colours), pixels(processor, colours.convert("L")))
    with pytest.raises(ValueError, match=f"must be grey for a network of {channels} channels, got 3"):
        processor(np.asarray(colours))
    with pytest.raises(ValueError, match=f"images of modality OP have colours, and the network sees {channels}"):
        processor_class(size=24, modality="OP", image_mean=[0.5] * channels, image_std=[0.25] * channels)(picture)


@pytest.mark.parametrize("saved", BACKENDS)
@pytest.mark.parametrize("loaded", BACKENDS)
def test_round_trip(tmp_path, saved, loaded):
    first = BACKENDS[saved](intermediate_size=48, size=40, do_ten_crop=True, crop_size={"height": 24, "width": 32})
    first.save_pretrained(tmp_path)
    second = AutoImageProcessor.from_pretrained(tmp_path, backend=loaded)
    assert type(second) is BACKENDS[loaded]
    ours = {key: value for key, value in first.to_dict().items() if key != "auto_map"}
    assert {key: second.to_dict()[key] for key in ours} == ours
    picture = np.random.default_rng(0).integers(0, 256, (60, 50), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(second, picture), pixels(BACKENDS[loaded](**ours), picture))
