"""What a dataset and its splits hold, in numbers: labels, patients, sex, view, age."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cells import is_blank
from ..models.ark.configuration_ark import ArkTask
from ..provenance import shown_name
from .task_dataset import read_build_facts, read_card
from .unlabelled import AnyTask

SOURCE_FACTS = ("title", "homepage", "license", "access", "citation", "phantom")


def training_data_facts(name_or_path: str | Path, task: AnyTask) -> dict[str, Any]:
    """
    What a model's card tells of a dataset that it was trained on, ready for JSON and free of paths.

    Returns:
        `task`, `dataset` (its name), and those of `SOURCE_FACTS` that its build report knows, else the licence that
        its card names.
    """
    facts = {name: fact for name, fact in read_build_facts(name_or_path).items() if name in SOURCE_FACTS and fact}
    if "license" not in facts:
        try:
            named = read_card(name_or_path).data.get("license")
        except ValueError:  # a foreign dataset may have no card
            named = None
        facts |= {"license": ", ".join(named) if isinstance(named, list) else str(named)} if named else {}
    return {"task": task.name, "dataset": shown_name(name_or_path), **facts}


def split_facts(task: AnyTask, labels: np.ndarray, patients: Sequence[Any] | None) -> dict[str, Any]:
    """`rows`, `patients` (None if unknown) and `labels` of a split, as in [`split_summary`]."""
    known = {patient for patient in patients or () if not is_blank(patient)}
    return {"rows": len(labels), "patients": len(known) or None, "labels": _count_labels(task, labels)}


def split_summary(task: AnyTask, labels: Sequence[Any] | np.ndarray, metadata: Mapping[str, Sequence[Any]]) -> dict:
    """
    Counts of one split, ready for JSON.

    Args:
        task: The task that the labels belong to; of an [`Unlabelled`] there are none, and rows count alone.
        labels: Stored labels of every row: (rows, labels) in 0, 1, -1 (uncertain), NaN or None (unknown); for
            single-label tasks (rows,) class indices, -1 or None unknown.
        metadata: The columns that are known of `patient_id`, `sex`, `view`, `age`, each with a value or None a row.

    Returns:
        `{"rows": n, "patients": n or None, "labels": {label: {"positive": n, "negative": n, "uncertain": n,
        "unknown": n}}, "sex": {value: n}, "view": {value: n}, "age": {"known": n, "mean": x, "min": x, "max": x} or
        None}`. Of a single-label task, a row is negative for every class but its own.
    """
    patients = [value for value in metadata.get("patient_id", ()) if not is_blank(value)]
    ages = np.array([np.nan if value is None else value for value in metadata.get("age", ())], dtype=float)
    ages = ages[np.isfinite(ages)]
    return {
        "rows": len(labels),
        "patients": len(set(patients)) if patients else None,
        "labels": _count_labels(task, labels),
        "sex": _count_values(metadata.get("sex", ())),
        "view": _count_values(metadata.get("view", ())),
        "age": None
        if not len(ages)
        else {
            "known": len(ages),
            "mean": round(float(ages.mean()), 2),
            "min": float(ages.min()),
            "max": float(ages.max()),
        },
    }


def _count_labels(task: AnyTask, labels: Sequence[Any] | np.ndarray) -> dict[str, dict[str, int]]:
    if not task.labels:
        return {}
    if isinstance(task, ArkTask) and task.problem_type == "single_label_classification":
        indices = np.array([-1 if index is None else index for index in labels], dtype=int)
        values = np.where(indices[:, None] < 0, np.nan, indices[:, None] == np.arange(len(task.labels)))
    elif isinstance(labels, np.ndarray):
        values = labels.reshape(-1, len(task.labels))
    else:
        # A binary task's labels may be (rows,)
        values = np.array([[np.nan if v is None else v for v in np.atleast_1d(row)] for row in labels], dtype=float)
        values = values.reshape(-1, len(task.labels))
    counts = {
        "positive": values == 1,
        "negative": values == 0,
        "uncertain": values == -1,
        "unknown": np.isnan(values),
    }
    totals = {name: where.sum(axis=0).tolist() for name, where in counts.items()}
    return {label: {name: totals[name][i] for name in totals} for i, label in enumerate(task.labels)}


def _count_values(values: Sequence[Any]) -> dict[str, int]:
    return dict(sorted(Counter(str(value) for value in values if not is_blank(value)).items()))
