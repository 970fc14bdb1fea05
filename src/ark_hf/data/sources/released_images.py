"""What the readers of the official releases share: the image that a release tells of, rows, and values in words."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ..images.dicom import age_in_years
from ..rows import Problem
from .tables import Record, Table

_AGE = re.compile(r"\s*(\d{1,4}(?:\.\d+)?) ?([ymwd]?)", re.IGNORECASE)
Result = TypeVar("Result")


@dataclass(slots=True)
class ReleasedImage:
    """
    One image as a release tells of it.

    Args:
        where: "FILE, line N", or the image's path where the release has no table.
        image: Name, or path, of the image in the release.
        labels: As in [`Row`].
        split: "train", "validation" or "test"; None: the builder decides, by the entry's shares.
        patient_id, study_id, sex, age, view: What is known of `OPTIONAL_COLUMNS`.
        path: Where the image lies in the folder, if the reader has looked.
    """

    where: str
    image: str
    labels: list[float] | int
    split: str | None = None
    patient_id: str | None = None
    study_id: str | None = None
    sex: str | None = None
    age: float | None = None
    view: str | None = None
    path: str | None = None


ReleasedImages = Iterator[ReleasedImage | Problem]


def each_row(table: Table, read: Callable[[str, Record], Result]) -> Iterator[Result | Problem]:
    """What `read` makes of each row, and a problem of each row that it refuses or that has another width."""
    for line, row in table:
        where = f"{table.path.name}, line {line}"
        try:
            yield read(where, row)
        except ValueError as error:
            yield Problem(where, str(error))
    for line, reason in table.problems:
        yield Problem(f"{table.path.name}, line {line}", reason)


def read_value(text: str, label: str, values: Mapping[str, float]) -> float:
    if text not in values:
        raise ValueError(f"{label} must be one of {', '.join(value or 'blank' for value in values)}")
    return values[text]


def read_sex(text: str) -> str | None:
    return {"m": "M", "f": "F"}.get(text[:1].lower())


def read_age(text: str) -> float | None:
    """Years of "58", "058Y", "011M", "64days"; None for what is no age, or is more than a human one."""
    number = _AGE.match(text)
    if not number:
        return None
    years = age_in_years(float(number[1]), number[2])
    return None if years is None else round(years, 2)


def read_view(text: str) -> str | None:
    return {"": None, "UNK": None, "L": "lateral", "LL": "lateral", "LATERAL": "lateral"}.get(text, text)
