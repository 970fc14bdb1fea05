"""Hostile tables: CSV and TSV, packed ones, Excel sheets, and folders of pictures that a table leads through."""

import functools
import gzip
import io
import zipfile
from pathlib import Path
from random import Random

import openpyxl
from PIL import Image

from ark_hf.data.sources.generic import GenericSource, read_generic
from ark_hf.data.sources.tables import Table
from tests.wrong_inputs import chest

from . import MARKER
from .files import STEM, no_file, plant_secret, written
from .judging import Case
from .mutations import TOKENS, damaged, damaged_text

NEEDED = ["image", "Nodule", "patient"]
ROWS = [["image", "Nodule", "patient", "sex", "age", "notes"]]
ROWS += [
    [f"{number}.png", str(number % 2), f"{MARKER}{number}", "FM"[number % 2], str(40 + number), f"{MARKER}, {number}"]
    for number in range(6)
]


class Quoted(Exception):
    """A reader noted what it must not."""


def read_table(path: Path) -> None:
    table = Table(path, NEEDED)
    for _ in table:
        pass
    if MARKER in str(table.problems):
        raise Quoted(str(table.problems)[:200])


def text(rows: list[list[str]], separator: str = ",") -> str:
    return "".join(separator.join(f'"{each}"' if separator in each else each for each in row) + "\n" for row in rows)


def make_csv(rng: Random, folder: Path) -> Case:
    """A CSV or TSV, plain or packed."""
    suffix = rng.choice((".csv", ".csv", ".csv", ".tsv", ".csv.gz", ".csv.zip", ".zip", ".txt"))
    if rng.random() < 0.02:
        return no_file(rng, folder, suffix, read_table)
    separator = "\t" if suffix == ".tsv" else rng.choice((",", ",", ";", "|"))
    kind, content = damaged_text(rng, text(ROWS, separator), [*TOKENS, separator, "sep=;\n", MARKER])
    chance = rng.random()
    if chance < 0.03:
        kind, content = rng.choice(list(_long().items()))
    if suffix.endswith(".gz"):
        content = gzip.compress(content, 1)
        if chance < 0.02:
            kind, content = "bomb", _zeros() * 9
    elif suffix.endswith(".zip"):
        kind, content = _zipped(rng, kind, content)
    if suffix.endswith((".gz", ".zip")) and rng.random() < 0.3:
        kind, content = f"packed {kind}", damaged(rng, content)[1]
    path = written(rng, folder, suffix, content)
    return Case(kind, lambda: read_table(path), STEM)


@functools.cache
def _zeros() -> bytes:
    return gzip.compress(b"a,b\n" * 2**24, 6)


@functools.cache
def _long() -> dict[str, bytes]:
    head = text(ROWS).encode()
    return {
        "one long line": head + b"x" * 2**22,
        "many columns": b",".join([b"image,Nodule,patient", *(b"c%d" % number for number in range(40_000))])
        + b"\n"
        + head,
        "quote left open": head.replace(b"\n", b'\n"', 1) * 2000,
        "many rows": head * 20_000,
        "rows of quotes": head + b'"' * 2**20,
        "zeros": bytes(2**22),
    }


def _zipped(rng: Random, kind: str, content: bytes) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    names = rng.choice(
        (
            ["t.csv"],
            ["t.csv"],
            ["../../t.csv"],
            ["/etc/t.csv"],
            ["a.csv", "b.csv"],
            [],
            ["t.csv", "__MACOSX/t.csv"],
            ["t\x1b.csv"],
            ["t.exe"],
        )
    )
    with zipfile.ZipFile(
        buffer, "w", rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    ) as archive:
        for name in names:
            archive.writestr(name, content)
        if rng.random() < 0.02 and names:
            kind = "bomb"
            for number in range(3):
                archive.writestr(f"{number}.csv" if number else "big.csv", bytes(2**26))
    return kind, buffer.getvalue()


