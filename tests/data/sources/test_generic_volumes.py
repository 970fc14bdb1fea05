"""Folders of volumes: with a table, with label maps, with nothing; and what is wrong with them."""

import re
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ark_hf import load_task_dataset, stored_volume
from ark_hf.cli.main import main
from ark_hf.data.rows import Release
from ark_hf.data.sources.generic_volumes import LabelMapFiles, VolumeSource, read_volumes
from ark_hf.data.sources.volume_folder import PathPattern, VolumeFolder
from ark_hf.data.task_dataset import read_any_task, split_names
from ark_hf.data.volumes.nifti import write_nifti
from ark_hf.data.volumes.volume import Volume
from ark_hf.models.ark.configuration_ark import ArkTask, SegmentationTask
from tests.data.volumes.made import affine, ct, metaimage, series


def save(path: Path, volume: Volume) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii"):
        nibabel.Nifti1Image(volume.voxels, volume.affine, dtype=volume.voxels.dtype).to_filename(path)
    else:
        write_nifti(path, volume)


def organ(number: int, values=(0, 5, 9), kind=np.uint8) -> Volume:
    volume = ct(seed=number)
    return Volume(np.array(values, kind)[(volume.voxels > 0).astype(int) + (volume.voxels > 1500)], volume.affine)


def rows(out: Path) -> dict[str, dict]:
    return {
        row["image_id"]: row | {"split": split} for split in split_names(out) for row in load_task_dataset(out, split)
    }


def command(raw: Path) -> list[str]:
    out = str(raw.parent / "out")
    return ["data", "build", "generic_volume", "--raw", str(raw), "--out", out, "--num_workers", "1"]


def build(raw: Path, *options: str) -> dict[str, dict]:
    assert main([*command(raw), *options]) == 0
    return rows(raw.parent / "out")


def read(raw: Path, **options) -> Release:
    return read_volumes(VolumeSource(raw, "scans", **({"modality": "CT"} | options)))


def reasons(release: Release) -> dict[str, str]:
    return {problem.where: problem.reason for problem in release.problems}


def test_a_table_names_files_of_all_kinds_and_folders_of_dicom(tmp_path, capsys):
    raw = tmp_path / "raw"
    save(raw / "a" / "one.nii.gz", ct(seed=1))
    save(raw / "a" / "two.nii", ct(seed=2))
    (raw / "b").mkdir()
    (raw / "b" / "three.mha").write_bytes(metaimage(ct(seed=3)))
    (raw / "b" / "four.mhd").write_bytes(metaimage(ct(seed=4), data="four.raw"))
    (raw / "b" / "four.raw").write_bytes(ct(seed=4).voxels.tobytes(order="F"))
    series(raw / "P5" / "study" / "CT 1.25", ct(seed=5))
    (raw / "P5" / "study" / "CT 1.25" / "notes.xml").write_text("<xml/>")
    (raw / "labels.csv").write_text(
        "image,patient_id,sex,split,sick,old\n"
        "a/one.nii.gz,p1,F,train,1,0\n"
        "two,p2,M,train,0,\n"
        "b/three,p3,,val,1,-1\n"
        "four.mhd,p4,,test,0,0\n"
        "P5,p5,,test,1,1\n"
    )
    found = build(raw, "--name", "scans", "--labels", "sick", "old")
    assert read_any_task(tmp_path / "out") == ArkTask("scans", ["sick", "old"], modality="CT")
    named = {"a/one.nii.gz": 1, "a/two.nii": 2, "b/three.mha": 3, "b/four.mhd": 4, "P5/study/CT 1.25": 5}
    assert set(found) == set(named)
    for name, seed in named.items():
        volume = stored_volume(found[name]["volume"])
        np.testing.assert_array_equal(volume.voxels, ct().voxels if seed is None else ct(seed=seed).voxels)
        np.testing.assert_allclose(volume.affine, ct().affine, atol=1e-5)
        assert volume.voxels.dtype == np.int16 and found[name]["patient_id"] == f"p{seed}"
    assert [found[name]["split"] for name in named] == ["train", "train", "validation", "test", "test"]
    np.testing.assert_equal(found["a/two.nii"]["labels"], [0, np.nan])
    assert "2 train, 1 validation, 2 test; 0 rows or images left out" in capsys.readouterr().out


