"""Every kind of input gives the same grey values, and what is wrong with one is said."""

import functools
import gzip
import io
import shutil
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from ark_hf.data import inputs
from ark_hf.data.images.image_files import UnreadableImageError, image_files_in
from ark_hf.data.inputs import input_name, read_input
from ark_hf.data.radiograph import read_radiograph
from ark_hf.data.sources.phantom import SITES, draw_phantom_image
from tests.data.images.test_dicom import lut, make_dicom, save
from tests.data.images.test_metaimage import metaimage
from tests.wrong_inputs import REFUSED, WARNED, chest, encode, wrong_inputs  # noqa: F401

DEEP = chest().astype(np.uint16) * 16 + 3  # twelve bits


def coloured(tint: float = 1.0) -> np.ndarray:
    """(H, W, 3) of a chest whose blue is weakened."""
    return np.stack([chest(), chest(), (chest() * tint).astype(np.uint8)], axis=-1)


# The same picture however it is handed over


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    pictures = {
        "8.png": (chest(), {}),
        "16.png": (DEEP, {}),
        "widened.png": (chest().astype(np.uint16) * 257, {}),
        "turned.png": (DEEP, {"exif": exif}),
        "float.tif": (DEEP / np.float32(65535), {}),
        "int.tif": (DEEP.astype(np.int32), {}),
        "colour.png": (coloured(0.7), {}),
        "rgb.jpg": (coloured(), {}),
        "rgba.png": (np.dstack([coloured(), chest()]), {}),
        "mask.png": (chest() > 120, {}),
    }
    for name, (pixels, options) in pictures.items():
        Image.fromarray(pixels).save(folder / name, **options)
    Image.fromarray(coloured()).convert("P").save(folder / "palette.png")
    Image.fromarray(coloured(0.7)).save(folder / "colour.bmp")
    Image.fromarray(chest()).save(folder / "lossy.webp")
    Image.fromarray(coloured()).convert("CMYK").save(folder / "cmyk.tif")
    save(make_dicom(DEEP, 12, PhotometricInterpretation="MONOCHROME1"), folder / "12.dcm")
    (folder / "16.mha").write_bytes(metaimage(DEEP, "MET_SHORT", compressed=True))
    return sorted(folder.iterdir())


def test_paths_bytes_and_pictures_give_what_files_hold(files):
    for path in files:
        expected = read_radiograph(path)
        content = path.read_bytes()
        sources = {
            "str": (str(path), str(path)),
            "Path": (path, str(path)),
            "bytes": (content, None),
            "stored by datasets": ({"bytes": content, "path": None}, None),
            "stored by datasets, with a name": ({"bytes": content, "path": path.name}, path.name),
            "referred to by datasets": ({"bytes": None, "path": str(path)}, str(path)),
        }
        if path.suffix not in (".dcm", ".mha"):
            sources["opened by Pillow"] = (Image.open(path), None)
            loaded = Image.open(path)
            loaded.load()
            sources["loaded by Pillow"] = (loaded, None)
        for kind, (source, name) in sources.items():
            read = read_input(source)
            assert read.pixels.dtype == expected.dtype and read.name == name, (path.name, kind)
            np.testing.assert_array_equal(read.pixels, expected, err_msg=f"{path.name} {kind}")


def test_a_dicom_file_without_preamble_is_known_by_its_name(tmp_path):
    path = tmp_path / "x.dcm"
    save(make_dicom(DEEP, 12), path, enforce_file_format=False)
    content = path.read_bytes()
    path.write_bytes(content[132:] if content[128:132] == b"DICM" else content)
    for name in ("some/x.dcm", "scan#1.dcm", "scan?.dcm", "//[1].dcm", "https://host.org/x.dcm?size=#1"):
        named = read_input({"bytes": path.read_bytes(), "path": name})
        assert named.name == name
        np.testing.assert_array_equal(named.pixels, read_radiograph(path))


