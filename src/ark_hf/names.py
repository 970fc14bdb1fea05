"""What models and datasets are called: a folder here, or a repository on the Hub, not asked for a mistyped path."""

import difflib
import itertools
import os
import re
from pathlib import Path

NEITHER = {
    "model": "neither the folder of a model nor the id of one on the Hub",
    "dataset": "neither a folder with a task dataset nor a reachable Hub dataset",
}
HUB_ID = r"\w[\w.-]*/\w[\w.-]*"
MOST_NAMES = 2000  # of a folder that are compared: more would take a second
ALIKE, ALMOST_THE_SAME = 0.6, 0.75  # as difflib measures it; the second is also asked of what looks like an id


def check_name(name: str | Path, kind: str, base: str | Path = ".") -> None:
    """
    Nothing of the Hub is asked, and no library loaded: the answer is there at once.

    Args:
        name: Of a folder below `base`, or what may be the id of a repository on the Hub.
        kind: "model" or "dataset".
        base: Where relative paths start.

    Raises:
        ValueError: It is neither; the message names the nearest path that there is.
    """
    if not Path(base, name).exists() and not may_be_on_hub(name, base):
        raise ValueError(f"{str(name)!r} is {NEITHER[kind]}: {what_is_there(name, base)}")


def key_of(name: str) -> str:
    """What a task may be called after a folder or a Hub dataset: covid_19 of "COVID-19" or "someone/covid-19"."""
    return re.sub(r"[^a-z0-9]+", "_", Path(name.partition("@")[0]).name.lower()).strip("_")


def may_be_on_hub(name: str | Path, base: str | Path = ".") -> bool:
    """
    Whether it may be an id, `someone/name`, and not a path: neither what is here, nor what would lie in a folder here,
    nor what differs by a slip from one of the two.
    """
    name = str(name)
    if Path(base, name).exists() or not re.fullmatch(HUB_ID, name, re.ASCII):
        return False
    return not Path(base, name).parent.is_dir() and _nearest(name, base, ALMOST_THE_SAME) is None


def what_is_there(name: str | Path, base: str | Path = ".") -> str:
    """For the end of a message about a path that there is not: the nearest one, or what else the folder holds."""
    name, where = str(name), "here" if str(base) == "." else f"in {base}"
    path = _nearest(name, base, ALIKE)
    if path is not None:
        return f"no such folder is {where}; did you mean {path}?"
    if "://" in name:
        return "it is an address; give the repository's id alone, someone/name."
    parent = Path(base, name).parent
    if parent != Path(base) and parent.is_dir():
        names = sorted(each for each in _listed(parent) if not each.startswith("."))
        there = f"{parent} holds {', '.join(names[:5])}{', ...' * (len(names) > 5)}" if names else f"{parent} is empty"
        return f"no such folder is {where}; {there}."
    return f"no such folder is {where}, and repositories on the Hub are named someone/name."


def model_below(folder: Path) -> str:
    """For the end of a message about a folder that is no model: those that a run has left in it."""
    patterns = [f"{where}{name}/config.json" for where in ("", "seed-*/") for name in ("ark-cxr", "genesis")]
    below = [str(file.parent) for pattern in patterns for file in sorted(folder.glob(pattern))]
    return f" Did you mean {' or '.join(below[:3])}?" if below else ""


def _nearest(name: str, base: str | Path, likeness: float) -> str | None:
    """The path that is there and most like the name, which is none; None if a part of it is like nothing."""
    parts = re.sub(r"^[A-Za-z]:", "", os.path.expanduser(name)).replace("\\", "/")
    path = Path("/" if parts.startswith("/") else base)
    for part in Path(parts.lstrip("/")).parts:
        if not (path / part).exists():
            names = {each.lower(): each for each in _listed(path)}
            found = difflib.get_close_matches(part.lower(), names, n=1, cutoff=likeness)
            if not found:
                return None
            part = names[found[0]]
        path = path / part
    return str(path)


def _listed(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in itertools.islice(entries, MOST_NAMES)]
    except OSError:
        return []
