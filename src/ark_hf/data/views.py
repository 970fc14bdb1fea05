"""The student's random view of a radiograph (specification of the originals, section 4), as a function of its seed."""

import math
import zlib

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

CROP_RATIO = (3 / 4, 4 / 3)
SHIFT, ZOOM, ROTATION = 0.0625, 0.1, 10.0  # fraction of the side, fraction, degrees; probability 0.5 together
BRIGHTNESS, CONTRAST, GAMMA = 0.2, 0.2, (0.8, 1.2)  # probability 0.3 for one of the two


def sample_generator(seed: int, cycle: int, task: str, sample: int) -> np.random.Generator:
    """Generator of everything random about one sample in one pass: the same whatever the worker or the restart."""
    return np.random.default_rng([seed, cycle, zlib.crc32(task.encode()), sample])


def resize_side(size: int) -> int:
    """
    Side to which a radiograph is resized before a crop of `size`: 8/7 of it, which is the originals' 256 for 224.

    For 768 the originals' instructions name 896, a little more than this.
    """
    return (8 * size + 3) // 7


def student_view(
    image: torch.Tensor, resize: int, size: int, min_crop_scale: float, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Random crop, shift, zoom and rotation, then a random change of brightness and contrast or of gamma.

    Args:
        image: (1, H, W), uint8, or float in [0, 1].
        resize: The image is first resized to this side, aspect ratio not kept.
        size: Side of the crop in pixels.
        min_crop_scale: Smallest area of the crop as a fraction of the image, 0.08 in the originals.
        generator: Source of all draws.

    Returns:
        The student's view and the same view before the change of intensities (the MICCAI teacher's), both float32
        (1, size, size) in [0, 1].
    """
    image = TF.resize(image, [resize, resize], InterpolationMode.BICUBIC, antialias=True)
    top, left, height, width = _crop_box(resize, min_crop_scale, generator)
    crop = TF.resized_crop(image, top, left, height, width, [size, size], InterpolationMode.BILINEAR, antialias=True)
    crop = TF.to_dtype(crop, torch.float32, scale=True).clamp(0, 1)
    if generator.random() < 0.5:
        crop = _shift_zoom_rotate(crop, generator)
    view = crop
    if generator.random() < 0.3:
        view = _brightness_contrast(crop, generator) if generator.random() < 0.5 else _gamma(crop, generator)
    return view, crop


def _crop_box(side: int, min_scale: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = generator.uniform(min_scale, 1) * side * side
        ratio = math.exp(generator.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < height <= side and 0 < width <= side:
            top, left = generator.integers(side - height + 1), generator.integers(side - width + 1)
            return int(top), int(left), height, width
    return 0, 0, side, side


def _shift_zoom_rotate(image: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    angle = math.radians(generator.uniform(-ROTATION, ROTATION))
    zoom = 1 + generator.uniform(-ZOOM, ZOOM)
    shift_x, shift_y = generator.uniform(-SHIFT, SHIFT, 2) * 2  # the grid is two units wide
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    theta = torch.tensor([[cos, sin, -shift_x], [-sin, cos, -shift_y]], dtype=torch.float32)
    grid = F.affine_grid(theta[None], [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]


def _brightness_contrast(image: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    contrast, brightness = 1 + generator.uniform(-CONTRAST, CONTRAST), generator.uniform(-BRIGHTNESS, BRIGHTNESS)
    return (image * contrast + brightness).clamp(0, 1)


def _gamma(image: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    return image ** generator.uniform(*GAMMA)
