"""DICOM series: slices in their places, Hounsfield units, and every series that is none refused by name."""

import shutil

import numpy as np
import pytest
from pydicom.uid import RLELossless

from ark_hf.data.images.image_files import UnreadableImageError, collecting_doubts
from ark_hf.data.volumes.reading import read_volume
from ark_hf.data.volumes.volume import Volume
from tests.data.images.test_dicom import PATIENT
from tests.data.volumes.made import affine, ct, series


def test_slices_are_sorted_by_where_they_lie(tmp_path):
    volume = ct()
    series(tmp_path / "a", volume)
    found = read_volume(tmp_path / "a")
    assert found.voxels.dtype == np.int16 and found.orientation == "LPS"
    np.testing.assert_array_equal(found.voxels, volume.voxels)
    np.testing.assert_allclose(found.affine, volume.affine, atol=1e-6)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_planes_and_directions_of_all_kinds(tmp_path, order, signs):
    """Axial, sagittal and coronal series, heads and feet first; slices go where the normal of their planes leads."""
    directions = np.eye(3)[:, list(order)] * signs
    handed = np.linalg.det(directions)
    volume = Volume(ct().voxels, affine(directions=directions))
    series(tmp_path / "a", volume)
    found = read_volume(tmp_path / "a")
    if handed < 0:  # slices were written against the normal
        np.testing.assert_array_equal(found.voxels, volume.voxels[:, :, ::-1])
    else:
        np.testing.assert_array_equal(found.voxels, volume.voxels)
    index = [*np.array(found.shape) - 1, 1]
    there = [*np.array(volume.shape[:2]) - 1, 0 if handed < 0 else volume.shape[2] - 1, 1]
    np.testing.assert_allclose(found.affine @ index, volume.affine @ there, atol=1e-6)


@pytest.mark.parametrize(
    ("slope", "intercept", "kind"), [(1, -1024, "int16"), (2, -1024, "int16"), (20, 0, "int16"), (0.25, 0, "float32")]
)
def test_values_are_in_hounsfield_units(tmp_path, slope, intercept, kind):
    volume = Volume(np.rint((ct().voxels + 1000) / slope).astype(np.int32) * slope + intercept, affine())
    series(tmp_path / "a", volume, slope, intercept, bits=16)
    found = read_volume(tmp_path / "a")
    assert found.voxels.dtype == kind
    np.testing.assert_array_equal(found.voxels, volume.voxels)


def test_each_slice_has_its_own_slope(tmp_path):
    volume = ct()
    series(tmp_path / "a", volume, 1, -1024, RescaleIntercept=lambda number: -1024 + 10 * number)
    np.testing.assert_array_equal(read_volume(tmp_path / "a").voxels, volume.voxels + 10 * np.arange(5))


def test_32_bits_where_16_are_too_few(tmp_path):
    volume = Volume(np.arange(210, dtype=np.int32).reshape(7, 6, 5) * 200, affine())
    series(tmp_path / "a", volume, 200, 0)
    found = read_volume(tmp_path / "a")
    assert found.voxels.dtype == np.int32
    np.testing.assert_array_equal(found.voxels, volume.voxels)


def test_compressed_slices_and_names_without_suffix(tmp_path):
    for path in series(tmp_path / "a", ct()):
        from pydicom import dcmread

        dataset = dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path.with_suffix(""), enforce_file_format=True)
        path.unlink()
    (tmp_path / "a" / "notes.txt").write_text("beside")
    (tmp_path / "a" / "LICENSE").write_text("beside")
    np.testing.assert_array_equal(read_volume(tmp_path / "a").voxels, ct().voxels)


def test_rounded_places_and_tilted_stacks_are_read(tmp_path):
    volume = Volume(ct((4, 4, 9)).voxels, affine(spacing=(0.7, 0.7, 0.625), directions=np.eye(3)))
    rounded = [[-20.0, 31.0, round(-400 + 0.625 * number, 1)] for number in range(9)]
    series(tmp_path / "rounded", volume, ImagePositionPatient=lambda number: rounded[number])
    with collecting_doubts() as doubts:
        assert read_volume(tmp_path / "rounded").spacing[2] == pytest.approx(0.625)
        assert not doubts
        tilted = [[-20.0, 31.0 + 0.1 * number, -400 + 0.625 * number] for number in range(9)]
        series(tmp_path / "tilted", volume, ImagePositionPatient=lambda number: tilted[number])
        found = read_volume(tmp_path / "tilted")
    assert "stacked 9.1 degrees askew (gantry tilt)" in doubts[0]
    np.testing.assert_allclose(found.affine @ [0, 0, 8, 1], [20, -31.8, -395, 1])


def of_another_series(number):
    return "1.2.826.8" if number == 2 else "1.2.826.7"


