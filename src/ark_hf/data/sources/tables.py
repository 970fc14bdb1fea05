"""Reads label tables as they are released: CSV, TSV, Excel sheets and lists, plain, `.gz` or `.zip`, line by line."""

import csv
import gzip
import io
import itertools
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ...files import printable
from .columns import column_key, instead_of
from .spreadsheets import read_sheets

Record = dict[str, str]

# Five times the largest official table, PadChest's; all that a small file that unpacks without end can cost is time.
MAX_UNPACKED_BYTES = 2**29
MAX_ROWS = 4_000_000
MAX_LINE = 2**20
MAX_LINES_OF_A_ROW = 100

DELIMITERS = (",", ";", "\t", "|")
# By how they begin: files that are no text
OTHER_FILES = {
    b"PK\x03\x04": "an Excel sheet (give it its name in .xlsx) or another archive (save it as CSV UTF-8)",
    b"\xd0\xcf\x11\xe0": "an Excel file of the old kind, or under a password; save it as .xlsx or as CSV UTF-8",
    b"\x1f\x8b": "packed by its content; give it its name in .gz",
    b"PAR1": "a parquet file; `ark-hf data build hub` reads a folder of them",
}

_UNPACKING_ERRORS = (
    EOFError, zlib.error, lzma.LZMAError, struct.error, zipfile.BadZipFile, NotImplementedError, RuntimeError,
)  # fmt: skip


