"""Pictures that stand in two places: equal to the pixel, or nearly, within a dataset and across datasets."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

HASH_FILE = "image_hashes.parquet"
HASH_SCHEMA = pa.schema(
    {"split": pa.string(), "row": pa.int32(), "sha256": pa.binary(32), "perceptual_hash": pa.binary(32)}
)
# Of the 255 bits of two perceptual hashes. Measured on 2,865 real radiographs: two different ones differ in 35 bits or
# more, two of different patients (4.1 million pairs) in 54 or more. Of copies that are rescaled (to 128 pixels, or to
# a square), JPEG at quality 50, or of 16 bits, all are found; with brightness raised by a fifth or gamma from 0.8 to
# 1.25, 99.7 %; with gamma 0.6 or contrast raised by half, 88 %; with a hundredth cut off each side, 64 %.
MAX_DISTANCE = 24

_SIDE, _FREQUENCIES = 64, 16
_COSINES = np.cos(np.pi * np.outer(np.arange(_FREQUENCIES), np.arange(_SIDE) + 0.5) / _SIDE)
_NUM_SAMPLES = 32
_MAX_NEIGHBOURS = 100


def hash_picture(plane: np.ndarray) -> tuple[str, str]:
    """
    Two hashes of a picture, each 64 hexadecimal digits.

    Args:
        plane: (H, W) uint8 or uint16.

    Returns:
        The SHA-256 of its size, depth and pixels; and the perceptual hash: the picture squashed to 64 x 64, its
        cosine transform's 16 x 16 lowest frequencies row by row, a bit each, set where positive (the first, the mean,
        never is). Rescaling, brightness, contrast and lossy compression change few bits.
    """
    content = hashlib.sha256(repr((plane.shape, plane.dtype.str)).encode() + plane.tobytes())
    picture = PIL.Image.fromarray(plane.astype(np.float32)).resize((_SIDE, _SIDE), PIL.Image.Resampling.BILINEAR)
    small = np.asarray(picture, dtype=np.float64)
    waves = _COSINES @ small @ _COSINES.T
    waves[0, 0] = 0
    bits = np.packbits(waves.ravel() > 1e-6 * small.max())  # smaller ones, as of an even picture, are rounding
    return content.hexdigest(), bits.tobytes().hex()


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """A row of a split of a dataset."""

    dataset: str
    split: str
    row: int


@dataclass(frozen=True, order=True, slots=True)
class Duplicate:
    """One picture in two places; `distance` is the number of bits in which its perceptual hashes differ."""

    first: Place
    second: Place
    equal: bool
    distance: int


def read_hashes(folder: Path) -> pa.Table:
    """The hashes that a builder left in a dataset's folder, a row per image. Raises `ValueError` if there are none."""
    path = folder / HASH_FILE
    try:
        return pq.read_table(path, schema=HASH_SCHEMA)
    except (OSError, pa.ArrowException):
        raise ValueError(f"{path} does not exist or is damaged; build the dataset anew with `ark-hf data`.") from None


