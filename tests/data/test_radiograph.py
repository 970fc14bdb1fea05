import gc
import logging
import random
import struct
import tracemalloc
import warnings
import zlib
from contextlib import suppress
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, RLELossless

from ark_hf.data.images import dicom
from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.radiograph import read_picture, read_radiograph
from ark_hf.files import printable

from .images.test_deep_colour import layers, png, tiff
from .images.test_dicom import RAMP, chest_like, encapsulated, jpeg_stream, lossless_jpeg, lut, make_dicom, save
from .images.test_metaimage import metaimage

# PNG, JPEG, TIFF


MODES = {
    "png": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "tif": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"],
    "jpg": ["L", "RGB", "CMYK"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix in MODES for mode in MODES[suffix]])
def test_pictures_become_eight_bit_luminance(tmp_path, suffix, mode):
    red_green = np.zeros((16, 16, 3), np.uint8)
    red_green[:8, :, 0] = 200
    red_green[8:, :, 1] = 200
    picture = Image.fromarray(red_green).convert("RGBA" if mode == "LA" else "RGB").convert(mode)
    path = tmp_path / f"x.{suffix}"
    picture.save(path)
    grey = read_radiograph(path)
    assert grey.shape == (1, 16, 16) and grey.dtype == np.uint8
    if mode == "1":
        assert set(np.unique(grey)) <= {0, 255}
    else:
        assert abs(int(grey[0, 0, 0]) - 60) <= 3 and abs(int(grey[0, -1, -1]) - 117) <= 3


def test_grey_pictures_keep_their_values(tmp_path):
    grey = chest_like(np.uint8, 255)
    for mode in ("L", "RGB"):
        Image.fromarray(grey).convert(mode).save(tmp_path / "x.png")
        np.testing.assert_array_equal(read_radiograph(tmp_path / "x.png")[0], grey)


@pytest.mark.parametrize("top", [200, 1023, 4095, 65535])
def test_sixteen_bits_are_not_clipped(tmp_path, top):
    deep = chest_like(np.uint16, top)
    deep[0, 0] = top
    options: dict[str, dict] = {"x.png": {}, "x.tif": {}, "lzw.tif": {"compression": "tiff_lzw"}}
    for name, option in options.items():
        Image.fromarray(deep).save(tmp_path / name, **option)
    Image.fromarray(deep.astype(">u2")).save(tmp_path / "big_endian.tif")
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "32.tif")
    for name in [*options, "big_endian.tif", "32.tif"]:
        read = read_radiograph(tmp_path / name)
        assert read.dtype == np.uint16, name
        np.testing.assert_array_equal(read[0], deep, err_msg=name)


def test_eight_bits_stored_in_sixteen_come_back_as_eight(tmp_path):
    grey = chest_like(np.uint8, 255)
    widened = grey.astype(np.uint16) * 257
    Image.fromarray(widened).save(tmp_path / "x.png")
    Image.fromarray(widened).save(tmp_path / "x.tif")
    Image.fromarray(grey / np.float32(255)).save(tmp_path / "float.tif")
    (tmp_path / "x.mha").write_bytes(metaimage(widened, "MET_USHORT"))
    whole_range = {"WindowCenter": 32768, "WindowWidth": 65536}
    save(make_dicom(widened, 16, **whole_range), tmp_path / "x.dcm")
    save(make_dicom(65535 - widened, 16, PhotometricInterpretation="MONOCHROME1", **whole_range), tmp_path / "1.dcm")
    for name in ("x.png", "x.tif", "float.tif", "x.mha", "x.dcm", "1.dcm"):
        read = read_radiograph(tmp_path / name)
        assert read.dtype == np.uint8, name
        np.testing.assert_array_equal(read[0], grey, err_msg=name)
    with open(tmp_path / "x.png", "rb") as file:
        np.testing.assert_array_equal(read_picture(file)[0], grey)

    widened[5, 5] += 1
    Image.fromarray(widened).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_radiograph(tmp_path / "x.png")[0], widened)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_tiffs_are_inverted(tmp_path, dtype):
    top = 255 if dtype == np.uint8 else 4095
    stored = chest_like(dtype, top)
    stored[0, :2] = 0, top
    Image.fromarray(stored).save(tmp_path / "x.tif")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    content[content.index(struct.pack("<HHI", 262, 3, 1)) + 8] = 0  # PhotometricInterpretation
    (tmp_path / "x.tif").write_bytes(content)
    np.testing.assert_array_equal(read_radiograph(tmp_path / "x.tif")[0], top - stored)


