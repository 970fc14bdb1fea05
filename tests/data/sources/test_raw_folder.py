"""Finding the files of a release, wherever and however they were unpacked."""

import os

import pytest

from ark_hf.data.images.image_files import image_suffix
from ark_hf.data.sources.raw_folder import MissingFileError, RawFolder


def make(root, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def where(folder: RawFolder, name: str) -> str:
    return folder.find_image(name).relative_to(folder.root).as_posix()


def test_name_is_found_in_any_folder_and_with_any_image_suffix(tmp_path):
    make(tmp_path, "a/b/1.2.840.png", "c/x.DCM", "d/DX.1.3", "y.jpg")
    folder = RawFolder(tmp_path)
    assert where(folder, "1.2.840.dcm") == where(folder, "1.2.840") == "a/b/1.2.840.png"
    assert where(folder, "x") == "c/x.DCM" and where(folder, "y.png") == "y.jpg"
    assert list(folder.images()) == ["a/b/1.2.840.png", "c/x.DCM", "y.jpg"]
    with pytest.raises(ValueError, match="image 'DX.1.3' is not below"):
        folder.find_image("DX.1.3")  # no image by its suffix


def test_a_cell_that_is_no_name_is_quoted_in_part(tmp_path):
    with pytest.raises(ValueError, match="image 'xxx") as told:
        RawFolder(tmp_path).find_image("x" * 5000)
    assert len(str(told.value)) < 1000 + len(str(tmp_path))


def test_exact_name_goes_before_a_converted_copy(tmp_path):
    make(tmp_path, "dicom/x.dcm", "converted/x.png")
    folder = RawFolder(tmp_path)
    assert where(folder, "x.dcm") == "dicom/x.dcm" and where(folder, "x.png") == "converted/x.png"
    with pytest.raises(ValueError, match="image 'x' lies in 2 folders below"):
        folder.find_image("x")


def test_path_is_never_found_in_another_patient_s_folder(tmp_path):
    make(tmp_path, "train/patient1/study1/v.jpg")
    folder = RawFolder(tmp_path)
    assert where(folder, "patient1/study1/v.jpg") == "train/patient1/study1/v.jpg"
    for path in ("patient2/study1/v.jpg", "train/patient2/study1/v.jpg", "valid/patient1/study1/v.jpg", "v/v.jpg"):
        with pytest.raises(ValueError, match="is not below"):
            folder.find_image(path)


def test_path_from_the_folder_goes_before_a_deeper_one_and_two_deeper_ones_are_refused(tmp_path):
    make(tmp_path, "train/a.png", "copy/train/a.png", "copy/train/b.png", "old/train/b.png")
    folder = RawFolder(tmp_path)
    assert where(folder, "train/a.png") == "train/a.png"
    with pytest.raises(ValueError, match="image 'train/b.png' lies in 2 folders below"):
        folder.find_image("train/b.png")


def test_paths_that_lead_out_of_the_folder_are_refused_without_the_way_there(tmp_path):
    make(tmp_path, "raw/a.png", "raw/sub/b.png", "private/c.png", "raw2/d.png")
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    folder = RawFolder(tmp_path / "raw")
    for name in ("a.png", "sub/../a.png", "../raw/a.png", str(tmp_path / "raw" / "a.png")):
        assert where(folder, name) == "a.png"
    assert where(RawFolder(tmp_path / "link"), str(tmp_path / "raw" / "sub" / "b.png")) == "sub/b.png"
    outside = ["../private/c.png", "sub/../../private/c.png", "../raw2/d.png", "..", "..\\private\\c.png"]
    for name in (*outside, str(tmp_path / "private" / "c.png"), "C:\\raw\\a.png", "~/a.png", "/etc/passwd"):
        with pytest.raises(ValueError, match="image lies outside the release's folder") as refusal:
            folder.find_image(name)
        assert "private" not in str(refusal.value) and str(tmp_path) not in str(refusal.value)
    with pytest.raises(ValueError, match="^its image is not below"):
        folder.find_image(str(tmp_path / "raw" / "absent.png"))


def test_names_as_other_systems_and_programs_write_them_are_found(tmp_path):
    make(tmp_path, "CXR8/images/1.png", "CXR8/100.png", "CXR8/Mu\u0308ller/v.png", "CXR8/back\\slash.png")
    make(tmp_path, "CXR8/images/\u00e9.png", "CXR8/2.0.png")
    folder = RawFolder(tmp_path / "CXR8")
    for name, path in {
        "images\\1.png": "images/1.png",
        ".\\images\\1.png": "images/1.png",
        "CXR8/images/1.png": "images/1.png",
        f"{tmp_path.name}/CXR8/images/1.png": "images/1.png",
        "images/1.0": "images/1.png",
        "100.0": "100.png",
        "100.00": "100.png",
        "2.0": "2.0.png",
        "M\u00fcller/v.png": "Mu\u0308ller/v.png",
        "e\u0301": "images/\u00e9.png",
        "images/e\u0301.jpg": "images/\u00e9.png",
        "back\\slash.png": "back\\slash.png",
    }.items():
        assert where(folder, name) == path
    with pytest.raises(
        ValueError, match="is not below the release's folder, but '100.png' is: if that is it, take 'NIH'"
    ):
        folder.find_image("NIH/100.png")
    make(tmp_path, "test/images/9.png", "train/images/8.png")
    with pytest.raises(ValueError, match="'test/images/8.png' is not below"):
        RawFolder(tmp_path / "train" / "images").find_image("test/images/8.png")  # another folder's picture


def test_masks_hidden_files_and_ignored_folders_are_left_out(tmp_path):
    make(tmp_path, "cxr/a.png", "ManualMask/left/a.png", "png_masks/a.png", ".cache/a.png", "cxr/._a.png")
    make(tmp_path, "__MACOSX/a.png", "original_data/a.png", "original_data/names.csv", "original_data/more/a.png")
    folder = RawFolder(tmp_path, frozenset({"original_data"}))
    assert list(folder.images()) == ["cxr/a.png"] and folder.has("names.csv")
    assert folder.masks == ["ManualMask/left/a.png", "png_masks/a.png"]


def test_files_that_one_may_take_for_images_are_told_and_those_that_are_none_are_not(tmp_path):
    make(
        tmp_path, "a.png", "b.gif", "c.nii.gz", "d.npy", "e.mat", "t.csv", "README", "Thumbs.db", ".DS_Store", "x.TXT"
    )
    os.mkfifo(tmp_path / "f.pipe")
    folder = RawFolder(tmp_path)
    assert list(folder.images()) == ["a.png", "b.gif", "c.nii.gz"]  # the latter two are refused when they are read
    assert folder.others == ["d.npy", "e.mat", "f.pipe"]
    assert where(folder, "b.gif") == "b.gif"
    with pytest.raises(ValueError, match="image 'b.png' is not below"):
        folder.find_image("b.png")


def test_links_are_followed_and_circles_are_not(tmp_path):
    make(tmp_path / "disk", "images/a.png")
    raw = tmp_path / "raw"
    make(raw, "tables/t.csv")
    (raw / "images").symlink_to(tmp_path / "disk" / "images")
    (raw / "images_again").symlink_to(tmp_path / "disk" / "images")
    (raw / "tables" / "up").symlink_to(raw)
    (tmp_path / "disk" / "images" / "loop").symlink_to(tmp_path / "disk")
    folder = RawFolder(raw)
    assert folder.find_image("a.png").read_bytes() == b""
    assert folder.has("t.csv")


def test_one_file_under_two_names_is_one_image(tmp_path):
    make(tmp_path, "a/x.png")
    (tmp_path / "b").mkdir()
    os.symlink(tmp_path / "a" / "x.png", tmp_path / "b" / "x.png")
    assert where(RawFolder(tmp_path), "x.png") == "a/x.png"


def test_tables_are_found_by_name_in_any_spelling_packed_or_below_a_folder(tmp_path):
    make(tmp_path, "x/Train.CSV", "y/valid.csv.gz", "old/meta.csv", "new/meta.csv", "README.md")
    folder = RawFolder(tmp_path)
    assert folder.file("absent.csv", "train.csv") == tmp_path / "x" / "Train.CSV"
    assert folder.file("valid.csv") == tmp_path / "y" / "valid.csv.gz"
    assert folder.file("new/meta.csv", "meta.csv") == tmp_path / "new" / "meta.csv"
    assert folder.has("meta.csv") and not folder.has("absent.csv")
    with pytest.raises(ValueError, match=r"meta.csv lies several times below .*; keep one"):
        folder.file("meta.csv")
    with pytest.raises(MissingFileError, match="There is no a.csv or b.csv below .*, with or without .gz or .zip"):
        folder.table("a.csv", "b.csv")


def test_lines_and_texts(tmp_path):
    (tmp_path / "list.txt").write_text("a.png \n\n  b.png\n")
    (tmp_path / "reading.txt").write_bytes(b"m\xe4le" + b"x" * 10_000)
    folder = RawFolder(tmp_path)
    assert list(folder.lines("list.txt")) == [("list.txt, line 1", "a.png"), ("list.txt, line 3", "b.png")]
    assert folder.text("reading.txt").startswith("m\ufffdle") and len(folder.text("reading.txt")) == 4096
    assert folder.text("absent.txt") == ""


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.png", ".png"), ("a.JPEG", ".JPEG"), ("1.2.3", ""), ("a", ""), ("a.tar.gz", ""), ("x.y.dicom", ".dicom")],
)
def test_image_suffixes(name, suffix):
    assert image_suffix(name) == suffix
