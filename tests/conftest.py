"""Settings that must precede every import of the Hugging Face libraries, and the fixture for the golden data."""

import os
import shutil
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="ark_hf_tests_datasets_")  # `datasets` copies what it loads

from pathlib import Path

import pytest
from hypothesis import settings

# A deadline is an assertion about the machine
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden arrays and real radiographs, which is never part of the repository."""
    folder = Path(os.environ.get("ARK_HF_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        message = f"no golden data at {folder}; set ARK_HF_SHARED to the folder that holds golden/ and realdata/"
        if os.environ.get("ARK_HF_REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder
