"""The verb `pretrain`: cyclic pretraining from a recipe."""

from pathlib import Path

from ..training.ark.recipe import PretrainingArguments, parse_tasks, read_recipe
from ..training.settings import check_init
from .arguments import build, quiet, read_options


def pretrain(argv: list[str]) -> int:
    """Cyclic pretraining from a recipe."""
    given, words = read_options(
        PretrainingArguments,
        "pretrain",
        argv,
        "Cyclic pretraining, or a baseline of it (`strategy`). Options given here replace the recipe's.",
        recipe={"help": "YAML or JSON file of the options below and a list `tasks`."},
    )
    values = read_recipe(words.recipe) | given
    specs = parse_tasks(values.pop("tasks", None), words.recipe)
    args = build(PretrainingArguments, values, words.recipe)
    if not Path(args.output_dir).exists():  # a run that is resumed may need it no more
        check_init(args.init)
    for spec in specs:
        spec.location(args.data_root)
    quiet()
    from accelerate import PartialState

    from ..training.ark.pretrain import pretrain as run

    folder = run(args, specs)
    PartialState().print(f"The teacher is in {folder}.")
    return 0