class Table:
    """
    A CSV or TSV file or an Excel sheet; iterating reads it, a row at a time: (line, {column: text}).

    Lines count from 1, the header being the first that is not blank; of a row with line breaks in quotes it is the
    first. Rows without any value are left out. A row of another width than the header is put into `problems`, and
    costs no other row: where a quote is left open, reading goes on with the next line. Empty values beyond the last
    named column do not count.

    Values stand between commas, in a `.tsv` between tabs; or between whatever the first line says (`sep=;`, of Excel),
    or else between semicolons, tabs or bars, if the needed columns are there with these alone. A needed column may be
    there in another spelling of case, blanks and "_": it is then called as it was asked for.

    Args:
        path: The file, in UTF-8 or UTF-16 with a byte order mark: `.csv` or `.tsv`, also with `.gz`, or `.zip` around
            one of them; or `.xlsx`, of which the one sheet with the needed columns is read.
        needed: Columns that the file must have, each once.
        advice: By a needed column, what to do if it is not there.

    Raises:
        ValueError: The file cannot be read, is no such text, lacks columns or is larger than `MAX_ROWS` rows,
            `MAX_LINE` characters a line or, packed, `MAX_UNPACKED_BYTES`; when it is made or while iterating. The
            message names the file and the line and quotes no row.
    """

    def __init__(self, path: Path, needed: Sequence[str] = (), advice: Mapping[str, str] | None = None):
        self.path, self._advice = path, advice or {}
        self._shown = printable(path)
        self.problems: list[tuple[int, str]] = []
        self._needed = needed
        self._sheet: str | None = None
        if path.suffix.lower() == ".xlsx":
            self._sheet = self._find_sheet()
        self._delimiter = "\t" if ".tsv" in map(str.lower, path.suffixes[-2:]) else ","
        self.header = self._read_header()
        if self._missing() and self._sheet is None:
            self._delimiter = max((self._delimiter, *DELIMITERS), key=self._fitness)
            self.header = self._read_header()
        self._check_header()

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        self.problems.clear()
        for line, values in itertools.islice(self._records(), 1, None):
            yield line, dict(zip(self.header, values, strict=True))

    def _read_header(self) -> list[str]:
        """The first row, needed columns in the spelling in which they were asked for."""
        self.problems.clear()
        header = [name.strip() for name in next(self._records(), (1, []))[1]]
        return self._renamed(header)

    def _fitness(self, delimiter: str) -> tuple[int, bool]:
        """How many of the needed columns are there if this stands between values, and whether there are several."""
        self._delimiter = delimiter
        header = self._read_header()
        return sum(column in header for column in self._needed), len(header) > 1

    def _renamed(self, header: list[str]) -> list[str]:
        for name in self._needed:
            alike = [place for place, found in enumerate(header) if column_key(found) == column_key(name)]
            if name not in header and len(alike) == 1 and header[alike[0]] not in self._needed:
                header[alike[0]] = name
        return header

    def _missing(self) -> list[str]:
        return [column for column in self._needed if column not in self.header]

    def _find_sheet(self) -> str:
        """The sheet that has the needed columns."""
        headers = {}
        with _naming_the_file(self.path):
            for name, rows in read_sheets(self.path):
                first = next(rows, (1, []))[1]
                headers[name] = self._renamed([text.strip() for text in first])
        fitting = [name for name, header in headers.items() if set(self._needed) <= set(header)]
        if not headers or len(fitting) > 1:
            raise ValueError(
                f"{self._shown} has {len(fitting)} sheets with the columns {list(self._needed)}; leave one of them, "
                "or save it as CSV UTF-8."
            )
        return (fitting or [name for name, header in headers.items() if header] or list(headers))[0]

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Rows as (line, values): first the header's named columns, and then as many values in each."""
        width = named = 0
        for line, values, quoted in self._sheet_rows() if self._sheet is not None else self._text_rows():
            if not any(map(str.strip, values)):
                continue
            if not width:
                width = named = len(values)
                while not values[named - 1].strip():
                    named -= 1
            beyond = [value for value in values[named:] if value.strip()]
            if len(values) < named or len(values) > width and beyond and self._sheet is None:
                quote = "; is a quote left open?" if quoted else ""
                self.problems.append((line, f"{len(values)} values, but the header names {named} columns{quote}"))
            elif quoted:
                self.problems.append((line, "a value goes on in the lines after it; is a quote left open?"))
            else:
                yield line, values[:named]

    def _sheet_rows(self) -> Iterator[tuple[int, list[str], bool]]:
        width = 0
        with _naming_the_file(self.path):
            for name, rows in read_sheets(self.path):
                if name != self._sheet:
                    continue
                for number, values in rows:
                    if number > MAX_ROWS:
                        raise ValueError(f"Cannot read {self._shown}: it has more than {MAX_ROWS:,} rows.")
                    width = width or len(values)
                    yield number, values + [""] * (width - len(values)), False
                return

    def _text_rows(self) -> Iterator[tuple[int, list[str], bool]]:
        """Rows as (line, values, whether a quote seems to be left open)."""
        numbered = stream_lines(self.path)
        first = next(numbered, None)
        if first is None:
            return
        told, delimiter = re.fullmatch(r'"?sep=(.)"?\s*', first[1], re.IGNORECASE), self._delimiter
        if told is not None:
            delimiter, lines = told[1], _Lines(numbered, 2)
        else:
            lines = _Lines(itertools.chain([first], numbered), 1)
        reader = csv.reader(lines, delimiter=delimiter)
        width = 0
        while True:
            lines.start_record()
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                lines.give_back()
                self.problems.append((lines.first, f"{error}; is a quote left open?"))
                continue
            width = width or len(values)
            quoted = False
            left_open = "".join(lines.read).count('"') % 2 == 1  # at the end of the file csv closes it
            if values and (len(values) != width or left_open) and lines.give_back():
                # what an open quote swallowed are rows of their own
                values, quoted = next(csv.reader(lines.read, delimiter=delimiter)), True
            yield lines.first, values, quoted

    def _check_header(self) -> None:
        missing = self._missing()
        if missing:
            said = [
                instead_of(missing, self.header),
                *(self._advice[name] for name in missing if name in self._advice),
            ]
            raise ValueError(f"{self._shown} has no columns {missing}; {' '.join(said)}")
        repeated = sorted({column for column in self._needed if self.header.count(column) > 1})
        if repeated:
            raise ValueError(f"{self._shown} has several columns {repeated}; each column needs a name of its own.")


