"""Numbers, intervals and tables as all reports write them."""

import math

import pytest

from ark_hf.pages.formats import format_defined, format_interval, format_number, markdown_table

from .markdown_table import tables_in


def test_numbers_and_intervals():
    assert [format_number(value) for value in (0.12345, None, math.nan, 0)] == ["0.123", "", "", "0.000"]
    assert format_number(0.12345, 100, 1) == "12.3" and format_number(0.1, digits=4, sign="+") == "+0.1000"
    assert format_defined(math.nan) == format_defined(None) == "undefined" and format_defined(-0.5, 2, "+") == "-0.50"
    assert format_interval(-0.5, 0.25, sign="+") == "-0.500 to +0.250" and format_interval(0, 1, 100, 0) == "0 to 100"
    assert format_interval(0.5, None) == format_interval(math.nan, 0.5) == format_interval(math.nan, math.nan) == ""


@pytest.mark.parametrize("cell", ["a|b", "|", "a\nb", "a\r\n| b |\n", " a "])
def test_no_cell_ends_a_row_or_a_table(cell):
    lines = markdown_table(["name", "n"], [[cell, 1], ["", cell]])
    assert len(lines) == 4 and not any("\n" in line for line in lines)
    ((header, *rows),) = tables_in("\n".join(lines))
    assert header == ["name", "n"] and [len(row) for row in rows] == [2, 2]
    assert rows[0][0].replace("\\|", "|") == " ".join(cell.split())
