"""Axial slices of volumes: which are taken, how they look, their labels and masks, and what is refused."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ark_hf import load_task_dataset, open_images
from ark_hf.cli.main import main
from ark_hf.data.build.build import build_dataset
from ark_hf.data.build.masks import MaskStore
from ark_hf.data.rows import Release, Row, read_image_file
from ark_hf.data.sources import slices
from ark_hf.data.sources.phantom_volume import draw_phantom_volume
from ark_hf.data.sources.slices import SliceMasks, SliceSource, read_slices
from ark_hf.data.task_dataset import read_any_task, split_names
from ark_hf.data.unlabelled import Unlabelled
from ark_hf.data.volumes.nifti import write_nifti
from ark_hf.data.volumes.volume import Volume
from ark_hf.models.ark.configuration_ark import ArkTask
from tests.data.volumes.made import ct, nifti, series

STRUCTURES = ["1=lungs", "2=vessels", "3=nodules"]
MAPS = {"volumes": "*_ct.nii.gz", "label_maps": "*_seg.nii.gz", "legend": STRUCTURES}


@pytest.fixture(scope="module")
def phantoms() -> list[dict]:
    return [draw_phantom_volume("train", index, size=24) for index in (0, 1)]


@pytest.fixture
def raw(tmp_path, phantoms) -> Path:
    """Two CTs, one with nodules, and their label maps."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for number, phantom in enumerate(phantoms):
        write_nifti(folder / f"{number}_ct.nii.gz", phantom["volume"])
        write_nifti(folder / f"{number}_seg.nii.gz", phantom["mask"])
    return folder


def build(raw: Path, *options: str) -> dict[str, dict]:
    out = raw.parent / "out"
    command = ["data", "build", "slices", "--raw", str(raw), "--out", str(out), "--num_workers", "1", *options]
    assert main(command) == 0
    return {row["image_id"]: row | {"split": split} for split in split_names(out) for row in stored(out, split)}


def stored(out: Path, split: str) -> list[dict]:
    if isinstance(read_any_task(out), Unlabelled):
        return list(open_images(out).splits[split])
    return list(load_task_dataset(out, split))


def pixels(cell) -> np.ndarray:
    return np.asarray(cell if isinstance(cell, PIL.Image.Image) else PIL.Image.open(io.BytesIO(cell["bytes"])))


def shown(plane: np.ndarray, low: float = -1000, high: float = 1000) -> np.ndarray:
    return np.rint(255 * np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1)).astype(np.uint8)


def read(raw: Path, **options) -> Release:
    return read_slices(SliceSource(raw, "scans", **({"modality": "CT"} | options)))


def reasons(release: Release) -> dict[str, str]:
    return {problem.where: problem.reason for problem in release.problems}


def test_slices_say_which_structures_are_in_them(raw, phantoms, capsys):
    maps = ["--volumes", MAPS["volumes"], "--label_maps", MAPS["label_maps"], "--legend", *STRUCTURES]
    found = build(raw, *maps, "--presence", "--every", "2", "--name", "scans")
    assert read_any_task(raw.parent / "out") == ArkTask("scans", ["lungs", "vessels", "nodules"], modality="CT")
    for number, phantom in enumerate(phantoms):
        volume = f"{number}_ct.nii.gz"
        for place in range(0, phantom["volume"].shape[2], 2):
            row = found.pop(f"{volume}/{place:04d}")
            np.testing.assert_array_equal(pixels(row["image"]), shown(phantom["volume"].voxels[:, :, place].T))
            plane = phantom["mask"].voxels[:, :, place]
            assert row["labels"] == [float((plane == value).any()) for value in (1, 2, 3)]
            assert (row["patient_id"], row["study_id"]) == (volume, volume)
    assert not found
    assert any("Patients are not told" in line for line in capsys.readouterr().out.splitlines())
    card = (raw.parent / "out" / "README.md").read_text()
    assert "ark_modality: CT" in card and "1: the label has a voxel in the slice; 0: none. From a label map" in card
    assert "Options: slices one of 2, window -1000 to 1000." in card and "of modality CT: one channel" in card
    assert "Axial slices of volumes, seen from the feet" in card


