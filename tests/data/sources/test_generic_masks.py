"""Any folder of radiographs with masks: which mask is whose, in which kind of file, and what is refused."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.ExifTags import Base

from ark_hf.cli.main import main
from ark_hf.data.build.build import build_dataset
from ark_hf.data.build.masks import MaskStore
from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.mask_files import MaskFiles, read_label_map, read_mask
from ark_hf.data.rows import Row, read_image_file
from ark_hf.data.sources.generic_masks import MaskedSource, read_masked
from ark_hf.data.task_dataset import read_dataset_task
from ark_hf.models.ark.configuration_ark import SegmentationTask

from ..build.generated import draw_picture, write_rows

SHAPE = (48, 40)
SPLITS = ("train", "train", "val", "test")


def outline(number: int) -> np.ndarray:
    """A rectangle that belongs to the number alone."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2 + number : 20 + 2 * number, 3 : 12 + number] = True
    return mask


def save(path: Path, values: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(values).save(path, **options)


def write_images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        draw_picture(folder / name, number)
    return folder


def write_masks(folder: Path, *names: str, start: int = 0) -> str:
    for number, name in enumerate(names):
        save(folder / name, outline(start + number))
    return str(folder)


def read(folder: Path, **options):
    return read_masked(MaskedSource(folder, "organs", **options))


def masks_of(release) -> dict[str, list[int | None]]:
    """By image the number of the outline that each of its masks is."""
    numbers = {outline(number).tobytes(): number for number in range(10)}
    return {
        row.metadata["image_id"]: [
            None if mask is None else numbers[mask.tobytes()] for mask in release.read_masks(row)
        ]
        for row in release.rows
    }


def problems(release) -> dict[str, str]:
    return {problem.where: problem.reason for problem in release.problems}


def stored(folder: Path) -> dict[str, dict]:
    """Rows of a built dataset by image: split, and masks as arrays or None."""
    rows = {}
    for path in sorted((folder / "data").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            masks = [
                None if mask is None else np.asarray(PIL.Image.open(io.BytesIO(mask["bytes"]))) > 0
                for mask in row["masks"]
            ]
            rows[row["image_id"]] = row | {"split": path.name.partition("-")[0], "masks": masks}
    return rows


# Which mask is whose -------------------------------------------------------------------------------------------------


def test_a_folder_for_each_label_beside_a_table_is_built_as_given(tmp_path, capsys):
    raw = write_images(tmp_path / "raw", *(f"cxr/{number}.jpg" for number in range(4)))
    lungs = write_masks(raw / "masks" / "lungs", *(f"{number}.png" for number in range(4)))
    heart = write_masks(raw / "masks" / "heart", *(f"{number}_mask.gif" for number in range(3)), start=4)
    write_masks(raw / "masks" / "spine", "0.png")
    rows = [
        {"image": f"cxr/{number}.jpg", "split": split, "Patient ID": f"p{number}", "sex": "F", "kind": "viral"}
        for number, split in enumerate(SPLITS)
    ]
    write_rows(raw, rows)
    command = ["data", "build", "generic", "--raw", str(raw), "--out", str(tmp_path / "organs"), "--overlapping"]
    command += ["--masks", f"lungs={lungs}", f"heart={heart}", "--num_workers", "1"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "labels.csv, line 5: there is no file of its mask of 'heart'; --allow_missing_masks makes it" in told
    assert main([*command, "--allow_missing_masks"]) == 0
    told = capsys.readouterr().err
    assert "1 files left out, such as masks/spine/0.png: it lies beside the masks that are asked for" in told
    assert read_dataset_task(tmp_path / "organs") == SegmentationTask("raw", ["lungs", "heart"], overlapping=True)
    built = stored(tmp_path / "organs")
    for number, split in enumerate(("train", "train", "validation", "test")):
        row = built[f"cxr/{number}.jpg"]
        assert (row["split"], row["patient_id"], row["sex"]) == (split, f"p{number}", "F")
        np.testing.assert_array_equal(row["masks"][0], outline(number))
        if number < 3:
            np.testing.assert_array_equal(row["masks"][1], outline(4 + number))
        else:
            assert row["masks"][1] is None
    card = (tmp_path / "organs" / "README.md").read_text()
    assert "| heart | 0 | – | 0 | 1 |" in card and "Where there is no file, the label is unknown." in card


@pytest.mark.parametrize("wrapper", ["", "release/"])
def test_without_a_table_every_image_counts_and_folders_may_be_splits(tmp_path, wrapper):
    names = [f"{wrapper}train/images/1.png", f"{wrapper}train/images/2.png", f"{wrapper}val/images/1.png"]
    write_images(tmp_path, *names, f"{wrapper}test/images/with_masks/1.png")
    masks = write_masks(
        tmp_path / "masks", "train/masks/1.png", "train/2_lungs.png", "val/1-Mask.tif", "with_masks/1.bmp"
    )
    release = read(tmp_path, masks=[f"lungs={masks}"])
    assert not release.problems and "splits" not in release.facts
    assert [row.split for row in release.rows] == ["test", "train", "train", "validation"]
    assert masks_of(release) == {
        names[0]: [0], names[1]: [1], names[2]: [2], f"{wrapper}test/images/with_masks/1.png": [3]
    }  # fmt: skip


def test_masks_beside_their_images_are_found_if_a_table_names_these(tmp_path):
    write_images(tmp_path, "a.png", "b.png")
    write_masks(tmp_path, "a_mask.png", "b_mask.png")
    with pytest.raises(ValueError, match=r"holds the images, too: .* name the images in a table"):
        read(tmp_path, masks=[f"lungs={tmp_path}"])
    write_rows(tmp_path, [{"image": "a.png", "split": "train"}, {"image": "b.png", "split": "test"}])
    assert masks_of(read(tmp_path, masks=[f"lungs={tmp_path}"])) == {"a.png": [0], "b.png": [1]}


def test_what_could_be_the_mask_of_two_images_or_the_other_way_round_is_nobodys(tmp_path):
    images = write_images(tmp_path / "raw", "x/1.png", "y/1.png", "x/2.png", "x/3.png", "x/4.png")
    masks = write_masks(tmp_path / "m", "1.png", "2.png", "2_mask.png", "3.png", "z/4.png", "5.png")
    release = read(images, masks=[f"lungs={masks}"])
    assert masks_of(release) == {"x/3.png": [3]}
    assert problems(release) == {
        "x/1.png": "1.png may be its mask, and that of y/1.png as well",
        "y/1.png": "1.png may be its mask, and that of x/1.png as well",
        "x/2.png": "2.png and 2_mask.png may both be its mask of 'lungs'; keep one, or name it as the image is named",
        "x/4.png": "there is no file of its mask of 'lungs'",
    }
    (left,) = (files for files in release.left_out.values() if files)
    assert left == ["m/1.png", "m/2.png", "m/2_mask.png", "m/5.png", "m/z/4.png"]


def test_label_maps_are_read_by_their_legend(tmp_path, capsys):
    raw = write_images(tmp_path / "raw", "a.png", "b.png", "c.png")
    for name, bits in (("a.png", np.uint8), ("b.png", np.uint16)):
        values = np.zeros(SHAPE, bits)
        values[outline(1)], values[30:, 20:] = 300 if bits is np.uint16 else 7, 2
        save(tmp_path / "maps" / name, values)
    palette = PIL.Image.new("P", SHAPE[::-1])
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    palette.paste(2, (20, 30, *SHAPE[::-1]))
    palette.save(tmp_path / "maps" / "c.png")
    source = {"label_maps": tmp_path / "maps", "legend": ["2=heart", "7=lungs", "300=lungs of b", "0=background"]}
    release = read(raw, **source)
    assert release.task == SegmentationTask("organs", ["heart", "lungs", "lungs of b"])
    for row, lungs in zip(release.rows, ([1], [2], []), strict=True):
        masks = release.read_masks(row)
        assert masks[0][30:, 20:].all() and masks[0].sum() == 18 * 20
        for number in (1, 2):
            np.testing.assert_array_equal(masks[number], outline(1) * (number in lungs))
    command = ["data", "build", "generic", "--raw", str(raw), "--label_maps", str(tmp_path / "maps")]
    command += ["--out", str(tmp_path / "out"), "--num_workers", "1"]
    assert main([*command, "--legend", "2=heart", "300=lungs"]) == 2
    told = capsys.readouterr().err
    assert "a.png: its label map a.png: it holds 7, which the legend does not name; it names 2, 300" in told
    assert main([*command, "--legend", *source["legend"], "9=spine"]) == 2
    assert "none of the 3 images has a pixel of 'spine'" in capsys.readouterr().err
    assert main([*command, "--legend", *source["legend"]]) == 0
    assert "of the values 2 heart, 7 lungs, 300 lungs of b." in (tmp_path / "out" / "README.md").read_text()


# Files of masks ------------------------------------------------------------------------------------------------------


def _palette(path: Path) -> None:
    picture = PIL.Image.fromarray(outline(3).astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 250, 10, 10])
    picture.save(path)


def _white_is_zero(path: Path) -> None:
    save(path, outline(3), tiffinfo={262: 0})
    with PIL.Image.open(path) as stored_so:
        assert stored_so.tag_v2[262] == 0


IN = outline(3).astype(np.uint8)
GOOD = {
    "one_bit.png": lambda path: save(path, outline(3)),
    "zero_and_one.png": lambda path: save(path, IN),
    "grey.png": lambda path: save(path, IN * 255),
    "sixteen.png": lambda path: save(path, IN.astype(np.uint16) * 65535),
    "equal_channels.png": lambda path: save(path, np.dstack([IN * 9] * 3)),
    "opaque.png": lambda path: save(path, np.dstack([IN, IN, IN, np.full_like(IN, 255)])),
    "palette.png": _palette,
    "palette.gif": _palette,
    "grey.gif": lambda path: save(path, IN * 255),
    "one_bit.tif": lambda path: save(path, outline(3)),
    "white_is_zero.tif": _white_is_zero,
    "sixteen.tif": lambda path: save(path, IN.astype(np.uint16) * 3),
    "float.tif": lambda path: save(path, IN.astype(np.float32)),
    "grey.bmp": lambda path: save(path, IN * 255),
    "lossless.webp": lambda path: save(path, IN * 255, lossless=True),
}


@pytest.mark.parametrize("name", GOOD)
def test_masks_of_two_values_are_read_from_any_kind_of_picture(tmp_path, name):
    GOOD[name](tmp_path / name)
    np.testing.assert_array_equal(read_mask(tmp_path / name), outline(3))


def _ramp() -> np.ndarray:
    return np.add.outer(np.arange(48), np.arange(40)).astype(np.uint8)


COLOUR = np.dstack([outline(number).astype(np.uint8) * 255 for number in range(3)])


def _frames(path: Path) -> None:
    pictures = [PIL.Image.fromarray(outline(number).astype(np.uint8) * 255) for number in range(3)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])


def _cut_short(path: Path) -> None:
    draw_picture(path, 0)
    path.write_bytes(path.read_bytes()[:900])


WRONG = {
    "smooth.png": ("holds 87 values, from 0 to 86, and a mask two", lambda path: save(path, _ramp())),
    "lossy.jpg": ("without smoothed borders, and not as JPEG", lambda path: save(path, IN * 255)),
    "no_outside.png": ("holds 1 and 2, and a mask 0 outside", lambda path: save(path, IN + 1)),
    "colour.png": ("is in colour", lambda path: save(path, COLOUR)),
    "colour.jpg": ("is in colour", lambda path: save(path, COLOUR)),
    "clear.png": ("is transparent in places", lambda path: save(path, np.dstack([COLOUR, IN]))),
    "volume.tif": ("several pages", _frames),
    "volume.gif": ("several pages or frames", _frames),
    "palette.gif": ("GIF numbers its colours anew", _palette),
    "fractions.tif": ("no whole numbers", lambda path: save(path, IN.astype(np.float32) / 3)),
    "nan.tif": ("no whole numbers", lambda path: save(path, np.full(SHAPE, np.nan, np.float32))),
    "inverted.tif": ("white is zero", lambda path: save(path, IN.astype(np.uint16), tiffinfo={262: 0})),
    "empty.png": ("is empty", lambda path: path.touch()),
    "cut_short.png": ("damaged, cut short", _cut_short),
    "text.png": ("masks are read from pictures", lambda path: path.write_text("a mask")),
    "nifti.png": ("masks are read from pictures", lambda path: path.write_bytes(b"\x5c\1\0\0" + bytes(500))),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_are_no_masks_are_refused_by_name_and_reason(tmp_path, name):
    message, write = WRONG[name]
    folder = tmp_path / "masks"
    folder.mkdir()
    write(folder / name)
    row = Row("labels.csv, line 2", tmp_path / "a.png", "train", [], {}, [folder / name])
    if name not in GOOD:
        with pytest.raises(ValueError, match=message) as refusal:
            MaskFiles(["lungs"], [folder])(row)
        assert str(refusal.value).startswith(f"its mask of 'lungs', {name}: ")
        assert str(tmp_path) not in str(refusal.value)
    if name not in ("smooth.png", "no_outside.png", "lossy.jpg"):
        with pytest.raises(ValueError, match=message):
            read_label_map(folder / name, {1: "lungs", 255: "heart"})


@settings(max_examples=40)
@given(data=st.data())
def test_damaged_masks_are_refused_or_read_and_nothing_else_happens(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged"
    name = data.draw(st.sampled_from(sorted(GOOD)))
    GOOD[name](path.with_suffix(Path(name).suffix))
    content = bytearray(path.with_suffix(Path(name).suffix).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for read in (read_mask, lambda path: read_label_map(path, {1: "lungs"})["lungs"]):
        try:
            assert read(path).dtype == bool
        except UnreadableImageError as refusal:
            assert str(refusal).startswith(f"{path}: ")


def test_a_mask_of_another_size_is_refused_and_one_that_covers_all_is_doubted(tmp_path):
    raw = write_images(tmp_path / "raw", "a.png", "b.png")
    folder = Path(write_masks(tmp_path / "masks", "a.png", "b.png"))
    save(folder / "b.png", outline(1)[:, :39])
    options = {"masks": [f"lungs={folder}"]}
    with pytest.raises(ValueError, match=r"b.png: the mask of 'lungs' is 39 x 48, and the image 40 x 48"):
        build_dataset(read(raw, **options), tmp_path / "out", num_workers=1)
    save(folder / "b.png", np.full(SHAPE, 255, np.uint8))
    report = build_dataset(read(raw, **options), tmp_path / "out", num_workers=1)
    assert report["doubts"] == [{"where": "b.png", "reason": "the mask of 'lungs' covers all of it"}]


def test_a_build_that_continues_sees_that_a_mask_has_changed(tmp_path):
    raw = write_images(tmp_path / "raw", "train/a.png", "test/b.png")
    folder = Path(write_masks(tmp_path / "masks", "a.png", "b.png"))
    (folder / "b.png").write_text("no mask")
    options = {"masks": [f"lungs={folder}"]}
    with pytest.raises(ValueError, match="test/b.png: its mask of 'lungs', b.png: masks are read from pictures"):
        build_dataset(read(raw, **options), tmp_path / "out", num_workers=1)
    write_masks(folder, "a.png", "b.png", start=5)
    build_dataset(read(raw, **options), tmp_path / "out", num_workers=1)
    for number, row in enumerate(stored(tmp_path / "out").values()):
        np.testing.assert_array_equal(row["masks"][0], outline(6 - number))


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give either --masks LABEL=FOLDER"),
        ({"masks": ["lungs=M"], "label_maps": "M", "legend": ["1=a"]}, "Give either --masks"),
        ({"masks": ["lungs"]}, "--masks 'lungs': write LABEL=FOLDER"),
        ({"masks": ["=M"]}, "--masks '=.*M': write LABEL=FOLDER"),
        ({"masks": ["lungs=M", "lungs=N"]}, "gives 'lungs' two folders"),
        ({"masks": ["lungs=M", "Lungs=N"]}, "differ in case"),
        ({"masks": ["lungs=M", "heart=M"]}, "to two labels"),
        ({"masks": ["lungs=absent"]}, "absent is not a folder; --masks names it"),
        ({"masks": ["lungs=nothing"]}, "the folder of 'lungs', holds no masks"),
        ({"masks": ["background=M"]}, "'background' is not named"),
        ({"masks": ["lungs=M"], "legend": ["1=a"]}, "--label_maps and --legend VALUE=LABEL ... go together"),
        ({"masks": ["lungs=M"], "labels": ["TB"]}, "--labels is of labels in a table"),
        ({"masks": ["lungs=M"], "split_column": "fold"}, "has no labels.csv, of which"),
        ({"masks": ["lungs=other"]}, "no image has a mask of 'lungs' there.* such as 'a.png'; there is 'z.png'"),
        ({"label_maps": "M"}, "--label_maps and --legend VALUE=LABEL ... go together"),
        ({"label_maps": "absent", "legend": ["1=a"]}, "absent is not a folder; --label_maps names it"),
        ({"label_maps": "M", "legend": ["lungs"]}, "--legend 'lungs': write VALUE=LABEL"),
        ({"label_maps": "M", "legend": ["1.5=lungs"]}, "--legend '1.5=lungs': write VALUE=LABEL"),
        ({"label_maps": "M", "legend": ["1="]}, "--legend '1=': write VALUE=LABEL"),
        ({"label_maps": "M", "legend": ["1=a", "01=b"]}, "names the value 1 twice"),
        ({"label_maps": "M", "legend": ["1=a", "2=a"]}, "gives 'a' two values"),
        ({"label_maps": "M", "legend": ["0=background"]}, "names no label beside background"),
        ({"label_maps": "M", "legend": ["1=a"], "overlapping": True}, "go with --masks"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    raw = write_images(tmp_path / "raw", "a.png")
    for folder, name in (("M", "a.png"), ("N", "a.png"), ("other", "z.png")):
        write_masks(tmp_path / folder, name)
    (tmp_path / "nothing").mkdir()
    if "label_maps" in options:
        options = options | {"label_maps": tmp_path / options["label_maps"]}
    if "masks" in options:
        masks = [entry.replace("=", f"={tmp_path}/") for entry in options["masks"]]
        options = options | {"masks": masks}
    with pytest.raises(ValueError, match=message):
        read(raw, **options)


# Geometry ------------------------------------------------------------------------------------------------------------

TURNED = {  # by EXIF orientation: how a picture is stored that is to be shown upright
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.T,
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright.T, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def save_turned(path: Path, upright: np.ndarray, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[Base.Orientation] = orientation
    save(path, np.ascontiguousarray(TURNED[orientation](upright)), exif=exif.tobytes())


def covered(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How much of each pixel of a smaller picture is covered, by counting in a grid that both fit into."""
    fine = np.repeat(np.repeat(mask, shape[0], axis=0), shape[1], axis=1)
    return fine.reshape(shape[0], mask.shape[0], shape[1], mask.shape[1]).mean(axis=(1, 3))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_masks_follow_their_picture_whatever_its_size_and_orientation(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("turned")
    height, width = data.draw(st.integers(9, 36)), data.draw(st.integers(9, 36))
    size, orientation = data.draw(st.integers(7, 36)), data.draw(st.integers(1, 8))
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    masks = [random.random((height, width)) < 0.5 for _ in range(2)]
    masks[1][: height // 2] = True
    picture = (masks[1] * 255).astype(np.uint8)
    save_turned(folder / "a.png", picture, orientation)
    paths = [folder / "lungs.png", folder / "heart.tif"]
    for path, mask in zip(paths, masks, strict=True):
        if data.draw(st.booleans()):
            save_turned(path, mask.astype(np.uint8), orientation)
        else:
            save(path, mask)
    labels = ["lungs", "heart"]
    store = MaskStore(
        partial(read_image_file, modality="CR"), MaskFiles(labels, [folder] * 2), size, labels, overlapping=True
    )
    found = store(Row("a", folder / "a.png", "train", [], {}, paths)).columns
    image = np.asarray(PIL.Image.open(io.BytesIO(found["image"]["bytes"])))
    assert max(image.shape) == min(size, max(height, width))
    for mask, png in zip(masks, found["masks"], strict=True):
        share = covered(mask, image.shape)
        np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(png["bytes"]))), (share > 0.5) * 255)
    # the picture is shrunk by another filter, and upright as its masks are
    assert np.corrcoef(image.ravel(), covered(masks[1], image.shape).ravel())[0, 1] > 0.9


def test_masks_that_are_not_turned_as_their_picture_are_doubted(tmp_path):
    raw = tmp_path / "raw"
    for number, orientation in enumerate((1, 3, 3)):
        save_turned(
            raw / f"{number}.png", np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8), orientation
        )
    masks = Path(write_masks(tmp_path / "masks", "0.png", "1.png"))
    save_turned(masks / "2.png", outline(2).astype(np.uint8), 3)
    report = build_dataset(read(raw, masks=[f"lungs={masks}"]), tmp_path / "out", num_workers=1)
    assert report["doubts"] == [
        {"where": "1.png", "reason": "its EXIF orientation turns it, and not its masks; check that they fit"}
    ]
    np.testing.assert_array_equal(stored(tmp_path / "out")["2.png"]["masks"][0], outline(2))


# Real masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow_ci
def test_real_lungs_build_with_the_counts_of_their_readme(shared, tmp_path):
    raw = shared / "realdata" / "kermany_pneumonia"
    release = read(raw, masks=[f"lungs={raw / 'masks' / 'lungs'}"])
    report = build_dataset(release, tmp_path / "out", size=512)
    assert report["rows"] == {"train": 521, "validation": 75, "test": 148} and not report["problems"]
    assert [report["splits"][split]["patients"] for split in report["rows"]] == [474, 65, 129]
    for row in list(stored(tmp_path / "out").values())[::50]:
        name = Path(row["image_id"]).with_suffix(".png").name
        given = np.asarray(PIL.Image.open(raw / "masks" / "lungs" / name))
        np.testing.assert_array_equal(row["masks"][0], given > 0)
