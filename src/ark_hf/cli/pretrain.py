"""The verb `pretrain`: pretraining from a recipe, by the method that it names."""

from pathlib import Path

from ..training.ark.recipe import parse_tasks
from ..training.recipe import arguments_of, read_recipe
from ..training.settings import check_init, read_mapping
from .arguments import build, quiet, read_options

DESCRIPTIONS = {
    "ark": "Cyclic pretraining, or a baseline of it (`strategy`); `method: peac` in the recipe, or `--method peac`, "
    "trains without labels and has other options: see `ark-hf pretrain --method peac --help`.",
    "peac": "Self-supervised pretraining by PEAC: order, restoration and consistency of two crops; labels of the "
    "datasets are not read.",
}


def pretrain(argv: list[str]) -> int:
    """Pretraining from a recipe: Ark's cycles over labelled tasks, or PEAC without labels."""
    method = _method(argv)
    kind = arguments_of(method, "ark-hf pretrain")
    given, words = read_options(
        kind,
        "pretrain",
        argv,
        f"{DESCRIPTIONS[method]} Options given here replace the recipe's.",
        recipe={"help": "YAML or JSON file of the options below and a list `tasks`."},
    )
    values = read_recipe(words.recipe, method) | given
    specs = parse_tasks(values.pop("tasks", None), words.recipe)
    args = build(kind, values, words.recipe)
    if not Path(args.output_dir).exists():  # a run that is resumed may need it no more
        check_init(args.init)
    for spec in specs:
        spec.location(args.data_root)
    quiet()
    from accelerate import PartialState

    from ..training.pretrain import pretrain as run

    folder = run(args, specs)
    PartialState().print(f"The teacher is in {folder}.")
    return 0


def _method(argv: list[str]) -> str:
    """What `--method` says, or the recipe; Ark where neither does, or the recipe is still to be found wrong."""
    for word, after in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--method" or word.startswith("--method="):
            return word.partition("=")[2] or after
    for before, word in zip(["", *argv], argv, strict=False):
        if not word.startswith("-") and not before.startswith("-") and Path(word).is_file():
            return str(read_mapping(word).get("method", "ark"))
    return "ark"
