"""The verb `serve`: the page on which a model reads a radiograph or a volume."""

import os
from dataclasses import dataclass, field
from getpass import getpass

from ..inference.arguments import ComputingArguments
from .arguments import check_names, parse, quiet

PASSWORD = "ARK_HF_PASSWORD"


@dataclass
class ServeArguments(ComputingArguments):
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on: this machine alone unless set; 0.0.0.0 is every network it is in."},
    )
    port: int = field(default=7860, metadata={"help": "Port to listen on."})
    password: bool = field(
        default=False,
        metadata={
            "help": f"The page asks for a name and a password, which the variable {PASSWORD} holds; without it, it is "
            "asked for here. It never stands in the command, which other users of the machine can read."
        },
    )
    user: str = field(default="ark", metadata={"help": "The name that the page asks for with the password."})

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

    options = vars(args)
    user, asks = options.pop("user"), options.pop("password")
    run(given.model, login=(user, _password(user)) if asks else None, **options)
    return 0


def _password(user: str) -> str:
    try:
        password = os.environ.get(PASSWORD) or getpass(f"Password of {user} for the page: ")
    except EOFError:
        password = ""
    if not password:
        raise ValueError(f"--password needs a password: set {PASSWORD}, or give one when asked.")
    return password
