"""Whether probabilities are what they claim, and the temperature that mends logits whose probabilities are not.

Labels are 0, 1 or NaN (unknown, left out) as in `metrics.auroc`. What nothing is known about is NaN.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, softmax

from .auroc import check_column, one_vs_rest

TEMPERATURE_RANGE = (1 / 20, 20.0)


def fit_temperature(logits: ArrayLike, targets: ArrayLike, problem_type: str) -> float:
    """
    The temperature at which the known labels are likeliest if the logits are divided by it (Guo et al., ICML 2017).

    The likelihood is log-concave in 1 / temperature, so the best one is where its slope is zero.

    Args:
        logits: (n, num_labels), finite: one view per image.
        targets: Multi-label: float (n, num_labels) 0, 1 or NaN for unknown. Single-label: int (n,), -100 for unknown.
        problem_type: "multi_label_classification" or "single_label_classification".

    Returns:
        A number in `TEMPERATURE_RANGE`: a bound of it if the likelihood still grows there, as it does downwards if
        every label is called right, and upwards if the logits say nothing; 1 if all temperatures are equally good.

    Raises:
        ValueError: No label is known, targets that do not fit the logits, or logits that are not finite or of several
            crops an image: the mean of the crops' probabilities is not the probability of any one logit.
    """
    logits, columns = logits_and_columns(logits, targets, problem_type)
    known = ~np.isnan(columns)
    if not known.any():
        raise ValueError("no label is known, so no temperature can be fitted; use a split with labels")

    def slope(inverse: float) -> float:
        """Of the negative log-likelihood, in the inverse of the temperature; it only ever grows."""
        errors = probabilities_of(inverse * logits, problem_type) - columns
        return float((errors * logits)[known].sum())

    sharpest, flattest = (1 / bound for bound in TEMPERATURE_RANGE)
    if slope(flattest) < 0 < slope(sharpest):
        return 1 / brentq(slope, flattest, sharpest, xtol=1e-10)
    if slope(flattest) == slope(sharpest) == 0:
        return 1.0
    return TEMPERATURE_RANGE[0] if slope(flattest) < 0 else TEMPERATURE_RANGE[1]


def negative_log_likelihood(logits: ArrayLike, targets: ArrayLike, problem_type: str) -> float:
    """
    Mean over the known labels (single-label: images), in nats; NaN if nothing is known.

    Arguments and errors as in [`fit_temperature`].
    """
    logits, columns = logits_and_columns(logits, targets, problem_type)
    known = ~np.isnan(columns)
    if problem_type == "multi_label_classification":
        losses = (np.logaddexp(0, logits) - columns * logits)[known]
    else:
        # -log softmax of the true class: its distance below the log of the summed exponentials
        true = np.where(known, columns, 0).argmax(axis=1)
        losses = (np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(logits)), true])[known.all(axis=1)]
    return float(losses.mean()) if len(losses) else float("nan")


def reliability_curve(
    labels: ArrayLike, probabilities: ArrayLike, num_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    How often the label is 1 where a probability is claimed, in bins of equal width.

    The first bin is [0, 1 / num_bins], the others are open below and closed above, as in scikit-learn's
    `calibration_curve`.

    Args:
        labels: 0, 1 or NaN for unknown, of any shape; all elements are taken together.
        probabilities: in [0, 1], of the same shape.
        num_bins: at least 1.

    Returns:
        Mean probability and observed share of 1 in each bin, float64 (num_bins,), NaN in empty bins; and the number of
        known labels in each, int64 (num_bins,).

    Raises:
        ValueError: Shapes that differ, labels outside {0, 1, NaN}, probabilities outside [0, 1], or no bins.
    """
    labels, probabilities = _known(labels, probabilities)
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, not {num_bins}")
    bins = np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], probabilities)
    counts = np.bincount(bins, minlength=num_bins)
    mean_probability, observed_share = (
        np.divide(
            np.bincount(bins, weights=values, minlength=num_bins),
            counts,
            out=np.full(num_bins, np.nan),
            where=counts > 0,
        )
        for values in (probabilities, labels)
    )
    return mean_probability, observed_share, counts


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, num_bins: int = 15) -> float:
    """
    Distance between claimed probability and observed share, averaged over bins weighted by their number of labels
    (Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015).

    Guo et al.'s version for classes is this of whether the most probable class is right, and its probability.

    Args, Raises: as in [`reliability_curve`].

    Returns:
        A number in [0, 1], or NaN if nothing is known.
    """
    mean_probability, observed_share, counts = reliability_curve(labels, probabilities, num_bins)
    filled = counts > 0
    if not filled.any():
        return float("nan")
    return float(np.average(np.abs(observed_share - mean_probability)[filled], weights=counts[filled]))


def brier_score(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """
    Mean squared difference of probability and label (Brier, Monthly Weather Review 1950), each label by itself.

    Args, Raises: as in [`reliability_curve`].

    Returns:
        A number in [0, 1], or NaN if nothing is known.
    """
    labels, probabilities = _known(labels, probabilities)
    return float(np.mean((probabilities - labels) ** 2)) if len(labels) else float("nan")


def logits_and_columns(logits: ArrayLike, targets: ArrayLike, problem_type: str) -> tuple[np.ndarray, np.ndarray]:
    """float64 (n, num_labels) each, the targets as 0, 1 or NaN whatever the problem type."""
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2:
        raise ValueError(
            f"logits must be (n, num_labels), one view per image, not {logits.shape}; calibrate on whole images or "
            "their centres, not on several crops"
        )
    single = problem_type == "single_label_classification"
    columns = one_vs_rest(targets, logits.shape[1]) if single else np.asarray(targets, dtype=np.float64)
    if columns.shape != logits.shape:
        raise ValueError(f"targets of shape {np.shape(targets)} do not fit logits of shape {logits.shape}")
    check_column(columns.ravel(), logits.ravel())
    return logits, columns


def probabilities_of(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """
    Those that a head of this problem type gives, of the same shape.

    Equal logits get equal probabilities, wherever they stand: torch's vectorised sigmoid would break ties at the ends.
    """
    return softmax(logits, axis=-1) if problem_type == "single_label_classification" else expit(logits)


def _known(labels: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The known labels and their probabilities, float64 (known,) each."""
    if np.shape(labels) != np.shape(probabilities):
        raise ValueError(
            f"labels and probabilities must have one shape, not {np.shape(labels)} and {np.shape(probabilities)}"
        )
    flat_labels, flat_probabilities = check_column(np.ravel(labels), np.ravel(probabilities))
    if ((flat_probabilities < 0) | (flat_probabilities > 1)).any():
        raise ValueError("probabilities must lie in [0, 1]; logits need a sigmoid or softmax first")
    known = ~np.isnan(flat_labels)
    return flat_labels[known], flat_probabilities[known]