def test_slices_with_masks_are_a_segmentation_of_pictures(raw, phantoms):
    maps = ["--volumes", MAPS["volumes"], "--label_maps", MAPS["label_maps"], "--legend", *STRUCTURES]
    found = build(raw, *maps, "--distance", "25")
    task = read_any_task(raw.parent / "out")
    spacing = phantoms[0]["volume"].spacing[0]
    assert (task.labels, task.overlapping, task.modality) == (["lungs", "vessels", "nodules"], False, "CT")
    assert task.pixel_spacing == pytest.approx([spacing, spacing], abs=1e-3)
    taken = [round(mm / spacing) for mm in np.arange(0, 17.5 * spacing, 25)]
    assert sorted(found) == [f"{number}_ct.nii.gz/{place:04d}" for number in (0, 1) for place in taken]
    for image, row in found.items():
        plane = phantoms[int(image[0])]["mask"].voxels[:, :, int(image[-4:])].T
        for value, mask in enumerate(row["masks"], start=1):
            np.testing.assert_array_equal(pixels(mask) > 0, plane == value)


def test_a_table_tells_labels_and_patients_of_whole_volumes(raw):
    (raw / "labels.csv").write_text("image,patient_id,study_id,split,sick\n0_ct,a,,train,1\n1_ct,b,s7,test,0\n")
    release = read(raw, labels=["sick"], every=6)
    rows = [(row.metadata["patient_id"], row.metadata["study_id"], row.split, row.labels) for row in release.rows]
    assert rows == [("a", "0_ct.nii.gz", "train", [1.0])] * 3 + [("b", "s7", "test", [0.0])] * 3
    assert [row.where for row in release.rows[:2]] == ["labels.csv, line 2, slice 0", "labels.csv, line 2, slice 6"]
    assert release.facts["semantics"].startswith("Labels are those of the whole volume") and not release.remarks


def test_a_table_may_name_single_slices(raw, phantoms):
    lines = ["0_ct,p,1,9", "1_ct,q,0,3", "0_ct,p,0,4.0", "0_ct,p,1,18", "1_ct,q,1,-1", "1_ct,q,1,", "1_ct,q,1,x"]
    (raw / "labels.csv").write_text("\n".join(["image,patient_id,sick,z", *lines]))
    release = read(raw, labels=["sick"], slice_column="z")
    named = {row.metadata["image_id"]: (row.where, row.labels) for row in release.rows}
    assert named == {
        "0_ct.nii.gz/0009": ("labels.csv, line 2", [1.0]),
        "0_ct.nii.gz/0004": ("labels.csv, line 4", [0.0]),
        "1_ct.nii.gz/0003": ("labels.csv, line 3", [0.0]),
    }
    assert list(named) == sorted(named, key=lambda name: name[0]), "those of a volume follow each other"
    for row in release.rows:
        plane = phantoms[int(row.path.name[0])]["volume"].voxels[:, :, int(row.metadata["image_id"][-4:])]
        np.testing.assert_array_equal(release.read_image(row), shown(plane.T)[None])
    assert set(reasons(release)) == {f"labels.csv, line {line}" for line in (5, 6, 7, 8)}
    assert set(reasons(release).values()) == {"the slice must be a number from 0 to 17"}
    assert release.facts["options"]["slices"] == "those that the table names"


def test_however_a_file_is_turned_its_slices_look_alike_and_have_the_numbers_of_the_file(tmp_path, phantoms):
    volume = phantoms[1]["volume"]
    turned = Volume(np.ascontiguousarray(volume.voxels[::-1, :, ::-1]), volume.affine.copy())
    for axis in (0, 2):
        turned.affine[:3, 3] += volume.affine[:3, axis] * (volume.shape[axis] - 1)
        turned.affine[:3, axis] *= -1
    for name, each in (("one", volume), ("two", turned)):
        (tmp_path / name).mkdir()
        write_nifti(tmp_path / name / "ct.nii.gz", each)
    one, two = (read(tmp_path / name, unlabelled=True, every=1) for name in ("one", "two"))
    pictures = [[release.read_image(row) for row in release.rows] for release in (one, two)]
    np.testing.assert_array_equal(*pictures)
    numbers = [int(row.metadata["image_id"][-4:]) for row in two.rows]
    assert numbers == [17 - int(row.metadata["image_id"][-4:]) for row in one.rows]


