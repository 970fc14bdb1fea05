"""The sex protocol on the site whose men carry a planted bias, from random weights and from a teacher."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from arms import RATES, SHARED_SETTINGS, TRAINING
from sites import BIASED

from ark_hf import FinetuningArguments, sex_protocol

STARTS = ("scratch", "teacher")
SEXES = {"male": "men", "female": "women"}


def run(start: str, seeds: tuple[int, ...], built: dict[str, Path], runs: Path) -> None:
    """Trains and tests on men, on women and on both, for every seed; the teacher is that of the four sites, seed 0."""
    torch.set_num_threads(1)
    model = "none" if start == "scratch" else str(runs / "pretrained" / f"ark-{seeds[0]}" / "ark-cxr")
    args = FinetuningArguments(
        str(folder(runs, start)),
        **{key: TRAINING[key] for key in SHARED_SETTINGS},
        max_steps=150,
        eval_steps=30,
        learning_rate=max(RATES),
        seeds=list(seeds),
    )
    sex_protocol(model, str(built[BIASED.name]), args)


def folder(runs: Path, start: str) -> Path:
    return runs / "planted_bias" / start


def collect(runs: Path) -> dict[str, Any]:
    """By start: `auroc` of each group of training images by sex of the test images, and `gaps`."""
    saved = {start: json.loads((folder(runs, start) / "sex_protocol.json").read_text()) for start in STARTS}
    return {
        start: {key: each[key] for key in ("images", "test_images", "auroc", "gaps")} for start, each in saved.items()
    }


def draw(found: dict[str, Any], path: Path) -> None:
    """A bar a group of training images and sex of the test images."""
    figure, panels = plt.subplots(1, len(found), figsize=(7, 3), sharey=True, layout="constrained")
    for axes, (start, results) in zip(panels, found.items(), strict=True):
        for number, (sex, name) in enumerate(SEXES.items()):
            cells = [each[sex] for each in results["auroc"].values()]
            means = [cell["mean"] for cell in cells]
            errors = [
                [cell["mean"] - cell["ci_low"] for cell in cells],
                [cell["ci_high"] - cell["mean"] for cell in cells],
            ]
            places = [place + 0.36 * (number - 0.5) for place in range(len(cells))]
            axes.bar(places, means, 0.34, yerr=errors, capsize=3, label=f"tested on {name}")
        axes.set_xticks(range(len(results["auroc"])), results["auroc"])
        axes.set(title=start, xlabel="trained on", ylim=(0.4, 1.02))
        axes.axhline(0.5, color="grey", lw=1)
    panels[0].set_ylabel("AUROC")
    panels[0].legend(loc="lower left", fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)
