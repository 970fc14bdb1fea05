"""Volumes in MetaImage, as LUNA16 has them: voxels in the file or beside it, places as ITK reads them."""

import zlib

import numpy as np
import pytest

from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.volumes.reading import read_volume
from tests.data.volumes.made import ct, metaimage

VOLUME = ct()


@pytest.fixture
def read(tmp_path):
    def read(content: bytes, name="x.mha", **beside: bytes):
        (tmp_path / name).write_bytes(content)
        for other, data in beside.items():
            (tmp_path / other.replace("_", ".")).write_bytes(data)
        return read_volume(tmp_path / name)

    return read


def check(found) -> None:
    assert found.voxels.dtype == np.int16
    np.testing.assert_array_equal(found.voxels, VOLUME.voxels)
    np.testing.assert_allclose(found.affine, VOLUME.affine, atol=1e-12)


def test_one_file_and_two_files_packed_or_not(read):
    raw = VOLUME.voxels.tobytes(order="F")
    check(read(metaimage(VOLUME)))
    check(read(metaimage(VOLUME, data="x.raw"), "x.mhd", x_raw=raw))
    check(read(metaimage(VOLUME, data="x.zraw", CompressedData="True"), "x.mhd", x_zraw=zlib.compress(raw)))
    packed = metaimage(VOLUME, CompressedData="True")
    check(read(packed[: -len(raw)] + zlib.compress(raw)))


def test_each_line_of_the_matrix_is_an_axis(read):
    """Values that SimpleITK 2.5.7 gave for this header: (0.5, 0.7, 2) mm, turned by 0.3 about z and 0.2 about x."""
    text = "0.955336489 0.295520207 0 -0.289629478 0.936293364 0.198669331 0.058710802 -0.189796061 0.980066578"
    head = metaimage(ct((4, 3, 2)), TransformMatrix=text, Offset="1 2 3", ElementSpacing="0.5 0.7 2")
    place = read(head).affine @ [3, 2, 1, 1]
    np.testing.assert_allclose(place, [-2.1449450684, -3.3744988971, 5.2382702188, 1], atol=1e-7)


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ({"NDims": "2", "DimSize": "7 30"}, "it is 2D, 7 x 30"),
        ({"DimSize": "7 30 1"}, "it is 2D, 7 x 30 x 1"),
        ({"NDims": "4", "DimSize": "7 6 5 2"}, "it is 4D, 7 x 6 x 5 x 2"),
        ({"DimSize": "2000 2000 2500"}, "20.0 GB"),
        ({"DimSize": "7 6 6"}, "not as many"),
        ({"DimSize": "7 6 4"}, "not as many"),
        ({"ElementNumberOfChannels": "3"}, "several channels"),
        ({"ElementSpacing": None}, "no elementspacing of 3 numbers"),
        ({"ElementSpacing": "1 1"}, "no elementspacing of 3 numbers"),
        ({"ElementSpacing": "0 1 1"}, "its voxels have no extent"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "its voxels have no extent"),
        ({"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, "no transformmatrix of 9 numbers"),
        ({"HeaderSize": "-1"}, "begin after a header of another kind"),
        ({"data": "y.raw"}, "there is no y.raw beside it"),
        ({"data": "../x.raw"}, "another folder"),
        ({"data": "/etc/passwd"}, "another folder"),
        ({"data": "..\\x.raw"}, "another folder"),
        ({"data": "LIST"}, "slices lie in a file each"),
        ({"data": "x%03d.raw 1 5 1"}, "slices lie in a file each"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(read, replaced, reason):
    with pytest.raises(UnreadableImageError, match=f"x.mha: .*{reason}"):
        read(metaimage(VOLUME, **replaced))


def test_voxels_that_are_not_finite_are_refused(read):
    values = VOLUME.voxels.astype(np.float32)
    values[1, 2, 3] = np.nan
    with pytest.raises(UnreadableImageError, match="1 of its 210 voxels are NaN"):
        read(metaimage(type(VOLUME)(values, VOLUME.affine), "MET_FLOAT"))
