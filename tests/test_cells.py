"""What words in tables mean: the same in every reader."""

import math

import numpy as np
import pytest

from ark_hf.cells import (
    LABEL_VALUES,
    is_blank,
    label_word,
    plain_number,
    plain_text,
    read_age,
    read_id,
    read_sex,
    read_view,
    stored_value,
)


@pytest.mark.parametrize(
    "value", ["", "  ", "nan", "NaN", "NA", "N/A", "n/a", "None", "null", "NULL", "<NA>", " nan ", "#N/A", "NaT"]
)
def test_what_programs_write_for_nothing_is_blank_in_every_column(value):
    assert is_blank(value) and plain_text(value) == "" and label_word(value) == ""
    assert read_id(value) is read_sex(value) is read_age(value) is read_view(value) is None
    assert stored_value("patient_id", value) is None and stored_value("site", value) is None


def test_nothing_and_no_number_are_blank_and_words_are_not():
    assert is_blank(None) and is_blank(math.nan) and is_blank(np.float32("nan"))
    assert not any(map(is_blank, ["0", 0, 0.0, False, "Nancy", "no", "-1", "none of these"]))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("3", "3"),
        ("3.0", "3"),
        ("3,0", "3"),
        ("-1.00", "-1"),
        ("10000032.0", "10000032"),
        ("1.0000032e+07", "10000032"),
        ("1.5E+01", "15"),
        ("1.0000032E7", "10000032"),
        ("3.5", "3.5"),
        ("007", "007"),
        ("1.2.840.0", "1.2.840.0"),
        ("12E4", "12E4"),  # an id, not a number
        ("p3.0", "p3.0"),
    ],
)
def test_whole_numbers_lose_the_decimals_that_programs_gave_them(text, plain):
    assert plain_number(text) == plain and read_id(text) == plain


def test_ids_are_whole_whatever_their_type_and_rounded_ones_are_refused():
    assert read_id(10000032.0) == read_id(10000032) == read_id(" 10000032 ") == "10000032"
    assert read_id(2.0**53 - 1) == str(2**53 - 1) and read_id(2**60) == str(2**60)
    for rounded in ("1.23457E+12", "1,23457e+12", "1.23457E12", 2.0**60):
        with pytest.raises(ValueError, match="rounded number") as refusal:
            read_id(rounded)
        assert "23457" not in str(refusal.value)
    assert read_id("unknown") is read_id("?") is read_id("-") is None


@pytest.mark.parametrize(
    ("cells", "value"),
    [
        (("1", "1.0", "1,0", 1, 1.0, True, "True", "yes", "Y", "POSITIVE", " positive "), 1),
        (("0", "0.0", 0, 0.0, False, "false", "No", "negative", "neg"), 0),
        (("-1", "-1.0", -1, "uncertain"), -1),
    ],
)
def test_label_words(cells, value):
    assert [LABEL_VALUES[label_word(cell)] for cell in cells] == [value] * len(cells)


def test_other_label_words_stay_and_own_ones_win():
    assert [label_word(cell) for cell in ("2", 0.5, "perhaps")] == ["2", "0.5", "perhaps"]
    own = {"ja": "1", "no": "-1", "k. a.": ""}
    assert [label_word(cell, own) for cell in ("JA", "no", "K.  A.", "yes")] == ["1", "-1", "", "1"]


def test_sexes():
    assert {read_sex(word) for word in ("M", "m", "male", "Male", " MALE", "boy", "männlich")} == {"M"}
    assert {read_sex(word) for word in ("F", "f", "female", "Female", "woman", "W", "weiblich")} == {"F"}
    assert {read_sex(word) for word in ("O", "other", "Unknown", "X", "?")} == {None}
    for word in ("1", "Smith", "malefemale"):
        with pytest.raises(ValueError, match="sex must be M or F") as refusal:
            read_sex(word)
        assert word not in str(refusal.value)


@pytest.mark.parametrize(
    ("value", "years"),
    [
        *[(value, 45) for value in ("45", 45, 45.0, "045Y", "45.0", "45 years", "45yrs", "45 y.", "45 years old")],
        *[("6M", 0.5), ("006M", 0.5), ("6 months", 0.5), ("26 weeks", 182 / 365.25), ("30D", 30 / 365.25)],
        *[("45,5", 45.5), ("0", 0), (">89", 90), ("> 89 years", 90), ("90+", 90), (">=90", 90), ("90 or older", 90)],
        *[("121", None), ("999", None), ("unknown", None)],
    ],
)
def test_ages_come_in_years(value, years):
    assert read_age(value) == pytest.approx(years)


@pytest.mark.parametrize("value", ["old", "-3", "inf", "45-50", "1960-01-01", "45Z", "Y", -3.0, math.inf, "12345"])
def test_what_is_no_age_is_refused(value):
    with pytest.raises(ValueError, match="age must be a number of years or blank"):
        read_age(value)


def test_views():
    for view, words in {
        "PA": ("PA", "pa", "P-A", "Postero-Anterior", "posteroanterior"),
        "AP": ("AP", " ap ", "antero posterior"),
        "lateral": ("lateral", "LATERAL", "Lat", "L", "LL", "left lateral"),
        "AP_horizontal": ("AP_horizontal",),
        "LLD": ("LLD",),
        None: ("UNK", "unknown", ""),
    }.items():
        assert {read_view(word) for word in words} == {view}


def test_stored_values_that_cannot_be_read_stay():
    assert stored_value("sex", "Female") == "F" and stored_value("sex", "1") == "1"
    assert stored_value("age", "045Y") == 45 and stored_value("site", "north") == "north"
