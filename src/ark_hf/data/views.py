"""Random views of a radiograph (specification of the originals, section 4), as a function of their seed."""

import hashlib
import math
import zlib
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

CROP_RATIO = (3 / 4, 4 / 3)
SHIFT, ZOOM, ROTATION = 0.0625, 0.1, 10.0  # fraction of the side, fraction, degrees; probability 0.5 together
SMALLEST = 1e-6  # part of white below which a pixel is black, and stays so
BRIGHTNESS, CONTRAST, GAMMA = 0.2, 0.2, (0.8, 1.2)  # probability 0.3 for one of the two


class Turn(NamedTuple):
    """Rotation by `angle` (radians) and magnification about the centre, then a shift in fractions of the side."""

    angle: float
    zoom: float
    right: float
    down: float


class Geometry(NamedTuple):
    """
    What a view shows of a picture.

    Args:
        box: Left, top, width and height of the crop, as fractions of the picture's sides.
        turn: What then happens to the crop, whose border is filled by reflection; `None` for half of the views.
    """

    box: tuple[float, float, float, float]
    turn: Turn | None = None


class Intensities(NamedTuple):
    """
    What a view makes of grey values. It has a contrast and a brightness, or a gamma, or neither. Colours keep hue and
    saturation: what is changed is the value of the brightest channel, and the others by the same factor.

    Args:
        contrast, brightness: Grey values in [0, 1] are multiplied by the one, and the other is added.
        gamma: Power to which they are raised.
    """

    contrast: float = 1.0
    brightness: float = 0.0
    gamma: float = 1.0

    def change(self, pixels: torch.Tensor, white: float) -> torch.Tensor:
        """Pixels (C, H, W) from 0 to `white`, changed; the same tensor if there is nothing to change."""
        if len(pixels) > 1 and self != Intensities():
            brightest = pixels.amax(dim=0, keepdim=True)
            return pixels * (self.change(brightest, white) / brightest.clamp(min=SMALLEST * white))
        if self.gamma != 1:
            return torch.exp2((pixels / white).log2_() * self.gamma) * white  # three times as fast as a power
        if (self.contrast, self.brightness) != (1, 0):
            return (pixels * self.contrast + self.brightness * white).clamp_(0, white)
        return pixels


class View(NamedTuple):
    """What is random about one view. Its geometry is that of a radiograph's masks, too; intensities have none."""

    geometry: Geometry
    intensities: Intensities = Intensities()


