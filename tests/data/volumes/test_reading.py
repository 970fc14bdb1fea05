"""What is a volume, and what is answered to all else."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.volumes.reading import read_volume
from ark_hf.data.volumes.volume import Volume, rescaled
from tests.data.volumes.made import affine


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.png", png(), r"this is a 2D picture \(PNG\), which models of .*; volumes are read from NIfTI"),
        ("x.nrrd", b"NRRD0004\n", r"\.nrrd is not known as a volume; volumes are read from NIfTI"),
        ("x", b"text", "what this is is not known as a volume"),
        ("x.npy", np.lib.format.magic(1, 0), r"\.npy is not known"),
        ("x.nii.gz", b"", "the file is empty"),
        ("x.nii.gz", b"\x1f\x8b and nothing", "gzip"),
        ("x.mha", b"text", "no MetaImage header"),
        ("absent.nii", None, "there is no such file"),
    ],
)
def test_what_is_no_volume_is_refused_with_the_reason(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=f"{name}: .*{reason}"):
        read_volume(tmp_path / name)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ValueError, match=r'Volumes need nibabel: pip install "ark-hf\[volumes\]"'):
        read_volume(tmp_path / "x.nii")


@pytest.mark.parametrize("wrong", [np.eye(3), np.full((4, 4), np.nan), np.diag([1, 1, 0, 1])])
def test_volumes_without_extent_are_none(wrong):
    with pytest.raises(ValueError):
        Volume(np.zeros((2, 2, 2)), wrong)
    with pytest.raises(ValueError, match=r"a volume has voxels \(I, J, K\), not \(2, 2\)"):
        Volume(np.zeros((2, 2)), affine())


def test_unsigned_values_do_not_wrap():
    stored = np.array([[[0, 65535]]], dtype=np.uint16)
    assert rescaled(stored, 1, -32768).tolist() == [[[-32768, 32767]]]
    assert rescaled(stored, 1, 1).tolist() == [[[1, 65536]]]
    assert rescaled(np.array([[[2**31]]], dtype=np.uint32), 1, -1).tolist() == [[[2**31 - 1]]]


@pytest.mark.slow_ci  # a process of its own
def test_reading_and_storing_volumes_loads_no_torch():
    modules = "volumes.reading, ark_hf.data.volumes.geometry, ark_hf.data.volumes.cubes, ark_hf.data.build.volumes"
    code = f"import sys; sys.argv = ['ark-hf']; import ark_hf.data.{modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
