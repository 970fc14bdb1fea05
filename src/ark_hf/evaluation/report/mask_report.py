"""What a test of a segmenter found on one dataset, as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...cells import is_blank
from ...data.open_dataset import TaskDataset
from ...metrics.overlap import OverlapResult, PairedOverlap, compare_overlap, overlap_results
from ..mask_scoring import ScoredMasks, score_prior


@dataclass(frozen=True)
class GroupDice:
    """The mean Dice over labels of one group of images."""

    group: str
    num_images: int
    dice: OverlapResult


@dataclass
class MaskReport:
    """
    A segmenter on one split.

    Args:
        task: The [`SegmentationTask`] as a dictionary.
        dataset: Name of the dataset.
        distance_unit: Of `hd95`: "mm", or "pixels" of the stored pictures.
        dice, iou, hd95: By label, the last being the mean over labels.
        prior_dice: The same of the mean-mask prior; None without a train split.
        gain: Dice of the segmenter minus that of the prior, paired.
        subgroups: By attribute and group.
        comparison: Names of two models, and Dice of the first minus that of the second, paired.
        leaks: Sentences on images that were trained on.
    """

    task: dict[str, Any]
    dataset: str
    split: str
    num_images: int
    num_patients: int | None
    distance_unit: str
    dice: list[OverlapResult]
    iou: list[OverlapResult]
    hd95: list[OverlapResult]
    prior_dice: list[OverlapResult] | None = None
    gain: list[PairedOverlap] | None = None
    subgroups: dict[str, list[GroupDice]] = field(default_factory=dict)
    comparison: "MaskComparison | None" = None
    leaks: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        return list(self.task["labels"])


@dataclass(frozen=True)
class MaskComparison:
    """Dice of `model` minus that of `other`, by label and in the mean, on the same images."""

    model: str
    other: str
    results: list[PairedOverlap]


def report_masks(
    data: TaskDataset,
    scored: ScoredMasks,
    bootstrap: int = 1000,
    seed: int = 0,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> MaskReport:
    """
    The scores of a split with patient-clustered intervals, beside those of the mean mask of the training images.

    Args:
        bootstrap: Resamples of patients behind each interval.
        seed: Of the resamples.
        groups: By attribute the group of each image.
    """
    labels, patients = data.task.labels, scored.patients
    usual: dict[str, Any] = {"clusters": patients, "num_bootstrap": bootstrap, "seed": seed}
    known = {each for each in patients or () if not is_blank(each)}
    report = MaskReport(
        task=data.task.to_dict(),
        dataset=data.name,
        split=scored.split,
        num_images=len(scored.dice),
        num_patients=len(known) or None,
        distance_unit="mm" if data.has_volumes or data.task.pixel_spacing is not None else "pixels",
        dice=overlap_results(labels, scored.dice, **usual),
        iou=overlap_results(labels, scored.iou, **usual),
        hd95=overlap_results(labels, scored.hd95, **usual),
    )
    if "train" in data.splits and scored.split != "train":
        prior = score_prior(data, scored.split)
        report.prior_dice = overlap_results(labels, prior.dice, **usual)
        report.gain = compare_overlap(labels, prior.dice, scored.dice, **usual)
    for attribute, names in (groups or {}).items():
        report.subgroups[attribute] = [
            GroupDice(group, int(here.sum()), overlap_results(labels, scored.dice[here], **_of_group(usual, here))[-1])
            for group in dict.fromkeys(sorted(names))
            for here in [np.asarray([name == group for name in names])]
        ]
    return report


def compare_masks(
    labels: Sequence[str], scored: ScoredMasks, other: ScoredMasks, bootstrap: int, seed: int
) -> list[PairedOverlap]:
    """Dice of the model whose scores these are minus that of the other one, paired, by patients."""
    return compare_overlap(labels, other.dice, scored.dice, scored.patients, bootstrap, seed=seed)


def _of_group(usual: Mapping[str, Any], here: np.ndarray) -> dict[str, Any]:
    patients = usual["clusters"]
    chosen = None if patients is None else [patients[row] for row in np.flatnonzero(here)]
    return {**usual, "clusters": chosen}
