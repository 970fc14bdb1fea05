"""
The same place in another picture, by the features of both: what a self-supervised encoder knows of anatomy.

As PEAC shows it (Zhou et al., "Learning Anatomically Consistent Embedding for Chest Radiography", BMVC 2023,
arXiv:2312.00335), after Amir et al., "Deep ViT Features as Dense Visual Descriptors", arXiv:2112.05814: places of two
pictures that are each other's nearest in feature space, among those that are salient, and clusters of the features of
several pictures together. Amir et al. take the attention of a class token for saliency, which a Swin does not have.
"""

import numpy as np

from .dense_features import check_map, unit

# In parts of the spread of the nine similarities, as encoders differ in how alike all their tokens are. Phantoms that
# were shifted, turned and scaled were found again as near as by the token alone or nearer, and nearer than by a
# parabola through it, with five encoders: convolutional nets trained on radiographs and on phantoms, ViT and Swin
# untrained, and a small ViT half trained.
TEMPERATURE = 0.2


def corresponding_places(features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Where in a picture the features are most like given ones, by cosine similarity, to a part of a token.

    The token with the largest similarity is looked for in the whole picture; the place is the mean of it and the
    tokens around it, weighted by a softmax of their similarities.

    Args:
        features: (k, width), such as [`features_at`] some places of another picture.
        target: (rows, columns, width), the picture, one of [`dense_features`].

    Returns:
        Places, float64 (k, 2) as (x, y) in fractions of the picture's width and height; and the similarities of their
        tokens, float32 (k,) in [-1, 1].

    Raises:
        ValueError: Shapes that do not fit.
    """
    check_map(target)
    if features.ndim != 2 or features.shape[1] != target.shape[2]:
        raise ValueError(f"features must be (k, {target.shape[2]}), as wide as the picture's, not {features.shape}.")
    rows, columns = target.shape[:2]
    similarity = unit(features) @ unit(target).reshape(rows * columns, -1).T
    best = similarity.argmax(axis=1)
    row, column = np.divmod(best, columns)
    around = np.pad(similarity.reshape(-1, rows, columns), ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    steps = np.arange(3)
    number = np.arange(len(features))[:, None, None]
    around = around[number, row[:, None, None] + steps[:, None], column[:, None, None] + steps].astype(np.float64)
    weights = _softmax(around)
    down, right = ((weights.sum(axis=axis) * (steps - 1)).sum(axis=1) for axis in (2, 1))
    places = np.stack([(column + right + 0.5) / columns, (row + down + 0.5) / rows], axis=1)
    return places, similarity[np.arange(len(features)), best]


def _softmax(around: np.ndarray) -> np.ndarray:
    """Weights (k, 3, 3) of similarities, of which those of places outside the picture are -inf."""
    largest = around.max(axis=(1, 2), keepdims=True)
    spread = largest - np.where(np.isfinite(around), around, largest).min(axis=(1, 2), keepdims=True)
    weights = np.exp((around - largest) / np.where(spread > 0, TEMPERATURE * spread, 1))
    return weights / weights.sum(axis=(1, 2), keepdims=True)


def saliency(features: np.ndarray) -> np.ndarray:
    """
    How much every token of a picture stands out: its cosine distance from the mean of the picture's tokens, which are
    background for the most part. Norms would do too, but not after a layer norm.

    Args:
        features: (rows, columns, width), one picture of [`dense_features`].

    Returns:
        float32 (rows, columns), at least 0.
    """
    check_map(features)
    tokens = unit(features)
    return np.maximum(1 - tokens @ unit(tokens.mean(axis=(0, 1))), 0)


def mutual_neighbours(
    first: np.ndarray, second: np.ndarray, salient: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Pairs of tokens of two pictures that are each other's nearest by cosine similarity, and both salient.

    Args:
        first, second: (rows, columns, width) of one width, pictures of [`dense_features`].
        salient: The share of each picture's tokens, those of the largest [`saliency`], that count.

    Returns:
        Places in the first and in the second picture, float64 (pairs, 2) each as (x, y) in fractions of width and
        height, and their similarities, float32 (pairs,): the most similar pair first.

    Raises:
        ValueError: Shapes that do not fit, or a share outside (0, 1].
    """
    for each in (first, second):
        check_map(each)
    if first.shape[2] != second.shape[2]:
        raise ValueError(f"The pictures' features must be of one width, not {first.shape[2]} and {second.shape[2]}.")
    if not 0 < salient <= 1:
        raise ValueError(f"salient is the share of tokens that count, in (0, 1], not {salient}.")
    tokens = [unit(each).reshape(-1, each.shape[2]) for each in (first, second)]
    similarity = tokens[0] @ tokens[1].T
    to_second, to_first = similarity.argmax(axis=1), similarity.argmax(axis=0)
    found = np.flatnonzero(to_first[to_second] == np.arange(len(tokens[0])))
    counted = [_salient(each, salient) for each in (first, second)]
    found = found[counted[0][found] & counted[1][to_second[found]]]
    ordered = found[np.argsort(-similarity[found, to_second[found]], kind="stable")]
    places = [_centres(each, numbers) for each, numbers in ((first, ordered), (second, to_second[ordered]))]
    return *places, similarity[ordered, to_second[ordered]]


def _salient(features: np.ndarray, share: float) -> np.ndarray:
    """bool (rows * columns,)"""
    values = saliency(features).ravel()
    return values >= np.sort(values)[::-1][max(1, round(share * len(values))) - 1]


def _centres(features: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    row, column = np.divmod(numbers, features.shape[1])
    return np.stack([(column + 0.5) / features.shape[1], (row + 0.5) / features.shape[0]], axis=1)
