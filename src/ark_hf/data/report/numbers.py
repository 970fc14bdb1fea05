"""What is in task datasets, in numbers: counts, prevalence, overlaps, duplicates, images, demographics, shortcuts."""

import io
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ...files import read_json
from ...metrics.auroc import label_table
from ...metrics.prevalence import co_occurrence, prevalence
from ...metrics.shortcut import SHORTCUT_STATISTICS, full_scale, image_statistics, shortcut_baseline
from ...models.ark.configuration_ark import ArkTask
from ..build.duplicates import HASH_FILE, find_duplicates, read_hashes
from ..radiograph import luminance
from ..summary import split_summary
from ..task_dataset import BUILD_REPORT
from ..unlabelled import AnyTask
from .stored_splits import Split, open_splits, read_images

QUANTILES = {"min": 0, "p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100}
# An image is read together with the parquet row group around it, so the sample keeps to this many of them a split.
MAX_GROUPS = 100
THUMBNAILS, THUMBNAIL_SIDE = 4, 176
TINT, TINT_COLOUR = 90, (255, 140, 0)  # of masks, how opaque of 255
SHOWN_DUPLICATES = 20


@dataclass
class Thumbnail:
    """A small JPEG of an image on which a label is positive; of unlabelled images that is the name of the split."""

    label: str
    split: str
    row: int
    jpeg: bytes


@dataclass
class Sample:
    """What was looked at of one split's images: float64 (images, 10) statistics of `rows`, and rows that fail."""

    rows: list[int] = field(default_factory=list)
    statistics: list[np.ndarray] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)


def describe_datasets(
    folders: Sequence[Path], num_images: int = 1000
) -> tuple[dict[str, Any], dict[str, list[Thumbnail]]]:
    """
    The numbers of several task datasets and what stands in more than one of them, and each one's contact sheet.

    Raises:
        ValueError: As in [`describe_dataset`], or a folder is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("Each dataset can be given once.")
    named: dict[str, Path] = {}
    for folder in folders:
        name, number = folder.resolve().name, 2
        while name in named:
            name, number = f"{folder.resolve().name} ({number})", number + 1
        named[name] = folder
    for folder in folders:
        open_splits(folder)  # so that a wrong folder is named before the work on the others
    described = {name: describe_dataset(folder, num_images) for name, folder in named.items()}
    report = {
        "images_a_split": num_images,
        "datasets": {name: numbers for name, (numbers, _) in described.items()},
        "duplicates": _describe_duplicates(named),
    }
    return report, {name: thumbnails for name, (_, thumbnails) in described.items()}


def describe_dataset(folder: Path, num_images: int = 1000) -> tuple[dict[str, Any], list[Thumbnail]]:
    """
    Numbers of one task dataset on disk, ready for JSON, and images for its contact sheet.

    Labels and metadata are those of all rows. Sizes and grey levels are of `num_images` images per split, drawn at
    random, and the same ones every time, from evenly spaced parts of its files; nothing else of the images is read,
    and no more than one part of a file is held in memory. No patient's or image's name is among the numbers.

    Raises:
        ValueError: The folder is no task dataset, has no rows, or its files or labels do not fit its card.
    """
    task, splits = open_splits(folder)
    samples, thumbnails = _look_at_images(folder.resolve().name, task, splits, num_images)
    patients = _patient_numbers(splits)
    overlap = {
        what: {
            f"{one.name}/{other.name}": len(_known(one, column) & _known(other, column))
            for one, other in combinations(splits, 2)
        }
        for what, column in (("patients", "patient_id"), ("images", "image_id"))
    }
    both, known = co_occurrence(np.concatenate([split.labels for split in splits]))
    report: dict[str, Any] = {
        "task": {**task.to_dict(), "labels": task.labels},
        **_read_build_report(folder),
        "splits": {
            split.name: _describe_split(task, split, patients.get(split.name), samples[split.name]) for split in splits
        },
        "overlap": overlap,
        "co_occurrence": None
        if len(task.labels) <= 1 or isinstance(task, ArkTask) and task.problem_type == "single_label_classification"
        else {"both": both.tolist(), "known": known.tolist()},
        "shortcut": _shortcut(task, splits, samples, patients),
    }
    return report, thumbnails


def _describe_duplicates(folders: dict[str, Path]) -> dict[str, Any]:
    """Pictures in two splits or datasets, by the pair; and those that stand in one split more than once."""
    tables = {name: read_hashes(folder) for name, folder in folders.items() if (folder / HASH_FILE).is_file()}
    pairs: dict[tuple, dict[str, Any]] = {}
    for duplicate in find_duplicates(tables):
        first, second = duplicate.first, duplicate.second
        splits = [f"{place.dataset}/{place.split}" for place in (first, second)]
        datasets = sorted({first.dataset, second.dataset})
        pair = pairs.setdefault(
            tuple(splits), {"splits": splits, "datasets": datasets, "equal": 0, "near": 0, "examples": []}
        )
        pair["equal" if duplicate.equal else "near"] += 1
        if len(pair["examples"]) < SHOWN_DUPLICATES:
            pair["examples"].append({"rows": [first.row, second.row], "equal": duplicate.equal})
    repeated: dict[str, int] = {}
    for name, table in tables.items():
        counted = table.group_by("split").aggregate([("sha256", "count"), ("sha256", "count_distinct")]).to_pylist()
        repeated |= {f"{name}/{row['split']}": row["sha256_count"] - row["sha256_count_distinct"] for row in counted}
    return {
        "searched": list(tables),
        "not_searched": [name for name in folders if name not in tables],
        "pairs": list(pairs.values()),
        "repeated_in_split": {place: count for place, count in repeated.items() if count},
    }


def _known(split: Split, column: str) -> set:
    return set(split.metadata[column]) - {None, ""}


def _patient_numbers(splits: list[Split]) -> dict[str, np.ndarray]:
    """A number per patient for each row, by split; empty if no patient is known. Who is not known counts alone."""
    if not any(_known(split, "patient_id") for split in splits):
        return {}
    numbers: dict[Any, int] = {}
    named = {split.name: split.metadata["patient_id"] for split in splits}
    return {
        name: np.array([numbers.setdefault(patient or (name, row), len(numbers)) for row, patient in enumerate(ids)])
        for name, ids in named.items()
    }


def _read_build_report(folder: Path) -> dict[str, Any]:
    """What the builder noted: the source, counts that are not the release's, how many rows it left out."""
    try:
        noted = read_json(folder / BUILD_REPORT)
        facts = noted.get("facts", {})
    except (OSError, ValueError, AttributeError):  # none, or not a builder's
        noted, facts = {}, {}
    return {
        "source": {name: facts[name] for name in ("title", "license", "access", "splits") if facts.get(name)},
        "left_out": len(noted.get("problems", [])),
        "unexpected": noted.get("expected", []),
    }


