"""The verb `probe`: what a linear model reads from the embeddings of task datasets."""

from dataclasses import dataclass, field
from typing import Literal

from ..inference.arguments import BATCH_HELP
from .arguments import check_at_least, check_names, parse, quiet
from .embed import DATASETS_HELP


@dataclass
class ProbeArguments:
    out: str = field(
        default="probe", metadata={"help": "Folder for probe.html, probe.md, probe.json and what belongs to them."}
    )
    store: str | None = field(
        default=None, metadata={"help": "Folder of embeddings, as for `ark-hf embed`; OUT/embeddings unless set."}
    )
    few_shot: bool = field(
        default=False,
        metadata={
            "help": "Also probe 1, 5, 10, 20 and 50 images per class, five random subsets each, and on 10,000 images "
            "or more 1 and 10 percent."
        },
    )
    neighbours: int | None = field(
        default=None,
        metadata={"help": "Also list so many of the most similar train images of each test image in a CSV file."},
    )
    shortcuts: bool = field(
        default=False,
        metadata={"help": "Also probe for sex and view, and with several datasets for the dataset an image is of."},
    )
    layer: Literal["embeddings", "pooler_output"] = field(
        default="embeddings", metadata={"help": "As for `ark-hf embed`."}
    )
    bootstrap: int = field(default=1000, metadata={"help": "Resamples of patients behind each interval."})
    batch_size: int | None = field(default=None, metadata={"help": BATCH_HELP})
    seed: int = field(default=0, metadata={"help": "Seed of the folds, the subsets and the bootstrap."})

    def __post_init__(self):
        if self.batch_size is not None:
            check_at_least(1, batch_size=self.batch_size)
        check_at_least(0, bootstrap=self.bootstrap, seed=self.seed)
        if self.neighbours is not None:
            check_at_least(1, neighbours=self.neighbours)


def probe(argv: list[str]) -> int:
    """Linear probes, few-shot curves and neighbours of embeddings."""
    args, given = parse(
        ProbeArguments,
        "probe",
        argv,
        "Linear probes of a model's embeddings, fitted on train and tested on test: AUROC per label with "
        "patient-clustered intervals, beside what ten global image numbers reach.",
        model={"help": "Folder or Hub id of an ark-cxr."},
        datasets={"nargs": "+", "help": f"{DATASETS_HELP} Each needs the splits train and test."},
    )
    check_names(given.model, given.datasets)
    quiet()
    from ..evaluation.probing.probes import probe as run

    found = run(given.model, given.datasets, **vars(args))
    print(found.text)
    print(f"The report is in {found.page}.")
    for name, path in found.neighbours.items():
        print(f"The nearest train images of {name}'s test images are in {path}.")
    return 0
