"""NIfTI: values, types, affines and units as nibabel gives them; what is stored; and what is refused."""

import gzip
import io
import os
import struct
import tracemalloc

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ark_hf.data.images.image_files import UnreadableImageError, collecting_doubts
from ark_hf.data.volumes.nifti import encode_nifti, read_nifti, read_nifti_space, stored_volume, write_nifti
from ark_hf.data.volumes.reading import read_volume
from ark_hf.data.volumes.volume import MAX_BYTES, Volume
from tests.data.volumes.made import affine, ct, nifti

RAMP = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
KEPT = ("uint8", "int8", "uint16", "int16", "int32", "float32")


def read(content: bytes) -> Volume:
    return read_nifti(io.BytesIO(content))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KEPT)
def test_values_types_and_places_are_kept(tmp_path, kind, packed):
    path = tmp_path / ("x.nii.gz" if packed else "x.nii")
    path.write_bytes(nifti(RAMP.astype(kind), packed=packed))
    volume = read_volume(path)
    assert volume.voxels.dtype == kind and volume.orientation == "LPS"
    np.testing.assert_array_equal(volume.voxels, RAMP)
    np.testing.assert_array_equal(volume.affine, nibabel.load(path).affine)
    np.testing.assert_allclose(volume.spacing, (0.7, 0.8, 2.5), rtol=1e-6)


def test_packing_is_told_by_content_and_not_by_name(tmp_path):
    for name, packed in (("x.nii", True), ("x.nii.gz", False)):
        (tmp_path / name).write_bytes(nifti(RAMP, packed=packed))
        np.testing.assert_array_equal(read_volume(tmp_path / name).voxels, RAMP)


@pytest.mark.parametrize(("kind", "read_as"), [("int64", "int32"), ("uint32", "int32"), ("float64", "float32")])
def test_wide_types_are_narrowed(kind, read_as):
    volume = read(nifti(RAMP.astype(kind)))
    assert volume.voxels.dtype == read_as
    np.testing.assert_array_equal(volume.voxels, RAMP)


@pytest.mark.parametrize(
    ("slope", "intercept", "kind"),
    [(1, -1024, "int16"), (2, 0, "int16"), (1000, 5, "int32"), (0.5, 0, "float32"), (1e8, 0, "float32")],
)
def test_slope_and_intercept_are_applied(slope, intercept, kind):
    volume = read(nifti(RAMP, scl_slope=slope, scl_inter=intercept))
    assert volume.voxels.dtype == kind
    np.testing.assert_allclose(volume.voxels, RAMP * float(slope) + intercept, rtol=1e-6)


def test_both_orders_of_bytes_both_versions_and_extensions_are_read():
    big = nibabel.Nifti1Image(RAMP, affine(), dtype=np.int16)
    swapped = nibabel.Nifti1Image(RAMP.astype(">i2"), affine(), big.header.as_byteswapped(">"))
    second = nibabel.Nifti2Image(RAMP, affine(), dtype=np.int16)
    big.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Sentinel^Patient"))
    for image in (big, swapped, second):
        volume = read(image.to_bytes())
        np.testing.assert_array_equal(volume.voxels, RAMP)
        assert volume.voxels.dtype == np.int16 and volume.voxels.dtype.isnative


@pytest.mark.parametrize(("unit", "in_mm"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_places_are_in_mm(unit, in_mm):
    volume = read(nifti(RAMP, xyzt_units=unit))
    np.testing.assert_allclose(volume.spacing, np.array([0.7, 0.8, 2.5]) * in_mm, rtol=1e-6)


def test_a_header_that_says_nothing_of_orientation_is_doubted():
    with collecting_doubts() as doubts:
        read(nifti(RAMP, qform_code=0, sform_code=0))
        assert "does not say how it is oriented" in doubts[0]
        read(nifti(RAMP))
    assert len(doubts) == 1


def test_a_fourth_axis_of_one_is_none():
    np.testing.assert_array_equal(read(nifti(RAMP[..., None])).voxels, RAMP)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (nifti(np.zeros((3, 4, 5, 6), np.int16)), "it is 4D, 3 x 4 x 5 x 6: several volumes"),
        (nifti(np.zeros((3, 4, 1), np.int16)), "it is 2D, 3 x 4 x 1: one slice"),
        (nifti(np.zeros((3, 4), np.int16)), "it is 2D, 3 x 4: one slice"),
        (nifti(RAMP.astype(np.complex64)), "colours or complex"),
        (nifti(np.where(RAMP == 3, np.nan, RAMP).astype(np.float32)), "1 of its 60 voxels are NaN or infinite"),
        (nifti(np.where(RAMP < 2, -np.inf, RAMP).astype(np.float64)), "2 of its 60 voxels are NaN or infinite"),
        (nifti(RAMP * 1e300), "too large for 32 bits"),
        (nifti(RAMP.astype(np.int64) << 40), "too large for 32 bits"),
        (nifti(RAMP, magic=b"ni1"), "another file"),
        (nifti(RAMP, vox_offset=1e9), "voxels begin where none can be"),
        (nifti(RAMP, srow_x=[0, 0, 0, 5]), "its voxels have no extent"),
        (nifti(RAMP)[:-1], "claims more voxels than the file holds"),
        (nifti(RAMP)[:200], "ends within its header"),
        (nifti(RAMP, packed=True)[:-30], "cut short within its gzip"),
        (nifti(RAMP, packed=True)[:-8] + bytes(8), "damaged or cut short within its gzip"),
        (gzip.compress(nifti(RAMP)[:-20]), "has fewer voxels than its header says"),
        (bytes(1000), "no NIfTI file"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / "x.nii.gz").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=f"x.nii.gz: .*{reason}"):
        read_volume(tmp_path / "x.nii.gz")


def claiming(*sides: int, kind=4, bits=16) -> bytes:
    """A header of so many voxels, and a few bytes after it."""
    content = bytearray(nifti(RAMP))
    content[40:56] = struct.pack("<8h", len(sides), *sides, *[1] * (7 - len(sides)))
    content[70:74] = struct.pack("<2h", kind, bits)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (claiming(2000, 2000, 2500), r"it claims 2000 x 2000 x 2500 voxels, 20.0 GB; up to 2.1 GB"),
        (gzip.compress(claiming(2000, 2000, 2500)), "20.0 GB"),
        (claiming(1000, 1000, 1000), "claims more voxels than the file holds"),
        (gzip.compress(claiming(1000, 1000, 1000)), "claims more voxels than the file holds"),
        (gzip.compress(claiming(400, 400, 100) + bytes(range(256)) * 200 + os.urandom(40_000)), "fewer voxels"),
    ],
)
def test_what_a_header_claims_is_not_allocated(content, reason):
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableImageError, match=reason):
            read(content)
        assert tracemalloc.get_traced_memory()[1] < 2.2 * 400 * 400 * 100
    finally:
        tracemalloc.stop()


