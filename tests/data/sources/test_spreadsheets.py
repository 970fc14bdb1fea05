"""Excel sheets: written here as Excel, LibreOffice and pandas write them, and read as the same table in CSV."""

import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from ark_hf.data.sources import spreadsheets
from ark_hf.data.sources.generic import GenericSource, read_generic
from ark_hf.data.sources.tables import Table

from ..build.generated import draw_picture

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
ROWS = [
    ["Image", "Patient ID", "Sex", "Age", "Nodule", "Split"],
    ["1.png", 10000032, "male", 45, True, "train"],
    ["2.png", 10000039.0, "F", "6M", 0, "train"],
    [],
    ["3.png", None, "weiblich", ">89", "ja", "val"],
    ["4.png", "nan", None, 300, "#N/A", "test"],
]


def write_workbook(path: Path, sheets: dict[str, list[list]], inline: bool = False, hidden: tuple = ()) -> None:
    """Texts in the table of strings, in two parts if they have several words, or in the cells."""
    strings: list[str] = []

    def cell(place: str, value) -> str:
        if value is None:
            return f'<c r="{place}" s="1"/>'
        if isinstance(value, bool):
            return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
        if not isinstance(value, str):
            return f'<c r="{place}"><v>{value}</v></c>'
        if value.startswith("#"):
            return f'<c r="{place}" t="e"><v>{value}</v></c>'
        if inline:
            return f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'
        strings.append(value)
        return f'<c r="{place}" t="s"><v>{len(strings) - 1}</v></c>'

    members = {}
    for number, rows in enumerate(sheets.values(), 1):
        lines = [
            f'<row r="{line}">'
            + "".join(cell(f"{'ABCDEFGH'[i]}{line}", value) for i, value in enumerate(row))
            + "</row>"
            for line, row in enumerate(rows, 1)
        ]
        members[f"xl/worksheets/sheet{number}.xml"] = (
            f"<worksheet {MAIN}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        )
    names = ""
    for i, name in enumerate(sheets, 1):
        state = "hidden" if name in hidden else "visible"
        names += f'<sheet name="{escape(name)}" sheetId="{i}" r:id="rId{i}" state="{state}"/>'
    members["xl/workbook.xml"] = f'<workbook {MAIN} xmlns:r="{OFFICE}"><sheets>{names}</sheets></workbook>'
    links = "".join(
        f'<Relationship Id="rId{i}" Target="{"/xl/" * (i % 2)}worksheets/sheet{i}.xml" Type="x"/>'
        for i in range(1, len(sheets) + 1)
    )
    members["xl/_rels/workbook.xml.rels"] = f'<Relationships xmlns="{PACKAGE}">{links}</Relationships>'
    items = ""
    for text in strings:
        first, blank, rest = text.partition(" ")
        parts = f"<r><t>{escape(first)}</t></r><r><t>{blank}{escape(rest)}</t></r><rPh><t>x</t></rPh>"
        items += f"<si>{parts if blank else f'<t>{escape(text)}</t>'}</si>"
    if not inline:
        members["xl/sharedStrings.xml"] = f"<sst {MAIN}>{items}</sst>"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + text)


@pytest.mark.parametrize("inline", [False, True], ids=["shared strings", "inline strings"])
def test_a_sheet_is_the_table_in_it(tmp_path, inline):
    rows = ROWS if not inline else [[value or "" for value in row] for row in ROWS]
    write_workbook(tmp_path / "t.xlsx", {"Notes": [["to whom it may concern"]], "Data": rows}, inline)
    table = Table(tmp_path / "t.xlsx", ["image", "nodule"])
    assert table.header == ["image", "Patient ID", "Sex", "Age", "nodule", "Split"]
    lines = [line for line, _ in table]
    assert lines == [2, 3, 5, 6] and list(table) == list(table) and not table.problems
    first = next(iter(table))[1]
    assert (first["image"], first["Patient ID"], first["nodule"]) == ("1.png", "10000032", "True")


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
    with pytest.raises(ValueError, match=r"has no columns \['mass'\]; it has \['image', 'Patient ID'"):
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
