"""The builders of outlined structures: small releases in the official layouts, end to end, and what is refused."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ark_hf.cli.main import main
from ark_hf.data.build.build import build_dataset
from ark_hf.data.rows import hashed_split
from ark_hf.data.sources import masked_releases
from ark_hf.data.sources.catalog import read_catalog
from ark_hf.data.sources.masked_releases import read_runs
from ark_hf.data.sources.releases import read_release
from ark_hf.data.task_dataset import read_dataset_task

from ..images.test_dicom import make_dicom
from ..images.test_dicom import save as save_dicom
from .test_generic_masks import save, stored

CATALOG = read_catalog()
SIDE = 64
RIBS = CATALOG["vindr_ribcxr"].labels


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """All sizes are a sixteenth of the releases'."""
    monkeypatch.setattr(masked_releases, "JSRT_SIDE", 2 * SIDE)
    monkeypatch.setattr(masked_releases, "SCR_SIDE", SIDE)
    monkeypatch.setattr(masked_releases, "SIIM_SHAPE", (SIDE, SIDE))


def outline(number: int, side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), dtype=bool)
    mask[4 + number : 30 + number, 8 : 20 + 2 * number] = True
    return mask


def noise(number: int, shape: tuple[int, int] = (SIDE, SIDE), greys: int = 256) -> np.ndarray:
    return np.random.default_rng(number).integers(0, greys, shape, dtype=np.uint8 if greys == 256 else np.uint16)


def build(name: str, raw: Path, *options: str) -> dict[str, dict]:
    out = raw.parent / "out"
    assert main(["data", "build", name, "--raw", str(raw), "--out", str(out), "--num_workers", "1", *options]) == 0
    return stored(out)


def reasons(name: str, raw: Path, **options) -> dict[str, str]:
    return {problem.where: problem.reason for problem in read_release(name, raw, **options).problems}


# JSRT ----------------------------------------------------------------------------------------------------------------