def _describe_split(task: AnyTask, split: Split, patients: np.ndarray | None, sample: Sample) -> dict[str, Any]:
    ages = np.array([np.nan if age is None else age for age in split.metadata["age"]], dtype=float)
    decades = Counter(int(age // 10) for age in ages[np.isfinite(ages) & (ages >= 0)])
    statistics = np.array(sample.statistics).reshape(-1, len(SHORTCUT_STATISTICS))
    sizes = Counter(f"{int(width)} x {int(height)}" for width, height in statistics[:, :2])
    return {
        **split_summary(task, split.stored, split.metadata),
        "rows_without_known_label": int((np.isnan(split.labels) | (split.labels == -1)).all(axis=1).sum()),
        "rows_without_patient": len(split.labels) - sum(bool(each) for each in split.metadata["patient_id"]),
        "prevalence": {
            label: prevalence(split.labels[:, number], patients) for number, label in enumerate(task.labels)
        },
        "areas": None if split.areas is None else _describe_areas(task, split.areas),
        "ages_by_decade": {f"{10 * decade}": decades[decade] for decade in sorted(decades)},
        "images_looked_at": len(statistics),
        "unreadable_rows": sample.unreadable,
        "sizes": dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:5]),
        "statistics": {
            name: dict(zip(QUANTILES, np.percentile(values, list(QUANTILES.values())).tolist(), strict=True))
            for name, values in zip(SHORTCUT_STATISTICS, statistics.T, strict=True)
            if len(values)
        },
    }


def _describe_areas(task: AnyTask, areas: np.ndarray) -> dict[str, dict[str, float]]:
    """Quantiles of the share of an image that each label covers where it is; without those that are nowhere."""
    found = {label: column[column > 0] for label, column in zip(task.labels, areas.T, strict=True)}
    return {
        label: dict(zip(QUANTILES, np.percentile(values, list(QUANTILES.values())).tolist(), strict=True))
        for label, values in found.items()
        if len(values)
    }


# Images


