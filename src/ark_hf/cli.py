"""The `ark-hf` command: one subcommand a verb, each a thin call into the package."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .cli_data import data
from .cli_evaluate import CROPS_HELP, Crops, evaluate
from .cli_finetune import finetune
from .cli_parse import check_at_least, make_parser, parse, quiet
from .cli_probe import embed, probe
from .training.recipe import PretrainingArguments, parse_tasks, read_recipe

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom", ".mha")


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


@dataclass
class PushArguments:
    public: bool = field(default=False, metadata={"help": "A public repository; a private one unless set."})
    allow_patient_data: bool = field(
        default=False,
        metadata={
            "help": "Needed where the card's licence does not let anybody pass the images on: says that the terms of "
            "the source, and whoever is responsible, allow the images and columns about patients to be on the Hub."
        },
    )
    dry_run: bool = field(default=False, metadata={"help": "Only check the folder, and list what would be sent."})


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
    from .training.pretrain_ark import CyclicPretrainer
    from .training.tasks import load_tasks

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
        paths={"nargs": "+", "help": "Files, or folders that are searched for them."},
    )
    if Path(args.out).is_dir():
        raise ValueError(
            f"--out {args.out} is a folder; name a CSV file, such as {Path(args.out, 'predictions.csv')}."
        )
    paths = _image_files(given.paths)
    quiet()
    from .evaluation.agreement import labels_by_finding, second_opinion_text, writing_second_opinions
    from .evaluation.inference import load_ark, predict_files, with_crops, write_predictions
    from .labels import read_synonyms

    model, processor = load_ark(given.model)
    processor = with_crops(processor, model.config.image_size, args.crops)
    opinions = Path(args.out).with_name(f"{Path(args.out).stem}.second_opinion.csv")
    findings = labels_by_finding(model.config.tasks, read_synonyms()) if args.second_opinion else None
    results = predict_files(model, processor, paths, args.batch_size)
    if findings is not None:
        results = writing_second_opinions(opinions, findings[0], results)
    read, unreadable = write_predictions(Path(args.out), list(model.config.id2label.values()), results)
    if read:
        print(f"{read} images are in {args.out}.")
        if findings is not None:
            print(f"{second_opinion_text(opinions, *findings)}\nAll second opinions are in {opinions}.")
    else:
        kept = "left as it was" if Path(args.out).exists() else "not written"
        print(f"No file could be read; {args.out} is {kept}.", file=sys.stderr)
    if unreadable is not None:
        print(f"Files that cannot be read are listed in {unreadable}.", file=sys.stderr)
    return 0 if read else 1


def _image_files(paths: list[str]) -> list[Path]:
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(each for each in path.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES)
        elif path.exists():
            files.append(path)
        else:
            raise ValueError(f"{path} does not exist.")
    if not files:
        raise ValueError(f"No files with the suffixes {', '.join(IMAGE_SUFFIXES)} in {', '.join(paths)}.")
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
    from .hub import check_new_folder, save_conversion
    from .models.ark.convert_ark_checkpoint import convert_checkpoint, read_tasks

    check_new_folder(Path(args.out))
    tasks = None if args.tasks is None else read_tasks(args.tasks)
    conversion = convert_checkpoint(given.checkpoint, args.key, tasks, args.image_size)
    save_conversion(conversion, Path(args.out))
    print(f"{conversion.summary()}\nThe model is in {args.out}.")
    return 0


def push(argv: list[str]) -> int:
    args, given = parse(
        PushArguments,
        "push",
        argv,
        "Sends a task dataset to the Hugging Face Hub; what is there already is not sent again.",
        folder={"help": "Folder of a task dataset, from `ark-hf data build`."},
        repo={"help": "Repository on the Hub, such as someone/nih14."},
    )
    from .push import check_dataset_folder, push_dataset

    folder = Path(given.folder)
    if args.dry_run:
        files = check_dataset_folder(folder, args.allow_patient_data)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        print("\n".join(f"{size:14,d}  {name}" for name, size in sizes.items()))
        kind = "public" if args.public else "private"
        print(f"{sum(sizes.values()):14,d}  bytes in all would go to the {kind} repository {given.repo}.")
        return 0
    pushed = push_dataset(folder, given.repo, args.public, args.allow_patient_data)
    print(f"{pushed.url}: {pushed.sent} files sent, {pushed.unchanged} were there, {pushed.removed} removed there.")
    return 0


def demo(argv: list[str]) -> int:
    args, _ = parse(DemoArguments, "demo", argv, "Trains on the built-in phantom sites, without network, in minutes.")
    quiet()
    from .demo import run_demo

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
    "data": (data, "build task datasets"),
    "push": (push, "send a task dataset to the Hugging Face Hub"),
}


if __name__ == "__main__":
    sys.exit(main())
