"""Label tables and lists: what is read, what is refused, and that a bad row or file costs nothing else."""

import csv
import gzip
import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.data.sources import tables
from ark_hf.data.sources.tables import Record, Table, stream_lines


def read_table(path: Path, needed: Sequence[str] = ()) -> tuple[list[str], list[tuple[int, Record]], list]:
    """A whole table: its header; its rows as (line, {column: text}); its problems as (line, reason)."""
    table = Table(path, needed)
    return table.header, list(table), table.problems


TEXT = 'image,note\na.png,plain\n\nb.png,"two\nlines, one comma"\nc.png,été\n'
TABBED = 'image\t note\na.png\tplain\n\nb.png\t"two\nlines, one comma"\nc.png\tété'
ROWS = [
    (2, {"image": "a.png", "note": "plain"}),
    (4, {"image": "b.png", "note": "two\nlines, one comma"}),
    (6, {"image": "c.png", "note": "été"}),
]


def zipped(content: bytes, name: str = "folder/t.csv") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._t.csv", b"")
        archive.writestr("readme.md", b"")
        archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", TEXT.encode()),
        ("t.csv", TEXT.encode("utf-8-sig")),
        ("t.csv", TEXT.replace("\n", "\r\n").encode()),
        ("t.CSV", TEXT.encode()),
        ("t.csv.gz", gzip.compress(TEXT.encode())),
        ("t.csv.zip", zipped(TEXT.encode())),
        ("t.tsv", TABBED.encode()),
        ("t.tsv.gz", gzip.compress(TABBED.encode())),
    ],
    ids=["plain", "byte order mark", "windows", "upper case", "gzip", "zip", "tabs", "tabs, gzip"],
)
def test_rows_come_with_the_line_on_which_each_begins(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    table = Table(tmp_path / name, ["note"])
    rows = [(line, {key: text.replace("\r", "") for key, text in row.items()}) for line, row in table]
    assert (table.header, rows, table.problems) == (["image", "note"], ROWS, [])
    assert list(table) == list(table), "a table can be read again"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"image;note\na.png;1\nb.png;2\n"),
        ("t.csv", b"image\tnote\na.png\t1\nb.png\t2\n"),
        ("t.csv", b"image|note\na.png|1\nb.png|2\n"),
        ("t.tsv", b"image,note\na.png,1\nb.png,2\n"),
        ("t.csv", b"image,note\na.png,1,\nb.png,2,,\n,,\n\n,\n"),
        ("t.csv", b"image,note,,\na.png,1,,\nb.png,2\n"),
        ("t.csv", b"\n,,\nimage,note\na.png,1\nb.png,2\n"),
        ("t.csv", b"Image, NOTE \na.png,1\nb.png,2\n"),
        ("t.csv", b'"sep=;"\r\nimage;note\r\na.png;1\r\nb.png;2\r\n'),
        ("t.csv", b"sep=,\nimage,note\na.png,1\nb.png,2\n"),
        ("t.csv", "image;note\na.png;1\nb.png;2\n".encode("utf-16")),
        ("t.csv", b"\xfe\xff" + "image,note\na.png,1\nb.png,2\n".encode("utf-16-be")),
        ("t.csv.gz", gzip.compress("image,note\na.png,1\nb.png,2\n".encode("utf-16"), mtime=0)),
    ],
)
def test_tables_as_spreadsheets_write_them_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    header, rows, problems = read_table(tmp_path / name, ["image", "note"])
    assert (header, problems) == (["image", "note"], [])
    assert [row for _, row in rows] == [{"image": "a.png", "note": "1"}, {"image": "b.png", "note": "2"}]
    lines = content.decode("utf-16" if b"\0" in content else "latin-1") if name == "t.csv" else ""
    assert not lines or [number for number, _ in rows] == [
        number for number, line in enumerate(lines.splitlines(), 1) if ".png" in line
    ]


def test_a_column_in_two_other_spellings_is_not_guessed(tmp_path):
    (tmp_path / "t.csv").write_text("Image,IMAGE,label\n1,2,3\n")
    with pytest.raises(ValueError, match=r"has no columns \['image'\]; did you mean \['Image', 'IMAGE'\]\?"):
        Table(tmp_path / "t.csv", ["image", "label"])


@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), min_size=3, max_size=3),
        min_size=1,
        max_size=8,
    )
)
def test_what_csv_writes_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["a", "b", "c"], *rows])
    header, read, problems = read_table(path, ["a"])
    assert (header, problems) == (["a", "b", "c"], [])
    assert [list(row.values()) for _, row in read] == [row for row in rows if any(map(str.strip, row))]


@given(st.data())
def test_a_broken_row_is_named_by_its_line_and_costs_no_other(tmp_path_factory, data):
    lines = [f"{number}.png,{number}" for number in range(data.draw(st.integers(1, 30)))]
    broken = data.draw(st.sets(st.integers(0, len(lines) - 1)))
    for number in broken:
        lines[number] = data.draw(st.sampled_from([f"{number}.png", "1,2,3", f'"{number}.png,1', "a,b,c,", '"']))
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_text("\n".join(["image,label", *lines]))
    header, rows, problems = read_table(path)
    # A quote that is closed by a later one is a value with line breaks, which may make a whole row of several lines
    whole = [line for line, row in rows if "\n" not in row["image"] + row["label"]]
    assert {line for line, _ in problems} | {line for line, _ in rows} <= {number + 2 for number in range(len(lines))}
    if not any('"' in line for line in lines):
        assert whole == [number + 2 for number in range(len(lines)) if number not in broken]
        assert [line for line, _ in problems] == [number + 2 for number in sorted(broken)]


