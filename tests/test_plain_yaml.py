"""YAML of others: what it says, and what is refused before it becomes more than it looks like."""

import os

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf.plain_yaml import MAX_CHARACTERS, TextLoader, dump_yaml, parse_yaml, read_yaml

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False)
    | st.text("ab é:-#&*'\"[]{}\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
@settings(max_examples=10)
def test_what_was_written_without_aliases_is_read_as_it_was(values):
    assert parse_yaml(dump_yaml(values)) == values


def test_what_stands_in_several_places_is_written_out_in_each():
    task = {"dataset": "a", "labels": ["x"]}
    assert "*id" in yaml.safe_dump([task, task]) and parse_yaml(dump_yaml([task, task])) == [task, task]


def bomb(levels: int = 40) -> str:
    """A few lines whose last list would have 9**levels parts."""
    return "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, levels))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb(), "line 1, column 5: anchors and aliases"),
        ("a: &a [*a]", "anchors and aliases"),
        ("a: &a 1", "anchors and aliases"),
        ("seed: 1\ncycles: 2\nseed: 3", "line 3, column 1: 'seed' stands twice"),
        ('{"seed": 1, "seed": 2}', "'seed' stands twice"),
        ("a: {b: 1, b: 2}", "'b' stands twice"),
        ("- " * 3000, "nested too deep"),
        ("[" * 1500, "nested too deep"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: !!bool maybe", "a value cannot be read"),
        ("a: !!timestamp now", "a value cannot be read"),
        ("a: 2001-99-99", "a value cannot be read"),
        (f"a: {'9' * 5000}", "a value cannot be read"),
        ("a: !" + "x" * 100_000 + " 1", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: \0", "special characters"),
        ("x" * (MAX_CHARACTERS + 1), "characters"),
    ],
)
def test_what_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse_yaml(text)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_a_merged_mapping_without_an_alias_is_no_repeated_key():
    assert parse_yaml("<<: {a: 1, b: 2}\na: 3") == {"a": 3, "b": 2}


def test_names_stay_texts():
    assert parse_yaml("No: [007, true]", TextLoader) == {"No": ["007", "true"]}


@pytest.mark.parametrize("kind", ["absent", "folder", "pipe", "latin"])
def test_what_cannot_be_read_is_named(tmp_path, kind):
    path = tmp_path / "recipe.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)  # which would be read for ever
    elif kind == "latin":
        path.write_bytes("a: é".encode("latin-1"))
    with pytest.raises(ValueError, match="Cannot read the recipe|not UTF-8") as caught:
        read_yaml(path, "the recipe")
    assert str(path) in str(caught.value)
