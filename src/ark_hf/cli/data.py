"""The verb `data`: builds task datasets from releases on disk, and reports on them."""

import sys
from collections import Counter
from dataclasses import dataclass, field, fields, make_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..names import key_of, what_is_there
from .arguments import check_at_least, check_names, choose, parse, quiet

if TYPE_CHECKING:
    from ..data.sources.catalog import CatalogEntry


@dataclass
class BuildArguments:
    """What every builder is told."""

    raw: str = field(metadata={"help": "Folder of the release as it was unpacked."})
    out: str = field(metadata={"help": "New folder of the task dataset; the same command continues a killed build."})
    size: int = field(default=1024, metadata={"help": "Longer side to which larger images are shrunk."})
    num_workers: int | None = field(default=None, metadata={"help": "Processes; as many as cores unless set."})
    skip_bad: bool = field(
        default=False,
        metadata={"help": "Leave rows and images that cannot be used out (build_report.json lists them)."},
    )
    allow_patient_overlap: bool = field(
        default=False, metadata={"help": "Build although a patient or a picture stands in two splits."}
    )
    dicom_metadata: list[str] = field(
        default_factory=list,
        metadata={"help": "Of age, sex, view: read these from DICOM images where the release's tables do not say."},
    )
    push: str | None = field(
        default=None, metadata={"help": "Then send it to this private Hub repository, as `ark-hf push` does."}
    )
    allow_patient_data: bool = field(
        default=False, metadata={"help": "With --push: as in `ark-hf push`; data of patients may be on the Hub."}
    )

    def __post_init__(self):
        if self.num_workers is not None:
            check_at_least(1, num_workers=self.num_workers)
        if self.allow_patient_data and self.push is None:
            raise ValueError("--allow_patient_data is for sending the dataset: add --push REPOSITORY.")


@dataclass
class ReleaseArguments(BuildArguments):
    """What the builders of the catalog are told; each has options of its own beside these."""

    lists: str | None = field(
        default=None,
        metadata={"help": "Folder of lists in the originals' formats, train, val, test: their splits and labels."},
    )


@dataclass
class LabelArguments(BuildArguments):
    """How the labels of a source that we do not know are read."""

    name: str = field(default="", metadata={"help": "Name of the task; made of the last part of --raw unless set."})
    labels: list[str] = field(
        default_factory=list, metadata={"help": "Columns of 0, 1, -1 or blank: a multi-label task."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Or one column of class names: a single-label task."}
    )
    separator: str | None = field(
        default=None,
        metadata={
            "help": "That column holds lists of findings with this between them: a multi-label task. `No Finding` is "
            "none of them, blank is unknown."
        },
    )
    classes: list[str] = field(
        default_factory=list, metadata={"help": "Names in that column in order; those that occur, sorted, unless set."}
    )
    label_map: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What words beside 0, 1, yes, False, positive, ... stand for: ja=1 nein=0 fraglich=-1; in a "
            "--label_column a class: covid=COVID-19."
        },
    )
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    patient_column: str | None = field(
        default="patient_id",
        metadata={"help": "Column of the patients, if it has one; null: not read. PatientID and the like are found."},
    )
    sex_column: str | None = field(
        default="sex", metadata={"help": "Of the patients' sex, in any usual word; likewise."}
    )
    age_column: str | None = field(default="age", metadata={"help": "Of their age: 45, 045Y, 6M, >89; likewise."})
    view_column: str | None = field(default="view", metadata={"help": "Of the view: PA, AP, lateral; likewise."})
    modality: str = field(
        default="CR",
        metadata={
            "help": "DICOM's code of what the images are taken with: CR (any radiograph of the chest), CT, OP, ..."
        },
    )
    title: str | None = field(default=None, metadata={"help": "For the cards: what the source is called."})
    homepage: str | None = field(default=None, metadata={"help": "For the cards: where it is found."})
    license: str | None = field(
        default=None,
        metadata={
            "help": "For the cards: its licence by its name on the Hub, such as cc-by-4.0, or other. Under an open "
            "one `ark-hf push` needs no --allow_patient_data."
        },
    )
    access: str | None = field(default=None, metadata={"help": "For the cards: on what terms one gets it."})

    @property
    def source_facts(self) -> dict[str, str]:
        facts = {name: getattr(self, name) for name in ("title", "homepage", "license", "access")}
        return {name: fact for name, fact in facts.items() if fact is not None}

    def __post_init__(self):
        super().__post_init__()
        if not self.name:
            self.name = _task_name(Path(self.raw.partition("@")[0]).resolve().name)

    @property
    def reading(self) -> dict[str, Any]:
        """How the source's labels and metadata are read."""
        from ..data.sources.labelled import LabelledSource

        return {each.name: getattr(self, each.name) for each in fields(LabelledSource)}