def stream_lines(path: Path) -> Iterator[tuple[int, str]]:
    """
    The lines of a text file, `.gz` and `.zip` unpacked: (number from 1, text with its line end).

    Raises:
        ValueError: As [`Table`].
    """
    shown = printable(path)
    with _reading(path) as file:
        head = file.peek(4)[:4]  # type: ignore[attr-defined]
        for start, what in OTHER_FILES.items():
            if head.startswith(start):
                raise ValueError(f"Cannot read {shown}: it is {what}.")
        wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
        encoding, errors = ("utf-16", "strict") if wide else ("utf-8-sig", "surrogateescape")
        text = io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="")
        for number in itertools.count(1):
            try:
                line = text.readline(MAX_LINE)
            except UnicodeError:
                raise ValueError(f"Cannot read {shown}: line {number} is not UTF-16; save it as CSV UTF-8.") from None
            if not line:
                return
            if len(line) == MAX_LINE or number > MAX_ROWS:
                raise ValueError(
                    f"Cannot read {shown}: line {number} goes beyond {MAX_ROWS:,} lines of {MAX_LINE:,} characters; "
                    "this is no label table."
                )
            if number == 1 and "\0" in line:
                raise ValueError(f"Cannot read {shown}: it looks like UTF-16 without a mark; save it as CSV UTF-8.")
            if not line.isascii() and not _is_text(line):
                raise ValueError(
                    f"Cannot read {shown}: line {number} is not UTF-8; a label table needs a UTF-8 file (in Excel: "
                    "CSV UTF-8)."
                )
            yield number, line


def _is_text(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:  # `surrogateescape` stands for bytes that are no UTF-8
        return False
    return True


@contextmanager
def _naming_the_file(path: Path) -> Iterator[None]:
    """Errors of opening become ValueErrors that name it; so does what is no file, but would be read for ever."""
    try:
        if not os.path.isfile(path):
            raise ValueError(f"Cannot read {printable(path)}: there is no such file.")
        yield
    except OSError as error:
        raise ValueError(
            f"Cannot read {printable(path)}: {error.strerror or 'it is damaged; fetch it again'}."
        ) from None


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    """The unpacked bytes of the file; errors of opening and of unpacking become ValueErrors that name it."""
    suffix = path.suffix.lower()
    try:
        with _naming_the_file(path), open(path, "rb") as file:
            if suffix == ".zip":
                with zipfile.ZipFile(file) as archive, archive.open(_only_table(archive, path)) as member:
                    yield _bounded(member, path)
            elif suffix == ".gz":
                with gzip.open(file) as member:
                    yield _bounded(member, path)
            else:
                yield file
    except _UNPACKING_ERRORS:
        raise ValueError(
            f"Cannot read {printable(path)}: it is damaged, cut short or encrypted; fetch it again."
        ) from None


def _only_table(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    tables = [info for info in archive.infolist() if info.filename.lower().endswith((".csv", ".tsv", ".txt"))]
    tables = [info for info in tables if not info.filename.startswith("__MACOSX/")]
    if len(tables) != 1:
        raise ValueError(f"Cannot read {printable(path)}: it must hold one table, it holds {len(tables)}.")
    return tables[0]


def _bounded(file: Any, path: Path) -> io.BufferedReader:
    return io.BufferedReader(_Bounded(file, path), buffer_size=2**16)


class _Bounded(io.RawIOBase):
    """Unpacks at most `MAX_UNPACKED_BYTES`, a piece at a time."""

    def __init__(self, file: IO[bytes], path: Path):
        self._file, self._path, self._left = file, path, MAX_UNPACKED_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._file.read(len(buffer))
        self._left -= len(piece)
        if self._left < 0:
            raise ValueError(
                f"Cannot read {printable(self._path)}: it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes."
            )
        buffer[: len(piece)] = piece
        return len(piece)


class _Lines:
    """Lines for csv's reader, which takes several for a record with line breaks in quotes; they can be given back."""

    def __init__(self, numbered: Iterator[tuple[int, str]], first: int):
        self._numbered = numbered
        self._waiting: deque[str] = deque()
        self.first, self.read = first, list[str]()

    def start_record(self) -> None:
        self.first += len(self.read)
        self.read = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if len(self.read) == MAX_LINES_OF_A_ROW:
            raise csv.Error(f"a row of more than {MAX_LINES_OF_A_ROW} lines")
        line = self._waiting.popleft() if self._waiting else next(self._numbered)[1]
        self.read.append(line)
        return line

    def give_back(self) -> bool:
        """Gives all lines of the record but the first back; whether there were any."""
        self.read, more = self.read[:1], self.read[1:]
        self._waiting.extendleft(reversed(more))
        return bool(more)
