"""Columns of tables by their names, however these are spelt."""

import re
import unicodedata
from collections.abc import Sequence


def column_key(name: str) -> str:
    """What is alike of the spellings of a column's name: "Patient ID", "patient_id", "PatientID"."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", name).casefold())


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