SHAPES = {
    "(H, W)": lambda grey: grey,
    "(1, H, W)": lambda grey: grey[None],
    "(H, W, 1)": lambda grey: grey[..., None],
    "(H, W, 3)": lambda grey: np.stack([grey] * 3, axis=-1),
    "(3, H, W)": lambda grey: np.stack([grey] * 3),
    "(4, H, W)": lambda grey: np.stack([grey] * 3 + [grey // 2]),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.int32, np.int64])
def test_arrays_and_tensors_of_integers_keep_their_values(shape, dtype):
    grey = (chest() if dtype == np.uint8 else DEEP).astype(dtype)
    array = SHAPES[shape](grey)
    sources = [array, array[..., ::-1][..., ::-1]]  # the second is not contiguous
    if dtype != ">u2":
        sources.append(torch.from_numpy(array.copy()))
    for source in sources:
        read = read_input(source)
        assert read.pixels.dtype == (np.uint8 if dtype == np.uint8 else np.uint16) and read.name is None
        np.testing.assert_array_equal(read.pixels[0], grey)
        assert read.warnings == []


@pytest.mark.parametrize("shape", SHAPES)
def test_floats_stay_floats(shape):
    unit = SHAPES[shape](chest() / np.float32(255))
    tensor = torch.from_numpy(unit)
    for source in (unit, unit.astype(np.float64), tensor, tensor.requires_grad_()):
        read = read_input(source)
        assert read.pixels.dtype == np.float32 and read.pixels.shape == (1, *chest().shape)
        np.testing.assert_allclose(read.pixels[0] * 255, chest(), atol=1e-4)
        assert read.warnings == []
    np.testing.assert_allclose(read_input(tensor.detach().bfloat16()).pixels[0] * 255, chest(), atol=0.6)


def test_floats_that_rounding_carried_out_of_range_are_clipped():
    """As min-max scaling, or a resize in the tensor's own precision, leaves them."""
    unit = chest() / np.float32(255)
    above, below = unit.copy(), unit.copy()
    above[0, 0], below[0, 0] = np.nextafter(np.float32(1), np.float32(2)), -1e-7
    half = torch.from_numpy(unit).bfloat16()
    half[0, 0] = 1 + torch.finfo(torch.bfloat16).eps
    sources = [above, below, above.astype(np.float64), np.stack([above] * 3), torch.from_numpy(above), half]
    for source in [*sources, Image.fromarray(above), encode(below, "TIFF")]:
        pixels = read_input(source).pixels
        white = 1 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max
        assert pixels.min() >= 0 and pixels.max() <= white and pixels[0, 0, 0] in (0, white)
    for wrong in (above + np.float32(2e-4), below - np.float32(2e-4)):
        for source in (wrong, torch.from_numpy(wrong), encode(wrong, "TIFF")):
            with pytest.raises(UnreadableImageError, match=r"float .* in \[0, 1\]"):
                read_input(source)


def test_sixteen_bits_that_hold_eight_are_eight_bits():
    widened = chest().astype(np.uint16) * 257
    for source in (widened, np.stack([widened] * 3), torch.from_numpy(widened), Image.fromarray(widened)):
        read = read_input(source)
        assert read.pixels.dtype == np.uint8
        np.testing.assert_array_equal(read.pixels[0], chest())


def test_colour_becomes_luminance():
    photo = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    expected = np.asarray(Image.fromarray(photo).convert("L"))
    for source in (photo, np.moveaxis(photo, -1, 0), Image.fromarray(photo), encode(photo)):
        np.testing.assert_array_equal(read_input(source).pixels[0], expected)
    for source, scale in ((photo.astype(np.uint16) * 200, 200), (photo / np.float32(255), 1 / 255)):
        np.testing.assert_allclose(read_input(source).pixels[0] / scale, expected, atol=0.6)


# What is no radiograph

ARRAYS = {
    "float images must lie in": [
        np.full((80, 80), np.nan),
        torch.full((1, 80, 80), torch.nan),
        np.full((80, 80), np.inf),
        chest().astype(np.float32),
        chest() / -255,
    ],
    "integer images must lie in": [DEEP.astype(int) - 100, DEEP.astype(int) * 100],
    "integers or floats": [chest() > 100, chest().astype(complex)],
    "1, 3 or 4 channels": [np.stack([chest()] * 2), np.zeros((8, 8, 9), np.uint8)],
    "2 or 3 dimensions": [np.uint8(7) * np.ones(9, np.uint8), np.zeros((1, 1, 1, 8, 8), np.uint8)],
    "give its images as a list": [np.zeros((2, 1, 80, 80), np.uint8), torch.zeros(1, 3, 80, 80)],
    "can't convert": [np.full((8, 8), None)],
    "pixels can be read": [np.broadcast_to(np.uint8(7), (20_000, 20_000)), np.zeros((0, 8))],
}


@pytest.mark.parametrize("reason", ARRAYS)
def test_wrong_arrays_are_refused_with_the_reason(reason):
    for array in ARRAYS[reason]:
        with pytest.raises(UnreadableImageError, match=reason) as refusal:
            read_input(array)
        assert str(refusal.value).startswith(f"input of type {type(array).__name__}: ")


def test_a_cell_of_a_dataset_cannot_make_this_machine_ask_for_an_address(monkeypatch):
    monkeypatch.setattr(inputs, "_fetch", lambda address: pytest.fail("it was asked for"))
    with pytest.raises(UnreadableImageError, match="names an address in place of bytes"):
        read_input({"bytes": None, "path": "http://127.0.0.1:9/chest.png"})


@pytest.mark.parametrize("source", [None, 7, [chest()], {"image": chest()}, {"bytes": None, "path": None}, object()])
def test_other_things_are_refused(source):
    with pytest.raises(UnreadableImageError, match="a radiograph is a path, an http"):
        read_input(source)


@pytest.mark.parametrize("name", [*REFUSED, *WARNED])
def test_wrong_files(wrong_inputs, name):  # noqa: F811
    wrong = next(each for each in wrong_inputs if each.name == name)
    sources = [wrong.path]
    if wrong.path.is_file():
        sources.append({"bytes": wrong.path.read_bytes(), "path": name})
    for source in sources:
        if wrong.kind == "refused":
            with pytest.raises(UnreadableImageError) as refusal:
                read_input(source)
            said = [str(refusal.value)]
            assert name in said[0]
        else:
            said = read_input(source).warnings
        assert any(wrong.message in each for each in said), said
        assert not any("\n" in each for each in said)


# Doubts


def test_phantoms_are_not_doubted():
    for site in SITES.values():
        for index in range(3):
            assert read_input(draw_phantom_image(site, "test", index, size=96)["image"]).warnings == []


def test_real_radiographs_are_hardly_ever_doubted(shared):
    """Every tenth; of all 2,889 eight are, for their sides, see `MAX_ASPECT`."""
    files = [*sorted(shared.glob("realdata/*/images/*"))[::10], *sorted(shared.glob("realdata/*/originals/*"))]
    paths = [path for path in files if path.parents[1].name != "fundus_dr"]
    doubted = {path.name: warnings for path in paths if (warnings := read_input(path).warnings)}
    assert len(paths) > 280 and len(doubted) <= 3, doubted
    assert all("squashed" in warning for warnings in doubted.values() for warning in warnings), doubted


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_grey_stored_as_rgb_is_not_taken_for_colour(quality):
    assert read_input(encode(coloured(), "JPEG", quality=quality)).warnings == []


def test_colour_is_seen_in_every_kind_of_input():
    tinted = coloured(0.8)
    annotated = coloured()
    annotated[:4, :20] = 255, 200, 0  # an arrow, half a percent
    kinds = {
        "array": lambda pixels: pixels,
        "deep array": lambda pixels: pixels.astype(np.uint16) * 16 + 3,
        "floats": lambda pixels: pixels / 255,
        "tensor": torch.from_numpy,
        "picture": Image.fromarray,
        "file": encode,
    }
    for kind, make in kinds.items():
        (warning,) = read_input(make(tinted)).warnings
        assert "in colour" in warning, kind
        assert read_input(make(annotated)).warnings == [], kind


@pytest.mark.parametrize("make", [lambda grey: grey, lambda grey: grey.astype(np.uint16) * 256 + 1, lambda g: g / 255])
def test_each_doubt_in_every_depth(make):
    grey = chest()
    dark = grey // 4
    dark[0, 0] = 255
    doubts = {
        "nearly black": dark,
        "at its highest value": np.clip(grey.astype(int) * 3, 0, 255).astype(np.uint8),
        "at its lowest value": np.clip(grey.astype(int) - 160, 0, 255).astype(np.uint8),
        "grey values alone": grey // 16 * 16,
        "the same value": np.full_like(grey, 7),
        "too few": grey[:50],
        "squashed": np.tile(grey, (3, 1)),
    }
    assert read_input(make(grey)).warnings == []
    for doubt, pixels in doubts.items():
        warnings = read_input(make(pixels)).warnings
        assert any(doubt in warning for warning in warnings), (doubt, warnings)


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted", "doubted"),
    [
        ("MONOCHROME2", None, False, False),
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME2", "INVERSE", True, True),
        ("MONOCHROME1", None, True, False),
        ("MONOCHROME1", "INVERSE", True, False),  # as PS3.3, C.8.11.3 demands: one inversion
        ("MONOCHROME1", "IDENTITY", True, True),
    ],
)
def test_presentation_lut_shape_and_photometric_interpretation(tmp_path, photometric, shape, inverted, doubted):
    stored = chest().astype(np.uint16) * 16
    stored[0] = 4095  # padding, which is black either way
    tags = {} if shape is None else {"PresentationLUTShape": shape}
    make = functools.partial(make_dicom, stored, 12, PixelPaddingValue=4095)
    path = save(make(PhotometricInterpretation=photometric, **tags), tmp_path / "x.dcm")
    plain = read_radiograph(save(make(), tmp_path / "plain.dcm"))
    read = read_input(path)
    np.testing.assert_array_equal(read.pixels[:, 1:], 65535 - plain[:, 1:] if inverted else plain[:, 1:])
    assert not read.pixels[:, 0].any()
    assert [warning for warning in read.warnings if "bones are white" in warning] == read.warnings
    assert bool(read.warnings) == doubted
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read_radiograph(path)
    assert any(f"Presentation LUT {shape}" in str(warning.message) for warning in told) == doubted


def test_a_presentation_lut_that_is_not_applied_is_told(tmp_path):
    stored = chest().astype(np.uint16) * 16
    table = {"PresentationLUTSequence": [lut(0, 16, range(0, 65536, 64))]}
    (doubt,) = read_input(save(make_dicom(stored, 12, **table), tmp_path / "x.dcm")).warnings
    assert "Presentation LUT of its own" in doubt


# Addresses


class Answers(BaseHTTPRequestHandler):
    """Each path answers in its own way."""

    def do_GET(self):
        body = encode(DEEP)
        match self.path.partition("?")[0]:
            case "/moved":
                return self.answer(302, b"", Location="/chest.png")
            case "/chest.dcm" | "/study":
                file = io.BytesIO()
                save(make_dicom(DEEP, 12), file)
                return self.answer(200, file.getvalue())
            case "/page":
                return self.answer(200, b"<!DOCTYPE html><title>Log in</title>")
            case "/packed":
                return self.answer(200, gzip.compress(body), **{"Content-Encoding": "gzip"})
            case "/silent":
                time.sleep(1)
                return None
            case "/slow":
                self.send_response(200)
                self.end_headers()
                for _ in range(40):
                    self.wfile.write(b"\x89PNG")
                    time.sleep(0.02)
                return None
            case "/chest.png":
                return self.answer(200, body)
        return self.answer(404, b"nothing here")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that goes away is what some tests are about."""


@pytest.fixture(scope="module")
def server():
    with Server(("127.0.0.1", 0), Answers) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.mark.parametrize("path", ["/chest.png", "/chest.png?size=large", "/moved", "/chest.dcm", "/study"])
def test_addresses_are_fetched(server, path):
    file = io.BytesIO()
    save(make_dicom(DEEP, 12), file)
    read = read_input(server + path)
    expected = read_input(encode(DEEP) if "chest.png" in path or path == "/moved" else file.getvalue())
    assert read.name == server + path and read.pixels.dtype == np.uint16
    np.testing.assert_array_equal(read.pixels, expected.pixels)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nothing.png", "the server answers 404 Not Found; check the address"),
        ("/page", "no PNG, JPEG, TIFF, DICOM"),
        ("/packed", "no PNG, JPEG, TIFF, DICOM"),  # asked not to pack it; what is packed is not unpacked
    ],
)
def test_addresses_without_an_image_are_refused(server, path, reason):
    with pytest.raises(UnreadableImageError, match=reason) as refusal:
        read_input(server + path)
    assert str(refusal.value).startswith(server + path)


@pytest.mark.parametrize(
    ("limit", "value", "path", "reason"),
    [
        ("MAX_DOWNLOAD", 1000, "/chest.png", "more than the 1,000 bytes"),
        ("ANSWER_SECONDS", 0.2, "/silent", r"cannot be fetched \(ReadTimeout\)"),
        ("DOWNLOAD_SECONDS", 0.2, "/slow", "more than 0.2 s"),
    ],
)
def test_fetching_is_bounded(server, monkeypatch, limit, value, path, reason):
    monkeypatch.setattr(inputs, limit, value)
    with pytest.raises(UnreadableImageError, match=reason):
        read_input(server + path)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x.png", "HTTPS://127.0.0.1:9/x.png", "http://", "http://[/x"])
def test_addresses_that_cannot_be_reached_are_refused(address, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(
        UnreadableImageError, match="cannot be fetched .*; check the address and the network"
    ) as refusal:
        read_input(address)
    assert str(refusal.value).startswith(address)


def test_a_folder_s_images_are_found_by_suffix_or_as_dicom_without_one(tmp_path):
    (tmp_path / "study").mkdir()
    dicom = save(make_dicom(np.zeros((8, 8), np.uint8), 8), tmp_path / "study" / "IM000001")
    for name in ("1.2.840.10008.5", "scan.DCM", "a.JPG"):
        shutil.copy(dicom, tmp_path / "study" / name)
    for name in ("._a.jpg", ".hidden/b.png", "notes.txt", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    shutil.copy(dicom, tmp_path / "DICOMDIR")  # the index of a CD
    kinds = {"b.jfif": "JPEG", "c.BMP": "BMP", "d.webp": "WEBP", "e.png.download": "PNG", "f": "WEBP", "g.x": "BMP"}
    for name, kind in kinds.items():
        options = {"lossless": True} if kind == "WEBP" else {}
        (tmp_path / "study" / name).write_bytes(encode(chest(), kind, **options))
    found = [path.name for path in image_files_in(tmp_path)]
    assert found == sorted(["1.2.840.10008.5", "IM000001", "a.JPG", "scan.DCM", *kinds])
    for name in set(kinds) - {"b.jfif"}:
        np.testing.assert_array_equal(read_input(tmp_path / "study" / name).pixels[0], chest(), err_msg=name)
    assert read_input(tmp_path / "study" / "b.jfif").warnings == []
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "study").symlink_to(tmp_path / "study")
    (tmp_path / "links" / "up").symlink_to(tmp_path / "links")
    assert [path.name for path in image_files_in(tmp_path / "links")] == found


def test_a_picture_written_as_text_is_not_repeated():
    with pytest.raises(UnreadableImageError, match="is no path; give a picture as bytes") as caught:
        read_input("iVBORw0KGgo" * 1000)
    assert len(str(caught.value)) < 200
    with pytest.raises(UnreadableImageError, match="is no path"):
        read_input("")


@pytest.mark.parametrize(
    ("tags", "spacing"),
    [
        ({"PixelSpacing": [0.5, 0.25], "ImagerPixelSpacing": [0.6, 0.6]}, (0.5, 0.25)),
        ({"ImagerPixelSpacing": [0.6, 0.6]}, (0.6, 0.6)),
        ({"PixelSpacing": [0, 0.5], "ImagerPixelSpacing": [0.6, 0.6]}, (0.6, 0.6)),
        ({"PixelSpacing": [500, 500]}, None),  # micrometres
        ({"PixelSpacing": 0.5}, None),
        ({}, None),
    ],
)
def test_the_spacing_of_pixels_is_what_the_file_says(tmp_path, tags, spacing):
    path = save(make_dicom(np.zeros((80, 100), np.uint8), 8, **tags), tmp_path / "x.dcm")
    read = read_input(path)
    assert read.pixel_spacing == read_input(path.read_bytes()).pixel_spacing == spacing
    assert read_input(read) is read and input_name(read) == str(path)


def test_damaged_spacing_costs_the_spacing_alone(tmp_path):
    path = save(make_dicom(np.zeros((80, 100), np.uint8), 8, PixelSpacing=[0.5, 0.25]), tmp_path / "x.dcm")
    path.write_bytes(path.read_bytes().replace(b"0.5\\0.25", b"a.b\\c.de"))
    assert read_input(path).pixel_spacing is None and read_input(path).pixels.shape == (1, 80, 100)
