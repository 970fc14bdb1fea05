"""The verb `predict`: probabilities, or masks and areas, of every label for image files and volumes."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..evaluation.arguments import CROPS_HELP, Crops
from ..files import printable
from ..inference.arguments import MODALITY_HELP, ComputingArguments
from .arguments import check_at_least, check_names, parse, quiet

if TYPE_CHECKING:
    from ..inference.predictions import Predictions

MAX_WARNINGS = 20  # lines that are printed


@dataclass
class PredictArguments(ComputingArguments):
    out: str = field(
        default="predictions.csv", metadata={"help": "File of the predictions: .csv, or .jsonl for JSON lines."}
    )
    format: Literal["wide", "long"] = field(
        default="wide",
        metadata={
            "help": "wide: one row per image, one column per task/label; long: one row per image and label, with the "
            "columns image, task, label, probability, threshold, positive and warnings; of a segmenter pixels, mm2, "
            "score, threshold, cardiothoracic_ratio and mask in place of probability, threshold and positive; of "
            "a segmenter of volumes voxels, ml, threshold, mask and value."
        },
    )
    batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Images a forward pass, 16 unless set, and fewer for a model of over 384 pixels; of a segmenter "
            "of volumes its windows, 4 unless set."
        },
    )
    crops: Crops = field(default="whole", metadata={"help": CROPS_HELP})
    second_opinion: bool = field(
        default=False,
        metadata={
            "help": "Say on which findings the heads disagree: one row per image and finding that two heads know, in "
            "NAME.second_opinion.csv beside --out."
        },
    )
    heatmaps: str | None = field(
        default=None,
        metadata={
            "help": "Folder for pictures of what speaks for a label, ROW_NAME_NUMBER_TASK_LABEL.png, with rows "
            "numbered from 1 and labels from 0: for each label that is called positive, and for the most probable of "
            "a task without."
        },
    )

    num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that read files, one a core for many files unless set; 0 reads them in this one. "
            "Results do not change."
        },
    )
    device: str | None = field(
        default=None, metadata={"help": "Such as cpu or cuda:1; the first accelerator, if there is one, unless set."}
    )

    modality: str | None = field(default=None, metadata={"help": MODALITY_HELP})

    def __post_init__(self):
        if self.batch_size is not None:
            check_at_least(1, batch_size=self.batch_size)
        if self.num_workers is not None:
            check_at_least(0, num_workers=self.num_workers)


def predict(argv: list[str]) -> int:
    """Probabilities, or masks and areas, for image files and volumes."""
    args, given = parse(
        PredictArguments,
        "predict",
        argv,
        "Probabilities of every label for radiographs (PNG, JPEG, TIFF, BMP, WebP, DICOM, MetaImage; 8 to 16 bits). "
        "Of a segmenter the area of every label in pixels, in mm2 where a DICOM file says how large its pixels are, "
        "and of heart and lungs the cardiothoracic ratio; NAME.masks and NAME.overlays beside --out are the pictures. "
        "A Genesis takes volumes (NIfTI, MetaImage, folders of DICOM series): its masks are label maps in the volumes'"
        " own space, with millilitres and slices in three planes.",
        model={"help": "Folder or Hub id of an ark-cxr or a Genesis."},
        paths={
            "nargs": "+",
            "help": "Files, of radiographs http(s) addresses, or folders that are searched for images or volumes.",
        },
    )
    check_names(given.model)
    quiet()
    from accelerate import PartialState

    from ..inference.predictions import predict as run

    written = run(given.model, given.paths, **vars(args))
    if PartialState().is_main_process:
        _tell(written, args)
    return 0 if written.images else 1


def _tell(written: "Predictions", args: PredictArguments) -> None:
    if written.images:
        kinds = ", ".join(f"{count} {kind or 'without ending'}" for kind, count in written.kinds.most_common())
        print(f"{written.images} {written.what} are in {args.out} ({kinds}; {written.computed}).")
        if written.second_opinion is not None:
            print(f"{written.disagreements}\nAll second opinions are in {written.second_opinion}.")
        if written.masks is not None:
            kind = "Masks" if written.what == "images" else "Label maps"
            print(f"{kind} are in {written.masks}, overlays in {written.overlays}.")
        for head, counts in written.not_asked.items():
            images = ", ".join(f"{count} of modality {modality}" for modality, count in counts.items())
            print(f"Not asked, for images of another modality: {head} ({images}).")
        if args.heatmaps is not None:
            print(f"Heat maps are in {args.heatmaps}.")
    else:
        kept = "left as it was" if Path(args.out).exists() else "not written"
        print(f"No file could be read; {args.out} is {kept}.", file=sys.stderr)
    if written.left_out:
        named = f"such as {printable(written.left_out[0])}"
        print(
            f"{len(written.left_out)} files left out, {named}: no {written.what} by name and content.", file=sys.stderr
        )
    if written.unreadable is not None:
        print(f"Files that cannot be read are listed in {written.unreadable}.", file=sys.stderr)
    for line in written.warnings[:MAX_WARNINGS]:
        print(f"Warning: {line}", file=sys.stderr)
    if len(written.warnings) > MAX_WARNINGS:
        print(f"... and {len(written.warnings) - MAX_WARNINGS} more {written.what} with warnings.", file=sys.stderr)
