"""Calibration: a temperature that becomes part of the head, and operating points on what it gives.

A network's probabilities are as a rule too sure of themselves. Dividing the logits of a head by one number, chosen on
validation images, mends most of that (Guo et al., On Calibration of Modern Neural Networks, ICML 2017). Here the
number is folded into the head's weights, so that whatever runs the saved model gives calibrated probabilities.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from scipy.special import expit, logit

from ..data.volume_samples import inference_samples
from ..files import replace_folder, write_json
from ..inference.predict import mean_probabilities, predict_logits
from ..inference.training_statistics import TrainingStatistics, write_training_statistics
from ..metrics.calibration import (
    TEMPERATURE_RANGE,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    logits_and_columns,
    negative_log_likelihood,
    probabilities_of,
)
from ..metrics.operating_point import Rule, check_rule, choose_thresholds
from ..models.ark.configuration_ark import ArkTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification
from ..provenance import CALIBRATION_FILE, copy_notes, read_calibrations
from .scoring import ScoredTask

# With fewer images of a kind, an operating point's sensitivity or specificity is known to about ±0.2 at best
FEW_IMAGES = 20


@dataclass(frozen=True)
class CalibrationResult:
    """
    What calibrating one head did, on the `num_known` known labels (single-label: images) of `num_images` images.

    `temperature` is what the head was divided by; 1, and `is_fitted` false, if no temperature between the bounds is
    best. The negative log-likelihood (nats), the expected calibration error and the Brier score are over all known
    labels of the head together, for a single-label head class against rest but for the likelihood. They are measured
    on the images that the temperature was fitted on. `thresholds` are probabilities of the calibrated head, computed
    in `dtype`; `num_positives` and `num_negatives` are the known images of each label that they rest on.
    `without_threshold` says for the other labels why they have none.
    """

    task: str
    num_images: int
    num_known: int
    temperature: float
    is_fitted: bool
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    brier_before: float
    brier_after: float
    rule: str
    thresholds: dict[str, float]
    without_threshold: dict[str, str]
    num_positives: dict[str, int] = field(default_factory=dict)  # which earlier versions did not note
    num_negatives: dict[str, int] = field(default_factory=dict)
    dtype: str = "float32"

    @property
    def caveats(self) -> list[str]:
        """What could not be had, or is not to be relied on, a sentence each, for reports."""
        sentences = [f"No operating point for {label}: {why}." for label, why in self.without_threshold.items()]
        for label in self.thresholds:
            counts = {"positive": self.num_positives.get(label), "negative": self.num_negatives.get(label)}
            few = [f"{count} {kind}" for kind, count in counts.items() if count is not None and count < FEW_IMAGES]
            if few:
                sentences.append(
                    f"The operating point of {label} rests on {' and '.join(few)} images alone: others would give "
                    "another."
                )
        if not self.is_fitted:
            low, high = TEMPERATURE_RANGE
            sentences.insert(
                0, f"No temperature between {low:g} and {high:g} is best on these images: the head is left as it was."
            )
        return sentences


@torch.no_grad()
def fold_temperature(model: ArkForImageClassification, task_name: str | None, temperature: float) -> list[str]:
    """
    Divides a head's weight and bias by the temperature, in place, and takes its saved thresholds along.

    A multi-label head ranks the images of each label as before, up to the rounding of its weights, and a saved
    threshold p becomes sigmoid(logit(p) / temperature), which calls the same images. A single-label head's most
    probable class stays, but the probability of a class can rank images anew, since it depends on the other logits
    too: no threshold before is one after, and those saved are dropped.

    Args:
        task_name: Name of the head; None for the one head of a model without tasks.
        temperature: Positive and finite.

    Returns:
        The labels whose saved threshold was dropped.

    Raises:
        ValueError: The model has no such head, or the temperature is not positive and finite.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"a temperature must be positive and finite, not {temperature}")
    tasks = model.config.tasks or []
    task = next((each for each in tasks if each.name == task_name), None)
    if (task is None) if tasks else (task_name is not None):
        raise ValueError(f"The model has no head {task_name!r}; its heads are {[each.name for each in tasks]}.")
    model.drop_stale_thresholds()
    head = model.classifier if task is None else model.heads[task.name]
    head.weight.div_(temperature)
    head.bias.div_(temperature)
    task = next((each for each in model.config.tasks or [] if each.name == task_name), None)
    if task is None or not task.thresholds:
        return []
    if task.problem_type == "single_label_classification":
        dropped = list(task.thresholds)
        _set_thresholds(model, task.name, None)
        return dropped
    moved = {label: float(expit(logit(threshold) / temperature)) for label, threshold in task.thresholds.items()}
    _set_thresholds(model, task.name, moved)
    return []


