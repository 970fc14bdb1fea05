"""The verb `finetune`: one task from a model, from other weights or from scratch, and the sex protocol."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..training.finetune.arguments import FinetuningArguments
from .arguments import check_at_least, parse, quiet


@dataclass
class FinetuneCommand(FinetuningArguments):
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
    args, given = parse(
        FinetuneCommand,
        "finetune",
        argv,
        "Trains one task with transformers' Trainer and scores its test split once.",
        model={
            "help": "Folder or Hub id of an ark-cxr, `none` (from scratch), `imagenet` (timm's weights), or a weights "
            "file of the encoder."
        },
        dataset={"help": "Folder or Hub id of a task dataset, or with --label_columns of any image dataset."},
    )
    quiet()
    from accelerate import PartialState

    from ..training.finetune.report import best_seed, results_text
    from ..training.finetune.run import finetune as run
    from ..training.finetune.sex_protocol import protocol_text, sex_protocol

    if args.protocol == "sex":
        text = protocol_text(sex_protocol(given.model, given.dataset, args, args.max_images))
    else:
        results = run(given.model, given.dataset, args)
        folders = [str(Path(args.output_dir, f"seed-{seed}", "ark-cxr")) for seed in args.seeds]
        where = f"The {'models are' if len(folders) > 1 else 'model is'} in {', '.join(folders)}."
        text = f"{results_text(results)}\n{where}"
    PartialState().print(text)
    if args.push_to_hub is not None and PartialState().is_main_process:
        _push(Path(args.output_dir, f"seed-{best_seed(results)['seed']}"), args.push_to_hub)
    return 0


def _push(seed_folder: Path, repo: str) -> None:
    from ..hub.push_model import push_model

    report = seed_folder / "report"
    try:
        pushed = push_model(seed_folder / "ark-cxr", repo, report if report.is_dir() else None)
    except ValueError as error:
        raise ValueError(f"{error} The run is finished and kept: the same command tries again.") from None
    print(f"The model is at {pushed.url}.")
