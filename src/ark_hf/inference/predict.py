"""A model's probabilities over a task dataset or over files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..data.inputs import RadiographInput
from ..data.loading import iterate
from ..data.views import resize_side
from ..metrics.calibration import probabilities_of
from ..models.ark.configuration_ark import ArkConfig, ArkTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification
from ..models.genesis.modeling_genesis import GenesisForImageClassification
from .heatmaps import ExplainedPass
from .load import process_state
from .read_files import read_files
from .task_labels import labels_by_task, modalities_of
from .training_statistics import TrainingStatistics

Result = TypeVar("Result")
Extra = TypeVar("Extra")
_NO_PIXELS = np.empty((1, 0, 0), dtype=np.uint8)


def with_crops(processor: ArkImageProcessor, image_size: int, crops: str) -> ArkImageProcessor:
    """
    The processor with one of the original's views (specification of the originals, section 4).

    Args:
        image_size: Side of the model's input.
        crops: "whole": what the processor itself does, as a rule one resize to `image_size`, the view of the
            zero-shot notebook and of pretraining's teacher; "center": a resize and the centre crop, the validation
            view; "ten": the same resize and the ten crops, the test view. The resize is to the processor's `size` if
            that is larger than `image_size`, otherwise to [`resize_side`].

    Raises:
        ValueError: `crops` is something else.
    """
    if crops not in ("whole", "center", "ten"):
        raise ValueError(f"crops must be 'whole', 'center' or 'ten', not {crops!r}.")
    if crops == "whole":
        return processor
    own = processor.size
    larger = processor.do_resize and min(own["height"], own["width"]) > image_size
    return type(processor).from_dict(
        processor.to_dict(),
        do_resize=True,
        intermediate_size=None,
        size=own if larger else resize_side(image_size),
        crop_size=image_size,
        do_center_crop=crops == "center",
        do_ten_crop=crops == "ten",
    )


@torch.no_grad()
def predict_logits(
    models: Sequence[Any],
    samples: Any,
    batch_size: int,
    num_workers: int = 0,
    description: str | None = None,
    all_heads: bool = False,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    load: Callable[[list[np.ndarray]], Iterable[dict[str, torch.Tensor]]] | None = None,
) -> list[np.ndarray]:
    """
    Runs the head of the samples' task over all samples, or all heads; every process gets all rows.

    An image is decoded once for all models.

    Args:
        models: Classifiers of pictures, or all of volumes.
        samples: [`InferenceSamples`] or [`VolumeInferenceSamples`].
        autocast: The precision of a training that validates in it; that of the weights unless given, whatever else ran
            in this process.
        load: Loads batches of the samples by their numbers, for whoever has processes at hand that do; by default
            `num_workers` are started.

    Returns:
        Of each model the head's raw logits, float64 (samples, labels), or (samples, crops, labels) if the samples'
        processor gives several crops an image; with `all_heads` those that the model gives without a task, whatever
        the samples' task is. Last the targets: float (samples, labels) with NaN unknown, or int (samples,) with -100
        unknown.
    """
    head = None if all_heads else samples.task.name
    state = process_state()
    rows = np.arange(len(samples))[state.process_index :: state.num_processes]
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    were_training = [model.training for model in models]
    for model in models:
        model.eval()
    parts = []
    progress = tqdm(
        iterate(samples, batches, num_workers) if load is None else load(batches),
        total=len(batches),
        desc=description,
        disable=description is None or not state.is_main_process,
        leave=False,
    )
    for batch in progress:
        pixel_values = batch["pixel_values"].to(models[0].device)  # once, and not for each model
        with autocast():
            logits = [crop_logits(model, pixel_values, head).numpy() for model in models]
        parts.append((*logits, batch["labels"].numpy()))
    for model, was_training in zip(models, were_training, strict=True):
        model.train(was_training)

    mine = (
        zip(rows.tolist(), *(np.concatenate(part) for part in zip(*parts, strict=True)), strict=True) if parts else ()
    )
    gathered = gather_object(list(mine))
    gathered.sort(key=lambda row: row[0])
    return [np.stack(column) for column in list(zip(*gathered, strict=True))[1:]]


def mean_probabilities(logits: np.ndarray, task: ArkTask | ArkConfig) -> np.ndarray:
    """
    Probabilities of the task's head: a sigmoid a label, or a softmax, of each crop, and then the mean over the crops.

    For the logits of all heads, pass the model's config in place of the task.

    The original averages probabilities, not logits (specification of the originals, section 8, item 8).

    Args:
        logits: (samples, labels), or (samples, crops, labels), as [`predict_logits`] gives them.

    Returns:
        float64 (samples, labels) in [0, 1].
    """
    values = np.asarray(logits, dtype=np.float64)
    multi_label = task.problem_type == "multi_label_classification" or values.shape[-1] == 1
    probabilities = probabilities_of(values, f"{'multi' if multi_label else 'single'}_label_classification")
    return probabilities.mean(axis=1) if probabilities.ndim == 3 else probabilities


def crop_logits(model: Any, pixel_values: torch.Tensor, task: str | None = None) -> torch.Tensor:
    """
    float64 (batch, labels) of pictures (batch, C, H, W), or (batch, crops, labels) of (batch, crops, C, H, W), on the
    CPU; of a Genesis (batch, labels) of volumes (batch, C, D, H, W).
    """
    return _crop_logits(_forward(model, pixel_values, task), pixel_values, model)


def crop_outputs(model: Any, pixel_values: torch.Tensor, task: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """What [`crop_logits`] gives, and of the same pass the embeddings, of crops their mean: float32 (batch, width)."""
    outputs = _forward(model, pixel_values, task)
    embeddings = outputs.embeddings.float().unflatten(0, (len(pixel_values), -1)).mean(dim=1)
    return _crop_logits(outputs, pixel_values, model), embeddings


def _forward(model: Any, pixel_values: torch.Tensor, task: str | None) -> Any:
    return model(pixel_values.to(model.device, model.dtype).flatten(0, -_image_axes(model) - 1), task=task)


def _crop_logits(outputs: Any, pixel_values: torch.Tensor, model: Any) -> torch.Tensor:
    return outputs.logits.cpu().double().unflatten(0, pixel_values.shape[: -_image_axes(model)])


def _image_axes(model: Any) -> int:
    return 4 if isinstance(model, GenesisForImageClassification) else 3


def _as_it_is(image: RadiographInput) -> RadiographInput:
    return image


def _without_pixels(image: RadiographInput) -> RadiographInput:
    return replace(image, pixels=_NO_PIXELS)


def compute_files(
    paths: Sequence[Path | str],
    processor: ArkImageProcessor,
    batch_size: int,
    num_workers: int,
    compute: Callable[[list[RadiographInput], torch.Tensor], Iterable[tuple[Result, Extra]]],
    on_image: Callable[[RadiographInput, Result, Extra | None], None] | None = None,
    with_pixels: bool = True,
    modality: str | None = None,
) -> Iterator[tuple[Path | str, Result | str]]:
    """
    What a model makes of image files and addresses that [`read_input`] reads.

    Under `accelerate launch` each process does its share of the batches, and gets the results of all.

    Args:
        compute: Of the images of a batch and the model's input for each a result, which all processes get, and
            something that stays in this one.
        on_image: Is given each image that can be read, its result and the rest, before they are yielded; an image that
            another process has read comes without its pixels and rest.
        num_workers: Processes that read files; 0 reads them in this one.
        with_pixels: Whether `compute` and `on_image` need the images' own pixels, which are large to send.
        modality: What they were taken with; unless set what each file says.

    Yields:
        Each path in order, with its result, or with the reason why the file cannot be read.
    """
    state = process_state()
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    mine = batches[state.process_index :: state.num_processes]
    loaded = read_files(mine, processor, num_workers, _as_it_is if with_pixels else _without_pixels, modality)
    rounds = range(0, len(batches), state.num_processes)
    for first in tqdm(rounds, desc="predicting", unit="batch", disable=not state.is_main_process):
        own = first + state.process_index
        read, pixel_values = next(loaded) if own < len(batches) else ([], None)
        images = [each for each in read if not isinstance(each, str)]
        computed = [] if pixel_values is None else list(compute(images, pixel_values))
        found = iter(computed)
        results = [each if isinstance(each, str) else next(found)[0] for each in read]
        told = [None if isinstance(each, str) else (each.name, each.warnings, each.modality) for each in read]
        for number, part in enumerate(gather_object([(results, told)]), start=first):
            nexts = zip(images, computed, strict=True)
            for path, result, words in zip(batches[number] if number < len(batches) else (), *part, strict=True):
                if words is not None and on_image is not None:
                    if number == own:
                        image, (_, extra) = next(nexts)
                        on_image(image, result, extra)
                    else:
                        name, warnings, taken = words
                        on_image(RadiographInput(_NO_PIXELS, name, warnings, modality=taken), result, None)
                yield path, result


@torch.no_grad()
def predict_files(
    model: ArkForImageClassification,
    processor: ArkImageProcessor,
    paths: Sequence[Path | str],
    batch_size: int = 16,
    on_image: Callable[[RadiographInput, np.ndarray, dict[int, np.ndarray]], None] | None = None,
    explained: Callable[[np.ndarray], Sequence[int]] | None = None,
    num_workers: int = 0,
    modality: str | None = None,
    statistics: TrainingStatistics | None = None,
) -> Iterator[tuple[Path | str, np.ndarray | str]]:
    """
    Probabilities of all labels, in `id2label` order, for image files and addresses that [`read_for`] reads. Those of
    heads of another modality than the picture's are NaN: such heads are not asked.

    If the processor gives several crops an image, they are means over the crops, as in [`mean_probabilities`]. Under
    `accelerate launch` each process does its share of the batches, and gets the results of all.

    Args:
        on_image: Is given each image that can be read, its probabilities and its heat maps, before they are yielded;
            an image that another process has read comes without its maps.
        explained: Says of an image's probabilities which labels, by number, get a heat map, at least one; see
            [`ExplainedPass`]. The processor must not crop. Unless given there are none, and `on_image` gets no pixels.
        num_workers: Processes that read files; 0 reads them in this one.
        modality: What they were taken with; unless set what each file says.
        statistics: Of the model's training images: what is unlike them has a further reason for doubt in `warnings`.

    Yields:
        Each path in order, with float64 (num_labels,), or with the reason why the file cannot be read.
    """

    def compute(images: list[RadiographInput], pixel_values: torch.Tensor) -> Iterable[tuple[np.ndarray, dict]]:
        return zip(*_probabilities(model, images, pixel_values, explained, statistics), strict=True)

    def tell(image: RadiographInput, probabilities: np.ndarray, maps: dict | None) -> None:
        if on_image is not None:
            on_image(image, probabilities, maps or {})

    with_pixels = explained is not None
    yield from compute_files(paths, processor, batch_size, num_workers, compute, tell, with_pixels, modality)


def _probabilities(
    model: ArkForImageClassification,
    images: Sequence[RadiographInput],
    pixel_values: torch.Tensor,
    explained: Callable[[np.ndarray], Sequence[int]] | None,
    statistics: TrainingStatistics | None,
) -> tuple[np.ndarray, list[dict[int, np.ndarray]]]:
    """
    Of each picture the probabilities, and by label the heat maps that `explained` asks for. A picture that is unlike
    the training images is told so among its warnings.
    """
    config = model.config
    if explained is None:
        logits, embeddings = crop_outputs(model, pixel_values)
        _doubt(images, embeddings, statistics)
        probabilities = mean_probabilities(logits.numpy(), config)
        return _of_those_asked(probabilities, images, config), [{} for _ in probabilities]
    forward = ExplainedPass(model, pixel_values)
    _doubt(images, forward.embeddings, statistics)
    probabilities = _of_those_asked(mean_probabilities(forward.logits.numpy(), config), images, config)
    labels = [explained(each) for each in probabilities]
    return probabilities, [
        dict(zip(*pair, strict=True)) for pair in zip(labels, forward.heat_maps(labels), strict=True)
    ]


def _doubt(images: Sequence[RadiographInput], embeddings: torch.Tensor, statistics: TrainingStatistics | None) -> None:
    if statistics is not None:
        doubts = statistics.doubts(embeddings, [image.modality for image in images])
        for image, reasons in zip(images, doubts, strict=True):
            image.warnings.extend(reasons)


def _of_those_asked(probabilities: np.ndarray, images: Sequence[RadiographInput], config: ArkConfig) -> np.ndarray:
    if len(modalities_of(config)) > 1:
        for row, image in enumerate(images):
            asked = labels_by_task(config, image.modality).values()
            others = np.ones(len(probabilities[row]), dtype=bool)
            others[[label.column for labels in asked for label in labels]] = False
            probabilities[row, others] = np.nan
    return probabilities
