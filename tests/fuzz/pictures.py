"""Hostile pictures: PNG, JPEG, TIFF, BMP, WebP and masks."""

import functools
import io
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, PngImagePlugin

from ark_hf.data.inputs import read_input
from ark_hf.data.mask_files import read_label_map, read_mask
from ark_hf.data.masks import read_masks
from ark_hf.data.radiograph import read_radiograph
from ark_hf.models.ark.configuration_ark import SegmentationTask
from tests.wrong_inputs import chest

from . import MARKER
from .files import STEM, no_file, written
from .judging import Case
from .mutations import damaged

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TASK = SegmentationTask("organs", ["lungs"])


def encode(picture, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x013B] = orientation, MARKER, MARKER
    return exif


@functools.cache
def valid(kind: str) -> list[bytes]:
    """Small files of a kind, each in another way, with someone's name in them."""
    grey = chest()[::2, ::2].copy()
    picture, colour = Image.fromarray(grey), Image.fromarray(np.stack([grey, 255 - grey, grey // 2], -1))
    deep = grey.astype(np.uint16) * 200
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Patient", MARKER)
        info.add_text("Name", MARKER, zip=True)
        profile = {"pnginfo": info, "icc_profile": b"\0" * 200 + MARKER.encode()}
        some = [
            picture,
            colour,
            deep,
            picture.convert("P"),
            picture.convert("1"),
            colour.convert("RGBA"),
            picture.convert("LA"),
        ]
        files = [encode(each, "PNG", **profile) for each in some]
        files += [
            encode(picture, "PNG", exif=_exif(6)),
            encode(picture, "PNG", save_all=True, append_images=[picture] * 2),
        ]
        rgb16 = np.stack([deep] * 3, -1).astype(">u2")
        return [*files, png(64, 64, b"".join(b"\0" + row.tobytes() for row in rgb16), depth=16, colour=2)]
    if kind == "JPEG":
        files = [
            encode(each, "JPEG", exif=_exif(3), comment=MARKER.encode())
            for each in (picture, colour, colour.convert("CMYK"))
        ]
        return [
            *files,
            encode(colour, "JPEG", progressive=True, exif=_exif(8)),
            encode(picture, "JPEG", progressive=True),
        ]
    if kind == "TIFF":
        tags = {"tiffinfo": {270: MARKER, 315: MARKER}}
        some = [
            picture,
            colour,
            deep,
            (grey / 255).astype(np.float32),
            grey.astype(np.int32),
            picture.convert("P"),
            picture.convert("1"),
        ]
        files = [encode(each, "TIFF", **tags) for each in some]
        files += [
            encode(picture, "TIFF", compression=each, **tags)
            for each in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")
        ]
        files += [
            encode(colour, "TIFF", compression="jpeg", **tags),
            encode(deep, "TIFF", compression="tiff_lzw", **tags),
        ]
        files += [
            encode(picture.convert("1"), "TIFF", compression="group4", **tags),
            encode(picture, "TIFF", big_tiff=True),
        ]
        return [
            *files,
            encode(picture, "TIFF", exif=_exif(5)),
            encode(picture, "TIFF", save_all=True, append_images=[picture]),
        ]
    if kind == "BMP":
        return [encode(each, "BMP") for each in (picture, colour, picture.convert("1"), picture.convert("P"))]
    return [
        encode(picture, "WEBP", lossless=True, exif=_exif(7)),
        encode(colour, "WEBP"),
        encode(colour.convert("RGBA"), "WEBP"),
    ]


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    length = len(content) if length is None else length
    return struct.pack(">I", length) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0, more: bytes = b"", interlaced: int = 0
) -> bytes:
    head = struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlaced)
    return SIGNATURE + chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _repaired_png(rng: Random, content: bytes) -> tuple[str, bytes]:
    """A PNG damaged within a chunk or within its packed pixels, its checksums right."""
    chunks, at = [], len(SIGNATURE)
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    number = rng.randrange(len(chunks))
    kind, inner = chunks[number]
    what = rng.choice(("chunk", "pixels", "kind", "order"))
    if what == "pixels" and kind == b"IDAT":
        inner = zlib.compress(damaged(rng, zlib.decompress(inner))[1])
    elif what == "kind":
        kind = rng.choice(
            (b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"acTL", b"fdAT", b"eXIf", b"gAMA", b"\0\0\0\0")
        )
    elif what == "order":
        rng.shuffle(chunks)
    else:
        inner = damaged(rng, inner)[1]
    chunks[number] = kind, inner
    return f"repaired {what}", SIGNATURE + b"".join(chunk(*each) for each in chunks)


@functools.cache
def _bombs() -> dict[str, dict[str, bytes]]:
    zeros, packed = bytes(8192 * 8193), zlib.compress(bytes(2**24))
    jpeg, tiff = valid("JPEG")[0], valid("TIFF")[0]
    frame = jpeg.index(b"\xff\xc0")
    scans = jpeg[jpeg.index(b"\xff\xda") : -2]
    entry = struct.pack("<HHII", 270, 2, 2**31 - 1, 8)
    loop = (
        b"II*\0"
        + struct.pack("<I", 8)
        + struct.pack("<H", 1)
        + struct.pack("<HHII", 256, 4, 1, 64)
        + struct.pack("<I", 8)
    )
    sizes = {256: 65_000, 257: 65_000, 258: 8, 259: 8, 262: 1, 273: 200, 277: 1, 278: 65_000, 279: 1000}
    claim = (
        b"II*\0"
        + struct.pack("<IH", 8, len(sizes))
        + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sizes.items())
    )
    return {
        "PNG": {
            "bomb": png(8192, 8192, zeros),
            "bomb beyond": png(60_000, 60_000, zeros),
            "claim": png(2**31 - 1, 2**31 - 1, b"\0"),
            "bomb of depth": png(8192, 4096, zeros, depth=16),
            "bomb interlaced": png(8192, 8192, zeros, interlaced=1),
            "bomb in text": png(
                64, 64, bytes(65 * 64), more=chunk(b"zTXt", b"Raw profile type exif\0\0" + packed) * 4
            ),
            "bomb in profile": png(64, 64, bytes(65 * 64), more=chunk(b"iCCP", b"x\0\0" + packed) * 4),
            "chunks without end": png(64, 64, bytes(65 * 64), more=chunk(b"tEXt", b"a\0b") * 50_000),
            "length of 2 GB": SIGNATURE + chunk(b"IHDR", bytes(13), length=2**31 - 1),
            "zero sides": png(0, 0, b""),
            "frames without end": png(64, 64, bytes(65 * 64), more=chunk(b"acTL", struct.pack(">2I", 2**31, 0))),
            "one line": png(2**26, 1, bytes(2**26 + 1)),
        },
        "JPEG": {
            "claim": jpeg[: frame + 5] + b"\xff\xff\xff\xff" + jpeg[frame + 9 :],
            "zero sides": jpeg[: frame + 5] + bytes(4) + jpeg[frame + 9 :],
            "bomb of scans": jpeg[:-2] + scans * 2000 + b"\xff\xd9",
            "segments without end": jpeg[:2] + (b"\xff\xfe\xff\xff" + bytes(65_533)) * 50 + jpeg[2:],
            "claim within limits": jpeg[: frame + 5] + struct.pack(">2H", 8191, 8191) + jpeg[frame + 9 :],
        },
        "TIFF": {
            "claim": claim + bytes(2000),
            "text of 2 GB": tiff[:8] + struct.pack("<H", 1) + entry + bytes(100),
            "loop of pages": loop + bytes(300),
            "bomb": encode(np.zeros((8192, 8192), np.uint8), "TIFF", compression="tiff_deflate"),
            "bomb of depth": encode(np.zeros((8192, 4096), np.uint16), "TIFF", compression="tiff_deflate"),
            "pages without end": encode(
                Image.new("1", (8, 8)), "TIFF", save_all=True, append_images=[Image.new("1", (8, 8))] * 500
            ),
            "tags without end": b"II*\0" + struct.pack("<IH", 8, 65_535) + struct.pack("<HHII", 270, 1, 4, 0) * 65_535,
        },
        "BMP": {
            "claim": valid("BMP")[0][:18] + struct.pack("<2i", 2**30, -(2**30)) + valid("BMP")[0][26:],
            "zero sides": valid("BMP")[0][:18] + bytes(8) + valid("BMP")[0][26:],
        },
        "WEBP": {
            "bomb": encode(Image.new("L", (8192, 8191)), "WEBP", lossless=True),
            "claim": valid("WEBP")[1][:26] + b"\xff\x3f\xff\x3f" + valid("WEBP")[1][30:],
        },
    }


