"""
Whether a picture is unlike a model's training images: statistics of their embeddings, kept beside the weights.

It is the Mahalanobis distance from a Gaussian of embeddings that were scaled to the length 1, which Mueller and Hein
(Mahalanobis++: Improving OOD Detection via Feature Normalization, ICML 2025) propose: networks give pictures that they
do not know small features, which lie close to the mean of all. docs/prediction.md has what that changed here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers.utils import logging

from ..metrics.gaussian import LowRankGaussian, fit_gaussian
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkForImageClassification
from ..provenance import STATISTICS_FILE, file_beside
from .model_hash import hash_model

logger = logging.get_logger(__name__)

FALSE_ALARMS = 0.05  # share of held-out images that are doubted
RANK = 64  # directions; docs/prediction.md says what others gave
LEAST_IMAGES, LEAST_HELD_OUT = 500, 50
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # what a model may be cast to once it is loaded
NAMED = 3  # datasets that a doubt names
_KEY = "ark_hf"  # of the metadata
_ARRAYS = ("mean", "directions", "variances")


@dataclass(frozen=True)
class ModalityStatistics:
    """
    What training images of one modality are like, for a model's embeddings of them.

    Args:
        gaussian: Of the embeddings, scaled to the length 1.
        threshold: The distance that `FALSE_ALARMS` of the held-out images lie above.
        images, held_out: How many the two come from.
        datasets: Whose images these are, by name.
    """

    gaussian: LowRankGaussian
    threshold: float
    images: int
    held_out: int
    datasets: tuple[str, ...]

    def distances(self, embeddings: np.ndarray) -> np.ndarray:
        """float64 (images,) of embeddings (images, width) of any length."""
        return self.gaussian.distances(_of_length_1(embeddings))

    @property
    def named(self) -> str:
        """The datasets, or the first of many, for people."""
        more = len(self.datasets) - NAMED
        return ", ".join([*self.datasets[:NAMED], *([f"{more} more"] if more > 0 else [])])

    def told(self, modality: str) -> str:
        """A sentence for people about statistics of this modality."""
        return (
            f"Beside the weights are statistics of {self.images:,} training images of modality {modality}: a picture "
            f"is doubted that is as unlike them as {FALSE_ALARMS:.0%} of {self.held_out:,} held-out ones are."
        )


@dataclass(frozen=True)
class TrainingStatistics:
    """
    By modality what training images are like, for the embeddings of one model in one view.

    Args:
        model_hashes: What [`hash_model`] says of the model, by the name of the type that it computes in.
        modalities: By DICOM's code.
    """

    model_hashes: Mapping[str, str]
    modalities: Mapping[str, ModalityStatistics]

    def fit(self, model: ArkForImageClassification, processor: ArkImageProcessor) -> bool:
        """Whether they were measured on the weights that the model has, and in the processor's view."""
        return hash_model(model.ark, processor) == self.model_hashes.get(_name(model.dtype))

    def doubts(self, embeddings: torch.Tensor, modalities: Sequence[str]) -> list[list[str]]:
        """
        Of each picture why it is to be doubted, a sentence, or nothing.

        Args:
            embeddings: (pictures, width), of a forward pass.
            modalities: Of each picture; those of a modality without statistics are not doubted.
        """
        values = embeddings.float().cpu().numpy()
        found: list[list[str]] = [[] for _ in modalities]
        for modality in set(modalities) & set(self.modalities):
            known = self.modalities[modality]
            rows = [row for row, each in enumerate(modalities) if each == modality]
            for row, distance in zip(rows, known.distances(values[rows]), strict=True):
                if distance > known.threshold:
                    found[row].append(
                        f"it is unlike the training images of {known.named}: its distance from them is "
                        f"{distance:.1f}, and {1 - FALSE_ALARMS:.0%} of held-out ones lie below {known.threshold:.1f}"
                    )
        return found


def check_enough(train: int, held_out: int) -> None:
    """Raises `ValueError` if so many images of train and of validation splits are too few for statistics."""
    if train < LEAST_IMAGES or held_out < LEAST_HELD_OUT:
        raise ValueError(
            f"they take {LEAST_IMAGES} images of train splits and {LEAST_HELD_OUT} of validation splits, and there "
            f"are {train:,} and {held_out:,}"
        )


