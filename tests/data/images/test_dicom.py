import contextlib
import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom import FileMetaDataset
from pydicom.config import IGNORE
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from ark_hf.data.images import dicom
from ark_hf.data.images.dicom import read_dicom_metadata
from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.inputs import read_input
from ark_hf.data.radiograph import read_radiograph

RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4)
PATIENT = "Sentinel^Patient"


def make_dicom(stored: np.ndarray, bits: int, syntax=ExplicitVRLittleEndian, **tags) -> Dataset:
    """A greyscale data set of native pixels; `tags` override or, when None, remove."""
    signed = stored.dtype.kind == "i"
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    dataset.PatientName, dataset.PatientID = PATIENT, "Sentinel-ID"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * stored.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    pixels = stored.astype(f"{order}{stored.dtype.kind}{stored.itemsize}").tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OB" if stored.itemsize == 1 else "OW"
    for name, value in tags.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    return dataset


def save(dataset: Dataset, path, **options):
    dataset.save_as(path, **{"enforce_file_format": True, **options})
    return path


@pytest.fixture
def read(tmp_path):
    """Makes a DICOM file of the arguments of `make_dicom` and reads it, without the channel axis."""
    return lambda *arguments, **tags: read_radiograph(save(make_dicom(*arguments, **tags), tmp_path / "x.dcm"))[0]


def lut(first: int, depth: int, table) -> Dataset:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(table), first, depth], list(table)
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    if first < 0:
        item["LUTDescriptor"].VR = "SS"
    return item


def encapsulated(stored: np.ndarray, bits: int, syntax, stream: bytes) -> Dataset:
    dataset = make_dicom(stored, bits, syntax)
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def lossless_jpeg(image: np.ndarray) -> bytes:
    """Process 14, predictor 1, 16 bits, with a Huffman table that gives each of 17 categories five bits."""
    rows, columns = image.shape
    header = b"\xff\xd8"
    header += b"\xff\xc4" + struct.pack(">HB16B", 19 + 17, 0, *(17 if n == 5 else 0 for n in range(1, 17)))
    header += bytes(range(17))
    header += b"\xff\xff\xc3" + struct.pack(">HBHHBBBB", 11, 16, rows, columns, 1, 1, 0x11, 0)  # one fill byte
    header += b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0)
    values = image.astype(int)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 1 << 15
    code = ""
    for difference in ((values - predicted + 32767) % 65536 - 32767).ravel().tolist():
        size = abs(difference).bit_length()
        code += f"{size:05b}"
        if 0 < size < 16:
            code += f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}"
    code += "1" * (-len(code) % 8)
    body = bytes(int(code[i : i + 8], 2) for i in range(0, len(code), 8)).replace(b"\xff", b"\xff\x00")
    return header + body + b"\xff\xd9"


def chest_like(dtype, top: int, size: int = 48) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    return ((0.5 + 0.3 * np.sin(7 * x) + 0.2 * np.cos(5 * y)) * top).astype(dtype)


# Real files


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("cr_mono1_10bit_440", np.uint16),
        ("siim_jpeg_mono2_1024", np.uint8),
        ("siim_jpeg_mono1_1024", np.uint8),  # negative as its tag says, and so is its preview
        ("nih_raw_mono2_1024", np.uint8),
        ("rg1_j2k_mono1_1955", np.uint16),
    ],
)
def test_real_radiographs_look_like_their_previews(shared, name, dtype):
    folder = shared / "realdata" / "dicom_samples"
    grey = read_radiograph(folder / "dicom" / f"{name}.dcm")
    assert grey.dtype == dtype and grey.ndim == 3 and grey.shape[0] == 1
    assert grey.max() > 0.9 * np.iinfo(dtype).max
    preview = Image.open(folder / "images" / f"{name}.jpg").convert("L")
    small = Image.fromarray((grey[0] / np.iinfo(dtype).max).astype(np.float32)).resize(
        preview.size, Image.Resampling.BOX
    )
    assert np.corrcoef(np.asarray(small).ravel(), np.asarray(preview).ravel())[0, 1] > 0.995


