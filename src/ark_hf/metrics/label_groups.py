"""Frequent and rare labels apart: a mean over all labels hides what happens to the rare ones.

Head labels are positive on more than 10 % of the training images, medium ones on 1 to 10 %, tail ones on less. Shares,
unlike counts, mean the same on small and large sets.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .auroc import LabelResult, MeanResult, mean_result


def group_labels(
    num_positive: Mapping[str, int], num_known: Mapping[str, int], head_share: float = 0.1, tail_share: float = 0.01
) -> dict[str, list[str]]:
    """Sorts labels by their share of positives in the images that the model was trained on.

    Args:
        num_positive: by label, training images on which it is positive.
        num_known: by label, training images on which it is known.
        head_share: labels of a larger share are "head".
        tail_share: labels of a smaller share are "tail", as are labels that are known on no image.

    Returns:
        The labels of "head", "medium" and "tail", each in the order of `num_positive`; a group may be empty.

    Raises:
        ValueError: the two name other labels, counts that are impossible, or shares that are not
            0 <= tail_share <= head_share <= 1.
    """
    if not 0 <= tail_share <= head_share <= 1:
        raise ValueError(f"shares must be 0 <= tail_share <= head_share <= 1, not {tail_share} and {head_share}")
    if set(num_positive) != set(num_known):
        raise ValueError(f"counts of known images are of {sorted(num_known)}, of positive {sorted(num_positive)}")
    groups: dict[str, list[str]] = {"head": [], "medium": [], "tail": []}
    for label, positives in num_positive.items():
        if not 0 <= positives <= num_known[label]:
            raise ValueError(f"label {label!r} cannot be positive on {positives} of {num_known[label]} images")
        share = positives / num_known[label] if num_known[label] else 0.0
        if num_known[label] and share > head_share:
            groups["head"].append(label)
        elif num_known[label] and share >= tail_share:
            groups["medium"].append(label)
        else:
            groups["tail"].append(label)
    return groups


def group_results(
    groups: Mapping[str, Sequence[str]], table: Sequence[LabelResult], replicates: np.ndarray, confidence: float = 0.95
) -> dict[str, MeanResult]:
    """Mean AUROC, with interval, and mean average precision of each group, from the replicates of all labels.

    Args:
        groups: labels by the name of their group, as `group_labels` returns them.
        table, replicates, confidence: as in `metrics.mean_result`.

    Returns:
        By group, in the order of `groups`. An undefined mean is NaN: of no label, or of labels with one class only.

    Raises:
        ValueError: a label that the table has not.
    """
    columns = {row.label: column for column, row in enumerate(table)}
    unknown = [label for labels in groups.values() for label in labels if label not in columns]
    if unknown:
        raise ValueError(f"no result of the labels {unknown}; there are those of {list(columns)}")
    return {
        name: mean_result(table, replicates, [columns[label] for label in labels], confidence)
        for name, labels in groups.items()
    }
