import logging
import random
import struct
import warnings
import zlib
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom import FileMetaDataset
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from ark_hf.data import dicom
from ark_hf.data.dicom import UnreadableImageError, read_radiograph

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
    np.testing.assert_array_equal(grey, np.rint(table[stored + 100] / 255 * 65535))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("width", [1, 2])
def test_lut_data_as_bytes(read, syntax, width):
    table = np.arange(16) * 17
    item = lut(0, 8 * width, [0] * 16)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    item.LUTData = table.astype(f"{order}u{width}").tobytes()
    item["LUTData"].VR = "OW"
    np.testing.assert_array_equal(read(RAMP, 12, syntax, VOILUTSequence=[item]), np.rint(RAMP / 15 * 65535))


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


def test_jpeg_lossless_needs_and_uses_the_extra(tmp_path):
    pytest.importorskip("libjpeg", reason='pip install "ark-hf[dicom]"')
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
    with pytest.raises(UnreadableImageError, match=r'JPEG Lossless.*pip install "ark-hf\[dicom\]"'):
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
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "x.bmp")
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "png.dcm", "PNG")
    reasons = {
        "missing.png": "no such file",
        "nul\0.png": "no such file",
        "x" * 5000: "cannot be read",
        "folder.png": "folder",
        "empty.png": "empty",
        "empty.dcm": "empty",
        "text.png": "no PNG, JPEG, TIFF or DICOM",
        "x.bmp": "no PNG, JPEG, TIFF or DICOM",
        "text.dcm": "no pixel data",
        "png.dcm": "no DICOM image",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnreadableImageError, match=reason) as caught:
            read_radiograph(tmp_path / name)
        assert name in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_truncated_pictures_are_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(path)
    content = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UnreadableImageError):
            read_radiograph(path)


def test_truncated_dicom_is_refused(tmp_path):
    path = save(make_dicom(chest_like(np.uint16, 4095), 12), tmp_path / "x.dcm")
    content = path.read_bytes()
    for size in (133, 200, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:size])
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
    for name, grey in {"8.png": byte, "16.png": word, "8.jpg": byte, "16.tif": word}.items():
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
    seeds = fuzz_seeds(folder)
    outcomes = {"read": 0, "refused": 0}
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dicom._silence_pydicom.cache_clear()
        for name, content in seeds.items():
            read_radiograph(folder / name)
            path = tmp_path / name
            for _ in range(50):
                path.write_bytes(mutate(content, chance))
                try:
                    grey = read_radiograph(path)
                    assert grey.ndim == 3 and grey.shape[0] == 1 and grey.dtype in (np.uint8, np.uint16) and grey.size
                    outcomes["read"] += 1
                except UnreadableImageError as refusal:
                    assert str(path) in str(refusal) and len(str(refusal)) > len(str(path)) + 20
                    assert "entinel" not in str(refusal)
                    outcomes["refused"] += 1
    assert min(outcomes.values()) > 50, outcomes
    said = caplog.text + "".join(capfd.readouterr()) + " ".join(str(warning.message) for warning in caught)
    assert "entinel" not in said


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