def test_no_more_is_unpacked_than_the_header_announces():
    content = gzip.compress(nifti(RAMP) + bytes(3 * 10**7), 1)
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(read(content).voxels, RAMP)
        assert tracemalloc.get_traced_memory()[1] < 5 * 10**6
    finally:
        tracemalloc.stop()
    assert MAX_BYTES < 3e9


VOXELS = st.sampled_from(KEPT).flatmap(
    lambda kind: npst.arrays(
        kind,
        npst.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False} if kind == "float32" else None,
    )
)


@settings(max_examples=40)
@given(VOXELS, st.booleans())
def test_what_is_stored_is_what_was_read(voxels, turned):
    volume = Volume(voxels.T if turned else voxels, affine())
    content = encode_nifti(volume)
    for again in (read(content), stored_volume({"bytes": content, "path": None})):
        assert again.voxels.dtype == volume.voxels.dtype
        np.testing.assert_array_equal(again.voxels, volume.voxels)
        np.testing.assert_allclose(again.affine, volume.affine, atol=1e-5)
    assert encode_nifti(Volume(volume.voxels.copy(order="C"), volume.affine)) == content
    shape, found = read_nifti_space(io.BytesIO(content))
    assert shape == volume.shape and np.array_equal(found, again.affine)


def test_nothing_but_voxels_and_their_places_is_stored():
    image = nibabel.Nifti1Image(RAMP, affine(), dtype=np.int16)
    image.header["descrip"] = image.header["intent_name"] = image.header["aux_file"] = b"Sentinel"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("dicom", b""))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Sentinel^Patient"))
    stored = gzip.decompress(encode_nifti(read(image.to_bytes())))
    assert b"Sentinel" in image.to_bytes() and b"Sentinel" not in stored
    assert len(stored) == 352 + RAMP.nbytes
    assert b"Sentinel" not in encode_nifti(read(image.to_bytes()))[:50]


def test_other_tools_see_the_same_places(tmp_path):
    volume = ct()
    write_nifti(tmp_path / "x.nii.gz", volume)
    header = nibabel.load(tmp_path / "x.nii.gz").header
    for matrix, code in (header.get_sform(coded=True), header.get_qform(coded=True)):
        np.testing.assert_allclose(matrix, volume.affine, atol=1e-4)
        assert code == 1
    assert header.get_xyzt_units()[0] == "mm"
    sheared = affine()
    sheared[1, 2] += 0.3
    write_nifti(tmp_path / "y.nii.gz", Volume(volume.voxels, sheared))
    header = nibabel.load(tmp_path / "y.nii.gz").header
    assert header.get_qform(coded=True)[1] == 0  # which could not say it
    np.testing.assert_allclose(read_volume(tmp_path / "y.nii.gz").affine, sheared, atol=1e-5)


def test_volumes_are_written_whole_under_a_name_of_nifti(tmp_path):
    with pytest.raises(ValueError, match=r"x.nii: volumes are written as NIfTI; give it a name in .nii.gz"):
        write_nifti(tmp_path / "x.nii", ct())
    with pytest.raises(ValueError, match="a volume of bool cannot be stored"):
        write_nifti(tmp_path / "x.nii.gz", Volume(RAMP > 3, affine()))
    assert not list(tmp_path.iterdir())


def test_a_column_that_names_files_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="the dataset names files in place of holding them.*embed_table_storage"):
        stored_volume({"bytes": None, "path": "/somewhere/x.nii.gz"})