def test_float_tiffs_in_the_unit_range_are_scaled_others_refused(tmp_path):
    unit = chest_like(np.float32, 1)
    Image.fromarray(unit).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(read_radiograph(tmp_path / "x.tif")[0], np.rint(unit * 65535))
    for bad in (unit * 300, unit - 1, np.where(unit > 0.5, np.nan, unit)):
        Image.fromarray(bad.astype(np.float32)).save(tmp_path / "x.tif")
        with pytest.raises(UnreadableImageError, match="float values"):
            read_radiograph(tmp_path / "x.tif")


def test_values_beyond_sixteen_bits_are_refused(tmp_path):
    for value in (-1, 70000):
        Image.fromarray(np.full((4, 4), value, np.int32)).save(tmp_path / "x.tif")
        with pytest.raises(UnreadableImageError, match="0..65535"):
            read_radiograph(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("suffix", "deep"), [("jpg", False), ("png", False), ("png", True), ("tif", False), ("tif", True)]
)
def test_exif_orientation_is_respected(tmp_path, suffix, deep):
    upright = np.zeros((16, 32), np.uint16 if deep else np.uint8)
    upright[:8, :16] = 60000 if deep else 240
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for display
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / f"x.{suffix}", exif=exif)
    grey = read_radiograph(tmp_path / f"x.{suffix}")[0]
    assert grey.shape == (16, 32)
    np.testing.assert_array_equal(grey > grey.max() / 2, upright > 0)


def test_several_pages_are_refused(tmp_path):
    pages = [Image.fromarray(chest_like(np.uint8, 255)) for _ in range(2)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UnreadableImageError, match="several pages"):
        read_radiograph(tmp_path / "x.tif")


# What is no image


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "text.dcm").write_text("hello, this is text " * 50)
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "x.gif")
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "png.dcm", "PNG")
    reasons = {
        "missing.png": "no such file",
        "nul\0.png": "no such file",
        "x" * 5000: "cannot be read",
        "folder.png": "folder",
        "empty.png": "empty",
        "empty.dcm": "empty",
        "text.png": "no PNG, JPEG, TIFF, DICOM",
        "x.gif": "no PNG, JPEG, TIFF, DICOM",
        "text.dcm": "no pixel data",
        "png.dcm": "no DICOM image",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnreadableImageError, match=reason) as caught:
            read_radiograph(tmp_path / name)
        assert printable(name) in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_truncated_pictures_are_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(path)
    content = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UnreadableImageError):
            read_radiograph(path)


@pytest.mark.parametrize("side", [9000, 65000])
def test_decompression_bombs_are_refused_unopened(tmp_path, side):
    Image.new("1", (side, side) if side < 10000 else (64, 64)).save(tmp_path / "x.png")
    content = bytearray((tmp_path / "x.png").read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="claims"):
        read_radiograph(tmp_path / "x.png")


