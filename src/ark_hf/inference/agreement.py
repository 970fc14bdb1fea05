"""A second opinion: by finding, which heads of a model agree on one image and which do not.

Heads are trained on different hospitals and readers. Where several know the same finding, their disagreement is a
reason to look again; their agreement is no proof, since they share one encoder. Which labels stand for the same
finding is decided by the synonym table, see `ark_hf.labels`.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..files import printable, replacing
from ..labels import Synonyms
from ..models.ark.configuration_ark import ArkTask
from ..pages.formats import markdown_table
from .task_labels import DEFAULT_THRESHOLD

COLUMNS = ["image", "finding", "agree", "mean", "lowest", "lowest_label", "highest", "highest_label", "calls"]


@dataclass(frozen=True)
class FindingLabel:
    """
    One label of one head, and the probability from which it is called positive.

    Args:
        column: Its place in the model's outputs, `id2label`.
        threshold: The head's saved operating point, or 0.5 if it has none.
    """

    column: int
    task: str
    label: str
    threshold: float
    has_saved_threshold: bool

    @property
    def name(self) -> str:
        return f"{self.task}/{self.label}"


@dataclass(frozen=True)
class Opinion:
    """What one label of one head says about one image."""

    source: FindingLabel
    probability: float

    @property
    def called(self) -> bool:
        return self.probability >= self.source.threshold


@dataclass(frozen=True)
class Agreement:
    """The opinions on one finding of one image, the lowest probability first."""

    finding: str
    opinions: tuple[Opinion, ...]

    @property
    def agree(self) -> bool:
        return len({opinion.called for opinion in self.opinions}) == 1

    @property
    def mean(self) -> float:
        return float(np.mean([opinion.probability for opinion in self.opinions]))

    @property
    def spread(self) -> float:
        return self.opinions[-1].probability - self.opinions[0].probability


def labels_by_finding(
    tasks: Sequence[ArkTask] | None, synonyms: Synonyms
) -> tuple[dict[str, list[FindingLabel]], dict[str, list[FindingLabel]]]:
    """
    The labels of a model by the finding that they stand for.

    Args:
        tasks: The model's heads, `model.config.tasks`.
        synonyms: Table of names, from `ark_hf.labels.read_synonyms`.

    Returns:
        The findings that at least two heads know, and those that one head alone knows, which have no second opinion.

    Raises:
        ValueError: The model has no two named heads, or no finding that two of them know.
    """
    if tasks is None or len(tasks) < 2:
        has = "no named heads" if tasks is None else f"one head, {tasks[0].name!r}"
        raise ValueError(f"A second opinion compares the heads of one model with each other, and this one has {has}.")
    findings: dict[str, list[FindingLabel]] = {}
    modalities = {task.modality for task in tasks}
    columns = [(task, label) for task in tasks for label in task.labels]
    for column, (task, label) in enumerate(columns):
        saved = (task.thresholds or {}).get(label)
        threshold = DEFAULT_THRESHOLD if saved is None else saved
        source = FindingLabel(column, task.name, label, threshold, saved is not None)
        finding = synonyms.finding(label, task.name)
        # No image is shown to heads of two modalities
        name = finding if len(modalities) == 1 else f"{finding} ({task.modality})"
        findings.setdefault(name, []).append(source)
    shared = {name: found for name, found in findings.items() if len({source.task for source in found}) > 1}
    if not shared:
        raise ValueError(
            f"No finding is known to two of the heads {[task.name for task in tasks]}, so there is no second opinion. "
            "Names that mean the same are listed in the synonym table."
        )
    return shared, {name: found for name, found in findings.items() if name not in shared}


def compare_heads(probabilities: ArrayLike, findings: Mapping[str, Sequence[FindingLabel]]) -> list[Agreement]:
    """
    The opinions on one image, the findings on which they differ first, and of either kind the widest spread first.

    Args:
        probabilities: (num_labels,) in [0, 1], of all labels in `id2label` order; NaN of heads that were not asked.
        findings: From [`labels_by_finding`].
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    agreements = []
    for finding, sources in findings.items():
        if np.isnan(probabilities[sources[0].column]):
            continue
        opinions = [Opinion(source, float(probabilities[source.column])) for source in sources]
        agreements.append(Agreement(finding, tuple(sorted(opinions, key=lambda opinion: opinion.probability))))
    return sorted(agreements, key=lambda each: (each.agree, -each.spread))


