"""Overlays: the picture's own grey, colour where the heat is, and a file of its own for each picture and label."""

import runpy
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ark_hf.data.inputs import RadiographInput, read_input
from ark_hf.data.sources.phantom import SITES, draw_phantom_image
from ark_hf.inference.heatmaps import heat_maps
from ark_hf.inference.overlays import overlay, save_overlays
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from tests.conftest import REPOSITORY


def make_model(*tasks: ArkTask) -> ArkForImageClassification:
    torch.manual_seed(0)
    config = ArkConfig(backbone="test_resnet", image_size=64, projector_dim=None, tasks=list(tasks))
    return ArkForImageClassification(config).eval()


def gradient_picture(dtype) -> np.ndarray:
    """(1, 60, 90) from black to white."""
    grey = np.linspace(0, 1, 60 * 90).reshape(1, 60, 90)
    return grey.astype(dtype) if np.dtype(dtype).kind == "f" else np.rint(grey * 255).astype(dtype)


def test_cold_places_keep_the_grey_and_hot_ones_are_coloured_where_they_are():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1  # top right
    pixels = gradient_picture(np.uint8)
    shown = np.asarray(overlay(pixels, heat)).astype(int)
    assert shown.shape == (60, 90, 3)
    colour = shown.max(axis=2) - shown.min(axis=2)
    row, column = np.unravel_index(colour.argmax(), colour.shape)
    assert row < 15 and column >= 67
    cold = shown[30:, :45]
    assert np.all(cold == pixels[0, 30:, :45, None])
    assert np.all(np.asarray(overlay(pixels, np.zeros((4, 4), np.float32))) == pixels[0, ..., None])


def test_hotter_places_are_coloured_more():
    heat = np.linspace(0, 1, 9, dtype=np.float32)[None].repeat(9, axis=0)
    for grey in (0, 128, 255):
        shown = np.asarray(overlay(np.full((1, 90, 90), grey, np.uint8), heat)).astype(int)[45, 5:-5]
        distance = np.abs(shown - grey).sum(axis=1)
        assert np.all(np.diff(distance) >= -3) and distance[-1] > distance[0] + 100


def test_every_depth_shows_the_grey_that_the_image_processor_shows():
    cold = np.zeros((2, 2), np.float32)
    expected = np.asarray(overlay(gradient_picture(np.uint8), cold)).astype(int)
    twelve_bits = np.rint(gradient_picture(np.float64) * 4095).astype(np.uint16)
    for pixels in (gradient_picture(np.float32), twelve_bits, gradient_picture(np.uint8)[0]):
        assert np.abs(np.asarray(overlay(pixels, cold)) - expected).max() <= 1
    with pytest.raises(ValueError, match="float images must lie in"):
        overlay(gradient_picture(np.float32) * 2, cold)


def test_large_pictures_are_made_smaller_and_keep_their_aspect():
    assert overlay(np.zeros((1, 3000, 1500), np.uint8), np.ones((7, 7), np.float32)).size == (512, 1024)
    assert overlay(np.zeros((20, 2048), np.uint16), np.ones((7, 7), np.float32)).size == (1024, 10)


@pytest.mark.parametrize("heat", [np.zeros(4), np.full((2, 2), 1.5), np.full((2, 2), -0.1), np.full((2, 2), np.nan)])
def test_what_is_no_heat_map_is_refused(heat):
    with pytest.raises(ValueError, match="A heat map is an array"):
        overlay(np.zeros((1, 8, 8), np.uint8), heat)


# Files


def names_of_overlays(folder, name: str | None, labels: list[str], row: int = 1) -> list[str]:
    """The files of a picture of that name with a heat map of every label."""
    task = ArkTask("task", labels)
    image = RadiographInput(gradient_picture(np.uint8), name, [])
    before = set(folder.glob("*"))
    maps = {number: np.full((2, 2), 0.5, np.float32) for number in range(len(labels))}
    save_overlays(ArkConfig(tasks=[task]), image, maps, folder, row)
    new = sorted(set(folder.glob("*")) - before)
    for path in new:
        with Image.open(path) as picture:
            assert picture.mode == "RGB" and picture.size == (90, 60)
    return [path.name for path in new]