def test_label_maps_belong_to_volumes_by_what_stands_for_the_star(tmp_path):
    """As LiTS names them, both in one folder; the legend's order is that of the labels."""
    raw = tmp_path / "lits"
    for number in range(6):
        save(raw / f"Batch {number % 2}" / f"volume-{number}.nii", ct(seed=number))
        save(raw / f"Batch {number % 2}" / f"segmentation-{number}.nii", organ(number))
    found = build(
        raw, "--volumes", "volume-*.nii", "--label_maps", "segmentation-*.nii", "--legend", "9=tumour", "5=liver"
    )
    task = read_any_task(tmp_path / "out")
    assert task == SegmentationTask("lits", ["tumour", "liver"], modality="CT")
    assert set(found) == {f"Batch {number % 2}/volume-{number}.nii" for number in range(6)}
    for number in range(6):
        mask = stored_volume(found[f"Batch {number % 2}/volume-{number}.nii"]["mask"])
        np.testing.assert_array_equal(
            mask.voxels, np.array([0, 2, 1])[np.searchsorted([0, 5, 9], organ(number).voxels)]
        )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "of the values 9=tumour, 5=liver" in card and "so volumes of one may stand in two" in card


def test_a_table_tells_patients_and_splits_of_volumes_with_label_maps(tmp_path):
    """As BraTS has them: four volumes a patient, of which one is asked for."""
    raw = tmp_path / "brats"
    for patient in ("P1", "P2", "P3"):
        for number, kind in enumerate(("t1", "flair")):
            save(raw / patient / f"{patient}_{kind}.nii.gz", ct(seed=number))
        save(raw / patient / f"{patient}_seg.nii.gz", organ(1, (0, 1, 4), np.int16))
    table = tmp_path / "patients.csv"
    table.write_text("image,patient_id,split\nP1,1,train\nP2/P2_flair.nii.gz,2,test\nP3_t1,3,train\n")
    options = {"volumes": "*_flair.nii.gz", "label_maps": "*_seg.nii.gz", "legend": ["1=core", "4=enhancing"]}
    release = read(raw, csv=table, **options, modality="MR")
    assert [(row.metadata["image_id"], row.split) for row in release.rows] == [
        ("P1/P1_flair.nii.gz", "train"),
        ("P2/P2_flair.nii.gz", "test"),
    ]
    (reason,) = reasons(release).values()
    assert "'P3_t1' is not below the folder, or does not fit --volumes '*_flair.nii.gz'" in reason
    assert release.task == SegmentationTask("scans", ["core", "enhancing"], modality="MR")
    assert [len(files) for files in release.left_out.values()] == [1, 1, 3, 0]
    np.testing.assert_array_equal(np.unique(release.read_label_map(release.rows[0]).voxels), [0, 1, 2])
    table.unlink()
    assert len(read(raw, **options).rows) == 3


def test_volumes_without_labels(tmp_path):
    raw = tmp_path / "raw"
    for number in range(30):
        save(raw / f"{number}.nii.gz", ct((2, 2, 2), seed=number))
    release = read(raw, unlabelled=True)
    assert len(release.rows) == 30 and {row.split for row in release.rows} == {"train", "validation", "test"}
    assert read_volumes(VolumeSource(raw, "scans", unlabelled=True, modality="CT")).rows == release.rows
    (raw / "labels.csv").write_text("image,patient_id,sick\n3,a,1\n4.nii.gz,b,0\n")
    release = read(raw, unlabelled=True)
    assert [row.metadata["patient_id"] for row in release.rows] == ["a", "b"]
    assert len(release.left_out["no row that can be used names it"]) == 28


def test_one_patient_is_in_one_split(tmp_path):
    raw = tmp_path / "raw"
    lines = ["image,patient_id,sick"]
    for number in range(40):
        save(raw / f"{number}.nii.gz", ct((2, 2, 2), seed=number))
        lines.append(f"{number},p{number // 4},1")
    (raw / "labels.csv").write_text("\n".join(lines))
    release = read(raw, labels=["sick"])
    splits: dict[str, set] = {}
    for row in release.rows:
        splits.setdefault(row.metadata["patient_id"], set()).add(row.split)
    assert len(splits) == 10 and all(len(each) == 1 for each in splits.values())
    assert len({row.split for row in release.rows}) > 1


def test_rows_that_cannot_be_used_are_told_by_line(tmp_path):
    raw = tmp_path / "raw"
    for name in ("a/x.nii.gz", "b/x.nii.gz", "b/y.nii.gz"):
        save(raw / name, ct())
    (raw / "z.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (raw / "labels.csv").write_text(
        "image,sick\nx,1\nabsent.nii.gz,1\n../raw/a/x.nii.gz,1\n../../x.nii.gz,1\n,1\na/x.nii.gz,maybe\nb,1\nb\\y.nii.gz,1\nz.png,1\n"
    )
    release = read(raw, labels=["sick"])
    assert [row.metadata["image_id"] for row in release.rows] == ["b/y.nii.gz"]
    found = reasons(release)
    for line, reason in {
        2: "volume 'x' may be a/x.nii.gz or b/x.nii.gz",
        3: "volume 'absent.nii.gz' is not below the folder",
        4: "lies outside the folder",
        5: "lies outside the folder",
        6: "image is blank",
        7: "sick is 'maybe'",
        8: "volume 'b' may be b/x.nii.gz or b/y.nii.gz",
        10: "volume 'z.png' is not below the folder",
    }.items():
        assert reason in found[f"labels.csv, line {line}"], line
    assert len(found) == 8
    assert release.left_out["it is an image, and no volume that is read"] == ["z.png"]


