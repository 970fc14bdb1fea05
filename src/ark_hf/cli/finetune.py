"""The verb `finetune`: one task from a model, from other weights or from scratch, and the sex protocol."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..training.finetune.arguments import FinetuningArguments
from ..training.settings import check_init, read_settings
from .arguments import build, check_at_least, check_names, quiet, read_options

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass
class FinetuneCommand(FinetuningArguments):
    model: str = field(
        kw_only=True,
        metadata={
            "help": "Folder or Hub id of an ark-cxr, `none` (from scratch), `imagenet` (timm's weights), or a weights "
            "file of the encoder; for volumes `none`, or folder or Hub id of a Genesis."
        },
    )
    dataset: str = field(
        kw_only=True,
        metadata={
            "help": "Folder or Hub id of a task dataset, of labels or masks, of pictures or volumes, or with "
            "--label_columns of any image dataset."
        },
    )
    protocol: Literal["sex"] | None = field(
        default=None,
        metadata={
            "help": "sex: train on images of men, of women and of both, as many of each, and test each on both sexes "
            "(Larrazabal et al. 2020)."
        },
    )
    max_images: int | None = field(
        default=None, metadata={"help": "With --protocol: training images of each group, at most."}
    )

    push_to_hub: str | None = field(
        default=None,
        metadata={
            "help": "Repository on the Hub, private if new, for the seed of the best validation, with its card and "
            "report; `ark-hf push` has more options."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.max_images is not None:
            check_at_least(2, max_images=self.max_images)
        if self.protocol is None and self.max_images is not None:
            raise ValueError("--max_images is for --protocol sex; --percent and --per_class choose fewer images.")
        if self.protocol is not None and self.push_to_hub is not None:
            raise ValueError("--protocol trains several models to compare them: leave out --push_to_hub.")
        if self.protocol is not None and not self.test:
            raise ValueError("--protocol compares the models on the test split: leave out --test false.")


def finetune(argv: list[str]) -> int:
    """Train one task from a model, other weights or scratch."""
    given, words = read_options(
        FinetuneCommand,
        "finetune",
        argv,
        "Trains one task with transformers' Trainer and scores its test split once. Options given here replace the "
        "recipe's.",
        recipe={
            "nargs": "*",
            "default": [],
            "metavar": "{RECIPE | MODEL DATASET}",
            "help": f"A file ({', '.join(RECIPE_SUFFIXES)}) of the options below; or the options model and dataset "
            "without a file.",
        },
    )
    values, recipe = _read(words.recipe)
    twice = sorted(given.keys() & values.keys()) if recipe is None else []
    if twice:
        raise ValueError(f"--{twice[0]} is for recipes: without one, MODEL and DATASET say it already.")
    args = build(FinetuneCommand, values | given, recipe)
    if not Path(args.output_dir).exists():  # a run that is resumed may need it no more
        check_init(args.model)
    check_names(datasets=[args.dataset])
    quiet()
    from accelerate import PartialState

    from ..training.finetune.report import best_seed, results_text
    from ..training.finetune.run import finetune as run
    from ..training.finetune.seed_folder import seed_model
    from ..training.finetune.sex_protocol import protocol_text, sex_protocol

    if args.protocol == "sex":
        text = protocol_text(sex_protocol(args.model, args.dataset, args, args.max_images))
    else:
        results = run(args.model, args.dataset, args)
        folders = [str(seed_model(Path(args.output_dir, f"seed-{seed}"))) for seed in args.seeds]
        where = f"The {'models are' if len(folders) > 1 else 'model is'} in {', '.join(folders)}."
        text = f"{results_text(results)}\n{where}"
    PartialState().print(text)
    if args.push_to_hub is not None and PartialState().is_main_process:
        _push(Path(args.output_dir, f"seed-{best_seed(results)['seed']}"), args.push_to_hub)
    return 0


def _read(words: list[str]) -> tuple[dict[str, Any], str | None]:
    """The options in the recipe, and its path; or model and dataset, and None."""
    if words and words[0].endswith(RECIPE_SUFFIXES):
        if words[1:]:
            raise ValueError(f"{words[0]} names model and dataset itself: leave out {' '.join(words[1:])}.")
        return read_settings(words[0], [each.name for each in fields(FinetuneCommand)]), words[0]
    if len(words) == 2:
        return {"model": words[0], "dataset": words[1]}, None
    raise ValueError(
        f"expected a recipe ({', '.join(RECIPE_SUFFIXES)}), or a model and a dataset, got {' '.join(words) or 'none'}."
    )


def _push(seed_folder: Path, repo: str) -> None:
    from ..hub.push_model import push_model
    from ..training.finetune.seed_folder import seed_model

    report = seed_folder / "report"
    try:
        pushed = push_model(seed_model(seed_folder), repo, report if report.is_dir() else None)
    except ValueError as error:
        raise ValueError(f"{error} The run is finished and kept: the same command tries again.") from None
    print(f"The model is at {pushed.url}.")
