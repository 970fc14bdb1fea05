"""`ark-hf data`: builds task datasets from releases on disk."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from .cli_parse import parse, quiet


@dataclass
class BuildGenericArguments:
    raw: str = field(metadata={"help": "Folder with labels.csv and the images that its `image` column names."})
    out: str = field(metadata={"help": "New folder of the task dataset."})
    name: str | None = field(default=None, metadata={"help": "Name of the task; the folder's name unless set."})
    labels: list[str] = field(
        default_factory=list, metadata={"help": "Columns of 0, 1, -1 or blank: a multi-label task."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Or one column of class names: a single-label task."}
    )
    classes: list[str] = field(
        default_factory=list, metadata={"help": "Class names in order; those that occur, sorted, unless set."}
    )
    size: int = field(default=1024, metadata={"help": "Longer side to which larger images are shrunk."})
    skip_unreadable: bool = field(
        default=False, metadata={"help": "Leave unreadable images out (they are listed in build_report.json)."}
    )


def data(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="ark-hf data", description="Task datasets.")
    actions = "; ".join(f"{name}: {text}" for name, (_, text) in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS, help=actions)
    return ACTIONS[parser.parse_args(argv[:1]).action][0](argv[1:])


def build(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="ark-hf data build", description="Builds a task dataset from a release.")
    sources = "; ".join(f"{name}: {text}" for name, (_, text) in SOURCES.items())
    parser.add_argument("source", choices=SOURCES, help=sources)
    return SOURCES[parser.parse_args(argv[:1]).source][0](argv[1:])


def build_generic(argv: list[str]) -> int:
    args, _ = parse(
        BuildGenericArguments, "data build generic", argv, "Builds a task dataset from a folder with labels.csv."
    )
    quiet()
    from .data.build import GenericSource, build_generic

    source = GenericSource(
        folder=Path(args.raw),
        name=args.name or Path(args.raw).resolve().name,
        labels=args.labels,
        label_column=args.label_column,
        classes=args.classes,
    )
    report = build_generic(source, Path(args.out), args.size, args.skip_unreadable)
    rows = ", ".join(f"{count} {split}" for split, count in report["rows"].items())
    print(f"{args.out}: {rows}; {len(report['unreadable'])} images left out. See build_report.json there.")
    return 0


SOURCES = {"generic": (build_generic, "a folder with images and labels.csv")}
ACTIONS = {"build": (build, "from a release on disk")}
