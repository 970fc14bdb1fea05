"""The page of `ark-hf serve`: a radiograph in; probabilities, reasons for doubt and heat maps out; nothing is kept."""

import base64
import io
import os
import re
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..data.images.image_files import UnreadableImageError
from ..data.inputs import read_input
from ..inference.overlays import overlay
from ..inference.pipeline import ChestXrayClassificationPipeline
from ..pages.html import escape

NOTICE = "Research use only. Not a medical device."
MAX_MEGABYTES = 100
SUMMARISED = 6  # labels that the summary names at most
HEAT_MAP_SIDE = 512  # pixels of the longer side: there is one for every label

Label = dict[str, Any]  # as the pipeline describes one

# What the page needs of gradio's many addresses: neither uploads to its folder, nor files, API pages or histories
_SERVED = re.compile(
    r"/|/(favicon\.ico|theme\.css|config)|/(assets|static)/.+"
    r"|/gradio_api/(startup-events|component_server/)"
)
_MAX_BODY = MAX_MEGABYTES * 2**20 * 4 // 3 + 2**16  # base64, in a little JSON
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; object-src 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def build_page(pipe: ChestXrayClassificationPipeline, name: str) -> gr.Blocks:
    """
    The page for one model; [`start_page`] serves it.

    A file that is dropped on it comes to the server inside a message, not as an upload to gradio's folder. The answer
    is HTML with all pictures in it, so that choosing another label for the heat map asks the server nothing.

    Args:
        pipe: All its labels are shown; heat maps, if its model and image processor allow them.
        name: What the page calls the model.
    """
    one_at_a_time = threading.Lock()
    no_heat_maps = _why_no_heat_maps(pipe)

    def read(upload: dict[str, str]) -> str:
        file_name, data = upload["name"], base64.b64decode(upload["data"])
        try:
            with one_at_a_time:
                return _answer(pipe, file_name, data, no_heat_maps)
        except UnreadableImageError as error:
            return _box("error", "This file cannot be read", [str(error)])
        except Exception as error:
            # Where it happened, but not its message: that may quote the file
            print("".join(traceback.format_tb(error.__traceback__)), type(error).__name__, file=sys.stderr)
            reason = f"{file_name}: the server failed ({type(error).__name__})."
            return _box("error", "This file cannot be evaluated", [reason])

    with gr.Blocks(title=f"{name}: chest radiographs", analytics_enabled=False, fill_width=True) as page:
        script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
        gr.HTML(
            _empty_page(name, pipe.model.config), js_on_load=script, apply_default_css=False, server_functions=[read]
        )
    return page


def start_page(page: gr.Blocks, host: str, port: int) -> str:
    """
    Serves the page in the background until `page.close()` or the end of the program; `page.block_thread()` waits.

    Returns:
        Its address.

    Raises:
        ValueError: This machine has no such address, or the port is taken or not allowed.
    """
    try:
        socket.create_server((host, port)).close()  # gradio's own attempt takes seconds and names no reason
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"Cannot listen on {host}, port {port}: {reason}. Choose another port or host.") from None
    # gradio asks its own address whether it is up, and would do so through a proxy, where the network has one
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = ",".join(filter(None, (direct, host, "localhost")))
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        app_kwargs={"middleware": [Middleware(_Guard)]},
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        num_workers=0,
    )
    return address


class _Guard:
    """Lets through what the page needs, and tells the browser to ask no other host and to keep nothing."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if not scope["path"].startswith(("/assets/", "/static/")):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif (refusal := _refusal(scope)) is not None:
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, send_guarded)


def _refusal(scope: Scope) -> PlainTextResponse | None:
    if not _SERVED.fullmatch(scope["path"]):
        return PlainTextResponse("Not found", 404)
    if scope["method"] == "POST":
        headers = Headers(scope=scope)
        if headers.get("content-type") != "application/json":  # gradio writes other kinds to disk
            return PlainTextResponse("Only JSON is accepted", 415)
        if not 0 < int(headers.get("content-length", 0)) <= _MAX_BODY:
            return PlainTextResponse(f"Files of up to {MAX_MEGABYTES} MB are accepted", 413)
    return None


def _why_no_heat_maps(pipe: ChestXrayClassificationPipeline) -> str | None:
    try:
        pipe(np.zeros((64, 64), np.uint8), heatmaps=True)
    except ValueError as error:
        return str(error)
    return None


def _answer(pipe: ChestXrayClassificationPipeline, name: str, data: bytes, no_heat_maps: str | None) -> str:
    """HTML of the result. The file is read where it is, in memory."""
    image = read_input({"bytes": data, "path": name})
    tasks = pipe(image.pixels, heatmaps=no_heat_maps is None)["tasks"]  # decoded already, and doubted
    plain = overlay(image.pixels, np.zeros((1, 1)))  # eight bits, in the grey that the model sees
    size = f"{image.pixels.shape[-1]}\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}{image.pixels.shape[-2]}"
    figure = _figure(plain, f"{name}, {size} pixels", "The radiograph")
    return _result(figure, plain, image.warnings, tasks, no_heat_maps)


def _empty_page(name: str, config: Any) -> str:
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    count = f"{config.num_labels} labels" + (f" in {len(config.tasks)} tasks" if len(config.tasks or ()) > 1 else "")
    return f"""<style>{style}</style>
