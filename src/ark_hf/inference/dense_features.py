"""Dense features: what an encoder says of every place of a picture, and places that say alike across pictures."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.ndimage import uniform_filter
from tqdm.auto import tqdm

from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkPreTrainedModel
from .model_input import model_input, read_for
from .overlays import check_whole_picture

FLAT = 1e-6  # of the largest variance: below lies the rounding of float32


@torch.no_grad()
def dense_features(
    model: ArkPreTrainedModel,
    processor: ArkImageProcessor,
    pictures: Sequence[Any],
    batch_size: int = 16,
    normalise: bool = False,
    description: str | None = None,
) -> np.ndarray:
    """
    The patch tokens of pictures, each on the grid where it lies. All are kept in memory: 0.8 MB a picture of Swin-B
    at 448 pixels.

    Args:
        model: An `ArkModel` or one with heads, in eval mode, on any device.
        processor: Its image processor; whole pictures, not crops.
        pictures: Whatever [`read_for`] reads: paths, PIL images, arrays.
        batch_size: Pictures a forward pass.
        normalise: Whether every token is divided by its L2 norm, so that products are cosine similarities.
        description: Of a progress bar; none unless given.

    Returns:
        float32 (n, rows, columns, width). The grid covers the whole picture, whatever its aspect: the token of row i
        and column j is of the place ((j + 1/2) / columns, (i + 1/2) / rows), in parts of width and height.

    Raises:
        ValueError: No pictures, one that cannot be read, tokens that are no square grid or not finite, or a processor
            that cuts crops.
    """
    check_whole_picture(processor, "Dense features")
    if not len(pictures):
        raise ValueError("There are no pictures to take dense features of.")
    encoder, found = model.base_model, []
    starts = range(0, len(pictures), batch_size)
    for start in tqdm(starts, desc=description, disable=description is None, unit="batch", leave=False):
        read = [read_for(each, processor) for each in pictures[start : start + batch_size]]
        pixel_values = model_input(read, processor).to(model.device, model.dtype)
        tokens = encoder(pixel_values).last_hidden_state.float()
        side = math.isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:
            raise ValueError(
                f"{model.config.backbone!r} gives {tokens.shape[1]} tokens, which are no square grid of places; use "
                "an encoder that keeps one, such as a Swin, ViT or ConvNeXt."
            )
        if normalise:
            tokens = torch.nn.functional.normalize(tokens, dim=-1)
        found.append(tokens.unflatten(1, (side, side)).cpu().numpy())
        bad = np.flatnonzero(~np.isfinite(found[-1]).all(axis=(1, 2, 3)))
        if len(bad):
            raise ValueError(f"The model gives NaN or infinite features for picture {start + int(bad[0])}.")
    return np.concatenate(found)


def whiten(features: np.ndarray) -> np.ndarray:
    """
    Features whose directions all vary alike over the places of all pictures, so that each counts alike in a cosine.

    Otherwise the few in which an encoder's features vary most drown the others; of one trained by PEAC they tell where
    a place lies in the picture, more than what is there.

    Args:
        features: (n, rows, columns, width), finite, of pictures that are compared, as [`dense_features`] gives them.

    Returns:
        float32 (n, rows, columns, directions), of mean 0 and covariance 1; directions that do not vary are left out.

    Raises:
        ValueError: Another shape, or all features are equal.
    """
    _check_maps(features)
    centred = features - features.mean(axis=(0, 1, 2), dtype=np.float64)
    flat = centred.reshape(-1, features.shape[-1])
    variances, directions = np.linalg.eigh(flat.T @ flat / len(flat))
    vary = variances > FLAT * variances[-1]
    if variances[-1] <= np.finfo(np.float32).eps ** 2 * np.square(features, dtype=np.float64).mean():
        raise ValueError("All features are equal: there is nothing to whiten.")
    return (centred @ (directions[:, vary] / np.sqrt(variances[vary]))).astype(np.float32)


def with_surroundings(features: np.ndarray, side: int = 3) -> np.ndarray:
    """
    Features of places beside those of their surroundings, which tell apart places that look alike, such as ribs.

    To each token the means over the eight squares of tokens around its own are joined; beyond the picture's border
    they are those at it. Source: the log-binning of Amir et al., "Deep ViT Features as Dense Visual Descriptors",
    arXiv:2112.05814, with one ring.

    Args:
        features: (n, rows, columns, width), of pictures, as [`dense_features`] or [`whiten`] gives them.
        side: Of a square, in tokens; odd.

    Returns:
        float32 (n, rows, columns, 9 * width).

    Raises:
        ValueError: Another shape, or a side that is not odd.
    """
    _check_maps(features)
    if side < 1 or side % 2 == 0:
        raise ValueError(f"side must be an odd number of tokens, not {side}.")
    means = uniform_filter(features.astype(np.float32), (1, side, side, 1), mode="nearest")
    rows, columns = (
        [np.clip(np.arange(length) + step * side, 0, length - 1) for step in (-1, 0, 1)]
        for length in features.shape[1:3]
    )
    squares = [means[:, down][:, :, right] for down in rows for right in columns]
    squares[len(squares) // 2] = features  # the place itself
    return np.concatenate(squares, axis=-1, dtype=np.float32)


def _check_maps(features: np.ndarray) -> None:
    if features.ndim != 4:
        raise ValueError(f"Features of pictures are (n, rows, columns, width), not of shape {features.shape}.")


def features_at(features: np.ndarray, places: ArrayLike) -> np.ndarray:
    """
    The features at places of one picture, between tokens interpolated bilinearly; beyond the outermost tokens theirs.

    Args:
        features: (rows, columns, width), one picture of [`dense_features`].
        places: (k, 2) as (x, y) from the upper left corner, in fractions of the picture's width and height.

    Returns:
        float32 (k, width), not normalised.

    Raises:
        ValueError: A place lies outside [0, 1], or shapes do not fit.
    """
    places = np.asarray(places, dtype=np.float64)
    check_map(features)
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"places must be (k, 2), an (x, y) each, not {places.shape}.")
    outside = ~((places >= 0) & (places <= 1)).all(axis=1)
    if outside.any():
        raise ValueError(
            f"Places are (x, y) in fractions of the picture, in [0, 1], not {places[outside][0].tolist()}."
        )
    sides = np.array([features.shape[1], features.shape[0]])
    cells = np.clip(places * sides - 0.5, 0, sides - 1)
    low = np.floor(cells).astype(int)
    high, part = np.minimum(low + 1, sides - 1), (cells - low).astype(np.float32)
    (x, y), upper, lower = part.T[..., None], low.T, high.T
    above = (1 - x) * features[upper[1], upper[0]] + x * features[upper[1], lower[0]]
    below = (1 - x) * features[lower[1], upper[0]] + x * features[lower[1], lower[0]]
    return (1 - y) * above + y * below


def check_map(features: np.ndarray) -> None:
    """Raises `ValueError` if it is not one picture's features."""
    if features.ndim != 3:
        raise ValueError(f"One picture's features are (rows, columns, width), not of shape {features.shape}.")


def unit(features: np.ndarray) -> np.ndarray:
    """Features (..., width) divided by their L2 norms, zero where that is zero."""
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.divide(features, norms, out=np.zeros_like(features), where=norms > 0)