def test_tag_alone_turns_the_real_image_negative(shared):
    folder = shared / "realdata" / "dicom_samples" / "dicom"
    positive = read_radiograph(folder / "siim_jpeg_mono2_1024.dcm")
    np.testing.assert_array_equal(read_radiograph(folder / "siim_jpeg_mono1_1024.dcm"), 255 - positive)


@pytest.mark.parametrize(
    "kind", ["bigendian", "expb", "implicit", "padded", "RLE", "jp2klossless", "jpeg_ls_lossless"]
)
def test_every_transfer_syntax_of_one_image_gives_the_same_values(kind):
    if kind == "jpeg_ls_lossless":
        pytest.importorskip("libjpeg")
    reference, other = (get_testdata_file(f"MR_small{end}.dcm", download=False) for end in ("", f"_{kind}"))
    if not (reference and other):
        pytest.skip("this pydicom comes without its test files")
    np.testing.assert_array_equal(read_radiograph(other), read_radiograph(reference))


# Grey values of DICOM


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_eight_bits_stay_as_they_are(read, photometric):
    stored = RAMP.astype(np.uint8) * 20
    grey = read(stored, 8, PhotometricInterpretation=photometric)
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey, stored if photometric == "MONOCHROME2" else 255 - stored)


@pytest.mark.parametrize("bits", [10, 12, 15, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_deeper_images_are_stretched_over_what_occurs(tmp_path, bits, signed, syntax):
    lowest = -(2 ** (bits - 1)) if signed else 0
    stored = (RAMP.astype(int) * (2**bits // 16) + lowest).astype(np.int16 if signed else np.uint16)
    dataset = make_dicom(stored, bits, syntax)
    path = tmp_path / "x.dcm"
    dataset.save_as(path, enforce_file_format=True)
    grey = read_radiograph(path)
    assert grey.dtype == np.uint16 and grey.shape == (1, 3, 4)
    np.testing.assert_array_equal(grey[0], np.rint(RAMP / 11 * 65535))
    dataset.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_array_equal(read_radiograph(save(dataset, path))[0], np.rint((1 - RAMP / 11) * 65535))


def test_eight_stored_bits_in_sixteen_are_eight_bits(read):
    grey = read(RAMP, 8)
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey, RAMP)


def test_unused_high_bits_are_ignored(read):
    np.testing.assert_array_equal(read(RAMP | 0xA000, 12), read(RAMP, 12))


def test_one_bit_and_constant_images(read):
    np.testing.assert_array_equal(read(RAMP.astype(np.uint8) % 2, 1), RAMP % 2 * 255)
    assert not read(np.full((4, 4), 700, np.uint16), 12).any()


def test_window_follows_the_standard(read):
    stored = np.arange(0, 1200, 100, dtype=np.uint16).reshape(3, 4)
    window = {"WindowCenter": 500, "WindowWidth": 400}
    linear = np.clip((stored - 499.5) / 399 + 0.5, 0, 1)
    np.testing.assert_array_equal(read(stored, 12, **window), np.rint(linear * 65535))
    exact = np.clip((stored - 500.0) / 400 + 0.5, 0, 1)
    np.testing.assert_array_equal(read(stored, 12, VOILUTFunction="LINEAR_EXACT", **window), np.rint(exact * 65535))
    sigmoid = 1 / (1 + np.exp(-4 * (stored - 500.0) / 400))
    np.testing.assert_array_equal(read(stored, 12, VOILUTFunction="SIGMOID", **window), np.rint(sigmoid * 65535))
    inverted = read(stored, 12, PhotometricInterpretation="MONOCHROME1", **window)
    np.testing.assert_array_equal(inverted, np.rint((1 - linear) * 65535))


def test_window_of_one_is_a_threshold(read):
    grey = read(RAMP, 12, WindowCenter=5.5, WindowWidth=1)
    np.testing.assert_array_equal(grey, np.where(RAMP > 5, 65535, 32768 * (RAMP == 5)))


def test_first_of_several_windows_and_after_rescale(read):
    stored = RAMP * 100
    windows = {"WindowCenter": [0, 77], "WindowWidth": [1000, 1]}
    grey = read(stored, 12, RescaleSlope=2, RescaleIntercept=-1000, **windows)
    expected = np.clip((stored * 2.0 - 1000 + 0.5) / 999 + 0.5, 0, 1)
    np.testing.assert_array_equal(grey, np.rint(expected * 65535))


@pytest.mark.parametrize(
    "window", [{"WindowWidth": 0}, {"WindowWidth": -5}, {"WindowWidth": None}, {"WindowCenter": None}]
)
def test_senseless_or_half_windows_count_as_none(read, window):
    tags = {
        name: value for name, value in ({"WindowCenter": 5, "WindowWidth": 4} | window).items() if value is not None
    }
    np.testing.assert_array_equal(read(RAMP, 12, **tags), read(RAMP, 12))


def test_negative_slope_inverts(read):
    np.testing.assert_array_equal(read(RAMP, 12, RescaleSlope=-1, RescaleIntercept=0), read(RAMP, 12)[::-1, ::-1])
    eight = RAMP.astype(np.uint8)
    np.testing.assert_array_equal(read(eight, 8, RescaleSlope=-1, RescaleIntercept=255), 255 - eight)


@pytest.mark.parametrize("slope", ["1e308", "nan", "inf"])
def test_rescale_that_is_not_finite_is_refused(tmp_path, slope):
    path = save(make_dicom(RAMP * 100, 12, RescaleSlope="0000000", RescaleIntercept="0"), tmp_path / "x.dcm")
    path.write_bytes(path.read_bytes().replace(b"0000000 ", slope.encode().ljust(8)))
    with pytest.raises(UnreadableImageError, match="finite"):
        read_radiograph(path)


def test_modality_lut_comes_before_the_voi_lut(read):
    grey = read(
        RAMP, 12, ModalityLUTSequence=[lut(2, 16, [10, 20, 30])], VOILUTSequence=[lut(20, 12, range(0, 4096, 315))]
    )
    modality = np.array([10, 10, 10, 20] + 8 * [30])  # below the table its first entry, above its last
    expected = np.clip(modality - 20, 0, 12) * 315
    np.testing.assert_array_equal(grey.ravel(), np.rint(expected / 4095 * 65535))


@pytest.mark.parametrize("depth", [8, 12, 16])
@pytest.mark.parametrize("notation", ["SS", "US"])
def test_voi_lut_wins_over_the_window_and_may_start_below_zero(read, depth, notation):
    table = np.arange(300)[::-1] * 255 // 299
    stored = RAMP.astype(np.int16) * 20 - 100
    grey = read(
        stored,
        12,
        VOILUTSequence=[lut(-100 if notation == "SS" else 65436, depth, table.tolist())],
        WindowCenter=1,
        WindowWidth=1,
    )
    assert grey.dtype == np.uint8  # what the table makes of 12 bits has no more than 8
    np.testing.assert_array_equal(grey, table[stored + 100])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("width", [1, 2])
def test_lut_data_as_bytes(read, syntax, width):
    table = np.arange(16) * 17
    item = lut(0, 8 * width, [0] * 16)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    item.LUTData = table.astype(f"{order}u{width}").tobytes()
    item["LUTData"].VR = "OW"
    np.testing.assert_array_equal(read(RAMP, 12, syntax, VOILUTSequence=[item]), RAMP * 17)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_counts_for_nothing(read, photometric):
    stored = RAMP + 100
    stored[0] = 4000, 4001, 4002, 100
    tags = {"PhotometricInterpretation": photometric}
    grey = read(stored, 12, PixelPaddingValue=4002, PixelPaddingRangeLimit=4000, **tags)
    assert not grey[0, :3].any()
    brightness = (stored.astype(float) - 100) / 11
    brightness = 1 - brightness if photometric == "MONOCHROME1" else brightness
    np.testing.assert_array_equal(grey.ravel()[3:], np.rint(brightness.ravel()[3:] * 65535))


@pytest.mark.parametrize("vr", ["SS", "US"])
def test_negative_padding_in_either_notation(tmp_path, vr):
    stored = RAMP.astype(np.int16)
    stored[0, 0] = -2000
    dataset = make_dicom(stored, 16)
    dataset.add_new("PixelPaddingValue", vr, -2000 if vr == "SS" else 65536 - 2000)
    grey = read_radiograph(save(dataset, tmp_path / "x.dcm"))[0]
    np.testing.assert_array_equal(grey.ravel()[1:], np.rint(np.arange(11) / 10 * 65535))
    assert grey[0, 0] == 0


def test_image_of_padding_alone_is_refused(read):
    with pytest.raises(UnreadableImageError, match="nothing but padding"):
        read(np.full((4, 4), 9, np.uint16), 12, PixelPaddingValue=9)


# DICOM containers


def test_dicom_is_known_by_content_and_by_name(tmp_path):
    dataset = make_dicom(RAMP, 12, ImplicitVRLittleEndian)
    expected = read_radiograph(save(dataset, tmp_path / "no_suffix"))
    bare = BytesIO()
    dataset.save_as(bare, enforce_file_format=True)
    start = 144 + struct.unpack_from("<I", bare.getvalue(), 140)[0]
    for name in ("bare.dcm", "BARE.DICOM"):  # neither preamble nor file meta
        (tmp_path / name).write_bytes(bare.getvalue()[start:])
        np.testing.assert_array_equal(read_radiograph(str(tmp_path / name)), expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_lossless_compression_changes_nothing(tmp_path, bits):
    stored = chest_like(np.uint8 if bits == 8 else np.uint16, 2**bits - 1)
    expected = read_radiograph(save(make_dicom(stored, bits), tmp_path / "native.dcm"))
    dataset = make_dicom(stored, bits)
    dataset.compress(RLELossless)
    np.testing.assert_array_equal(read_radiograph(save(dataset, tmp_path / "rle.dcm")), expected)
    stream = BytesIO()
    Image.fromarray(stored).save(stream, "JPEG2000", no_jp2=True, irreversible=False)
    dataset = encapsulated(stored, bits, JPEG2000Lossless, stream.getvalue())
    np.testing.assert_array_equal(read_radiograph(save(dataset, tmp_path / "j2k.dcm")), expected)


def jpeg2000(stored: np.ndarray, **options) -> bytes:
    stream = BytesIO()
    Image.fromarray(stored).save(stream, "JPEG2000", no_jp2=True, **options)
    return stream.getvalue()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", ["RLE", "JPEG 2000", "JPEG", "JPEG-LS"])
def test_bits_above_those_stored_are_no_pixels_in_any_compression(tmp_path, monkeypatch, kind, signed):
    """Old systems keep overlays there."""
    values = chest_like(np.uint16, 4095)
    words = values - np.uint16(2048 * signed) & 0x0FFF
    words[3:9, :20] |= 0x1000
    words[20:30] |= 0x8000
    streams = {
        "JPEG 2000": (JPEG2000Lossless, lambda: jpeg2000(words, irreversible=False)),
        "JPEG": (JPEGLosslessSV1, lambda: lossless_jpeg(words)),
        "JPEG-LS": (JPEGLSLossless, lambda: lossless_jpeg(words)),
    }
    if kind == "JPEG":
        pytest.importorskip("libjpeg", reason="pip install pylibjpeg-libjpeg")
    if kind == "JPEG-LS":  # which nothing here writes
        decoded = words.view(np.int16) if signed else words
        monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *_, **__: decoded)
    if kind == "RLE":
        dataset = make_dicom(words, 16)
        dataset.compress(RLELossless)
    else:
        syntax, encode = streams[kind]
        dataset = encapsulated(words, 16, syntax, encode())
    tags = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(signed)}
    for name, value in tags.items():
        setattr(dataset, name, value)
    grey = read_radiograph(save(dataset, tmp_path / "x.dcm"))[0]
    low, high = float(values.min()), float(values.max())
    np.testing.assert_array_equal(grey, np.rint((values - low) / (high - low) * 65535))


def test_the_error_of_a_lossy_stream_does_not_wrap_round(tmp_path):
    stored = chest_like(np.uint16, 4095)
    stored[10:40, 10:40] = 4095
    stream = jpeg2000(stored, irreversible=True, quality_layers=[10])
    bright = slice(14, 36), slice(14, 36)
    assert np.asarray(Image.open(BytesIO(stream)))[bright].max() > 4095
    dataset = encapsulated(stored, 16, JPEG2000, stream)
    dataset.BitsStored, dataset.HighBit = 12, 11
    assert read_radiograph(save(dataset, tmp_path / "x.dcm"))[0][bright].min() > 0.9 * 65535


def test_jpeg_lossless_needs_and_uses_the_extra(tmp_path):
    pytest.importorskip("libjpeg", reason="pip install pylibjpeg-libjpeg")
    stored = chest_like(np.uint16, 65535)
    stored[0, :4] = 0, 65535, 32768, 0
    expected = read_radiograph(save(make_dicom(stored, 16), tmp_path / "native.dcm"))
    dataset = encapsulated(stored, 16, JPEGLosslessSV1, lossless_jpeg(stored))
    np.testing.assert_array_equal(read_radiograph(save(dataset, tmp_path / "jpeg.dcm")), expected)


def test_absent_decoder_names_the_extra(tmp_path, monkeypatch):
    def no_plugin(*_, **__):
        raise RuntimeError("all plugins are missing dependencies")

    monkeypatch.setattr("pydicom.pixels.pixel_array", no_plugin)
    stored = chest_like(np.uint16, 65535)
    path = save(encapsulated(stored, 16, JPEGLosslessSV1, lossless_jpeg(stored)), tmp_path / "x.dcm")
    with pytest.raises(UnreadableImageError, match="JPEG Lossless.*pip install pylibjpeg "):
        read_radiograph(path)


def jpeg_stream(stored: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(stored).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize("damage", ["cut", "larger", "empty", "other"])
@pytest.mark.parametrize("kind", ["baseline", "lossless", "jpeg2000"])
def test_damaged_streams_are_refused(tmp_path, monkeypatch, kind, damage):
    if kind == "baseline":
        stored = chest_like(np.uint8, 255)
        stream, syntax = jpeg_stream(stored), JPEGBaseline8Bit
    else:
        stored = chest_like(np.uint16, 65535)
        stream, syntax = lossless_jpeg(stored), JPEGLosslessSV1
    bits, size = 8 * stored.itemsize, struct.pack(">HH", *stored.shape)
    huge = struct.pack(">HH", 65000, 65000)
    if kind == "jpeg2000":
        buffer = BytesIO()
        Image.fromarray(stored).save(buffer, "JPEG2000", no_jp2=True)
        stream, syntax = buffer.getvalue(), JPEG2000Lossless
        size, huge = struct.pack(">II", *stored.shape), struct.pack(">II", 60000, 60000)
    assert size in stream
    stream = {
        "cut": stream[: len(stream) * 2 // 3],
        "larger": stream.replace(size, huge),
        "empty": b"\xff\xd8\xff\xd9",
        "other": b"not a picture at all",
    }[damage]
    if damage == "larger":  # some decoders would take gigabytes before they give up
        monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *_, **__: pytest.fail("decoded"))
    path = save(encapsulated(stored, bits, syntax, stream), tmp_path / "x.dcm")
    with pytest.raises(UnreadableImageError, match="damaged"):
        read_radiograph(path)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"NumberOfFrames": 2, "PixelData": bytes(48)}, "several frames"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "not greyscale"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not greyscale"),
        ({"PhotometricInterpretation": None}, "not greyscale"),
        ({"PixelData": None}, "no pixel data"),
        ({"BitsStored": 0}, "bits a pixel"),
        ({"BitsAllocated": 32, "PixelData": bytes(48)}, "bits a pixel"),
        ({"HighBit": 15}, "HighBit"),
        ({"Rows": 0}, "4 x 0 pixels"),
        ({"Rows": 65535, "Columns": 65535}, "65535 x 65535 pixels"),
        ({"PixelData": bytes(10)}, "cut short"),
        ({"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PixelData": bytes(72)}, "one sample"),
    ],
)
def test_unfit_data_sets_are_refused_with_the_reason(read, tags, reason):
    with pytest.raises(UnreadableImageError, match=f"x.dcm: .*{reason}"):
        read(RAMP, 12, **tags)


