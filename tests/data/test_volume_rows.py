"""Datasets of volumes, opened: lazily, checked, and refused by what takes pictures."""

import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Nifti

from ark_hf import (
    ArkImageProcessor,
    InferenceSamples,
    SegmentationTask,
    load_task_dataset,
    open_dataset,
    open_images,
    stored_volume,
)
from ark_hf.cli.main import main
from ark_hf.data.build.volumes import VolumeStore
from ark_hf.data.image_statistics import STATISTICS_FILE, dataset_statistics
from ark_hf.data.volumes.nifti import encode_nifti
from ark_hf.data.volumes.volume import Volume
from ark_hf.inference.embeddings import picture_keys
from tests.data.volumes.made import affine, ct


def test_volumes_come_one_at_a_time_and_label_maps_with_them(phantom_volumes, monkeypatch):
    decoded = []
    monkeypatch.setattr(Nifti, "decode_example", lambda self, cell, **_: decoded.append(len(cell["bytes"])) or cell)
    labelled = open_dataset(phantom_volumes["phantom_ct_nodule"])
    assert labelled.has_volumes and not decoded  # labels and patients were checked
    assert sorted(labelled.stored_labels("test").ravel()) == [0, 0, 1, 1]
    _ = labelled.splits["train"][3]["volume"]
    assert len(decoded) == 1
    segmented = open_dataset(phantom_volumes["phantom_ct_structures"])
    assert segmented.has_volumes and len(decoded) == 1
    np.testing.assert_array_equal(
        segmented.stored_labels("test"), [[1, 1, has] for has in labelled.labels("test")[:, 0]]
    )
    assert segmented.facts["splits"]["train"]["labels"]["nodules"]["positive"] == 3


def test_streams_and_images_alone(phantom_volumes):
    folder = phantom_volumes["phantom_ct_structures"]
    loaded = load_task_dataset(folder, "test")[0]
    streamed = next(iter(load_task_dataset(folder, "test", streaming=True)))
    for name in ("volume", "mask"):
        one, other = stored_volume(loaded[name]), stored_volume(streamed[name])
        np.testing.assert_array_equal(one.voxels, other.voxels)
        np.testing.assert_array_equal(one.affine, other.affine)
    images = open_images(folder)
    assert images.has_volumes and images.columns("test") == ["volume", "image_id", "patient_id", "sex", "age"]
    for open_rows in (open_dataset, open_images):
        with pytest.raises(ValueError, match="holds volumes, which are not streamed: set streaming to false"):
            open_rows(folder, streaming=True)


def test_a_digest_tells_label_maps_apart(phantom_volumes):
    data = open_dataset(phantom_volumes["phantom_ct_structures"])
    assert data.digest() != data.select("test", [1, 0, 2, 3]).digest()
    assert data.digest() == open_dataset(phantom_volumes["phantom_ct_structures"]).digest()


def test_statistics_are_stored_or_else_computed(phantom_volumes, tmp_path):
    folder = phantom_volumes["phantom_ct_nodule"]
    stored = dataset_statistics(open_dataset(folder), "test")
    assert stored.shape == (4, 11)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / STATISTICS_FILE).unlink()
    np.testing.assert_array_equal(dataset_statistics(open_dataset(tmp_path / "copy"), "test"), stored)


TASK = SegmentationTask("parts", ["low", "high"], modality="CT")


def dataset(tmp_path, *cells, name="data"):
    """A dataset of rows (volume, mask), volumes or what stands in their place."""
    listed = [
        {
            "volume": {"bytes": encode_nifti(volume), "path": None},
            "mask": {"bytes": encode_nifti(mask), "path": None} if isinstance(mask, Volume) else mask,
        }
        for volume, mask in cells
    ]
    (tmp_path / "data").mkdir()
    schema = VolumeStore.features(TASK).arrow_schema
    pq.write_table(pa.Table.from_pylist(listed, schema=schema), tmp_path / "data" / "train-0.parquet")
    return tmp_path


def parts(values=(0, 1, 2), matrix=None, kind=np.uint8, shape=(7, 6, 5)) -> Volume:
    return Volume(np.resize(np.array(values, kind), shape), affine() if matrix is None else matrix)


def test_presence_is_that_of_the_label_maps(tmp_path):
    folder = dataset(
        tmp_path, (ct(), parts()), (ct(seed=1), parts([0, 2])), (ct(seed=2), parts([0, 255], kind=np.uint16))
    )
    np.testing.assert_array_equal(open_dataset(folder, task=TASK).stored_labels("train"), [[1, 1], [0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (parts(shape=(7, 6, 4)), "it lies elsewhere than the volume: 7 x 6 x 4 voxels of 0.7 x 0.8 x 2.5 mm, LPS"),
        (parts(matrix=affine(spacing=(1, 1, 1))), "it lies elsewhere than the volume"),
        (parts([0, 1, 3]), "its mask holds 3; the labels are 1 to 2, 0 background"),
        (parts([0, -5], kind=np.int16), "its mask holds -5"),
        (parts(kind=np.float32), "its mask holds float32, and a label map whole numbers"),
        ({"bytes": b"no NIfTI", "path": None}, "no NIfTI file"),
        ({"bytes": None, "path": "/elsewhere/x.nii.gz"}, "it holds no bytes of its volume or mask"),
        (None, "has no mask|it holds no bytes"),
    ],
)
def test_label_maps_that_cannot_be_used_are_refused_by_their_row(tmp_path, mask, reason):
    folder = dataset(tmp_path, (ct(), parts()), (ct(seed=1), mask))
    with pytest.raises(ValueError, match=rf"split 'train', row 1: .*({reason})"):
        open_dataset(folder, task=TASK)


def test_volumes_without_labels_or_label_maps_are_told_apart(tmp_path, phantom_volumes):
    rows = pq.read_table(next((phantom_volumes["phantom_ct_nodule"] / "data").glob("test-*")))
    (tmp_path / "data").mkdir()
    pq.write_table(rows.drop_columns("labels"), tmp_path / "data" / "test-0.parquet")
    with pytest.raises(ValueError, match="has volumes without `labels` or `mask`.*Volumes alone: `open_images`"):
        load_task_dataset(tmp_path, "test")
    assert open_images(tmp_path, name="scans").has_volumes


def test_without_the_library_the_extra_is_named(phantom_volumes, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ValueError, match=r'Volumes need nibabel: pip install "ark-hf\[volumes\]"'):
        load_task_dataset(phantom_volumes["phantom_ct_nodule"], "test")


def test_what_takes_pictures_says_so(phantom_volumes, tmp_path, capsys):
    data = open_dataset(phantom_volumes["phantom_ct_nodule"])
    with pytest.raises(ValueError, match="phantom_ct_nodule holds volumes, and this model takes pictures"):
        InferenceSamples(data.splits["test"], data.task, ArkImageProcessor(size=32))
    with pytest.raises(ValueError, match="The dataset holds volumes, and this model takes pictures"):
        picture_keys(data.splits["test"])
    assert main(["data", "report", data.source, "--out", str(tmp_path / "report")]) == 2
    assert "holds volumes, of which there is no report" in capsys.readouterr().err
