"""The verb `serve`: the page on which a model reads a radiograph."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from .arguments import parse, quiet


@dataclass
class ServeArguments:
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on: this machine alone unless set; 0.0.0.0 is every network it is in."},
    )
    port: int = field(default=7860, metadata={"help": "Port to listen on."})

    def __post_init__(self):
        if not 1 <= self.port <= 65535:
            raise ValueError(f"--port must be from 1 to 65535, got {self.port}.")


def serve(argv: list[str]) -> int:
    args, given = parse(
        ServeArguments,
        "serve",
        argv,
        "A page on this machine that reads a radiograph (PNG, JPEG, TIFF, DICOM): probabilities, operating points, "
        "reasons for doubt and heat maps. It keeps nothing and asks no other host. Research use only.",
        model={"help": "Folder or Hub id of an ark-cxr."},
    )
    if find_spec("gradio") is None:
        raise ValueError("The page needs gradio: pip install gradio")
    quiet()
    from ..inference.pipeline import ChestXrayClassificationPipeline
    from ..inference.predict import load_ark
    from ..serve.page import build_page, start_page

    model, processor = load_ark(given.model)
    pipe = ChestXrayClassificationPipeline(model=model, image_processor=processor)
    folder = Path(given.model)
    page = build_page(pipe, folder.resolve().name if folder.exists() else given.model)
    address = start_page(page, args.host, args.port)
    print(f"The page is at {address}. Ctrl+C stops it.", flush=True)
    if args.host not in ("127.0.0.1", "localhost"):
        print("Everybody who reaches this machine may use it, and pictures travel to it unencrypted.", flush=True)
    page.block_thread()
    return 0
