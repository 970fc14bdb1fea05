"""Radiographs of 16 bits in several channels, as OpenCV and ImageJ write them: no bit is lost, however they come."""

import struct
import zlib
from io import BytesIO
from itertools import accumulate

import numpy as np
import pytest
from PIL import Image

from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.inputs import read_input
from ark_hf.data.radiograph import read_picture, read_radiograph
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor, ArkImageProcessorPil
from tests.wrong_inputs import chest

GREY = chest()[:, :120].astype(np.uint16) * 16 + 5  # twelve bits
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png(samples: np.ndarray, colour_type: int, interlaced: bool = False, **chunks: bytes) -> bytes:
    """A PNG of (H, W, C) with 16 bits a channel, each line as differences to the pixel on the left."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    lines = b""
    for top, left, down, right in ADAM7 if interlaced else ((0, 0, 1, 1),):
        for line in samples[top::down, left::right]:
            pixels = line.astype(">u2").view(np.uint8)
            lines += b"\1" + np.diff(pixels, axis=0, prepend=np.uint8(0)).tobytes()
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, interlaced)
    extra = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(samples: np.ndarray, order: str = "<", packed: bool = False, photometric: int = 2, **tags: int) -> bytes:
    """A TIFF of (H, W, C) of 16 bits, in strips of 50 lines; `tags` are by number, "t284"."""
    height, width, channels = samples.shape
    strips = [samples[top : top + 50].astype(f"{order}u2").tobytes() for top in range(0, height, 50)]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    bits_at = 8 + sum(map(len, strips))
    sizes_at = bits_at + 2 * channels
    starts_at = sizes_at + 4 * len(strips)
    starts = list(accumulate(map(len, strips[:-1]), initial=8))
    alone = len(strips) == 1  # then its place and size stand in the entries themselves
    entries = {
        256: (3, 1, width), 257: (3, 1, height), 258: (3, channels, bits_at), 259: (3, 1, 8 if packed else 1),
        262: (3, 1, photometric), 273: (4, len(strips), 8 if alone else starts_at), 277: (3, 1, channels),
        278: (3, 1, 50), 279: (4, len(strips), len(strips[0]) if alone else sizes_at),
        **{int(tag[1:]): (3, 1, value) for tag, value in tags.items()},
    }  # fmt: skip
    body = b"".join(strips) + struct.pack(f"{order}{channels}H", *[16] * channels)
    body += struct.pack(f"{order}{2 * len(strips)}I", *map(len, strips), *starts)
    directory = struct.pack(f"{order}H", len(entries))
    for tag, (kind, count, value) in sorted(entries.items()):
        form = "HHIHxx" if kind == 3 and count == 1 else "HHII"
        directory += struct.pack(order + form, tag, kind, count, value)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body))
    return start + body + directory + bytes(4)


def layers(grey: np.ndarray, kind: str) -> np.ndarray:
    opaque = [np.full_like(grey, 65535)] * ("A" in kind)
    return np.stack([grey] * (1 if kind.startswith("L") else 3) + opaque, axis=-1)


FILES = {
    **{f"{kind}.png": png(layers(GREY, kind), number) for kind, number in (("RGB", 2), ("RGBA", 6), ("LA", 4))},
    "interlaced.png": png(layers(GREY, "RGB"), 2, interlaced=True),
    "interlaced_LA.png": png(layers(GREY, "LA"), 4, interlaced=True),
    "little.tif": tiff(layers(GREY, "RGB")),
    "big.tif": tiff(layers(GREY, "RGB"), ">"),
    "little_packed.tif": tiff(layers(GREY, "RGB"), packed=True),
    "big_packed.tif": tiff(layers(GREY, "RGB"), ">", packed=True),
    "alpha.tif": tiff(layers(GREY, "RGBA"), t338=2),
    "alpha_packed.tif": tiff(layers(GREY, "RGBA"), packed=True, t338=2),
    "unused_channel.tif": tiff(layers(GREY, "RGBA"), t338=0),
}


@pytest.mark.parametrize("name", FILES)
def test_all_bits_are_read_however_the_picture_comes(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    np.testing.assert_array_equal(read_radiograph(tmp_path / name), GREY[None])
    np.testing.assert_array_equal(read_picture(BytesIO(FILES[name])), GREY[None])
    for source in (tmp_path / name, FILES[name], Image.open(tmp_path / name), Image.open(BytesIO(FILES[name]))):
        read = read_input(source)
        np.testing.assert_array_equal(read.pixels, GREY[None])
        assert read.warnings == []


def test_colours_become_their_luminance_and_are_doubted():
    tinted = np.stack([GREY, GREY, GREY * 0.7], axis=-1).astype(np.uint16)
    for content in (png(tinted, 2), tiff(tinted, packed=True)):
        read = read_input(content)
        np.testing.assert_allclose(read.pixels[0], tinted @ (0.299, 0.587, 0.114), atol=0.51)
        (doubt,) = read.warnings
        assert "in colour" in doubt


def test_eight_bits_stored_in_sixteen_are_read_as_the_eight_bit_file():
    colours = np.random.default_rng(0).integers(0, 256, (70, 80, 3), np.uint8)
    expected = read_input(Image.fromarray(colours)).pixels
    assert expected.dtype == np.uint8
    for content in (png(colours * np.uint16(257), 2), tiff(colours * np.uint16(257))):
        np.testing.assert_array_equal(read_input(content).pixels, expected)


def test_exif_turns_all_bits():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(np.rot90(GREY))
    for kind, number in (("RGB", 2), ("LA", 4)):
        content = png(layers(turned, kind), number, eXIf=exif.tobytes()[6:])
        np.testing.assert_array_equal(read_input(content).pixels[0], GREY)
    np.testing.assert_array_equal(read_input(tiff(layers(turned, "RGB"), t274=6)).pixels[0], GREY)


@pytest.mark.parametrize("factor", [256, 257, 16, 1])
def test_palettes_of_tiffs_keep_their_bits(tmp_path, factor):
    """The first two widen 8 bits, the third has 12; the last are 8 bits, which some tools leave so."""
    palette = Image.fromarray(chest()).convert("P")
    palette.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
    palette.save(tmp_path / "x.tif")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    with Image.open(tmp_path / "x.tif") as opened:
        stored = np.array(opened.tag_v2[320], "<u2").tobytes()
    place = content.index(stored)
    table = np.tile(np.arange(256, dtype="<u2") * factor, 3).tobytes()
    content[place : place + len(table)] = table
    read = read_input(bytes(content))
    indices = np.asarray(palette)
    assert read.pixels.dtype == (np.uint8 if factor > 255 else np.uint16) and read.warnings == []
    np.testing.assert_array_equal(read.pixels[0], indices if factor > 255 else indices.astype(np.uint16) * factor)


@pytest.mark.parametrize("processor_class", [ArkImageProcessor, ArkImageProcessorPil])
def test_image_processors_refuse_what_pillow_would_decode_without_its_lower_bits(tmp_path, processor_class):
    (tmp_path / "x.png").write_bytes(FILES["RGB.png"])
    for source in (str(tmp_path / "x.png"), Image.open(tmp_path / "x.png"), Image.open(BytesIO(FILES["big.tif"]))):
        with pytest.raises(ValueError, match="of 16 bits: pass what ark_hf.read_radiograph"):
            processor_class()(source)
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    processor_class()(str(tmp_path / "grey.png"))


@pytest.mark.parametrize(
    "content",
    [
        tiff(layers(GREY, "RGB"), t284=2),  # channel after channel
        tiff(layers(GREY, "RGBA"), packed=True, t338=1),  # multiplied by alpha
        tiff(layers(GREY, "RGBA"), photometric=5),  # for print
    ],
    ids=["planes", "premultiplied", "CMYK"],
)
def test_what_pillow_cannot_be_told_to_read_is_refused_with_the_reason(content):
    with pytest.raises(UnreadableImageError, match="its colours of 16 bits are stored in a way that is not read"):
        read_input(content)
