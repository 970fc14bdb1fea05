"""What the page of `ark-hf serve` answers of a segmenter, as HTML: masks, areas, the cardiothoracic ratio."""

from typing import Any

from ..data.inputs import RadiographInput
from ..inference.measurements import heart_and_lungs
from ..inference.segmentation_pipeline import ChestXraySegmentationPipeline
from ..models.ark.configuration_ark import SegmentationTask
from ..pages.html import escape
from .picture_view import (
    all_masks,
    answered,
    box,
    controls,
    count_of,
    mask_choice,
    mask_layer,
    mask_legend,
    plain_picture,
    size_of,
    swatch,
    view,
)
from .probabilities_answer import percent

OF_THE_RATIO = (
    "The greatest width of the heart over that of the thorax, estimated from the masks. It means something on frontal "
    "radiographs of people upright, taken from behind (PA)."
)


def masks_answer(pipe: ChestXraySegmentationPipeline, image: RadiographInput) -> str:
    """HTML of what a segmenter finds in a radiograph."""
    result, task = pipe(image), pipe.model.config.segmentation
    picture = plain_picture(image.pixels)
    found = list(enumerate(result["masks"].items()))
    rows = [_row(number, label, each, picture.size) for number, (label, each) in found]
    legend = {number: label for number, (label, each) in found if each["pixels"]}
    sized = any(each["mm2"] is not None for _, (_, each) in found)
    where = "" if sized else " The file does not say how large its pixels are, so areas are in pixels."
    about = f"{image.name}, {size_of(image.pixels)}"
    return answered(
        f"""<div class="ark-pictures">
{view(picture, about, "The radiograph", legend=mask_legend(legend))}</div>
<div class="ark-tasks">
{_ratio(task, result["cardiothoracic_ratio"])}
{controls("Masks")}
<p class="ark-key">Choose which masks are shown. A bar is the part of the picture in the mask.{where}</p>
<details open><summary><h2>{escape(task.name)}</h2> <span>{count_of(rows)}, {len(legend)} found</span></summary>
{all_masks() if legend else ""}{"".join(rows)}</details>
</div>""",
        [
            {
                "task": task.name,
                "label": label,
                "pixels": each["pixels"],
                "mm2": each["mm2"],
                "mean_probability": each["score"],
            }
            for _, (label, each) in found
        ],
        f"{len(legend)} found",
        image.warnings,
    )


def _ratio(task: SegmentationTask, ratio: float | None) -> str:
    if heart_and_lungs(task.name, tuple(task.labels)) is None:
        return ""
    if ratio is None:
        return box("plain", "No cardiothoracic ratio", ["The heart or a lung was not found."])
    return box("plain", f"Cardiothoracic ratio {ratio:.2f}", [OF_THE_RATIO])


def _row(number: int, label: str, found: dict[str, Any], size: tuple[int, int]) -> str:
    choice, area, score = "", "not found", ""
    if found["pixels"]:
        choice = mask_choice(number, mask_layer(found["mask"], size))
        area = f"{found['pixels']:,} pixels" if found["mm2"] is None else f"{found['mm2'] / 100:,.1f} cm²"
        score = f"mean probability {percent(found['score'])}"
    return f"""<label class="ark-row">{choice}
<span class="ark-name">{swatch(number)}{escape(label)}</span>
<span class="ark-score"><b>{area}</b> <small>{score}</small></span>
<span class="ark-bar" aria-hidden="true"><i style="width: {100 * found["mask"].mean():.2f}%"></i></span></label>
"""
