"""MetaImage files as ITK writes them: their grey values, and what is refused."""

import zlib

import numpy as np
import pytest

from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.images.metaimage import ELEMENT_TYPES
from ark_hf.data.radiograph import read_radiograph

RAMP = np.arange(35).reshape(5, 7)


def metaimage(values: np.ndarray, kind: str, compressed=False, msb=False, **replaced: str | None) -> bytes:
    """A file as SimpleITK lays it out; `replaced` overrides lines or, when None, leaves them out."""
    dtype = np.dtype(ELEMENT_TYPES[kind]).newbyteorder(">" if msb else "<")
    pixels = values.astype(dtype).tobytes()
    pixels = zlib.compress(pixels) if compressed else pixels
    lines: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": str(values.ndim),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": str(msb),
        "CompressedData": str(compressed),
        "CompressedDataSize": str(len(pixels)) if compressed else None,
        "TransformMatrix": "1 0 0 1",
        "ElementSpacing": "0.2 0.2",
        "PatientName": "Sentinel^Patient",
        "DimSize": " ".join(map(str, values.shape[::-1])),
        "AnatomicalOrientation": "??",
        "ElementType": kind,
        **replaced,
        "ElementDataFile": replaced.get("ElementDataFile", "LOCAL"),
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None).encode() + pixels


@pytest.fixture
def read(tmp_path):
    """Reads a file of the given content, without the channel axis."""

    def read(content: bytes, name: str = "x.mha") -> np.ndarray:
        (tmp_path / name).write_bytes(content)
        grey = read_radiograph(tmp_path / name)
        assert grey.shape[0] == 1
        return grey[0]

    return read


@pytest.mark.parametrize("kind", [kind for kind in ELEMENT_TYPES if kind != "MET_CHAR"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("msb", [False, True])
def test_whole_numbers_keep_their_values(read, kind, compressed, msb):
    grey = read(metaimage(RAMP, kind, compressed, msb))
    assert grey.dtype == (np.uint8 if kind == "MET_UCHAR" else np.uint16)
    np.testing.assert_array_equal(grey, RAMP)
    if kind not in ("MET_UCHAR", "MET_SHORT"):
        np.testing.assert_array_equal(read(metaimage(RAMP + 65501, kind, compressed, msb)), RAMP + 65501)


def test_signed_bytes_are_shifted_up(read):
    np.testing.assert_array_equal(read(metaimage(RAMP - 20, "MET_CHAR")), (RAMP + 108).astype(np.uint8))


@pytest.mark.parametrize("kind", ["MET_SHORT", "MET_INT", "MET_LONG_LONG", "MET_FLOAT", "MET_DOUBLE"])
def test_other_values_are_stretched_over_those_that_occur(read, kind):
    grey = read(metaimage(RAMP * 100 - 1000, kind))
    np.testing.assert_array_equal(grey, np.rint(RAMP / 34 * 65535))
    assert grey.dtype == np.uint16
    assert not read(metaimage(np.full((3, 3), -4), kind)).any()


def test_fractions_and_large_numbers_are_stretched(read):
    np.testing.assert_allclose(read(metaimage(RAMP / 40, "MET_FLOAT")), RAMP / 34 * 65535, atol=0.51)
    np.testing.assert_array_equal(read(metaimage(RAMP + 65502, "MET_INT")), np.rint(RAMP / 34 * 65535))


def test_single_slice_of_three_dimensions(read):
    np.testing.assert_array_equal(read(metaimage(RAMP[None], "MET_SHORT")), RAMP)


def test_known_by_content_and_by_name(read):
    content = metaimage(RAMP, "MET_SHORT")
    for name in ("no_suffix", "x.png", "X.MHA", "x.mhd"):
        np.testing.assert_array_equal(read(content, name), RAMP)
    np.testing.assert_array_equal(read(b"Comment = any\r\n" + content.replace(b"\n", b"\r\n", 5)), RAMP)


def test_old_byte_order_key_and_keys_in_any_case(read):
    content = metaimage(RAMP, "MET_SHORT", msb=True)
    np.testing.assert_array_equal(read(content.replace(b"BinaryDataByteOrderMSB", b"ElementByteOrderMSB")), RAMP)
    np.testing.assert_array_equal(read(content.replace(b"DimSize = ", b"dimsize=")), RAMP)


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ({"ElementDataFile": "../x.raw"}, "another file"),
        ({"ElementDataFile": "LIST"}, "another file"),
        ({"BinaryData": "False"}, "as text"),
        ({"ElementNumberOfChannels": "3"}, "several channels"),
        ({"NDims": "3"}, "names no size"),
        ({"NDims": None}, "names no size"),
        ({"DimSize": None}, "names no size"),
        ({"DimSize": "7"}, "names no size"),
        ({"DimSize": "7 x"}, "names no size"),
        ({"DimSize": "-7 -5"}, "names no size"),
        ({"NDims": "3", "DimSize": "7 1 5"}, "several slices"),
        ({"DimSize": "0 5"}, "0 x 5 pixels"),
        ({"DimSize": "999999999 999999999"}, "999999999 x 999999999 pixels"),
        ({"DimSize": "7 6"}, "cut short"),
        ({"DimSize": "7 4"}, "not as many"),
        ({"ElementType": "MET_STRING"}, "ElementType is none of"),
        ({"ElementType": None}, "ElementType is none of"),
        ({"CompressedData": "True"}, "damaged"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(read, replaced, reason):
    with pytest.raises(UnreadableImageError, match=f"x.mha: .*{reason}") as refusal:
        read(metaimage(RAMP, "MET_SHORT", **replaced))
    assert "Sentinel" not in str(refusal.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(read, value):
    with pytest.raises(UnreadableImageError, match="not finite"):
        read(metaimage(np.where(RAMP == 3, value, RAMP), "MET_FLOAT"))
    with pytest.raises(UnreadableImageError, match="differ too much"):
        read(metaimage(np.where(RAMP == 3, 1e308, -1e308), "MET_DOUBLE"))


def test_headers_without_an_end_are_refused(read):
    for content in (
        b"ObjectType = Image\n",
        b"ObjectType = Image\n" * 10_000,
        b"ObjectType = " + b"x" * 10**6,
        b"ObjectType\nElementDataFile = LOCAL\n",
        bytes(1000),
    ):
        with pytest.raises(UnreadableImageError, match="no MetaImage header"):
            read(content)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_files_are_refused(read, share, compressed):
    noise = np.random.default_rng(0).integers(0, 4096, (40, 40))
    content = metaimage(noise, "MET_USHORT", compressed)
    with pytest.raises(UnreadableImageError):
        read(content[: int(len(content) * share)])


def test_inflation_stops_at_the_size_that_is_announced(read, monkeypatch):
    asked = []
    inflater = zlib.decompressobj(wbits=47)

    class Watched:
        def decompress(self, content, limit):
            asked.append(limit)
            return inflater.decompress(content, limit)

    monkeypatch.setattr("ark_hf.data.images.metaimage.zlib.decompressobj", lambda wbits: Watched())
    bomb = metaimage(np.zeros((5, 7)), "MET_UCHAR", True, DimSize="5 5")
    with pytest.raises(UnreadableImageError, match="not as many"):
        read(bomb)
    assert asked == [26]
