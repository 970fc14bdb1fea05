"""Predictions of image files as tables and pictures: what `ark-hf predict` does."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.images.image_files import IMAGE_SUFFIXES, is_address, sort_files
from ..data.inputs import RadiographInput, path_in
from ..files import check_new_folder, printable
from ..labels import read_synonyms
from ..models.ark.configuration_ark import ArkConfig, SegmentationTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from .agreement import labels_by_finding, second_opinion_text, writing_second_opinions
from .load import how_computed, load_ark, process_state, read_model_type, usual_batch_size
from .measurements import Measurements
from .overlays import called_labels, check_whole_picture, picture_name, save_masks, save_overlays
from .predict import predict_files, with_crops
from .prediction_files import (
    LONG_AREA_COLUMNS,
    LONG_COLUMNS,
    Format,
    Predictions,
    area_columns,
    area_row,
    check_prediction_file,
    long_area_rows,
    long_rows,
    wide_row,
    write_rows,
)
from .read_files import default_readers
from .segmentation import segment_files
from .task_labels import check_has_modality, heads_not_asked, task_label_names
from .training_statistics import read_training_statistics
from .volume_predictions import predict_volumes


class _Table(NamedTuple):
    """What goes into a table: its columns, the files with their results, and what makes an image's rows of one."""

    columns: Sequence[str]
    results: Iterator[tuple[Path | str, Any]]
    rows: Callable[[str, Any], list[dict[str, Any]]]


@dataclass
class _Seen:
    """The image whose result is next: its number among those that can be read, and reasons to doubt it."""

    written: Predictions
    row: int = 0
    name: str | None = None
    doubts: list[str] = field(default_factory=list)

    def look_at(self, image: RadiographInput) -> None:
        self.row, self.name, self.doubts = self.row + 1, image.name, image.warnings
        self.written.kinds[path_in(image.name or "").suffix.lower()] += 1
        if image.warnings:
            self.written.warnings.append(f"{printable(image.name)}: {'; '.join(image.warnings)}")


def predict(
    model: str,
    paths: Sequence[str | Path],
    out: str | Path = "predictions.csv",
    batch_size: int | None = None,
    crops: str = "whole",
    second_opinion: bool = False,
    heatmaps: str | Path | None = None,
    format: Format = "wide",
    num_workers: int | None = None,
    device: str | None = None,
    dtype: str = "float32",
    compile: bool = False,
    modality: str | None = None,
) -> Predictions:
    """
    Writes what a model makes of radiographs: of a classifier the probabilities of every label, one row per image, one
    column per task/label; of a segmenter the areas of all labels, and where they are heart and lungs the
    cardiothoracic ratio, with every mask as a picture in the folder `NAME.masks` and overlays in `NAME.overlays`
    beside the table, see [`save_masks`] and [`Measurements`].

    A Genesis takes volumes: NIfTI and MetaImage files, and folders of DICOM, searched for series. A segmenter's table
    has the voxels and millilitres of all labels, `NAME.masks` label maps in the volumes' own space, see
    [`segment_volume`], and `NAME.overlays` slices in three planes.

    Under `accelerate launch` the images are shared out; the main process writes the table, which is the same.

    Args:
        model: Folder or Hub id of an ark-cxr or a Genesis.
        paths: Files, of radiographs also http(s) addresses, or folders that are searched for images or volumes.
        out: A `.csv` file, or `.jsonl` for a JSON object a line. Files that cannot be read go to `NAME.unreadable.csv`
            beside it.
        batch_size: Images a forward pass, 16 unless set, fewer of over 384 pixels, see [`usual_batch_size`]; of a
            segmenter of volumes its windows, 4 unless set.
        crops: "whole", "center" or "ten", see [`with_crops`].
        second_opinion: Write on which findings the heads disagree, to `NAME.second_opinion.csv` beside `out`.
        heatmaps: Folder for pictures of what speaks for the labels that are called positive, see [`save_overlays`].
        format: "wide", or "long": one row per image and label, with the operating point, whether the probability
            reaches it, and reasons to doubt the image; blank, or null, where there is no operating point. Of a
            segmenter with the label's area, the mean probability within its mask, and the file of that.
        num_workers: Processes that read files; the package's own choice unless set, see [`default_readers`].
        device, dtype, compile: Where and how the model computes, see [`move_model`].
        modality: What the images were taken with, DICOM's code. Unless set what a DICOM file says; other files are
            taken for images of the model's first modality. The heads of other modalities are not asked.

    Raises:
        ValueError: The model cannot be loaded, a path does not exist, the model cannot do what is asked for, or there
            are masks or overlays already.
    """
    out = Path(out)
    check_prediction_file(out)
    if heatmaps is not None and Path(heatmaps).is_file():
        raise ValueError(f"heatmaps {heatmaps} is a file; name a folder.")
    if read_model_type(model) == "genesis":
        _refuse_options_of_radiographs(model, crops, second_opinion, heatmaps, num_workers, modality)
        return predict_volumes(model, paths, out, batch_size, format, device, dtype, compile)
    files, left_out = _image_files(paths)
    num_workers = default_readers(len(files)) if num_workers is None else num_workers
    network, processor = load_ark(model, dtype=dtype, compile=compile, device=device)
    if modality is not None:
        check_has_modality(network.config, modality)
    batch_size = batch_size or usual_batch_size(network, 16)
    written = Predictions(out, left_out=left_out, computed=how_computed(network))
    seen, findings = _Seen(written), None
    if isinstance(network, ArkForSemanticSegmentation):
        for name, given in (("crops", crops != "whole"), ("second_opinion", second_opinion), ("heatmaps", heatmaps)):
            if given:
                raise ValueError(
                    f"{name} is for classifiers, and {model} is a segmenter, which gives each label's mask of the "
                    f"whole picture; leave out {name}."
                )
        table = _segmented(network, processor, files, batch_size, num_workers, format, seen, modality)
    else:
        processor = with_crops(processor, network.config.image_size, crops)
        if heatmaps is not None:
            check_whole_picture(processor)
        findings = labels_by_finding(network.config.tasks, read_synonyms()) if second_opinion else None
        table = _classified(network, processor, files, batch_size, num_workers, format, seen, heatmaps, modality)
    if not process_state().is_main_process:  # it has done its share when it has all results
        written.images = sum(not isinstance(result, str) for _, result in table.results)
        return written
    results, opinions = table.results, out.with_name(f"{out.stem}.second_opinion.csv")
    if findings is not None:
        results = writing_second_opinions(opinions, findings[0], results)
    written.images, written.unreadable = write_rows(out, table.columns, results, table.rows)
    if findings is not None and written.images:
        written.second_opinion, written.disagreements = opinions, second_opinion_text(opinions, *findings)
    return written


