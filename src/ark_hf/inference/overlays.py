"""Heat maps laid over their pictures, and as PNG files."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.inputs import RadiographInput, path_in
from ..models.ark.configuration_ark import ArkConfig
from ..models.ark.image_processing_ark import ArkImageProcessor
from .task_labels import labels_by_task

LONGEST_SIDE = 1024  # in pixels
OPACITY = 0.65  # of the hottest place
COLOURS = 0.15, 0.85  # of the colour map; its ends, black and near white, would be taken for the picture's own grey
LONGEST_PART = 64  # bytes of a file's name, each for picture and label: with the rest 143, which encrypted disks take


def overlay(pixels: np.ndarray, heat_map: np.ndarray) -> Image.Image:
    """
    The picture with a heat map over it: cold places are left as they are, hot ones shine from violet to yellow.

    Args:
        pixels: (1, H, W) or (H, W), uint8, uint16 or float in [0, 1], in the grey that the image processor gives it.
        heat_map: (rows, columns) in [0, 1] over the whole picture, as [`heat_maps`] gives it. That holds for the
            image processor's plain resize, not for crops.

    Returns:
        RGB of the picture's own aspect and size, made smaller if a side has more than 1024 pixels.

    Raises:
        ValueError: The picture or the map is none of these.
    """
    from matplotlib import colormaps

    if heat_map.ndim != 2 or not (heat_map.min() >= 0 and heat_map.max() <= 1):
        raise ValueError(f"A heat map is an array (rows, columns) in [0, 1], not of shape {heat_map.shape}.")
    same_grey = ArkImageProcessor(do_convert_rgb=False, do_resize=False, do_normalize=False)
    grey = Image.fromarray(same_grey(pixels, return_tensors="np")["pixel_values"][0, 0])
    scale = min(1, LONGEST_SIDE / max(grey.size))
    size = max(1, round(grey.width * scale)), max(1, round(grey.height * scale))
    grey = np.clip(np.asarray(grey.resize(size, Image.Resampling.BICUBIC)), 0, 1)[..., None]
    heat = np.asarray(Image.fromarray(heat_map.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    heat = np.clip(heat, 0, 1)  # bicubic overshoots
    colours = colormaps["inferno"](np.interp(heat, (0, 1), COLOURS))[..., :3]
    opacity = OPACITY * heat[..., None]
    return Image.fromarray(np.rint(255 * ((1 - opacity) * grey + opacity * colours)).astype(np.uint8))


def check_whole_picture(processor: ArkImageProcessor) -> None:
    """Raises `ValueError` if the processor cuts crops out of a picture: a heat map would lie over the wrong places."""
    if processor.do_center_crop or processor.do_ten_crop:
        raise ValueError("Heat maps are of whole pictures; this image processor cuts crops out of them.")


def called_labels(config: ArkConfig, probabilities: np.ndarray) -> list[int]:
    """
    The labels, by number, whose heat maps are worth a look: each that is called positive, and the most probable of a
    task without.
    """
    called = []
    for labels in labels_by_task(config).values():
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
    name = _for_file_name(path_in(image.name or "").stem)
    for task, labels in labels_by_task(config).items():
        for label in labels:
            if label.column in maps:
                parts = f"{row:05d}", name, f"{label.column:03d}", _for_file_name(f"{task}_{label.name}")
                shown = overlay(image.pixels, maps[label.column])
                shown.save(folder / f"{'_'.join(filter(None, parts))}.png")


def _for_file_name(text: str) -> str:
    kept = re.sub(r"[^\w.-]+", "_", text).encode()[:LONGEST_PART]
    return kept.decode(errors="ignore")  # the cut may go through a letter