def test_deflated_data_sets_are_refused_before_they_unpack(tmp_path):
    path = save(make_dicom(RAMP, 12, DeflatedExplicitVRLittleEndian), tmp_path / "x.dcm")
    with pytest.raises(UnreadableImageError, match="deflated"):
        read_radiograph(path)


def test_no_more_is_asked_for_than_a_file_has_whatever_its_header_claims(tmp_path):
    """Python sets memory aside for all that is asked for, before it reads."""

    class Counted(BytesIO):
        def read(self, size=-1):
            asked.append(size)
            return super().read(size)

    plain = save(make_dicom(RAMP, 12), tmp_path / "x.dcm").read_bytes()
    at = plain.index(b"\xe0\x7f\x10\0OW") + 8
    for content in (
        plain[:at] + b"\xfe\xff\xff\xff" + plain[at + 4 :],
        plain[:300] + b"\x08\0\x70\0UT\0\0\xfe\xff\xff\xff",
    ):
        asked: list[int] = []
        with contextlib.suppress(Exception):
            dicom.read_tags(Counted(content), dicom.STORED_TAGS, with_pixels=True)
        assert asked and max(asked) <= len(content) and min(asked) >= 0


def test_truncated_dicom_is_refused(tmp_path):
    path = save(make_dicom(chest_like(np.uint16, 4095), 12), tmp_path / "x.dcm")
    content = path.read_bytes()
    for size in (133, 200, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:size])
        with pytest.raises(UnreadableImageError):
            read_radiograph(path)


