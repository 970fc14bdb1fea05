"""The page of `ark-hf serve`: an image in, what a model makes of it out, with reasons for doubt; nothing kept."""

import base64
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from ..data.images.image_files import IMAGE_SUFFIXES, UNREAD_SUFFIXES, UnreadableImageError
from ..data.volumes.reading import VOLUME_SUFFIXES
from ..inference.model_input import read_for
from ..inference.pipeline import ChestXrayClassificationPipeline
from ..inference.segmentation_pipeline import ChestXraySegmentationPipeline
from ..inference.task_labels import modalities_of
from ..models.ark.tasks_ark import DEFAULT_MODALITY
from ..pages.html import escape
from .guard import MAX_MEGABYTES
from .masks_answer import masks_answer
from .picture_view import box
from .probabilities_answer import probabilities_answer, why_no_heat_maps
from .server import PageServer
from .volume_answer import MAX_VOXELS, VolumeReader

NOTICE = "Research use only. Not a medical device."
SCRIPTS = "viewer.js", "downloads.js", "page.js"  # run as one
# Of a folder: files of other names are read if they are DICOM inside
PICTURE_SUFFIXES = " ".join(IMAGE_SUFFIXES + UNREAD_SUFFIXES)

RADIOGRAPHS = {
    "title": "Chest radiograph",
    "many": "chest radiographs",
    "choose": "Choose radiographs",
    "files": f"PNG, JPEG, TIFF, BMP, WebP or DICOM, up to {MAX_MEGABYTES} MB each.",
    "most": "200",
    "suffixes": PICTURE_SUFFIXES,
    "wait": "This takes some seconds on a computer without a graphics card.",
    "smaller": "Export the picture alone.",
}
MODALITY_NAMES = {
    "CR": "radiograph",
    "CT": "CT slice",
    "MR": "MR slice",
    "MG": "mammogram",
    "US": "ultrasound",
    "OP": "photograph of the eye",
    "ES": "endoscopy",
    "DMS": "dermoscopy",
    "XC": "photograph",
}
VOLUMES = {
    "title": "Volume",
    "many": "volumes",
    "choose": "Choose volumes",
    "files": f"NIfTI (.nii, .nii.gz) or MetaImage (.mha), each up to {MAX_MEGABYTES} MB and "
    f"{MAX_VOXELS // 10**6} million voxels. Convert a DICOM series to NIfTI first, or give its folder to ark-hf "
    "predict.",
    "most": "20",  # an answer has megabytes
    "suffixes": " ".join(VOLUME_SUFFIXES),
    "wait": "This takes minutes on a computer without a graphics card.",
    "smaller": "Save it packed (.nii.gz), crop it, or give it to ark-hf predict.",
}


def build_page(
    pipe: ChestXrayClassificationPipeline | ChestXraySegmentationPipeline | VolumeReader, name: str
) -> gr.Blocks:
    """
    The page for one model; [`start_page`] serves it.

    A file that is dropped on it comes to the server inside a message, not as an upload to gradio's folder; of several
    one after the other. The answer is HTML with all pictures in it, so that choosing another label for the heat map,
    zooming and saving ask the server nothing.

    Args:
        pipe: All its labels are shown: of a classifier with heat maps, if its model and image processor allow them, of
            a segmenter with masks and areas; of a model of volumes with slices in three planes.
        name: What the page calls the model.
    """
    one_at_a_time = threading.Lock()
    answer: Callable[[str, bytes, str | None], str]
    if isinstance(pipe, VolumeReader):
        answer, words = (lambda name, data, _: pipe.answer(name, data)), VOLUMES
    else:
        answer, words = _answer_of_pictures(pipe), _words(modalities_of(pipe.model.config))

    def read(upload: dict[str, str]) -> str:
        file_name, data = upload["name"], base64.b64decode(upload["data"])
        modality = upload.get("modality") or None
        try:
            with one_at_a_time:
                return answer(file_name, data, modality)
        except UnreadableImageError as error:
            return box("error", "This file cannot be read", [str(error)])
        except Exception as error:
            # Where it happened, but not its message: that may quote the file
            print("".join(traceback.format_tb(error.__traceback__)), type(error).__name__, file=sys.stderr)
            reason = f"{file_name}: the server failed ({type(error).__name__})."
            return box("error", "This file cannot be evaluated", [reason])

    with gr.Blocks(title=f"{name}: {words['many']}", analytics_enabled=False, fill_width=True) as page:
        script = "\n".join((Path(__file__).parent / each).read_text(encoding="utf-8") for each in SCRIPTS)
        gr.HTML(
            _empty_page(name, pipe.model.config, words),
            js_on_load=script,
            apply_default_css=False,
            server_functions=[read],
        )
    return page