def _look_at_images(
    name: str, task: AnyTask, splits: list[Split], num_images: int
) -> tuple[dict[str, Sample], list[Thumbnail]]:
    drawn = {split.name: _draw_rows(split, num_images) for split in splits}
    shown = _draw_thumbnails(task, splits, drawn)
    samples, thumbnails = {}, []
    order = {label: number for number, label in enumerate(task.labels or [split.name for split in splits])}
    total = sum(len(set(drawn[split.name]) | set(shown[split.name])) for split in splits)
    with tqdm(total=total, desc=f"looking at {name}", unit="image") as progress:
        for split in splits:
            sample = samples[split.name] = Sample()
            in_sample = set(drawn[split.name])
            for row, image, masks in read_images(split, sorted(in_sample | set(shown[split.name])), task):
                progress.update()
                if image is None:
                    sample.unreadable.append(row)
                    continue
                if row in in_sample:
                    sample.rows.append(row)
                    sample.statistics.append(image_statistics(image if len(image) == 1 else luminance(image)))
                for label in shown[split.name].get(row, ()):
                    outlined = masks[order[label]] if masks else None
                    thumbnails.append(Thumbnail(label, split.name, row, small_jpeg(image, outlined)))
    return samples, sorted(thumbnails, key=lambda each: order[each.label])


def _draw_rows(split: Split, num_images: int) -> list[int]:
    chosen = np.unique(np.linspace(0, max(len(split.groups) - 1, 0), MAX_GROUPS).round().astype(int))
    parts = [np.arange(group.start, group.start + group.count) for group in np.array(split.groups)[chosen]]
    candidates = np.concatenate(parts) if parts else np.arange(0)
    random = np.random.default_rng(zlib.crc32(split.name.encode()))
    return random.choice(candidates, min(num_images, len(candidates)), replace=False).tolist()


def _draw_thumbnails(
    task: AnyTask, splits: list[Split], drawn: dict[str, list[int]]
) -> dict[str, dict[int, list[str]]]:
    """Labels to show of rows, by split: from the drawn rows if they have enough positives, to read no more files."""
    if not task.labels:
        return {split: {row: [split] for row in rows[:THUMBNAILS]} for split, rows in drawn.items()}
    shown: dict[str, dict[int, list[str]]] = {split.name: {} for split in splits}
    for number, label in enumerate(task.labels):
        random = np.random.default_rng(zlib.crc32(label.encode()))
        near, far = [], []
        for split in splits:
            positive = np.flatnonzero(split.labels[:, number] == 1)
            at_hand = np.isin(positive, drawn[split.name])
            near += [(split.name, int(row)) for row in positive[at_hand]]
            far += [(split.name, int(row)) for row in positive[~at_hand]]
        chosen: list[tuple[str, int]] = []
        for candidates in (near, far):
            chosen += [candidates[i] for i in random.permutation(len(candidates))[: THUMBNAILS - len(chosen)]]
        for name, row in chosen:
            shown[name].setdefault(row, []).append(label)
    return shown


def small_jpeg(pixels: np.ndarray, mask: np.ndarray | None = None) -> bytes:
    """A picture (C, rows, columns) for a page, with a tint where a mask of the same size is."""
    small = Image.fromarray(np.moveaxis(pixels / full_scale(pixels) * 255, 0, -1).astype(np.uint8).squeeze())
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    if mask is not None:
        strength = Image.fromarray((mask * TINT).astype(np.uint8)).resize(small.size, Image.Resampling.BOX)
        small = Image.composite(Image.new("RGB", small.size, TINT_COLOUR), small.convert("RGB"), strength)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _shortcut(
    task: AnyTask, splits: list[Split], samples: dict[str, Sample], patients: dict[str, np.ndarray]
) -> dict[str, Any] | None:
    """How well the statistics of the sampled images predict each label, fitted on train; None if that cannot be."""
    by_name = {split.name: split for split in splits if samples[split.name].rows}
    tested = next((name for name in ("test", "validation") if name in by_name), None)
    if tested is None or "train" not in by_name or not task.labels:
        return None

    def known_labels(name: str) -> np.ndarray:
        labels = by_name[name].labels[samples[name].rows].astype(float)
        return np.where(labels == -1, np.nan, labels)

    train = np.array(samples["train"].statistics)
    scores = shortcut_baseline(train, known_labels("train"), np.array(samples[tested].statistics))
    clusters = patients[tested][samples[tested].rows].tolist() if patients else None
    table = label_table(known_labels(tested), scores, task.labels, clusters, num_bootstrap=200)
    return {
        "fitted_on": "train",
        "tested_on": tested,
        "labels": {
            result.label: {
                "auroc": result.auroc,
                "low": result.ci_low,
                "high": result.ci_high,
                "positive": result.num_positive,
                "known": result.num_known,
            }
            for result in table
        },
    }
