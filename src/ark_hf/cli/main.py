"""The `ark-hf` command: one subcommand a verb, each a thin call into the package."""

import argparse
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from ..training.ark.recipe import PretrainingArguments, parse_tasks, read_recipe
from .arguments import check_at_least, make_parser, parse, quiet
from .data import data
from .evaluate import CROPS_HELP, Crops, evaluate
from .export import export
from .finetune import finetune
from .probe import embed, probe
from .push import push
from .serve import serve

MAX_WARNINGS = 20  # lines that `predict` prints


@dataclass
class DemoArguments:
    output_dir: str = field(
        default="runs/demo", metadata={"help": "Folder of the phantom sites, the run and the report."}
    )
    model_dir: str = field(default="ark-cxr", metadata={"help": "Where the trained model is put."})
    seed: int = field(default=0, metadata={"help": "Seed of the phantoms and of the training."})


@dataclass
class PredictArguments:
    out: str = field(
        default="predictions.csv", metadata={"help": "CSV file: one row an image, one column a task/label."}
    )
    batch_size: int = field(default=16, metadata={"help": "Images a forward pass."})
    crops: Crops = field(default="whole", metadata={"help": CROPS_HELP})
    second_opinion: bool = field(
        default=False,
        metadata={
            "help": "Say on which findings the heads disagree: one row an image and finding that two heads know, in "
            "NAME.second_opinion.csv beside --out."
        },
    )
    heatmaps: str | None = field(
        default=None,
        metadata={
            "help": "Folder for pictures of what speaks for a label, ROW_NAME_NUMBER_TASK_LABEL.png, with rows "
            "numbered from 1 and labels from 0: for each label that is called positive, and for the most probable of "
            "a task without."
        },
    )

    def __post_init__(self):
        check_at_least(1, batch_size=self.batch_size)


@dataclass
class ConvertArguments:
    out: str = field(default="ark-cxr", metadata={"help": "New folder of the converted model."})
    key: Literal["teacher", "student"] | None = field(
        default=None,
        metadata={"help": "Which model of a training checkpoint; the teacher, if there is one, unless said."},
    )
    tasks: str | None = field(
        default=None,
        metadata={"help": "YAML list of the heads' names and labels, in order; known for the released models."},
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the input in pixels; the file's own unless set, 224 for a ConvNeXt."}
    )

    def __post_init__(self):
        if self.image_size is not None:
            check_at_least(1, image_size=self.image_size)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="ark-hf",
        description="Ark, an open foundation model for chest radiographs. Research use only.",
        epilog="`ark-hf VERB --help` explains a verb.",
    )
    parser.add_argument("verb", choices=VERBS, help="; ".join(f"{name}: {text}" for name, (_, text) in VERBS.items()))
    verb = parser.parse_args(argv[:1]).verb
    try:
        return VERBS[verb][0](argv[1:])
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"ark-hf {verb}: error: {error}", file=sys.stderr)
        return 2


def pretrain(argv: list[str]) -> int:
    recipe = {"recipe": {"metavar": "RECIPE", "help": "YAML or JSON file of the options below and a list `tasks`."}}
    description = "Cyclic pretraining, or a baseline of it (`strategy`). Options given here replace the recipe's."
    parser = make_parser(PretrainingArguments, "pretrain", description, recipe)
    for action in parser._actions:  # what is not given must stay unset, or defaults would replace the recipe's values
        if action.dest not in ("help", "recipe"):
            action.default, action.required = argparse.SUPPRESS, False
    given = vars(parser.parse_args(argv))
    path = given.pop("recipe")
    values = read_recipe(path) | given
    specs = parse_tasks(values.pop("tasks", None), path)
    if "output_dir" not in values:
        raise ValueError(f"{path} lacks `output_dir`; set it there or pass --output_dir.")
    args = PretrainingArguments(**values)

    quiet()
    from ..training.ark.pretrainer import CyclicPretrainer
    from ..training.ark.tasks import load_tasks

    trainer = CyclicPretrainer(args, load_tasks(specs, args.data_root, args.streaming))
    trainer.train()
    trainer.accelerator.print(f"The teacher is in {Path(args.output_dir, 'ark-cxr')}.")
    return 0


