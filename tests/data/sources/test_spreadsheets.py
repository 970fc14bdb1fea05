"""Excel sheets are read as the same table in CSV."""

import zipfile
from datetime import date
from pathlib import Path

import openpyxl
import pytest

from ark_hf.data.sources import spreadsheets
from ark_hf.data.sources.generic import GenericSource, read_generic
from ark_hf.data.sources.tables import Table

from ..build.generated import draw_picture

ROWS = [
    ["Image", "Patient ID", "Sex", "Age", "Nodule", "Split"],
    ["1.png", 10000032, "male", 45, True, "train"],
    ["2.png", 10000039.0, "F", "6M", 0, "train"],
    [],
    ["3.png", None, "weiblich", ">89", "ja", "val"],
    ["4.png", "nan", None, 300, "#N/A", "test"],
]


def write_workbook(path: Path, sheets: dict[str, list[list]], hidden: tuple = ()) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        sheet.sheet_state = "hidden" if name in hidden else "visible"
        for row in rows:
            sheet.append(row)
    book.save(path)


def test_a_sheet_is_the_table_in_it(tmp_path):
    write_workbook(tmp_path / "t.xlsx", {"Notes": [["to whom it may concern"]], "Data": ROWS})
    table = Table(tmp_path / "t.xlsx", ["image", "nodule"])
    assert table.header == ["image", "Patient ID", "Sex", "Age", "nodule", "Split"]
    lines = [line for line, _ in table]
    assert lines == [2, 3, 5, 6] and list(table) == list(table) and not table.problems
    first = next(iter(table))[1]
    assert (first["image"], first["Patient ID"], first["nodule"]) == ("1.png", "10000032", "True")


def test_dates_are_read_as_such_and_formulas_as_their_last_result(tmp_path):
    write_workbook(tmp_path / "t.xlsx", {"one": [["image", "taken", "sum"], ["1.png", date(2024, 2, 29), "=1+1"]]})
    ((_, row),) = Table(tmp_path / "t.xlsx", ["image"])
    assert row["taken"].startswith("2024-02-29") and row["sum"] == ""  # nobody has calculated it


def test_a_row_that_claims_to_be_the_last_of_a_billion_is_refused(tmp_path):
    write_workbook(tmp_path / "t.xlsx", {"one": [["image"], ["1.png"]]})
    with zipfile.ZipFile(tmp_path / "t.xlsx") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    members[sheet] = (
        members[sheet].replace(b'<row r="2"', b'<row r="1000000000"').replace(b'r="A2"', b'r="A1000000000"')
    )
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="it has more than 1,048,576 rows"):
        list(Table(tmp_path / "t.xlsx", ["image"]))


def test_excel_and_csv_give_the_same_rows(tmp_path):
    for number in range(1, 5):
        draw_picture(tmp_path / f"{number}.png", number, (8, 8))
    options = {"labels": ["nodule"], "label_map": ["ja=1"]}
    write_workbook(tmp_path / "labels.xlsx", {"Sheet1": ROWS})
    sheet = read_generic(GenericSource(tmp_path, "lungs", **options))
    (tmp_path / "labels.xlsx").unlink()
    text = "\n".join(";".join("" if value is None else str(value) for value in row) for row in ROWS)
    (tmp_path / "labels.csv").write_text(text)
    table = read_generic(GenericSource(tmp_path, "lungs", **options))
    assert not sheet.problems + table.problems
    told = [
        [(row.path.name, row.split, repr(row.labels), row.metadata) for row in each.rows] for each in (sheet, table)
    ]
    assert told[0] == told[1]
    assert [row.labels for row in sheet.rows][:3] == [[1], [0], [1]]
    assert [row.metadata["patient_id"] for row in sheet.rows] == ["10000032", "10000039", None, None]
    assert [row.metadata["sex"] for row in sheet.rows] == ["M", "F", "F", None]
    assert [row.metadata["age"] for row in sheet.rows] == [45, 0.5, 90, None]


def test_two_sheets_with_the_columns_are_refused_and_hidden_ones_left_out(tmp_path):
    sheets = {"one": ROWS, "two": ROWS}
    write_workbook(tmp_path / "t.xlsx", sheets)
    with pytest.raises(ValueError, match=r"has 2 sheets with the columns \['image'\]; leave one"):
        Table(tmp_path / "t.xlsx", ["image"])
    write_workbook(tmp_path / "t.xlsx", sheets, hidden=("one",))
    assert len(list(Table(tmp_path / "t.xlsx", ["image"]))) == 4
    with pytest.raises(ValueError, match=r"has no columns \['mass'\]; its first line must name the columns"):
        Table(tmp_path / "t.xlsx", ["image", "mass"])


def test_what_is_no_workbook_is_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "t.xlsx"
    write_workbook(path, {"one": ROWS})
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"Cannot read {path}: it is no Excel sheet"):
            list(Table(path, ["image"]))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<a>")
    with pytest.raises(ValueError, match=rf"Cannot read {path}: it is no Excel sheet"):
        Table(path)
    path.write_bytes(whole)
    monkeypatch.setattr(spreadsheets, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ValueError, match=rf"Cannot read {path}: it unpacks to more than 1,000 bytes"):
        Table(path)
    with pytest.raises(ValueError, match="there is no such file"):
        Table(tmp_path / "absent.xlsx")


@pytest.mark.parametrize(
    ("name", "start", "message"),
    [
        ("t.csv", b"PK\x03\x04", r"an Excel sheet \(give it its name in .xlsx\) or another archive"),
        ("t.csv", b"\x1f\x8b\x08\x00", "packed by its content; give it its name in .gz"),
        ("t.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "an Excel file of the old kind, or under a password; save it as .xlsx"),
        ("t.csv", b"PAR1", "a parquet file"),
    ],
)
def test_files_that_are_something_else_are_called_so(tmp_path, name, start, message):
    (tmp_path / name).write_bytes(start + bytes(50))
    with pytest.raises(ValueError, match=message):
        Table(tmp_path / name, ["image"])
