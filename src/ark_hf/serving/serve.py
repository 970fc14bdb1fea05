"""The page of one model from its name: what `ark-hf serve` does."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..inference.load import how_computed, load_model
from ..inference.pipeline import ChestXrayClassificationPipeline
from ..inference.segmentation_pipeline import ChestXraySegmentationPipeline
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from ..models.genesis.modeling_genesis import GenesisPreTrainedModel
from .guard import is_this_machine
from .volume_answer import VolumeReader


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    dtype: str = "float32",
    compile: bool = False,
    login: tuple[str, str] | None = None,
) -> None:
    """
    Serves the page on which a model reads a radiograph or a volume, and returns when it is stopped.

    Args:
        model: Folder or Hub id of an ark-cxr or a Genesis.
        host: Address to listen on: this machine alone unless set.
        port: Port to listen on.
        dtype, compile: How the model computes, see [`move_model`].
        login: The name and password that the page asks for, if any.

    Raises:
        ValueError: gradio is not installed, the model cannot be loaded or compute so, or the port is taken.
    """
    if find_spec("gradio") is None:
        raise ValueError("The page needs gradio: pip install gradio")
    from .page import build_page, start_page  # needs gradio

    network, processor = load_model(model, dtype, compile)
    pipe = _reader(network, processor)
    folder = Path(model)
    page = build_page(pipe, folder.resolve().name if folder.exists() else model)
    server = start_page(page, host, port, login)
    print(f"The page is at {server.address} ({how_computed(network)}). Ctrl+C stops it.", flush=True)
    if not is_this_machine(host):
        print(f"Warning: {_who_reaches_it(login)}", file=sys.stderr, flush=True)
    try:
        server.wait()
    except KeyboardInterrupt:
        print("The page has ended.", flush=True)


def _who_reaches_it(login: tuple[str, str] | None) -> str:
    secret = "the password and pictures travel" if login else "pictures travel"
    tls = f"{secret} unencrypted, unless a proxy in front of it speaks TLS."
    if login:
        return f"The page can be reached from other machines; {tls}"
    return f"Everybody who reaches this machine may use the page: pass --password, or let a proxy ask for one; {tls}"


def _reader(
    network: Any, processor: Any
) -> VolumeReader | ChestXrayClassificationPipeline | ChestXraySegmentationPipeline:
    if isinstance(network, GenesisPreTrainedModel):
        return VolumeReader(network, processor)
    segments = isinstance(network, ArkForSemanticSegmentation)
    kind = ChestXraySegmentationPipeline if segments else ChestXrayClassificationPipeline
    return kind(model=network, image_processor=processor)
