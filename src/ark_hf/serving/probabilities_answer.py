"""What the page of `ark-hf serve` answers of a classifier, as HTML: probabilities, reasons for doubt, heat maps."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from ..data.inputs import RadiographInput
from ..inference.overlays import overlay
from ..inference.pipeline import ChestXrayClassificationPipeline
from ..pages.html import escape

SUMMARISED = 6  # labels that the summary names at most
SMALL_SIDE = 512  # pixels of the longer side of a picture for one label: there are many

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
    plain = overlay(image.pixels, np.zeros((1, 1)))  # eight bits, in the grey that the model sees
    return _result(radiograph_figure(image, plain), plain, image, tasks, no_heat_maps, not_asked)


def _result(
    radiograph: str,
    plain: Image.Image,
    image: RadiographInput,
    tasks: dict[str, list[Label]],
    no_heat_maps: str | None,
    not_asked: list[str],
) -> str:
    labels = with_full_names(tasks)
    # The first to be shown: of those that are called positive, if any are
    first = max(labels, key=lambda label: (label["positive"] is True, label["score"]))
    small = plain.copy() if len(image.pixels) > 1 else plain.convert("L")
    small.thumbnail((SMALL_SIDE, SMALL_SIDE))
    pixels = np.asarray(small) if small.mode == "L" else np.moveaxis(np.asarray(small), -1, 0)
    sections = "".join(section(task, each, pixels, first) for task, each in tasks.items())
    if not_asked:
        heads = f"The picture was read as {image.modality}. For other images: {', '.join(not_asked)}."
        sections += box("plain", "Not asked", [heads])
    key = "A bar is a probability, the mark on it the saved operating point."
    if no_heat_maps is None:
        heat_map = figure(overlay(pixels, first["heatmap"]), _caption(first), _caption(first))
        key = f"Choose a label to see its heat map. {key}"
    return f"""{doubts_box(image.warnings)}
<div class="ark-columns">
<div class="ark-pictures">{radiograph}{heat_map if no_heat_maps is None else ""}</div>
<div class="ark-tasks">
{summary(labels)}
{box("plain", "No heat maps", [no_heat_maps]) if no_heat_maps is not None else ""}
<p class="ark-key">{key}</p>
{sections}</div>
</div>"""


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


def section(task: str, labels: list[Label], pixels: np.ndarray | None = None, first: Label | None = None) -> str:
    above = sum(label["positive"] is True for label in labels)
    count = f"{len(labels)} labels" if len(labels) > 1 else "1 label"
    rows = "".join(_row(label, pixels, label is first) for label in labels)
    return f"""<details open><summary><h2>{escape(task)}</h2> <span>{count}{f", {above} above" if above else ""}</span>
</summary>{rows}</details>
"""


def _row(label: Label, pixels: np.ndarray | None, chosen: bool) -> str:
    score, threshold = label["score"], label["threshold"]
    choice = verdict = mark = ""
    if pixels is not None and "heatmap" in label:
        picture = data_uri(overlay(pixels, label["heatmap"]))
        choice = f"""<input type="radio" name="ark-label" data-picture="{picture}"
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
        return f"Heat map: what speaks for {label['full_name']}"
    return f"Nothing in the picture speaks for {label['full_name']}"


def percent(probability: float) -> str:
    return f"{100 * probability:.1f}\N{NO-BREAK SPACE}%"


def doubts_box(warnings: list[str]) -> str:
    doubts = [f"{each[0].upper()}{each[1:]}." for each in warnings]
    return box("doubt", "Reasons for doubt", doubts) if doubts else ""


def box(kind: str, title: str, sentences: list[str]) -> str:
    items = "".join(f"<li>{escape(each)}</li>" for each in sentences)
    role = ' role="alert"' if kind in ("doubt", "error") else ""
    return f'<div class="ark-box ark-{kind}"{role}><h2>{escape(title)}</h2><ul>{items}</ul></div>'


def radiograph_figure(image: RadiographInput, shown: Image.Image) -> str:
    size = f"{image.pixels.shape[-1]}\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}{image.pixels.shape[-2]}"
    return figure(shown, f"{image.name}, {size} pixels", "The radiograph")


def figure(picture: Image.Image, caption: str, description: str) -> str:
    return f"""<figure><img src="{data_uri(picture)}" alt="{escape(description)}">
<figcaption>{escape(caption)}</figcaption></figure>"""


def data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