def write_film(path: Path, upright: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((4095 - upright).astype(">u2").tobytes())


@pytest.fixture
def jsrt(tmp_path) -> Path:
    raw = tmp_path / "raw"
    for number, name in enumerate(("JPCLN001", "JPCNN002", "JPCLN154")):
        write_film(raw / "All247images" / f"{name}.IMG", noise(number, (2 * SIDE, 2 * SIDE), 4096))
        for place, label in enumerate(CATALOG["jsrt"].labels):
            folder = raw / "SCR" / "scratch" / f"fold{1 + number % 2}" / "masks" / label
            save(folder / f"{name}.gif", outline(place + number).astype(np.uint8) * 255)
    (raw / "CLNDAT_EN.txt").write_text(
        "JPCLN001.IMG\t5\t15\t53\tMale\t1634\t692\tmalignant\tlung cancer\tl.upper lobe\n"
    )
    (raw / "CNNDAT_EN.TXT").write_text("JPCNN002.IMG\t61\tFemale\tnon-nodule\n")
    return raw


def test_jsrt_has_five_organs_on_films_that_are_inverted_and_shrunk_to_the_masks(jsrt, capsys):
    save(jsrt / "copies" / "JPCNN007.png", noise(7))
    for label in CATALOG["jsrt"].labels:
        save(jsrt / "SCR" / "scratch" / "fold1" / "masks" / label / "JPCNN007.gif", outline(9).astype(np.uint8))
    built = build("jsrt", jsrt)
    assert "images, all: 4 found, 247 expected" in capsys.readouterr().err
    for number, name in enumerate(("JPCLN001", "JPCNN002", "JPCLN154")):
        row = built[name]
        for place, mask in enumerate(row["masks"]):
            np.testing.assert_array_equal(mask, outline(place + number))
        picture = np.asarray(PIL.Image.open(io.BytesIO(row["image"]["bytes"])))
        film = noise(number, (2 * SIDE, 2 * SIDE), 4096).reshape(SIDE, 2, SIDE, 2).mean(axis=(1, 3))
        assert picture.shape == (SIDE, SIDE) and np.corrcoef(picture.ravel(), film.ravel())[0, 1] > 0.85
    assert [built[name]["sex"] for name in ("JPCLN001", "JPCNN002", "JPCLN154")] == ["M", "F", None]
    assert [built[name]["age"] for name in ("JPCLN001", "JPCNN002", "JPCLN154")] == [53, 61, None]
    task = read_dataset_task(jsrt.parent / "out")
    assert task.overlapping and task.pixel_spacing == [0.35, 0.35]
    build_dataset(read_release("jsrt", jsrt), jsrt.parent / "half", size=SIDE // 2, num_workers=1)
    assert read_dataset_task(jsrt.parent / "half").pixel_spacing == [0.7, 0.7]


def test_the_splits_of_jsrt_are_as_large_as_the_authors():
    """Pinned, as all derived splits."""
    entry = CATALOG["jsrt"]
    names = [f"JPC{kind}{number:03d}" for kind, count in (("LN", 154), ("NN", 93)) for number in range(1, count + 1)]
    splits = Counter(hashed_split(entry.seed, name, entry.shares) for name in names)
    assert splits == {"train": 173, "validation": 25, "test": 49}
    assert entry.expected["images"] == {"all": 247, **splits}


def test_what_is_missing_or_there_twice_in_jsrt_is_told(jsrt):
    masks = jsrt / "SCR" / "scratch" / "fold2" / "masks"
    (masks / "heart" / "JPCNN002.gif").unlink()
    save(jsrt / "SCR" / "scratch" / "fold1" / "masks" / "left_lung" / "JPCLN154.gif", outline(0))
    assert reasons("jsrt", jsrt) == {
        "All247images/JPCNN002.IMG": "its masks lack heart",
        "All247images/JPCLN154.IMG": "SCR/scratch/fold1/masks/left lung/JPCLN154.gif and "
        "SCR/scratch/fold1/masks/left_lung/JPCLN154.gif may both be meant; keep one",
    }


@pytest.mark.parametrize(
    ("name", "message", "write"),
    [
        ("JPCLN001.IMG", "it is not as released, 2048 x 2048 numbers", lambda path: path.write_bytes(bytes(2 * SIDE))),
        ("JPCLN001.IMG", "it is not as released", lambda path: path.write_bytes(b"\xff" * 8 * SIDE**2)),
        ("JPCLN001.IMG", "it is not as released", lambda path: path.write_bytes(bytes(8 * SIDE**2 + 1))),
        ("JPCLN001.png", "it is 32 x 32, and the masks 64 x 64", lambda path: save(path, noise(0, (32, 32)))),
        ("JPCLN001.png", "it is 80 x 64, and the masks 64 x 64", lambda path: save(path, noise(0, (64, 80)))),
    ],
)
def test_films_that_are_not_as_released_are_refused(jsrt, name, message, write):
    (jsrt / "All247images" / "JPCLN001.IMG").unlink()
    write(jsrt / "All247images" / name)
    with pytest.raises(ValueError, match=rf"{name}: {message}"):
        build_dataset(read_release("jsrt", jsrt), jsrt.parent / "out", num_workers=1)


# Montgomery ----------------------------------------------------------------------------------------------------------


def test_montgomery_s_two_lungs_are_one_label(tmp_path):
    raw = tmp_path / "raw" / "MontgomerySet"
    shape = (40, 48)
    for number, name in enumerate(("MCUCXR_0001_0.png", "MCUCXR_0104_1.png", "MCUCXR_0102_1.png")):
        save(raw / "CXR_png" / name, noise(number, shape))
        for side in ("leftMask", "rightMask"):
            save(raw / "ManualMask" / side / name, outline(0 if side == "leftMask" else 8)[:40, :48])
    (raw / "ClinicalReadings").mkdir()
    (raw / "ClinicalReadings" / "MCUCXR_0001_0.txt").write_text("Patient's Sex: F\nPatient's Age: 027Y\nnormal\n")
    built = build("montgomery_lungs", tmp_path / "raw")
    assert (built["MCUCXR_0001_0.png"]["sex"], built["MCUCXR_0001_0.png"]["split"]) == ("F", "validation")
    for row in built.values():
        np.testing.assert_array_equal(row["masks"][0], (outline(0) | outline(8))[:40, :48])
    (raw / "ManualMask" / "rightMask" / "MCUCXR_0104_1.png").unlink()
    assert reasons("montgomery_lungs", raw) == {"CXR_png/MCUCXR_0104_1.png": "its masks lack rightMask"}


# VinDr-RibCXR --------------------------------------------------------------------------------------------------------


def corners(left: float, top: float, right: float, bottom: float) -> list[dict]:
    return [{"x": x, "y": y} for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]


@pytest.fixture
def ribs(tmp_path) -> Path:
    raw = tmp_path / "raw"
    for number, (split, name) in enumerate((("train", "000"), ("train", "001"), ("val", "000"))):
        save(raw / "Data" / split / "img" / f"VinDr_RibCXR_{split}_{name}.png", noise(number))
    for split, names in (("train", ("000", "001")), ("val", ("000",))):
        columns: dict[str, dict] = {label: {} for label in ("img", *RIBS)}
        for number, name in enumerate(names):
            columns["img"][str(number)] = f"data/{split}/img/VinDr_RibCXR_{split}_{name}.png"
            for place, label in enumerate(RIBS):
                columns[label][str(number)] = corners(10 + number, 2 * place + 1, 40.4, 2 * place + 5.2)
        columns["L10"]["0"] = "None"
        folder = raw / "Annotations" / split
        folder.mkdir(parents=True)
        (folder / f"Vindr_RibCXR_{split}_mask.json").write_text(json.dumps(columns))
    return raw


def change(raw: Path, label: str, value) -> None:
    path = raw / "Annotations" / "train" / "Vindr_RibCXR_train_mask.json"
    columns = json.loads(path.read_text())
    columns[label]["0"] = value
    path.write_text(json.dumps(columns))


def test_twenty_ribs_are_drawn_and_those_that_are_not_outlined_stay_unknown(ribs):
    built = build("vindr_ribcxr", ribs)
    assert built["VinDr_RibCXR_val_000.png"]["split"] == "test"
    rows = [built[f"VinDr_RibCXR_{name}.png"]["masks"] for name in ("train_000", "train_001", "val_000")]
    for number, masks in zip((0, 1, 0), rows, strict=True):
        for place, mask in enumerate(masks[:19]):
            expected = np.zeros((SIDE, SIDE), dtype=bool)
            expected[2 * place + 1 : 2 * place + 6, 10 + number : 41] = True
            np.testing.assert_array_equal(mask, expected)
    assert [masks[19] is None for masks in rows] == [True, False, True]
    assert read_dataset_task(ribs.parent / "out").overlapping
    release = read_release("vindr_ribcxr", ribs, options={"blank": "zero"})
    assert not release.read_masks(release.rows[0])[19].any() and release.rows[0].labels[19] == 0


@pytest.mark.parametrize(
    ("label", "value", "reason"),
    [
        (
            "R3",
            [{"x": 1, "y": 2}, {"x": 3, "y": 4}],
            "R3 must be a list of at least three points with x and y, or None",
        ),
        ("R3", [{"x": 1}] * 4, "R3 must be a list"),
        ("R3", [{"x": 1, "y": float("nan")}] * 4, "R3 must be a list"),
        ("R3", [[1, 2]] * 4, "R3 must be a list"),
        ("R3", "R4", "R3 must be a list"),
        ("R3", 7, "R3 must be a list"),
        ("img", "", "img names no file"),
        ("img", "data/train/img/other.png", "image 'other.png' is not below the release's folder"),
    ],
)
def test_ribs_that_are_no_outlines_are_problems_of_their_image_alone(ribs, label, value, reason):
    change(ribs, label, value)
    told = reasons("vindr_ribcxr", ribs)
    assert list(told) == ["Vindr_RibCXR_train_mask.json, image 0"] and told.popitem()[1].startswith(reason)


def test_outlines_that_leave_their_image_and_files_without_columns_are_refused(ribs):
    change(ribs, "R2", corners(10, 20, SIDE + 1, 30))
    with pytest.raises(ValueError, match="image 0: an outline leaves the image, 64 x 64; it may be a smaller copy"):
        build_dataset(read_release("vindr_ribcxr", ribs), ribs.parent / "out", num_workers=1)
    path = ribs / "Annotations" / "val" / "Vindr_RibCXR_val_mask.json"
    for text in ("[1]", "{", '{"img": {}}', '{"img": []}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="Vindr_RibCXR_val_mask.json must hold img, R1, "):
            read_release("vindr_ribcxr", ribs)
    path.unlink()
    with pytest.raises(ValueError, match="There is no VinDr_RibCXR_val_mask.json below"):
        read_release("vindr_ribcxr", ribs)


# SIIM-ACR ------------------------------------------------------------------------------------------------------------


def encode(mask: np.ndarray) -> str:
    """Runs along the columns, each start counted from the end of the run before it."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return " ".join(map(str, np.diff(edges, prepend=0)))


@settings(max_examples=15)
@given(data=st.data())
def test_runs_are_read_as_they_were_written(data):
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = np.repeat(random.random((SIDE, SIDE // 8)) < data.draw(st.floats(0.01, 1)), 8, axis=1)
    if mask.any():
        np.testing.assert_array_equal(read_runs(encode(mask)), mask)


def test_outlines_of_pneumothorax_are_united_and_images_without_have_empty_masks(tmp_path):
    raw = tmp_path / "raw"
    for number in (0, 3, 8):
        path = raw / f"dicom-images-train/1.9.{number}/1.8.{number}/1.2.{number}.dcm"
        path.parent.mkdir(parents=True)
        save_dicom(make_dicom(noise(number), 8), path)
    lines = ["ImageId, EncodedPixels", "1.2.0,-1", f"1.2.3,{encode(outline(0))}"]
    lines += [f"1.2.3, {encode(outline(9))}", f"1.2.8,{encode(outline(4))}"]
    (raw / "train-rle.csv").write_text("\n".join(lines))
    built = build("siim_acr_masks", raw, "--splits", "test")
    expected = {"1.2.0": outline(0) & False, "1.2.3": outline(0) | outline(9), "1.2.8": outline(4)}
    assert {row["split"] for row in built.values()} == {"test"} and built.keys() == expected.keys()
    for image, mask in expected.items():
        np.testing.assert_array_equal(built[image]["masks"][0], mask)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| Pneumothorax | 2 | 66.7% | 1 | 0 |" in card

    lines[1:3] = ["1.2.0,1 2 3", "1.2.3,-1"]
    (raw / "train-rle.csv").write_text("\n".join([*lines, "1.2.8,1 9999", "1.2.8,1 -2"]))
    told = reasons("siim_acr_masks", raw)
    assert told == {
        "train-rle.csv, line 2": "EncodedPixels must be -1 or pairs of numbers, a start and a length",
        "train-rle.csv, line 4": "EncodedPixels is -1, no outline, in one row of this image and an outline in another",
        "train-rle.csv, line 6": "EncodedPixels leaves the image, 64 x 64",
        "train-rle.csv, line 7": "EncodedPixels must be -1 or pairs of numbers, a start and a length",
    }


def test_builders_of_masks_take_no_lists_of_labels(tmp_path, capsys):
    arguments = ["data", "build", "siim_acr_masks", "--raw", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--lists", str(tmp_path)]) == 2
    assert "unknown option `--lists`" in capsys.readouterr().err
