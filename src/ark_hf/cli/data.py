"""The verb `data`: builds task datasets from releases on disk, and reports on them."""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import field, make_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..names import what_is_there
from .arguments import choose, parse, quiet
from .data_arguments import (
    BuildArguments,
    GenericArguments,
    HubArguments,
    PhantomArguments,
    PhantomVolumeArguments,
    PictureArguments,
    ReleaseArguments,
    ReportArguments,
    SizeArguments,
    SliceArguments,
    VolumeArguments,
)

if TYPE_CHECKING:
    from ..data.sources.catalog import CatalogEntry


def data(argv: list[str]) -> int:
    """Build task datasets, and look into them."""
    action = choose(
        "ark-hf data", "action", "Task datasets.", {name: text for name, (_, text) in ACTIONS.items()}, argv
    )
    return 0 if action is None else ACTIONS[action][0](argv[1:])


def build(argv: list[str]) -> int:
    if argv and argv[0] in SOURCES:  # which need no catalog, nor what it loads
        return SOURCES[argv[0]][0](argv[1:])
    from ..data.sources.catalog import read_catalog

    releases = {name: (partial(build_release, entry), entry.title) for name, entry in read_catalog().items()}
    sources = SOURCES | releases
    texts = {name: text for name, (_, text) in sources.items()}
    source = choose("ark-hf data build", "source", "Builds a task dataset from a release.", texts, argv)
    return 0 if source is None else sources[source][0](argv[1:])


def build_generic(argv: list[str]) -> int:
    args, _ = parse(
        GenericArguments,
        "data build generic",
        argv,
        "Builds a task dataset from a folder of radiographs with labels.csv, with a folder for each class, with masks "
        "or, if told so, without labels.",
    )
    quiet()
    from ..data.sources.generic import GenericSource, read_generic
    from ..data.sources.generic_images import read_unlabelled
    from ..data.sources.generic_masks import MaskedSource, read_masked

    csv = None if args.csv is None else Path(args.csv)
    options: dict[str, Any] = args.reading | {"csv": csv, "split_column": args.split_column}
    masked = {name: getattr(args, name) for name in ("masks", "legend", "overlapping", "allow_missing_masks")}
    given = [
        f"--{name}"
        for name, value in {"label_maps": args.label_maps, **masked}.items()
        if value not in (None, [], False)
    ]
    if args.unlabelled:
        if given:
            raise ValueError(f"{given[0]} is of masks, and --unlabelled reads none: leave one of the two out.")
        release = read_unlabelled(GenericSource(Path(args.raw), args.name, **options))
    elif given:
        maps = None if args.label_maps is None else Path(args.label_maps)
        release = read_masked(MaskedSource(Path(args.raw), args.name, label_maps=maps, **options, **masked))
    else:
        release = read_generic(GenericSource(Path(args.raw), args.name, **options))
    release.facts.update(args.source_facts)
    return finish_build(args, release)


def build_volumes(argv: list[str]) -> int:
    args, _ = parse(
        VolumeArguments,
        "data build generic_volume",
        argv,
        "Builds a task dataset from a folder of volumes (NIfTI, MetaImage, folders of DICOM) with labels.csv, with "
        "label maps or, if told so, without labels.",
    )
    quiet()
    from ..data.sources.generic_volumes import VolumeSource, read_volumes

    given = {name: getattr(args, name) for name in ("volumes", "label_maps", "legend", "unlabelled", "split_column")}
    csv = None if args.csv is None else Path(args.csv)
    release = read_volumes(VolumeSource(Path(args.raw), args.name, csv, **given, **args.reading))
    release.facts.update(args.source_facts)
    return finish_build(args, release)


def build_slices(argv: list[str]) -> int:
    args, _ = parse(
        SliceArguments,
        "data build slices",
        argv,
        "Builds a task dataset of pictures from axial slices of the volumes in a folder (NIfTI, MetaImage, folders of "
        "DICOM), with labels.csv, with label maps or, if told so, without labels.",
    )
    quiet()
    from ..data.sources.slices import SliceSource, read_slices

    names = "volumes label_maps legend unlabelled split_column presence every distance slice_column window"
    given = {name: getattr(args, name) for name in names.split()}
    csv = None if args.csv is None else Path(args.csv)
    release = read_slices(SliceSource(Path(args.raw), args.name, csv, **given, **args.reading))
    release.facts.update(args.source_facts)
    return finish_build(args, release)


def build_release(entry: "CatalogEntry", argv: list[str]) -> int:
    options: list[tuple[str, type, Any]] = [
        (name, Literal[tuple(choice.values)], field(default=choice.values[0], metadata={"help": choice.help}))  # type: ignore[misc]
        for name, choice in entry.options.items()
    ]
    told = BuildArguments if entry.volumes else ReleaseArguments if entry.masks is None else PictureArguments
    args: Any
    args, _ = parse(
        make_dataclass("Arguments", options, bases=(told,)),
        f"data build {entry.name}",
        argv,
        f"Builds a task dataset from {entry.title}. Files below --raw: {entry.layout} Splits: {entry.splits}",
    )
    quiet()
    from ..data.sources.releases import read_release

    named = getattr(args, "lists", None)  # of labels of pictures, so that builders of others take none
    lists = None if named is None else Path(named)
    given = {name: getattr(args, name) for name in entry.options}
    return finish_build(args, read_release(entry.name, Path(args.raw), lists, given))


def build_hub(argv: list[str]) -> int:
    args, _ = parse(
        HubArguments,
        "data build hub",
        argv,
        "Builds a task dataset from somebody else's Hub dataset (--raw: its id, or a folder).",
    )
    quiet()
    from ..data.sources.hub_source import HubSource, read_hub

    source = HubSource(args.raw, args.name, args.config, **args.reading)
    release = read_hub(source)
    if release.read_volume is not None and (args.dicom_metadata or args.size != HubArguments.size):
        raise ValueError(
            f"{args.raw} has volumes, which are stored as they are: leave --size and --dicom_metadata out."
        )
    release.facts.update(args.source_facts)
    return finish_build(args, release)