def test_damage_that_swallows_the_patient_into_a_pixel_tag_stays_silent(tmp_path, caplog):
    path = save(make_dicom(RAMP, 12), tmp_path / "x.dcm")
    content = bytearray(path.read_bytes())
    length = content.index(b"\x02\x00\x10\x00UI") + 6  # of the transfer syntax
    content[length : length + 2] = struct.pack("<H", content.index(PATIENT.encode()) + 40 - length)
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dicom._silence_pydicom.cache_clear()
        with pytest.raises(UnreadableImageError) as refusal:
            read_radiograph(path)
    assert "entinel" not in caplog.text + str(refusal.value) + str([str(warning.message) for warning in caught])


# Age, sex and view


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("045Y", 45.0),
        ("62", 62.0),
        ("000Y", 0.0),
        ("006M", 0.5),
        ("003W", 21 / 365.25),
        ("010D", 10 / 365.25),
        ("999D", 999 / 365.25),
        ("120Y", 120.0),
        ("121Y", None),
        ("-45Y", None),
        ("45.5", None),
        ("Y", None),
        ("", None),
        (None, None),
    ],
)
def test_age_comes_in_years(tmp_path, text, age):
    path = save(make_dicom(RAMP, 12, PatientAge="") if text is None else make_dicom(RAMP, 12), tmp_path / "x.dcm")
    if text is not None:
        dataset = make_dicom(RAMP, 12)
        dataset.add(DataElement("PatientAge", "AS", text, validation_mode=IGNORE))
        save(dataset, path)
    assert read_dicom_metadata(path, ["age"]) == {"age": pytest.approx(age)}


