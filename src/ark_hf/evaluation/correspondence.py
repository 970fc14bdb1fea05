"""How far from the truth landmarks are found in other pictures, beside the same place as prior, and by group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..inference.correspondence import corresponding_places
from ..inference.dense_features import features_at
from ..metrics.overlap import OverlapResult, PairedOverlap, compare_overlap, overlap_results
from ..metrics.resampling import number_patients, percentile_interval, resampled_means, row_means
from ..metrics.subgroups import UNKNOWN, Estimate

SAME_PLACE = "same place"
DIFFERENT = "different"
MOST_PAIRS = 4000


@dataclass(frozen=True)
class ErrorDifference:
    """How much larger the errors of a model are than those of another one, or of [`SAME_PLACE`], on the same pairs."""

    model: str
    other: str
    results: list[PairedOverlap]


@dataclass(frozen=True)
class ErrorGroup:
    """
    Pairs whose two pictures are of one group, or, "different", of two: by model the mean error over landmarks, and how
    much larger than that of all other pairs it is.
    """

    group: str
    num_pairs: int
    num_patients: int
    errors: dict[str, OverlapResult]
    differences: dict[str, Estimate]


@dataclass(frozen=True)
class CorrespondenceReport:
    """
    By model, [`SAME_PLACE`] among them, the errors of each landmark, and last those of the mean over landmarks; every
    model less the prior, then every two models; and by attribute the groups.
    """

    num_pictures: int
    num_patients: int
    num_pairs: int
    errors: dict[str, list[OverlapResult]]
    differences: list[ErrorDifference]
    groups: dict[str, list[ErrorGroup]]


def pair_patients(patients: Sequence[Any], most: int = MOST_PAIRS, seed: int = 0) -> np.ndarray:
    """
    All pairs of pictures of different patients, each both ways; `most` of them drawn at random if there are more.

    Args:
        patients: Patient id of each picture.

    Returns:
        int64 (pairs, 2), numbers of pictures: a place in the first is looked for in the second.
    """
    pairs = _pairs(patients, of_one=False)
    if len(pairs) > most:
        pairs = pairs[np.sort(np.random.default_rng(seed).permutation(len(pairs))[:most])]
    return pairs


def pair_views(patients: Sequence[Any]) -> np.ndarray:
    """All pairs of two pictures of one patient, as [`pair_patients`]."""
    return _pairs(patients, of_one=True)


def _pairs(patients: Sequence[Any], of_one: bool) -> np.ndarray:
    numbers = number_patients(patients, len(patients))[0][:, 0]
    same = numbers[:, None] == numbers
    pairs = np.argwhere((same == of_one) & ~np.eye(len(numbers), dtype=bool))
    if not len(pairs):
        whose = "one patient" if of_one else "different patients"
        raise ValueError(f"No two of {len(numbers)} pictures are of {whose}.")
    return pairs


def correspondence_errors(
    landmarks: Sequence[Mapping[str, tuple[float, float]]],
    sizes: Sequence[tuple[int, int]],
    pairs: ArrayLike,
    features: np.ndarray | None = None,
) -> tuple[list[str], np.ndarray]:
    """
    Distances between where the first picture's landmarks are found in the second one and where they are there.

    Args:
        landmarks: Of each picture places by name, as those of phantoms: (x, y) in fractions of width and height.
        sizes: (width, height) of each picture.
        pairs: (pairs, 2) numbers of pictures, such as [`pair_patients`] gives.
        features: (pictures, rows, columns, width), as [`dense_features`] gives them; without them the same place is
            taken, which is the prior that a model must beat.

    Returns:
        Names of the landmarks that at least half of the pictures have, and float64 (pairs, landmarks), the errors in
        percent of the longer side of the second picture, NaN where either picture lacks the landmark.

    Raises:
        ValueError: Numbers of pictures that differ, no such landmark, or a place outside [0, 1].
    """
    pairs = np.asarray(pairs)
    given = {len(landmarks), len(sizes)} | (set() if features is None else {len(features)})
    if len(given) > 1:
        raise ValueError(f"landmarks, sizes and features must be of the same pictures, not of {sorted(given)}.")
    counts: dict[str, int] = {}
    for each in landmarks:
        for name in each:
            counts[name] = counts.get(name, 0) + 1
    names = sorted(name for name, count in counts.items() if 2 * count >= len(landmarks))
    if not names:
        raise ValueError("No landmark is in at least half of the pictures.")
    places = np.array([[each.get(name, (np.nan, np.nan)) for name in names] for each in landmarks], dtype=np.float64)
    there = np.isfinite(places[..., 0])
    known = there[pairs[:, 0]] & there[pairs[:, 1]]
    found = places[pairs[:, 0]]
    if features is not None:
        asked = [features_at(each, where[here]) for each, where, here in zip(features, places, there, strict=True)]
        for number, (first, second) in enumerate(pairs):
            found[number, there[first]], _ = corresponding_places(asked[first], features[second])
    across = np.array(sizes, dtype=np.float64)[pairs[:, 1], None]
    distances = np.linalg.norm((found - places[pairs[:, 1]]) * across, axis=2)
    return names, np.where(known, 100 * distances / across.max(axis=2), np.nan)


def correspondence_report(
    landmarks: Sequence[Mapping[str, tuple[float, float]]],
    sizes: Sequence[tuple[int, int]],
    patients: Sequence[Any],
    pairs: ArrayLike,
    features: Mapping[str, np.ndarray],
    groups: Mapping[str, Sequence[str]] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> CorrespondenceReport:
    """
    [`correspondence_errors`] of models and of the prior on the same pairs, with intervals by resampling patients.

    A pair counts as often as both its patients were drawn; all intervals are of the same resamples.

    Args:
        landmarks, sizes, pairs: As for [`correspondence_errors`].
        patients: Patient id of each picture.
        features: Of each model by its name.
        groups: By attribute the group of each picture, such as `sex`.

    Raises:
        ValueError: As [`correspondence_errors`], or patients or groups of another number of pictures.
    """
    for what, values in {"patients": patients, **(groups or {})}.items():
        if len(values) != len(landmarks):
            raise ValueError(f"{what} must be one a picture: {len(landmarks)}, not {len(values)}.")
    pairs = np.asarray(pairs)
    names, prior = correspondence_errors(landmarks, sizes, pairs)
    errors = {each: correspondence_errors(landmarks, sizes, pairs, found)[1] for each, found in features.items()}
    errors[SAME_PLACE] = prior
    both = np.asarray(patients, dtype=object)[pairs]
    usual: dict[str, Any] = {"num_bootstrap": num_bootstrap, "confidence": confidence, "seed": seed}
    models = list(errors)
    compared = [(one, SAME_PLACE) for one in features]
    compared += [(one, other) for number, one in enumerate(features) for other in models[number + 1 : -1]]
    return CorrespondenceReport(
        num_pictures=len(np.unique(pairs)),
        num_patients=number_patients(both, len(both))[1],
        num_pairs=len(pairs),
        errors={each: overlap_results(names, table, both, **usual) for each, table in errors.items()},
        differences=[
            ErrorDifference(one, other, compare_overlap(names, errors[other], errors[one], both, **usual))
            for one, other in compared
        ],
        groups={
            attribute: _groups(names, errors, np.asarray(of, dtype=object)[pairs], both, usual)
            for attribute, of in (groups or {}).items()
        },
    )


def _groups(
    names: list[str], errors: dict[str, np.ndarray], groups: np.ndarray, both: np.ndarray, usual: dict[str, Any]
) -> list[ErrorGroup]:
    of_pairs = np.where(groups[:, 0] == groups[:, 1], groups[:, 0], DIFFERENT)
    results = []
    for group in sorted(set(of_pairs), key=lambda name: (name == DIFFERENT, name == UNKNOWN, name)):
        here = of_pairs == group
        found = {each: overlap_results(names, table[here], both[here], **usual)[-1] for each, table in errors.items()}
        differences = {each: _difference(table, here, both, **usual) for each, table in errors.items()}
        patients = number_patients(both[here], int(here.sum()))[1]
        results.append(ErrorGroup(str(group), int(here.sum()), patients, found, differences))
    return results


def _difference(
    errors: np.ndarray, here: np.ndarray, both: np.ndarray, num_bootstrap: int, confidence: float, seed: int
) -> Estimate:
    """Mean error of some pairs less that of all others, over the landmarks that both have."""
    halves = [np.where(chosen[:, None], errors, np.nan) for chosen in (here, ~here)]
    shared = ~np.isnan([row_means(half.T) for half in halves]).any(axis=0)
    if not shared.any():
        return Estimate(float("nan"), float("nan"), float("nan"))
    halves = [half[:, shared] for half in halves]
    inside, outside = (row_means(row_means(half.T)[None])[0] for half in halves)
    replicates = [row_means(resampled_means(half, both, num_bootstrap, seed)) for half in halves]
    return Estimate(float(inside - outside), *percentile_interval(replicates[0] - replicates[1], confidence))
