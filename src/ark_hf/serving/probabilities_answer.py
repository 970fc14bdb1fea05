"""What the page of `ark-hf serve` answers of a classifier, as HTML: probabilities, reasons for doubt, heat maps."""

from typing import Any

import numpy as np

from ..data.inputs import RadiographInput
from ..inference.overlays import OPACITY
from ..inference.pipeline import ChestXrayClassificationPipeline
from ..pages.html import escape
from .picture_view import answered, box, controls, count_of, heat_layer, heat_legend, plain_picture, size_of, view

SUMMARISED = 6  # labels that the summary names at most

Label = dict[str, Any]  # as the pipeline describes one


def why_no_heat_maps(pipe: ChestXrayClassificationPipeline) -> str | None:
    try:
        pipe(np.zeros((64, 64), np.uint8), heatmaps=True)
    except ValueError as error:
        return str(error)
    return None


def probabilities_answer(
    pipe: ChestXrayClassificationPipeline, image: RadiographInput, no_heat_maps: str | None
) -> str:
    """
    HTML of what a classifier says of a radiograph.

    Args:
        no_heat_maps: Why there are none, see [`why_no_heat_maps`].
    """
    read = pipe(image, heatmaps=no_heat_maps is None)
    tasks, not_asked = read["tasks"], read.get("not_asked", [])
    return _result(image, read["warnings"], tasks, no_heat_maps, not_asked)


def _result(
    image: RadiographInput,
    warnings: list[str],
    tasks: dict[str, list[Label]],
    no_heat_maps: str | None,
    not_asked: list[str],
) -> str:
    labels = with_full_names(tasks)
    # The first to be shown: of those that are called positive, if any are
    first = max(labels, key=lambda label: (label["positive"] is True, label["score"]))
    picture = plain_picture(image.pixels)
    sections = "".join(section(task, each, picture.size, first) for task, each in tasks.items())
    if not_asked:
        heads = f"The picture was read as {image.modality}. For other images: {', '.join(not_asked)}."
        sections += box("plain", "Not asked", [heads])
    key = "A bar is a probability, the mark on it the saved operating point."
    caption, legend, sliders = "", "", controls()
    if no_heat_maps is None:
        key = f"Choose a label to see its heat map. {key}"
        caption, legend, sliders = _caption(first), heat_legend(), controls("Heat map", OPACITY)
    about = f"{image.name}, {size_of(image.pixels)}"
    return answered(
        f"""<div class="ark-pictures">{view(picture, about, "The radiograph", caption, legend)}</div>
<div class="ark-tasks">
{summary(labels)}
{box("plain", "No heat maps", [no_heat_maps]) if no_heat_maps is not None else ""}
{sliders}
<p class="ark-key">{key}</p>
{sections}</div>""",
        table(tasks),
        brief(labels),
        warnings,
    )


def with_full_names(tasks: dict[str, list[Label]]) -> list[Label]:
    """All labels, each with its `full_name`, which also tells of which task it is if there are several."""
    for task, each in tasks.items():
        for label in each:
            label["full_name"] = f"{label['label']} ({task})" if len(tasks) > 1 else label["label"]
    return [label for each in tasks.values() for label in each]


def summary(labels: list[Label]) -> str:
    """What is above its operating point, before all details."""
    judged = sum(label["threshold"] is not None for label in labels)
    if not judged:
        return box("plain", "No operating points", ["The model has none saved, so it calls nothing positive."])
    above = sorted((label for label in labels if label["positive"]), key=lambda label: -label["score"])
    if not above:
        most = "" if judged == len(labels) else " The others are called neither positive nor negative."
        having = f"{judged} of {len(labels)} labels have one.{most}"
        return box("plain", "Nothing with an operating point is above it", [having])
    lines = [f"{label['full_name']} {percent(label['score'])}" for label in above[:SUMMARISED]]
    more = [f"and {len(above) - SUMMARISED} more below"] if len(above) > SUMMARISED else []
    return box("above", "Above the operating point", lines + more)


def table(tasks: dict[str, list[Label]]) -> list[dict[str, Any]]:
    """The rows of the table to download."""
    return [
        {
            "task": task,
            "label": label["label"],
            "probability": label["score"],
            "threshold": label["threshold"],
            "positive": label["positive"],
        }
        for task, labels in tasks.items()
        for label in labels
    ]


def brief(labels: list[Label]) -> str:
    """Of an answer what a list of files has room for."""
    if all(label["threshold"] is None for label in labels):
        return "read"
    return f"{sum(label['positive'] is True for label in labels)} above"


def section(task: str, labels: list[Label], size: tuple[int, int] | None = None, first: Label | None = None) -> str:
    """
    The labels of a task.

    Args:
        size: Width and height of the picture that their heat maps are laid over, if they have any.
        first: The label whose heat map is shown at first.
    """
    above = sum(label["positive"] is True for label in labels)
    rows = "".join(_row(task, label, size, label is first) for label in labels)
    count = count_of(labels) + (f", {above} above" if above else "")
    return f"""<details open><summary><h2>{escape(task)}</h2> <span>{count}</span>
</summary>{rows}</details>
"""


def _row(task: str, label: Label, size: tuple[int, int] | None, chosen: bool) -> str:
    score, threshold = label["score"], label["threshold"]
    choice = verdict = mark = ""
    if size is not None and "heatmap" in label:
        choice = f"""<input type="radio" name="ark-label" value="{escape(f"{task}/{label['label']}")}"
data-layer="{heat_layer(label["heatmap"], size)}"
data-caption="{escape(_caption(label))}"{" checked" if chosen else ""}>"""
    if threshold is not None:
        verdict = f"<small>{'above' if label['positive'] else 'below'} {percent(threshold)}</small>"
        mark = f'<u style="left: {100 * threshold:.2f}%"></u>'
    return f"""<label class="ark-row{" yes" if label["positive"] else ""}">{choice}
<span class="ark-name">{escape(label["label"])}</span>
<span class="ark-score"><b>{percent(score)}</b> {verdict}</span>
<span class="ark-bar" aria-hidden="true"><i style="width: {100 * score:.2f}%"></i>{mark}</span></label>
"""


def _caption(label: Label) -> str:
    if label["heatmap"].max() > 0:
        return f"Heat map: what speaks for {label['full_name']}."
    return f"Nothing in the picture speaks for {label['full_name']}."


def percent(probability: float) -> str:
    return f"{100 * probability:.1f}\N{NO-BREAK SPACE}%"
