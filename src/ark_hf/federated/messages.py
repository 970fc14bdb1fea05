"""What goes to and fro between server and sites, whatever carries it: JSON, and weights as vectors."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .vector import Vector


@dataclass(frozen=True)
class Request:
    """
    What the server asks of every site.

    Args:
        kind: `introduce` (who is there, and which heads it would publish), `train` (a round from this master) or
            `finish` (take the last master; heads if they are to be published).
        values: Ready for JSON. With a master `round`, `recipe` (the fields of training), `model` (its config),
            `processor` and `facts` (what cards tell of its start).
        vector: The master.
    """

    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    vector: Vector | None = None


@dataclass(frozen=True)
class Answer:
    """
    What a site answers: nothing but what is listed here leaves it.

    Args:
        site: Its name.
        values: Ready for JSON. `introduce`: `heads`, names of those it would publish. `train`: `task_loss`,
            `consistency_loss`; `samples` where they weigh; `auroc` of `student`, `teacher` and the received `master`
            if metrics are shared. `finish`: `auroc` of the master; `tasks`, of the published heads.
        vector: `train`: the student's encoder and projector; `finish`: the published heads.
    """

    site: str
    values: dict[str, Any] = field(default_factory=dict)
    vector: Vector | None = None


@dataclass(frozen=True)
class Failure:
    """A site that gave no answer: `reason` is the kind of the fault alone, never its text."""

    site: str
    reason: str


# Asks all sites; answers and failures come as they arrive, one a site
Ask = Callable[[Request], Iterator[Answer | Failure]]


def nbytes(message: Request | Answer) -> int:
    """Of JSON and weights."""
    return len(json.dumps(message.values)) + (0 if message.vector is None else message.vector.nbytes)