def writing_second_opinions(
    path: Path, findings: Mapping[str, Sequence[FindingLabel]], results: Iterator[tuple[Path | str, np.ndarray | str]]
) -> Iterator[tuple[Path | str, np.ndarray | str]]:
    """
    Passes on the results of `inference.predict_files`, and writes one row per image and finding as they pass.

    The file is in its place once the results have ended, whole. If they break off, or no image could be read, nothing
    is written, and a file that is there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    read = 0
    with replacing(path) as new:
        with open(new, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for image, result in results:
                if not isinstance(result, str):
                    writer.writerows(_row(image, agreement) for agreement in compare_heads(result, findings))
                    read += 1
                yield image, result
        if not read:
            new.unlink()


def _row(image: Path | str, agreement: Agreement) -> list[str]:
    lowest, highest = agreement.opinions[0], agreement.opinions[-1]
    calls = [
        f"{opinion.source.name} {'yes' if opinion.called else 'no'} ({opinion.probability:.3f}, from "
        f"{opinion.source.threshold:.3f}{'' if opinion.source.has_saved_threshold else ' by default'})"
        for opinion in agreement.opinions
    ]
    return [
        printable(image),
        agreement.finding,
        "yes" if agreement.agree else "no",
        f"{agreement.mean:.6f}",
        f"{lowest.probability:.6f}",
        lowest.source.name,
        f"{highest.probability:.6f}",
        highest.source.name,
        "; ".join(calls),
    ]


def second_opinion_text(
    path: Path,
    shared: Mapping[str, Sequence[FindingLabel]],
    alone: Mapping[str, Sequence[FindingLabel]],
    num_images: int = 5,
) -> str:
    """
    A table of the findings on which heads disagree on the first images, and what no second opinion is to be had on.

    Args:
        path: A file of [`writing_second_opinions`].
        shared, alone: From [`labels_by_finding`].
        num_images: How many images the table is about.
    """
    with open(path, newline="", encoding="utf-8") as file:
        by_image = groupby(csv.DictReader(file), key=lambda row: row["image"])
        first = [list(rows) for _, rows in islice(by_image, num_images)]
    return "\n".join([*_disagreements(first), *_footnotes(shared, alone)])


def _disagreements(images: list[list[dict[str, Any]]]) -> list[str]:
    differing = [row for rows in images for row in rows if row["agree"] == "no"]
    where = "the first image" if len(images) == 1 else f"the first {len(images)} images"
    if not differing:
        return [f"The heads agree on every shared finding of {where}."]
    return [
        f"Findings on which the heads disagree, {where}:",
        "",
        *markdown_table(
            ["image", "finding", "opinions"],
            [[Path(row["image"]).name, row["finding"], row["calls"]] for row in differing],
        ),
    ]


def _footnotes(shared: Mapping[str, Sequence[FindingLabel]], alone: Mapping[str, Sequence[FindingLabel]]) -> list[str]:
    lines = []
    unsaved = [source.name for sources in shared.values() for source in sources if not source.has_saved_threshold]
    if unsaved:
        lines.append(
            f"No operating point is saved for {', '.join(unsaved)}: called positive from {DEFAULT_THRESHOLD}. "
            "`ark-hf evaluate --calibrate` chooses and saves them."
        )
    if alone:
        lines.append(f"No second opinion, known to one head only: {', '.join(alone)}.")
    return ["", *lines] if lines else []
