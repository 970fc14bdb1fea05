"""The metrics as a module of Hugging Face `evaluate`, for code that expects one; it is loaded without network.

With the Trainer, whose predictions are logits (an AUROC needs the order of the images alone):

    module = Auroc()

    def compute_metrics(prediction):
        return module.compute(predictions=prediction.predictions, references=prediction.label_ids, num_bootstrap=0)

Importing this module imports `evaluate`, which takes seconds; nothing else in the package does.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from .auroc import LabelResult, MeanResult, evaluate_labels

_DESCRIPTION = """Area under the ROC curve and average precision per label and their means, labels that are not known
left out, with intervals of a bootstrap over patients."""
_INPUTS = """
Args:
    predictions: (n, num_labels) finite scores of any scale, higher means more likely 1.
    references: (n, num_labels) 0, 1 or NaN for unknown. Classes become such columns by `metrics.one_vs_rest`.
    label_names, clusters, num_bootstrap, confidence, seed: to `compute`, as in `metrics.evaluate_labels`; labels
        without names are numbered.
Returns:
    `auroc`, `auroc_low`, `auroc_high` and `average_precision`, means over the `num_defined` labels, and the same but
    `num_defined` for each label, as `LABEL/auroc` and so on. NaN where undefined.
"""


class Auroc(evaluate.Metric):
    """`metrics.evaluate_labels` as an `evaluate` module; see the module's `inputs_description`."""

    def __init__(self, *args: Any, keep_in_memory: bool = True, **kwargs: Any):
        # Scores and labels of patients are not left behind in a cache folder.
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        columns = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": columns, "references": columns}),
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        label_names: Sequence[str] | None = None,
        clusters: Sequence[Any] | None = None,
        num_bootstrap: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict[str, float]:
        scores, labels = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
        names = [str(column) for column in range(labels.shape[1])] if label_names is None else label_names
        table, mean = evaluate_labels(labels, scores, names, None, clusters, num_bootstrap, confidence, seed)
        results: dict[str, float] = {"num_defined": mean.num_defined}
        named: list[tuple[str, LabelResult | MeanResult]] = [(f"{row.label}/", row) for row in table]
        for prefix, result in [("", mean), *named]:
            results[f"{prefix}auroc"] = result.auroc
            results[f"{prefix}auroc_low"] = result.ci_low
            results[f"{prefix}auroc_high"] = result.ci_high
            results[f"{prefix}average_precision"] = result.average_precision
        return results
