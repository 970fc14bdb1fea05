"""The known datasets, as data: what `catalog.yaml` says of each release."""

from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CATALOG_FILE = Path(__file__).with_name("catalog.yaml")


@dataclass(frozen=True)
class Choice:
    """
    An option of a builder.

    Args:
        values: What it can be; the first is the default.
        help: What that means.
        expected: Counts that are others with a value of it, by value; they replace those of the entry.
    """

    values: list[str]
    help: str
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class CatalogEntry:
    """
    One dataset that can be built.

    Args:
        name: The task's name, and the builder's.
        title: What the release calls itself.
        homepage: Where it is to be had.
        license: Its terms of use.
        access: How one gets it.
        citation: BibTeX.
        layout: The files of the release that the builder reads, in words.
        labels: In the order of the stored labels.
        splits: Which splits are the release's own, and how the others are made.
        semantics: What the label values mean: uncertain, blank, "not mentioned".
        reader: The function in `release_readers` that reads it, of other modalities in `modality_readers`, of outlines
            in `masked_releases`, of volumes in `volume_releases`.
        ignored: Folders of the release whose images are not of the dataset.
        path_parts: How many parts of an image's path name it; 1: the file's name does, alone.
        problem_type: As in `ArkTask`.
        eval_labels: As in `ArkTask`.
        masks: Where the labels are outlined, whether they are "overlapping" or "exclusive".
        pixel_spacing: As in `SegmentationTask`, of the images as they are read.
        modality: As in `ArkTask`.
        volumes: Whether they are volumes.
        shares: Shares of "validation" and "test" that are split off by a hash of the patient, of the images that the
            release puts into no split.
        seed: What that hash starts with; equal for variants of one release, so that their splits are equal.
        expected: Counts of the whole release: "images" and "positives", by split or for "all"; "patients"; and the
            "source" of these numbers.
        options: The builder's options.
        notes: What else a user should know.
    """

    name: str
    title: str
    homepage: str
    license: str
    access: str
    citation: str
    layout: str
    labels: list[str]
    splits: str
    semantics: str
    reader: str
    ignored: list[str] = field(default_factory=list)
    path_parts: int = 1
    problem_type: str = "multi_label_classification"
    eval_labels: list[str] | None = None
    masks: str | None = None
    pixel_spacing: list[float] | None = None
    modality: str = "CR"
    volumes: bool = False
    shares: dict[str, float] = field(default_factory=dict)
    seed: str = ""
    expected: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Choice] = field(default_factory=dict)
    notes: str = ""


@cache
def read_catalog(path: Path = CATALOG_FILE) -> dict[str, CatalogEntry]:
    """
    The catalog: entries by name, in the order of the file.

    In the file an entry may say `like: NAME`; what it does not say itself is then as in that entry, further up.

    Raises:
        ValueError: An entry has an unknown key, lacks a required one, or is like none of those above.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
    written: dict[str, dict[str, Any]] = {}
    entries = {}
    for name, values in yaml.load(path.read_text(encoding="utf-8"), loader).items():
        like = values.pop("like", None)
        if like is not None and like not in written:
            raise ValueError(f"{path}, {name}: there is no entry {like!r} further up.")
        base = {"seed": name, "reader": name} if like is None else written[like]
        values = written[name] = base | values
        options = {option: Choice(**choice) for option, choice in values.get("options", {}).items()}
        try:
            entries[name] = CatalogEntry(name, **values | {"options": options})
        except TypeError:
            keys = [field.name for field in fields(CatalogEntry)]
            raise ValueError(f"{path}, {name}: an entry has the keys {keys}; this one has {sorted(values)}.") from None
    return entries
