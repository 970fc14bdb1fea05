"""A figure of what a network restored, in the folder of its run."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..files import replacing
from ..pages.figures import style, to_png

RESTORED_FILE = "restored.png"


def draw_restored(folder: Path, pictures: Mapping[str, np.ndarray]) -> None:
    """
    Writes `restored.png`, a picture a row.

    Args:
        pictures: By the title of their column, grey (n, H, W), 0 black and 1 white.
    """
    from matplotlib.figure import Figure

    rows = len(next(iter(pictures.values())))
    with style():
        figure = Figure(figsize=(2 * len(pictures), 2 * rows), layout="constrained")
        panels = figure.subplots(rows, len(pictures), squeeze=False)
        for column, (title, shown) in zip(panels.T, pictures.items(), strict=True):
            column[0].set_title(title)
            for axes, picture in zip(column, shown, strict=True):
                axes.imshow(picture.clip(0, 1), cmap="gray", vmin=0, vmax=1)
                axes.set_axis_off()
        with replacing(folder / RESTORED_FILE) as new:
            new.write_bytes(to_png(figure))
