"""The verb `probe`: what a linear model reads from the embeddings of task datasets."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .arguments import check_at_least, parse, quiet
from .embed import DATASETS_HELP


@dataclass
class ProbeArguments:
    out: str = field(default="probe", metadata={"help": "Folder for probe.json, probe.md and what belongs to them."})
    store: str | None = field(
        default=None, metadata={"help": "Folder of embeddings, as for `ark-hf embed`; OUT/embeddings unless set."}
    )
    few_shot: bool = field(
        default=False,
        metadata={
            "help": "Also probe 1, 5, 10, 20 and 50 images a class, five random subsets each, and on 10,000 images or "
            "more 1 and 10 percent."
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
    batch_size: int = field(default=32, metadata={"help": "Images a forward pass."})
    seed: int = field(default=0, metadata={"help": "Seed of the folds, the subsets and the bootstrap."})

    def __post_init__(self):
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
        "Linear probes of a model's embeddings, fitted on train and tested on test: AUROC a label with "
        "patient-clustered intervals, beside what ten global image numbers reach.",
        model={"help": "Folder or Hub id of an ark-cxr."},
        datasets={"nargs": "+", "help": f"{DATASETS_HELP} Each needs the splits train and test."},
    )
    names = [Path(dataset).name for dataset in given.datasets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two datasets are called {twice[0]}; probe them one by one.")
    quiet()
    from ..data.loading import default_num_workers
    from ..evaluation.probing.probe_report import probe_text, write_probe_report
    from ..evaluation.probing.probe_task import (
        load_probe_data,
        probe_attributes,
        probe_sources,
        probe_task,
        write_neighbours,
    )
    from ..inference.embeddings import embed_rows, open_store
    from ..inference.predict import load_ark
    from ..models.ark.modeling_ark import ArkModel

    loaded = [load_probe_data(dataset) for dataset in given.datasets]
    model, processor = load_ark(given.model, ArkModel)
    out = Path(args.out)
    store = open_store(Path(args.store or out / "embeddings"), model, processor, args.layer, given.model)
    embeddings: list[dict[str, Any]] = []
    for data in loaded:
        embeddings.append({})
        for split, rows in data.splits.items():
            num_workers = default_num_workers(model.device)
            keys, _ = embed_rows(
                model, processor, rows, data.task, store, args.batch_size, num_workers, f"{data.name}, {split}"
            )
            embeddings[-1][split] = store.load(keys)

    probed = list(zip(loaded, embeddings, strict=True))
    reports = [
        probe_task(data, found, args.few_shot, args.neighbours, args.bootstrap, args.seed) for data, found in probed
    ]
    sources = None
    if args.shortcuts:
        for report, (data, found) in zip(reports, probed, strict=True):
            report.shortcuts = probe_attributes(data, found, args.bootstrap, args.seed)
        if len(loaded) > 1:
            sources = probe_sources(probed, args.bootstrap, args.seed)
    print(probe_text(reports, sources))
    facts = {"model": Path(given.model).name, **store.facts}
    print(f"The report is in {write_probe_report(reports, sources, out, facts)}.")
    if args.neighbours is not None:
        for data, found in probed:
            path = out / f"neighbours_{data.name}.csv"
            write_neighbours(path, data, found, args.neighbours)
            print(f"The nearest train images of {data.name}'s test images are in {path}.")
    return 0
