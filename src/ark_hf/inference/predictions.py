"""Predictions of image files as tables and pictures: what `ark-hf predict` does."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from ..data.images.image_files import IMAGE_SUFFIXES, is_address, sort_files
from ..data.inputs import RadiographInput, path_in
from ..files import printable
from ..labels import read_synonyms
from .agreement import labels_by_finding, second_opinion_text, writing_second_opinions
from .overlays import called_labels, check_whole_picture, save_overlays
from .predict import load_ark, move_model, predict_files, process_state, with_crops
from .prediction_files import LONG_COLUMNS, Result, check_prediction_file, long_rows, write_predictions, write_rows
from .task_labels import task_label_names

Format = Literal["wide", "long"]


@dataclass
class Predictions:
    """
    What [`predict`] wrote: `images` rows in `out`, nothing if there are none; `unreadable`, the list of the files that
    could not be read; `second_opinion`, the table of that name, and `disagreements`, a text of what is in it. None
    where there is no such file. `warnings` are reasons to doubt an image, a line each; `left_out` are files of the
    given folders that one may take for images, and that are none; `kinds` counts the images by the endings of their
    names; `computed` is where the model ran, and in which precision.
    """

    out: Path
    images: int
    unreadable: Path | None
    second_opinion: Path | None = None
    disagreements: str | None = None
    warnings: list[str] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    computed: str = ""


def predict(
    model: str,
    paths: Sequence[str | Path],
    out: str | Path = "predictions.csv",
    batch_size: int = 16,
    crops: str = "whole",
    second_opinion: bool = False,
    heatmaps: str | Path | None = None,
    format: Format = "wide",
    num_workers: int = 0,
    device: str | None = None,
    dtype: str = "float32",
) -> Predictions:
    """
    Writes the probabilities of every label for radiographs: one row per image, one column per task/label.

    Under `accelerate launch` the images are shared out; the main process writes the files, which are the same.

    Args:
        model: Folder or Hub id of an ark-cxr.
        paths: Files, http(s) addresses, or folders that are searched for images.
        out: A `.csv` file, or `.jsonl` for a JSON object a line. Files that cannot be read go to `NAME.unreadable.csv`
            beside it.
        batch_size: Images a forward pass.
        crops: "whole", "center" or "ten", see [`with_crops`].
        second_opinion: Write on which findings the heads disagree, to `NAME.second_opinion.csv` beside `out`.
        heatmaps: Folder for pictures of what speaks for the labels that are called positive, see [`save_overlays`].
        format: "wide", or "long": one row per image and label, with the operating point, whether the probability
            reaches it, and reasons to doubt the image; blank, or null, where there is no operating point.
        num_workers: Processes that read files.
        device, dtype: Where and in which precision the model runs, see [`move_model`].

    Raises:
        ValueError: The model cannot be loaded, a path does not exist, or the model cannot do what is asked for.
    """
    out = Path(out)
    check_prediction_file(out)
    if heatmaps is not None and Path(heatmaps).is_file():
        raise ValueError(f"heatmaps {heatmaps} is a file; name a folder.")
    files, left_out = _image_files(paths)
    network, processor = load_ark(model)
    move_model(network, device, dtype)
    processor = with_crops(processor, network.config.image_size, crops)
    if heatmaps is not None:
        check_whole_picture(processor)
    findings = labels_by_finding(network.config.tasks, read_synonyms()) if second_opinion else None
    warnings: list[str] = []
    kinds: Counter[str] = Counter()
    doubts: list[str] = []
    rows = itertools.count(1)

    def look_at(image: RadiographInput, probabilities: np.ndarray, maps: dict[int, np.ndarray]) -> None:
        row = next(rows)
        kinds[path_in(image.name or "").suffix.lower()] += 1
        doubts[:] = image.warnings
        if image.warnings:
            warnings.append(f"{printable(image.name)}: {'; '.join(image.warnings)}")
        if maps:
            save_overlays(network.config, image, maps, Path(str(heatmaps)), row)

    explained = None if heatmaps is None else partial(called_labels, network.config)
    results: Iterator[Result] = predict_files(network, processor, files, batch_size, look_at, explained, num_workers)
    computed = f"{network.device}, {str(network.dtype).removeprefix('torch.')}"
    if not process_state().is_main_process:  # it has done its share when it has all results
        read = sum(not isinstance(result, str) for _, result in results)
        return Predictions(out, read, None, warnings=warnings, computed=computed)
    opinions = out.with_name(f"{out.stem}.second_opinion.csv")
    if findings is not None:
        results = writing_second_opinions(opinions, findings[0], results)
    if format == "long":
        images, unreadable = write_rows(out, LONG_COLUMNS, results, long_rows(network.config, lambda: [*doubts]))
    else:
        images, unreadable = write_predictions(out, task_label_names(network.config), results)
    written = Predictions(
        out, images, unreadable, warnings=warnings, left_out=left_out, kinds=kinds, computed=computed
    )
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