def test_sex_and_view_are_known_words_or_none(tmp_path):
    for tags, expected in (
        ({"PatientSex": "F", "ViewPosition": "PA"}, {"sex": "F", "view": "PA"}),
        ({"PatientSex": "M", "ViewPosition": "LL"}, {"sex": "M", "view": "lateral"}),
        ({"PatientSex": "O", "ViewPosition": "POLTER"}, {"sex": None, "view": None}),
        ({"PatientSex": "", "ViewPosition": ["PA", "AP"]}, {"sex": None, "view": None}),
        ({}, {"sex": None, "view": None}),
    ):
        path = save(make_dicom(RAMP, 12, **tags), tmp_path / "x.dcm")
        assert read_dicom_metadata(path, ("sex", "view")) == expected
        assert read_dicom_metadata(path) == expected | {"age": None}
        assert read_dicom_metadata(path, ()) == {}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cr_mono1_10bit_440", {"age": None, "sex": None, "view": "PA"}),
        ("siim_jpeg_mono2_1024", {"age": 62.0, "sex": "M", "view": "PA"}),
        ("nih_raw_mono2_1024", {"age": 81.0, "sex": "M", "view": None}),
        ("rg1_j2k_mono1_1955", {"age": None, "sex": "F", "view": "PA"}),
    ],
)
def test_metadata_of_real_radiographs(shared, name, expected):
    assert read_dicom_metadata(shared / "realdata" / "dicom_samples" / "dicom" / f"{name}.dcm") == expected