def turned(number):
    return [1, 0, 0, 0, 1, 0] if number != 1 else [1, 0, 0, 0, 0, -1]


def in_the_place_of_its_neighbour(number):
    return [0, 0, 2.5 * (number - (number == 3))]


def sparser_and_sparser(number):
    return [0, 0, number**1.2]


def without_the_fourth(number):
    return None if number == 3 else [0, 0, number]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"SeriesInstanceUID": of_another_series}, "mixes 2 series, files of each: 4 such as 00.dcm and 1 such as 14"),
        ({"ImageOrientationPatient": turned}, "mixes orientations, 00.dcm and 07.dcm: move localisers"),
        ({"ImagePositionPatient": in_the_place_of_its_neighbour}, "two slices lie in one place, 14.dcm and 21.dcm"),
        ({"PixelSpacing": lambda number: [0.8, 0.7 + 0.1 * (number == 1)]}, "mixes spacings of pixels, 00.dcm and 07"),
        ({"ImagePositionPatient": without_the_fourth}, "21.dcm: it does not say its position"),
        ({"ImageOrientationPatient": None}, "00.dcm: it does not say its orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "00.dcm: its rows and columns are not at right angles"),
        ({"PixelSpacing": None}, "00.dcm: it does not say its spacing"),
        ({"PixelSpacing": [0, 1]}, "00.dcm: the spacing of its pixels is not positive"),
        ({"ImagePositionPatient": sparser_and_sparser}, "from 1 to 1.541 mm apart, 14.dcm furthest"),
        ({"NumberOfFrames": 2}, "00.dcm: it holds several frames"),
        ({"Rows": 65535, "Columns": 65535}, "00.dcm: it claims 65535 x 65535 pixels"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "00.dcm: it is not greyscale"),
    ],
)  # fmt: skip
def test_what_is_no_one_series_is_refused_by_name(tmp_path, tags, reason):
    straight = Volume(ct().voxels, affine(directions=np.eye(3)))
    series(tmp_path / "a", straight, **tags)
    with pytest.raises(UnreadableImageError, match=f"a: .*{reason}") as refusal:
        read_volume(tmp_path / "a")
    for secret in (PATIENT, "Sentinel", "1.2.826"):
        assert secret not in str(refusal.value)


def test_missing_slices_are_refused_by_their_neighbours(tmp_path):
    paths = series(tmp_path / "a", ct())
    paths[2].unlink()
    with pytest.raises(
        UnreadableImageError, match=r"1 slice is missing between 07.dcm and 21.dcm: they lie 5 mm apart"
    ):
        read_volume(tmp_path / "a")
    paths[3].unlink()
    with pytest.raises(UnreadableImageError, match="missing between|unevenly"):
        read_volume(tmp_path / "a")
    longer = series(tmp_path / "b", ct((4, 4, 20)))
    for path in longer[5:8]:
        path.unlink()
    with pytest.raises(UnreadableImageError, match=r"3 slices are missing between 28.dcm and 25.dcm"):
        read_volume(tmp_path / "b")


def test_copies_single_slices_and_empty_folders_are_refused(tmp_path):
    paths = series(tmp_path / "a", ct())
    shutil.copy(paths[3], tmp_path / "a" / "copy.dcm")
    with pytest.raises(UnreadableImageError, match="two slices lie in one place, 21.dcm and copy.dcm"):
        read_volume(tmp_path / "a")
    for path in [*paths[1:], tmp_path / "a" / "copy.dcm"]:
        path.unlink()
    with pytest.raises(UnreadableImageError, match="holds one slice, 00.dcm, which is 2D"):
        read_volume(tmp_path / "a")
    with pytest.raises(UnreadableImageError, match="the folder holds no DICOM files itself; name the one below"):
        read_volume(tmp_path)
    with pytest.raises(UnreadableImageError, match="one file of a DICOM series; name the folder"):
        read_volume(paths[0])


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_cut_slices_are_refused_by_name(tmp_path, share):
    paths = series(tmp_path / "a", ct((30, 30, 3)))
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UnreadableImageError, match="a: 07.dcm: ") as refusal:
        read_volume(tmp_path / "a")
    assert "Sentinel" not in str(refusal.value)


def test_nothing_of_the_patient_is_in_a_volume(tmp_path):
    series(tmp_path / "a", ct())
    assert set(vars(read_volume(tmp_path / "a"))) == {"voxels", "affine"}


def test_text_that_is_burned_in_is_told_once(tmp_path):
    series(tmp_path / "a", ct(), BurnedInAnnotation="YES")
    with collecting_doubts() as doubts:
        read_volume(tmp_path / "a")
    assert [each for each in doubts if "burned into its pixels" in each] == doubts and len(doubts) == 1
