"""The label lists of the published code (specification of the originals, section 4), read as they are written.

Files that people have for their own splits are in these formats too, so `ark-hf data build NAME --lists DIR` reads
them.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...cells import LABEL_VALUES, label_word, plain_number, read_id
from ..rows import Problem
from .tables import stream_lines

COVIDX_CLASSES = ("normal", "pneumonia", "COVID-19")
SPLIT_WORDS = {"train": "train", "pool": "train", "val": "validation", "valid": "validation", "validate": "validation"}
SPLIT_WORDS |= {"validation": "validation", "test": "test"}


@dataclass(slots=True)
class ListedImage:
    """
    One line of a list.

    Args:
        where: "FILE, line N".
        image: Path of the image below the folder that holds them all.
        labels: A value per label in 0, 1, -1 (uncertain), NaN (blank); or the index of the class.
        patient: The patient, where the line or the image's path tells.
    """

    where: str
    image: str
    labels: list[float] | int
    patient: str | None = None


# Image, labels and patient of a line
Line = tuple[str, list[float] | int, str | None]


@dataclass(frozen=True)
class ListFormat:
    """How the lists of one dataset are written: `read` takes a line's fields, the file and the number of labels."""

    num_labels: int
    read: Callable[[Sequence[str], Path, int], Line]
    is_table: bool = False


def read_original_list(path: Path, task: str) -> Iterator[ListedImage | Problem]:
    """
    Reads one list, line by line; a wrong line comes as a [`Problem`].

    Args:
        path: The list; of COVIDx, a file with "train" in its name lists the folder `train`, any other `test`.
        task: A key of `FORMATS`.

    Raises:
        ValueError: The file cannot be read, see [`stream_lines`], or `task` has no such lists.
    """
    if task not in FORMATS:
        raise ValueError(f"The originals have no lists of {task}; they have those of {', '.join(FORMATS)}.")
    form = FORMATS[task]
    for number, line in stream_lines(path):
        where = f"{path.name}, line {number}"
        if not line.strip() or (form.is_table and number == 1):
            continue
        try:
            fields = next(csv.reader([line.strip()])) if form.is_table else line.split()
            yield ListedImage(where, *form.read(fields, path, form.num_labels))
        except (ValueError, csv.Error) as error:
            yield Problem(where, str(error))


def find_lists(folder: Path) -> dict[str, list[Path]]:
    """
    The `.txt` and `.csv` files of a folder, by the split that their names tell: train (or pool), val, test.

    Raises:
        ValueError: There are none, or a file's name tells no split or several.
    """
    lists: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in (".txt", ".csv"))
    for file in files:
        words = re.split(r"[\W_\d]+", file.stem.lower())
        splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
        if len(splits) != 1:
            raise ValueError(f"{file}: its name must tell its split by one of the words {', '.join(SPLIT_WORDS)}.")
        lists[splits.pop()].append(file)
    if not files:
        raise ValueError(f"{folder} holds no lists, that is no .txt or .csv files.")
    return lists


def _values(texts: Sequence[str], number: int, allowed: str = "0 or 1") -> list[float]:
    if len(texts) != number:
        raise ValueError(f"{len(texts)} labels, but there must be {number}")
    known = ("0", "1") if allowed == "0 or 1" else LABEL_VALUES
    words = [label_word(text) for text in texts]
    wrong = [position for position, word in enumerate(words, start=1) if word not in known]
    if wrong:
        raise ValueError(f"label {wrong[0]} of {number} must be {allowed}")
    return [LABEL_VALUES[word] for word in words]


def _check_fields(fields: Sequence[str], names: str) -> None:
    wanted = names.split()
    if len(fields) != len(wanted):
        raise ValueError(f"{len(fields)} fields, but there must be {len(wanted)}: {names}")


def _chestxray14(fields: Sequence[str], path: Path, number: int) -> Line:
    return fields[0], _values(fields[1:], number), fields[0][:8]


def _shenzhen(fields: Sequence[str], path: Path, number: int) -> Line:
    name, _, label = fields[0].partition(",")
    _check_fields(fields, "name,label")
    return name, _values([label], number), None


def _vindr_cxr(fields: Sequence[str], path: Path, number: int) -> Line:
    return f"{fields[0]}.jpeg", _values(fields[1:], number), None


def _rsna(fields: Sequence[str], path: Path, number: int) -> Line:
    _check_fields(fields, "name class")
    if plain_number(fields[1]) not in ("0", "1", "2"):
        raise ValueError("the class must be 0, 1 or 2")
    return fields[0], int(plain_number(fields[1])), None


def _covidx(fields: Sequence[str], path: Path, number: int) -> Line:
    _check_fields(fields, "patient file class source")
    patient, name, kind, _ = fields
    if kind not in COVIDX_CLASSES:
        raise ValueError(f"the class must be one of {', '.join(COVIDX_CLASSES)}")
    return f"{'train' if 'train' in path.name else 'test'}/{name}", COVIDX_CLASSES.index(kind), read_id(patient)


def _chestdr(fields: Sequence[str], path: Path, number: int) -> Line:
    _check_fields(fields, "name labels")
    return fields[0], _values(fields[1].split(","), number), None


def _chexpert(fields: Sequence[str], path: Path, number: int) -> Line:
    # The table of the test set has neither sex nor age nor views.
    labels = fields[1:] if "test" in fields[0] else fields[5:]
    patient = re.search(r"patient\d+", fields[0])
    return fields[0], _values(labels, number, "1, 0, -1 or blank"), patient[0] if patient else None


def _mimic_cxr(fields: Sequence[str], path: Path, number: int) -> Line:
    # The published table's columns before the labels: image_path, dicom_id, study_id, subject_id, split
    labels = _values(fields[5:], number, "1, 0, -1 or blank")
    return fields[0], labels, read_id(fields[3])


FORMATS = {
    "chestxray14": ListFormat(14, _chestxray14),
    "chexpert": ListFormat(14, _chexpert, is_table=True),
    "mimic_cxr": ListFormat(14, _mimic_cxr, is_table=True),
    "rsna": ListFormat(3, _rsna),
    "vindr_cxr": ListFormat(6, _vindr_cxr),
    "shenzhen": ListFormat(1, _shenzhen),
    "covidx": ListFormat(3, _covidx),
    "chestdr": ListFormat(19, _chestdr),
}
