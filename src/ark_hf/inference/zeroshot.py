"""Zero-shot transfer: which of a model's labels stand for the labels of a dataset that it was not trained on.

A label is scored by the mean probability of all labels that stand for it, over all heads or over some: an ensemble of
heads (Ark, MICCAI 2023; Ark+, Nature 2025). Which names mean the same is not decided here but in the synonym table,
see `ark_hf.labels`.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..labels import SYNONYMS_FILE, Synonyms, normalise
from ..models.ark.configuration_ark import ArkTask


@dataclass(frozen=True)
class LabelMatch:
    """One label of one head that stands for a target label, and why."""

    task: str
    label: str
    reason: str


@dataclass(frozen=True)
class Transfer:
    """
    A published zero-shot transfer: one label of one head scores one finding of a foreign dataset.

    `auroc` and `interval` are what Ark+ (Swin-L, 768 pixels) reaches, from the legends of the figures. `build` is what
    `ark-hf data build` is told for the dataset, and `kinds` are findings that together are `target`.
    """

    dataset: str
    target: str
    head: str
    label: str
    auroc: float
    interval: tuple[float, float]
    note: str
    build: str
    kinds: tuple[str, ...] = ()


# Specification of the originals, sections 7 and 8. The originals take the sigmoid of RSNA's raw logits, where the
# sigmoid of ours is the head's softmax; none of these transfers uses that head.
PUBLISHED_TRANSFERS = {
    "tbx11k": Transfer(
        dataset="TBX11k",
        target="Tuberculosis",
        head="vindr_cxr",
        label="Tuberculosis",
        auroc=0.9660,
        interval=(0.9585, 0.9727),
        note="Tuberculosis against healthy and otherwise sick. The release lacks the predictions.",
        build="tbx11k --splits test",
    ),
    "siim_acr": Transfer(
        dataset="SIIM-ACR",
        target="Pneumothorax",
        head="chexpert",
        label="Pneumothorax",
        auroc=0.9579,
        interval=(0.9538, 0.9616),
        note="12,046 of 12,047 images: the first line of the test list was lost. The release lacks the predictions.",
        build="siim_acr --splits test",
    ),
    "mendeley_v2": Transfer(
        dataset="Mendeley V2",
        target="Pneumonia",
        head="vindr_cxr",
        label="Pneumonia",
        auroc=0.9760,
        interval=(0.9727, 0.9792),
        note="Pneumonia, bacterial or viral, against normal: all 5,856 images.",
        build="kermany_pneumonia --splits test",
        kinds=("Bacterial pneumonia", "Viral pneumonia"),
    ),
    "node21": Transfer(
        dataset="NODE21",
        target="Nodule",
        head="chestxray14",
        label="Nodule",
        auroc=0.8915,
        interval=(0.8771, 0.9064),
        note="Without the images of NODE21 that come from ChestX-ray14, on which the model was trained: 4,265 images.",
        build="node21 --splits test --sources without_chestxray14",
    ),
}


def match_label(
    target: str,
    tasks: Sequence[ArkTask],
    synonyms: Synonyms,
    heads: Sequence[str] | None = None,
    related: bool = False,
) -> list[LabelMatch]:
    """
    The labels of a model that stand for `target`.

    Args:
        target: A label as any dataset writes it, or `task/label`, which is that label of the model and no other.
        tasks: The model's heads, `model.config.tasks`.
        synonyms: Table of names, from `ark_hf.labels.read_synonyms`.
        heads: Names of the heads to look at; unless set all, which must then be of one modality.
        related: Whether findings count that the table calls related, but not the same.

    Returns:
        At least one match, in the order of the model's outputs.

    Raises:
        ValueError: Nothing matches (the message names near labels and remedies), `heads` names an unknown head, or the
            labels that match are of images of several modalities.
    """
    searched = _named_heads(tasks, heads)
    for task in searched:
        if target in [f"{task.name}/{label}" for label in task.labels]:
            return [LabelMatch(task.name, target.removeprefix(f"{task.name}/"), "named")]
    matches = _matches(target, None, searched, synonyms, related)
    if not matches:
        raise ValueError(_nothing_matches([target], None, searched, synonyms, related))
    of = {task.name: task.modality for task in searched}
    if heads is None and len({of[match.task] for match in matches}) > 1:
        found = ", ".join(f"{match.task} ({of[match.task]})" for match in matches)
        raise ValueError(f"{target!r} is a label of heads for images of several modalities: {found}. Name the heads.")
    return matches


def match_dataset(
    dataset: ArkTask,
    tasks: Sequence[ArkTask],
    synonyms: Synonyms,
    heads: Sequence[str] | None = None,
    related: bool = False,
) -> dict[str, list[LabelMatch]]:
    """
    For every label of a dataset the labels of a model that stand for it; arguments as for [`match_label`]. Only heads
    for images of the dataset's modality are asked, unless `heads` names others.

    Returns:
        Matches of each of the dataset's labels, in its order; an empty list where nothing matches.

    Raises:
        ValueError: No label matches; `heads` names an unknown head; or, unless `heads` is set, the model has a head
            of the dataset's name, so that it was trained on such a dataset.
    """
    searched = _named_heads(tasks, heads)
    if heads is None and dataset.name in [task.name for task in tasks]:
        raise ValueError(
            f"The model has a head {dataset.name!r}, so {dataset.name!r} is not new to it. Test that head without "
            "zero-shot transfer, or name the heads to use (`--heads`)."
        )
    if heads is None:
        searched = [task for task in searched if task.modality == dataset.modality]
        if not searched:
            there = ", ".join(f"{task.name} ({task.modality})" for task in tasks)
            raise ValueError(
                f"{dataset.name!r} is of modality {dataset.modality}, and the model's heads are for images of others: "
                f"{there}. To ask them all the same, name them (`--heads`)."
            )
    matches = {label: _matches(label, dataset.name, searched, synonyms, related) for label in dataset.labels}
    if not any(matches.values()):
        raise ValueError(_nothing_matches(dataset.labels, dataset.name, searched, synonyms, related))
    return matches


def match_transfer(
    dataset: ArkTask, tasks: Sequence[ArkTask], synonyms: Synonyms, transfer: Transfer
) -> dict[str, list[LabelMatch]]:
    """
    The matches of a published transfer: its one label for the dataset's label of its finding, none for the others.

    If the finding is several classes, see [`positive_classes`], the one key is these, joined by "or".

    Raises:
        ValueError: The model lacks the transfer's label, or the dataset has no label of its finding.
    """
    if not any(task.name == transfer.head and transfer.label in task.labels for task in tasks):
        raise ValueError(
            f"The transfer to {transfer.dataset} scores with {transfer.head}/{transfer.label}, which the model lacks; "
            f"its heads are {[task.name for task in tasks]}."
        )
    match = LabelMatch(transfer.head, transfer.label, f"published transfer to {transfer.dataset}")
    positives = positive_classes(dataset, synonyms, transfer)
    if positives:
        return {" or ".join(positives): [match]}
    matches = {
        label: [match] if synonyms.relation(transfer.target, label, task=dataset.name) else []
        for label in dataset.labels
    }
    if not any(matches.values()):
        kinds = f", or the classes {' and '.join(map(repr, transfer.kinds))}" if transfer.kinds else ""
        raise ValueError(
            f"The transfer to {transfer.dataset} needs a dataset with the label {transfer.target!r} or a synonym of "
            f"it{kinds}; {dataset.name!r} has {dataset.labels}. `ark-hf data build {transfer.build}` makes such a one."
        )
    return matches


def positive_classes(dataset: ArkTask, synonyms: Synonyms, transfer: Transfer) -> list[str]:
    """
    The classes of a single-label dataset that are the transfer's finding only together, one or more for each kind.

    Of Kermany's classes normal, bacterial and viral the last two are pneumonia. Empty if a label is the finding by
    itself, or a kind has no class.
    """

    def standing_for(finding: str) -> list[str]:
        return [label for label in dataset.labels if synonyms.relation(finding, label, task=dataset.name)]

    kinds = [standing_for(kind) for kind in transfer.kinds]
    if dataset.problem_type != "single_label_classification" or standing_for(transfer.target) or not all(kinds):
        return []
    return [label for label in dataset.labels if label in sum(kinds, [])]


def zero_shot_scores(probabilities: ArrayLike, matches: Sequence[LabelMatch], tasks: Sequence[ArkTask]) -> np.ndarray:
    """
    The ensemble over heads: the mean of the matched labels' probabilities.

    Args:
        probabilities: (n, num_labels) of all labels of the model, in the order of its outputs (`id2label`).
        matches: At least one, as [`match_label`] gives them.
        tasks: The model's heads, `model.config.tasks`.

    Returns:
        float64 (n,) in [0, 1].

    Raises:
        ValueError: No matches, a match that the model lacks, or another number of columns.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    columns = [(task.name, label) for task in tasks for label in task.labels]
    if probabilities.ndim != 2 or probabilities.shape[1] != len(columns):
        raise ValueError(f"probabilities must be (n, {len(columns)}), a column per label, not {probabilities.shape}")
    missing = [f"{match.task}/{match.label}" for match in matches if (match.task, match.label) not in columns]
    if missing or not matches:
        raise ValueError(f"matches must name labels of the model, at least one; it lacks {missing}")
    return probabilities[:, [columns.index((match.task, match.label)) for match in matches]].mean(axis=1)


