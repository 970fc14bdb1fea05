"""Settings that must precede the import of torch and the Hugging Face libraries, and the fixtures all tests share."""

import gc
import os
import shutil
import socket
import tempfile

from tests.hub_stand_in import HUB, OWNER

# Tests are many small computations, which threads slow down; processes that tests start inherit it
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["HF_ENDPOINT"] = HUB.endpoint
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="ark_hf_tests_")
os.environ["HF_DATASETS_CACHE"] = os.path.join(os.environ["HF_HOME"], "datasets")  # `datasets` copies what it loads
os.environ.pop("HF_TOKEN", None)
os.environ.pop("HF_HUB_CACHE", None)
os.environ.pop("HF_MODULES_CACHE", None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ["HF_HUB_DISABLE_XET"] = "1"  # its protocol is not the stand-in's
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
from hypothesis import settings

# A deadline is an assertion about the machine
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

REPOSITORY = Path(__file__).resolve().parents[1]
COUNTS = {"train": 20, "validation": 12, "test": 12}  # images of a site


def pytest_collection_finish():
    # What was imported stays, and takes a second to walk through each time: training collects garbage at its end
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


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


@pytest.fixture(scope="session")
def sites(tmp_path_factory) -> dict[str, Path]:
    """Small task datasets: the four phantom sites. All tests share them; who changes one copies it before."""
    from ark_hf.data.sources.phantom_sites import build_phantom_sites

    return build_phantom_sites(tmp_path_factory.mktemp("phantom") / "sites", COUNTS, size=40)


@pytest.fixture(scope="session")
def phantom_masks(tmp_path_factory) -> dict[str, Path]:
    """Small datasets with masks, `phantom_organs` (exclusive) and `phantom_findings` (overlapping, some unknown)."""
    from ark_hf.data.sources.phantom_sites import build_phantom_masks

    counts = {"train": 9, "validation": 5, "test": 6}
    return build_phantom_masks(tmp_path_factory.mktemp("phantom_masks") / "sites", counts, size=40)


@pytest.fixture(scope="session")
def phantom_volumes(tmp_path_factory) -> dict[str, Path]:
    """Small datasets of CTs, `phantom_ct_nodule` (labels) and `phantom_ct_structures` (label maps)."""
    from ark_hf.data.sources.phantom_volumes import build_phantom_volumes

    counts = {"train": 6, "validation": 2, "test": 4}
    return build_phantom_volumes(tmp_path_factory.mktemp("phantom_volumes") / "cts", counts, size=32)


@pytest.fixture(scope="module")
def no_figures():
    """Reports, cards and runs are written without figures, which take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ark_hf.evaluation.report.page.task_figures", lambda key, report: {"AUROC": f'<svg id="{key}"></svg>'}
        )
        patch.setattr("ark_hf.evaluation.report.mask_page._figure", lambda name, report: f'<svg id="{name}"></svg>')
        patch.setattr("ark_hf.hub.label_results.auroc_picture", lambda report: b"\0" + report.task.encode())
        patch.setattr("ark_hf.hub.mask_results.dice_picture", lambda report: b"\0" + report.task["name"].encode())
        for module in ("ark.pretrainer", "finetune.run"):
            patch.setattr(f"ark_hf.training.{module}.write_curves", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def hub():
    """
    A Hub on this machine, empty, and the libraries online with the token of its account `someone`.

    huggingface_hub and its callers read the Hub's address once, when they are imported. So `HF_ENDPOINT` names the
    stand-in from the start (another one in every process of pytest-xdist); it answers, and the libraries are online,
    only where a test asks for this fixture. All other tests stay offline. While it is in use no host but this machine
    can be looked up: nothing reaches the real Hub, nor the other servers that `datasets` asks beside it.
    """
    import datasets
    from huggingface_hub import HfFileSystem, constants

    look_up = socket.getaddrinfo

    def look_up_here(host, *args, **kwargs):
        if host not in ("127.0.0.1", "localhost"):
            raise socket.gaierror(f"tests may not reach {host}")
        return look_up(host, *args, **kwargs)

    HUB.start()
    HUB.reset()
    for cache in (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE):
        shutil.rmtree(cache, ignore_errors=True)
    HfFileSystem.clear_instance_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up_here)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setenv("HF_TOKEN", OWNER)
        yield HUB


@pytest.fixture
def offline(hub, monkeypatch):
    """The libraries without network, whatever the Hub holds."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