def test_an_open_quote_before_the_last_cell_costs_its_own_row_only_though_the_width_fits(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('image,label\na,1\nb,"2\nc,3\nd,4\n')
    table = Table(path)
    rows = [(line, record["image"]) for line, record in table]
    assert (2, "a") in rows and (4, "c") in rows and (5, "d") in rows
    assert [line for line, _ in table.problems] == [3] and "is a quote left open?" in table.problems[0][1]


def test_open_quote_costs_its_own_row_only(tmp_path):
    rows = [f"{number}.png,{number}" for number in range(400)]
    rows[3] = '"3.png,3'
    (tmp_path / "t.csv").write_text("\n".join(["image,label", *rows]))
    _, read, problems = read_table(tmp_path / "t.csv")
    assert [line for line, _ in read] == [number + 2 for number in range(400) if number != 3]
    assert [line for line, _ in problems] == [5] and "is a quote left open?" in problems[0][1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no columns ['image', 'label']; its first line must name the columns"),
        ("Jane Doe,7\n", "has no columns ['image', 'label']; its first line must name the columns"),
        ("image,lable\n", "has no columns ['label']; did you mean ['lable']?"),
        ("image;lable\n", "has no columns ['label']; did you mean ['lable']?"),
        ("image,diagnosis1.png,Jane Doe\n", "has no columns ['label']; its first line must name the columns"),
        ("file;target;split\n", "name the columns, and none of its 3 names is like these"),
        ("image,label,label\n", "has several columns ['label']"),
    ],
)
def test_header_without_the_needed_columns_is_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError) as refusal:
        Table(tmp_path / "t.csv", ["image", "label"])
    assert message in str(refusal.value) and str(tmp_path / "t.csv") in str(refusal.value)
    assert "Jane" not in str(refusal.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_damage_within_a_zip_is_named_whatever_packed_it(tmp_path, compression):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("t.csv", "a,b\n" + "1,2\n" * 500)
    content = buffer.getvalue()
    start = 30 + len("t.csv")
    for at in range(start, start + 24):  # the packing's own header and its first bytes
        (tmp_path / "t.zip").write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            read_table(tmp_path / "t.zip")
        except ValueError as refusal:
            assert type(refusal) is ValueError and str(tmp_path / "t.zip") in str(refusal)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n1,2\n3,\xff\n", "line 3 is not UTF-8"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16")[:-1], "line 2 is not UTF-16"),
        ("t.csv", b"a,b\n" + b"x" * tables.MAX_LINE, "line 2 goes beyond"),
        ("t.csv.gz", b"a,b\n1,2\n", "damaged"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 1000)[:-20], "damaged"),
        ("t.csv.zip", b"PK\x03\x04 and no more", "damaged"),
        ("t.csv.zip", zipped(b"a,b\n", "t.doc"), "must hold one table, it holds 0"),
    ],
    ids=["latin-1", "utf-16", "endless line", "no gzip", "cut gzip", "no zip", "no table in the zip"],
)
def test_file_that_is_no_table_is_refused_by_name_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as refusal:
        read_table(tmp_path / name)
    assert str(refusal.value).startswith(f"Cannot read {tmp_path / name}: ") and message in str(refusal.value)


def test_pipes_and_absent_files_are_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    for name in ("t.csv", "absent.csv", "."):
        with pytest.raises(ValueError, match="there is no such file"):
            read_table(tmp_path / name)


@pytest.mark.slow_ci
@pytest.mark.parametrize("pack", [gzip.compress, zipped], ids=["gzip", "zip"])
@pytest.mark.parametrize("bomb", [b"\0" * 30_000_000, b"a,b\n" * 8_000_000], ids=["one line", "lines"])
def test_small_file_that_unpacks_without_end_is_refused_before_it_fills_memory(tmp_path, monkeypatch, pack, bomb):
    monkeypatch.setattr(tables, "MAX_UNPACKED_BYTES", 2_000_000)
    path = tmp_path / ("t.csv.gz" if pack is gzip.compress else "t.csv.zip")
    path.write_bytes(pack(bomb))
    read = 0
    with pytest.raises(ValueError, match="unpacks to more than 2,000,000 bytes|line 1 goes beyond"):
        for _ in Table(path):
            read += 1
    assert read <= 500_000


def test_number_of_lines_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROWS", 100)
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 100)
    with pytest.raises(ValueError, match="line 101 goes beyond"):
        read_table(tmp_path / "t.csv")


def test_endless_row_of_quoted_line_breaks_is_one_problem_a_line(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n" + '","\n' * 1000 + "1,2\n")
    _, rows, problems = read_table(tmp_path / "t.csv")
    assert rows[-1] == (1002, {"a": "1", "b": "2"}) and problems


def test_lists_are_read_by_line(tmp_path):
    (tmp_path / "l.txt").write_bytes(b"\xef\xbb\xbfa.png 1\r\n\nb.png 0")
    assert list(stream_lines(tmp_path / "l.txt")) == [(1, "a.png 1\r\n"), (2, "\n"), (3, "b.png 0")]


def test_torn_files_are_refused_and_never_crash(tmp_path):
    whole = gzip.compress(TEXT.encode() * 50)
    path = Path(tmp_path / "t.csv.gz")
    for length in range(1, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="Cannot read"):
            read_table(path, ["image"])
