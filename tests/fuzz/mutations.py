"""Damage: what bytes, texts and JSON values become in transit, in old tools and in bad hands."""

import copy
import json
import struct
from random import Random
from typing import Any

NUMBERS = [
    struct.pack(kind, value) for value in (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF) for kind in ("<I", ">I")
]
NUMBERS += [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\x7f\xff", b"\xff" * 8, b"\0" * 8]
# What stands in a text where something else should
TOKENS = [
    "",
    "\0",
    '"',
    "'",
    ",",
    ";",
    "\t",
    "\n",
    "\r",
    "\ufeff",
    "\u202e",
    "\x1b[2J",
    "é",
    "𝔘",
    "-1",
    "0",
    "1e999",
    "nan",
    "9" * 5000,
    "-0x1",
    "~",
    "null",
    "[",
    "{",
    "]",
    "}",
    ": ",
    "- ",
    "&a ",
    "*a",
    "!!python/object/apply:os.system ",
    "<<",
    "%",
    "|",
    ">",
    "#",
    "@",
    "`",
    "../../../etc/passwd",
    "/dev/zero",
    "\\\\server\\share",
    "2001-99-99",
    "=cmd|'/c calc'!A1",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**30,
    -(10**30),
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\0",
    "1e3",
    "9" * 400,
    "é\u202e\x1b[2J",
    "../../secret",
    "x" * 70_000,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": {"a": {}}},
    [1, 2, 3],
    ["a", "a"],
    [[0] * 50] * 50,
]


def damaged(rng: Random, content: bytes, others: list[bytes] | None = None) -> tuple[str, bytes]:
    """Bytes with one to six damages, most near the beginning, where formats keep what decides; the first's name."""
    result, names = bytearray(content), []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        name = rng.choice(
            ("flip", "number", "random", "cut", "remove", "repeat", "insert", "zeros", "splice", "append")
        )
        names.append(name)
        length = len(result)
        if not length:
            break
        at = rng.randrange(min(length, rng.choice((16, 64, 512, 4096, length))))
        size = min(rng.choice((1, 2, 4, 8, 64, 1024)), length - at)
        if name == "flip":
            result[at] ^= 1 << rng.randrange(8)
        elif name == "number":
            number = rng.choice(NUMBERS)
            result[at : at + len(number)] = number
        elif name == "random":
            result[at : at + size] = rng.randbytes(size)
        elif name == "cut":
            del result[rng.choice((at, rng.randrange(length))) :]
        elif name == "remove":
            del result[at : at + size]
        elif name == "repeat":
            result[at:at] = result[at : at + size] * rng.choice((1, 2, 50))
        elif name == "insert":
            result[at:at] = rng.randbytes(size)
        elif name == "zeros":
            result[at : at + size] = bytes(size)
        elif name == "append":
            result += rng.randbytes(size)
        elif name == "splice" and others:
            other = rng.choice(others)
            result[at:] = other[rng.randrange(max(len(other), 1)) :]
    return names[0], bytes(result)


def damaged_text(rng: Random, text: str, tokens: list[str] = TOKENS) -> tuple[str, bytes]:
    """A text with tokens where they do not belong, lines moved and its bytes damaged, or in another encoding."""
    kind = rng.choice(("token", "token", "token", "line", "bytes", "encoding", "long"))
    if kind == "bytes":
        return kind, damaged(rng, text.encode())[1]
    if kind == "encoding":
        return kind, text.replace("o", "ö").encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "cp037")))
    if kind == "long":
        at = rng.randrange(len(text) + 1)
        return kind, (
            text[:at] + rng.choice(("x", " ", '"', "[", "a,", "- ", "é")) * rng.choice((300, 70_000)) + text[at:]
        ).encode()
    if kind == "line":
        lines = text.splitlines(keepends=True)
        for _ in range(rng.randint(1, 4)):
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            if rng.random() < 0.5:
                lines.pop(rng.randrange(len(lines)))
        return kind, "".join(lines).encode()
    for _ in range(rng.choice((1, 1, 2, 5))):
        start = rng.randrange(len(text) + 1)
        end = start + rng.choice((0, 0, 1, 5))
        text = text[:start] + rng.choice(tokens) + text[end:]
    return kind, text.encode()


def changed(rng: Random, value: Any, values: list[Any] = VALUES) -> tuple[str, Any]:
    """A JSON value with some of its parts replaced, left out or added."""
    result = copy.deepcopy(value)
    names = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(result))
        if not places:
            break
        name = rng.choice(("replace", "replace", "replace", "leave out", "add", "rename"))
        names.append(name)
        parent, key = rng.choice(places)
        if name == "replace":
            parent[key] = copy.deepcopy(rng.choice(values))
        elif name == "leave out":
            del parent[key]
        elif name == "rename" and isinstance(parent, dict):
            parent[rng.choice(("", key.upper(), key + "s", "é\u202e", "__class__"))] = parent.pop(key)
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(rng.choice(values)))
        else:
            parent[rng.choice(("extra", "__init__", "name", "labels", "num_labels"))] = copy.deepcopy(
                rng.choice(values)
            )
    return (names or ["nothing"])[0], result


def _places(value: Any) -> Any:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


def as_json(value: Any) -> bytes:
    """As json writes it, NaN and infinities too; surrogates that are alone stay escaped."""
    return json.dumps(value).encode()
