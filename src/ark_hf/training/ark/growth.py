"""What further training does to the tasks that a model had learned before (the COVIDx protocol of Ark)."""

from collections.abc import Sequence
from typing import Any

from ...pages.formats import format_defined, markdown_table
from .curriculum import Curriculum


def earlier_tasks(curriculum: Curriculum, heads: Sequence[str] | None, init: str) -> list[str]:
    """
    Names of the tasks that the model knew before the run.

    Args:
        heads: Those that the model came with. None for a caller's own model: then those that are not trained.
        init: Where it came from.

    Raises:
        ValueError: A task is only evaluated, and the model came without a head for it.
    """
    evaluated = [data.task.name for data in curriculum.tasks if "train" not in data.splits]
    known = evaluated if heads is None else heads
    unknown = [name for name in evaluated if name not in known]
    if unknown:
        raise ValueError(f"`train: false` evaluates heads that `init` has; {init!r} has none for {unknown}.")
    return [task.name for task in curriculum.heads if task.name in known]


def growth_table(history: Sequence[dict[str, Any]], earlier: Sequence[str]) -> str:
    """
    The teacher's validation AUROC before and after a run as a Markdown table, earlier tasks first.

    Args:
        history: That of `metrics.json`; its first entry is of cycle 0, the model before any step.
        earlier: Tasks that the initial model had learned. For the others "before" is of a head that knew nothing.

    Returns:
        A row per task, and one of the mean over the earlier tasks; an AUROC that cannot be computed is "undefined".
    """
    before, after = (
        {name: task["mean_auroc"] for name, task in entry["validation"]["teacher"]["tasks"].items()}
        for entry in (history[0], history[-1])
    )
    known = [name for name in earlier if name in before]
    rows = [_row(name, before[name], after[name]) for name in known]
    if known:
        rows.append(
            _row("mean of the earlier tasks", *(_mean([aurocs[n] for n in known]) for aurocs in (before, after)))
        )
    rows += [_row(f"{name} (new)", before[name], after[name]) for name in before if name not in known]
    return "\n".join(markdown_table(["task", "before", "after", "change"], rows))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)  # NaN if one of them is: a mean over other tasks could not be compared


def _row(name: str, before: float, after: float) -> list[str]:
    change = format_defined(after - before, 4, sign="+")
    return [name, format_defined(before, 4), format_defined(after, 4), change]