@given(
    st.integers(2, 400),
    st.floats(0.3, 12, allow_nan=False).map(lambda value: round(value, 2)),
    st.floats(0.5, 40, allow_nan=False).map(lambda value: round(value, 2)),
)
def test_slices_lie_as_far_apart_as_asked_for_or_are_all(count, spacing, distance):
    looked = object.__new__(slices._Looked)  # of a volume that no memory would hold
    looked.count, looked.distance, looked.upwards = count, spacing, True
    looked.doubts, looked.window = [], (0, 1)
    row = Row("a", Path("a"), "train", [], {"image_id": "a", "patient_id": None})
    places = [row.masks[0] for row in looked.taken(SliceSource(Path("."), "scans", distance=distance), [row])]
    assert places[0] == 0 and places == sorted(set(places)) and places[-1] < count
    assert (count - 1 - places[-1]) * spacing < distance + spacing
    if distance <= spacing:
        assert places == list(range(count))
    else:
        gaps = np.diff(places) * spacing
        assert (np.abs(gaps - distance) <= spacing * 1.001).all()


def test_values_of_other_modalities_are_shown_between_percentiles_of_the_volume(tmp_path):
    values = np.random.default_rng(0).gamma(2, 100, (20, 16, 6)).astype(np.float32)
    write_nifti(tmp_path / "t1.nii.gz", Volume(values, np.diag([1, 1, 4, 1.0])))
    release = read(tmp_path, modality="MR", unlabelled=True)
    assert release.task == Unlabelled("scans", "MR") and len(release.rows) == 5
    low, high = np.percentile(values, (0.5, 99.5))
    picture = release.read_image(release.rows[0])
    np.testing.assert_array_equal(picture[0], shown(values[::-1, ::-1, 0].T, low, high))
    assert release.facts["options"]["window"] == "from the 0.5th to the 99.5th percentile of each volume"
    soft = read(tmp_path, modality="MR", unlabelled=True, window=[0.0, 50.0])
    np.testing.assert_array_equal(soft.read_image(soft.rows[0])[0], shown(values[::-1, ::-1, 0].T, 0, 50))


def test_a_series_of_dicom_is_read_and_one_with_a_gap_is_one_problem(tmp_path):
    raw = tmp_path / "raw"
    series(raw / "P1" / "whole", ct((8, 8, 9)))
    series(raw / "P2" / "gap", ct((8, 8, 9), seed=1))[4].unlink()
    (raw / "labels.csv").write_text("image,patient_id,sick,split\nP1,1,1,train\nP2,2,0,test\n")
    release = read(raw, labels=["sick"], distance=2.5)
    assert [row.metadata["image_id"] for row in release.rows] == [f"P1/whole/{number:04d}" for number in range(9)]
    (where, reason), *others = reasons(release).items()
    assert where == "labels.csv, line 3" and "slice" in reason and str(raw) not in reason and not others


