"""The official releases on disk as [`Release`]s, ready to be built: what the catalog knows, applied to a folder."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...models.ark.configuration_ark import ArkTask, SegmentationTask
from ..images.image_files import image_suffix
from ..rows import OPTIONAL_COLUMNS, Problem, Release, Row, hashed_split
from ..volumes.volume import nibabel
from .catalog import CatalogEntry, read_catalog
from .masked_releases import MASKED_RELEASES
from .modality_readers import MODALITY_READERS
from .original_lists import find_lists, read_original_list
from .raw_folder import MissingFileError, RawFolder
from .release_readers import READERS
from .released_images import ReleasedImage, ReleasedImages
from .volume_releases import VOLUME_RELEASES

FACTS = ("title", "homepage", "license", "access", "citation", "splits", "semantics", "notes")


def read_release(name: str, raw: Path, lists: Path | None = None, options: Mapping[str, str] | None = None) -> Release:
    """
    Reads the tables of an official release and finds its images; no image is opened.

    Args:
        name: The dataset, a key of [`read_catalog`].
        raw: The folder that the release was unpacked into.
        lists: A folder of lists in the originals' formats (specification of the originals, section 4), by whose names
            they are of train, val or test. They then say which images there are, their splits and their labels; what
            the release's own tables, where they are there, tell of patients, sex, age and view is kept.
        options: Values of the entry's options; the first value of each that is not given.

    Returns:
        The release. Rows whose image is missing are among its problems. `facts` holds what the catalog says of the
        dataset, `options`, and `expected`: in words, each count that differs from the official release's.

    Raises:
        ValueError: The name or an option is unknown, a table is missing or lacks columns, or there are no rows at all.
    """
    catalog = read_catalog()
    if name not in catalog:
        raise ValueError(f"There is no dataset {name!r} in the catalog; it has {', '.join(catalog)}.")
    entry = catalog[name]
    options = _checked_options(entry, options or {})
    folder = RawFolder(raw, frozenset(entry.ignored))
    masked = MASKED_RELEASES.get(entry.reader)
    special = masked or VOLUME_RELEASES.get(entry.reader)
    read = special.read if special else (READERS | MODALITY_READERS)[entry.reader]
    records = read(folder, entry, options)
    if lists is not None:
        records = _listed_records(entry, lists, records)
    release = Release(
        released_task(entry), [], facts={fact: getattr(entry, fact) for fact in FACTS if getattr(entry, fact)}
    )
    if masked:
        release.read_masks, release.read_image = masked.masks(folder, entry), masked.image
    if entry.volumes:
        nibabel()  # its absence is told before any volume is blamed
        release.read_volume, release.rows_per_shard = VOLUME_RELEASES[entry.reader].volumes(options)
    for record in records:
        if isinstance(record, Problem):
            release.problems.append(record)
            continue
        try:
            path = folder.find_image(record.path or record.image)
        except ValueError as error:
            release.problems.append(Problem(record.where, str(error)))
            continue
        key = record.patient_id or record.image.removesuffix(image_suffix(record.image))
        split = record.split or hashed_split(entry.seed, key, entry.shares)
        if options.get("splits") == "test":
            split = "test"
        metadata = {column: getattr(record, column) for column in OPTIONAL_COLUMNS}
        metadata = {"image_id": record.image, **metadata}
        release.rows.append(Row(record.where, path, split, record.labels, metadata, record.masks))
    if not release.rows and not release.problems:
        raise ValueError(f"{raw} holds no images of {name}. Its layout: {entry.layout}")
    release.facts["options"] = options
    if lists is None:
        release.facts["expected"] = differing_counts(entry, release, options)
    else:
        release.facts["splits"] = "As in the lists that were given: " + ", ".join(
            f"{split} {', '.join(file.name for file in files)}" for split, files in find_lists(lists).items() if files
        )
    return release


def released_task(entry: CatalogEntry) -> ArkTask | SegmentationTask:
    """The task of a dataset of the catalog."""
    if entry.masks is None:
        return ArkTask(entry.name, entry.labels, entry.problem_type, entry.eval_labels, modality=entry.modality)
    overlapping, spacing = entry.masks == "overlapping", entry.pixel_spacing
    return SegmentationTask(entry.name, entry.labels, overlapping, pixel_spacing=spacing, modality=entry.modality)


def _listed_records(entry: CatalogEntry, folder: Path, official: ReleasedImages) -> ReleasedImages:
    """The images of the lists in `folder`, with what the official tables tell of them beside their labels."""
    known: dict[str, ReleasedImage] = {}
    try:
        for record in official:
            if isinstance(record, ReleasedImage):
                known[_list_key(entry, record.image)] = record
    except MissingFileError:
        pass
    for split, files in find_lists(folder).items():
        for file in files:
            for item in read_original_list(file, entry.name):
                if isinstance(item, Problem):
                    yield item
                    continue
                key = _list_key(entry, item.image)
                record = known.get(key, ReleasedImage("", key, 0, patient_id=item.patient))
                yield replace(record, where=item.where, labels=item.labels, split=split)


def _list_key(entry: CatalogEntry, path: str) -> str:
    """What an image is called both in the release's tables and in lists, whose paths and suffixes are their own."""
    path = path.removesuffix(image_suffix(path))
    return "/".join(path.split("/")[-entry.path_parts :])


def differing_counts(entry: CatalogEntry, release: Release, options: Mapping[str, str]) -> list[str]:
    """Each count of the release that is not the official one's, in words."""
    expected = dict(entry.expected)
    for option, value in options.items():
        expected |= entry.options[option].expected.get(value, {})
    release.facts["expected_source"] = expected.pop("source")
    images = Counter(row.split for row in release.rows)
    found: dict[str, Any] = {"images": images | {"all": len(release.rows)}}
    found["patients"] = len({row.metadata["patient_id"] for row in release.rows} - {None})
    if "positives" in expected:
        found["positives"] = {split: _positives(entry, release.rows, split) for split in expected["positives"]}
    return [
        f"{what}: {count:,} found, {wanted:,} expected"
        for what, count, wanted in _compared(expected, found)
        if count != wanted
    ]


def _compared(expected: Mapping[str, Any], found: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, int, int]]:
    for key, wanted in expected.items():
        what = f"{name}, {key}" if name else key
        if isinstance(wanted, Mapping):
            yield from _compared(wanted, found.get(key, {}), what)
        else:
            yield what, found.get(key, 0), wanted


def _positives(entry: CatalogEntry, rows: Sequence[Row], split: str) -> dict[str, int]:
    totals = [0] * len(entry.labels)
    for row in rows:
        if split in (row.split, "all"):
            values = [row.labels == i for i in range(len(totals))] if isinstance(row.labels, int) else row.labels
            for position, value in enumerate(values):
                totals[position] += value == 1
    return dict(zip(entry.labels, totals, strict=True))


def _checked_options(entry: CatalogEntry, options: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(options) - set(entry.options))
    if unknown:
        raise ValueError(f"{entry.name} has no options {unknown}; it has {sorted(entry.options)}.")
    values = {option: options.get(option, choice.values[0]) for option, choice in entry.options.items()}
    for option, value in values.items():
        if value not in entry.options[option].values:
            raise ValueError(
                f"--{option} of {entry.name} must be one of {entry.options[option].values}, not {value!r}."
            )
    return values
