"""Columns of tables by their names, however these are spelt."""

import difflib
import re
import unicodedata
from collections.abc import Sequence


def column_key(name: str) -> str:
    """What is alike of the spellings of a column's name: "Patient ID", "patient_id", "PatientID"."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", name).casefold())


def instead_of(missing: Sequence[str], header: Sequence[str]) -> str:
    """
    For the end of a message: which columns of a table are spelt almost as those that it lacks. Others are not named:
    the first line may be a patient's row, or run into one.
    """
    alike = [name for name in header if any(_is_like(name, column) for column in missing)]
    if alike:
        return f"did you mean {alike}?"
    return f"its first line must name the columns, and none of its {len(header):,} names is like these."


def _is_like(name: str, column: str) -> bool:
    return len(name) < 200 and difflib.SequenceMatcher(None, column_key(name), column_key(column)).ratio() > 0.75


def find_column(header: Sequence[str], name: str, keys: Sequence[str], what: str, where: str) -> str | None:
    """The column of that name, or else the one whose key is the first of `keys` that there is; `ValueError` of two."""
    if name in header:
        return name
    for key in keys:
        found = [each for each in header if column_key(each) == key]
        if len(found) > 1:
            raise ValueError(f"{where} has the columns {found}; say which one is {what}, or give it that name.")
        if found:
            return found[0]
    return None
