"""What the page of `ark-hf serve` answers of a volume, as HTML: slices with sliders, masks or probabilities."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.images.image_files import UnreadableImageError, collecting_doubts, naming_the_image
from ..data.volumes.reading import RESCUE, read_open_volume
from ..data.volumes.volume import Volume
from ..files import printable
from ..inference.measurements import measure_volume
from ..inference.sliding_window import classify_volume, segment_volume
from ..inference.task_labels import labels_by_task
from ..inference.volume_slices import ACROSS, VolumeSlices
from ..models.genesis.image_processing_genesis import GenesisImageProcessor
from ..models.genesis.modeling_genesis import GenesisForSemanticSegmentation
from ..pages.html import escape
from .picture_view import (
    all_masks,
    answered,
    controls,
    count_of,
    data_uri,
    mask_choice,
    mask_layer,
    mask_legend,
    swatch,
    view,
)
from .probabilities_answer import brief, section, summary, table, with_full_names

MAX_VOXELS = 2**27  # 512 x 512 x 512
SLICES, SIDE = 48, 320  # of each plane, and pixels of the longest side: together a few megabytes
WINDOWS = 4  # a forward pass


@dataclass(frozen=True)
class VolumeReader:
    """A Genesis, a segmenter with a named task or a classifier, and its image processor: what [`build_page`] takes."""

    model: Any
    image_processor: GenesisImageProcessor

    def answer(self, name: str, data: bytes) -> str:
        """
        HTML of what the model finds in a file.

        Raises:
            UnreadableImageError: It cannot be read, the image processor does not take it, or it is too large.
        """
        with collecting_doubts() as doubts, naming_the_image(name, RESCUE):
            volume = read_open_volume(io.BytesIO(data), Path(name))
            if volume.voxels.size > MAX_VOXELS:
                raise UnreadableImageError(
                    f"it has {volume.voxels.size:,} voxels, and this page reads {MAX_VOXELS:,}; crop it, or use "
                    "`ark-hf predict`"
                )
        try:
            if isinstance(self.model, GenesisForSemanticSegmentation):
                return self._segmented(name, volume, doubts)
            return self._classified(name, volume, doubts)
        except ValueError as error:  # of the image processor, whose window or spacing it does not fit
            raise UnreadableImageError(f"{printable(name)}: {error}") from None

    def _segmented(self, name: str, volume: Volume, doubts: list[str]) -> str:
        task = self.model.config.segmentation
        found = segment_volume(self.model, self.image_processor, volume, WINDOWS)
        measured = measure_volume(found, volume.affine, task)
        sizes = zip(task.labels, measured.voxels, measured.ml, strict=True)
        rows = [_row(number, label, voxels, ml) for number, (label, voxels, ml) in enumerate(sizes)]
        legend = {number: label for number, label in enumerate(task.labels) if measured.voxels[number]}
        return answered(
            _columns(
                VolumeSlices(volume, self.image_processor, task, found),
                mask_legend(legend),
                f"""{controls("Masks")}
<p class="ark-key">{_about(name, volume)} Choose which masks are shown.</p>
<details open><summary><h2>{escape(task.name)}</h2> <span>{count_of(rows)}, {len(legend)} found</span></summary>
{all_masks() if legend else ""}{"".join(rows)}</details>""",
            ),
            [
                {"task": task.name, "label": label, "voxels": int(voxels), "ml": float(ml)}
                for label, voxels, ml in zip(task.labels, measured.voxels, measured.ml, strict=True)
            ],
            f"{len(legend)} found",
            doubts,
        )

    def _classified(self, name: str, volume: Volume, doubts: list[str]) -> str:
        probabilities = classify_volume(self.model, self.image_processor, volume)
        tasks = _described(self.model.config, probabilities)
        labels = with_full_names(tasks)
        sections = "".join(section(task, each) for task, each in tasks.items())
        size = " x ".join(map(str, self.image_processor.cube_size))
        seen = (
            f" The model sees the middle of the volume, {size} voxels." if self.image_processor.do_center_crop else ""
        )
        return answered(
            _columns(
                VolumeSlices(volume, self.image_processor),
                "",
                f"""{summary(labels)}
{controls()}
<p class="ark-key">{_about(name, volume)}{seen} A bar is a probability, the mark on it the saved operating point.</p>
{sections}""",
            ),
            table(tasks),
            brief(labels),
            doubts,
        )


def _described(config: Any, probabilities: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """The labels of each task, the most probable first, as the pipeline of radiographs describes them."""
    return {
        task: sorted(
            (
                {
                    "label": label.name,
                    "score": (score := float(probabilities[label.column])),
                    "threshold": label.threshold,
                    "positive": None if label.threshold is None else score >= label.threshold,
                }
                for label in labels
            ),
            key=lambda label: -label["score"],
        )
        for task, labels in labels_by_task(config).items()
    }


def _columns(slices: VolumeSlices, legend: str, beside: str) -> str:
    sides = [side * spacing for side, spacing in zip(slices.voxels.shape, slices.spacing, strict=True)]
    middle = slices.middle()
    millimetres = max(sides) / SIDE
    width = round(max(sides[:2]) / millimetres)
    planes = [_plane(slices, plane, middle[axis], millimetres, width) for plane, axis in ACROSS.items()]
    return f"""<div class="ark-pictures ark-planes">{"".join(planes)}{legend}</div>
<div class="ark-tasks">
{beside}</div>"""


def _plane(slices: VolumeSlices, plane: str, middle: int, millimetres: float, width: int) -> str:
    """
    A slice with a slider, which holds the pictures of others, evenly spaced, and their masks; that in the middle is
    shown first. All are of one width, so that they keep one scale wherever they are shown.
    """
    count = slices.voxels.shape[ACROSS[plane]]
    step = -(-count // SLICES)
    numbers = range(middle % step, count, step)
    pictures, shown = [], []
    for number in numbers:
        picture = Image.fromarray(_as_wide(np.asarray(slices.grey(plane, number, millimetres)), width))
        masks = slices.masks(plane, number, millimetres)
        layers = {label: mask_layer(_as_wide(mask, width), picture.size) for label, mask in masks.items()}
        about = f"{plane.capitalize()}, slice {number + 1} of {count}"
        pictures.append(picture)
        shown.append({"picture": data_uri(picture), "about": about, "layers": layers})
    first = numbers.index(middle)
    slider = f"""<input type="range" min="0" max="{len(numbers) - 1}" value="{first}"
aria-label="{plane.capitalize()} slices" data-slices="{escape(json.dumps(shown))}">
"""
    return view(pictures[first], str(shown[first]["about"]), f"{plane.capitalize()} slice", slider=slider)


def _as_wide(picture: np.ndarray, width: int) -> np.ndarray:
    """(height, width) with black beside what is narrower."""
    spare = max(width - picture.shape[1], 0)
    return np.pad(picture, ((0, 0), (spare // 2, spare - spare // 2)))


def _row(number: int, label: str, voxels: int, ml: float) -> str:
    size, count = (f"{ml:,.2f} ml", f"{voxels:,} voxels") if voxels else ("not found", "")
    return f"""<label class="ark-row">{mask_choice(number) if voxels else ""}
<span class="ark-name">{swatch(number)}{escape(label)}</span>
<span class="ark-score"><b>{size}</b> <small>{count}</small></span></label>
"""


def _about(name: str, volume: Volume) -> str:
    sides = " x ".join(map(str, volume.shape))
    spacing = " x ".join(f"{each:.3g}" for each in volume.spacing)
    return (
        f"{escape(name)}: {sides} voxels of {spacing} mm. Of axial and coronal slices the left is the patient's right."
    )
