"""Predictions of volumes as tables, label maps and pictures: what `ark-hf predict` does with a Genesis."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..data.images.image_files import collecting_doubts, is_address
from ..data.volumes.cubes import LEAST_AIR, NO_AIR
from ..data.volumes.listing import list_volumes, without_volume_suffix
from ..data.volumes.nifti import write_nifti
from ..data.volumes.reading import KNOWN, read_volume
from ..data.volumes.volume import Volume, nibabel
from ..files import check_new_folder, printable
from ..models.genesis.image_processing_genesis import GenesisImageProcessor
from ..models.genesis.modeling_genesis import GenesisForImageClassification, GenesisForSemanticSegmentation
from .load import how_computed, load_genesis_with_heads, process_state
from .measurements import VolumeMeasurements, measure_volume
from .overlays import made_name
from .prediction_files import (
    LONG_COLUMNS,
    LONG_VOLUME_COLUMNS,
    Format,
    Predictions,
    long_rows,
    long_volume_rows,
    volume_columns,
    volume_row,
    wide_row,
    write_rows,
)
from .sliding_window import classify_volume, import_monai, segment_volume
from .task_labels import task_label_names
from .volume_slices import VolumeSlices, save_slices

WINDOWS = 4  # a forward pass


@dataclass(frozen=True)
class _Answer:
    """
    Of a volume: what goes into its rows, reasons to doubt it, its name without the ending of a file, and its number
    among those that can be read.
    """

    value: Any
    doubts: list[str]
    stem: str
    row: int = 0


Results = Iterator[tuple[Path, _Answer | str]]
Compute = Callable[[Volume], tuple[Any, Any]]  # of a volume its value, and what stays in the process


def predict_volumes(
    model: str,
    paths: Sequence[str | Path],
    out: Path,
    windows: int | None,
    format: Format,
    device: str | None,
    dtype: str,
    compile: bool,
) -> Predictions:
    """As [`predict`], of a Genesis; `windows` are its `batch_size`."""
    nibabel()  # its absence is told before any volume is blamed
    files, left_out = volume_files(paths)
    network, processor = load_genesis_with_heads(model, dtype, compile, device)
    written = Predictions(out, left_out=left_out, computed=how_computed(network), what="volumes")
    if isinstance(network, GenesisForSemanticSegmentation):
        table = _segmented(network, processor, files, windows or WINDOWS, format, written)
    elif windows is not None:
        raise ValueError(f"batch_size counts windows, and {model} is a classifier, which sees one cube; leave it out.")
    else:
        table = _classified(network, processor, files, format, written)
    columns, results, rows = table
    if not process_state().is_main_process:  # it has done its share when it has all results
        written.images = sum(not isinstance(result, str) for _, result in results)
        return written
    written.images, written.unreadable = write_rows(out, columns, results, rows)
    return written


def _classified(
    network: GenesisForImageClassification,
    processor: GenesisImageProcessor,
    files: Sequence[Path],
    format: Format,
    written: Predictions,
) -> tuple[list[str], Results, Callable[[str, _Answer], list[dict[str, Any]]]]:
    config = network.config
    results = _results(files, lambda volume: (classify_volume(network, processor, volume), None), processor, written)
    if format == "long":
        return LONG_COLUMNS, results, lambda image, found: long_rows(config, lambda: found.doubts)(image, found.value)
    labels = task_label_names(config)
    return ["image", *labels], results, lambda image, found: wide_row(labels)(image, found.value)


def _segmented(
    network: GenesisForSemanticSegmentation,
    processor: GenesisImageProcessor,
    files: Sequence[Path],
    windows: int,
    format: Format,
    written: Predictions,
) -> tuple[list[str], Results, Callable[[str, _Answer], list[dict[str, Any]]]]:
    import_monai()  # its absence is told before any volume is blamed
    task, out = network.config.segmentation, written.out
    masks, overlays = out.with_name(f"{out.stem}.masks"), out.with_name(f"{out.stem}.overlays")
    for folder in (masks, overlays):
        check_new_folder(folder, "out")
    process_state().wait_for_everyone()  # before one of them writes

    def compute(volume: Volume) -> tuple[VolumeMeasurements, Any]:
        bar = "windows" if process_state().is_main_process else None
        found = segment_volume(network, processor, volume, windows, bar)
        return measure_volume(found, volume.affine, task), (volume, found)

    def names(found: _Answer) -> list[str]:
        """Of the label's masks: one file, or if they overlap one a label."""
        if not task.overlapping:
            return [made_name(found.row, found.stem, None, "", ".nii.gz")] * len(task.labels)
        labels = [f"{task.name}_{label}" for label in task.labels]
        return [made_name(found.row, found.stem, number, label, ".nii.gz") for number, label in enumerate(labels)]

    def save(answer: _Answer, kept: tuple[Volume, np.ndarray]) -> None:
        volume, found = kept
        masks.mkdir(parents=True, exist_ok=True)
        maps = dict(zip(names(answer), found if task.overlapping else [found] * len(task.labels), strict=True))
        for name, each in maps.items():
            write_nifti(masks / name, Volume(each, volume.affine))
        picture = made_name(answer.row, answer.stem, None, "", ".png")
        save_slices(VolumeSlices(volume, processor, task, found), overlays / picture)

    def rows(image: str, found: _Answer) -> list[dict[str, Any]]:
        written.masks, written.overlays = masks, overlays
        if format == "wide":
            return [volume_row(task, image, found.value)]
        files_of_masks = [Path(masks.name, name) for name in names(found)]
        return long_volume_rows(task, image, found.value, files_of_masks, found.doubts)

    columns = LONG_VOLUME_COLUMNS if format == "long" else volume_columns(task)
    return columns, _results(files, compute, processor, written, save), rows


