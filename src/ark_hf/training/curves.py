"""A run's losses and validation scores as a figure in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import replacing
from ..pages.figures import style, to_png

CURVES_FILE = "curves.png"
Curve = Sequence[tuple[float, float]]  # (step, value); NaN where there is none


def write_curves(folder: Path, losses: Mapping[str, Curve], scores: Mapping[str, Curve], score: str = "AUROC") -> None:
    """Writes `curves.png`: losses above, validation scores below, by optimiser step; nothing where there are none."""
    from matplotlib.figure import Figure

    parts = {"loss": losses, f"mean validation {score}": scores}
    drawn = {name: curves for name, curves in parts.items() if any(curves.values())}
    if not drawn:
        return
    with style():
        figure = Figure(figsize=(6, 2.6 * len(drawn)), layout="constrained")
        for axes, (name, curves) in zip(figure.subplots(len(drawn), squeeze=False)[:, 0], drawn.items(), strict=True):
            for number, (label, curve) in enumerate(curves.items()):
                steps, values = zip(*curve, strict=True) if curve else ((), ())
                axes.plot(steps, values, marker="o", ms=2.5, lw=1.2, color=f"C{number}", label=label)
            axes.set(xlabel="optimiser step", ylabel=name)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend()
        with replacing(folder / CURVES_FILE) as new:
            new.write_bytes(to_png(figure))