@dataclass
class GenericArguments(LabelArguments):
    csv: str | None = field(
        default=None,
        metadata={"help": "Table of the images, CSV, TSV or .xlsx; labels.* in --raw unless set."},
    )
    split_column: str = field(
        default="split", metadata={"help": "Column of train, val, test; without it, patients are split by a hash."}
    )
    masks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "A segmentation: LABEL=FOLDER for each label, of a mask file for each image, called as the image "
            "is (1.png or 1_mask.png for 1.jpg), 0 outside and one other value inside."
        },
    )
    label_maps: str | None = field(
        default=None, metadata={"help": "Or the folder of one label map an image, whose values --legend names."}
    )
    legend: list[str] = field(
        default_factory=list, metadata={"help": "Values of the label maps: 1=lungs 2=heart; 0 is background."}
    )
    overlapping: bool = field(default=False, metadata={"help": "With --masks: a pixel may belong to several labels."})
    allow_missing_masks: bool = field(
        default=False,
        metadata={"help": "With --masks: an image may lack files of some; these labels are unknown for it."},
    )
    unlabelled: bool = field(
        default=False,
        metadata={
            "help": "Images without labels, for `pretrain` with `method: peac` and for `embed`: each below --raw, or "
            "each that a table names, of which only patients, sex, age, view and splits count."
        },
    )


@dataclass
class HubArguments(LabelArguments):
    config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset, if it has several."})

    def __post_init__(self):
        check_names(datasets=[self.raw])
        super().__post_init__()


@dataclass
class PhantomArguments:
    out: str = field(metadata={"help": "New folder, with a folder for each task dataset."})
    size: int = field(default=256, metadata={"help": "Longer side of the pictures."})
    train: int = field(default=300, metadata={"help": "Pictures for training."})
    validation: int = field(default=60, metadata={"help": "Pictures for validation."})
    test: int = field(default=150, metadata={"help": "Pictures for the test."})
    seed: int = field(default=0, metadata={"help": "Seed of everything drawn."})

    def __post_init__(self):
        check_at_least(1, train=self.train, validation=self.validation, test=self.test)


@dataclass
class ReportArguments:
    out: str = field(default="data_report", metadata={"help": "Folder for report.html and report.json."})
    images: int = field(
        default=1000, metadata={"help": "Images a split that are looked at for sizes, grey levels and shortcuts."}
    )

    def __post_init__(self):
        check_at_least(1, images=self.images)


def _task_name(folder: str) -> str:
    """A task's name made of a folder's. Raises `ValueError` if none can be."""
    from ..models.ark.configuration_ark import ArkTask

    try:
        return ArkTask(key_of(folder), ["any"]).name
    except ValueError:
        raise ValueError(
            f"The task would be called as the folder is, {folder!r}, and no task can be: give another with --name."
        ) from None


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


def build_release(entry: "CatalogEntry", argv: list[str]) -> int:
    options: list[tuple[str, type, Any]] = [
        (name, Literal[tuple(choice.values)], field(default=choice.values[0], metadata={"help": choice.help}))  # type: ignore[misc]
        for name, choice in entry.options.items()
    ]
    args: Any
    args, _ = parse(
        make_dataclass("Arguments", options, bases=(ReleaseArguments if entry.masks is None else BuildArguments,)),
        f"data build {entry.name}",
        argv,
        f"Builds a task dataset from {entry.title}. Files below --raw: {entry.layout} Splits: {entry.splits}",
    )
    quiet()
    from ..data.sources.releases import read_release

    named = getattr(args, "lists", None)  # of labels, so that builders of masks take none
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

    counts = {"train": args.train, "validation": args.validation, "test": args.test}
    for folder in build_phantom_masks(Path(args.out), counts, args.size, args.seed).values():
        print(f"{folder}: {', '.join(f'{count:,} {split}' for split, count in counts.items())}.")
    return 0


def finish_build(args: BuildArguments, release) -> int:
    """Builds a release as the options say, and tells what came of it."""
    from ..data.build.build import build_dataset
    from ..data.sources.dicom_rows import add_dicom_metadata
    from ..hub.push_dataset import check_allowed, push_dataset

    if args.push is not None:
        check_allowed(release.task.name, release.facts.get("license"), args.allow_patient_data)
    if args.dicom_metadata:
        release, asked = add_dicom_metadata(release, args.dicom_metadata)
        print(f"{', '.join(args.dicom_metadata)}: looked up in {asked:,} of {len(release.rows):,} images.")
    report = build_dataset(
        release, Path(args.out), args.size, args.num_workers, args.skip_bad, args.allow_patient_overlap
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
    "phantom_masks": (build_phantoms, "drawn chests with masks of lungs, heart and findings; needs no release"),
}
ACTIONS = {"build": (build, "from a release on disk"), "report": (report, "what is in task datasets")}
