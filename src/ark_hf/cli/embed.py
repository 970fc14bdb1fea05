"""The verb `embed`: embeddings of task datasets and image files into a store, and as a table."""

import sys
from dataclasses import dataclass, field
from typing import Literal

from ..files import printable
from ..inference.arguments import BATCH_HELP, MODALITY_HELP, ComputingArguments
from .arguments import check_at_least, check_names, parse, quiet

DATASETS_HELP = "Folders or Hub ids of task datasets."


@dataclass
class EmbedArguments(ComputingArguments):
    store: str = field(
        default="embeddings",
        metadata={"help": "Folder of the embeddings of all models; the same command continues a killed run."},
    )
    splits: list[str] = field(
        default_factory=list, metadata={"help": "Of train, validation, test; all that there are unless set."}
    )
    layer: Literal["embeddings", "pooler_output"] = field(
        default="embeddings",
        metadata={
            "help": "embeddings: what the heads read, after the projector (1376 numbers in the papers); "
            "pooler_output: what the encoder gives before it."
        },
    )
    batch_size: int | None = field(default=None, metadata={"help": BATCH_HELP})
    num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that read images; unless set one a core for many files, and for datasets none on a CPU "
            "and up to eight beside a GPU. Results do not change."
        },
    )
    out: str | None = field(
        default=None,
        metadata={
            "help": "Table of the embeddings by image_id, NAME.parquet or NAME.npz; of files it is the path. None "
            "unless set."
        },
    )

    modality: str | None = field(default=None, metadata={"help": MODALITY_HELP})

    def __post_init__(self):
        if self.batch_size is not None:
            check_at_least(1, batch_size=self.batch_size)
        if self.num_workers is not None:
            check_at_least(0, num_workers=self.num_workers)


def embed(argv: list[str]) -> int:
    """Embeddings of task datasets, computed once."""
    args, given = parse(
        EmbedArguments,
        "embed",
        argv,
        "Computes the embeddings that the store lacks, of task datasets and of image files. They are kept by picture "
        "and model: the same picture in two datasets is computed once, another head changes nothing, another weight "
        "everything.",
        model={"help": "Folder or Hub id of an ark-cxr."},
        datasets={"nargs": "+", "help": f"{DATASETS_HELP[:-1]}; image files, or folders that are searched for them."},
    )
    check_names(given.model, given.datasets)
    quiet()
    from ..inference.embeddings import embed as run

    store, done = run(given.model, given.datasets, **vars(args))
    for each in done:
        name = ", ".join(part for part in (each.dataset, each.split) if part)
        print(f"{name}: {len(each.keys):,} images, {each.computed:,} embeddings computed.")
        for _, reason in each.unreadable:
            print(f"Left out: {reason}", file=sys.stderr)
        if each.left_out:
            named = f"such as {printable(each.left_out[0])}"
            print(f"{len(each.left_out)} files left out, {named}: no images by name and content.", file=sys.stderr)
    table = f", by image in {args.out}" if args.out else ""
    print(f"The embeddings are in {store.folder}{table} ({store.about['dtype']}).")
    return 0
