"""The verb `serve`: the page on which a model reads a radiograph or a volume."""

from dataclasses import dataclass, field

from ..inference.arguments import ComputingArguments
from .arguments import check_names, parse, quiet


@dataclass
class ServeArguments(ComputingArguments):
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on: this machine alone unless set; 0.0.0.0 is every network it is in."},
    )
    port: int = field(default=7860, metadata={"help": "Port to listen on."})

    def __post_init__(self):
        if not 1 <= self.port <= 65535:
            raise ValueError(f"--port must be from 1 to 65535, got {self.port}.")


def serve(argv: list[str]) -> int:
    """A page on this machine that shows what a model makes of a radiograph or a volume."""
    args, given = parse(
        ServeArguments,
        "serve",
        argv,
        "A page on this machine that reads a radiograph (PNG, JPEG, TIFF, BMP, WebP, DICOM): probabilities, operating "
        "points, reasons for doubt and heat maps; of a segmenter masks and areas. With a Genesis it reads a volume "
        "(NIfTI, MetaImage) and shows slices of it. It keeps nothing and asks no other host. Research use only.",
        model={"help": "Folder or Hub id of an ark-cxr or a Genesis."},
    )
    check_names(given.model)
    quiet()
    from ..serving.serve import serve as run

    run(given.model, **vars(args))
    return 0
