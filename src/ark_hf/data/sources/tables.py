"""Reads label tables as they are released: CSV, TSV and lists, plain, `.gz` or `.zip`, line by line."""

import csv
import gzip
import io
import itertools
import math
import os
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Record = dict[str, str]
# How tables write a label: absent, there, uncertain or, if blank, unknown; and where only the first two can be
LABEL_WORDS = {"": math.nan, "0": 0.0, "1": 1.0, "-1": -1.0, "0.0": 0.0, "1.0": 1.0, "-1.0": -1.0}
KNOWN_WORDS = {word: value for word, value in LABEL_WORDS.items() if value >= 0}

# Five times the largest official table, PadChest's; all that a small file that unpacks without end can cost is time.
MAX_UNPACKED_BYTES = 2**29
MAX_ROWS = 4_000_000
MAX_LINE = 2**20
MAX_LINES_OF_A_ROW = 100

_UNPACKING_ERRORS = (EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)


class Table:
    """
    A CSV or TSV file; iterating reads it, a row at a time: (line, {column: text}).

    Lines count from 1, the header being line 1; of a row with line breaks in quotes it is the first. Blank lines are
    left out. A row of another width than the header is put into `problems`, and costs no other row: where a quote is
    left open, reading goes on with the next line.

    Args:
        path: The file, in UTF-8 with or without byte order mark: `.csv` or `.tsv`, also with `.gz`, or `.zip` around
            one of them.
        needed: Columns that the file must have, each once.

    Raises:
        ValueError: The file cannot be read, is no UTF-8 text, lacks columns or is larger than `MAX_ROWS` rows,
            `MAX_LINE` characters a line or, packed, `MAX_UNPACKED_BYTES`; when it is made or while iterating. The
            message names the file and the line and quotes no row.
    """

    def __init__(self, path: Path, needed: Sequence[str] = ()):
        self.path = path
        self.problems: list[tuple[int, str]] = []
        self._delimiter = "\t" if ".tsv" in path.suffixes[-2:] else ","
        self._needed = needed
        self.header = [name.strip() for name in next(self._records(), (1, []))[1]]
        self._check_header()

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        self.problems.clear()
        for line, values in itertools.islice(self._records(), 1, None):
            yield line, dict(zip(self.header, values, strict=True))

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        lines = _Lines(stream_lines(self.path))
        reader = csv.reader(lines, delimiter=self._delimiter)
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
            if not values:
                continue
            width = width or len(values)
            if len(values) == width:
                yield lines.first, values
                continue
            quote = ""
            if lines.give_back():  # what an open quote swallowed are rows of their own
                values = next(csv.reader(lines.read, delimiter=self._delimiter))
                quote = "; is a quote left open?"
            self.problems.append((lines.first, f"{len(values)} values, but the header names {width} columns{quote}"))

    def _check_header(self) -> None:
        missing = [column for column in self._needed if column not in self.header]
        if missing:
            # A first line without any of the columns may be a patient's row, which must not be quoted.
            known = any(column in self.header for column in self._needed)
            has = f"it has {self.header}" if known else "its first line must name the columns"
            raise ValueError(f"{self.path} has no columns {missing}; {has}.")
        repeated = sorted({column for column in self._needed if self.header.count(column) > 1})
        if repeated:
            raise ValueError(f"{self.path} has several columns {repeated}; each column needs a name of its own.")


def stream_lines(path: Path) -> Iterator[tuple[int, str]]:
    """
    The lines of a text file, `.gz` and `.zip` unpacked: (number from 1, text with its line end).

    Raises:
        ValueError: As [`Table`].
    """
    with _reading(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        for number in itertools.count(1):
            line = text.readline(MAX_LINE)
            if not line:
                return
            if len(line) == MAX_LINE or number > MAX_ROWS:
                raise ValueError(
                    f"Cannot read {path}: line {number} goes beyond {MAX_ROWS:,} lines of {MAX_LINE:,} characters; "
                    "this is no label table."
                )
            if not line.isascii() and not _is_text(line):
                raise ValueError(f"Cannot read {path}: line {number} is not UTF-8; a label table needs a UTF-8 file.")
            yield number, line


def _is_text(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:  # `surrogateescape` stands for bytes that are no UTF-8
        return False
    return True


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    """The unpacked bytes of the file; errors of opening and of unpacking become ValueErrors that name it."""
    try:
        if not os.path.isfile(path):  # a pipe or a device would be read for ever
            raise ValueError(f"Cannot read {path}: there is no such file.")
        suffix = path.suffix.lower()
        with open(path, "rb") as file:
            if suffix == ".zip":
                with zipfile.ZipFile(file) as archive, archive.open(_only_table(archive, path)) as member:
                    yield _bounded(member, path)
            elif suffix == ".gz":
                with gzip.open(file) as member:
                    yield _bounded(member, path)
            else:
                yield file
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror or 'it is damaged; fetch it again'}.") from None
    except _UNPACKING_ERRORS:
        raise ValueError(f"Cannot read {path}: it is damaged, cut short or encrypted; fetch it again.") from None


def _only_table(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    tables = [info for info in archive.infolist() if info.filename.lower().endswith((".csv", ".tsv", ".txt"))]
    tables = [info for info in tables if not info.filename.startswith("__MACOSX/")]
    if len(tables) != 1:
        raise ValueError(f"Cannot read {path}: it must hold one table, it holds {len(tables)}.")
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
            raise ValueError(f"Cannot read {self._path}: it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes.")
        buffer[: len(piece)] = piece
        return len(piece)


class _Lines:
    """Lines for csv's reader, which takes several for a record with line breaks in quotes; they can be given back."""

    def __init__(self, numbered: Iterator[tuple[int, str]]):
        self._numbered = numbered
        self._waiting: deque[str] = deque()
        self.first, self.read = 1, list[str]()

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
