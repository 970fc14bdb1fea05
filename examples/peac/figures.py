"""What the figures of the scripts beside this file share: pictures with marks, and pictures joined by lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import ark_hf

SUFFIXES = ".png", ".jpg", ".jpeg", ".dcm"
SIDE = 512  # of a shown picture, in pixels


def shown_name(model: str) -> str:
    """A run's folder and the model's in it."""
    return "/".join(Path(model).parts[-2:]).removesuffix("/ark-cxr")


def files(folder: Path) -> list[Path]:
    """The pictures of a folder."""
    found = sorted(each for each in folder.rglob("*") if each.suffix.lower() in SUFFIXES)
    if len(found) < 2:
        raise SystemExit(f"{folder} holds fewer than two pictures ({', '.join(SUFFIXES)}).")
    return found


def sheet(rows: int, columns: int, side: float = 2.6) -> tuple[Figure, np.ndarray]:
    """A figure of square axes without ticks, and the axes (rows, columns)."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(side * columns, side * rows + 0.3), layout="constrained", squeeze=False
    )
    for each in axes.flat:
        each.set_axis_off()
    return figure, axes


def show(axes, picture: Any, title: str = "") -> None:
    """A picture, in squares of fractions of its sides as the places on it are, but of its own aspect."""
    grey = shown(picture)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0), aspect=grey.shape[0] / grey.shape[1])
    axes.set_title(title, fontsize=9)


def shown(picture: Any) -> np.ndarray:
    """uint8 (height, width), made smaller if it is large."""
    pixels = ark_hf.read_input(picture).pixels[0]
    grey = Image.fromarray((pixels * (255 / max(int(pixels.max()), 1))).astype(np.uint8))
    grey.thumbnail((SIDE, SIDE))
    return np.asarray(grey)


def colours(number: int) -> np.ndarray:
    """(number, 4), bright and all different."""
    return plt.get_cmap("gist_rainbow")(np.linspace(0, 0.92, max(number, 1)))


def dots(axes, places: np.ndarray, colour: Sequence[Any] | np.ndarray) -> None:
    axes.scatter(*places.T, s=16, c=colour, edgecolors="black", linewidths=0.5, zorder=3)


def misses(axes, truth: np.ndarray, found: np.ndarray, colour: np.ndarray) -> None:
    """Rings where the places are, and lines from them to the dots where they were found."""
    axes.scatter(*truth.T, s=42, facecolors="none", edgecolors=colour, linewidths=1.2, zorder=2)
    for start, end, each in zip(truth, found, colour, strict=True):
        axes.plot(*np.stack([start, end]).T, color=each, lw=0.9, zorder=2)
    dots(axes, found, colour)


def joined(axes, first: Any, second: Any, places: tuple[np.ndarray, np.ndarray], title: str) -> None:
    """Two pictures side by side, with lines between the pairs of places."""
    grey = [shown(first), shown(second)]
    height = max(each.shape[0] for each in grey)
    widths = [each.shape[1] for each in grey]
    both = np.zeros((height, sum(widths)), np.uint8)
    both[: grey[0].shape[0], : widths[0]], both[: grey[1].shape[0], widths[0] :] = grey
    axes.imshow(both, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=9)
    starts = places[0] * grey[0].shape[::-1]
    ends = places[1] * grey[1].shape[::-1] + [widths[0], 0]
    order = np.argsort(starts[:, 1], kind="stable")  # by height, so that lines that cross tell of errors
    for colour, start, end in zip(colours(len(order)), starts[order], ends[order], strict=True):
        axes.plot(*np.stack([start, end]).T, color=colour, lw=0.8)
        dots(axes, np.stack([start, end]), [colour, colour])


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(path)
