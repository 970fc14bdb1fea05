"""
What the page of `ark-hf serve` shows a picture in, as HTML, for `viewer.js`. The picture is sent once, and each heat
map or mask as a small picture of how opaque it is, coloured in the browser.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..inference.overlays import (
    TINT,
    enlarged_heat,
    heat_colours,
    label_colour,
    mask_border,
    overlay,
    shrunken_mask,
)
from ..pages.html import escape

HEAT_SIDE = 64  # pixels of a heat map's longer side: finer than any encoder's grid
HELP = (
    ("Wheel, pinch, + and −", "zoom"),
    ("Drag, Shift and arrows", "move"),
    ("Shift and drag, W and Shift W, L and Shift L", "window and level"),
    ("O", "overlay off and on"),
    ("0", "all as at first"),
    ("← and →", "previous and next file"),
)


def answered(shown: str, rows: Sequence[Mapping[str, Any]], brief: str, warnings: Sequence[str]) -> str:
    """
    An answer as a whole.

    Args:
        shown: HTML.
        rows: What the table to download says of each label.
        brief: What the list of files says of this one.
        warnings: Reasons for doubt, for both.
    """
    facts = json.dumps({"rows": rows, "brief": brief, "warnings": warnings})
    return f"""{doubts_box(warnings)}
<div class="ark-columns" data-facts="{escape(facts)}">{shown}</div>"""


def plain_picture(pixels: np.ndarray) -> Image.Image:
    """Eight bits, in the grey or the colours that the model sees."""
    plain = overlay(pixels, np.zeros((1, 1)))
    return plain.convert("L") if len(pixels) == 1 else plain


def view(
    picture: Image.Image, about: str, description: str, overlaid: str = "", legend: str = "", slider: str = ""
) -> str:
    """
    A picture to be looked at, and what stands below it.

    Args:
        about: The picture's caption.
        description: What it is, for who does not see it.
        overlaid: What is laid over it, in words that the browser changes.
        legend, slider: HTML.
    """
    buttons = (("in", "+", "Zoom in"), ("out", "−", "Zoom out"), ("png", "PNG", "Save this view as PNG"))
    tools = "".join(
        f'<button type="button" data-do="{what}" aria-label="{name}" title="{name}">{sign}</button>'
        for what, sign, name in buttons
    )
    what = escape(description)
    return f"""<figure><div class="ark-view" tabindex="0" role="group" style="aspect-ratio: {picture.width} /
{picture.height}" aria-label="{what}: zoom with + and −, move with Shift and arrows">
<div class="ark-stage"><img src="{data_uri(picture)}" alt="{what}"></div>
<div class="ark-tools">{tools}</div></div>
{slider}{legend}<figcaption><span class="ark-overlaid">{escape(overlaid)}</span> {escape(about)}</figcaption></figure>
"""


def controls(overlaid: str | None = None, opacity: float = 1) -> str:
    """
    Sliders of window and level, and of the opacity of what is laid over, and the keys that do the same.

    Args:
        overlaid: What is laid over the picture, if anything is.
        opacity: At first, in [0, 1].
    """
    sliders = _slider("window", "Window", 1, 200, 100) + _slider("level", "Level", 0, 100, 50)
    if overlaid is not None:
        sliders += _slider("opacity", overlaid, 0, 100, round(100 * opacity))
    keys = "".join(f"<div><dt>{key}</dt><dd>{what}</dd></div>" for key, what in HELP)
    return f"""<div class="ark-controls" role="group" aria-label="How the picture is shown">{sliders}
<button type="button" data-do="reset">Reset</button>
<details class="ark-help"><summary>Keys and mouse</summary>
<p>Keys other than the last work where the picture, or a slider or button of it, has the focus.</p><dl>{keys}</dl>
</details></div>"""


def _slider(name: str, words: str, least: int, most: int, value: int) -> str:
    return f"""<label><span>{words}</span>
<input type="range" name="{name}" min="{least}" max="{most}" value="{value}">
<output aria-hidden="true">{value} %</output></label>
"""


def heat_legend() -> str:
    colours = heat_colours(np.linspace(0, 1, 256))[None]
    bar = Image.fromarray(np.rint(255 * colours).astype(np.uint8))
    return f"""<p class="ark-legend">Speaks for it: little
<img class="ark-heat" src="{data_uri(bar, "PNG")}" alt="from violet to yellow"> most</p>
"""


def heat_layer(heat_map: np.ndarray, size: tuple[int, int]) -> str:
    """How opaque a heat map (rows, columns) in [0, 1] is over a picture of this (width, height)."""
    width, height = (max(1, round(HEAT_SIDE * side / max(size))) for side in size)
    heat = enlarged_heat(heat_map, (width, height))
    return data_uri(Image.fromarray(np.rint(255 * heat).astype(np.uint8)), "PNG")


def mask_layer(mask: np.ndarray, size: tuple[int, int]) -> str:
    """How opaque a mask, bool (height, width), is over a picture of this (width, height): inside and at its border."""
    small = shrunken_mask(mask, size)
    opaque = np.where(mask_border(small), 255, np.where(small, round(255 * TINT), 0)).astype(np.uint8)
    return data_uri(Image.fromarray(opaque), "PNG")


def mask_legend(labels: Mapping[int, str]) -> str:
    """Of the labels that were found, by number; the browser hides those whose masks are off."""
    names = "".join(
        f'<li data-number="{number}">{swatch(number)}{escape(name)}</li>' for number, name in labels.items()
    )
    return f'<ul class="ark-legend">{names}</ul>\n' if names else ""


def mask_choice(number: int, layer: str | None = None) -> str:
    """What a label's mask is toggled with; `layer` is there unless each slice has its own."""
    source = "" if layer is None else f' data-layer="{layer}"'
    return f'<input type="checkbox" value="{number}" data-colour="{css_colour(number)}"{source} checked>'


def all_masks() -> str:
    return """<label class="ark-row ark-all"><input type="checkbox" checked>
<span class="ark-name">All masks</span><span class="ark-score"></span></label>
"""


def swatch(number: int) -> str:
    return f'<b class="ark-colour" style="background: {css_colour(number)}"></b>'


def css_colour(number: int) -> str:
    red, green, blue = label_colour(number)
    return f"rgb({red}, {green}, {blue})"


def count_of(labels: Sequence[Any]) -> str:
    return f"{len(labels)} labels" if len(labels) > 1 else "1 label"


def size_of(pixels: np.ndarray) -> str:
    return f"{pixels.shape[-1]}\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}{pixels.shape[-2]} pixels"


def doubts_box(warnings: Sequence[str]) -> str:
    doubts = [f"{each[0].upper()}{each[1:]}." for each in warnings]
    return box("doubt", "Reasons for doubt", doubts) if doubts else ""


def box(kind: str, title: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(each)}</li>" for each in sentences)
    role = ' role="alert"' if kind in ("doubt", "error") else ""
    return f'<div class="ark-box ark-{kind}"{role}><h2>{escape(title)}</h2><ul>{items}</ul></div>'


def data_uri(picture: Image.Image, kind: str = "JPEG") -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=90, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
