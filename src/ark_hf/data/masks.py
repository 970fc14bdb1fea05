"""Stored masks of a segmented dataset: read and checked, and as what a segmenter is trained on and tested against."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image, List
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..models.ark.configuration_ark import SegmentationTask
from .images.image_files import check_size, naming_the_image
from .loading import DrawnSamples, RowSamples, open_stored, stack_pictures, stored_file
from .radiograph import open_picture
from .views import Sampling, draw_view, seen_through

UNKNOWN = 255  # of pixels in targets; 0 and 1, or the number of a class, are what is known
BLACK_WHITE = ({0}, {1}, {255}, {0, 1}, {0, 255})  # values that the pixels of a mask may have


def read_masks(cells: Sequence[dict[str, Any] | None] | None, task: SegmentationTask) -> list[np.ndarray | None]:
    """
    The masks of a row, bool (H, W), None where a label is unknown.

    Args:
        cells: A mask a label, as `datasets` hands images over that it does not decode.

    Raises:
        ValueError: They are not one for each label, cannot be decoded, are not grey with two values, or differ in
            size; or none is known.
    """
    cells = cells or []
    if len(cells) != len(task.labels):
        raise ValueError(f"{len(cells)} masks for the {len(task.labels)} labels {task.labels}")
    masks = [None if cell is None else _read_mask(cell, label) for cell, label in zip(cells, task.labels, strict=True)]
    shapes = {mask.shape for mask in masks if mask is not None}
    if not shapes:
        raise ValueError("none of its masks is known; leave the row out")
    if len(shapes) > 1:
        raise ValueError(f"its masks differ in size: {' and '.join(map(_sides, sorted(shapes)))}")
    return masks


def _read_mask(cell: dict[str, Any], label: str) -> np.ndarray:
    try:
        with stored_file(cell) as (file, _):
            opened = open_picture(file, masks=True)
            check_size(opened.height, opened.width)
            opened.load()
    except Exception as error:  # Pillow and its codecs raise anything on a damaged file
        raise ValueError(f"the mask of {label!r} cannot be decoded ({type(error).__name__})") from error
    if opened.mode not in ("1", "L"):
        raise ValueError(f"the mask of {label!r} is a picture of mode {opened.mode}; masks are grey, of two values")
    pixels = np.asarray(opened)
    values = set(np.flatnonzero(np.bincount(pixels.ravel())).tolist())
    if values not in BLACK_WHITE:
        some = ", ".join(map(str, sorted(values)[:6]))
        raise ValueError(f"the mask of {label!r} has the values {some}; a mask has 0 and one of 1 and 255")
    return pixels > 0


def _sides(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"


def read_presence(rows: Dataset, task: SegmentationTask, where: str) -> np.ndarray:
    """
    Whether each label has a pixel in each picture, float32 (rows, labels), NaN unknown; all masks are checked.

    Args:
        where: Dataset and split, for messages.

    Raises:
        ValueError: Masks are not as [`read_masks`] wants them, are of another size than their picture, or share
            pixels though they exclude each other; the message names the first row.
    """
    stored = rows.select_columns(["image", "masks"])
    stored = stored.cast_column("image", Image(decode=False)).cast_column("masks", List(Image(decode=False)))
    present = np.full((len(rows), len(task.labels)), np.nan, dtype=np.float32)
    progress = tqdm(stored, desc=f"masks of {where}", unit="image", leave=False, disable=len(rows) < 500)
    for number, row in enumerate(progress):
        try:
            masks = read_masks(row["masks"], task)
            known = [mask for mask in masks if mask is not None]
            width, height = _picture_size(row["image"])
            if known[0].shape != (height, width):
                raise ValueError(f"its masks are {_sides(known[0].shape)}, and its picture {width} x {height}")
            if not task.overlapping and len(known) > 1 and (np.sum(known, axis=0) > 1).any():
                raise ValueError("its masks share pixels; labels that may overlap make an overlapping task")
        except ValueError as error:
            raise ValueError(f"{where}, row {number}: {error}.") from None
        present[number] = [np.nan if mask is None else mask.any() for mask in masks]
    return present


def _picture_size(cell: dict[str, Any]) -> tuple[int, int]:
    """Width and height as [`open_stored`] gives the picture; where the file's head tells, it alone is read."""
    try:
        with stored_file(cell) as (file, _):
            opened = open_picture(file)
            turned = opened.getexif().get(0x0112, 1) >= 5  # EXIF's orientation
            return opened.size[::-1] if turned else opened.size
    except Exception:  # DICOM, or a head that Pillow does not understand
        with naming_the_image("its picture", "build the dataset anew"):
            picture = open_stored(cell, in_colour=True)  # whose sides are those in grey
        return (picture.shape[-1], picture.shape[-2]) if isinstance(picture, np.ndarray) else picture.size


