"""The verb `demo`: phantom sites, pretraining, evaluation and prediction in one go."""

from dataclasses import dataclass, field

from .arguments import parse, quiet


@dataclass
class DemoArguments:
    output_dir: str = field(
        default="runs/demo", metadata={"help": "Folder of the phantom sites, the run and the report."}
    )
    model_dir: str = field(default="ark-cxr", metadata={"help": "Where the trained model is put."})
    seed: int = field(default=0, metadata={"help": "Seed of the phantoms and of the training."})


def demo(argv: list[str]) -> int:
    """Train on built-in phantom radiographs and predict, in minutes."""
    args, _ = parse(DemoArguments, "demo", argv, "Trains on the built-in phantom sites, without network, in minutes.")
    quiet()
    from ..demonstration import demo as run

    run(**vars(args))
    return 0
