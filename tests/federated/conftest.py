"""Federations of two or three phantom sites that train in seconds."""

import functools

import pytest

from ark_hf import FederatedArguments, TaskDataset, TaskSpec, load_tasks
from ark_hf.federated.recipe import SiteArguments
from ark_hf.federated.simulation import LocalSites

TINY = {
    "backbone": "test_resnet",
    "backbone_kwargs": {"channels": [4, 4, 8, 8]},
    "image_size": 32,
    "projector_dim": 8,
    "drop_path_rate": 0.0,
    "rounds": 2,
    "cycles_per_round": 1,
    "batch_size": 10,
    "optim": "adamw",
    "learning_rate": 2e-3,
    "ema_mode": "iteration",
    "min_crop_scale": 0.5,
    "publish_heads": True,
    "share_metrics": True,
}
NAMES = {"north": "phantom_hill", "south": "phantom_city"}


@pytest.fixture
def arguments(tmp_path):
    """Makes settings; `changes` are fields that are to differ."""

    def make(**changes) -> FederatedArguments:
        return FederatedArguments(**{"output_dir": str(tmp_path / "run"), **TINY, **changes})

    return make


@pytest.fixture
def places(sites, tmp_path) -> dict[str, tuple[SiteArguments, list[TaskSpec]]]:
    """Two sites, each with its folder, that share all they may."""
    return {
        name: (
            SiteArguments(name, str(tmp_path / "sites" / name), publish_heads=True, share_metrics=True),
            [TaskSpec(str(sites[task]))],
        )
        for name, task in NAMES.items()
    }


@pytest.fixture
def local(places) -> LocalSites:
    return LocalSites(places, at_once=1)


@functools.cache
def _open(dataset: str, name: str | None) -> list[TaskDataset]:
    return load_tasks([TaskSpec(dataset, name)], ".")


@pytest.fixture(autouse=True, scope="module")
def opened_once():
    """All tests only read the sites' datasets, and every request opens them, which takes longer than the rest."""

    def load(specs, data_root, streaming):
        return [data for spec in specs for data in _open(spec.location(data_root), spec.name)]

    with pytest.MonkeyPatch.context() as patch:
        for module in ("site", "simulation"):
            patch.setattr(f"ark_hf.federated.{module}.load_tasks", load)
        yield


@pytest.fixture(autouse=True, scope="module")
def no_figures(request):
    """Reports are written without figures, which take longer than the training, but where they are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        if "report" not in request.path.name:
            patch.setattr("ark_hf.federated.report._figures", lambda history: {})
        yield
