"""Settings that train in seconds, and a finished run of them."""

from pathlib import Path

import pytest

from ark_hf.training.ark.recipe import TaskSpec
from ark_hf.training.genesis.arguments import GenesisArguments
from ark_hf.training.genesis.pretrainer import GenesisPretrainer
from ark_hf.training.genesis.tasks import load_volumes

TINY_GENESIS = {
    "method": "genesis",
    "width": 2,
    "depth": 2,
    "cube_size": [16, 16, 16],
    "cubes_per_volume": 3,
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 0.5,
}


def trainer(folder: Path, data, start=None, **settings) -> GenesisPretrainer:
    return GenesisPretrainer(GenesisArguments(str(folder), **{**TINY_GENESIS, **settings}), data, start)


@pytest.fixture(scope="session")
def volumes(phantom_volumes):
    """CTs of 24 x 24 x 32 voxels (zyx), six for training and two for validation, opened without their labels."""
    return load_volumes([TaskSpec(str(phantom_volumes["phantom_ct_nodule"]))])


@pytest.fixture(autouse=True, scope="module")
def undrawn_runs(request):
    """Runs are not drawn, which takes longer than they do, but where the figures are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        if "figures" not in request.path.name:
            for name in ("write_curves", "draw_restored"):
                patch.setattr(f"ark_hf.training.genesis.pretrainer.{name}", lambda *args: None)
        yield


@pytest.fixture(scope="session")
def finished(volumes, tmp_path_factory):
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("genesis") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_curves", "draw_restored"):
            patch.setattr(f"ark_hf.training.genesis.pretrainer.{name}", lambda *args: None)
        trainer(folder, volumes).train()
    return folder
