"""Settings that train in seconds, and a finished run of them."""

from pathlib import Path

import pytest

from ark_hf.training.ark.recipe import TaskSpec
from ark_hf.training.peac.arguments import PeacArguments
from ark_hf.training.peac.pretrainer import PeacPretrainer
from ark_hf.training.peac.tasks import load_images

TINY_PEAC = {
    "method": "peac",
    "backbone": "vit_tiny_patch16_224",
    "backbone_kwargs": {"depth": 2, "embed_dim": 24, "num_heads": 3, "patch_size": 8},
    "image_size": 32,
    "drop_path_rate": 0.2,
    "global_projector_dims": [16, 16, 16],
    "local_projector_dims": [12, 12, 12],
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 0.01,
    "global_weight": 100.0,
}


def trainer(folder: Path, data, start=None, **settings) -> PeacPretrainer:
    return PeacPretrainer(PeacArguments(str(folder), **{**TINY_PEAC, **settings}), data, start)


@pytest.fixture(scope="session")
def images(sites):
    """Two sites, opened once without their labels."""
    return load_images([TaskSpec(str(folder)) for folder in list(sites.values())[:2]])


@pytest.fixture(autouse=True, scope="module")
def undrawn_runs(request):
    """Runs are not drawn, which takes longer than they do, but where the figures are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        if "figures" not in request.path.name:
            for name in ("write_losses", "write_restored"):
                patch.setattr(f"ark_hf.training.peac.pretrainer.{name}", lambda *args: None)
        yield


@pytest.fixture(scope="session")
def finished(images, tmp_path_factory):
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("peac") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_losses", "write_restored"):
            patch.setattr(f"ark_hf.training.peac.pretrainer.{name}", lambda *args: None)
        trainer(folder, images).train()
    return folder
