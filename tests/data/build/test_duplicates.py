"""Duplicates: which pictures count as the same, and that all of them are found in little time."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ark_hf.data.build import duplicates
from ark_hf.data.build.duplicates import (
    HASH_FILE,
    HASH_SCHEMA,
    MAX_DISTANCE,
    Duplicate,
    Place,
    find_duplicates,
    hash_picture,
    read_hashes,
)
from ark_hf.data.sources.phantom import SITES, draw_phantom_images


def bits(plane: np.ndarray) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(hash_picture(plane)[1]), np.uint8))


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return int((bits(one) != bits(other)).sum())


def resize(plane: np.ndarray, *size: int) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(plane).resize(size, PIL.Image.Resampling.BICUBIC))


def jpeg(plane: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    PIL.Image.fromarray(plane).save(buffer, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(buffer))


CHANGES = {
    "half the size": lambda plane: resize(plane, plane.shape[1] // 2, plane.shape[0] // 2),
    "a small square": lambda plane: resize(plane, 112, 112),
    "twice the size": lambda plane: resize(plane, plane.shape[1] * 2, plane.shape[0] * 2),
    "JPEG": lambda plane: jpeg(plane, 50),
    "darker": lambda plane: (plane * 0.8).astype(np.uint8),
    "16 bits": lambda plane: plane.astype(np.uint16) * 257,
    "gamma": lambda plane: np.uint8(255 * (plane / 255) ** 0.8),
    "small JPEG": lambda plane: jpeg(resize(plane, 128, 128), 70),
}


@pytest.fixture(scope="module")
def chests() -> list[np.ndarray]:
    return [
        np.asarray(drawn["image"]) for site in SITES.values() for drawn in draw_phantom_images(site, "train", 16, 192)
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_looks_the_same_and_is_not_equal(chests, change):
    for plane in chests[::3]:
        copy = CHANGES[change](plane)
        assert distance(plane, copy) <= MAX_DISTANCE
        assert hash_picture(plane)[0] != hash_picture(copy)[0]


def test_different_chests_look_different(chests):
    looks = np.stack([bits(plane) for plane in chests])
    between = (looks[:, None] != looks[None]).sum(axis=2)[np.triu_indices(len(looks), 1)]
    assert between.min() > MAX_DISTANCE and np.median(between) > 80


def test_equal_pixels_are_equal_pictures_whatever_file_they_come_from():
    plane = np.random.default_rng(0).integers(0, 256, (30, 20), dtype=np.uint8)
    assert hash_picture(plane) == hash_picture(np.asfortranarray(plane)) == hash_picture(plane.copy())
    for other in (plane.astype(np.uint16), plane.T, plane[::-1], plane.reshape(20, 30)):
        assert hash_picture(other)[0] != hash_picture(plane)[0]


def test_even_pictures_look_alike():
    looks = {
        hash_picture(np.full(shape, grey, np.uint8))[1] for shape in ((40, 30), (200, 200)) for grey in (0, 7, 255)
    }
    assert looks == {"0" * 64}


def test_real_radiographs_of_different_patients_look_different_and_copies_the_same(shared):
    """The rates stated at `MAX_DISTANCE`, on a part of the sets that they were measured on."""
    sets = ("hannover_covid", "covid_cohen", "brixia_severity")
    files = [file for name in sets for file in sorted((shared / "realdata" / name / "images").iterdir())]
    planes = [np.asarray(PIL.Image.open(file).convert("L")) for file in files]
    assert len(planes) == 452
    looks = np.stack([bits(plane) for plane in planes])
    between = (looks[:, None] != looks[None]).sum(axis=2)[np.triu_indices(len(looks), 1)]
    assert between.min() == 54  # two images of one patient; 101,926 pairs
    for plane in planes[::15]:
        for change in ("half the size", "a small square", "JPEG", "16 bits", "small JPEG"):
            assert distance(plane, CHANGES[change](plane)) <= MAX_DISTANCE


# Finding them --------------------------------------------------------------------------------------------------------


def table(splits: dict[str, list[tuple[bytes, bytes]]]) -> pa.Table:
    rows = [
        {"split": split, "row": row, "sha256": sha, "perceptual_hash": look}
        for split, hashes in splits.items()
        for row, (sha, look) in enumerate(hashes)
    ]
    return pa.Table.from_pylist(rows, schema=HASH_SCHEMA)


def random_hashes(random: np.random.Generator, count: int) -> list[tuple[bytes, bytes]]:
    return [(random.bytes(32), random.bytes(32)) for _ in range(count)]


def flip(random: np.random.Generator, look: bytes, count: int) -> bytes:
    values = np.unpackbits(np.frombuffer(look, np.uint8))
    values[random.choice(np.arange(1, 256), count, replace=False)] ^= 1
    return np.packbits(values).tobytes()


@pytest.mark.parametrize("seed", range(5))
def test_all_pairs_are_found_as_by_comparing_each_with_each(seed):
    random = np.random.default_rng(seed)
    a, b = random_hashes(random, 400), random_hashes(random, 300)  # by chance, no picture has two near ones
    for i in range(0, 60, 2):
        b[i] = (random.bytes(32), flip(random, a[i + 7][1], int(random.integers(0, 40))))
    b[100], b[101], b[102] = a[3], a[3], (a[4][0], a[4][1])
    one = table({"train": a[:250], "test": a[250:]})
    other = table({"train": b})
    places = [Place("a", "train", i) for i in range(250)] + [Place("a", "test", i) for i in range(150)]
    places += [Place("b", "train", i) for i in range(300)]
    looks = np.unpackbits(np.frombuffer(b"".join(look for _, look in a + b), np.uint8).reshape(-1, 32), axis=1)
    expected = []
    for i in range(700):
        for j in range(i):
            apart = int((looks[i] != looks[j]).sum())
            same = (a + b)[i][0] == (a + b)[j][0]
            if (same or apart <= MAX_DISTANCE) and (places[i].dataset, places[i].split) != (
                places[j].dataset,
                places[j].split,
            ):
                expected.append(Duplicate(*sorted((places[i], places[j])), same, apart))
    found = find_duplicates({"a": one, "b": other})
    assert found == sorted(expected) and len(found) > 15
    assert sum(duplicate.equal for duplicate in found) == 3


def test_the_same_split_may_repeat_a_picture_but_not_two_splits_or_datasets():
    sha, look = bytes(range(32)), bytes(range(32))
    row = (sha, look)
    assert find_duplicates({"a": table({"train": [row, row]})}) == []
    assert find_duplicates({"a": table({"train": [row], "test": [row, row]})}) == [
        Duplicate(Place("a", "test", 0), Place("a", "train", 0), True, 0),
        Duplicate(Place("a", "test", 1), Place("a", "train", 0), True, 0),
    ]
    assert find_duplicates({"a": table({"train": [row]}), "b": table({"train": [row]})}) == [
        Duplicate(Place("a", "train", 0), Place("b", "train", 0), True, 0)
    ]
    three = find_duplicates({name: table({"train": [row]}) for name in "abc"})
    assert [(pair.first.dataset, pair.second.dataset) for pair in three] == [("a", "b"), ("a", "c"), ("b", "c")]
    alike = (bytes(32), look)
    assert find_duplicates({"a": table({"train": [row], "test": [alike]})}) == [
        Duplicate(Place("a", "test", 0), Place("a", "train", 0), False, 0)
    ]
    assert find_duplicates({}) == [] and find_duplicates({"a": table({})}) == []


@pytest.fixture
def compared(monkeypatch) -> list[int]:
    """How many pairs of hashes are compared."""
    counts, measure = [], duplicates._distance

    def count(one, other):
        counts.append(one.size // 4)
        return measure(one, other)

    monkeypatch.setattr(duplicates, "_distance", count)
    return counts


def test_few_of_all_pairs_are_compared_and_nearly_all_near_ones_found(compared):
    random = np.random.default_rng(0)
    train, test = random_hashes(random, 20_000), random_hashes(random, 20_000)
    near = range(0, 2000, 2)
    for i in near:
        test[i] = (test[i][0], flip(random, train[i][1], MAX_DISTANCE))
    found = find_duplicates({"a": table({"train": train, "test": test})})
    assert {duplicate.first.row for duplicate in found} <= set(near)
    assert len(found) >= 0.98 * len(near)
    assert sum(compared) < 40 * 40_000  # of 400 million


def test_a_crowd_of_look_alikes_takes_no_more(compared):
    """Blank images, of which a set may have thousands: each gets a partner, not thousands."""
    random = np.random.default_rng(0)
    look = random.bytes(32)
    same = [(random.bytes(32), look) for _ in range(5000)]
    assert len(find_duplicates({"a": table({"train": same, "test": same[::-1]})})) <= 2 * 5000
    crowd = [(random.bytes(32), flip(random, look, 4)) for _ in range(2000)]
    found = find_duplicates({"a": table({"train": crowd[:1000], "test": crowd[1000:]})})
    for place in ("first", "second"):
        assert {getattr(duplicate, place).row for duplicate in found} == set(range(1000))
    assert len(found) <= 2000 and sum(compared) < 2000 * 100 * 32


def test_hashes_are_read_from_the_folder_of_a_dataset(tmp_path):
    written = table({"train": random_hashes(np.random.default_rng(0), 3)})
    pq.write_table(written, tmp_path / HASH_FILE)
    assert read_hashes(tmp_path).equals(written)
    (tmp_path / HASH_FILE).write_bytes(b"no parquet")
    for folder in (tmp_path, Path("nowhere")):
        with pytest.raises(ValueError, match="image_hashes.parquet does not exist or is damaged"):
            read_hashes(folder)
