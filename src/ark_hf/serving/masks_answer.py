"""What the page of `ark-hf serve` answers of a segmenter, as HTML: masks, areas, the cardiothoracic ratio."""

from typing import Any

import numpy as np
from PIL import Image

from ..data.inputs import RadiographInput
from ..inference.measurements import heart_and_lungs
from ..inference.overlays import label_colour, mask_overlay, overlay, shrunken_mask
from ..inference.segmentation_pipeline import ChestXraySegmentationPipeline
from ..models.ark.configuration_ark import SegmentationTask
from ..pages.html import escape
from .probabilities_answer import SMALL_SIDE, box, data_uri, doubts_box, percent, radiograph_figure

ALL = "All masks"
OF_THE_RATIO = (
    "The greatest width of the heart over that of the thorax, estimated from the masks. It means something on frontal "
    "radiographs of people upright, taken from behind (PA)."
)


def masks_answer(pipe: ChestXraySegmentationPipeline, image: RadiographInput) -> str:
    """HTML of what a segmenter finds in a radiograph."""
    result, task = pipe(image), pipe.model.config.segmentation
    plain = overlay(image.pixels, np.zeros((1, 1)))  # eight bits, in the grey that the model sees
    masks = {number: found["mask"] for number, found in enumerate(result["masks"].values()) if found["pixels"]}
    everything = data_uri(mask_overlay(image.pixels, masks))
    small = plain.convert("L")
    small.thumbnail((SMALL_SIDE, SMALL_SIDE))
    rows = [
        _row(label, found, number, _alone(small, number, found["mask"]) if found["pixels"] else None)
        for number, (label, found) in enumerate(result["masks"].items())
    ]
    sized = any(found["mm2"] is not None for found in result["masks"].values())
    where = "" if sized else " The file does not say how large its pixels are, so areas are in pixels."
    return f"""{doubts_box(image.warnings)}
<div class="ark-columns">
<div class="ark-pictures">{radiograph_figure(image, plain)}
<figure><img src="{everything}" alt="{ALL}"><figcaption>{ALL}</figcaption></figure></div>
<div class="ark-tasks">
{_ratio(task, result["cardiothoracic_ratio"])}
<p class="ark-key">Choose a label to see its mask alone. A bar is the part of the picture in the mask.{where}</p>
<details open><summary><h2>{escape(task.name)}</h2> <span>{len(rows)} labels, {len(masks)} found</span></summary>
<label class="ark-row"><input type="radio" name="ark-label" data-picture="{everything}" data-caption="{ALL}" checked>
<span class="ark-name">{ALL}</span><span class="ark-score"></span></label>
{"".join(rows)}</details>
</div>
</div>"""


def _ratio(task: SegmentationTask, ratio: float | None) -> str:
    if heart_and_lungs(task.name, tuple(task.labels)) is None:
        return ""
    if ratio is None:
        return box("plain", "No cardiothoracic ratio", ["The heart or a lung was not found."])
    return box("plain", f"Cardiothoracic ratio {ratio:.2f}", [OF_THE_RATIO])


def _alone(small: Image.Image, number: int, mask: np.ndarray) -> str:
    shown = mask_overlay(np.asarray(small), {number: shrunken_mask(mask, small.size)})
    return data_uri(shown)


def _row(label: str, found: dict[str, Any], number: int, picture: str | None) -> str:
    choice, area, score = "", "not found", ""
    if picture is not None:
        choice = f'<input type="radio" name="ark-label" data-picture="{picture}" data-caption="{escape(label)}">'
        area = f"{found['pixels']:,} pixels" if found["mm2"] is None else f"{found['mm2'] / 100:,.1f} cm²"
        score = f"mean probability {percent(found['score'])}"
    red, green, blue = label_colour(number)
    return f"""<label class="ark-row">{choice}
<span class="ark-name"><b class="ark-colour" style="background: rgb({red}, {green}, {blue})"></b>{escape(label)}</span>
<span class="ark-score"><b>{area}</b> <small>{score}</small></span>
<span class="ark-bar" aria-hidden="true"><i style="width: {100 * found["mask"].mean():.2f}%"></i></span></label>
"""
