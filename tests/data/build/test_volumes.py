"""What is stored of volumes and label maps, and which label maps are refused."""

import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Nifti

from ark_hf.data.build import shards
from ark_hf.data.build.build import build_dataset
from ark_hf.data.build.volumes import VolumeStore, hash_volume
from ark_hf.data.image_statistics import STATISTICS_FILE
from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.rows import Release, Row
from ark_hf.data.task_dataset import read_any_task
from ark_hf.data.unlabelled import Unlabelled
from ark_hf.data.volumes.geometry import reorient
from ark_hf.data.volumes.nifti import read_nifti
from ark_hf.data.volumes.volume import Volume
from ark_hf.metrics.shortcut import VOLUME_STATISTICS, volume_statistics
from ark_hf.models.ark.configuration_ark import ArkTask, SegmentationTask
from tests.data.volumes.made import affine, ct


@dataclass(frozen=True)
class Made:
    """A volume whose seed is the row's number."""

    shape: tuple[int, int, int] = (7, 6, 5)

    def __call__(self, row: Row) -> Volume:
        return ct(self.shape, int(row.path.name))


@dataclass(frozen=True)
class Parts:
    """Voxels above 0 and above 1500, stored in another orientation."""

    def __call__(self, row: Row) -> Volume:
        volume = ct(seed=int(row.path.name))
        return reorient(Volume((volume.voxels > 0).astype(np.int32) + (volume.voxels > 1500), volume.affine), "RAS")


def rows(count=3, labels=None, split="train") -> list[Row]:
    return [
        Row(
            f"row {n}",
            Path(f"/x/{n}"),
            split,
            [] if labels is None else labels,
            {"image_id": f"{split}{n}", "patient_id": f"{split}{n}"},
        )
        for n in range(count)
    ]


def stored(folder: Path, split="train") -> list[dict]:
    return [row for path in sorted(folder.glob(f"data/{split}-*")) for row in pq.read_table(path).to_pylist()]


def read(cell: dict) -> Volume:
    assert cell["path"] is None
    return read_nifti(BytesIO(cell["bytes"]))


@pytest.fixture
def segmented() -> Release:
    task = SegmentationTask("parts", ["low", "high"], modality="CT")
    return Release(task, rows(), read_volume=Made(), read_label_map=Parts())


def test_volumes_and_label_maps_are_stored_on_one_grid(tmp_path, segmented):
    report = build_dataset(segmented, tmp_path / "out", num_workers=1)
    for number, row in enumerate(stored(tmp_path / "out")):
        volume, mask = read(row["volume"]), read(row["mask"])
        expected = ct(seed=number)
        np.testing.assert_array_equal(volume.voxels, expected.voxels)
        assert volume.voxels.dtype == np.int16 and mask.voxels.dtype == np.uint8
        np.testing.assert_array_equal(mask.voxels, 1 * (expected.voxels > 0) + (expected.voxels > 1500))
        np.testing.assert_array_equal(mask.affine, volume.affine)
    assert report["splits"]["train"]["labels"]["high"] == {"positive": 3, "negative": 0, "uncertain": 0, "unknown": 0}
    assert "size" not in report
    assert read_any_task(tmp_path / "out") == segmented.task
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (
        "ark_kind: segmentation\nark_modality: CT",
        "dtype: nifti",
        "- 3d",
        "0 background, 1 low, 2 high",
        "not resampled, stored as NIfTI",
        'rows[0]["volume"], rows[0]["mask"]',
        "| label | train: 3 volumes |",
    ):
        assert text in card
    assert "radiograph" not in card.split("<summary>Columns")[1] and "ark-hf evaluate" not in card


@pytest.mark.parametrize("task", [ArkTask("sick", ["a"], modality="CT"), Unlabelled("scans", "MR")])
def test_labels_or_none_stand_beside_volumes(tmp_path, task):
    labels = [1.0] if isinstance(task, ArkTask) else []
    build_dataset(Release(task, rows(labels=labels), read_volume=Made()), tmp_path / "out", num_workers=1)
    found = stored(tmp_path / "out")
    assert [row.get("labels", []) for row in found] == [labels] * 3
    assert read_any_task(tmp_path / "out") == task
    statistics = pq.read_table(tmp_path / "out" / STATISTICS_FILE)
    assert statistics.column_names[3:] == list(VOLUME_STATISTICS)
    values = [[each[name] for name in VOLUME_STATISTICS] for each in statistics.to_pylist()]
    expected = [volume_statistics(ct(seed=n).voxels, ct().spacing).tolist() for n in range(3)]
    np.testing.assert_allclose(values, expected)


