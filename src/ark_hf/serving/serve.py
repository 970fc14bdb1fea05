"""The page of one model from its name: what `ark-hf serve` does."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..inference.load import how_computed, load_model
from ..inference.pipeline import ChestXrayClassificationPipeline
from ..inference.segmentation_pipeline import ChestXraySegmentationPipeline
from ..models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from ..models.genesis.modeling_genesis import GenesisPreTrainedModel
from .volume_answer import VolumeReader


def serve(
    model: str, host: str = "127.0.0.1", port: int = 7860, dtype: str = "float32", compile: bool = False
) -> None:
    """
    Serves the page on which a model reads a radiograph or a volume, and returns when it is stopped.

    Args:
        model: Folder or Hub id of an ark-cxr or a Genesis.
        host: Address to listen on: this machine alone unless set.
        port: Port to listen on.
        dtype, compile: How the model computes, see [`move_model`].

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
    address = start_page(page, host, port)
    print(f"The page is at {address} ({how_computed(network)}). Ctrl+C stops it.", flush=True)
    if host not in ("127.0.0.1", "localhost"):
        print("Everybody who reaches this machine may use it, and pictures travel to it unencrypted.", flush=True)
    page.block_thread()


def _reader(
    network: Any, processor: Any
) -> VolumeReader | ChestXrayClassificationPipeline | ChestXraySegmentationPipeline:
    if isinstance(network, GenesisPreTrainedModel):
        return VolumeReader(network, processor)
    segments = isinstance(network, ArkForSemanticSegmentation)
    kind = ChestXraySegmentationPipeline if segments else ChestXrayClassificationPipeline
    return kind(model=network, image_processor=processor)
