"""YAML that others wrote: without aliases, no key twice, of bounded size, and with errors in few words."""

import re
from pathlib import Path
from typing import Any

import yaml

MAX_CHARACTERS = 2**18  # a megabyte takes ten seconds; recipes and cards of ours have some thousand
_SHOWN = 300  # characters of a reason


class _PlainMixin:
    """A key that stands twice or an anchor is an error: few lines of aliases of aliases are billions of values."""

    def compose_node(self, parent, index):
        event = self.peek_event()  # type: ignore[attr-defined]
        if getattr(event, "anchor", None) is not None:
            problem = "anchors and aliases (&a, *a) are refused; write out what they stand for"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)  # type: ignore[misc]

    def construct_mapping(self, node, deep=False):
        seen: set[tuple[str, str]] = set()
        for key, _ in getattr(node, "value", []):
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    problem = f"{key.value[:80]!r} stands twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)  # type: ignore[misc]


class PlainLoader(_PlainMixin, yaml.SafeLoader):
    """Of numbers, texts, dates, lists and mappings."""


class TextLoader(_PlainMixin, yaml.BaseLoader):
    """Every scalar is text: `No` is a name, not false."""


def parse_yaml(text: str, loader: Any = PlainLoader) -> Any:
    """
    What a text in YAML or JSON says.

    Args:
        loader: `PlainLoader` or `TextLoader`.

    Raises:
        ValueError: It is no YAML, names a key twice, has anchors or aliases, is nested too deep, or is longer than
            `MAX_CHARACTERS`. The message names no file.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters, and up to {MAX_CHARACTERS:,} are read")
    try:
        return yaml.load(text, Loader=loader)
    except RecursionError:
        raise ValueError("its lists or mappings are nested too deep") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(where + _short(", ".join(filter(None, (error.context, error.problem))))) from None
    except yaml.YAMLError as error:  # of characters that no text has
        raise ValueError(_short(str(error).splitlines()[0])) from None
    except Exception as error:  # the library has one for each tag that does not fit its value
        raise ValueError(f"a value cannot be read ({_short(error) or type(error).__name__})") from None


def read_yaml(path: str | Path, what: str, loader: Any = PlainLoader) -> Any:
    """
    What a file in YAML or JSON says, see [`parse_yaml`].

    Args:
        what: The file is, for messages, such as "the recipe".

    Raises:
        ValueError: It cannot be read, is not UTF-8, or as of [`parse_yaml`]; the message names it.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe or a device would be read for ever
            raise ValueError(f"Cannot read {what} {path}: this is no file.")
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise ValueError(f"Cannot read {what} {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not valid YAML: it is not UTF-8; save it as that.") from None
    try:
        return parse_yaml(text, loader)
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}.") from None


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def dump_yaml(values: Any) -> str:
    """Values as YAML that [`parse_yaml`] reads: what stands in several places is written out in each."""
    return yaml.dump(values, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


def _short(reason: object) -> str:
    text = re.sub(r"\s+", " ", str(reason)).strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