@functools.cache
def _workbook() -> dict[str, bytes]:
    book = openpyxl.Workbook()
    sheet = book.active
    for row in ROWS:
        sheet.append(row)
    sheet.append(["9.png", 1, 12345678901234567890, "F", 0.5, "=1+1"])
    book.create_sheet("Notes").append([MARKER])
    book.properties.creator = MARKER
    buffer = io.BytesIO()
    book.save(buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


LAUGHS = (
    b'<!DOCTYPE x [<!ENTITY a "lol">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(12))
    + b"]>"
)


def _hostile_parts(rng: Random, folder: Path) -> tuple[str, dict[str, bytes]]:
    parts = dict(_workbook())
    names = [name for name in parts if name.endswith((".xml", ".rels"))]
    sheet = "xl/worksheets/sheet1.xml"
    kind = rng.choice(
        (
            "entities",
            "outside",
            "deep",
            "row",
            "column",
            "shared",
            "missing",
            "member",
            "member",
            "member",
            "member",
            "swap",
            "columns",
        )
    )
    name = rng.choice((sheet, sheet, "xl/sharedStrings.xml", "xl/workbook.xml", "xl/styles.xml", *names))
    if name not in parts:
        name = sheet
    head, _, body = parts[name].rpartition(b"?>") if parts[name].startswith(b"<?xml") else (b"", b"", parts[name])
    if kind == "entities":
        parts[name] = LAUGHS + body.replace(b">1<", b">&m;<").replace(MARKER.encode(), b"&m;")
    elif kind == "outside":
        way = plant_secret(folder, "other.xml", b"<x/>")
        entity = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file://%s">]>' % str((folder / way).resolve()).encode()
        parts[name] = entity + body.replace(MARKER.encode(), b"&a;")
    elif kind == "deep":
        parts[name] = b"<x>" * 200_000
    elif kind == "row":
        parts[sheet] = parts[sheet].replace(b'r="2"', b'r="%d"' % rng.choice((10**6, 10**9, 10**30, 0)))
    elif kind == "column":
        parts[sheet] = parts[sheet].replace(
            b'"A2"', rng.choice((b'"ZZZZ2"', b'"XFD2"', b'"2"', b'"A"', b'""', b'"\xc3\xa92"'))
        )
    elif kind == "shared":
        parts[sheet] = parts[sheet].replace(
            b"<v>", b"<v>" + rng.choice((b"-1", b"9", b"99999", b"x", b"1e999", b"nan")), 3
        )
    elif kind == "missing":
        del parts[name]
    elif kind == "swap":
        parts[name] = parts[rng.choice(list(parts))]
    elif kind == "columns":
        cells = b"".join(b'<c r="XFD%d" t="n"><v>1</v></c>' % number for number in range(3, 3000))
        parts[sheet] = parts[sheet].replace(b"</sheetData>", b"<row>" + cells + b"</row></sheetData>")
    else:
        parts[name] = damaged_text(
            rng, parts[name].decode(errors="replace"), [*TOKENS, "<", ">", "&x;", "<c/>", 't="s"']
        )[1]
    return kind, parts


def make_excel(rng: Random, folder: Path) -> Case:
    """A workbook, damaged as an archive or within its parts."""
    if rng.random() < 0.02:
        return no_file(rng, folder, ".xlsx", read_table)
    kind, parts = _hostile_parts(rng, folder) if rng.random() < 0.75 else ("archive", _workbook())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
        if rng.random() < 0.02:
            kind = "bomb"
            for number in range(5):
                archive.writestr(f"xl/media/{number}.bin", bytes(2**26))
    content = buffer.getvalue()
    if kind == "archive":
        kind, content = damaged(rng, content)
    path = written(rng, folder, ".xlsx", content)
    return Case(kind, lambda: read_table(path), STEM)


@functools.cache
def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(chest()[::2, ::2]).save(buffer, "PNG")
    return buffer.getvalue()


WAYS = [
    "../secret/0.png",
    "images/../../secret/0.png",
    "/etc/passwd",
    "~/0.png",
    "C:\\x.png",
    "\\\\s\\x.png",
    "//h/x.png",
    "images",
    "",
    ".",
    "..",
    "images/0.png/..",
    "0.png\0",
    "\x1b[2J.png",
    "x" * 5000,
    "images//0.png",
    "é.png",
    "0",
    "0.0",
    "%2e%2e/0.png",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x.png",
    "images/0.PNG",
    "*",
    "[0].png",
]


def make_labelled_folder(rng: Random, folder: Path) -> Case:
    """A folder of pictures with a table: where its paths lead, and what its cells hold."""
    raw = folder / f"{STEM} raw"
    for name in ("images", "deep/er"):
        (raw / name).mkdir(parents=True)
    for number in range(4):
        (raw / "images" / f"{number}.png").write_bytes(_picture())
    plant_secret(folder, "0.png", _picture())
    kind = rng.choice(("path", "path", "table", "links", "names"))
    rows = [[f"images/{number}.png", "1", f"{MARKER}{number}", "F", "40", ""] for number in range(4)]
    if kind == "path":
        for row in rng.sample(rows, rng.randint(1, 4)):
            row[0] = rng.choice(WAYS)
    elif kind == "links":
        (raw / "deep" / "up").symlink_to("../..")
        (raw / "deep" / "er" / "here").symlink_to(".")
        (raw / "images" / "9.png").symlink_to("9.png")
    elif kind == "names":
        for odd in ("\x1b[2J.png", "a\nb.png", "\udcfc.png", "\u202egnp.png", " .png", "x" * 250 + ".png"):
            (raw / "images" / odd).write_bytes(_picture())
    content = text([ROWS[0], *rows]).encode("utf-8", "surrogateescape")
    if kind == "table":
        content = damaged_text(rng, content.decode(), [*TOKENS, *WAYS])[1]
    (raw / "labels.csv").write_bytes(content)

    def read() -> None:
        release = read_generic(GenericSource(raw, "lungs", labels=["Nodule"], patient_column="patient"))
        if MARKER in str(release.problems):
            raise Quoted(str(release.problems)[:200])
        outside = [row for row in release.rows if raw.resolve() not in row.path.resolve().parents]
        if outside:
            raise Quoted(f"a row leads out of the folder: {outside[0].path}")

    return Case(kind, read, private=True)
