"""Predictions of image files as tables and pictures: what `ark-hf predict` does."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ..data.images.image_files import IMAGE_SUFFIXES, is_address, sort_files
from ..data.inputs import RadiographInput, path_in
from ..files import printable
from ..labels import read_synonyms
from .agreement import labels_by_finding, second_opinion_text, writing_second_opinions
from .overlays import called_labels, check_whole_picture, save_overlays
from .predict import load_ark, predict_files, with_crops, write_predictions
from .task_labels import label_names


@dataclass
class Predictions:
    """
    What [`predict`] wrote: `images` rows in `out`, nothing if there are none; `unreadable`, the list of the files that
    could not be read; `second_opinion`, the table of that name, and `disagreements`, a text of what is in it. None
    where there is no such file. `warnings` are reasons to doubt an image, a line each; `left_out` are files of the
    given folders that one may take for images, and that are none; `kinds` counts the images by the endings of their
    names.
    """

    out: Path
    images: int
    unreadable: Path | None
    second_opinion: Path | None = None
    disagreements: str | None = None
    warnings: list[str] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


def predict(
    model: str,
    paths: Sequence[str | Path],
    out: str | Path = "predictions.csv",
    batch_size: int = 16,
    crops: str = "whole",
    second_opinion: bool = False,
    heatmaps: str | Path | None = None,
) -> Predictions:
    """
    Writes the probabilities of every label for radiographs: one row per image, one column per task/label.

    Args:
        model: Folder or Hub id of an ark-cxr.
        paths: Files, http(s) addresses, or folders that are searched for images.
        out: The CSV file. Files that cannot be read go to `NAME.unreadable.csv` beside it.
        batch_size: Images a forward pass.
        crops: "whole", "center" or "ten", see [`with_crops`].
        second_opinion: Write on which findings the heads disagree, to `NAME.second_opinion.csv` beside `out`.
        heatmaps: Folder for pictures of what speaks for the labels that are called positive, see [`save_overlays`].

    Raises:
        ValueError: The model cannot be loaded, a path does not exist, or the model cannot do what is asked for.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"out {out} is a folder; name a CSV file, such as {out / 'predictions.csv'}.")
    if heatmaps is not None and Path(heatmaps).is_file():
        raise ValueError(f"heatmaps {heatmaps} is a file; name a folder.")
    files, left_out = _image_files(paths)
    network, processor = load_ark(model)
    processor = with_crops(processor, network.config.image_size, crops)
    if heatmaps is not None:
        check_whole_picture(processor)
    findings = labels_by_finding(network.config.tasks, read_synonyms()) if second_opinion else None
    warnings: list[str] = []
    kinds: Counter[str] = Counter()
    rows = itertools.count(1)

    def look_at(image: RadiographInput, probabilities: np.ndarray, maps: dict[int, np.ndarray]) -> None:
        row = next(rows)
        kinds[path_in(image.name or "").suffix.lower()] += 1
        if image.warnings:
            warnings.append(f"{printable(image.name)}: {'; '.join(image.warnings)}")
        if heatmaps is not None:
            save_overlays(network.config, image, maps, Path(heatmaps), row)

    explained = None if heatmaps is None else partial(called_labels, network.config)
    results = predict_files(network, processor, files, batch_size, look_at, explained)
    opinions = out.with_name(f"{out.stem}.second_opinion.csv")
    if findings is not None:
        results = writing_second_opinions(opinions, findings[0], results)
    images, unreadable = write_predictions(out, label_names(network.config), results)
    written = Predictions(out, images, unreadable, warnings=warnings, left_out=left_out, kinds=kinds)
    if findings is not None and images:
        written.second_opinion, written.disagreements = opinions, second_opinion_text(opinions, *findings)
    return written


def _image_files(paths: Sequence[str | Path]) -> tuple[list[Path | str], list[Path]]:
    """The files that are named or lie in the folders, and what else lies there that one may take for images."""
    files: list[Path | str] = []
    others: list[Path] = []
    for path in paths:
        if Path(path).is_dir():
            images, left_out = sort_files(Path(path))
            files += images
            others += left_out
        elif is_address(path):
            files.append(path)
        elif Path(path).exists():
            files.append(Path(path))
        else:
            raise ValueError(f"{path} does not exist.")
    if not files:
        named = ", ".join(map(str, paths))
        raise ValueError(
            f"No files with the suffixes {', '.join(IMAGE_SUFFIXES)}, nor with the content of such, in {named}."
        )
    return files, others