def test_slices_that_show_nothing_are_left_out(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in (0, 1):
        volume = ct((9, 9, 8), seed=number)
        volume.voxels[:, :, 5:] = -1024
        write_nifti(raw / f"{number}.nii.gz", volume)
    (raw / "labels.csv").write_text("image,split\n0,train\n1,test\n")
    found = build(raw, "--unlabelled", "--every", "1", "--modality", "CT")
    assert len(found) == 10 and max(image[-4:] for image in found) == "0004"
    assert "6 slices are of one grey throughout, and are left out." in capsys.readouterr().out


def test_doubts_of_a_volume_or_its_label_map_are_told_of_its_slices(tmp_path):
    raw, volume = tmp_path / "raw", ct((8, 8, 6))
    raw.mkdir()
    (raw / "0_ct.nii.gz").write_bytes(nifti(volume.voxels, volume.affine, packed=True))
    map_of = (volume.voxels > 0).astype(np.uint8)
    untold = np.diag([-1.0, -1.0, 1.0, 1.0])
    (raw / "1_ct.nii.gz").write_bytes(nifti(volume.voxels, untold, packed=True, sform_code=0, qform_code=0))
    (raw / "1_seg.nii.gz").write_bytes(nifti(map_of, untold, packed=True, sform_code=0, qform_code=0))
    (raw / "2_ct.nii.gz").write_bytes(nifti(np.abs(volume.voxels), np.diag([1.0, 1, 1, 1]), packed=True))
    found = {}
    for name in ("0", "1", "2"):
        release = read(raw, volumes=f"{name}_*.nii.gz", unlabelled=True, every=3)
        report = build_dataset(release, tmp_path / f"out{name}", size=32, num_workers=1)
        found[name] = [doubt["reason"] for doubt in report["doubts"]]
    assert found["0"] == ["its pixels are 0.7 x 0.8 mm, so that it is distorted"] * 2
    assert found["1"] == ["its header does not say how it is oriented; it is taken to lead left, front and up"] * 2
    assert found["2"] == ["no voxel is below -200 HU: it may not be a CT in Hounsfield units"] * 2
    (raw / "0_ct.nii.gz").unlink()
    (raw / "2_ct.nii.gz").unlink()
    maps = {"volumes": "*_ct.nii.gz", "label_maps": "*_seg.nii.gz", "legend": ["1=dense"]}
    for presence in (True, False):
        release = read(raw, **maps, presence=presence, every=3)
        report = build_dataset(release, tmp_path / f"presence {presence}", size=32, num_workers=1)
        assert len(report["doubts"]) == 4, "of the volume and of its label map, in each of two slices"


def test_a_label_map_that_lies_elsewhere_and_a_damaged_volume_are_one_problem_each(raw, phantoms):
    mask = phantoms[0]["mask"]
    write_nifti(raw / "0_seg.nii.gz", Volume(mask.voxels[:, :, 1:], mask.affine))
    path = raw / "1_ct.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    release = read(raw, **MAPS)
    assert not release.rows and set(reasons(release)) == {"0_ct.nii.gz", "1_ct.nii.gz"}
    assert reasons(release)["0_ct.nii.gz"].startswith("its label map does not fit: it lies elsewhere than the volume")
    assert "cut short" in reasons(release)["1_ct.nii.gz"] and str(raw) not in str(reasons(release))


def test_a_volume_of_one_value_has_nothing_to_be_seen(tmp_path):
    write_nifti(tmp_path / "flat.nii.gz", Volume(np.full((4, 4, 4), 7, np.int16), np.eye(4)))
    release = read(tmp_path, modality="MR", unlabelled=True)
    assert reasons(release) == {"flat.nii.gz": "all its voxels are of one value, so that there is nothing to be seen"}


def test_each_volume_is_read_once_to_look_and_once_to_store(raw, monkeypatch, tmp_path):
    read_volume, asked = slices.read_volume, []
    monkeypatch.setattr(slices, "read_volume", lambda path: asked.append(path.name) or read_volume(path))
    release = read(raw, **MAPS, every=2)
    assert asked == ["0_ct.nii.gz", "1_ct.nii.gz"] and not slices._volumes and not slices._label_maps
    build_dataset(release, tmp_path / "out", num_workers=1)
    assert len(asked) == 4 and len(slices._volumes) == 1, "one at a time"


def test_an_interrupted_build_does_not_go_on_with_another_legend():
    stores = [
        MaskStore(read_image_file, SliceMasks(((value, "lungs"),)), 256, ["lungs"], False).settings for value in (1, 2)
    ]
    assert stores[0] != stores[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 2, "distance": 5.0}, "--every and --distance both say which slices"),
        ({"every": 0}, "--every must be at least 1, not 0"),
        ({"distance": 0.0}, "--distance must be more than 0 mm, not 0"),
        ({"distance": float("nan")}, "--distance must be more than 0 mm, not nan"),
        ({"slice_column": "z", "every": 1}, "--slice_column names the slices that are taken"),
        ({"slice_column": "z"}, "has no labels.csv, of which --slice_column names a column"),
        ({"presence": True}, "add --label_maps"),
        ({"window": [5.0, 1.0]}, r"--window must be two numbers, the smaller first, not \[5.0, 1.0\]"),
        ({"window": [5.0]}, "--window must be two numbers"),
        ({"modality": "CR"}, "--modality CR is of radiographs; say what the volumes were taken with"),
    ],
)
def test_options_that_do_not_fit_are_refused(raw, options, message):
    with pytest.raises(ValueError, match=message):
        read(raw, **({"unlabelled": not options.get("presence")} | options))
