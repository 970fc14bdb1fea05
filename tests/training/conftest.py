"""Small phantom sites and settings that train in seconds."""

from pathlib import Path

import pytest

from ark_hf.data.sources.phantom_sites import build_phantom_sites

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


@pytest.fixture(scope="session")
def sites(tmp_path_factory) -> dict[str, Path]:
    """Three phantom sites (multi-label, 3-class, binary) of a few pictures."""
    folder = tmp_path_factory.mktemp("phantom") / "sites"
    counts = {"train": 20, "validation": 12, "test": 12}
    return dict(list(build_phantom_sites(folder, counts, size=40).items())[:3])
