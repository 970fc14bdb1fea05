"""Hostile DICOM files and series."""

import functools
import io
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
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

from ark_hf.data.images.dicom import read_dicom_metadata
from ark_hf.data.inputs import read_input
from ark_hf.data.volumes.reading import read_volume
from tests.data.images.test_dicom import chest_like, encapsulated, lossless_jpeg, lut, make_dicom
from tests.data.volumes.made import ct, series

from . import MARKER
from .files import STEM, no_file, written
from .judging import Case
from .mutations import damaged

PEOPLE = {
    "PatientName": f"{MARKER}^Anna",
    "PatientID": MARKER,
    "PatientBirthDate": "19700101",
    "PatientAge": "055Y",
    "PatientSex": "F",
    "ViewPosition": "PA",
    "InstitutionName": MARKER,
    "PatientComments": MARKER * 3,
}
ODD = ["", "0", "-1", "nan", "1e308", "inf", "9" * 16, MARKER, "1\\2\\3\\4", "\\", "é", "MONOCHROME1", "\0"]


def _bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@functools.cache
def valid() -> list[bytes]:
    """Small files of every transfer syntax that is read, with someone's name in public and private tags."""
    eight, twelve = chest_like(np.uint8, 255), chest_like(np.uint16, 4000)
    more = {
        **PEOPLE,
        "WindowCenter": [40, 600],
        "WindowWidth": [400, 1500],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "PixelPaddingValue": 0,
        "PixelSpacing": [0.2, 0.2],
    }
    made = [
        make_dicom(twelve, 12, each, **more)
        for each in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
    ]
    made += [
        make_dicom(eight, 8, **PEOPLE, PhotometricInterpretation="MONOCHROME1", VOILUTSequence=[lut(0, 8, range(256))])
    ]
    rle = make_dicom(twelve, 12, **PEOPLE)
    rle.compress(RLELossless)
    streams = {}
    for name, picture in (("JPEG", eight), ("JPEG2000", twelve)):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, name)
        streams[name] = buffer.getvalue()
    packed = [
        encapsulated(eight, 8, JPEGBaseline8Bit, streams["JPEG"]),
        encapsulated(twelve, 16, JPEG2000Lossless, streams["JPEG2000"]),
        encapsulated(twelve, 16, JPEGLosslessSV1, lossless_jpeg(twelve)),
    ]
    for dataset in packed:
        for name, value in PEOPLE.items():
            setattr(dataset, name, value)
    for dataset in (*made, rle, *packed):
        block = dataset.private_block(0x0011, MARKER, create=True)
        block.add_new(1, "LO", MARKER)
    return [_bytes(dataset) for dataset in (*made, rle, *packed)]