def _results(
    files: Sequence[Path],
    compute: Compute,
    processor: GenesisImageProcessor,
    written: Predictions,
    save: Callable[[_Answer, Any], None] | None = None,
) -> Results:
    """
    What `compute` makes of each volume, in order, or why it cannot be read; one at a time is in memory.

    Under `accelerate launch` each process does its share, and gets the answers of all; what stays in a process its
    `save` is given, with the answer.
    """
    state, row = process_state(), 0
    rounds = range(0, len(files), state.num_processes)
    for first in tqdm(rounds, desc="predicting", unit="volume", disable=not state.is_main_process):
        own, mine, kept = first + state.process_index, [], None
        if own < len(files):
            answer, kept = _answer(files[own], compute, processor)
            mine = [answer]
        for number, answer in enumerate(gather_object(mine), start=first):
            path = files[number]
            if not isinstance(answer, str):
                row += 1
                answer = replace(answer, row=row)
                _note(written, path, answer.doubts)
                if save is not None and number == own:
                    save(answer, kept)
            yield path, answer
        del kept  # before the next one is read


def _answer(path: Path, compute: Compute, processor: GenesisImageProcessor) -> tuple[_Answer | str, Any]:
    try:
        with collecting_doubts() as doubts:
            volume = read_volume(path)
    except ValueError as error:
        return str(error), None
    try:
        value, kept = compute(volume)
    except ValueError as error:  # of the image processor, whose window or spacing it does not fit
        return f"{printable(path)}: {error}", None
    if processor.hu_window is not None and processor.modality == "CT" and volume.voxels.min() >= LEAST_AIR:
        doubts.append(NO_AIR)
    return _Answer(value, doubts, _stem(path)), kept


def _note(written: Predictions, path: Path, doubts: list[str]) -> None:
    written.kinds["DICOM series" if path.is_dir() else path.name[len(_stem(path)) :].lower()] += 1
    if doubts:
        written.warnings.append(f"{printable(path)}: {'; '.join(doubts)}")


def _stem(path: Path) -> str:
    """What a volume is called, without the ending of its file."""
    return path.resolve().name if path.is_dir() else without_volume_suffix(path.name)


def volume_files(paths: Sequence[str | Path]) -> tuple[list[Path], list[Path]]:
    """
    The volumes that are named or lie below the folders, and image files there that are none.

    Raises:
        ValueError: A path does not exist, is an address, or there are no volumes.
    """
    files: list[Path] = []
    others: list[Path] = []
    for given in paths:
        if is_address(given):
            raise ValueError(f"{given} is an address, and volumes are read from files; download it first.")
        path = Path(given)
        if path.is_dir():
            found, left_out = list_volumes(path)
            files += [path / each for each in found]
            others += [path / each for each in left_out]
        elif path.exists():
            files.append(path)
        else:
            raise ValueError(f"{path} does not exist.")
    if not files:
        pictures = f", but {len(others)} pictures, which models of radiographs (Ark) take" if others else ""
        raise ValueError(f"There are no volumes in {', '.join(map(str, paths))}{pictures}; {KNOWN}.")
    return files, others
