"""Sources that we do not know: which columns say what, and how labels, classes and metadata are read of them."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...cells import LABEL_VALUES, METADATA_READERS, fold, is_blank, label_word, plain_number, plain_text
from ...labels import normalise
from ...models.ark.tasks_ark import DEFAULT_MODALITY, ArkTask
from .columns import column_key, find_column, instead_of

NOTHING = normalise("No Finding")
# Columns that are read without being named, in any spelling of case, blanks and "_"; the first are the defaults
COLUMN_NAMES = {
    "patient_id": ("patientid", "patient", "subjectid"),
    "study_id": ("studyid",),
    "sex": ("sex", "gender", "patientsex", "patientgender"),
    "age": ("age", "patientage", "ageyears", "ageinyears"),
    "view": ("view", "viewposition"),
}


@dataclass(kw_only=True)
class LabelledSource:
    """
    How labels and metadata of a source are read.

    Args:
        labels: Label columns of a multi-label task, each 0, 1, -1 (uncertain) or blank (unknown), or words such as
            yes, False, positive.
        label_column: Instead of `labels`, the one column that holds a class name, or with `separator` a list of
            findings. Blank is unknown.
        label_map: What other words stand for, `WORD=VALUE`: a label's 0, 1, -1 or nothing, or a class.
        classes: The class names in order; by default those that occur, sorted, numbers by their size. Case and blanks
            do not matter.
        separator: What stands between the findings of `label_column`. "No Finding" is none of them, unless it is
            among `classes`.
        image_column: The column of the images.
        patient_column, sex_column, age_column, view_column: The columns of the metadata, None: not read. The
            defaults are found in other spellings too, see `COLUMN_NAMES`.
        modality: What the images are taken with, as of an [`ArkTask`].
    """

    labels: list[str] = field(default_factory=list)
    label_column: str | None = None
    label_map: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    separator: str | None = None
    image_column: str = "image"
    patient_column: str | None = "patient_id"
    sex_column: str | None = "sex"
    age_column: str | None = "age"
    view_column: str | None = "view"
    modality: str = DEFAULT_MODALITY

    def check_label_options(self) -> None:
        """Raises `ValueError` if the options do not say how labels are read."""
        if bool(self.labels) == (self.label_column is not None):
            raise ValueError(
                "Give either --labels (0/1 columns of a multi-label task) or --label_column (one column of class "
                "names; of lists of findings with --separator)."
            )
        if self.labels and (self.classes or self.separator is not None):
            raise ValueError("--classes and --separator go with --label_column, not with --labels.")
        if self.separator == "":
            raise ValueError("--separator must not be empty.")
        self.words()

    def words(self) -> dict[str, str]:
        """`label_map` as a mapping of folded words. Raises `ValueError`."""
        words: dict[str, str] = {}
        for entry in self.label_map:
            word, equals, value = entry.rpartition("=")
            if not equals or self.labels and value not in LABEL_VALUES:
                allowed = "0, 1, -1 (uncertain) or nothing (unknown)" if self.labels else "a class, or nothing"
                raise ValueError(f"--label_map {entry!r}: write WORD=VALUE, the value being {allowed}.")
            if words.setdefault(fold(word), value) != value:
                raise ValueError(f"--label_map gives {word!r} two values.")
        return words

    def metadata_columns(self, header: Sequence[str], where: str) -> dict[str, str]:
        """
        The source's column for each column of a task dataset that it tells of.

        Raises:
            ValueError: A column that is asked for is not there, or several could be meant.
        """
        asked = {
            "patient_id": self.patient_column,
            "study_id": "study_id",
            "sex": self.sex_column,
            "age": self.age_column,
            "view": self.view_column,
        }
        columns = {}
        taken = {self.image_column, self.label_column, *self.labels}
        for name, given in asked.items():
            if given is None:
                continue
            known = COLUMN_NAMES[name] if given == name else (column_key(given),)
            column = find_column([each for each in header if each not in taken], given, known, name, where)
            if column is not None:
                columns[name] = column
            elif given != name:
                raise ValueError(f"{where} has no columns {[given]}; {instead_of([given], header)}")
        return columns


def read_metadata(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a row, None where it does not say. Raises `ValueError`, which does not quote them."""
    return {name: read(record.get(columns.get(name, ""))) for name, read in METADATA_READERS.items()}


def metadata_remarks(columns: Mapping[str, str]) -> list[str]:
    """Tells of columns that are read though they are called otherwise."""
    renamed = {name: column for name, column in columns.items() if column_key(column) != column_key(name)}
    told = ", ".join(f"{name} from {column!r}" for name, column in renamed.items())
    return [f"Read without being asked for: {told}."] if told else []