def mask_planes(masks: Sequence[np.ndarray | None], task: SegmentationTask) -> torch.Tensor:
    """
    Masks as [`read_masks`] gives them to what can be turned, cropped and resized with the picture.

    Returns:
        uint8 (1, H, W): numbers of classes, 0 the background, or of overlapping labels (labels, H, W), 0 or 1; 255 is
        unknown. Exclusive pixels outside all known labels are unknown if any label is.
    """
    known = next(mask for mask in masks if mask is not None)
    if task.overlapping:
        planes = [np.full(known.shape, UNKNOWN, np.uint8) if mask is None else mask.astype(np.uint8) for mask in masks]
        return torch.from_numpy(np.stack(planes))
    outside = UNKNOWN if any(mask is None for mask in masks) else 0
    classes = np.full(known.shape, outside, dtype=np.uint8)
    for number, mask in enumerate(masks, start=1):
        if mask is not None:
            classes[mask] = number
    return torch.from_numpy(classes)[None]


def as_labels(planes: Sequence[torch.Tensor], task: SegmentationTask) -> torch.Tensor:
    """Planes of equal size, see [`mask_planes`], as labels of [`ArkForSemanticSegmentation`]."""
    batch = torch.stack([*planes])
    if not task.overlapping:
        return batch[:, 0].long()
    return batch.float().masked_fill(batch == UNKNOWN, float("nan"))


class MaskTrainingSamples(DrawnSamples):
    """
    Pictures and their masks in one geometry, drawn as the student's view of pretraining (see [`draw_view`]).

    Args:
        rows, task, processor, seed, cycle: As for [`DrawnSamples`].
        resize, size, min_crop_scale: As for [`draw_view`] and [`Sampling`].
    """

    task: SegmentationTask

    def __init__(
        self, rows, task: SegmentationTask, processor, seed: int, cycle: int,
        resize: int, size: int, min_crop_scale: float,
    ):  # fmt: skip
        super().__init__(rows, task, processor, seed, cycle)
        self.resize, self.size, self.min_crop_scale = resize, size, min_crop_scale

    def samples(self, numbers: list[int], rows: list[dict], pictures: list[torch.Tensor]) -> list[dict]:
        samples = []
        for number, row, picture in zip(numbers, rows, pictures, strict=True):
            view = draw_view(self.resize, self.min_crop_scale, self.generator(number, row))
            sampling = Sampling(view.geometry, self.resize, self.size)
            shown, _ = seen_through(sampling, view.intensities, picture)
            planes = mask_planes(read_masks(row["masks"], self.task), self.task)
            samples.append({"picture": shown, "target": sampling.of_mask(planes)})
        return samples

    def collate(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        """`pixel_values` (batch, 1, size, size), uint8 or float32 in [0, 1], and `labels` of [`as_labels`]."""
        return {
            "pixel_values": stack_pictures([sample["picture"] for sample in samples]),
            "labels": as_labels([sample["target"] for sample in samples], self.task),
        }


class MaskInferenceSamples(RowSamples):
    """Whole pictures through the image processor, with their masks."""

    task: SegmentationTask

    def samples(self, numbers: list[int], rows: list[dict], pictures: list[torch.Tensor]) -> list[dict]:
        masks = [read_masks(row["masks"], self.task) for row in rows]
        return [{"picture": each, "masks": of_row} for each, of_row in zip(pictures, masks, strict=True)]

    def collate(self, samples: list[dict]) -> dict[str, Any]:
        """
        `pixel_values` (batch, 3, size, size); `labels` of that size, as [`as_labels`] has them (each pixel that of the
        nearest one); and `masks`, of each picture those of its own size, see [`read_masks`].
        """
        pixel_values = self.processor([sample["picture"] for sample in samples], return_tensors="pt")["pixel_values"]
        size = [*pixel_values.shape[-2:]]
        planes = [mask_planes(sample["masks"], self.task)[None] for sample in samples]
        shrunk = [F.interpolate(each, size, mode="nearest-exact")[0] for each in planes]
        return {
            "pixel_values": pixel_values,
            "labels": as_labels(shrunk, self.task),
            "masks": [sample["masks"] for sample in samples],
        }