<div class="ark">
<p class="ark-notice" role="note">{NOTICE}</p>
<div class="ark-body">
<div class="ark-top">
<div><h1>Chest radiograph</h1><p class="ark-model">{escape(name)}: {count}</p></div>
<label class="ark-drop" data-megabytes="{MAX_MEGABYTES}">
<input type="file"><strong>Choose a radiograph</strong>
<span>or drop it anywhere on the page</span>
<small>PNG, JPEG, TIFF, BMP, WebP or DICOM, up to {MAX_MEGABYTES} MB.
It is read by this server alone, and not kept.</small>
</label>
</div>
<div class="ark-result" aria-live="polite"></div>
</div>
</div>"""


def _result(
    radiograph: str, plain: Image.Image, warnings: list[str], tasks: dict[str, list[Label]], no_heat_maps: str | None
) -> str:
    for task, each in tasks.items():
        for label in each:
            label["full_name"] = f"{label['label']} ({task})" if len(tasks) > 1 else label["label"]
    labels = [label for each in tasks.values() for label in each]
    # The first to be shown: of those that are called positive, if any are
    first = max(labels, key=lambda label: (label["positive"] is True, label["score"]))
    small = plain.convert("L")
    small.thumbnail((HEAT_MAP_SIDE, HEAT_MAP_SIDE))
    grey = np.asarray(small)
    sections = "".join(_section(task, each, grey, first) for task, each in tasks.items())
    key = "A bar is a probability, the mark on it the saved operating point."
    if no_heat_maps is None:
        heat_map = _figure(overlay(grey, first["heatmap"]), _caption(first), _caption(first))
        key = f"Choose a label to see its heat map. {key}"
    doubts = [f"{each[0].upper()}{each[1:]}." for each in warnings]
    return f"""{_box("doubt", "Reasons for doubt", doubts) if doubts else ""}
<div class="ark-columns">
<div class="ark-pictures">{radiograph}{heat_map if no_heat_maps is None else ""}</div>
<div class="ark-tasks">
{_summary(labels)}
{_box("plain", "No heat maps", [no_heat_maps]) if no_heat_maps is not None else ""}
<p class="ark-key">{key}</p>
{sections}</div>
</div>"""


def _summary(labels: list[Label]) -> str:
    """What is above its operating point, before all details."""
    judged = sum(label["threshold"] is not None for label in labels)
    if not judged:
        return _box("plain", "No operating points", ["The model has none saved, so it calls nothing positive."])
    above = sorted((label for label in labels if label["positive"]), key=lambda label: -label["score"])
    if not above:
        most = "" if judged == len(labels) else " The others are called neither positive nor negative."
        having = f"{judged} of {len(labels)} labels have one.{most}"
        return _box("plain", "Nothing with an operating point is above it", [having])
    lines = [f"{label['full_name']} {_percent(label['score'])}" for label in above[:SUMMARISED]]
    more = [f"and {len(above) - SUMMARISED} more below"] if len(above) > SUMMARISED else []
    return _box("above", "Above the operating point", lines + more)


def _section(task: str, labels: list[Label], grey: np.ndarray, first: Label) -> str:
    above = sum(label["positive"] is True for label in labels)
    count = f"{len(labels)} labels" if len(labels) > 1 else "1 label"
    rows = "".join(_row(label, grey, label is first) for label in labels)
    return f"""<details open><summary><h2>{escape(task)}</h2> <span>{count}{f", {above} above" if above else ""}</span>
</summary>{rows}</details>
"""


def _row(label: Label, grey: np.ndarray, chosen: bool) -> str:
    score, threshold = label["score"], label["threshold"]
    choice = verdict = mark = ""
    if "heatmap" in label:
        picture = _data_uri(overlay(grey, label["heatmap"]))
        choice = f"""<input type="radio" name="ark-label" data-picture="{picture}"
data-caption="{escape(_caption(label))}"{" checked" if chosen else ""}>"""
    if threshold is not None:
        verdict = f"<small>{'above' if label['positive'] else 'below'} {_percent(threshold)}</small>"
        mark = f'<u style="left: {100 * threshold:.2f}%"></u>'
    return f"""<label class="ark-row{" yes" if label["positive"] else ""}">{choice}
<span class="ark-name">{escape(label["label"])}</span>
<span class="ark-score"><b>{_percent(score)}</b> {verdict}</span>
<span class="ark-bar" aria-hidden="true"><i style="width: {100 * score:.2f}%"></i>{mark}</span></label>
"""


def _caption(label: Label) -> str:
    if label["heatmap"].max() > 0:
        return f"Heat map: what speaks for {label['full_name']}"
    return f"Nothing in the picture speaks for {label['full_name']}"


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}\N{NO-BREAK SPACE}%"


def _box(kind: str, title: str, sentences: list[str]) -> str:
    items = "".join(f"<li>{escape(each)}</li>" for each in sentences)
    role = ' role="alert"' if kind in ("doubt", "error") else ""
    return f'<div class="ark-box ark-{kind}"{role}><h2>{escape(title)}</h2><ul>{items}</ul></div>'


def _figure(picture: Image.Image, caption: str, description: str) -> str:
    return f"""<figure><img src="{_data_uri(picture)}" alt="{escape(description)}">
<figcaption>{escape(caption)}</figcaption></figure>"""


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
