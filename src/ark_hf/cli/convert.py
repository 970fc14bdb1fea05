"""The verb `convert`: an original checkpoint as a model of this package."""

from dataclasses import dataclass, field
from typing import Literal

from .arguments import check_at_least, parse, quiet

DESCRIPTION = (
    "An original checkpoint (Ark, Ark+, a fine-tuned timm Swin, PEAC, SimMIM, Models Genesis) as a model of this "
    "package. Those of Ark are given to who asks, by the form under 'Pre-trained Ark models' at "
    "https://github.com/jlianglab/Ark, for academic and other non-commercial use alone (ASU GitHub Project License). "
    "Known are Ark6_swinLarge768_ep50.pth.tar (Ark+) and ark6_teacher_ep200_swinb_projector1376_mlp.pth.tar (Ark-6 "
    "of MICCAI 2023): six heads with 52 labels under their true names, and the image processor. Architecture and size "
    "are read from the file."
)


@dataclass
class ConvertArguments:
    out: str = field(default="ark-cxr", metadata={"help": "New folder of the converted model."})
    key: Literal["teacher", "student"] | None = field(
        default=None,
        metadata={"help": "Which model of a training checkpoint; the teacher, if there is one, unless said."},
    )
    tasks: str | None = field(
        default=None,
        metadata={"help": "YAML list of the heads' names and labels, in order; known for the released models."},
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the input in pixels; the file's own unless set, 224 for a ConvNeXt."}
    )

    def __post_init__(self):
        if self.image_size is not None:
            check_at_least(1, image_size=self.image_size)


def convert(argv: list[str]) -> int:
    """Turn an original checkpoint into a model of this package."""
    args, given = parse(
        ConvertArguments,
        "convert",
        argv,
        DESCRIPTION,
        checkpoint={"help": "The file. It is read without running any code in it."},
    )
    quiet()
    from ..hub.save import convert as run
    from ..models.ark.convert_ark_checkpoint import Conversion
    from ..training.peac.heads import HEADS_FILE

    conversion = run(given.checkpoint, **vars(args))
    print(f"{conversion.summary()}\nThe model is in {args.out}.")
    if isinstance(conversion, Conversion) and conversion.heads is not None:
        print(f"{HEADS_FILE} beside it serves `method: peac` alone: `init: {args.out}` in a recipe goes on with it.")
    return 0
