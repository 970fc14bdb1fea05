"""Files that people take for radiographs: what must be refused, and what must come with a warning."""

import functools
import gzip
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ark_hf.data.sources.phantom import SITES, draw_phantom_image
from tests.data.images.test_dicom import make_dicom, save

NO_IMAGE = "no PNG, JPEG, TIFF, DICOM, MetaImage, BMP or WebP"


class WrongInput(NamedTuple):
    name: str
    path: Path
    kind: str  # "refused" or "warned"
    message: str  # a part of what must be said


@pytest.fixture(scope="session")
def wrong_inputs(tmp_path_factory) -> list[WrongInput]:
    """Made once a session, whichever test modules import this fixture."""
    return _make_once(tmp_path_factory.getbasetemp() / "wrong_inputs")


@functools.cache
def _make_once(folder: Path) -> list[WrongInput]:
    folder.mkdir()
    return write_wrong_inputs(folder)


def write_wrong_inputs(folder: Path) -> list[WrongInput]:
    """Writes them all into a folder that is there, in a second."""
    made = []
    for name, (kind, message, write) in {**REFUSED, **WARNED}.items():
        content = write(folder / name)
        if content is not None:
            (folder / name).write_bytes(content)
        made.append(WrongInput(name, folder / name, kind, message))
    return made


@functools.cache
def chest() -> np.ndarray:
    """(H, W) uint8 of a phantom that nothing is wrong with."""
    return np.asarray(draw_phantom_image(SITES["phantom_city"], "test", 0, size=128)["image"])