def find_duplicates(tables: Mapping[str, pa.Table]) -> list[Duplicate]:
    """
    Pictures that stand in two splits, or in two datasets.

    Takes about n log n time: perceptual hashes are compared only where they agree in one of 32 random samples of their
    bits. Among 100,000 pictures this misses one in 300 of the pairs that differ in `MAX_DISTANCE` bits, none in a
    thousand of those that differ in 20, and never equal pictures.

    Args:
        tables: Hashes by name of dataset, with the columns of `HASH_SCHEMA`.

    Returns:
        Sorted pairs. Each picture is paired with the first equal one of every other split that comes before its own,
        and with the nearest, not equal one of every other split of those whose perceptual hashes differ from its in at
        most `MAX_DISTANCE` bits.
    """
    groups: dict[tuple[str, str], int] = {}
    group = np.empty(0, dtype=np.int64)
    for name, table in tables.items():
        numbers = [groups.setdefault((name, split), len(groups)) for split in table.column("split").to_pylist()]
        group = np.append(group, numbers).astype(np.int64)
    if not len(group):
        return []
    row = np.concatenate([table.column("row").to_numpy() for table in tables.values()])
    content, words = (_words(tables, column) for column in ("sha256", "perceptual_hash"))
    content, look = _number(content), _number(words)

    equal = _pairs_across_groups(content, group)
    alike = [(i, j) for i, j in _pairs_across_groups(look, group) if content[i] != content[j]]
    first = np.sort(np.unique(look * len(groups) + group, return_index=True)[1])  # of each look in each group
    near = first[_near_pairs(words[first], group[first])]
    named = list(groups)

    def place(item: int) -> Place:
        dataset, split = named[group[item]]
        return Place(dataset, split, int(row[item]))

    def duplicate(i: int, j: int, is_equal: bool) -> Duplicate:
        one, other = sorted((place(i), place(j)))
        return Duplicate(one, other, is_equal, int(_distance(words[i], words[j])))

    return sorted(
        [duplicate(i, j, True) for i, j in equal] + [duplicate(i, j, False) for i, j in [*alike, *near.tolist()]]
    )


def _words(tables: Mapping[str, pa.Table], column: str) -> np.ndarray:
    """The hashes of a column, (n, 4) uint64."""
    values = b"".join(value for table in tables.values() for value in table.column(column).to_pylist())
    return np.frombuffer(values, dtype=np.uint64).reshape(-1, 4)


def _number(values: np.ndarray) -> np.ndarray:
    """A number for each row of (n, words), the same for equal ones."""
    return np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)


def _pairs_across_groups(key: np.ndarray, group: np.ndarray) -> list[tuple[int, int]]:
    """Each item with the first before it of its key in every other group."""
    pairs = []
    firsts: dict[int, dict[int, int]] = {}
    for item in np.flatnonzero(np.bincount(key)[key] > 1).tolist():
        seen = firsts.setdefault(key[item], {})
        pairs += [(first, item) for other, first in seen.items() if other != group[item]]
        seen.setdefault(group[item], item)
    return pairs


def _near_pairs(look: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Pairs (n, 2) of items of two groups whose hashes (n, 4 words) differ, in at most `MAX_DISTANCE` bits."""
    random = np.random.default_rng(0)
    bits = np.unpackbits(look.view(np.uint8), axis=1)
    sampled = int(np.clip(np.ceil(np.log2(len(look))), 8, 24))
    found = [np.empty((0, 3), dtype=np.int64)]
    for _ in range(_NUM_SAMPLES):
        sample = bits[:, random.choice(np.arange(1, 256), sampled, replace=False)]
        keys = sample.astype(np.float32) @ 2.0 ** np.arange(sampled, dtype=np.float32)
        shuffled = random.permutation(len(look))  # else the neighbours in a crowd would all be of one group
        order = shuffled[np.argsort(keys[shuffled], kind="stable")]
        for at, to in _neighbours(keys[order]):
            pairs = np.sort(np.stack([order[at], order[to]], axis=1), axis=1)
            pairs = pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]
            distance = _distance(look[pairs[:, 0]], look[pairs[:, 1]])
            close = (distance > 0) & (distance <= MAX_DISTANCE)
            found.append(np.column_stack([distance, pairs])[close])
    near = np.unique(np.concatenate(found), axis=0)[:, 1:]  # the nearest first
    nearest = [
        np.unique(near[:, one] * (group.max() + 1) + group[near[:, other]], return_index=True)[1]
        for one, other in ((0, 1), (1, 0))
    ]
    return near[np.unique(np.concatenate(nearest))]


def _neighbours(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of positions with equal ones of the sorted keys; in a crowd, each with its next `_MAX_NEIGHBOURS` only."""
    at = np.arange(len(keys))
    for offset in range(1, _MAX_NEIGHBOURS + 1):
        at = at[at + offset < len(keys)]
        at = at[keys[at] == keys[at + offset]]
        if not len(at):
            return
        yield at, at + offset


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.bitwise_count(one ^ other).sum(axis=-1, dtype=np.int64)
