"""Whether a dataset's pictures are in colour where its modality is, and grey where that is."""

import warnings

import numpy as np
from datasets import Dataset

from ..models.ark.tasks_ark import is_in_colour
from .inputs import COLOUR_SHARE, coloured_share
from .loading import open_rows
from .radiograph import colours_of
from .streaming import StreamedRows

LOOKED_AT = 4


def check_colours(source: str, modality: str, rows: Dataset | StreamedRows) -> None:
    """
    Warns of a task that turns colours into grey, or waits for colours that are not there, by a few of its pictures.

    A picture that cannot be decoded is told where it is needed; of a stream none is looked at.
    """
    if isinstance(rows, StreamedRows) or "image" not in rows.column_names:
        return
    due = is_in_colour(modality)
    numbers = np.unique(np.linspace(0, len(rows) - 1, LOOKED_AT).astype(int))
    try:
        coloured = [coloured_share(colours_of(each)) > COLOUR_SHARE for each in open_rows(rows, numbers, due)]
    except Exception:  # Pillow and its codecs raise anything on a damaged file
        return
    if due and not any(coloured):
        warnings.warn(
            f"{source} is of modality {modality}, whose images are in colour, and those looked at are grey. If they "
            "are of another one, mend `ark_modality` in its card.",
            stacklevel=4,
        )
    if not due and all(coloured):
        warnings.warn(
            f"{source} is of modality {modality}, whose images are read in grey, and those looked at are in colour. "
            "If they are no such images, give their modality, such as OP, in `ark_modality` of its card.",
            stacklevel=4,
        )