def predict(argv: list[str]) -> int:
    args, given = parse(
        PredictArguments,
        "predict",
        argv,
        "Probabilities of every label for radiographs (PNG, JPEG, TIFF, DICOM, MetaImage; 8 to 16 bits).",
        model={"help": "Folder or Hub id of an ark-cxr."},
        paths={"nargs": "+", "help": "Files, http(s) addresses, or folders that are searched for images."},
    )
    if Path(args.out).is_dir():
        raise ValueError(
            f"--out {args.out} is a folder; name a CSV file, such as {Path(args.out, 'predictions.csv')}."
        )
    if args.heatmaps is not None and Path(args.heatmaps).is_file():
        raise ValueError(f"--heatmaps {args.heatmaps} is a file; name a folder.")
    paths = _image_files(given.paths)
    quiet()
    from ..inference.agreement import labels_by_finding, second_opinion_text, writing_second_opinions
    from ..inference.overlays import called_labels, check_whole_picture, save_overlays
    from ..inference.predict import load_ark, predict_files, with_crops, write_predictions
    from ..inference.task_labels import label_names
    from ..labels import read_synonyms

    model, processor = load_ark(given.model)
    processor = with_crops(processor, model.config.image_size, args.crops)
    if args.heatmaps is not None:
        check_whole_picture(processor)
    opinions = Path(args.out).with_name(f"{Path(args.out).stem}.second_opinion.csv")
    findings = labels_by_finding(model.config.tasks, read_synonyms()) if args.second_opinion else None
    doubts: list[str] = []
    rows = itertools.count(1)

    def look_at(image, probabilities, maps) -> None:
        row = next(rows)
        if image.warnings:
            doubts.append(f"{image.name}: {'; '.join(image.warnings)}")
        if args.heatmaps is not None:
            save_overlays(model.config, image, maps, Path(args.heatmaps), row)

    explained = None if args.heatmaps is None else partial(called_labels, model.config)
    results = predict_files(model, processor, paths, args.batch_size, look_at, explained)
    if findings is not None:
        results = writing_second_opinions(opinions, findings[0], results)
    read, unreadable = write_predictions(Path(args.out), label_names(model.config), results)
    if read:
        print(f"{read} images are in {args.out}.")
        if findings is not None:
            print(f"{second_opinion_text(opinions, *findings)}\nAll second opinions are in {opinions}.")
        if args.heatmaps is not None:
            print(f"Heat maps are in {args.heatmaps}.")
    else:
        kept = "left as it was" if Path(args.out).exists() else "not written"
        print(f"No file could be read; {args.out} is {kept}.", file=sys.stderr)
    if unreadable is not None:
        print(f"Files that cannot be read are listed in {unreadable}.", file=sys.stderr)
    for line in doubts[:MAX_WARNINGS]:
        print(f"Warning: {line}", file=sys.stderr)
    if len(doubts) > MAX_WARNINGS:
        print(f"... and {len(doubts) - MAX_WARNINGS} more images with warnings.", file=sys.stderr)
    return 0 if read else 1


def _image_files(paths: list[str]) -> list[Path | str]:
    from ..data.images.image_files import IMAGE_SUFFIXES, image_files_in, is_address

    files: list[Path | str] = []
    for path in paths:
        if Path(path).is_dir():
            files += image_files_in(Path(path))
        elif is_address(path):
            files.append(path)
        elif Path(path).exists():
            files.append(Path(path))
        else:
            raise ValueError(f"{path} does not exist.")
    if not files:
        raise ValueError(
            f"No files with the suffixes {', '.join(IMAGE_SUFFIXES)}, nor DICOM files without, in {', '.join(paths)}."
        )
    return files


def convert(argv: list[str]) -> int:
    args, given = parse(
        ConvertArguments,
        "convert",
        argv,
        "An original checkpoint (Ark, Ark+, a fine-tuned timm Swin, PEAC, SimMIM) as a model of this package.",
        checkpoint={"help": "The file. It is read without running any code in it."},
    )
    quiet()
    from ..files import check_new_folder
    from ..hub.save import save_conversion
    from ..models.ark.convert_ark_checkpoint import convert_checkpoint, read_tasks

    check_new_folder(Path(args.out))
    tasks = None if args.tasks is None else read_tasks(args.tasks)
    conversion = convert_checkpoint(given.checkpoint, args.key, tasks, args.image_size)
    save_conversion(conversion, Path(args.out))
    print(f"{conversion.summary()}\nThe model is in {args.out}.")
    return 0


def demo(argv: list[str]) -> int:
    args, _ = parse(DemoArguments, "demo", argv, "Trains on the built-in phantom sites, without network, in minutes.")
    quiet()
    from ..demo import run_demo

    run_demo(Path(args.output_dir), Path(args.model_dir), args.seed)
    return 0


VERBS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "demo": (demo, "train on built-in phantom radiographs and predict, in minutes"),
    "pretrain": (pretrain, "cyclic pretraining from a recipe"),
    "finetune": (finetune, "train one task from a model, other weights or scratch"),
    "evaluate": (evaluate, "test a model on task datasets"),
    "predict": (predict, "probabilities for image files"),
    "embed": (embed, "embeddings of task datasets, computed once"),
    "probe": (probe, "linear probes, few-shot curves and neighbours of embeddings"),
    "convert": (convert, "turn an original checkpoint into a model of this package"),
    "export": (export, "write a model as ONNX, to predict without torch"),
    "serve": (serve, "a page on this machine that shows what a model makes of a radiograph"),
    "data": (data, "build task datasets"),
    "push": (push, "send a model or a task dataset to the Hugging Face Hub"),
}
