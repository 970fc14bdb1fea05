"""Storage: pictures are kept to the last bit, shards are whole or not there."""

import io
import json
import pickle
from dataclasses import dataclass

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.data.build import shards
from ark_hf.data.build.pictures import PictureStore, encode_png, shrink
from ark_hf.data.build.shards import Shard, ShardBuilder, Stored, write_parquet
from ark_hf.data.radiograph import read_picture
from ark_hf.data.rows import Row

from .generated import Noise, noise_rows

SCHEMA = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "labels": pa.list_(pa.float32()),
        "image_id": pa.string(),
    }
)


def decode(image: dict) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(image["bytes"])))


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    kind=st.sampled_from([np.uint8, np.uint16]),
    seed=st.integers(0),
)
def test_pictures_keep_every_pixel(height, width, channels, kind, seed):
    shape = (channels, height, width)
    picture = np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)
    assert shrink(picture, 40) is picture
    stored = read_picture(io.BytesIO(encode_png(picture)["bytes"]), in_colour=True)
    np.testing.assert_array_equal(np.broadcast_to(stored, shape), picture)
    assert stored.dtype == kind or (picture % 257 == 0).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("shape", "expected"), [((120, 80), (60, 40)), ((90, 144), (38, 60)), ((60, 61), (59, 60)), ((1, 600), (1, 60))]
)
def test_longer_side_is_shrunk_to_size_and_the_aspect_kept(kind, shape, expected):
    image = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (1, *shape), dtype=kind)
    small = shrink(image, 60)
    assert small.shape == (1, *expected) and small.dtype == kind
    assert small.mean() == pytest.approx(image.mean(), rel=0.06)


@pytest.mark.parametrize(("kind", "dark", "bright"), [(np.uint16, 1000, 5000), (np.uint8, 50, 200)])
def test_shrinking_never_leaves_the_range_of_the_picture(kind, dark, bright):
    image = np.full((1, 100, 100), dark, dtype=kind)
    image[:, :, 50:] = bright  # an edge, on which the filter rings
    small = shrink(image, 50)
    assert (small.dtype, small.min(), small.max()) == (kind, dark, bright)


def test_rows_are_written_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 4)

    def rows():
        for number in range(10):
            # All groups before that of this row are on the disk
            assert (tmp_path / "x.parquet").stat().st_size >= 40_000 * (number // 4)
            yield {"image": {"bytes": bytes(10_000), "path": None}, "labels": [0], "image_id": str(number), "more": 1}

    write_parquet(tmp_path / "x.parquet", SCHEMA, rows())
    footer = pq.read_metadata(tmp_path / "x.parquet")
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [4, 4, 2]
    assert pq.read_table(tmp_path / "x.parquet")["image_id"].to_pylist() == [str(i) for i in range(10)]


@pytest.fixture
def builder(tmp_path):
    for name in ("data", "records"):
        (tmp_path / name).mkdir()

    def make(schema=SCHEMA, store=None, **noise) -> ShardBuilder:
        return ShardBuilder(tmp_path / "data", tmp_path / "records", schema, store or PictureStore(Noise(**noise), 64))

    return make


def test_a_shard_that_is_interrupted_is_not_there(builder, tmp_path):
    shard, counted = Shard("x.parquet", noise_rows(6)), []

    def interrupt():
        counted.append(1)
        if len(counted) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builder().build(shard, interrupt)
    assert not builder().is_finished(shard)
    assert not (tmp_path / "data" / "x.parquet").exists() and not list((tmp_path / "records").iterdir())
    builder().remove_unfinished()
    assert not list((tmp_path / "data").iterdir())
    builder().build(shard, lambda: counted.append(1))
    assert len(counted) == 10 and builder().is_finished(shard)


def test_record_tells_what_the_shard_holds(builder, tmp_path):
    shard = Shard("x.parquet", noise_rows(6))
    builder(bad=(1, 4)).build(shard, lambda: None)
    record = builder().read_record(shard)
    assert record.kept == [0, 2, 3, 5] and [number for number, _ in record.problems] == [1, 4]
    assert record.problems[0][1] == "it is bad"  # without the path
    assert record.size == (tmp_path / "data" / "x.parquet").stat().st_size
    assert len(record.hashes) == 4 and record.sources == [None] * 6
    assert pq.read_table(tmp_path / "data" / "x.parquet")["image_id"].to_pylist() == [f"{i}.png" for i in (0, 2, 3, 5)]
    assert json.loads((tmp_path / "records" / "x.parquet.json").read_text())["size"] == record.size


def test_a_shard_is_unfinished_if_its_file_or_a_source_has_changed(builder, tmp_path):
    rows = noise_rows(3)
    for number, row in enumerate(rows):
        row.path = tmp_path / str(number)
        row.path.write_text("")
    shard = Shard("x.parquet", rows)
    builder().build(shard, lambda: None)
    assert builder().is_finished(shard)
    rows[1].path.write_text("other")
    assert not builder().is_finished(shard)
    builder(bad=(2,)).build(shard, lambda: None)
    assert builder(bad=(2,)).is_finished(shard) and not builder().is_finished(shard)  # it can be read now
    path = tmp_path / "data" / "x.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    assert not builder(bad=(2,)).is_finished(shard)
    path.unlink()
    assert not builder(bad=(2,)).is_finished(shard)


def test_a_shard_without_readable_rows_has_a_record_alone(builder, tmp_path):
    shard = Shard("x.parquet", noise_rows(3))
    builder(bad=(0, 1, 2)).build(shard, lambda: None)
    assert not list((tmp_path / "data").iterdir())
    assert builder(bad=(0, 1, 2)).is_finished(shard) and not builder(bad=(0, 1)).is_finished(shard)


# Other stores --------------------------------------------------------------------------------------------------------

MASKED = pa.schema(
    [SCHEMA.field("image"), pa.field("masks", pa.list_(SCHEMA.field("image").type)), ("image_id", "string")]
)


@dataclass(frozen=True)
class MaskedPictures:
    """Stores a picture with a mask of its bright half, and no labels."""

    pictures: PictureStore

    def __call__(self, row: Row) -> Stored:
        stored = self.pictures(row)
        mask = encode_png((decode(stored.columns["image"]) > 127).astype(np.uint8))
        return Stored({"image": stored.columns["image"], "masks": [mask, None]}, stored.hashes)


def test_what_is_stored_of_a_row_is_the_store_s_own_affair(builder, tmp_path):
    pictures = PictureStore(Noise(bad=(1,)), 16)
    given = pickle.loads(pickle.dumps(builder(MASKED, MaskedPictures(pictures))))  # as other processes have it
    shard = Shard("x.parquet", noise_rows(3))
    given.build(shard, lambda: None)
    record, table = given.read_record(shard), pq.read_table(tmp_path / "data" / "x.parquet")
    assert given.is_finished(shard) and record.kept == [0, 2] and table.schema.names == MASKED.names
    for number, stored, hashes in zip(record.kept, table.to_pylist(), record.hashes, strict=True):
        expected = pictures(shard.rows[number])
        assert stored["image"] == expected.columns["image"] and tuple(hashes) == expected.hashes
        mask, unknown = stored["masks"]
        np.testing.assert_array_equal(decode(mask), decode(stored["image"]) > 127)
        assert unknown is None and stored["image_id"] == shard.rows[number].metadata["image_id"]