def test_label_maps_that_are_missing_or_shared_are_told_by_volume(tmp_path):
    raw = tmp_path / "raw"
    for number in (0, 1, 2):
        save(raw / "imagesTr" / f"{number}.nii.gz", ct(seed=number))
    save(raw / "labelsTr" / "0.nii.gz", organ(0))
    save(raw / "labelsTr" / "2.nii.gz", organ(2))
    save(raw / "more" / "labelsTr" / "2.nii.gz", organ(2))
    release = read(raw, volumes="imagesTr/*.nii.gz", label_maps="labelsTr/*.nii.gz", legend=["5=a", "9=b"])
    assert [row.metadata["image_id"] for row in release.rows] == ["imagesTr/0.nii.gz"]
    assert reasons(release) == {
        "imagesTr/1.nii.gz": "none of the label maps 'labelsTr/*.nii.gz' has '1' for *; one is needed",
        "imagesTr/2.nii.gz": "2 of the label maps 'labelsTr/*.nii.gz' has '2' for *; one is needed",
    }
    save(raw / "more" / "imagesTr" / "0.nii.gz", ct(seed=7))
    release = read(raw, volumes="imagesTr/*.nii.gz", label_maps="labelsTr/*.nii.gz", legend=["5=a", "9=b"])
    assert "is that of imagesTr/0.nii.gz too" in reasons(release)["more/imagesTr/0.nii.gz"]


MAPS = {"volumes": "imagesTr/*.nii.gz", "label_maps": "labelsTr/*.nii.gz"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give either --labels"),
        ({"labels": ["a"], "label_column": "b"}, "Give either --labels"),
        ({"labels": ["sick"]}, "labels.csv: there is no such file"),
        ({"unlabelled": True, "modality": "CR"}, "--modality CR is of radiographs"),
        ({"unlabelled": True, "labels": ["a"]}, "--unlabelled reads no labels"),
        (
            {"unlabelled": True, "volumes": "*.nii"},
            r"holds no volumes that fit '\*.nii'; there is \['imagesTr/0.nii.gz'\]",
        ),
        ({"unlabelled": True, "volumes": "a*b*.nii"}, r"write one \*"),
        ({"unlabelled": True, "volumes": "x.nii"}, r"write one \*"),
        ({"unlabelled": True, "sex_column": "gender"}, "has no labels.csv, of which --sex_column names a column"),
        (MAPS, "--label_maps and --legend VALUE=LABEL ... go together"),
        ({"unlabelled": False, "legend": ["1=a"], "labels": ["b"]}, "--label_maps and --legend"),
        (MAPS | {"legend": ["1=a"], "labels": ["b"]}, "--labels is of labels in a table"),
        (MAPS | {"legend": ["1=a"], "volumes": None}, "--label_maps needs --volumes: two patterns"),
        (MAPS | {"legend": ["1=a", "2=a"]}, "--legend gives 'a' two values"),
        (MAPS | {"legend": ["1=a", "2=A"]}, "differ in case or blanks alone"),
        (MAPS | {"legend": ["x=a"]}, "write VALUE=LABEL"),
        (MAPS | {"legend": [f"{n}=l{n}" for n in range(1, 300)]}, "a label map has 254 at most"),
        (MAPS | {"legend": ["1=a"], "label_maps": "none/*.nii.gz"}, "holds no label maps that fit 'none/"),
        (MAPS | {"legend": ["1=a"], "label_maps": "imagesTr/*.nii.gz"}, "holds no volumes that fit"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(tmp_path, options, message):
    save(tmp_path / "raw" / "imagesTr" / "0.nii.gz", ct())
    save(tmp_path / "raw" / "labelsTr" / "0.nii.gz", organ(0))
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "raw", **options)


def test_folders_that_are_none_and_empty_ones_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a folder; --raw names the one that the volumes lie in"):
        read(tmp_path / "absent", unlabelled=True)
    with pytest.raises(ValueError, match="holds no volumes. Read are NIfTI"):
        read(tmp_path, unlabelled=True)
    series(tmp_path / "flat", ct())
    with pytest.raises(ValueError, match="flat itself holds DICOM files; give each series a folder below it"):
        read(tmp_path / "flat", unlabelled=True)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    command = [
        "data",
        "build",
        "generic_volume",
        "--raw",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--unlabelled",
    ]
    assert main([*command, "--name", "x"]) == 2
    assert 'pip install "ark-hf[volumes]"' in capsys.readouterr().err


def test_bad_volumes_stop_the_build_by_row_and_no_tag_of_them_is_told(tmp_path, capsys):
    raw = tmp_path / "raw"
    series(raw / "gap", ct())[2].unlink()
    save(raw / "good.nii.gz", ct(seed=1))
    save(raw / "flat.nii.gz", Volume(np.zeros((3, 3, 1), np.int16), affine()))
    (raw / "labels.csv").write_text("image,split,sick\ngap,train,1\ngood,train,1\nflat,train,0\n")
    words = [*command(raw), "--name", "scans", "--labels", "sick"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "labels.csv, line 2: 1 slice is missing between 07.dcm and 21.dcm" in told
    assert "labels.csv, line 4: it is 2D, 3 x 3 x 1: one slice" in told
    assert main([*words, "--skip_bad"]) == 0
    assert set(rows(tmp_path / "out")) == {"good.nii.gz"}
    everything = told + (tmp_path / "out" / "build_report.json").read_text() + capsys.readouterr().out
    assert "Sentinel" not in everything and "1.2.826" not in everything


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        ((0, 1, 2), np.uint8, "it holds 2, which the legend does not name; it names 1"),
        ((0, 1, -1), np.int16, "it holds -1, which the legend does not name"),
        ((0, 1, 0.5), np.float32, "it holds fractions"),
        ((0, 1, 100_000), np.int32, "it holds values from 0 to 100000: it may be a volume"),
    ],
)
def test_label_maps_with_other_values_are_refused(tmp_path, values, kind, reason):
    save(tmp_path / "seg.nii.gz", organ(0, values, kind))
    row = type("Row", (), {"masks": [tmp_path / "seg.nii.gz"]})
    with pytest.raises(ValueError, match=f"its label map seg.nii.gz: {re.escape(reason)}"):
        LabelMapFiles({1: "a"})(row)