def fuzz_seeds(folder) -> dict[str, bytes]:
    """One small valid file of each kind that readers treat differently."""
    byte, word = chest_like(np.uint8, 255), chest_like(np.uint16, 4095)
    pictures = {"8.png": byte, "16.png": word, "8.jpg": byte, "16.tif": word, "8.bmp": byte, "8.webp": byte}
    for name, grey in pictures.items():
        Image.fromarray(grey).save(folder / name)
    Image.fromarray(word).save(folder / "lzw.tif", compression="tiff_lzw")
    save(make_dicom(word, 12, WindowCenter=2000, WindowWidth=[3000], PixelPaddingValue=0), folder / "native.dcm")
    luts = {"ModalityLUTSequence": [lut(0, 16, range(300))], "VOILUTSequence": [lut(0, 8, range(256))]}
    save(make_dicom(word, 12, ImplicitVRLittleEndian, **luts), folder / "luts.dcm")
    rle = make_dicom(word, 12)
    rle.compress(RLELossless)
    save(rle, folder / "rle.dcm")
    save(encapsulated(byte, 8, JPEGBaseline8Bit, jpeg_stream(byte)), folder / "jpeg.dcm")
    if find_spec("libjpeg"):
        save(encapsulated(word, 16, JPEGLosslessSV1, lossless_jpeg(word)), folder / "lossless.dcm")
    stream = BytesIO()
    Image.fromarray(word).save(stream, "JPEG2000", no_jp2=True)
    save(encapsulated(word, 16, JPEG2000Lossless, stream.getvalue()), folder / "j2k.dcm")
    (folder / "deep.png").write_bytes(png(layers(word, "RGB"), 2))
    (folder / "deep.tif").write_bytes(tiff(layers(word, "RGBA"), packed=True, t338=2))
    (folder / "raw.mha").write_bytes(metaimage(byte, "MET_UCHAR"))
    (folder / "zlib.mha").write_bytes(metaimage(word, "MET_SHORT", compressed=True))
    (folder / "float.mha").write_bytes(metaimage(word / 7, "MET_FLOAT", msb=True))
    (folder / "slice.mha").write_bytes(metaimage(word[None], "MET_INT"))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def mutate(content: bytes, chance: random.Random) -> bytes:
    mutant = bytearray(content)
    region = chance.choice([400, 1200, len(mutant)])  # headers are where damage matters
    for _ in range(chance.choice([1, 3, 20])):
        mutant[chance.randrange(min(region, len(mutant)))] = chance.choice([0, 1, 127, 255, chance.randrange(256)])
    at = chance.randrange(len(mutant))
    match chance.randrange(5):
        case 0:
            del mutant[at:]
        case 1:
            del mutant[at : at + chance.randrange(40)]
        case 2:
            mutant[at:at] = chance.randbytes(chance.randrange(40))
    return bytes(mutant)


def test_mutated_files_are_read_or_refused_and_name_no_patient(tmp_path, caplog, capfd):
    chance = random.Random(4)
    folder = tmp_path / "seeds"
    folder.mkdir()
    outcomes = {"read": 0, "refused": 0}
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dicom._silence_pydicom.cache_clear()
        for name, content in fuzz_seeds(folder).items():
            read_radiograph(folder / name)
            path = tmp_path / name
            for _ in range(70):
                path.write_bytes(mutate(content, chance))
                try:
                    grey = read_radiograph(path)
                    assert grey.ndim == 3 and grey.shape[0] == 1 and grey.dtype in (np.uint8, np.uint16) and grey.size
                    outcomes["read"] += 1
                except UnreadableImageError as refusal:
                    assert str(path) in str(refusal) and len(str(refusal)) > len(str(path)) + 20
                    assert "entinel" not in str(refusal)
                    outcomes["refused"] += 1
    assert sum(outcomes.values()) >= 1000 and min(outcomes.values()) > 100, outcomes
    said = caplog.text + "".join(capfd.readouterr()) + " ".join(str(warning.message) for warning in caught)
    assert "entinel" not in said and "unclosed" not in said


@pytest.mark.slow_ci
@pytest.mark.filterwarnings("ignore")  # of the codecs
def test_reading_and_refusing_keeps_no_memory(tmp_path):
    chance = random.Random(5)
    folder = tmp_path / "seeds"
    folder.mkdir()
    seeds = fuzz_seeds(folder)
    mutants = [folder / f"{number}-{name}" for name in seeds for number in range(8)]
    for path in mutants:
        path.write_bytes(mutate(seeds[path.name.partition("-")[2]], chance))
    kept = []
    tracemalloc.start()
    for _ in range(3):
        for path in mutants:
            with suppress(UnreadableImageError):
                read_radiograph(path)
        gc.collect()
        kept.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert kept[2] - kept[1] < 50_000, kept
