"""How a model computes, as the options that verbs share; this module loads no torch."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Dtype = Literal["float32", "bfloat16", "auto"]
DTYPES = get_args(Dtype)
BATCH_HELP = "Images a forward pass, 32 unless set, and fewer for a model of large pictures: 4 of 768 pixels."

MODALITY_HELP = (
    "What the image files were taken with, DICOM's code such as CR, OP or MG. Unless set a DICOM file says it itself, "
    "and others are of the model's first modality."
)


@dataclass
class ComputingArguments:
    """The precision that a model computes in, and whether it is compiled."""

    dtype: Dtype = field(
        default="float32",
        metadata={
            "help": "Precision of weights and features; auto is bfloat16 on a GPU that has it and on a CPU that "
            "multiplies in it (AVX-512 BF16 or AMX), else float32. Probabilities change by some thousandths."
        },
    )
    compile: bool = field(
        default=False,
        metadata={
            "help": "Compile the encoder's blocks, for GPUs: on CPUs it gained nothing where it was measured. The "
            "start takes a minute or more, and needs a C++ compiler. Results change by rounding."
        },
    )