def test_a_file_names_the_row_the_picture_and_the_label(tmp_path):
    names = names_of_overlays(tmp_path, "some/where/chest 7.png", ["Edema", "Pleural/Effusion"], row=12)
    assert names == ["00012_chest_7_000_task_Edema.png", "00012_chest_7_001_task_Pleural_Effusion.png"]
    assert names_of_overlays(tmp_path, None, ["Edema"], row=13) == ["00013_000_task_Edema.png"]


@pytest.mark.parametrize(
    "labels",
    [
        ["A/B", "A B", "A_B", "a b"],  # alike once what file systems do not take is gone, or in capitals
        ["x" * 250, "x" * 250 + "y"],
        ["\N{CJK UNIFIED IDEOGRAPH-80BA}" * 250, "\N{GREEK SMALL LETTER ALPHA}" * 250 + "/"],
        ["..", "../../up", "\\", "\x00"],
    ],
)
@pytest.mark.parametrize("stem", ["chest", "y" * 240, "\N{CJK UNIFIED IDEOGRAPH-80BA}" * 80])
def test_each_label_has_a_file_of_its_own_whatever_it_is_called(labels, stem, tmp_path):
    names = names_of_overlays(tmp_path, f"{stem}.png", labels)
    assert len({name.lower() for name in names}) == len(labels)
    assert all(len(name.encode()) <= 143 for name in names)  # of eCryptfs, the lowest limit in use


def test_pictures_of_the_same_name_in_two_folders_have_files_of_their_own(tmp_path):
    first = names_of_overlays(tmp_path, "monday/chest.png", ["Edema"], row=1)
    second = names_of_overlays(tmp_path, "tuesday/chest.png", ["Edema"], row=2)
    assert len(first) == len(second) == 1 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "address",
    [
        "https://host.org/a/chest.png?X-Signature=SECRET",
        "https://host.org/a/chest.png?path=/b/SECRET.png",
        "HTTPS://user:SECRET@host.org/chest.png#SECRET",
    ],
)
def test_of_an_address_the_path_alone_becomes_part_of_a_name(address, tmp_path):
    assert names_of_overlays(tmp_path, address, ["Edema"]) == ["00001_chest_000_task_Edema.png"]
    assert names_of_overlays(tmp_path, "https://user:SECRET@host.org?SECRET", ["Mass"]) == ["00001_000_task_Mass.png"]


def test_the_example_shows_the_most_probable_label_of_each_task(tmp_path, monkeypatch, capsys):
    model = make_model(ArkTask("north", ["Edema", "Mass/Nodule"]), ArkTask("south", ["TB"]))
    with torch.no_grad():  # of features that are never negative
        model.heads["north"].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model.heads["south"].weight.fill_(-1)
    model.save_pretrained(tmp_path / "ark-cxr")
    ArkImageProcessor(size=64).save_pretrained(tmp_path / "ark-cxr")
    draw_phantom_image(SITES["phantom_lake"], "test", 0, 96)["image"].save(tmp_path / "chest.png")
    arguments = [str(tmp_path / name) for name in ("ark-cxr", "chest.png", "heat_maps.png")]
    monkeypatch.setattr(sys, "argv", ["heat_maps.py", *arguments])
    runpy.run_path(str(REPOSITORY / "examples" / "heat_maps.py"), run_name="__main__")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("north/Mass/Nodule ") and second.startswith("south/TB ")
    pixels = read_input(tmp_path / "chest.png").pixels
    pixel_values = ArkImageProcessor(size=64)(pixels, return_tensors="pt")["pixel_values"]
    (hot, cold) = heat_maps(model, pixel_values, [1, 2])[0]
    assert hot.max() == 1 and cold.max() == 0  # nothing speaks for TB
    expected = np.hstack([overlay(pixels, hot), overlay(pixels, cold)])
    shown = np.asarray(Image.open(tmp_path / "heat_maps.png"))
    assert shown.shape == (96, 192, 3) and np.abs(shown.astype(int) - expected).max() <= 1