def sample_generator(seed: int, cycle: int, task: str, sample: int | str) -> np.random.Generator:
    """
    Generator of everything random about one sample in one pass: the same whatever the worker or the restart.

    Args:
        sample: What the sample is known by in its task: its `image_id`, or without one its row number.
    """
    if isinstance(sample, str):
        sample = int.from_bytes(hashlib.blake2b(sample.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng([seed, cycle, zlib.crc32(task.encode()), sample])


def resize_side(size: int) -> int:
    """
    Side to which a radiograph is resized before a crop of `size`: 8/7 of it, which is the originals' 256 for 224.

    For 768 the originals' instructions name 896, a little more than this.
    """
    return (8 * size + 3) // 7


def draw_view(resize: int, min_crop_scale: float, generator: np.random.Generator) -> View:
    """
    Draws one view.

    Args:
        resize: The crop has whole pixels of a picture of this side.
        min_crop_scale: Smallest area of the crop as a fraction of the picture, 0.08 in the originals.
        generator: Source of all draws.
    """
    box = _draw_box(resize, min_crop_scale, generator)
    turn = None
    if generator.random() < 0.5:
        angle = math.radians(generator.uniform(-ROTATION, ROTATION))
        turn = Turn(angle, 1 + generator.uniform(-ZOOM, ZOOM), *generator.uniform(-SHIFT, SHIFT, 2).tolist())
    return View(Geometry(box, turn), _draw_intensities(generator))


def _draw_intensities(generator: np.random.Generator) -> Intensities:
    if generator.random() >= 0.3:
        return Intensities()
    if generator.random() < 0.5:
        return Intensities(1 + generator.uniform(-CONTRAST, CONTRAST), generator.uniform(-BRIGHTNESS, BRIGHTNESS))
    return Intensities(gamma=generator.uniform(*GAMMA))


def _draw_box(side: int, min_scale: float, generator: np.random.Generator) -> tuple[float, float, float, float]:
    for _ in range(10):
        area = generator.uniform(min_scale, 1) * side * side
        ratio = math.exp(generator.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < height <= side and 0 < width <= side:
            top, left = int(generator.integers(side - height + 1)), int(generator.integers(side - width + 1))
            return left / side, top / side, width / side, height / side
    return 0.0, 0.0, 1.0, 1.0


class Sampling:
    """
    Where in a picture each pixel of a view lies: one for a radiograph and all of its masks, whatever their sizes.

    Crop, zoom and rotation are one interpolation of the resized picture. The originals interpolate up to three times:
    the resize (bicubic), the crop, the rotation. Here a picture no larger than `resize` is not resized first, a larger
    one as theirs. What a view shows is the same; it is less blurred, on real radiographs of 256 pixels by 0.25 grey
    levels of 255 in the mean, and 0.5 if turned (99 % of pixels: 1.5, 3).

    Args:
        geometry: What the view shows.
        resize: Sides of a picture that are larger than this are first shrunk to it; its aspect ratio is not kept.
        size: Side of the view in pixels.
    """

    def __init__(self, geometry: Geometry, resize: int, size: int):
        self.resize = resize
        self.places = _places(geometry, size)

    def of_picture(self, image: torch.Tensor) -> torch.Tensor:
        """(C, H, W), uint8, or float in [0, 1], to (C, size, size) float32 of its range, not rounded: bilinear."""
        shape = [min(side, self.resize) for side in image.shape[-2:]]
        if shape != [*image.shape[-2:]]:
            image = TF.resize(image, shape, InterpolationMode.BICUBIC, antialias=True)
        pixels = image.float() if image.dtype == torch.uint8 else image.clamp(0, 1)  # a bicubic filter overshoots
        return F.grid_sample(pixels[None], self.places, "bilinear", "border", align_corners=False)[0]

    def of_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """(C, H, W) of any kind to (C, size, size) of that kind: each pixel has the value of the nearest one."""
        height, width = mask.shape[-2:]
        across, down = ((self.places[0] + 1) * (torch.tensor([width, height]) / 2)).long().unbind(-1)
        return mask[:, down.clamp(0, height - 1), across.clamp(0, width - 1)]


def student_view(image: torch.Tensor, view: View, resize: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    One view of a radiograph.

    Args:
        image: (1, H, W), or in colour (3, H, W), uint8, or float in [0, 1].
        view: What is random about it.
        resize, size: As for [`Sampling`].

    Returns:
        The student's view and the same view before the change of intensities (the MICCAI teacher's), both (C, size,
        size) of the image's dtype and range.
    """
    return seen_through(Sampling(view.geometry, resize, size), view.intensities, image)


def seen_through(
    sampling: Sampling, intensities: Intensities, image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As [`student_view`], of a geometry that is sampled already, as where masks take the same."""
    crop = sampling.of_picture(image)
    changed = intensities.change(crop, 255 if image.dtype == torch.uint8 else 1)
    before = _as_stored(crop, image.dtype)
    return (before if changed is crop else _as_stored(changed, image.dtype)), before


def _places(geometry: Geometry, size: int) -> torch.Tensor:
    """(1, size, size, 2): which place of the picture, from -1 to 1 across and down, each pixel of the view shows."""
    (left, top, width, height), turn = geometry
    centre, half = (2 * left + width - 1, 2 * top + height - 1), (width, height)
    side = (torch.arange(size) + 0.5) * (2 / size) - 1
    places = torch.empty(2, size, size)
    if turn is None:
        for plane, start, axis in zip(places, centre, (0, 1), strict=True):
            plane.copy_((side * half[axis] + start).unsqueeze(axis))
    else:
        # Back from the turned crop to the crop, whose side is two units
        cos, sin = math.cos(turn.angle) / turn.zoom, math.sin(turn.angle) / turn.zoom
        x, y = side - 2 * turn.right, (side - 2 * turn.down)[:, None]
        for plane, across, down, start, length in zip(places, (cos, -sin), (sin, cos), centre, half, strict=True):
            torch.add(x * across, y * down, out=plane)
            # Reflected at the crop's border, 2 * clamp(place) - place, and then placed in the picture
            reflected = plane.clamp(-1, 1).sub_(plane, alpha=0.5)
            torch.add(torch.tensor(start), reflected, alpha=2 * length, out=plane)
    return places.permute(1, 2, 0)[None]


def _as_stored(values: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return (values + 0.5).to(torch.uint8) if kind == torch.uint8 else values
