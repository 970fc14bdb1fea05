"""What embeddings know beside disease: the hospital that an image comes from, its view, the patient's sex.

A finding that is commoner in one hospital can be read off the hospital. The better a probe tells the sources apart,
the easier that is, and the less an AUROC on pooled data says about disease.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...metrics.auroc import LabelResult, MeanResult, evaluate_labels, one_vs_rest
from .probe import fit_probe


@dataclass(frozen=True)
class ShortcutResult:
    """
    How well a probe fitted on train tells the values of an attribute apart on test; chance is an AUROC of 0.5.

    Args:
        attribute: "dataset", "sex" or "view".
        classes: AUROC of each value against the others.
        mean: Over the values.
        note: Why there is no result.
    """

    attribute: str
    classes: list[LabelResult]
    mean: MeanResult
    note: str | None = None


@dataclass(frozen=True)
class AttributedImages:
    """
    Images whose attribute is known or not.

    Args:
        embeddings: float32 (n, width).
        values: A value per image, None or "" where it is not known.
        patients: Patient ids, as in `metrics.bootstrap_aurocs`.
    """

    embeddings: np.ndarray
    values: Sequence[str | None]
    patients: Sequence[Any] | None = None


def predict_attribute(
    attribute: str, train: AttributedImages, test: AttributedImages, num_bootstrap: int = 1000, seed: int = 0
) -> ShortcutResult:
    """
    Fits one probe to all values of an attribute, and scores it with 95 % intervals of a bootstrap over patients.

    Args:
        attribute: Its name.
        train, test: Images of different patients. Values that do not occur in train are not scored.
    """
    classes = sorted({value for value in train.values if value})
    shared = len({value for value in test.values if value} & set(classes))
    if shared < 2:
        nan = float("nan")
        undefined = MeanResult(nan, nan, nan, num_defined=0, num_labels=len(classes))
        return ShortcutResult(attribute, [], undefined, f"{shared} of its values occur in both train and test")
    numbers = {value: number for number, value in enumerate(classes)}
    labels, test_labels = (
        np.array([numbers.get(value or "", -100) for value in images.values]) for images in (train, test)
    )
    probe = fit_probe(train.embeddings, labels, train.patients, len(classes), seed=seed)
    table, mean = evaluate_labels(
        one_vs_rest(test_labels, len(classes)),
        probe.predict(test.embeddings),
        classes,
        clusters=test.patients,
        num_bootstrap=num_bootstrap,
        seed=seed,
    )
    return ShortcutResult(attribute, table, mean)
