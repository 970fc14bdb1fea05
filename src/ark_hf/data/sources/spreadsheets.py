"""Reads Excel sheets (.xlsx) as tables of text, without a library for them: a zip archive of a few XML files."""

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from ...cells import plain_text

MAX_UNPACKED_BYTES = 2**28
_WORKBOOK, _RELATIONS, _STRINGS = "xl/workbook.xml", "xl/_rels/workbook.xml.rels", "xl/sharedStrings.xml"
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError),
    *(ElementTree.ParseError, KeyError, ValueError, IndexError, StopIteration),
)


def read_sheets(path: Path) -> Iterator[tuple[str, Iterator[tuple[int, list[str]]]]]:
    """
    The sheets of a workbook in its order, hidden ones left out: the name, and rows that say anything as (number from
    1, cells). A sheet's rows must be read before the next one is asked for.

    Raises:
        ValueError: The file is no workbook, is damaged, or unpacks to more than `MAX_UNPACKED_BYTES`. The message
            names the file and quotes no cell.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file, _refusing_damage(path), zipfile.ZipFile(file) as archive:
        if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED_BYTES:
            raise _Refusal(f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
        strings = list(_shared_strings(archive))
        for name, member in list(_sheets(archive)):
            with archive.open(member) as sheet:
                yield name, _rows(path, sheet, strings)


class _Refusal(Exception):
    """Why a file is not read."""


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except _Refusal as refusal:
        raise ValueError(f"Cannot read {path}: {refusal}.") from None
    except _DAMAGE:
        raise ValueError(
            f"Cannot read {path}: it is no Excel sheet (.xlsx), is damaged or under a password; save it as CSV UTF-8."
        ) from None


def _sheets(archive: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """Name and member of each sheet."""
    targets = {}
    for relation in _elements(archive, _RELATIONS, "Relationship"):
        target = relation.attrib["Target"]
        targets[relation.attrib["Id"]] = target[1:] if target.startswith("/") else f"xl/{target}"
    for sheet in _elements(archive, _WORKBOOK, "sheet"):
        if sheet.attrib.get("state", "visible") == "visible":
            identity = next(value for key, value in sheet.attrib.items() if key.endswith("}id"))
            if "worksheets/" in targets[identity]:  # others are charts
                yield sheet.attrib["name"], targets[identity]


def _shared_strings(archive: zipfile.ZipFile) -> Iterator[str]:
    if _STRINGS in archive.namelist():
        for item in _elements(archive, _STRINGS, "si"):
            yield _text(item)
            item.clear()


def _elements(archive: zipfile.ZipFile, member: str, tag: str) -> Iterator[ElementTree.Element]:
    with archive.open(member) as file:
        yield from _elements_of(file, tag)


def _elements_of(file: IO[bytes], tag: str) -> Iterator[ElementTree.Element]:
    for _, element in ElementTree.iterparse(file):
        if element.tag.rpartition("}")[2] == tag:
            yield element


def _text(item: ElementTree.Element) -> str:
    """The text of a string, in parts where it is formatted; not how it is pronounced."""
    parts = []
    for child in item:
        tag = child.tag.rpartition("}")[2]
        if tag == "t":
            parts.append(child.text or "")
        elif tag == "r":
            parts.append(_text(child))
    return "".join(parts)


def _rows(path: Path, sheet: IO[bytes], strings: list[str]) -> Iterator[tuple[int, list[str]]]:
    number = 0
    with _refusing_damage(path):  # again, because whoever reads the rows does so outside of `read_sheets`
        for row in _elements_of(sheet, "row"):
            number = int(row.attrib.get("r", number + 1))
            cells: dict[int, str] = {}
            place = 0
            for cell in row:
                if cell.tag.rpartition("}")[2] == "c":
                    place = _column(cell.attrib["r"]) if "r" in cell.attrib else place + 1
                    cells[place] = _value(cell, strings)
            row.clear()
            if any(text.strip() for text in cells.values()):
                yield number, [cells.get(place, "") for place in range(1, max(cells) + 1)]


def _column(reference: str) -> int:
    """The number of a cell's column: 1 of "A7", 27 of "AA7"."""
    letters = re.match("[A-Z]{1,3}", reference)
    if letters is None:
        raise ValueError
    number = 0
    for letter in letters[0]:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number


def _value(cell: ElementTree.Element, strings: list[str]) -> str:
    found = {child.tag.rpartition("}")[2]: child for child in cell}
    kind = cell.attrib.get("t", "n")
    if kind == "inlineStr":
        return _text(found["is"]) if "is" in found else ""
    text = (found["v"].text or "") if "v" in found else ""
    if kind == "s":
        return strings[int(text)] if text else ""
    if kind == "b":
        return {"1": "True", "0": "False"}.get(text, "")
    if kind == "n" and text and not text.isdecimal():
        return plain_text(float(text))
    return text