def _words(modalities: list[str]) -> dict[str, str]:
    if modalities in ([], [DEFAULT_MODALITY]):
        return RADIOGRAPHS
    return RADIOGRAPHS | {"title": "Medical image", "many": "medical images", "choose": "Choose images"}


def _answer_of_pictures(
    pipe: ChestXrayClassificationPipeline | ChestXraySegmentationPipeline,
) -> Callable[[str, bytes, str | None], str]:
    if isinstance(pipe, ChestXraySegmentationPipeline):
        answer = partial(masks_answer, pipe)
    else:
        answer = partial(probabilities_answer, pipe, no_heat_maps=why_no_heat_maps(pipe))

    def read(name: str, data: bytes, modality: str | None) -> str:
        if modality is not None and modality not in pipe.image_processor.all_modalities:
            raise UnreadableImageError(f"this model has nothing for images of modality {modality}")
        return answer(read_for({"bytes": data, "path": name}, pipe.image_processor, modality))  # in memory

    return read


def start_page(page: gr.Blocks, host: str, port: int, login: tuple[str, str] | None = None) -> PageServer:
    """
    Serves the page in the background until the server's `close()` or the end of the program; its `wait()` waits.

    Args:
        page: What [`build_page`] gave.
        host: Address to listen on; 127.0.0.1 is reached from this machine alone.
        port: Port to listen on.
        login: The name and password that the page asks for, if any.

    Returns:
        The server, which has the page's `address`.

    Raises:
        ValueError: This machine has no such address, or the port is taken or not allowed.
    """
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        "/",
        server_name=host,
        server_port=port,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        auth=login,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )
    return PageServer(app, host, port)


def _empty_page(name: str, config: Any, words: dict[str, str]) -> str:
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    count = f"{config.num_labels} labels" + (f" in {len(config.tasks)} tasks" if len(config.tasks or ()) > 1 else "")
    if config.segmentation is not None:
        count = f"masks of {', '.join(config.segmentation.labels)}"
    return f"""<style>{style}</style>
<div class="ark">
<p class="ark-notice" role="note">{NOTICE}</p>
<div class="ark-body">
<div class="ark-top">
<div><h1>{words["title"]}</h1><p class="ark-model">{escape(name)}: {count}</p></div>
<div class="ark-drop" data-megabytes="{MAX_MEGABYTES}" data-most="{words["most"]}" data-wait="{words["wait"]}"
data-suffixes="{words["suffixes"]}" data-smaller="{words["smaller"]}">
<div class="ark-ways"><label class="ark-choose"><input type="file" multiple><strong>{words["choose"]}</strong></label>
<label class="ark-folder"><input type="file" webkitdirectory><strong>Choose a folder</strong></label></div>
<span>or drop them anywhere on the page</span>
<small>{words["files"]}
They are read by this server alone, one after the other, and not kept.</small>
</div>{_modality_choice(modalities_of(config))}
</div>
<div class="ark-files" role="group" aria-label="Files" hidden>
<p class="ark-status"></p>
<div class="ark-buttons">
<button type="button" data-do="previous" aria-label="Previous file">‹<span> Previous</span></button>
<button type="button" data-do="next" aria-label="Next file"><span>Next </span>›</button>
<button type="button" data-do="csv">Save CSV</button>
<button type="button" data-do="clear">Forget all</button></div>
<ol></ol>
</div>
<p class="ark-told" role="status"></p>
<div class="ark-result"></div>
</div>
</div>"""


def _modality_choice(modalities: list[str]) -> str:
    """What says of which modality a picture is, where its file says none, or another than it is."""
    if not modalities:
        return ""
    options = "".join(
        f'<option value="{each}">{each} ({MODALITY_NAMES.get(each, each)})</option>' for each in modalities
    )
    first = "As the file says" + (", or else " + modalities[0] if len(modalities) > 1 else "")
    return f"""
<label class="ark-modality">Taken with
<select><option value="">{first}</option>{options}</select></label>"""
