"""Linear probes of a model's embeddings on task datasets: what `ark-hf probe` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.loading import default_num_workers
from ...inference.embeddings import embed_rows, open_store
from ...inference.load import load_ark, usual_batch_size
from ...models.ark.modeling_ark import ArkModel
from ...provenance import shown_name
from .neighbours import find_neighbours, similar_pictures, write_neighbours
from .probe_report import probe_text, write_probe_report
from .probe_task import (
    Embeddings,
    ProbeReport,
    load_probe_data,
    probe_attributes,
    probe_sources,
    probe_task,
)
from .shortcut_probe import ShortcutResult


@dataclass
class Probing:
    """
    What the probes found: a report a dataset, how well the datasets are told apart, the same as text, the written page
    and, by dataset, the tables of neighbours.
    """

    reports: list[ProbeReport]
    sources: ShortcutResult | None
    text: str
    page: Path
    neighbours: dict[str, Path]


def probe(
    model: str,
    datasets: Sequence[str],
    out: str | Path = "probe",
    store: str | Path | None = None,
    few_shot: bool = False,
    neighbours: int | None = None,
    shortcuts: bool = False,
    layer: str = "embeddings",
    bootstrap: int = 1000,
    batch_size: int | None = None,
    seed: int = 0,
) -> Probing:
    """
    Fits linear probes on the embeddings of each dataset's train split, and tests them on its test split.

    Args:
        model: Folder or Hub id of an ark-cxr.
        datasets: Folders or Hub ids of task datasets with the splits train and test.
        out: Folder of the report.
        store: Folder of embeddings, see [`embed`]; `out/embeddings` unless set.
        few_shot: Also probe 1, 5, 10, 20 and 50 images per class.
        neighbours: Also list so many of the most similar train images of each test image.
        shortcuts: Also probe for sex and view, and with several datasets for the dataset an image is of.
        layer: "embeddings" or "pooler_output".
        bootstrap: Resamples of patients behind each interval.
        batch_size: Images a forward pass, see [`embed`].
        seed: Of the folds, the subsets and the bootstrap.

    Raises:
        ValueError: The model or a dataset cannot be read, a split is missing, or two datasets have one name.
    """
    names = [shown_name(dataset) for dataset in datasets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two datasets are called {twice[0]}; probe them one by one.")
    loaded = [load_probe_data(dataset) for dataset in datasets]
    network, processor = load_ark(model, ArkModel)
    out = Path(out)
    place = open_store(Path(store or out / "embeddings"), network, processor, layer, model)
    workers = default_num_workers(network.device)
    batch_size = batch_size or usual_batch_size(network, 32)
    embeddings: list[Embeddings] = []
    for data in loaded:
        by_split = {}
        for split, rows in data.splits.items():
            description = f"{data.name}, {split}"
            keys, _ = embed_rows(network, processor, rows, data.task, place, batch_size, workers, description)
            by_split[split] = place.load(keys)
        embeddings.append(by_split)

    probed = list(zip(loaded, embeddings, strict=True))
    reports = [probe_task(data, found, few_shot, neighbours, bootstrap, seed) for data, found in probed]
    sources = None
    if shortcuts:
        for report, (data, found) in zip(reports, probed, strict=True):
            report.shortcuts = probe_attributes(data, found, bootstrap, seed)
        if len(loaded) > 1:
            sources = probe_sources(probed, bootstrap, seed)
    tables, similar = {}, {}
    if neighbours is not None:
        out.mkdir(parents=True, exist_ok=True)
        for data, found in probed:
            tables[data.name] = out / f"neighbours_{data.name}.csv"
            nearest = find_neighbours(data, found, neighbours)
            write_neighbours(tables[data.name], data, *nearest)
            similar[data.name] = similar_pictures(data, *nearest)
    page = write_probe_report(reports, sources, out, {"model": shown_name(model), **place.facts}, similar)
    return Probing(reports, sources, probe_text(reports, sources), page, tables)