def calibrate_task(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    rows: Dataset,
    task: ArkTask,
    rule: Rule = "youden",
    value: float | None = None,
    batch_size: int = 32,
) -> CalibrationResult:
    """
    Calibrates one head of the model in place: its temperature first, then an operating point for each label.

    A temperature that runs into a bound (see [`fit_temperature`]) says that the images are too few or too easy, and
    would make the head worse: such a head is left as it is. The new thresholds replace all that were saved.

    Args:
        rows: Images and labels to calibrate on, as `load_task_dataset` gives them: the validation split, never the one
            that results are reported on.
        task: The head, one of `model.config.tasks`.
        rule, value: As in [`choose_thresholds`].
        batch_size: Images a forward pass.

    Raises:
        ValueError: The model has no such head, nothing is known about the images, the processor gives several crops an
            image, or a rule as in [`choose_thresholds`].
    """
    check_rule(rule, value)
    names = [each.name for each in model.config.tasks or []]
    if task.name not in names:
        raise ValueError(f"The model has no head {task.name!r} to calibrate; its heads are {names}.")
    samples = inference_samples(rows, task, processor)
    description = f"calibrating {task.name}"
    logits, targets = predict_logits([model], samples, batch_size, description=description)
    try:
        temperature = fit_temperature(logits, targets, task.problem_type)
    except ValueError as error:
        raise ValueError(f"Task {task.name!r} cannot be calibrated: {error}.") from None
    is_fitted = temperature not in TEMPERATURE_RANGE
    if not is_fitted:
        temperature = 1.0

    columns = logits_and_columns(logits, targets, task.problem_type)[1]
    before, after = (probabilities_of(logits / divisor, task.problem_type) for divisor in (1, temperature))
    thresholds = choose_thresholds(columns, after, task.labels, rule, value)
    fold_temperature(model, task.name, temperature)
    _set_thresholds(model, task.name, thresholds or None)
    known = ~np.isnan(columns)
    return CalibrationResult(
        task=task.name,
        num_images=len(columns),
        num_known=int(known.sum() if targets.ndim == 2 else known.all(axis=1).sum()),
        temperature=temperature,
        is_fitted=is_fitted,
        nll_before=negative_log_likelihood(logits, targets, task.problem_type),
        nll_after=negative_log_likelihood(logits / temperature, targets, task.problem_type),
        ece_before=expected_calibration_error(columns, before),
        ece_after=expected_calibration_error(columns, after),
        brier_before=brier_score(columns, before),
        brier_after=brier_score(columns, after),
        rule=rule if value is None else f"{rule} of at least {value:g}",
        thresholds=thresholds,
        without_threshold={
            label: _why_no_threshold(column)
            for label, column in zip(task.labels, columns.T, strict=True)
            if label not in thresholds
        },
        num_positives=dict(zip(task.labels, (columns == 1).sum(axis=0).tolist(), strict=True)),
        num_negatives=dict(zip(task.labels, (columns == 0).sum(axis=0).tolist(), strict=True)),
        dtype=str(model.dtype).removeprefix("torch."),
    )


def apply_calibration(model: ArkForImageClassification, result: CalibrationResult) -> None:
    """Does to the head, in place, what a calibration in another dtype did to a copy of the model in that."""
    fold_temperature(model, result.task, result.temperature)
    _set_thresholds(model, result.task, result.thresholds or None, result.dtype)


def calibrated_scores(scored: ScoredTask, task: ArkTask, temperature: float) -> ScoredTask:
    """What the head gives for the same images once the temperature is folded into it, up to the weights' rounding."""
    logits = scored.logits / temperature
    return replace(scored, logits=logits, probabilities=mean_probabilities(logits, task))


def save_calibrated(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    results: list[CalibrationResult],
    folder: Path,
    statistics: TrainingStatistics | None = None,
) -> None:
    """
    Writes the model, its processor, `calibration.json`, the results, and if there are some the statistics of training
    images into the folder: whole or not at all.

    What the folder or repository that the model was loaded from says of the weights goes along. If these were
    calibrated before, that record comes first in `calibration.json`: of two entries of a head the last one holds, and
    the product of their temperatures is what the head was divided by.
    """
    earlier = read_calibrations(model.name_or_path)

    def write(new: Path) -> None:
        model.save_pretrained(new)
        processor.save_pretrained(new)
        copy_notes(model.name_or_path, new)
        write_json(new / CALIBRATION_FILE, [*earlier, *map(asdict, results)])
        if statistics is not None:
            write_training_statistics(new, statistics)

    replace_folder(folder, write)


def _why_no_threshold(column: np.ndarray) -> str:
    known = np.unique(column[~np.isnan(column)])
    if len(known) == 0:
        return "nothing is known about it"
    return "none does better than chance" if len(known) == 2 else f"all known images are {known[0]:g}"


def _set_thresholds(
    model: ArkForImageClassification, task_name: str, thresholds: dict[str, float] | None, dtype: str | None = None
) -> None:
    # Assigned as a whole: the config checks its tasks when they are set, and not when one of them changes
    unbound = {"thresholds": thresholds, "thresholds_digest": None, "thresholds_dtype": dtype}
    model.config.tasks = [
        replace(task, **unbound) if task.name == task_name else task for task in model.config.tasks or []
    ]
    model.bind_thresholds()