def _element(group: int, number: int, vr: bytes, content: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF")
    return (
        struct.pack("<HH", group, number)
        + vr
        + (struct.pack("<HI", 0, size) if long else struct.pack("<H", size & 0xFFFF))
        + content
    )


@functools.cache
def _constructed() -> dict[str, bytes]:
    small = chest_like(np.uint16, 4000, 16)
    plain = _bytes(make_dicom(small, 12, **PEOPLE))
    pixels = plain.index(struct.pack("<HH", 0x7FE0, 0x0010))
    head = plain[:pixels]
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = _element(0x0008, 0x1140, b"SQ", b"", 0xFFFFFFFF)
    body = plain[132:]
    meta_end = body.index(b"\x08\x00\x16\x00") + 132
    deflater = zlib.compressobj(wbits=-15)
    bomb = b"".join([deflater.compress(plain[meta_end:]), deflater.compress(bytes(2**26)), deflater.flush()])
    deflated = make_dicom(small, 12, DeflatedExplicitVRLittleEndian, **PEOPLE)
    start = _bytes(deflated)
    claims = {"Rows": 65_535, "Columns": 65_535}
    return {
        "nested sequences": head + (sequence + item) * 5000,
        "nested sequences before": plain[:meta_end] + (sequence + item) * 3000 + plain[meta_end:],
        "pixels of 4 GB": head + _element(0x7FE0, 0x0010, b"OW", b"\0" * 64, 0xFFFFFFFE),
        "pixels without end": head + _element(0x7FE0, 0x0010, b"OW", b"\0" * 64, 0xFFFFFFFF),
        "claim": _bytes(make_dicom(small, 12, **PEOPLE, **claims)),
        "frames": _bytes(make_dicom(small, 12, **PEOPLE, NumberOfFrames=2**31 - 1)),
        "deflated bomb": start[:meta_end] + bomb,
        "text of 4 GB": plain[:meta_end] + _element(0x0008, 0x0070, b"UT", b"x", 0xFFFFFFFE) + plain[meta_end:],
        "claim of JPEG": _claim(valid()[-3]),
        "tables of 65,536": _bytes(make_dicom(small, 12, **PEOPLE, VOILUTSequence=[lut(0, 16, [0] * 65_535)] * 20)),
        "elements without end": plain[:meta_end]
        + _element(0x0009, 0x0010, b"LO", MARKER.encode()) * 100_000
        + plain[meta_end:],
    }


def _claim(content: bytes) -> bytes:
    at = content.index(b"\xff\xc0")
    return content[: at + 5] + b"\xff\xff\xff\xff" + content[at + 9 :]


def _tags(rng: Random) -> bytes:
    """A file in which some tags hold what they should not."""
    odd: list = [*ODD, [], None, 2**31, -(2**31), 0, 1, 65_535]
    names = """Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel NumberOfFrames
        PhotometricInterpretation WindowCenter WindowWidth RescaleSlope RescaleIntercept PixelPaddingValue PixelSpacing
        VOILUTFunction PresentationLUTShape PatientAge PatientSex ViewPosition PlanarConfiguration""".split()
    for _ in range(20):
        dataset = make_dicom(chest_like(np.uint16, 4000, 32), 12, **PEOPLE)
        try:
            for name in rng.sample(names, rng.choice((1, 1, 2, 4))):
                setattr(dataset, name, rng.choice(odd))
            return _bytes(dataset)
        except Exception:  # pydicom does not write all that others do
            continue
    return valid()[0]


def _content(rng: Random) -> tuple[str, bytes]:
    chance = rng.random()
    if chance < 0.03:
        name = rng.choice(list(_constructed()))
        return name, _constructed()[name]
    if chance < 0.25:
        return "tags", _tags(rng)
    content = rng.choice(valid())
    if chance < 0.4:  # the length or the kind of an element
        places = [
            at
            for at in range(132, len(content) - 8)
            if content[at + 4 : at + 6] in (b"US", b"DS", b"PN", b"LO", b"CS", b"OW", b"OB", b"SQ", b"IS")
        ]
        if places:
            at = rng.choice(places) + 4
            new = rng.choice(
                (b"SQ\0\0", b"UN\0\0", b"OW\0\0", b"PN\xff\xff", b"DS\0\0", b"SH\x00\x10", b"US\x01\0", b"\0\0\0\0")
            )
            return "element", content[:at] + new + content[at + 4 :]
    return damaged(rng, content, valid())


def make(rng: Random, folder: Path) -> Case:
    """A radiograph of DICOM: its picture, and what it says of age, sex and view."""
    if rng.random() < 0.02:
        return no_file(rng, folder, ".dcm", read_input)
    how, content = _content(rng)
    if rng.random() < 0.15:
        return Case(how, lambda: read_input(content))
    path = written(rng, folder, rng.choice((".dcm", ".dcm", "")), content)
    read = rng.choice((read_input, read_input, read_dicom_metadata))
    return Case(how, lambda: read(path), STEM)


def make_series(rng: Random, folder: Path) -> Case:
    """A folder of slices, some of them damaged or not of it."""
    place = folder / f"{STEM} series"
    odd = [None, *ODD[:-1], [1, 0, 0, 0, 1, 0], [0, 0, 0], [1e300, 0, 0], [float("nan")] * 6, [0, 0], 65_535]
    names = (
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
        "Rows",
        "Columns",
        "SeriesInstanceUID",
        "NumberOfFrames",
        "BitsStored",
        "PixelRepresentation",
    )
    how = rng.choice(("tag of one", "tag of all", "damage", "others", "claim"))
    paths = series(place, ct((5, 4, 4)), **PEOPLE)
    if how in ("tag of one", "tag of all"):
        name, value, only = rng.choice(names), rng.choice(odd), rng.randrange(4)
        try:
            paths = series(
                place,
                ct((5, 4, 4)),
                **PEOPLE,
                **{name: value if how == "tag of all" else lambda n, v=value: v if n == only else _usual(name, n)},
            )
        except Exception:  # as of single files
            how = "damage"
    if how == "damage":
        for path in rng.sample(paths, rng.randint(1, 3)):
            path.write_bytes(damaged(rng, path.read_bytes(), valid())[1])
    elif how == "others":
        paths[0].with_name("other.dcm").write_bytes(
            rng.choice((b"", b"x" * 200, valid()[0], *_constructed().values()))
        )
    elif how == "claim":
        for number in range(300):
            paths[0].with_name(f"copy{number}.dcm").symlink_to(paths[0].name)
    return Case(how, lambda: read_volume(place), STEM)


def _usual(name: str, number: int):
    usual = {
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [0, 0, number],
        "PixelSpacing": [1, 1],
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "Rows": 4,
        "Columns": 5,
        "SeriesInstanceUID": "1.2.826.7",
        "NumberOfFrames": 1,
        "BitsStored": 12,
        "PixelRepresentation": 0,
    }
    return usual[name]