def _content(rng: Random, kind: str) -> tuple[str, bytes]:
    chance = rng.random()
    if chance < 0.02:
        name = rng.choice(list(_bombs()[kind]))
        return name, _bombs()[kind][name]
    content = rng.choice(valid(kind))
    if kind == "PNG" and chance < 0.5:
        return _repaired_png(rng, content)
    return damaged(rng, content, valid(kind))


def make(kind: str, rng: Random, folder: Path) -> Case:
    """A picture of a kind, read as a radiograph from its file or from its bytes."""
    suffix = f".{kind.lower()}"
    if rng.random() < 0.02:
        return no_file(rng, folder, suffix, read_radiograph)
    how, content = _content(rng, kind)
    if rng.random() < 0.2:
        return Case(how, lambda: read_input(content))
    path = written(rng, folder, suffix, content)
    return Case(how, lambda: read_input(path), STEM)


def make_mask(rng: Random, folder: Path) -> Case:
    """A mask or a label map, from its file or from a dataset's cell."""
    if rng.random() < 0.02:
        return no_file(rng, folder, ".png", read_mask)
    kind = rng.choice(("PNG", "PNG", "TIFF", "BMP"))
    mask = Image.fromarray((chest()[::2, ::2] > 120).astype(np.uint8) * rng.choice((1, 255)))
    content = encode(mask, kind) if rng.random() < 0.7 else rng.choice(valid(kind))
    how, content = _repaired_png(rng, content) if kind == "PNG" and rng.random() < 0.5 else damaged(rng, content)
    if rng.random() < 0.02:
        how, content = "bomb", _bombs()["PNG"][rng.choice(("bomb", "bomb beyond", "claim"))]
    if rng.random() < 0.4:
        cell = {"bytes": content, "path": None}
        return Case(how, lambda: read_masks([cell], TASK))
    path = written(rng, folder, f".{kind.lower()}", content)
    read = rng.choice((read_mask, lambda path: read_label_map(path, {1: "lungs"})))
    return Case(how, lambda: read(path), STEM)