def test_a_damaged_label_map_is_told_without_the_paths_of_this_machine(tmp_path):
    (tmp_path / "seg.nii.gz").write_bytes(b"nothing")
    row = type("Row", (), {"masks": [tmp_path / "seg.nii.gz"]})
    with pytest.raises(ValueError, match="^its label map seg.nii.gz: this is no NIfTI file"):
        LabelMapFiles({1: "a"})(row)


def test_label_maps_of_whole_floats_and_without_background_are_read(tmp_path):
    for values, expected in (((0.0, 1.0, 3.0), [0, 1, 2]), ((3.0, 1.0, 3.0), [1, 2])):
        save(tmp_path / "seg.nii.gz", organ(0, values, np.float32))
        row = type("Row", (), {"masks": [tmp_path / "seg.nii.gz"]})
        found = LabelMapFiles({1: "a", 3: "b"})(row)
        assert np.unique(found.voxels).tolist() == expected and found.voxels.dtype == np.uint8


def test_volumes_are_found_below_links_and_hidden_ones_are_not(tmp_path):
    save(tmp_path / "there" / "x.nii.gz", ct())
    save(tmp_path / "raw" / ".hidden" / "y.nii.gz", ct())
    series(tmp_path / "raw" / "s", ct((4, 4, 2)))
    for path in (tmp_path / "raw" / "s").iterdir():
        path.rename(path.with_suffix(""))  # as CDs have them
    (tmp_path / "raw" / "linked").symlink_to(tmp_path / "there")
    folder = VolumeFolder(tmp_path / "raw")
    assert folder.paths == ["linked/x.nii.gz", "s"]
    assert folder.find_image("s") == tmp_path / "raw" / "s"
    assert folder.find_image(str(tmp_path / "raw" / "linked" / "x.nii.gz")) == tmp_path / "raw" / "linked" / "x.nii.gz"


def test_patterns():
    for pattern, path, case in (
        ("imagesTr/*.nii.gz", "imagesTr/a.nii.gz", "a"),
        ("imagesTr/*.nii.gz", "deep/imagesTr/a.b.nii.gz", "a.b"),
        ("imagesTr/*.nii.gz", "notimagesTr/a.nii.gz", None),
        ("imagesTr/*.nii.gz", "imagesTr/a/b.nii.gz", None),
        ("*_flair.nii.gz", "P/P_flair.nii.gz", "P"),
        ("*/CT", "P1/CT", "P1"),
        ("volume-*.nii", "volume-1.nii.gz", None),
    ):
        assert PathPattern(pattern, "--volumes").case(path) == case
