"""Excel sheets (.xlsx) as tables of text."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from ...cells import plain_text
from ...files import printable

MAX_UNPACKED_BYTES = 2**28
MOST_ROWS = 2**20  # Excel's own; a row may claim any number, and those before it are blank


def read_sheets(path: Path) -> Iterator[tuple[str, Iterator[tuple[int, list[str]]]]]:
    """
    The sheets of a workbook in its order, hidden ones left out: the name, and rows that say anything as (number from
    1, cells). A sheet's rows must be read before the next one is asked for.

    Raises:
        ValueError: The file is no workbook, is damaged, or unpacks to more than `MAX_UNPACKED_BYTES`. The message
            names the file and quotes no cell.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file, _refusing_damage(path):
        with zipfile.ZipFile(file) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MAX_UNPACKED_BYTES:
            raise _Refusal(f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
        import openpyxl

        for sheet in openpyxl.load_workbook(file, read_only=True, data_only=True).worksheets:
            if sheet.sheet_state == "visible":
                sheet.reset_dimensions()  # what the file says of its size may be wrong
                yield sheet.title, _rows(path, sheet)


class _Refusal(Exception):
    """Why a file is not read."""


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except _Refusal as refusal:
        raise ValueError(f"Cannot read {printable(path)}: {refusal}.") from None
    except OSError:
        raise
    except Exception:  # a foreign file fails in as many ways as there are files
        raise ValueError(
            f"Cannot read {printable(path)}: it is no Excel sheet (.xlsx), is damaged or under a password; save it as "
            "CSV UTF-8."
        ) from None


def _rows(path: Path, sheet: Any) -> Iterator[tuple[int, list[str]]]:
    with _refusing_damage(path):  # again, because whoever reads the rows does so outside of `read_sheets`
        for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
            if number > MOST_ROWS:
                raise _Refusal(f"it has more than {MOST_ROWS:,} rows")
            cells = [_text(value) for value in values]
            if any(cells):
                yield number, cells


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, date):
        return value.isoformat()
    return plain_text(value) if isinstance(value, float) else str(value)
