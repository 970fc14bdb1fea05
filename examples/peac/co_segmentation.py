"""
Which places of several pictures a model takes for the same: its dense features clustered together, by colour.

    python examples/peac/co_segmentation.py MODEL OUT.png [FOLDER] [--clusters N]

Of the first pictures of FOLDER, or of phantoms. The same colour is the same cluster in all of them; no label was used.
"""

import argparse
from pathlib import Path

import figures
import numpy as np
import phantoms
from matplotlib.colors import ListedColormap

import ark_hf

PICTURES = 8


def main(model: str, out: Path, folder: Path | None, clusters: int) -> None:
    if folder is None:
        pictures = [each["image"] for each in phantoms.draw(PICTURES // 4)]
    else:
        pictures = figures.files(folder)[:PICTURES]
    features = ark_hf.dense_features(*ark_hf.load_ark(model, ark_hf.ArkModel), pictures)
    shown = [figures.shown(each) for each in pictures]
    maps = ark_hf.co_segment(features, clusters, [each.shape[::-1] for each in shown])
    columns = -(-len(pictures) // 2)
    figure, axes = figures.sheet(4, columns, 2.2)
    tints = ListedColormap(figures.colours(clusters))
    for number, (picture, clusters_) in enumerate(zip(pictures, maps, strict=True)):
        row, column = divmod(number, columns)
        figures.show(axes[2 * row, column], picture)
        figures.show(axes[2 * row + 1, column], picture)
        extent = (0, 1, 1, 0)
        axes[2 * row + 1, column].imshow(
            clusters_, tints, alpha=0.45, vmin=-0.5, vmax=clusters - 0.5, extent=extent, aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        axes[2 * row + 1, column].set_aspect(np.divide(*clusters_.shape))
    figures.save(figure, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("out", metavar="OUT.png", type=Path)
    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?")
    parser.add_argument("--clusters", type=int, default=6)
    args = parser.parse_args()
    main(args.model, args.out, args.folder, args.clusters)
