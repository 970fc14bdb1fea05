"""Reading Markdown tables as renderers do: a bar ends a cell unless a backslash stands before it."""

import re


def tables_in(text: str) -> list[list[list[str]]]:
    """The cells of each table, header first; the line of dashes must fit the header."""
    found: list[list[list[str]]] = []
    is_table = False
    for line in text.splitlines():
        if line.startswith("|"):
            if not is_table:
                found.append([])
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
            assert cells[0] == cells[-1] == ""
            found[-1].append(cells[1:-1])
        is_table = line.startswith("|")
    for table in found:
        assert set(table.pop(1)) == {"---"}
    return found


def column(text: str, name: str) -> list[str]:
    """The cells below a header of the first table that has it, as a reader sees them; each row must fit the header."""
    table = next(table for table in tables_in(text) if name in table[0])
    assert {len(row) for row in table} == {len(table[0])}
    return [row[table[0].index(name)].replace("\\|", "|") for row in table[1:]]