def build_phantoms(argv: list[str]) -> int:
    args, _ = parse(
        PhantomArguments,
        "data build phantom_masks",
        argv,
        "Draws chests and builds two segmentation datasets of them: phantom_organs, and overlapping phantom_findings.",
    )
    quiet()
    from ..data.sources.phantom_sites import build_phantom_masks

    return _draw(args, build_phantom_masks)


def build_phantom_cts(argv: list[str]) -> int:
    args, _ = parse(
        PhantomVolumeArguments,
        "data build phantom_volumes",
        argv,
        "Draws CTs of chests and builds two datasets of them: phantom_ct_nodule, whether there is a nodule, and "
        "phantom_ct_structures, label maps of lungs, vessels and nodules.",
    )
    quiet()
    from ..data.sources.phantom_volumes import build_phantom_volumes

    return _draw(args, build_phantom_volumes)


def _draw(args: PhantomArguments, build: Callable[[Path, dict[str, int], int, int], dict[str, Path]]) -> int:
    counts = {"train": args.train, "validation": args.validation, "test": args.test}
    for folder in build(Path(args.out), counts, args.size, args.seed).values():
        print(f"{folder}: {', '.join(f'{count:,} {split}' for split, count in counts.items())}.")
    return 0


def finish_build(args: BuildArguments, release) -> int:
    """Builds a release as the options say, and tells what came of it."""
    from ..data.build.build import build_dataset
    from ..data.sources.dicom_rows import add_dicom_metadata
    from ..hub.push_dataset import check_allowed, push_dataset

    if args.push is not None:
        check_allowed(release.task.name, release.facts.get("license"), args.allow_patient_data)
    if isinstance(args, PictureArguments) and args.dicom_metadata:
        release, asked = add_dicom_metadata(release, args.dicom_metadata)
        print(f"{', '.join(args.dicom_metadata)}: looked up in {asked:,} of {len(release.rows):,} images.")
    size = {"size": args.size} if isinstance(args, SizeArguments) else {}
    report = build_dataset(
        release,
        Path(args.out),
        num_workers=args.num_workers,
        skip_bad=args.skip_bad,
        allow_patient_overlap=args.allow_patient_overlap,
        **size,
    )
    rows = ", ".join(f"{count:,} {split}" for split, count in report["rows"].items())
    print(f"{args.out}: {rows}; {len(report['problems'])} rows or images left out. See build_report.json there.")
    if release.facts.get("splits"):
        print(f"Splits: {release.facts['splits']}")
    for left_out in report["left_out"]:
        named = f"such as {left_out['first'][0]}"
        print(f"{left_out['files']:,} files left out, {named}: {left_out['reason']}.", file=sys.stderr)
    doubted = Counter(doubt["reason"] for doubt in report["doubts"])
    for reason, count in doubted.items():
        print(f"Warning: {count:,} images: {reason}. They are listed there too.", file=sys.stderr)
    for remark in report["remarks"]:
        print(remark)
    absent = [split for split in ("validation", "test") if not report["rows"][split]]
    if absent and report["rows"]["train"]:
        print(
            f"There are no images of {' and '.join(absent)}: "
            + "training chooses its best weights on validation, and test is what results are reported on.",
            file=sys.stderr,
        )
    contradicting = report["duplicates"]["contradicting"]
    if contradicting:
        first = "{where} and {other}".format(**contradicting[0])
        print(
            f"{len(contradicting)} images are the same, to the pixel, as one with other labels, such as those of "
            f"{first}: one of the two is wrong. All are listed there.",
            file=sys.stderr,
        )
    near = len(report["duplicates"]["near"])
    if near:
        print(f"{near} images look nearly the same as one of an earlier split; they are listed there too.")
    for mismatch in report["expected"]:
        print(f"Not what the release has: {mismatch}", file=sys.stderr)
    if args.push is not None:
        print(f"Sent to {push_dataset(Path(args.out), args.push, allow_patient_data=args.allow_patient_data).url}.")
    return 0


def report(argv: list[str]) -> int:
    args, given = parse(
        ReportArguments,
        "data report",
        argv,
        "Counts, prevalence, overlaps, duplicates, sizes, grey levels and some images of task datasets, as one "
        "HTML page and as JSON.",
        datasets={"nargs": "+", "help": "Folders of task datasets."},
    )
    for folder in given.datasets:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder!r} is not the folder of a task dataset: {what_is_there(folder)}")
    from ..data.report.numbers import describe_datasets
    from ..data.report.page import write_data_report

    numbers, thumbnails = describe_datasets([Path(folder) for folder in given.datasets], args.images)
    print(f"The report is in {write_data_report(numbers, thumbnails, Path(args.out))}.")
    return 0


SOURCES = {
    "generic": (
        build_generic,
        "a folder of images with labels.csv, with a folder for each class, with masks, or without labels",
    ),
    "hub": (build_hub, "somebody else's Hub dataset"),
    "generic_volume": (
        build_volumes,
        "a folder of CT or MR volumes with labels.csv, with label maps, or without labels",
    ),
    "slices": (build_slices, "axial slices of CT or MR volumes as pictures, with labels or masks"),
    "phantom_masks": (build_phantoms, "drawn chests with masks of lungs, heart and findings; needs no release"),
    "phantom_volumes": (build_phantom_cts, "drawn CTs of chests with nodules and label maps; needs no release"),
}
ACTIONS = {"build": (build, "from a release on disk"), "report": (report, "what is in task datasets")}
