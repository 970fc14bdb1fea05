"""The most similar pictures by their embeddings, and how often they share a finding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...metrics.resampling import number_clusters
from .probe import check_embeddings


@dataclass(frozen=True)
class RetrievalResult:
    """
    Of the queries that have a label, the mean share of their neighbours that have it too; NaN without such queries.

    `chance` is what neighbours drawn at random would reach: the share of known pictures of the index that have it.
    """

    label: str
    precision: float
    chance: float
    num_queries: int


def nearest_neighbours(
    index: np.ndarray,
    queries: np.ndarray,
    k: int,
    index_patients: Sequence[Any] | None = None,
    query_patients: Sequence[Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    The rows of the index with the highest cosine similarity to each query, the most similar first.

    Args:
        index: float32 (n, width), finite.
        queries: float32 (q, width), finite.
        k: How many, from 1 to n.
        index_patients, query_patients: Patient ids of both, or neither. Pictures of the query's own patient are then
            left out, so that a split can be asked about itself; None or "" is nobody's.

    Returns:
        Rows, int64 (q, k), -1 where there are no more; and similarities, float32 (q, k) in [-1, 1], NaN there.

    Raises:
        ValueError: k is outside its range, or the arrays do not fit together.
    """
    from sklearn.neighbors import NearestNeighbors

    index, queries = check_embeddings(index), check_embeddings(queries)
    if index.shape[1] != queries.shape[1]:
        raise ValueError(f"index and queries must be of one width, not {index.shape[1]} and {queries.shape[1]}")
    if not 1 <= k <= len(index):
        raise ValueError(f"the number of neighbours must lie between 1 and {len(index)}, the pictures there are: {k}")
    if (index_patients is None) != (query_patients is None):
        raise ValueError("give the patients of both index and queries, or of neither")
    own = np.zeros(0, dtype=np.int64)
    of_index, of_queries = own, own
    asked = k
    if index_patients is not None and query_patients is not None:
        numbers, _ = number_clusters([*index_patients, *query_patients], len(index) + len(queries))
        of_index, of_queries = numbers[: len(index)], numbers[len(index) :]
        asked = min(k + np.bincount(of_index).max(), len(index))
    search = NearestNeighbors(n_neighbors=asked, metric="cosine", algorithm="brute").fit(index)
    distances, rows = search.kneighbors(queries)
    similarities = (1 - distances).astype(np.float32)
    if not len(of_index):
        return rows, similarities
    other = of_index[rows] != of_queries[:, None]
    order = np.argsort(~other, axis=1, kind="stable")[:, :k]
    rows, similarities, other = (np.take_along_axis(each, order, axis=1) for each in (rows, similarities, other))
    return np.where(other, rows, -1), np.where(other, similarities, np.nan)


def retrieval_precision(
    rows: np.ndarray, index_labels: np.ndarray, query_labels: np.ndarray, label_names: Sequence[str]
) -> list[RetrievalResult]:
    """
    Precision at k of each label, see `RetrievalResult`; neighbours of unknown label do not count.

    Args:
        rows: (q, k) from `nearest_neighbours`.
        index_labels, query_labels: (n, labels) and (q, labels) in 0, 1, NaN (unknown).
    """
    found = index_labels[rows]
    found[rows < 0] = np.nan
    results = []
    for column, name in enumerate(label_names):
        neighbours = found[query_labels[:, column] == 1, :, column]
        neighbours = neighbours[~np.isnan(neighbours).all(axis=1)]
        known = index_labels[~np.isnan(index_labels[:, column]), column]
        results.append(
            RetrievalResult(
                name,
                float(np.nanmean(neighbours, axis=1).mean()) if len(neighbours) else float("nan"),
                float(known.mean()) if len(known) else float("nan"),
                len(neighbours),
            )
        )
    return results
