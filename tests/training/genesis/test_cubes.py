"""Cubes as they are cut: the processor's values, once for a run, and never half of them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate import Accelerator
from datasets import Dataset, Features, Nifti, Value

from ark_hf import GenesisImageProcessor, Volume, reorient
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.data.unlabelled import Unlabelled
from ark_hf.data.volumes.nifti import encode_nifti
from ark_hf.training.genesis.cubes import Cutting, cut_cubes
from ark_hf.training.genesis.fast_deformation import LEVELS


def ct(shape=(20, 24, 28), seed=0, kind=np.int16) -> Volume:
    """Random Hounsfield units, axes left, back and head of these lengths, stored otherwise."""
    values = np.random.default_rng(seed).integers(-1100, 1100, shape).astype(kind)
    return reorient(Volume(values, np.diag([-0.5, -0.5, 2.0, 1.0])), "RSP")


def dataset(*splits: tuple[str, list[Volume]], name="scans") -> TaskDataset:
    features = Features({"volume": Nifti(), "image_id": Value("string")})
    rows = {}
    for split, volumes in splits:
        cells = [{"bytes": encode_nifti(volume), "path": None} for volume in volumes]
        names = [f"{split} {number}.nii.gz" for number in range(len(cells))]
        rows[split] = Dataset.from_dict({"volume": cells, "image_id": names}, features=features)
    return TaskDataset(name, Unlabelled(name, "CT"), rows)


def cutting(size=(16, 16, 16), count=3, border=None, most_tissue=None, seed=0, **processor) -> Cutting:
    return Cutting(GenesisImageProcessor(cube_size=size, **processor), count, border, most_tissue, seed)


def cut(tmp_path, data, how=None, settings=None):
    return cut_cubes([data], how or cutting(), tmp_path, settings or {"seed": 0}, Accelerator())


def all_cubes(cubes) -> np.ndarray:
    return np.stack([cubes[number][2] for number in range(len(cubes))])


@pytest.mark.parametrize("axes", ["zyx", "xyz"])
@pytest.mark.parametrize("spacing", [None, [1.0, 0.8, 0.5]])
def test_cubes_are_parts_of_what_the_processor_shows(tmp_path, axes, spacing):
    size = [14, 15, 16] if axes == "zyx" else [16, 15, 14]
    how = cutting(size, 5, axes=axes, spacing=spacing if axes == "zyx" or spacing is None else spacing[::-1])
    data = dataset(("train", [ct()]))
    (seen,) = how.processor(reorient(ct(), "SPL").voxels, spacing=reorient(ct(), "SPL").spacing, do_center_crop=False)[
        "pixel_values"
    ]
    whole = np.lib.stride_tricks.sliding_window_view(np.rint(seen[0].numpy() * LEVELS).astype(np.uint16), size)
    cubes = all_cubes(cut(tmp_path, data, how)["train"])
    assert cubes.shape == (5, *size) and cubes.dtype == np.uint16
    assert all((whole == cube).all(axis=(3, 4, 5)).any() for cube in cubes)
    assert len(np.unique(cubes.reshape(5, -1), axis=0)) > 1


def test_places_are_a_function_of_seed_and_name(tmp_path):
    volumes = [ct(seed=number) for number in range(2)]
    data = dataset(("train", volumes), ("validation", [ct(seed=2)]))
    one = cut(tmp_path / "a", data)
    assert [len(each) for each in one.values()] == [6, 3] and len(one["train"].sources) == 2
    assert one["train"][4][:2] == ("scans", "train 1.nii.gz 1")
    alone = cut(tmp_path / "b", dataset(("train", volumes[:1])))
    assert np.array_equal(all_cubes(alone["train"]), all_cubes(one["train"])[:3])
    other = cut(tmp_path / "c", dataset(("train", volumes[:1])), cutting(seed=1))
    assert not np.array_equal(all_cubes(other["train"]), all_cubes(alone["train"]))


def test_borders_are_kept_and_shrink_where_there_is_no_room(tmp_path):
    # Every voxel says where it is along x
    voxels = np.broadcast_to(np.arange(100, dtype=np.int16)[:, None, None], (100, 16, 30))
    data = dataset(("train", [Volume(voxels, np.diag([-1.0, -1, 1, 1]))]))
    places = {}
    for name, border in (("a fifth", None), ("none", [0, 0, 0]), ("forty", [0, 0, 40])):
        cubes = all_cubes(cut(tmp_path / name, data, cutting(border=border, count=60, hu_window=[0, 100]))["train"])
        levels = np.rint(cubes[:, 0, 0] / LEVELS * 100)
        places[name] = levels[:, 0].min(), levels[:, -1].max()
    assert places["a fifth"][0] >= 20 and places["a fifth"][1] < 80
    assert places["none"][0] < 20 and places["none"][1] >= 80
    assert places["forty"][0] >= 40 and places["forty"][1] < 60


def test_the_rule_of_air_is_that_of_the_publication(tmp_path):
    half = np.full((40, 16, 18), -1000, np.int16)
    half[20:] = -150
    data = dataset(("train", [Volume(half, np.diag([-1.0, -1, 1, 1]))]))
    cubes = all_cubes(cut(tmp_path, data, cutting(border=[0, 0, 0], count=30, most_tissue=0.5))["train"])
    shares = (cubes > 0).mean(axis=(1, 2, 3))
    assert shares.max() == 0.5  # those at the threshold count
    with pytest.raises(ValueError, match="most_tissue tells tissue from air at -150 Hounsfield units"):
        cutting(most_tissue=0.15, hu_window=[-100, 300])


def test_volumes_without_cubes_are_named(tmp_path):
    flat, dense = ct((20, 24, 12)), Volume(np.full((20, 24, 28), 50, np.int16), np.eye(4))
    data = dataset(("train", [ct(), flat, dense]))
    with pytest.warns(UserWarning) as warned:
        cubes = cut(tmp_path / "some", data, cutting(most_tissue=0.9))["train"]
    assert len(cubes) == 3 and len(cubes.sources) == 1
    (told,) = (str(each.message) for each in warned)
    assert "row 1 (train 1.nii.gz): the volume has 20 x 24 x 12 voxels" in told
    assert "row 2 (train 2.nii.gz): every cube that was drawn has more tissue" in told
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="No volume gives a cube to train on, the first"):
        cut(tmp_path / "none", dataset(("train", [flat])))


def test_what_the_processor_does_not_take_is_refused_by_row(tmp_path):
    data = dataset(("train", [ct()]))
    with pytest.raises(ValueError, match=r"scans, split 'train', row 0 \(train 0.nii.gz\): this model has no window"):
        cut(tmp_path, data, cutting(hu_window=None))
    cells = {"volume": [{"bytes": b"none", "path": None}], "image_id": ["train 0.nii.gz"]}
    rows = Dataset.from_dict(cells, features=data.splits["train"].features)
    with pytest.raises(ValueError, match="row 0: .*this is no NIfTI file"):
        cut(tmp_path, TaskDataset("scans", data.task, {"train": rows}))


def test_cutting_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    data = dataset(("train", [ct(seed=number) for number in range(3)]))
    whole = all_cubes(cut(tmp_path / "whole", data)["train"])

    def die(*args):
        raise KeyboardInterrupt

    save, saved = np.save, []
    monkeypatch.setattr(np, "save", lambda file, cubes: (save(file, cubes), saved.append(1), saved[1:] and die()))
    with pytest.raises(KeyboardInterrupt):
        cut(tmp_path / "killed", data)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "killed" / "scans").iterdir()] == ["train-0.npy"]
    (tmp_path / "killed" / "scans" / ".train-1.npy.0.new").write_bytes(b"half")
    first = (tmp_path / "killed" / "scans" / "train-0.npy").stat().st_mtime_ns
    assert np.array_equal(all_cubes(cut(tmp_path / "killed", data)["train"]), whole)
    assert (tmp_path / "killed" / "scans" / "train-0.npy").stat().st_mtime_ns == first
    assert not list(tmp_path.rglob(".*.new"))
    other = cut(tmp_path / "killed", data, cutting(count=1), {"seed": 1})
    assert len(other["train"]) == 3  # nothing of other settings is left
    assert json.loads((tmp_path / "killed" / "cubes.json").read_text()) == {"seed": 1}


def test_a_full_disk_is_told_before(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match="The cubes need 0.0 GB in .*make room, or lower cubes_per_volume"):
        cut(tmp_path, dataset(("train", [ct()])))
