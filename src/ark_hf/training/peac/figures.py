"""Figures of a run of PEAC in its folder: the losses, and pictures that the student restored."""

from pathlib import Path
from typing import Any

import torch

from ...files import replacing
from ...models.ark.image_processing_ark import ArkImageProcessor
from ...pages.figures import style, to_png
from ..curves import CURVES_FILE
from ..restored import draw_restored
from .objective import TERMS

COLUMNS = ("what the student sees", "what it restores", "what was there")


def write_losses(folder: Path, history: list[dict[str, Any]]) -> None:
    """Writes `curves.png`: each term of the loss and their weighted sum by epoch, in training and validation."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(6, 1.7 * (len(TERMS) + 1)), layout="constrained")
        panels = figure.subplots(len(TERMS) + 1, sharex=True)
        epochs = [entry["epoch"] for entry in history]
        for axes, term in zip(panels, ("total", *TERMS), strict=True):
            for number, part in enumerate(("train", "validation")):
                values = [entry[part][term] for entry in history]
                axes.plot(epochs, values, marker="o", ms=2.5, lw=1.2, color=f"C{number}", label=part)
            axes.set_ylabel(term)
            axes.xaxis.get_major_locator().set_params(integer=True)
        panels[0].legend()
        panels[-1].set_xlabel("epoch")
        with replacing(folder / CURVES_FILE) as new:
            new.write_bytes(to_png(figure))


def write_restored(
    folder: Path, pictures: tuple[torch.Tensor, torch.Tensor, torch.Tensor], processor: ArkImageProcessor
) -> None:
    """
    Writes `restored.png`, a picture a row.

    Args:
        pictures: Of each of `COLUMNS`, normalised (n, channels, H, W).
        processor: What normalised them.
    """
    mean, std = (torch.tensor(each)[:, None, None] for each in (processor.image_mean, processor.image_std))
    grey = [(shown.float().cpu() * std + mean).mean(dim=1).numpy() for shown in pictures]
    draw_restored(folder, dict(zip(COLUMNS, grey, strict=True)))
