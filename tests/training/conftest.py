"""Three phantom sites and settings that train in seconds."""

from pathlib import Path

import pytest

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
def sites(sites) -> dict[str, Path]:
    """A multi-label, a 3-class and a binary one."""
    return dict(list(sites.items())[:3])