def _refuse_options_of_radiographs(
    model: str,
    crops: str,
    second_opinion: bool,
    heatmaps: str | Path | None,
    num_workers: int | None,
    modality: str | None,
) -> None:
    given = {
        "crops": crops != "whole",
        "second_opinion": second_opinion,
        "heatmaps": heatmaps,
        "num_workers": num_workers,
        "modality": modality,
    }
    for name, value in given.items():
        if value:
            raise ValueError(
                f"{name} is for radiographs, and {model} takes volumes, one after the other; leave it out."
            )


def _classified(
    network: Any,
    processor: ArkImageProcessor,
    files: Sequence[Path | str],
    batch_size: int,
    num_workers: int,
    format: Format,
    seen: _Seen,
    heatmaps: str | Path | None,
    modality: str | None,
) -> _Table:
    config: ArkConfig = network.config

    def look_at(image: RadiographInput, probabilities: np.ndarray, maps: dict[int, np.ndarray]) -> None:
        seen.look_at(image)
        for head in heads_not_asked(config, image.modality):
            seen.written.not_asked.setdefault(head, Counter())[image.modality] += 1
        if maps:
            save_overlays(config, image, maps, Path(str(heatmaps)), seen.row)

    explained = None if heatmaps is None else partial(called_labels, config)
    statistics = read_training_statistics(network, processor)
    results = predict_files(
        network, processor, files, batch_size, look_at, explained, num_workers, modality, statistics
    )
    if format == "long":
        return _Table(LONG_COLUMNS, results, long_rows(config, lambda: seen.doubts))
    labels = task_label_names(config)
    return _Table(["image", *labels], results, wide_row(labels))


def _segmented(
    network: ArkForSemanticSegmentation,
    processor: ArkImageProcessor,
    files: Sequence[Path | str],
    batch_size: int,
    num_workers: int,
    format: Format,
    seen: _Seen,
    modality: str | None,
) -> _Table:
    task: SegmentationTask = network.config.segmentation
    out = seen.written.out
    masks_folder, overlays = out.with_name(f"{out.stem}.masks"), out.with_name(f"{out.stem}.overlays")
    for folder in (masks_folder, overlays):
        check_new_folder(folder, "out")
    process_state().wait_for_everyone()  # before one of them writes

    def look_at(image: RadiographInput, measured: Measurements, masks: np.ndarray | None) -> None:
        seen.look_at(image)
        seen.written.masks, seen.written.overlays = masks_folder, overlays
        if masks is not None:
            save_masks(task, image, masks, seen.row, masks_folder, overlays)

    def rows(image: str, measured: Measurements) -> list[dict[str, Any]]:
        if format == "wide":
            return [area_row(task, image, measured)]
        names = [
            Path(masks_folder.name, picture_name(seen.row, seen.name, number, f"{task.name}_{label}"))
            for number, label in enumerate(task.labels)
        ]
        return long_area_rows(task, image, measured, names, seen.doubts)

    results = segment_files(network, processor, files, batch_size, look_at, num_workers, modality)
    return _Table(LONG_AREA_COLUMNS if format == "long" else area_columns(task), results, rows)


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
