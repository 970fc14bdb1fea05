"""What the readers of the official releases share: the image that a release tells of, rows, and values in words."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ...cells import label_word
from ...cells import read_age as read_known_age
from ...cells import read_sex as read_known_sex
from ..rows import Problem
from .tables import Record, Table

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
        masks: As in [`Row`].
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
    masks: Any = None


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
    """The value of a label's cell, see [`label_word`]. Raises `ValueError` if it is none of `values`."""
    word = label_word(text)
    if word not in values:
        raise ValueError(f"{label} must be one of {', '.join(value or 'blank' for value in values)}")
    return values[word]


def read_sex(text: str) -> str | None:
    """As [`cells.read_sex`], but None for a word that it does not know: a release is not its user's to mend."""
    try:
        return read_known_sex(text)
    except ValueError:
        return None


def read_age(text: str) -> float | None:
    """As [`cells.read_age`], but None for what is no age."""
    try:
        return read_known_age(text)
    except ValueError:
        return None
