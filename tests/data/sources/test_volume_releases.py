"""LUNA16: folds, labels of scans, and cubes around candidates where the tables place them."""

import numpy as np
import pytest

from ark_hf import load_task_dataset, stored_volume
from ark_hf.cli.main import main
from ark_hf.data.sources import volume_releases
from ark_hf.data.sources.releases import read_release
from ark_hf.data.task_dataset import read_any_task, split_names
from ark_hf.models.ark.configuration_ark import ArkTask
from tests.data.volumes.made import ct, metaimage

SPLITS = ["train"] * 5 + ["validation"] * 2 + ["test"] * 3
TABLE = "seriesuid,coordX,coordY,coordZ,"


def place(index, seed=0) -> str:
    """What a table has of a voxel's place: mm in LPS."""
    x, y, z, _ = ct(seed=seed).affine @ [*index, 1]
    return f"{-x},{-y},{z}"


@pytest.fixture
def raw(tmp_path):
    """Ten subsets of a scan each; what is beside them has their names, too."""
    for number in range(10):
        for folder in (f"subset{number}", "seg-lungs-LUNA16"):
            (tmp_path / "raw" / folder).mkdir(parents=True, exist_ok=True)
            content = metaimage(ct(seed=number), data=f"1.3.{number}.raw")
            (tmp_path / "raw" / folder / f"1.3.{number}.mhd").write_bytes(content)
            (tmp_path / "raw" / folder / f"1.3.{number}.raw").write_bytes(ct(seed=number).voxels.tobytes(order="F"))
    tables = tmp_path / "raw" / "CSVFILES"
    tables.mkdir()
    rows = [f"1.3.{n},{place((3, 3, 3))},5.5\n" for n in (0, 0, 4, 9)]
    (tables / "annotations.csv").write_text(f"{TABLE}diameter_mm\n" + "".join(rows))
    return tmp_path / "raw"


def build(raw, *options):
    out = raw.parent / "out"
    assert main(["data", "build", "luna16", "--raw", str(raw), "--out", str(out), "--num_workers", "1", *options]) == 0
    return {
        row["image_id"]: row | {"split": split} for split in split_names(out) for row in load_task_dataset(out, split)
    }


