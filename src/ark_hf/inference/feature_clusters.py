"""Several pictures' features together: clusters of places, and a plane in which like features lie close."""

import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from .dense_features import unit

PERPLEXITY = 30  # of t-SNE, where there are points enough


def co_segment(
    features: np.ndarray, clusters: int, sizes: Sequence[tuple[int, int]], seed: int = 0
) -> list[np.ndarray]:
    """
    Clusters the places of several pictures together by k-means, so that a cluster is the same kind of place in all.

    Args:
        features: (n, rows, columns, width), as [`dense_features`] gives them; L2-normalised before.
        clusters: How many, at least 2.
        sizes: (width, height) of each picture.
        seed: Of the clusters' starts.

    Returns:
        Of each picture int64 (height, width), the cluster of every pixel by the features interpolated there; 0 is the
        cluster of the most tokens, and so on.

    Raises:
        ValueError: Shapes that do not fit, or fewer different tokens than clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if features.ndim != 4 or len(sizes) != len(features):
        raise ValueError(
            f"features must be (n, rows, columns, width) and sizes n, not {features.shape} and {len(sizes)}."
        )
    tokens = unit(features).reshape(-1, features.shape[3])
    if not 2 <= clusters <= len(tokens):
        raise ValueError(f"clusters must lie between 2 and {len(tokens)}, the tokens of the pictures, not {clusters}.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            found = KMeans(clusters, n_init=4, random_state=seed).fit(tokens)
        except ConvergenceWarning:
            raise ValueError(
                f"The pictures have fewer than {clusters} different features; ask for fewer clusters."
            ) from None
    centres = found.cluster_centers_[np.argsort(-np.bincount(found.labels_, minlength=clusters), kind="stable")]
    # The nearest centre is that of the largest of these, which are linear in the features, as is interpolation
    nearness = tokens @ centres.T - (centres**2).sum(axis=1) / 2
    maps = nearness.astype(np.float32).reshape(*features.shape[:3], clusters)
    return [
        np.stack([_resize(each[..., number], size) for number in range(clusters)]).argmax(axis=0)
        for each, size in zip(maps, sizes, strict=True)
    ]


def _resize(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))


def project_features(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """
    t-SNE of features by cosine distance: points in the plane, of which near ones are alike. Distances between groups
    say little, and groups may seem to be where none are: look at numbers too.

    Args:
        features: (n, width), such as [`features_at`] the landmarks of many pictures.
        seed: Of scikit-learn's `TSNE`; its perplexity is 30, or less if there are fewer than 91 points.

    Returns:
        float32 (n, 2).

    Raises:
        ValueError: Another shape, or fewer than four points.
    """
    from sklearn.manifold import TSNE

    if features.ndim != 2 or len(features) < 4:
        raise ValueError(f"features must be (n, width) of at least four points, not of shape {features.shape}.")
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(unit(features))
