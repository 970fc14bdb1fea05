"""What an earlier version wrote, unpacked: see make_fixture.py."""

import shutil
import tarfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).with_name("written_by_91dc8e3.tar.xz")


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    with tarfile.open(ARCHIVE) as archive:
        # Python 3.11.3 and earlier know no filter, and warn of none; the archive is our own
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


@pytest.fixture
def workplace(written, tmp_path, monkeypatch) -> Path:
    """A copy to write into, as the current folder: what was written names its datasets and models from there."""
    shutil.copytree(written, tmp_path / "workplace", ignore=shutil.ignore_patterns("data"))
    (tmp_path / "workplace" / "data").symlink_to(written / "data")  # `datasets` then reads them once for all tests
    monkeypatch.chdir(tmp_path / "workplace")
    return tmp_path / "workplace"