def encode(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims another size."""
    content = bytearray(encode(chest()))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def _several(kind: str, **options) -> bytes:
    return encode(chest(), kind, save_all=True, append_images=[Image.fromarray(chest()[::-1])], **options)


def _dicom(pixels: np.ndarray | None = None, **tags) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        stored = chest() if pixels is None else pixels
        save(make_dicom(stored, 8 * stored.itemsize, **tags), path)

    return write


def _colour_dicom(path: Path) -> None:
    dataset = make_dicom(chest(), 8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    dataset.PixelData = np.stack([chest()] * 3, axis=-1).tobytes()
    save(dataset, path)


def _frames(path: Path) -> None:
    dataset = make_dicom(chest(), 8, NumberOfFrames=2)
    dataset.PixelData = chest().tobytes() * 2
    save(dataset, path)


def _zip() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("chest.png", encode(chest()))
    return file.getvalue()


def _npy(values: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, values)
    return file.getvalue()


def _photo() -> np.ndarray:
    """A landscape, more or less: blue above, green below, with noise."""
    noise = np.random.default_rng(0).integers(0, 40, (96, 128, 3))
    photo = np.zeros((96, 128, 3), int)
    photo[:48], photo[48:] = (90, 140, 210), (60, 150, 50)
    return (photo + noise).astype(np.uint8)


def _screenshot() -> np.ndarray:
    """A radiograph in a viewer's window with a blue title bar."""
    screen = np.full((160, 200, 3), 32, np.uint8)
    screen[:12] = 30, 90, 200
    screen[20 : 20 + chest().shape[0], 30 : 30 + chest().shape[1]] = chest()[..., None]
    return screen


def _negative_in_a_frame() -> np.ndarray:
    return np.pad(255 - chest(), 40, constant_values=255)


def _deep() -> np.ndarray:
    """(H, W) uint16, twelve bits."""
    return chest().astype(np.uint16) * 16 + 3


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'
MHA = b"ObjectType = Image\nNDims = 2\nDimSize = 4 4\nElementType = MET_UCHAR\nElementDataFile = chest.raw\n"

REFUSED: dict[str, tuple[str, str, Callable[[Path], bytes | None]]] = {
    name: ("refused", message, write)
    for name, message, write in [
        ("text.png", NO_IMAGE, lambda path: b"Dear colleague, please find attached"),
        ("page.jpg", NO_IMAGE, lambda path: b"<!DOCTYPE html><title>Log in</title>"),
        ("drawing.jpg", NO_IMAGE, lambda path: SVG),
        ("report.pdf", NO_IMAGE, lambda path: b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\n%%EOF"),
        ("pickle.png", NO_IMAGE, lambda path: pickle.dumps({"pixels": [1, 2, 3]})),
        ("nan.npy", NO_IMAGE, lambda path: _npy(np.full((64, 64), np.nan, np.float32))),
        ("archive.png", NO_IMAGE, lambda path: _zip()),
        ("moving.gif", NO_IMAGE, lambda path: _several("GIF")),
        ("moving.webp", "several pages or frames", lambda path: _several("WEBP")),
        ("moving.png", "several pages or frames", lambda path: _several("PNG")),
        ("volume.nii", "NIfTI holds volumes", lambda path: (348).to_bytes(4, "little") + bytes(500)),
        ("packed_volume.nii.gz", "NIfTI holds volumes", lambda path: gzip.compress(bytes(500))),
        ("volume_without_name", "NIfTI holds volumes", lambda path: (348).to_bytes(4, "big") + bytes(500)),
        ("cut_short.bmp", "damaged, cut short", lambda path: encode(chest(), "BMP")[:2000]),
        ("cut_short.webp", "damaged, cut short", lambda path: encode(chest(), "WEBP")[:1500]),
        ("empty.png", "is empty", lambda path: b""),
        ("missing.png", "no such file", lambda path: None),
        ("folder.png", "folder", lambda path: path.mkdir()),
        ("nowhere.png", "no such file", lambda path: path.symlink_to("nothing")),
        ("cut_short.png", "damaged, cut short", lambda path: encode(chest())[:2000]),
        ("cut_short.jpg", "damaged, cut short", lambda path: encode(chest(), "JPEG")[:1500]),
        ("huge.png", "claims", lambda path: _claiming(20_000, 20_000)),
        ("no_pixels.png", "this PNG file is of a rare kind", lambda path: _claiming(0, 128)),
        ("pages.tif", "several pages", lambda path: _several("TIFF")),
        ("large_floats.tif", "float values", lambda path: encode(chest().astype(np.float32), "TIFF")),
        ("nan.tif", "float values", lambda path: encode(np.full((64, 64), np.nan, np.float32), "TIFF")),
        ("negative.tif", "0..65535", lambda path: encode(chest().astype(np.int32) - 100, "TIFF")),
        ("frames.dcm", "several frames", _frames),
        ("colour.dcm", "not greyscale", _colour_dicom),
        ("no_pixels.dcm", "no pixel data", _dicom(PixelData=None)),
        ("no_dicom.dcm", "no pixel data", lambda path: b"this was saved under the wrong name " * 20),
        ("packed.dcm", "deflated", _dicom(syntax=DeflatedExplicitVRLittleEndian)),
        ("padding.dcm", "nothing but padding", _dicom(np.zeros((64, 64), np.uint16), PixelPaddingValue=0)),
        ("header.mha", "another file", lambda path: MHA),
    ]
}
WARNED: dict[str, tuple[str, str, Callable[[Path], bytes | None]]] = {
    name: ("warned", message, write)
    for name, message, write in [
        ("photo.jpg", "in colour", lambda path: encode(_photo(), "JPEG")),
        ("screenshot.png", "in colour", lambda path: encode(_screenshot())),
        ("one_pixel.png", "1 x 1 pixels", lambda path: encode(chest()[:1, :1])),
        ("thumbnail.png", "too few", lambda path: encode(chest()[::3, ::3])),
        ("strip.png", "20000 x 1 pixels", lambda path: encode(np.resize(chest(), (1, 20_000)))),
        ("narrow.png", "squashed", lambda path: encode(np.repeat(chest()[:, :64], 3, axis=0))),
        ("blank.png", "the same value", lambda path: encode(np.full((128, 128), 90, np.uint8))),
        ("blank.dcm", "the same value", _dicom(np.full((128, 128), 700, np.uint16))),
        ("three_greys.png", "3 grey values", lambda path: encode((chest() // 86).astype(np.uint16) * 900)),
        ("mask.png", "2 grey values", lambda path: encode(chest() > 120)),
        ("dark.png", "nearly black", lambda path: encode(_deep() // 16 + 40)),
        ("clipped.png", "at its highest value", lambda path: encode(np.minimum(_deep(), 1500))),
        ("negative.png", "at its highest value", lambda path: encode(_negative_in_a_frame())),
        ("framed.png", "at its lowest value", lambda path: encode(np.pad(chest(), 60))),
    ]
}