def _named_heads(tasks: Sequence[ArkTask], heads: Sequence[str] | None) -> list[ArkTask]:
    if not tasks:
        raise ValueError("The model has no named heads (config.tasks is None), so its labels cannot be matched.")
    names = [task.name for task in tasks]
    for head in heads or ():
        if head not in names:
            raise ValueError(f"The model has no head {head!r}; its heads are {names}.")
    return [task for task in tasks if heads is None or task.name in heads]


def _matches(
    target: str, dataset: str | None, searched: Sequence[ArkTask], synonyms: Synonyms, related: bool
) -> list[LabelMatch]:
    return [
        LabelMatch(task.name, label, reason)
        for task in searched
        for label in task.labels
        if (reason := synonyms.relation(target, label, dataset, task.name, related)) is not None
    ]


def _nothing_matches(
    targets: Sequence[str], dataset: str | None, searched: Sequence[ArkTask], synonyms: Synonyms, related: bool
) -> str:
    heads = [task.name for task in searched]
    parts = [f"No label of the heads {heads} stands for {' or '.join(map(repr, targets))}."]
    names = {f"{task.name}/{label}": normalise(label) for task in searched for label in task.labels}
    close = {name for target in targets for name in difflib.get_close_matches(normalise(target), names.values())}
    if close:
        parts.append(f"The nearest names are {[label for label, name in names.items() if name in close]}.")
    kindred = [match for target in targets for match in _matches(target, dataset, searched, synonyms, related=True)]
    if kindred and not related:
        labels = list(dict.fromkeys(f"{match.task}/{match.label}" for match in kindred))
        parts.append(f"Labels of related findings, which count with `related` (`--related`), are {labels}.")
    parts.append(f"If a name is missing, add it to a copy of {SYNONYMS_FILE.name} and pass that (`--synonyms`).")
    if dataset is None:
        parts.append("One label is named as `task/label`.")
    return " ".join(parts)
