"""Three phantom sites and settings that train in seconds."""

import functools
from pathlib import Path

import pytest

from ark_hf.data.build.build import encode_png, write_task_dataset
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.models.ark.configuration_ark import ArkTask
from ark_hf.training.ark.recipe import TaskSpec
from ark_hf.training.ark.tasks import load_tasks
from tests.data.test_colours import fundus

EYES = {"train": 8, "validation": 4}  # images of a split
TINY = {
    "backbone": "convnext_atto",
    "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "image_size": 32,
    "projector_dim": 16,
    "drop_path_rate": 0.2,
    "cycles": 2,
    "batch_size": 8,
    "learning_rate": 0.05,
    "ema_mode": "iteration",
    "min_crop_scale": 0.5,
}


@functools.cache
def open_site(folder: Path, **spec) -> TaskDataset:
    """A site as a recipe's task; opened once, as all tests only read it and opening takes a tenth of a second."""
    return load_tasks([TaskSpec(str(folder), **spec)], ".")[0]


@pytest.fixture(scope="session")
def sites(sites) -> dict[str, Path]:
    """A multi-label, a 3-class and a binary one."""
    return dict(list(sites.items())[:3])


@pytest.fixture(scope="session")
def eyes(tmp_path_factory) -> Path:
    """A dataset of photographs of the eye, in colour."""
    folder = tmp_path_factory.mktemp("eyes") / "eye"

    def rows(split: str, count: int):
        for n in range(count):
            yield {"image": encode_png(fundus(n, 40, 40)), "labels": [float(n % 2)], "image_id": f"{split}{n}"}

    splits = {split: lambda split=split, count=count: rows(split, count) for split, count in EYES.items()}
    write_task_dataset(folder, ArkTask("eye", ["any_dr"], modality="OP"), splits, [], {"phantom": True})
    return folder


@pytest.fixture(autouse=True, scope="session")
def no_power_failures():
    """Checkpoints do not wait for the disk, which takes as long as a small run's steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ark_hf.training.checkpoint._sync", lambda path: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def no_curves(request):
    """Runs are not drawn, which takes longer than they do, but where the curves are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        if "followed" not in request.path.name:
            for module in ("ark.pretrainer", "finetune.run"):
                patch.setattr(f"ark_hf.training.{module}.write_curves", lambda *args: None)
        yield


@pytest.fixture
def make(tmp_path, sites, phantom_volumes, monkeypatch):
    """Makes a trainer of a method, undrawn; those of one `name` share a run's folder."""
    from .methods import make_trainer

    for name in ("peac.pretrainer.write_losses", "peac.pretrainer.write_restored"):
        monkeypatch.setattr(f"ark_hf.training.{name}", lambda *args: None)
    for name in ("write_curves", "draw_restored"):
        monkeypatch.setattr(f"ark_hf.training.genesis.pretrainer.{name}", lambda *args: None)

    def make(method: str, name: str = "run", **settings):
        volumes = phantom_volumes["phantom_ct_nodule"]
        return make_trainer(method, tmp_path / name, list(sites.values())[:2], volumes, **settings)

    return make
