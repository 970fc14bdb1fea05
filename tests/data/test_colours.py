"""Colours through reading, storing and views: kept where the modality is in colour, grey as ever where it is not."""

import colorsys
import io
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from ark_hf.data.build.build import build_dataset, write_task_dataset
from ark_hf.data.build.pictures import encode_png
from ark_hf.data.image_statistics import _Images, dataset_statistics
from ark_hf.data.images.dicom import read_modality
from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.inputs import read_input
from ark_hf.data.loading import InferenceSamples, TrainingSamples, ViewSettings, stack_pictures
from ark_hf.data.masks import _picture_size
from ark_hf.data.open_dataset import open_dataset
from ark_hf.data.radiograph import read_radiograph
from ark_hf.data.rows import Release, Row
from ark_hf.data.task_dataset import load_task_dataset, read_task
from ark_hf.data.views import Intensities
from ark_hf.metrics.shortcut import image_statistics
from ark_hf.models.ark.configuration_ark import ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.tasks_ark import COLOUR_MODALITIES, MODALITIES, is_in_colour
from tests.data.images.test_dicom import make_dicom, save

EYE = ArkTask("eye", ["DR"], modality="OP")


def fundus(seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    """(3, H, W) uint8: a red disc on black, with noise, as a photograph of the eye."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    disc = (x**2 + y**2 < 0.9)[None] * np.array([200.0, 90.0, 40.0])[:, None, None]
    return np.clip(disc + rng.normal(0, 12, (3, height, width)), 0, 255).astype(np.uint8)


def png(picture: np.ndarray) -> bytes:
    return encode_png(picture)["bytes"]


def colour_dicom(picture: np.ndarray, **tags):
    """A data set of native RGB pixels (3, H, W)."""
    dataset = make_dicom(picture[0], 8, Modality="OP", **tags)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    pixels = np.moveaxis(picture, 0, -1).tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    return dataset


@pytest.fixture
def files(tmp_path):
    """Files of one coloured picture."""
    picture = fundus()
    (tmp_path / "eye.png").write_bytes(png(picture))
    PILImage.fromarray(np.moveaxis(picture, 0, -1)).convert("RGBA").save(tmp_path / "alpha.png")
    PILImage.fromarray(np.moveaxis(picture, 0, -1)).save(tmp_path / "eye.tif")
    (tmp_path / "deep.png").write_bytes(png(picture.astype(np.uint16) * 256 + 1))
    save(colour_dicom(picture), tmp_path / "eye.dcm")
    return tmp_path


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eye.png", "alpha.png", "eye.tif", "eye.dcm"])
def test_a_modality_in_colour_keeps_every_value(files, name):
    np.testing.assert_array_equal(read_radiograph(files / name, "OP"), fundus())
    np.testing.assert_array_equal(read_input(files / name, "OP").pixels, fundus())


def test_colours_of_sixteen_bits_keep_them(files):
    expected = fundus().astype(np.uint16) * 256 + 1
    np.testing.assert_array_equal(read_radiograph(files / "deep.png", "OP"), expected)
    np.testing.assert_array_equal(read_input(files / "deep.png", "OP").pixels, expected)


@pytest.mark.parametrize("modality", [each for each in MODALITIES if each not in COLOUR_MODALITIES])
def test_every_other_modality_is_grey_as_radiographs_are(files, modality):
    grey = read_radiograph(files / "eye.png")
    assert grey.shape == (1, 48, 64) and not is_in_colour(modality)
    np.testing.assert_array_equal(read_radiograph(files / "eye.png", modality), grey)
    np.testing.assert_array_equal(read_input(files / "eye.png", modality).pixels, grey)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_grey_picture_stays_one_plane_however_it_is_stored(seed, deep):
    plane = np.random.default_rng(seed).integers(0, 256, (1, 5, 7)).astype(np.uint16 if deep else np.uint8)
    plane = plane * 3 + 1 if deep else plane
    for stored in (plane, np.repeat(plane, 3, axis=0)):
        np.testing.assert_array_equal(read_input(png(stored), "OP").pixels, plane)


@pytest.mark.parametrize("source", ["array", "last", "tensor", "pillow", "float"])
def test_arrays_and_pictures_in_memory_keep_their_colours(source):
    picture = fundus()
    given = {
        "array": picture,
        "last": np.moveaxis(picture, 0, -1),
        "tensor": torch.from_numpy(picture),
        "pillow": PILImage.fromarray(np.moveaxis(picture, 0, -1)),
        "float": (picture / np.float32(255)).astype(np.float32),
    }[source]
    read = read_input(given, "OP")
    np.testing.assert_allclose(read.pixels * (255 if source == "float" else 1), picture, atol=1e-4)
    assert read_input(given).pixels.shape == (1, 48, 64)


def test_a_dicom_in_colour_is_no_radiograph(files):
    with pytest.raises(UnreadableImageError, match="not greyscale .* export a colour capture"):
        read_radiograph(files / "eye.dcm")
    save(colour_dicom(fundus(), NumberOfFrames=2), files / "two.dcm")
    with pytest.raises(UnreadableImageError, match="several frames"):
        read_radiograph(files / "two.dcm", "OP")
    save(make_dicom(fundus()[0], 8, Modality="OP"), files / "grey.dcm")
    assert read_radiograph(files / "grey.dcm", "OP").shape == (1, 48, 64)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [("CR", "CR"), ("DX", "CR"), ("RG", "CR"), ("OP", "OP"), ("MG", "MG"), ("OT", None), ("SC", None), (None, None),
     ("Patient^Name", None)],
)  # fmt: skip
def test_what_a_dicom_file_says_of_its_modality(tmp_path, tag, expected):
    save(make_dicom(np.arange(12, dtype=np.uint8).reshape(3, 4), 8, Modality=tag) if tag else make_dicom(
        np.arange(12, dtype=np.uint8).reshape(3, 4), 8), tmp_path / "x.dcm")  # fmt: skip
    with open(tmp_path / "x.dcm", "rb") as file:
        assert read_modality(file, tmp_path / "x.dcm") == expected
    assert read_input(tmp_path / "x.dcm", default="US").modality == (expected or "US")
    (tmp_path / "x.png").write_bytes(png(fundus()))
    assert read_input(tmp_path / "x.png", default="US").modality == "US"


def test_who_says_another_modality_than_the_header_is_told(files):
    read = read_input(files / "eye.dcm", "DMS")
    assert read.modality == "DMS" and any("header says that it is of modality OP" in each for each in read.warnings)
    read = read_input(files / "eye.dcm")
    assert read.modality == "OP" and not any("header" in each for each in read.warnings)
    with pytest.raises(ValueError, match="modality 'EYE' is unknown"):
        read_input(files / "eye.png", "EYE")


def test_a_cell_of_a_dataset_may_tell_its_modality():
    cell = {"bytes": png(fundus()), "path": "eye.png", "modality": "op"}
    assert read_input(cell).pixels.shape == (3, 48, 64) and read_input(cell).modality == "OP"
    assert read_input({**cell, "modality": None}).modality == "CR"
    with pytest.raises(UnreadableImageError, match="eye.png: its modality is no code of DICOM"):
        read_input({**cell, "modality": "retina"})


def test_doubts_fit_the_modality():
    eye, grey = fundus(height=96, width=96), np.repeat(fundus(height=96, width=96)[:1], 3, axis=0)
    assert any("it is in colour" in each and "no radiograph" in each for each in read_input(eye).warnings)
    assert any("no image of modality MG" in each for each in read_input(eye, "MG").warnings)
    assert not read_input(eye, "OP").warnings
    assert any(
        "it is grey, and images of modality OP are in colour" in each for each in read_input(grey, "OP").warnings
    )
    dark = np.zeros((100, 100), np.uint8)
    dark[:30, :30] = np.arange(900).reshape(30, 30) % 256
    assert any("lowest value" in each for each in read_input(dark).warnings)
    assert not read_input(dark, "MG").warnings  # the ground of a mammogram


# Storing -------------------------------------------------------------------------------------------------------------


def release(tmp_path, task: ArkTask, pictures: list[np.ndarray]) -> Release:
    rows = []
    for number, picture in enumerate(pictures):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(picture))
        split = ("train", "validation", "test")[number % 3]
        rows.append(Row(f"row {number}", path, split, [float(number % 2)], {"image_id": str(number)}))
    return Release(task, rows)


def test_what_is_built_keeps_colours_without_loss_and_its_card_their_modality(tmp_path):
    pictures = [fundus(seed) for seed in range(6)]
    build_dataset(release(tmp_path, EYE, pictures), tmp_path / "eye", num_workers=1)
    assert read_task(tmp_path / "eye") == EYE
    rows = load_task_dataset(tmp_path / "eye", "train")
    for row, picture in zip(rows, pictures[::3], strict=True):
        np.testing.assert_array_equal(np.moveaxis(np.asarray(row["image"]), -1, 0), picture)
    build_dataset(release(tmp_path, ArkTask("grey", ["DR"]), pictures), tmp_path / "grey", num_workers=1)
    (row, _) = load_task_dataset(tmp_path / "grey", "train")
    assert row["image"].mode == "L"
    np.testing.assert_array_equal(np.asarray(row["image"]), read_radiograph(tmp_path / "0.png")[0])


def test_a_smaller_picture_keeps_its_colours_and_the_statistics_are_those_of_its_grey(tmp_path):
    build_dataset(release(tmp_path, EYE, [fundus(seed, 96, 128) for seed in range(3)]), tmp_path / "eye", size=32,
                  num_workers=1)  # fmt: skip
    (row,) = load_task_dataset(tmp_path / "eye", "train")
    assert row["image"].size == (32, 24) and row["image"].mode == "RGB"
    red, green, blue = np.asarray(row["image"])[12, 16].tolist()
    assert red > green + 60 > blue + 90
    data = open_dataset(tmp_path / "eye")
    np.testing.assert_allclose(dataset_statistics(data, "train")[0], image_statistics(row["image"]))


def test_a_build_tells_of_files_whose_header_says_another_modality(tmp_path):
    save(colour_dicom(fundus(height=96, width=96)), tmp_path / "eye.dcm")
    given = release(tmp_path, EYE, [fundus(seed, 96, 96) for seed in range(3)])
    given.rows[0].path = tmp_path / "eye.dcm"
    for modality, told in (("OP", []), ("DMS", ["its header says that it is of modality OP, and it is read as DMS"])):
        given.task = ArkTask("eye", ["DR"], modality=modality)
        report = build_dataset(given, tmp_path / modality, num_workers=1)
        doubts = [doubt["reason"] for doubt in report["doubts"]]
        assert [each for each in doubts if "header" in each] == told


def test_stored_dicom_in_colour_has_statistics_and_a_size(tmp_path):
    picture = fundus(height=96, width=80)
    cell = {"bytes": save(colour_dicom(picture), tmp_path / "eye.dcm").read_bytes(), "path": "eye.dcm"}
    rows = Dataset.from_dict({"image": [cell]}, features=Features({"image": Image(decode=False)}))
    found = _Images(rows)[0]
    np.testing.assert_allclose(found, image_statistics(PILImage.fromarray(np.moveaxis(picture, 0, -1))))
    assert _picture_size(cell) == (80, 96)


# Views ---------------------------------------------------------------------------------------------------------------


def rows_of(*pictures: np.ndarray) -> Dataset:
    features = Features({"image": Image(), "labels": List(Value("float32"))})
    images = [encode_png(picture) for picture in pictures]
    return Dataset.from_dict({"image": images, "labels": [[1.0]] * len(images)}, features=features)


@given(
    st.tuples(st.integers(1, 254), st.integers(1, 254), st.integers(1, 254)),
    st.one_of(
        st.builds(lambda c, b: Intensities(c, b), st.floats(0.8, 1.2), st.floats(-0.2, 0.2)),
        st.builds(lambda g: Intensities(gamma=g), st.floats(0.8, 1.2)),
    ),
)
def test_a_change_of_intensities_keeps_hue_and_saturation(rgb, intensities):
    pixels = torch.tensor(rgb, dtype=torch.float32)[:, None, None] / 255
    changed = intensities.change(pixels, 1.0)[:, 0, 0].tolist()
    before, after = colorsys.rgb_to_hsv(*pixels[:, 0, 0].tolist()), colorsys.rgb_to_hsv(*changed)
    value = intensities.change(pixels.amax(dim=0, keepdim=True), 1.0).item()
    assert after[2] == pytest.approx(value, abs=1e-5)  # what grey of that value becomes
    if value > 1e-3:
        assert after[1] == pytest.approx(before[1], abs=1e-3)
        assert after[0] == pytest.approx(before[0], abs=1e-3) or before[1] < 0.01


def test_black_stays_black_and_grey_becomes_what_one_plane_becomes():
    for intensities in (Intensities(1.1, 0.1), Intensities(0.9, -0.1), Intensities(gamma=0.8), Intensities()):
        grey = torch.linspace(0, 255, 30).reshape(1, 5, 6)
        changed = intensities.change(grey.repeat(3, 1, 1), 255)
        expected = intensities.change(grey, 255)
        assert torch.isfinite(changed).all()
        torch.testing.assert_close(changed[:, 1:], expected[:, 1:].expand(3, -1, -1), atol=1e-3, rtol=1e-5)
        assert (changed[:, 0, 0] == 0).all()


def test_training_samples_are_in_colour_and_normalised_channel_by_channel():
    processor = ArkImageProcessor(size=32, modality="OP")
    views = ViewSettings(resize=37, size=32, min_crop_scale=0.65, teacher_view="resize")
    samples = TrainingSamples(rows_of(fundus(1), fundus(2)[:1]), EYE, "ignore", processor, views, seed=0, cycle=0)
    batch = samples.collate(samples.__getitems__([0, 1]))
    assert batch["pixel_values"].shape == batch["teacher_pixel_values"].shape == (2, 3, 32, 32)
    expected = processor([fundus(1), fundus(2)[:1]], return_tensors="pt")["pixel_values"]
    normalised = samples.normalise(dict(batch), "cpu")
    torch.testing.assert_close(normalised["teacher_pixel_values"], expected, atol=1e-5, rtol=1e-5)
    assert (batch["teacher_pixel_values"][0, 0].float() - batch["teacher_pixel_values"][0, 2]).mean() > 50
    inference = InferenceSamples(rows_of(fundus(1), fundus(2)[:1]), EYE, processor)
    torch.testing.assert_close(inference.collate(inference.__getitems__([0, 1]))["pixel_values"], expected)


def test_a_grey_task_reads_the_same_rows_in_grey():
    processor = ArkImageProcessor(size=32)
    samples = InferenceSamples(rows_of(fundus(1)), ArkTask("grey", ["DR"]), processor)
    (sample,) = samples.__getitems__([0])
    assert sample["image"].shape == (1, 48, 64)
    np.testing.assert_array_equal(sample["image"].numpy(), read_input(png(fundus(1))).pixels)


def test_grey_and_colour_stand_in_one_batch():
    stacked = stack_pictures([torch.zeros(1, 4, 4, dtype=torch.uint8), torch.ones(3, 4, 4)])
    assert stacked.shape == (2, 3, 4, 4) and stacked.dtype == torch.float32


# A card that is wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "picture", "message"),
    [
        (
            ArkTask("grey", ["DR"]),
            fundus(),
            "modality CR, whose images are read in grey, and those looked at are in colour",
        ),
        (EYE, fundus()[:1], "modality OP, whose images are in colour, and those looked at are grey"),
        (EYE, fundus(), None),
        (ArkTask("grey", ["DR"]), fundus()[:1], None),
    ],
)
def test_a_task_whose_pictures_are_not_of_its_modality_is_told(tmp_path, task, picture, message):
    rows = [{"image": encode_png(picture), "labels": [float(n % 2)], "image_id": str(n)} for n in range(4)]
    write_task_dataset(tmp_path / "data", task, {"train": lambda: rows}, [], {"phantom": True})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_dataset(tmp_path / "data")
    told = [str(each.message) for each in caught if "modality" in str(each.message)]
    assert [message in each for each in told] == [True] * (message is not None)


def test_jpeg_photographs_turn_as_their_orientation_says(tmp_path):
    picture = PILImage.fromarray(np.moveaxis(fundus(), 0, -1))
    exif = picture.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif, quality=95)
    (tmp_path / "eye.jpg").write_bytes(buffer.getvalue())
    assert read_radiograph(tmp_path / "eye.jpg", "OP").shape == (3, 64, 48)
