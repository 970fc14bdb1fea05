"""What datasets call their findings: the synonym table, and whether two labels stand for the same thing."""

import difflib
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plain_yaml import TextLoader, read_yaml

SYNONYMS_FILE = Path(__file__).with_name("synonyms.yaml")
SECTIONS = ("findings", "tasks", "related")


def normalise(name: str) -> str:
    """The name in lower case with single spaces between words: case, "_", "-", "/" and brackets do not matter."""
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()


@dataclass(frozen=True)
class Synonyms:
    """
    A synonym table as [`read_synonyms`] gives it.

    Args:
        names: Finding of each normalised name.
        task_names: Finding of (task, normalised label), for labels whose meaning depends on their dataset.
        related: Pairs of findings that are kindred, but not the same.
    """

    names: Mapping[str, str]
    task_names: Mapping[tuple[str, str], str]
    related: frozenset[frozenset[str]]

    def finding(self, label: str, task: str | None = None) -> str:
        """What the table calls `label` (in `task`, if it means something of its own there), or its normalised name."""
        name = normalise(label)
        return self.task_names.get((task or "", name)) or self.names.get(name, name)

    def relation(
        self, target: str, label: str, target_task: str | None = None, task: str | None = None, related: bool = False
    ) -> str | None:
        """
        How `label` of `task` stands for `target` of `target_task`.

        Returns:
            "same name"; "synonym: TARGET = LABEL", with "= FINDING" if the table calls them something else; if
            `related` also "related: FINDING ~ FINDING"; or None, not at all.
        """
        wanted, found = self.finding(target, target_task), self.finding(label, task)
        if wanted == found:
            if normalise(target) == normalise(label):
                return "same name"
            names = {normalise(name): name for name in (target, label, found)}
            return f"synonym: {' = '.join(names.values())}"
        return f"related: {wanted} ~ {found}" if related and frozenset((wanted, found)) in self.related else None


def read_synonyms(path: str | Path | None = None) -> Synonyms:
    """
    Reads and checks a synonym table; the format stands at the head of the package's own, `synonyms.yaml`.

    Args:
        path: A YAML file that replaces the package's own table.

    Raises:
        ValueError: The file cannot be read, is not laid out like the package's own, has a name under two findings, or
            names a finding under `tasks` or `related` that it does not have under `findings`.
    """
    file = SYNONYMS_FILE if path is None else Path(path)
    table = read_yaml(file, "the synonym table", TextLoader)
    unknown = sorted(set(_mapping(table, str(file))) - set(SECTIONS))
    if unknown or "findings" not in table:
        raise ValueError(
            f"{file} must have the section `findings`, and may have {SECTIONS[1:]}; "
            f"it has {reprlib.repr(list(table))}."
        )

    names: dict[str, str] = {}
    for finding, others in _mapping(table["findings"], f"{file}, findings").items():
        where = f"{file}, findings, {finding!r}"
        for name in [finding, *_list_of_names(others, where)]:
            if not normalise(name):
                raise ValueError(f"{where}: the name {name!r} has no letters or digits.")
            other = names.setdefault(normalise(name), finding)
            if other != finding:
                raise ValueError(f"{where}: {name!r} stands under {other!r} too; a name has one finding.")

    def known(name: Any, where: str) -> str:
        if not isinstance(name, str) or normalise(name) not in names:
            near = difflib.get_close_matches(normalise(str(name)), names, n=1)
            hint = f"did you mean {names[near[0]]!r}?" if near else "add it there."
            raise ValueError(f"{where}: {reprlib.repr(name)} is not among the findings; {hint}")
        return names[normalise(name)]

    task_names = {}
    for task, labels in _mapping(table.get("tasks", {}), f"{file}, tasks").items():
        for label, finding in _mapping(labels, f"{file}, tasks, {task!r}").items():
            task_names[task, normalise(label)] = known(finding, f"{file}, tasks, {task!r}, {label!r}")
    related: set[frozenset[str]] = set()
    for finding, others in _mapping(table.get("related", {}), f"{file}, related").items():
        where = f"{file}, related, {finding!r}"
        one = known(finding, where)
        related |= {frozenset((one, known(other, where))) for other in _list_of_names(others, where)}
    return Synonyms(names, task_names, frozenset(related))


def _mapping(values: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: must be a mapping, got {reprlib.repr(values)}.")
    return values


def _list_of_names(values: Any, where: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{where}: must be a list of names, [] for none, got {reprlib.repr(values)}.")
    return values