def test_scans_have_the_folds_of_the_originals_and_whether_they_have_nodules(raw, capsys):
    found = build(raw)
    assert read_any_task(raw.parent / "out") == ArkTask("luna16", ["Nodule"], modality="CT")
    assert [found[f"1.3.{n}"]["split"] for n in range(10)] == SPLITS
    assert [found[f"1.3.{n}"]["labels"] for n in range(10)] == [[float(n in (0, 4, 9))] for n in range(10)]
    for number in range(10):
        volume = stored_volume(found[f"1.3.{number}"]["volume"])
        np.testing.assert_array_equal(volume.voxels, ct(seed=number).voxels)
        np.testing.assert_allclose(volume.affine, ct().affine, atol=1e-5)
    assert "images, all: 10 found, 888 expected" in capsys.readouterr().err
    card = (raw.parent / "out" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "Patients are not named" in card


def candidates(raw, *rows: str, name="candidates_V2.csv"):
    (raw / "CSVFILES" / name).write_text(f"{TABLE}class\n" + "".join(f"{row}\n" for row in rows))


def test_candidates_are_cubes_around_their_places(raw, monkeypatch):
    monkeypatch.setattr(volume_releases, "LUNA_NEGATIVES", 1)
    candidates(raw, name="candidates.csv")  # which is not read beside the other
    places = [(5, (3, 2, 1), 1), (0, (0, 0, 0), 0), (9, (6, 5, 4), 1), (5, (1, 1, 1), 0)]
    candidates(raw, *[f"1.3.{scan},{place(index)},{label}" for scan, index, label in places])
    opened = []
    read = volume_releases.read_volume
    monkeypatch.setattr(volume_releases, "read_volume", lambda path: opened.append(path) or read(path))
    volume_releases._scan.cache_clear()
    found = build(raw, "--content", "candidates")
    assert len(opened) == 3  # a scan is read once
    assert {name: (row["split"], row["labels"], row["patient_id"]) for name, row in found.items()} == {
        "1.3.5/2": ("validation", [1], "1.3.5"),
        "1.3.0/3": ("train", [0], "1.3.0"),
        "1.3.9/4": ("test", [1], "1.3.9"),
        "1.3.5/5": ("validation", [0], "1.3.5"),
    }
    for line, (seed, index, _) in enumerate(places, start=2):
        name = f"1.3.{seed}/{line}"
        cube = stored_volume(found[name]["volume"])
        assert cube.shape == (64, 64, 32) and cube.orientation == "LPS" and cube.voxels.dtype == np.int16
        assert cube.voxels[32, 32, 16] == ct(seed=seed).voxels[index]
        np.testing.assert_allclose(cube.affine @ [32, 32, 16, 1], ct().affine @ [*index, 1], atol=1e-3)
        assert (cube.voxels == -1000).sum() >= cube.voxels.size - ct().voxels.size


def test_a_fiftieth_of_what_is_no_nodule_is_kept_and_always_the_same(raw):
    candidates(raw, *[f"1.3.1,{place((i % 7, i % 6, i % 5))},0" for i in range(1000)], f"1.3.1,{place((1, 2, 3))},1")
    release = read_release("luna16", raw, options={"content": "candidates"})
    kept = [row.metadata["image_id"] for row in release.rows]
    assert 8 < len(kept) < 40 and "1.3.1/1002" in kept
    assert [
        row.metadata["image_id"] for row in read_release("luna16", raw, options={"content": "candidates"}).rows
    ] == kept
    every = read_release("luna16", raw, options={"content": "candidates", "negatives": "all"})
    assert len(every.rows) == 1001 and {row.split for row in every.rows} == {"train"}


def test_what_is_missing_or_wrong_is_told(raw, capsys):
    candidates(
        raw,
        f"1.3.1,{place((1, 1, 1))},1",
        "9.9.9,0,0,0,1",
        "1.3.1,x,0,0,1",
        f"1.3.1,{place((1, 1, 1))},2",
        "1.3.2,900,0,0,1",
    )
    release = read_release("luna16", raw, options={"content": "candidates"})
    found = {problem.where: problem.reason for problem in release.problems}
    assert "of the scans that it names 1 are in no subset, such as 9.9.9.mhd" in found["candidates_V2.csv"]
    assert "class must be 0 or 1" in found["candidates_V2.csv, line 5"]
    assert set(found) == {"candidates_V2.csv", "candidates_V2.csv, line 4", "candidates_V2.csv, line 5"}
    with pytest.raises(ValueError, match="the candidate's place: it lies outside the volume"):
        release.read_volume(next(row for row in release.rows if row.metadata["image_id"] == "1.3.2/6"))
    with pytest.raises(ValueError, match="--negatives is of candidates; add --content candidates"):
        read_release("luna16", raw, options={"negatives": "all"})
    (raw / "subset3" / "1.3.0.mhd").write_bytes(b"")
    twice = {problem.where: problem.reason for problem in read_release("luna16", raw).problems}
    assert twice == {"subset3/1.3.0.mhd": "its scan is subset0/1.3.0.mhd too; keep one"}
    (raw / "CSVFILES" / "annotations.csv").unlink()
    assert main(["data", "build", "luna16", "--raw", str(raw), "--out", str(raw.parent / "out")]) == 2
    assert "There is no annotations.csv below" in capsys.readouterr().err


def test_volumes_take_no_options_of_pictures(raw, capsys):
    for option in (["--size", "64"], ["--lists", "x"], ["--dicom_metadata", "age"]):
        assert main(["data", "build", "luna16", "--raw", str(raw), "--out", str(raw.parent / "out"), *option]) == 2
        assert f"unknown option `{option[0]}`" in capsys.readouterr().err