def modality_statistics(
    train: np.ndarray, held_out: np.ndarray, datasets: Sequence[str], rank: int = RANK
) -> ModalityStatistics:
    """
    Statistics of a modality.

    Args:
        train, held_out: Embeddings (images, width) of train and of validation splits.
        datasets: Whose images they are.
        rank: Directions of the Gaussian.

    Raises:
        ValueError: There are fewer than `LEAST_IMAGES` or `LEAST_HELD_OUT`, or all embeddings are the same.
    """
    check_enough(len(train), len(held_out))
    gaussian = fit_gaussian(_of_length_1(train), rank)
    threshold = np.quantile(gaussian.distances(_of_length_1(held_out)), 1 - FALSE_ALARMS, method="higher")
    return ModalityStatistics(gaussian, float(threshold), len(train), len(held_out), tuple(datasets))


def _of_length_1(embeddings: np.ndarray) -> np.ndarray:
    values = np.asarray(embeddings, dtype=np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def model_hashes(model: ArkForImageClassification, processor: ArkImageProcessor) -> dict[str, str]:
    """What `TrainingStatistics` knows a model by, whatever it is cast to; of its weights in float32."""
    return {_name(dtype): hash_model(model.ark, processor, dtype) for dtype in DTYPES}


def write_training_statistics(folder: Path, statistics: TrainingStatistics) -> None:
    """Writes `training_statistics.safetensors` into a model's folder: float32, some hundred kilobytes a modality."""
    tensors: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {"model_hashes": dict(statistics.model_hashes), "modalities": {}}
    for modality, each in statistics.modalities.items():
        arrays = (each.gaussian.mean, each.gaussian.directions, each.gaussian.variances)
        tensors |= {
            f"{modality}.{name}": values.astype(np.float32) for name, values in zip(_ARRAYS, arrays, strict=True)
        }
        facts["modalities"][modality] = {
            "residual": each.gaussian.residual,
            "threshold": each.threshold,
            "images": each.images,
            "held_out": each.held_out,
            "datasets": list(each.datasets),
        }
    save_file(tensors, folder / STATISTICS_FILE, {_KEY: json.dumps(facts)})


def read_training_statistics(
    model: ArkForImageClassification, processor: ArkImageProcessor
) -> TrainingStatistics | None:
    """
    What stands beside the weights that a model was loaded from, in a folder or on the Hub, None if nothing does.

    What was measured on other weights than the model now has, or in another view than the processor's, does not hold
    for it: that is said, and None returned.

    Raises:
        ValueError: The file is damaged, or of embeddings of another width.
    """
    path = file_beside(model.name_or_path, STATISTICS_FILE, getattr(model.config, "_commit_hash", None))
    if path is None:
        return None
    statistics = open_training_statistics(path, model.ark.embedding_dim)
    if not statistics.fit(model, processor):
        logger.warning(
            f"{path} was measured on other weights, or on another view of the pictures: no picture is compared with "
            "the training images. Calibrate the model anew (ark-hf evaluate MODEL DATASETS --calibrate NEW_FOLDER)."
        )
        return None
    return statistics


def open_training_statistics(path: str | Path, width: int) -> TrainingStatistics:
    """
    What [`write_training_statistics`] wrote.

    Args:
        width: Of the embeddings that it is to be of.

    Raises:
        ValueError: It is something else, damaged, or of embeddings of another width.
    """
    try:
        with safe_open(path, "numpy") as file:
            facts = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        hashes = {str(dtype): str(each) for dtype, each in facts["model_hashes"].items()}
        modalities = {name: _read(tensors, name, of, width) for name, of in facts["modalities"].items()}
        if len(tensors) != len(_ARRAYS) * len(modalities):
            raise ValueError("it holds something else")
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged, or no statistics of training images for this model ({type(error).__name__}): delete "
            "it, or calibrate the model anew."
        ) from None
    return TrainingStatistics(hashes, modalities)


def _read(
    tensors: Mapping[str, np.ndarray], modality: str, facts: Mapping[str, Any], width: int
) -> ModalityStatistics:
    mean, directions, variances = (tensors[f"{modality}.{name}"].astype(np.float64) for name in _ARRAYS)
    residual, threshold = float(facts["residual"]), float(facts["threshold"])
    if (mean.shape, directions.shape) != ((width,), (len(variances), width)) or not 0 < len(variances) <= width:
        raise ValueError("the arrays do not fit the model or each other")
    numbers = np.concatenate([mean, directions.ravel(), variances, [residual, threshold]])
    if not np.isfinite(numbers).all() or not (variances > 0).all() or not residual > 0:
        raise ValueError("a number is not finite, or a variance not positive")
    return ModalityStatistics(
        LowRankGaussian(mean, directions, variances, residual),
        threshold,
        int(facts["images"]),
        int(facts["held_out"]),
        tuple(map(str, facts["datasets"])),
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
