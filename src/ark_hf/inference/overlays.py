"""Heat maps and masks laid over their pictures, and as PNG files."""

import colorsys
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.inputs import RadiographInput, path_in
from ..models.ark.configuration_ark import ArkConfig, SegmentationTask
from ..models.ark.image_processing_ark import ArkImageProcessor
from .task_labels import labels_by_task

LONGEST_SIDE = 1024  # in pixels
OPACITY = 0.65  # of the hottest place
COLOURS = 0.15, 0.85  # of the colour map; its ends, black and near white, would be taken for the picture's own grey
TINT = 0.25  # opacity of a mask; its border has the full colour
BORDER = 1 / 300  # width of a border, as a part of the picture's longer side
HUE_STEP = 0.618  # of the circle, from label to label: as the golden ratio, it never comes near where it was soon
FONT_SIZE = 1 / 36  # of the legend, as a part of the picture's longer side
LONGEST_PART = 64  # bytes of a file's name, each for picture and label: with the rest 143, which encrypted disks take


def overlay(pixels: np.ndarray, heat_map: np.ndarray) -> Image.Image:
    """
    The picture with a heat map over it: cold places are left as they are, hot ones shine from violet to yellow.

    Args:
        pixels: (1, H, W), (H, W) or (3, H, W), uint8, uint16 or float in [0, 1], in the grey or the colours that the
            image processor gives it.
        heat_map: (rows, columns) in [0, 1] over the whole picture, as [`heat_maps`] gives it. That holds for the
            image processor's plain resize, not for crops.

    Returns:
        RGB of the picture's own aspect and size, made smaller if a side has more than 1024 pixels.

    Raises:
        ValueError: The picture or the map is none of these.
    """
    if heat_map.ndim != 2 or not (heat_map.min() >= 0 and heat_map.max() <= 1):
        raise ValueError(f"A heat map is an array (rows, columns) in [0, 1], not of shape {heat_map.shape}.")
    shown = shown_values(pixels)
    size = shown.shape[1], shown.shape[0]
    heat = enlarged_heat(heat_map, size)
    opacity = OPACITY * heat[..., None]
    return Image.fromarray(np.rint(255 * ((1 - opacity) * shown + opacity * heat_colours(heat))).astype(np.uint8))


