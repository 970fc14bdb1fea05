"""What a seed of fine-tuning leaves in its folder, and what of it is there."""

import json
from pathlib import Path
from typing import Any

ARK_FOLDER, GENESIS_FOLDER, REPORT_FOLDER, PREDICTIONS_FILE = "ark-cxr", "genesis", "report", "test_predictions.npz"


def seed_model(seed_folder: Path) -> Path:
    """The folder of a seed's model: `ark-cxr`, or of volumes `genesis`."""
    genesis = seed_folder / GENESIS_FOLDER
    return genesis if genesis.is_dir() else seed_folder / ARK_FOLDER


def is_trained(seed_folder: Path) -> bool:
    """Whether a seed's model is there."""
    return (seed_folder / "metrics.json").exists()


def is_tested(seed_folder: Path) -> bool:
    """Whether a seed's test scores and their report are there."""
    return (
        is_trained(seed_folder)
        and read_metrics(seed_folder).get("test") is not None
        and (seed_folder / REPORT_FOLDER).is_dir()
    )


def read_metrics(seed_folder: Path) -> dict[str, Any]:
    """A seed's metrics.json."""
    return json.loads((seed_folder / "metrics.json").read_text(encoding="utf-8"))
