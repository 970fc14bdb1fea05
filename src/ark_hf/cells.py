"""What the cells of tables mean, whoever wrote them: blanks, numbers, labels, and what is known of a patient or image.

Every reader of tables, Hub datasets, DICOM tags and stored datasets asks these functions, so that one word means the
same everywhere.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache
from numbers import Real
from typing import Any

MAX_AGE = 120

# What programs write where there is nothing, as pandas reads it, in lower case
_BLANKS = frozenset(
    {"", "nan", "-nan", "na", "n/a", "n.a.", "<na>", "#n/a", "#na", "#n/a n/a", "nat", "none", "null", "nil"}
    | {"1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "#null!", "#value!", "#ref!", "#div/0!"}
)
# What people write of a patient where they do not know
_UNKNOWN = frozenset({"unknown", "unk", "?", "-", "--", "not available", "not known", "missing"})

# Absent, there, uncertain, and blank: unknown
LABEL_VALUES = {"": math.nan, "0": 0.0, "1": 1.0, "-1": -1.0}
_LABEL_WORDS = (
    dict.fromkeys(("true", "yes", "y", "positive", "pos", "present"), "1")
    | dict.fromkeys(("false", "no", "n", "negative", "neg", "absent"), "0")
    | dict.fromkeys(("uncertain", "equivocal"), "-1")
)
_SEXES = (
    dict.fromkeys(("m", "male", "man", "boy", "männlich"), "M")
    | dict.fromkeys(("f", "female", "woman", "girl", "w", "weiblich"), "F")
    | dict.fromkeys(("o", "other", "d", "x", "u", "diverse", "intersex"), None)
)
_VIEWS = (
    dict.fromkeys(("pa", "posteroanterior", "posterioranterior", "posteriortoanterior"), "PA")
    | dict.fromkeys(("ap", "anteroposterior", "anteriorposterior", "anteriortoposterior"), "AP")
    | dict.fromkeys(("l", "ll", "rl", "lat", "lateral", "leftlateral", "rightlateral"), "lateral")
    | {"frontal": "frontal"}
)
_POWER_OF_TEN = r"([+-]?\d)[.,](\d+)[eE]\+?(\d+)"
_AGE = re.compile(
    r"(?P<above>(?:>=?|≥|over|above)\s*)?(?P<number>\d{1,4}(?:[.,]\d+)?)\s*"
    r"(?P<unit>y(?:r|rs|ear|ears|o|/o)?|m(?:o|os|on|ths?|onths?)?|w(?:k|ks|eek|eeks)?|d(?:ay|ays)?)?\.?"
    r"(?P<more>\s*(?:\+|or (?:older|more)))?(?:\s*old)?",
    re.IGNORECASE,
)


def is_blank(value: Any) -> bool:
    """Whether a cell says nothing: None, NaN, no text, or what programs write for that, such as "nan" or "N/A"."""
    if isinstance(value, str):
        return value.strip().casefold() in _BLANKS
    return value is None or isinstance(value, Real) and value != value


def plain_text(value: Any) -> str:
    """A cell as text without blanks around, "" if it says nothing; a float that is whole without decimals."""
    if is_blank(value):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip()


def plain_number(text: str) -> str:
    """A whole number that a program has given decimals, "3.0" or "1.5e+01", as it was; any other text as it is."""
    if re.fullmatch(r"[+-]?\d+[.,]0+", text):
        return re.split("[.,]", text)[0]
    power = re.fullmatch(_POWER_OF_TEN, text)
    if power and len(power[2]) >= int(power[3]) and not power[2][int(power[3]) :].strip("0"):
        return power[1] + power[2][: int(power[3])]
    return text


def label_word(value: Any, own: Mapping[str, str] | None = None) -> str:
    """
    What a cell says of a label: "1", "0", "-1" (uncertain) or "" (unknown); another text as it is.

    Args:
        own: What further words, folded as [`fold`] does, stand for.
    """
    text = value if isinstance(value, str) else plain_text(value)
    if own and fold(plain_text(text)) in own:
        return own[fold(plain_text(text))]
    return _known_word(text)


@lru_cache(maxsize=1024)  # a table has millions of cells, and few words
def _known_word(text: str) -> str:
    text = plain_text(text)
    return plain_number(_LABEL_WORDS.get(fold(text), text))


def fold(name: str) -> str:
    """A name without regard to upper and lower case, blanks, and how its accents are composed."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def read_id(value: Any) -> str | None:
    """
    The id of a patient or study; whole numbers without decimals.

    Raises:
        ValueError: A spreadsheet has rounded it, so that it is no one's. The message does not quote it.
    """
    text = plain_number(plain_text(value))
    if re.fullmatch(_POWER_OF_TEN, text) or isinstance(value, float) and abs(value) >= 2**53:
        raise ValueError("an id is a rounded number, as spreadsheets write long ones; make its column one of text")
    return None if text.casefold() in _UNKNOWN else text or None


def read_sex(value: Any) -> str | None:
    """ "M" or "F"; None for blank, unknown or other. Raises `ValueError`, which does not quote what is there."""
    text = fold(plain_text(value))
    if not text or text in _UNKNOWN:
        return None
    if text not in _SEXES:
        raise ValueError("sex must be M or F, or words such as male and female, or blank")
    return _SEXES[text]


def read_age(value: Any) -> float | None:
    """
    Years of "58", "058Y", "011M", "64 days", "45,5"; 90 of ">89", as dates are hidden; None for blank, unknown, or
    more than a human age, which is a typing error. Raises `ValueError`, which does not quote what is there.
    """
    text = plain_text(value)
    if not text or text.casefold() in _UNKNOWN:
        return None
    match = _AGE.fullmatch(text)
    if match is None:
        raise ValueError("age must be a number of years or blank, such as 45, 045Y, 6M or >89")
    number = float(match["number"].replace(",", "."))
    if (match["above"] or "").strip() in (">", "over", "above"):
        number += 1
    return age_in_years(number, (match["unit"] or "")[:1])


def age_in_years(number: float, unit: str = "") -> float | None:
    """Years of days ("d"), weeks, months or years (also without unit); None if no human is so old: a typing error."""
    years = number / {"d": 365.25, "w": 365.25 / 7, "m": 12}.get(unit.lower(), 1)
    return years if years <= MAX_AGE else None


def read_view(value: Any) -> str | None:
    """ "PA", "AP", "lateral", "frontal" for their spellings, another word as it is; None for blank or unknown."""
    text = plain_text(value)
    if not text or text.casefold() in _UNKNOWN:
        return None
    return _VIEWS.get(re.sub(r"[\W_]+", "", text.casefold()), " ".join(text.split()))


# By the columns that a task dataset may have beside image, labels and image_id, in this order
METADATA_READERS: dict[str, Callable[[Any], Any]] = {
    "patient_id": read_id,
    "study_id": read_id,
    "sex": read_sex,
    "age": read_age,
    "view": read_view,
}


def stored_value(column: str, value: Any) -> Any:
    """A value of a dataset that was stored by whatever reader: as ours would have it, where ours can read it."""
    if is_blank(value):
        return None
    try:
        return METADATA_READERS[column](value) if column in METADATA_READERS else value
    except ValueError:
        return value