def enlarged_heat(heat_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 (height, width) in [0, 1] of a heat map, for a `size` of (width, height)."""
    heat = np.asarray(Image.fromarray(heat_map.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    return np.clip(heat, 0, 1)  # bicubic overshoots


def heat_colours(heat: np.ndarray) -> np.ndarray:
    """The colours (..., 3) in [0, 1] of heat (...) in [0, 1]."""
    from matplotlib import colormaps

    return colormaps["inferno"](np.interp(heat, (0, 1), COLOURS))[..., :3]


def shown_values(pixels: np.ndarray) -> np.ndarray:
    """
    float (height, width, 1), or of colours (height, width, 3), in [0, 1] of a picture as [`overlay`] takes it, smaller
    if a side is above 1024.
    """
    as_it_is = ArkImageProcessor(do_convert_rgb=False, do_resize=False, do_normalize=False)
    planes = [Image.fromarray(plane) for plane in as_it_is(pixels, return_tensors="np")["pixel_values"][0]]
    scale = min(1, LONGEST_SIDE / max(planes[0].size))
    size = max(1, round(planes[0].width * scale)), max(1, round(planes[0].height * scale))
    smaller = [np.asarray(plane.resize(size, Image.Resampling.BICUBIC)) for plane in planes]
    return np.clip(np.stack(smaller, axis=-1), 0, 1)


def label_colour(number: int) -> tuple[int, int, int]:
    """The colour of a label in overlays, by its number among the task's."""
    red, green, blue = colorsys.hsv_to_rgb(number * HUE_STEP % 1, 0.75, 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def mask_overlay(pixels: np.ndarray, masks: Mapping[int, np.ndarray], names: Sequence[str] = ()) -> Image.Image:
    """
    The picture with its masks tinted and outlined, each in its [`label_colour`].

    Args:
        pixels: As in [`overlay`].
        masks: By number of the label, bool (height, width) of the picture's size.
        names: Of all labels, for a legend below the picture; none unless given.

    Returns:
        RGB as of [`overlay`], the legend in rows of its own.

    Raises:
        ValueError: A mask is not of the picture's size.
    """
    shape = pixels.shape[-2:]
    values = shown_values(pixels)
    shown = np.repeat(values, 3 // values.shape[-1], axis=-1)
    height, width = shown.shape[:2]
    borders = []
    for number, mask in masks.items():
        if mask.shape != shape:
            raise ValueError(f"A mask of {mask.shape} is not of the picture's size, {shape} (height, width).")
        small = shrunken_mask(mask, (width, height))
        colour = np.array(label_colour(number), np.float32) / 255
        shown += np.float32(TINT) * small[..., None] * (colour - shown)
        borders.append((mask_border(small), colour))
    for border, colour in borders:  # over all tints
        shown[border] = colour
    picture = Image.fromarray(np.rint(255 * shown).astype(np.uint8))
    return _with_legend(picture, {names[number]: label_colour(number) for number in masks}) if names else picture


def shrunken_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool (height, width) for a `size` of (width, height): a pixel is in that is covered by more than half."""
    return np.asarray(Image.fromarray(mask).convert("L").resize(size, Image.Resampling.BOX)) > 127


def mask_border(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask (height, width) that are drawn as its border, bool."""
    return mask & ~_inner(mask, max(1, round(BORDER * max(mask.shape))))


def _inner(mask: np.ndarray, distance: int) -> np.ndarray:
    """The pixels from which a step of this distance to the sides, up or down does not leave the mask."""
    around, middle = np.pad(mask, distance), slice(distance, -distance)
    before, after = slice(None, -2 * distance), slice(2 * distance, None)
    return mask & around[before, middle] & around[after, middle] & around[middle, before] & around[middle, after]


def _with_legend(picture: Image.Image, colours: Mapping[str, tuple[int, int, int]]) -> Image.Image:
    size = max(9, round(FONT_SIZE * max(picture.size)))
    font = ImageFont.load_default(size)
    step, gap = round(1.5 * size), size // 2
    placed, left, top = [], gap, gap
    for name, colour in colours.items():
        end = left + step + round(font.getlength(name)) + gap
        if end > picture.width and left > gap:
            left, top = gap, top + step
            end = left + step + round(font.getlength(name)) + gap
        placed.append((name, colour, left, top))
        left = end + gap
    whole = Image.new("RGB", (picture.width, picture.height + (top + step if placed else 0)))
    whole.paste(picture)
    draw = ImageDraw.Draw(whole)
    for name, colour, left, top in placed:
        top += picture.height
        draw.rectangle((left, top, left + size, top + size), fill=colour)
        draw.text((left + step, top + size / 2), name, fill="white", font=font, anchor="lm")
    return whole


def check_whole_picture(processor: ArkImageProcessor, what: str = "Heat maps") -> None:
    """Raises `ValueError` if the processor cuts crops out of a picture: what is shown would lie in wrong places."""
    if processor.do_center_crop or processor.do_ten_crop:
        raise ValueError(f"{what} are of whole pictures; this image processor cuts crops out of them.")


def called_labels(config: ArkConfig, probabilities: np.ndarray) -> list[int]:
    """
    The labels, by number, whose heat maps are worth a look: each that is called positive, and the most probable of a
    task without.
    """
    called = []
    for labels in labels_by_task(config).values():
        if np.isnan(probabilities[labels[0].column]):  # of a head that was not asked
            continue
        positive = [
            label for label in labels if label.threshold is not None and probabilities[label.column] >= label.threshold
        ]
        called += positive or [max(labels, key=lambda label: probabilities[label.column])]
    return [label.column for label in called]


def save_overlays(
    config: ArkConfig, image: RadiographInput, maps: Mapping[int, np.ndarray], folder: Path, row: int
) -> None:
    """
    Writes `ROW_NAME_NUMBER_TASK_LABEL.png` for each heat map.

    Row and number tell all files apart. The rest is there for people: without what file systems do not take, and cut;
    of an address its path alone.

    Args:
        config: The model's.
        image: As [`read_input`] gives it.
        maps: By number of the label, its key in `id2label`, as [`predict_files`] gives them.
        row: Number of the picture among all whose overlays are in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for task, labels in labels_by_task(config).items():
        for label in labels:
            if label.column in maps:
                shown = overlay(image.pixels, maps[label.column])
                shown.save(folder / picture_name(row, image.name, label.column, f"{task}_{label.name}"))


def save_masks(
    task: SegmentationTask, image: RadiographInput, masks: np.ndarray, row: int, folder: Path, overlays: Path
) -> None:
    """
    Writes `ROW_NAME_NUMBER_TASK_LABEL.png` for each mask, white on black and of the picture's size, to `folder`, and
    `ROW_NAME.jpg`, the picture with all of them over it, to `overlays`; names as in [`save_overlays`].
    """
    for each in (folder, overlays):
        each.mkdir(parents=True, exist_ok=True)
    for number, (label, mask) in enumerate(zip(task.labels, masks, strict=True)):
        Image.fromarray(mask).save(folder / picture_name(row, image.name, number, f"{task.name}_{label}"))
    found = {number: mask for number, mask in enumerate(masks) if mask.any()}
    shown = mask_overlay(image.pixels, found, task.labels)
    shown.save(overlays / Path(picture_name(row, image.name)).with_suffix(".jpg"), quality=90)


def picture_name(row: int, image: str | None, number: int | None = None, label: str = "") -> str:
    """The name of a file that is made of an image, see [`save_overlays`]."""
    return made_name(row, path_in(image or "").stem, number, label, ".png")


def made_name(row: int, stem: str, number: int | None, label: str, suffix: str) -> str:
    """As [`picture_name`], of an image of this name without its ending."""
    parts = f"{row:05d}", _for_file_name(stem), "" if number is None else f"{number:03d}"
    return "_".join(filter(None, (*parts, _for_file_name(label)))) + suffix


def _for_file_name(text: str) -> str:
    kept = re.sub(r"[^\w.-]+", "_", text).encode()[:LONGEST_PART]
    return kept.decode(errors="ignore")  # the cut may go through a letter