def test_an_interrupted_build_ends_the_same_to_the_byte(tmp_path, segmented, monkeypatch):
    segmented.rows_per_shard = 1
    build_dataset(segmented, tmp_path / "whole", num_workers=1)
    calls = []

    def stop(self, row, read=VolumeStore.__call__):
        calls.append(row)
        if len(calls) == 2:
            raise OSError("the disk is full")
        return read(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(VolumeStore, "__call__", stop)
        with pytest.raises(OSError):
            build_dataset(segmented, tmp_path / "out", num_workers=1)
        calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(
            VolumeStore, "__call__", lambda self, row, read=VolumeStore.__call__: calls.append(row) or read(self, row)
        )
        build_dataset(segmented, tmp_path / "out", num_workers=1)
    assert len(calls) == 2  # of three
    names = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert len([name for name in names if name.suffix == ".parquet"]) == 5
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_reader_holds_no_more_than_the_group_of_a_volume(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BYTES_PER_GROUP", 400)
    build_dataset(Release(Unlabelled("scans", "CT"), rows(4), read_volume=Made()), tmp_path / "out", num_workers=1)
    (path,) = (tmp_path / "out" / "data").iterdir()
    assert pq.ParquetFile(path).num_row_groups == 4
    assert pq.ParquetFile(path).schema_arrow.field("volume").type == Nifti().pa_type


def test_equal_volumes_in_two_splits_are_refused_and_others_are_not_near(tmp_path):
    release = Release(
        ArkTask("sick", ["a"], modality="CT"), rows(labels=[1.0]) + rows(1, [0.0], "test"), read_volume=Made()
    )
    with pytest.raises(ValueError, match="pictures stand in two splits, 1 times"):
        build_dataset(release, tmp_path / "out", num_workers=1)
    report = build_dataset(release, tmp_path / "out", num_workers=1, allow_patient_overlap=True)
    assert len(report["duplicates"]["equal"]) == 1 and not report["duplicates"]["near"]
    assert len(report["duplicates"]["contradicting"]) == 1
    volume = ct()
    assert hash_volume(volume) == hash_volume(Volume(volume.voxels.copy(order="F"), affine(spacing=(1, 1, 1))))
    assert hash_volume(volume)[0] != hash_volume(Volume(volume.voxels.astype(np.int32), volume.affine))[0]


def mask(values=0, shape=(7, 6, 5), matrix=None, kind=np.uint8) -> Volume:
    return Volume(np.full(shape, values, kind), affine() if matrix is None else matrix)


@pytest.mark.parametrize(
    ("label_map", "reason"),
    [
        (mask(shape=(7, 6, 4)), "its label map does not fit: it lies elsewhere than the volume: 7 x 6 x 4 voxels"),
        (mask(matrix=affine(spacing=(1, 1, 1))), "its label map does not fit: it lies elsewhere"),
        (mask(matrix=affine(origin=(0, 0, 0))), "its label map does not fit: it lies elsewhere"),
        (mask(3), "its label map holds 3, and there are 2 labels"),
        (mask(-1, kind=np.int16), "its label map holds -1"),
        (mask(kind=np.float32), "its label map holds float32, not whole numbers"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused(label_map, reason):
    store = VolumeStore(Made(), lambda row: label_map, 2)
    with pytest.raises(UnreadableImageError, match=f"/x/0: {reason}"):
        store(rows(1)[0])


def test_a_label_that_is_nowhere_stops_the_build(tmp_path):
    task = SegmentationTask("parts", ["low", "high"], modality="CT")
    release = Release(task, rows(), read_volume=Made(), read_label_map=lambda row: mask(1))
    with pytest.raises(ValueError, match="none of the 3 images has a pixel of 'high'"):
        build_dataset(release, tmp_path / "out", num_workers=1)


def test_a_segmentation_and_no_other_task_has_label_maps(tmp_path):
    for task, read_label_map in ((SegmentationTask("a", ["b"], modality="CT"), None), (ArkTask("a", ["b"]), Parts())):
        release = Release(task, rows(labels=[1.0]), read_volume=Made(), read_label_map=read_label_map)
        with pytest.raises(ValueError, match="a segmentation of volumes, and no other task, needs `read_label_map`"):
            build_dataset(release, tmp_path / "out", num_workers=1)


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.int32])
def test_statistics_are_those_of_numpy(kind):
    voxels = (ct().voxels.astype(np.float64) * (3000 if kind == np.int32 else 1)).astype(kind)
    found = dict(zip(VOLUME_STATISTICS, volume_statistics(voxels, (1, 2, 3)), strict=True))
    assert [found[f"voxels_{axis}"] for axis in "xyz"] == [7, 6, 5] and found["spacing_y"] == 2
    expected = [voxels.mean(dtype=float), voxels.std(dtype=float), *np.percentile(voxels, [5, 50, 95])]
    names = ("mean", "std", "percentile_5", "percentile_50", "percentile_95")
    np.testing.assert_allclose([found[name] for name in names], expected, rtol=1e-6)
    assert all(math.isfinite(value) for value in found.values())
