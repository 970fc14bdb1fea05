"""The best, the median and the worst images of a test of masks: outlines of what was found and of the truth."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from ...data.loading import open_rows, stored_picture
from ...data.masks import UNKNOWN, MaskInferenceSamples
from ...data.open_dataset import TaskDataset
from ...inference.overlays import shrunken_mask
from ...inference.volume_slices import ENLARGED, VolumeSlices
from ...metrics.overlap import border
from ...metrics.resampling import row_means
from ...models.ark.tasks_ark import is_in_colour
from ...pages.formats import format_defined
from ...pages.html import escape
from ..mask_scoring import ScoredMasks, predict_masks
from ..volume_scoring import predict_volumes
from .gallery import AS_STORED, BEGIN, END

OF_A_KIND = 3
SIDE = 384  # in pixels, the longer side of a picture
FOUND, TRUTH = (240, 130, 40), (70, 200, 120)  # RGB
NOTE = (
    "Outlines: orange what the model found, green the truth. By the mean Dice over the labels of each image. The "
    "pictures are the dataset's: share this page only as they may be shared. `ark-hf push` sends it without them."
)


@dataclass(frozen=True)
class ShownMasks:
    """An image with both outlines, as a PNG."""

    kind: str
    row: int
    dice: float
    picture: bytes


def ranked_rows(scored: ScoredMasks) -> dict[str, list[int]]:
    """Rows of the best, the median and the worst images by their mean Dice over labels; each image once."""
    means = row_means(scored.dice)
    order = [int(row) for row in np.argsort(-means, kind="stable") if not np.isnan(means[row])]
    middle = max((len(order) - OF_A_KIND) // 2, 0)
    kinds = {"worst": order[::-1][:OF_A_KIND], "best": order[:OF_A_KIND], "median": order[middle : middle + OF_A_KIND]}
    taken: set[int] = set()
    for kind, rows in kinds.items():
        kinds[kind] = [row for row in rows if row not in taken]
        taken |= set(rows)
    return {kind: kinds[kind] for kind in ("best", "median", "worst")}


def draw_masks(model: Any, processor: Any, data: TaskDataset, scored: ScoredMasks) -> list[ShownMasks]:
    """The pictures of [`ranked_rows`]; of a volume the axial slice through the middle of the truth."""
    means = row_means(scored.dice)
    draw = _slices if data.has_volumes else _pictures
    shown = []
    for kind, rows in ranked_rows(scored).items():
        if rows:
            pictures = zip(rows, draw(model, processor, data, scored.split, rows), strict=True)
            shown += [ShownMasks(kind, row, float(means[row]), _png(picture)) for row, picture in pictures]
    return shown


def _pictures(model: Any, processor: Any, data: TaskDataset, split: str, rows: list[int]) -> Iterator[PIL.Image.Image]:
    stored: Any = data.splits[split]
    samples = MaskInferenceSamples(stored, data.task, processor)
    found_masks = predict_masks(model, samples, np.array(rows), len(rows))
    in_colour = is_in_colour(data.task.modality)
    for (_, found, truth), opened in zip(found_masks, open_rows(stored, rows, in_colour), strict=True):
        shown = stored_picture(opened, AS_STORED, in_colour).numpy()
        known = [mask for mask in truth if mask is not None]
        yield draw_outlines(
            np.moveaxis(shown, 0, -1), [(mask, TRUTH) for mask in known] + [(mask, FOUND) for mask in found]
        )


def _slices(model: Any, processor: Any, data: TaskDataset, split: str, rows: list[int]) -> Iterator[PIL.Image.Image]:
    rows_of_split: Any = data.splits[split]
    for _, volume, found, truth in predict_volumes(model, processor, rows_of_split, data.task, rows, 1):
        of_truth = VolumeSlices(volume, processor, data.task, np.where(truth == UNKNOWN, 0, truth))
        longest = max(side * step for side, step in zip(volume.shape, volume.spacing, strict=True))
        place = "axial", of_truth.middle()[2], max(longest / SIDE, min(volume.spacing) / ENLARGED)
        of_model = VolumeSlices(volume, processor, data.task, found)
        outlines = [(mask, TRUTH) for mask in of_truth.masks(*place).values()]
        outlines += [(mask, FOUND) for mask in of_model.masks(*place).values()]
        yield draw_outlines(np.asarray(of_truth.grey(*place)), outlines)


def draw_outlines(shown: np.ndarray, masks: Sequence[tuple[np.ndarray, tuple[int, int, int]]]) -> PIL.Image.Image:
    """
    RGB of a picture (H, W), (H, W, 1) or (H, W, 3), uint8 or float in [0, 1], with the border of each mask (H, W) in
    its colour.
    """
    values = shown if shown.dtype == np.uint8 else np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
    picture = PIL.Image.fromarray(values.squeeze())
    picture.thumbnail((SIDE, SIDE))
    pixels = np.array(picture.convert("RGB"))
    for mask, colour in masks:
        pixels[border(shrunken_mask(mask, picture.size))] = colour
    return PIL.Image.fromarray(pixels)


def mask_gallery(shown: Sequence[ShownMasks]) -> str:
    """HTML between the marks by which [`without_pictures`] finds it."""
    if not shown:
        return ""
    figures = []
    for kind in dict.fromkeys(each.kind for each in shown):
        cells = "".join(_cell(each) for each in shown if each.kind == kind)
        figures.append(f"<figure><figcaption>{escape(kind)}</figcaption><div>{cells}</div></figure>")
    sheet = f'<div class="sheet">{"".join(figures)}</div>'
    return f'{BEGIN}<h3>Best, median and worst images</h3><p class="note">{escape(NOTE)}</p>{sheet}{END}'


def _cell(each: ShownMasks) -> str:
    data = base64.b64encode(each.picture).decode()
    words = f"row {each.row}: Dice {format_defined(each.dice)}"
    picture = f'<img alt="{escape(words)}" src="data:image/png;base64,{data}">'
    return f"<span>{picture}<small>{escape(words)}</small></span>"


def _png(picture: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
