"""PNG files with colour profiles and texts of any size."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ark_hf.data.images.png_chunks import without_remarks
from ark_hf.data.inputs import read_input
from ark_hf.data.radiograph import read_radiograph
from tests.wrong_inputs import chest

LARGE = 5 * 2**20
NAMED = b"name\0\0"
CHUNKS = {
    "profile": (b"iCCP", NAMED + zlib.compress(bytes(LARGE))),
    "random profile": (b"iCCP", NAMED + zlib.compress(np.random.default_rng(0).bytes(2**21))),
    "packed text": (b"zTXt", NAMED + zlib.compress(bytes(LARGE))),
    "international text": (b"iTXt", b"name\0\1\0\0\0" + zlib.compress(bytes(LARGE))),
    "text": (b"tEXt", b"name\0" + b"x" * LARGE),
}


def encode(pixels: np.ndarray, *chunks: tuple[bytes, bytes], at: int = 33) -> bytes:
    """A PNG with these chunks behind the header, or at another place."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    made = b""
    for kind, content in chunks:
        made += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    plain = file.getvalue()
    return plain[:at] + made + plain[at:]


@pytest.mark.parametrize("name", CHUNKS)
def test_large_profiles_and_texts_do_not_matter(tmp_path, name):
    deep = chest().astype(np.uint16) * 16 + 3
    for pixels in (chest(), deep):
        content = encode(pixels, CHUNKS[name])
        (tmp_path / "x.png").write_bytes(content)
        np.testing.assert_array_equal(read_radiograph(tmp_path / "x.png")[0], pixels)
        np.testing.assert_array_equal(read_input(content).pixels[0], pixels)


def test_texts_behind_the_pixels_do_not_matter():
    private = (b"vpAg", b"kept")
    content = encode(chest(), private, CHUNKS["packed text"], CHUNKS["text"], at=-12)
    np.testing.assert_array_equal(read_input(content).pixels[0], chest())
    assert b"vpAg" in without_remarks(BytesIO(content)).read()


def test_what_says_how_the_picture_is_turned_is_kept():
    turned = np.ascontiguousarray(np.rot90(chest()))
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = exif.tobytes()
    text = f"\nexif\n{len(profile):8}\n{profile.hex()}\n".encode()
    for chunk in ((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)), (b"eXIf", profile[6:])):
        read = read_input(encode(turned, CHUNKS["profile"], chunk))
        np.testing.assert_array_equal(read.pixels[0], chest())


def test_files_without_remarks_and_other_files_are_left_as_they_are():
    for content in (encode(chest()), encode(chest())[:1000], b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff" + bytes(100)):
        file = BytesIO(content)
        assert without_remarks(file) is file and file.tell() == 0
