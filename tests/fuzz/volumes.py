"""Hostile volumes: NIfTI and MetaImage, the latter of single slices too."""

import functools
import gzip
import struct
import zlib
from pathlib import Path
from random import Random

import nibabel
import numpy as np

from ark_hf.data.inputs import read_input
from ark_hf.data.volumes.nifti import stored_volume
from ark_hf.data.volumes.reading import read_volume
from tests.data.volumes.made import affine, ct, metaimage, nifti

from . import MARKER
from .files import STEM, no_file, plant_secret, written
from .judging import Case
from .mutations import TOKENS, damaged, damaged_text

FIELDS = {"descrip": MARKER, "db_name": MARKER, "intent_name": MARKER, "aux_file": MARKER}


@functools.cache
def valid() -> list[bytes]:
    voxels = ct((6, 5, 4)).voxels
    kinds = [nifti(voxels.astype(kind), **FIELDS) for kind in ("i2", "u1", "f4", "f8", "i4", "u2", ">i2")]
    second = nibabel.Nifti2Image(voxels, affine())
    second.header["descrip"] = MARKER
    return [*kinds, second.to_bytes(), nifti(voxels, scl_slope=2, scl_inter=-1024, **FIELDS)]


@functools.cache
def _zeros() -> bytes:
    """64 MB of zeros as a gzip member."""
    return gzip.compress(bytes(2**26), 6)


def _header(rng: Random, content: bytes) -> bytes:
    """A number of the header that is wrong."""
    numbers = [0, 1, -1, 2, 7, 8, 512, 32_767, -32_768, 16, 64, 128, 1792, 2304]
    floats = [0.0, -1.0, float("nan"), float("inf"), 1e38, 1e-40, 352.0, 1e9, -352.0]
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.6:
            at = rng.choice((40, 42, 44, 46, 48, 50, 54, 68, 70, 72, 252, 254))
            struct.pack_into("<h", result, at, rng.choice(numbers))
        else:
            at = rng.choice((76, 80, 84, 88, 108, 112, 116, 256, 260, 264, 268, 280, 284, 296, 300, 312, 320))
            struct.pack_into("<f", result, at, rng.choice(floats))
    return bytes(result)


def _bomb(rng: Random) -> tuple[str, bytes]:
    head = bytearray(nifti(np.zeros((2, 2, 2), np.int16), **FIELDS)[:352])
    sides = rng.choice(((32_767, 32_767, 32_767), (1200, 1200, 1200), (512, 512, 128), (2, 2, 2)))
    struct.pack_into("<3h", head, 42, *sides)
    return f"bomb of {' x '.join(map(str, sides))}", gzip.compress(bytes(head), 1) + _zeros() * rng.choice((1, 1, 8))


def make_nifti(rng: Random, folder: Path) -> Case:
    """A NIfTI file, packed or not, from a file or from a dataset's cell."""
    if rng.random() < 0.02:
        return no_file(rng, folder, rng.choice((".nii", ".nii.gz")), read_volume)
    content, chance = rng.choice(valid()), rng.random()
    if chance < 0.02:
        how, content = _bomb(rng)
    elif chance < 0.5:
        how, content = "header", _header(rng, content)
    else:
        how, content = damaged(rng, content, valid())
    if chance > 0.02 and rng.random() < 0.4:
        content = gzip.compress(content, 1)
        if rng.random() < 0.5:
            how, content = f"packed {how}", damaged(rng, content)[1]
    if rng.random() < 0.15:
        return Case(how, lambda: stored_volume({"bytes": content, "path": MARKER}))
    path = written(rng, folder, rng.choice((".nii", ".nii.gz")), content)
    return Case(how, lambda: read_volume(path), STEM)


@functools.cache
def _metaimages() -> list[bytes]:
    more = {"Comment": MARKER, "Name": MARKER, "PatientName": MARKER}
    volume = ct((6, 5, 4))
    files = [metaimage(volume, **more), metaimage(volume, CompressedData="True", **more)]
    head, _, voxels = files[1].partition(b"LOCAL\n")
    files[1] = head + b"LOCAL\n" + zlib.compress(voxels)
    slice_ = files[0].replace(b"NDims = 3", b"NDims = 2").replace(b"DimSize = 6 5 4", b"DimSize = 12 10")
    return [*files, slice_, metaimage(volume, "MET_FLOAT", **more)]


def _metaimage(rng: Random, folder: Path) -> tuple[str, bytes]:
    content, chance = rng.choice(_metaimages()), rng.random()
    head, _, voxels = content.partition(b"LOCAL\n")
    if chance < 0.25:
        named = rng.choice(
            (
                "LIST",
                "LIST 2",
                "x%03d.raw 1 4 1",
                "",
                "voxels.raw",
                "\x1b[2J",
                "a\\b",
                "x" * 5000,
                "/dev/zero",
                plant_secret(folder, "voxels.raw", bytes(240)),
                str(folder.parent / "secret" / "voxels.raw"),
                ".",
            )
        )
        (folder / "voxels.raw").write_bytes(voxels)
        return "other file", head + named.encode() + b"\n"
    if chance < 0.5:
        line = rng.choice(
            (
                b"DimSize",
                b"NDims",
                b"ElementType",
                b"ElementSpacing",
                b"TransformMatrix",
                b"Offset",
                b"HeaderSize",
                b"ElementNumberOfChannels",
                b"CompressedDataSize",
            )
        )
        value = rng.choice(
            (
                "0 0 0",
                "-1 5 4",
                "999999999 999999999 999999999",
                "6 5",
                "6 5 4 1",
                "nan nan nan",
                "1e999 1 1",
                MARKER,
                "MET_ASCII_CHAR",
                "2",
                "9" * 5000,
                "0",
                "١ ٢ ٣",
                "-1",
            )
        )
        lines = [each for each in head.split(b"\n") if not each.startswith(line)]
        return "header", b"\n".join([lines[0], line + b" = " + value.encode(), *lines[1:]]) + b"LOCAL\n" + voxels
    if chance < 0.52:
        sides = rng.choice((b"8192 8192", b"800 800 800", b"60000 60000", b"2048 2048 2048"))
        dimensions = b"NDims = %d\nDimSize = %s" % (len(sides.split()), sides)
        bomb = zlib.compress(bytes(2**26)) * rng.choice((1, 8))
        rest = b"\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\nCompressedData = True\nElementDataFile = LOCAL\n"
        return "bomb", b"ObjectType = Image\n" + dimensions + rest + bomb
    if chance < 0.8:
        how, text = damaged_text(rng, head.decode("latin-1"), [*TOKENS, " = ", "LOCAL"])
        return how, text + b"LOCAL\n" + voxels
    return damaged(rng, content, _metaimages())


def make_metaimage(rng: Random, folder: Path) -> Case:
    """A MetaImage, read as a volume or as a radiograph."""
    read = rng.choice((read_volume, read_volume, read_input))
    suffix = rng.choice((".mha", ".mhd"))
    if rng.random() < 0.02:
        return no_file(rng, folder, suffix, read)
    how, content = _metaimage(rng, folder)
    path = written(rng, folder, suffix, content)
    return Case(how, lambda: read(path), STEM)