def test_no_other_tag_can_be_asked_for(tmp_path):
    path = save(make_dicom(RAMP, 12), tmp_path / "x.dcm")
    for field in ("PatientName", "patient_id", "Age"):
        with pytest.raises(ValueError, match="asked for .* alone"):
            read_dicom_metadata(path, ["age", field])


def test_a_name_that_stands_in_another_tag_does_not_get_out(tmp_path, caplog):
    tags = {"PatientSex": PATIENT.upper()[:15], "ViewPosition": "SENTINEL"}
    path = save(make_dicom(RAMP, 12, **tags), tmp_path / "x.dcm")
    assert read_dicom_metadata(path) == {"age": None, "sex": None, "view": None}
    assert "entinel" not in caplog.text


def test_metadata_of_what_is_no_dicom_is_refused(tmp_path):
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "x.png")
    save(make_dicom(RAMP, 12, DeflatedExplicitVRLittleEndian, PatientSex="F"), tmp_path / "deflated.dcm")
    (tmp_path / "empty.dcm").touch()
    for name, reason in {
        "x.png": "no DICOM",
        "deflated.dcm": "deflated",
        "empty.dcm": "empty",
        "-": "no such",
    }.items():
        with pytest.raises(UnreadableImageError, match=f"{name}: .*{reason}"):
            read_dicom_metadata(tmp_path / name)


@pytest.mark.parametrize("said, told", [("YES", True), ("NO", False), ("", False), (None, False)])
def test_text_that_is_burned_in_is_told(tmp_path, said, told):
    tags = {} if said is None else {"BurnedInAnnotation": said}
    read = read_input(save(make_dicom(RAMP, 12, **tags), tmp_path / "x.dcm"))
    assert any("burned into its pixels" in each for each in read.warnings) == told