class ClassNames:
    """
    The names in a column of classes or of findings, one each however often and in whatever case they are written.

    Args:
        source: Its classes, if it names them, its separator and its own words.
        is_list: Whether the column holds lists of findings.
    """

    def __init__(self, source: LabelledSource, is_list: bool):
        self.separator, self.words, self.is_list = source.separator, source.words(), is_list
        self.classes = [plain_number(name) for name in source.classes]
        self.given = {fold(name) for name in self.classes}
        self.blank_words: Counter[str] = Counter()
        self.remarks: list[str] = []

    def parse(self, cell: Any) -> list[str]:
        """The class in a cell, or the findings if it is a list; [] for a blank one."""
        if isinstance(cell, list):
            cells = cell
        else:
            cells = [cell] if self.separator is None or not isinstance(cell, str) else cell.split(self.separator)
        names = []
        for each in cells:
            text = each.strip() if isinstance(each, str) else plain_text(each)
            text = plain_number(self.words.get(fold(text), text))
            if is_blank(text) and fold(text) not in self.given:
                self.blank_words[text] += bool(text)
            else:
                names.append(text)
        return list(dict.fromkeys(names))

    def know(self, names: Sequence[str]) -> None:
        """Takes the names of a type, in its order, for the classes."""
        self.given = {fold(name) for name in names}
        joined, self.remarks = joined_names(Counter(map(str.strip, names)))
        order = list(dict.fromkeys(map(fold, names)))
        self.classes = sorted(joined, key=lambda name: order.index(fold(name)))
        if self.is_list:
            self.classes = without_nothing(self.classes)

    def learn(self, cells: Iterable[Any]) -> None:
        """Takes the names that occur for the classes, unless the source gives some."""
        if self.classes:
            return
        counts = Counter(name for cell in cells for name in self.parse(cell))
        self.classes, self.remarks = joined_names(counts)
        if self.is_list:
            self.classes = without_nothing(self.classes)
        blank = [f"{word!r} ({count:,})" for word, count in sorted(self.blank_words.items()) if count]
        if blank:
            self.remarks.append(f"Cells that count as unknown: {', '.join(blank)}; --classes makes a class of a word.")


def joined_names(counts: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """
    Names of classes, each once and in order, numbers by their size; and what is to be told.

    Those that differ in case or blanks alone are one, spelt as most often.

    Raises:
        ValueError: Some differ in little else, such as "viral_pneumonia" and "viral pneumonia".
    """
    spellings: dict[str, list[str]] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        spellings.setdefault(fold(name), []).append(name)
    alike: dict[str, list[str]] = {}
    for names in spellings.values():
        alike.setdefault(normalise(names[0]), []).append(names[0])
    for key, names in alike.items():
        if key and len(names) > 1:
            raise ValueError(
                f"The classes {sorted(names)} look like one; write them alike, or name all classes with --classes."
            )
    told = [f"{names[0]!r} (also {', '.join(map(repr, names[1:]))})" for names in spellings.values() if names[1:]]
    remarks = [f"Names that differ in case or blanks alone are one class: {', '.join(told)}."] if told else []
    return sorted((names[0] for names in spellings.values()), key=_natural), remarks


def _natural(name: str) -> tuple:
    """Sorts numbers by their size: 2 before 10, and "grade 2" before "grade 10"."""
    try:
        return (0, float(name), name)
    except ValueError:
        parts = re.split(r"(\d+)", name)
        return (1, [(int(part), "") if part.isdecimal() else (-1, part) for part in parts if part], name)


def without_nothing(names: Sequence[str]) -> list[str]:
    return [name for name in names if normalise(name) != NOTHING]


def places(labels: Sequence[str]) -> dict[str, int]:
    """The place of each folded name. Raises `ValueError` if two differ in case or blanks alone."""
    found = {fold(label): number for number, label in enumerate(labels)}
    twins = [label for label in dict.fromkeys(labels) if sum(fold(other) == fold(label) for other in labels) > 1]
    if len(twins) > 1:
        raise ValueError(f"The labels {twins} differ in case or blanks alone; keep one, or rename them.")
    return found


class LabelReader:
    """
    Makes stored labels of what a row says.

    Args:
        name: Name of the task.
        source: How its labels are read.
        names: The names in its column of classes or findings; None: each label has its own column.

    Raises:
        ValueError: Labels differ in case or blanks alone, or no task can have them.
    """

    def __init__(self, name: str, source: LabelledSource, names: ClassNames | None = None):
        self.source, self.names, self.words = source, names, source.words()
        labels = source.labels if names is None else names.classes
        single = names is not None and not names.is_list
        self.place = places(labels)
        self.task = ArkTask(
            name, list(labels), "single_label_classification" if single else "multi_label_classification"
        )

    def read(self, record: Mapping[str, Any]) -> list[float] | int:
        """A row's labels. Raises `ValueError` that says what is allowed."""
        if self.names is not None:
            return self._from_names(self.names.parse(record[self.source.label_column or ""]))
        values = []
        for label in self.source.labels:
            word = label_word(record[label], self.words)
            if word not in LABEL_VALUES:
                raise ValueError(
                    f"{label} is {word!r}: use 0, 1, -1 (uncertain) or blank (unknown), or say with --label_map what "
                    "it stands for"
                )
            values.append(LABEL_VALUES[word])
        return values

    def _from_names(self, names: Sequence[str]) -> list[float] | int:
        is_list = self.names is not None and self.names.is_list
        wrong = [name for name in names if fold(name) not in self.place]
        if is_list:
            wrong = without_nothing(wrong)
        if wrong:
            raise ValueError(
                f"{self.source.label_column} {wrong[0]!r} is not a class; the classes are {self.task.labels}"
            )
        found = {self.place[fold(name)] for name in names if fold(name) in self.place}
        if not is_list:
            return found.pop() if found else -1
        return [float(number in found) if names else math.nan for number in range(len(self.place))]
