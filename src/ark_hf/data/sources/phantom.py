"""Procedural chest phantoms: drawn radiographs with findings of known place, for demos and tests.

Phantom data shows that code runs and learns. It is drawn, not measured, and is never evidence about patients.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

from ..rows import Row
from .phantom_chest import SIDES, Chest, Frame, Patient, depth_in_ellipse, ramp, random_stream

PREVALENCE = 0.33


@dataclass(frozen=True)
class PhantomSite:
    """A hospital: its label space, and the population and scanner that set its images apart.

    Labels that `FINDINGS` knows are drawn; any other stands for the absence of them all. `uncertain` and `unknown` are
    the shares of labels reported as -1 (in the split "train" only) and as NaN (everywhere). `ap_share` and `wires` are
    the shares of images taken from the front and with electrode wires, `aspect` is width by height, `blur` in pixels
    of a 256-pixel image, `contrast` and `noise` in units of the grey range.
    """

    name: str
    labels: tuple[str, ...]
    problem_type: str = "multi_label_classification"
    uncertain: float = 0.0
    unknown: float = 0.0
    ages: tuple[int, int] = (18, 90)
    ap_share: float = 0.2
    aspect: float = 1.0
    contrast: float = 0.9
    blur: float = 0.7
    noise: float = 0.015
    wires: float = 0.0


SITES = {
    site.name: site
    for site in (
        PhantomSite("phantom_city", ("Effusion", "Cardiomegaly", "Nodule", "No Finding"), unknown=0.04),
        PhantomSite(
            "phantom_coast",
            ("normal", "bacterial", "viral"),
            "single_label_classification",
            ages=(1, 17),
            ap_share=0.8,
            aspect=1.15,
            blur=0.5,
            noise=0.03,
        ),
        PhantomSite("phantom_hill", ("Tuberculosis",), aspect=0.9, contrast=0.75, blur=1.2),
        PhantomSite(
            "phantom_lake",
            ("Pleural Effusion", "Enlarged Heart", "Pneumothorax"),
            uncertain=0.06,
            ages=(40, 95),
            ap_share=0.6,
            noise=0.025,
            wires=0.6,
        ),
    )
}


def draw_phantom_images(site: PhantomSite, split: str, count: int, size: int = 256, seed: int = 0) -> Iterator[dict]:
    """Draw the first `count` images of a split; each is a pure function of (seed, site, split, index, size).

    Yields dicts with
    - `image`: 8-bit grey `PIL.Image` (mode "L") whose longer side is `size`;
    - `labels`: an int class for a single-label site, else one float per label: 0, 1, -1 (uncertain) or NaN (unknown);
    - `sample_id`, `patient_id` (one or two images per patient; splits and sites share none), `sex` ("F", "M"), `age`
      in years, `fat` in [0, 1] (how stout the patient is drawn), `view` ("PA", "AP");
    - `masks`: bool (H, W) arrays: "lungs", "heart", "posterior_ribs", "anterior_ribs", "clavicles" and, under its
      label, every finding that is drawn, whatever `labels` says about it; they may overlap;
    - `landmarks`: places of points of the anatomy by name, as (x, y) from the upper left corner in fractions of the
      picture's width and height, so that they hold at every size. Each begins with the patient's side, "right_" or
      "left_": "apex", the top of the lung; "hilum", where the mediastinum is widest; "costophrenic_angle", the lowest
      lateral corner of the lung; and "rib_crossing_4_3", where posterior rib 4 lies behind anterior rib 3, for every
      pair that crosses in front of lung. Points outside the picture are left out.

    Raises `ValueError` for a size below 32.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, not {size}")
    return (draw_phantom_image(site, split, index, size, seed) for index in range(count))


def describe_phantom_image(site: PhantomSite, split: str, index: int, seed: int = 0) -> dict:
    """All that [`draw_phantom_images`] yields but `image`, `masks` and `landmarks`, without drawing them."""
    stream = partial(random_stream, seed, site.name, split)
    number = 2 * index // 3  # patients have two images, one, two, one, ...
    patient = Patient(site.ages, stream("patient", number))
    return {
        "labels": _report(site, split, _draw_present(site, index, stream), stream("report", index)),
        "sample_id": f"{site.name}-{split}-{index:05d}",
        "patient_id": f"{site.name}-{split}-{number:04d}",
        "sex": patient.sex,
        "age": patient.age,
        "fat": patient.fat,
        "view": _draw_view(site, stream("image", index)),
    }


def draw_phantom_image(site: PhantomSite, split: str, index: int, size: int = 256, seed: int = 0) -> dict:
    """One of the images of [`draw_phantom_images`]."""
    stream = partial(random_stream, seed, site.name, split)
    patient = Patient(site.ages, stream("patient", 2 * index // 3))
    present = _draw_present(site, index, stream)
    random = stream("image", index)
    view = _draw_view(site, random)
    large_heart = any(FINDINGS.get(label) is _large_heart for label in present)
    chest = Chest(patient, Frame(site.aspect, size, random), view, large_heart, random)
    density, masks = chest.density, {"lungs": chest.lungs > 0.5, "heart": chest.heart > 0.5, **chest.bones}
    for label in present:
        if label in FINDINGS:
            change, place = FINDINGS[label](chest, stream("finding", index, label))
            density, masks[label] = density + change, place > 0.3
    described = describe_phantom_image(site, split, index, seed)
    image = _expose(density, chest.frame, site, random)
    return {"image": image, **described, "masks": masks, "landmarks": chest.landmarks()}


@dataclass(frozen=True)
class PhantomPictures:
    """Draws the images of a site's rows, whose `path` is their index, as `Release.read_image`."""

    site: str
    size: int
    seed: int

    def __call__(self, row: Row) -> np.ndarray:
        drawn = draw_phantom_image(SITES[self.site], row.split, int(row.path.name), self.size, self.seed)
        return np.asarray(drawn["image"])[None]


@dataclass(frozen=True)
class PhantomMasks:
    """Masks of the same rows, as `Release.read_masks`: unknown where the site's report does not say yes or no."""

    site: str
    size: int
    seed: int
    labels: tuple[str, ...]

    def __call__(self, row: Row) -> list[np.ndarray | None]:
        site = SITES[self.site]
        drawn = draw_phantom_image(site, row.split, int(row.path.name), self.size, self.seed)
        known = dict(zip(site.labels, np.isin(drawn["labels"], (0, 1)), strict=True))
        absent = np.zeros_like(drawn["masks"]["lungs"])
        return [drawn["masks"].get(label, absent) if known.get(label, True) else None for label in self.labels]


def _draw_view(site: PhantomSite, random: Generator) -> str:
    return "AP" if random.random() < site.ap_share else "PA"


def _draw_present(site: PhantomSite, index: int, stream: Callable[..., Generator]) -> list[str]:
    """The labels that hold for an image."""
    if site.problem_type == "single_label_classification":
        block, position = divmod(index, len(site.labels))  # n images in a row have each of the n classes once
        return [site.labels[stream("classes", block).permutation(len(site.labels))[position]]]
    draws = zip(site.labels, stream("labels", index).random(len(site.labels)), strict=True)
    present = [label for label, draw in draws if label in FINDINGS and draw < PREVALENCE]
    return present or [label for label in site.labels if label not in FINDINGS]


def _report(site: PhantomSite, split: str, present: list[str], random: Generator) -> list[float] | int:
    """What the site writes down about an image for which the labels `present` hold."""
    if site.problem_type == "single_label_classification":
        return site.labels.index(present[0])
    report = np.array([label in present for label in site.labels], dtype=float)
    uncertain, unknown = random.random((2, len(report)))
    if split == "train":
        report[uncertain < site.uncertain] = -1.0
    report[unknown < site.unknown] = np.nan
    return report.tolist()


Drawn = tuple[np.ndarray, np.ndarray]  # what a finding adds to the density, and where it is in [0, 1]; both (H, W)


def _effusion(chest: Chest, random: Generator) -> Drawn:
    """Fluid with a meniscus that climbs the lateral wall, on one side or both."""
    x, y, fluid = chest.frame.x, chest.frame.y, np.zeros_like(chest.lungs)
    for side in random.permutation(SIDES).tolist()[: 1 + (random.random() < 0.3)]:
        level = chest.dome + random.uniform(-0.2, 0.06)
        meniscus = 0.25 * np.exp(-np.clip(chest.wall(y) - side * x, 0, 1) / 0.12)
        fluid += (side * x > 0) * chest.lungs * ramp(y - level + meniscus, 0.06)
    return (0.55 - chest.vessels) * fluid, fluid


def _large_heart(chest: Chest, random: Generator) -> Drawn:
    """Nothing to add: the heart hides what lies around it, so the chest was drawn with a large one."""
    return np.zeros_like(chest.heart), chest.heart


def _nodule(chest: Chest, random: Generator) -> Drawn:
    """One to three round spots in the upper and middle lungs, clear of the heart."""
    spots = np.zeros_like(chest.lungs)
    for _ in range(random.integers(1, 4)):
        y, radius = random.uniform(-0.5, 0.05), random.uniform(0.06, 0.11)
        u = 0.15 + (float(chest.wall(y)) - 0.15) * random.uniform(0.4, 0.75)
        depth = depth_in_ellipse(chest.frame.x - SIDES[random.integers(2)] * u, chest.frame.y - y, radius, radius)
        spots = np.maximum(spots, ramp(depth, 0.35))
    return random.uniform(0.34, 0.46) * spots, spots


def _consolidation(chest: Chest, random: Generator) -> Drawn:
    """A patchy opacity in a lobe of one lung: the bacterial pattern."""
    x, y = SIDES[random.integers(2)] * random.uniform(0.34, 0.48), random.uniform(-0.3, 0.25)
    place = _patch(chest, random, x, y, radius=random.uniform(0.17, 0.27))
    return 0.43 * place, place


def _interstitial(chest: Chest, random: Generator) -> Drawn:
    """A fine net and a haze through both lungs: the viral pattern."""
    net = sum(0.9 - np.abs(chest.frame.clouds(random, cells)) for cells in (30, 44))
    return random.uniform(0.11, 0.16) * chest.lungs * np.clip(net, -1, 2), chest.lungs


def _pneumothorax(chest: Chest, random: Generator) -> Drawn:
    """Air around a lung that has shrunk towards its hilum: a rim without vessels behind a fine pleural line."""
    x, y = chest.frame.x, chest.frame.y
    side, shrink = SIDES[random.integers(2)], random.uniform(0.66, 0.8)
    hilum_x, hilum_y = 0.1 * side, chest.dome - 0.1
    lung = chest.cavity(hilum_x + (x - hilum_x) / shrink, hilum_y + (y - hilum_y) / shrink, side)
    rim = (side * x > 0) * chest.lungs * (1 - lung)
    return 0.4 * lung * rim + 0.1 * lung * chest.lungs - (0.15 + chest.vessels) * rim, rim


def _tuberculosis(chest: Chest, random: Generator) -> Drawn:
    """A patch in an upper lobe, with a ring around a cavity in two of three."""
    x, y = SIDES[random.integers(2)] * random.uniform(0.26, 0.36), random.uniform(-0.5, -0.36)
    place = _patch(chest, random, x, y, radius=random.uniform(0.14, 0.2))
    depth = depth_in_ellipse(chest.frame.x - x, chest.frame.y - y, *random.uniform(0.06, 0.09, 2).tolist())
    cavity = (random.random() < 0.67) * (0.25 * ramp(0.4 - np.abs(depth), 0.3) - 0.35 * ramp(depth - 0.3, 0.4))
    return 0.33 * place + cavity * chest.lungs, place


def _patch(chest: Chest, random: Generator, x: float, y: float, radius: float) -> np.ndarray:
    """A roundish cloud in the lungs, its border frayed by noise."""
    frame = chest.frame
    depth = depth_in_ellipse(frame.x - x, frame.y - y, radius, radius * random.uniform(0.8, 1.2))
    core = np.clip(0.85 + 0.15 * frame.clouds(random, 24), 0, 1)
    return chest.lungs * core * ramp(depth + 0.2 * frame.clouds(random, 14), 0.7)


FINDINGS: dict[str, Callable[[Chest, Generator], Drawn]] = {
    "Effusion": _effusion,
    "Pleural Effusion": _effusion,
    "Cardiomegaly": _large_heart,
    "Enlarged Heart": _large_heart,
    "Nodule": _nodule,
    "Pneumothorax": _pneumothorax,
    "Tuberculosis": _tuberculosis,
    "bacterial": _consolidation,
    "viral": _interstitial,
}


def _expose(density: np.ndarray, frame: Frame, site: PhantomSite, random: Generator) -> Image.Image:
    """The 8-bit picture under automatic exposure, so that overall brightness says little about the labels."""
    density = density + random.normal(0, 0.04) * frame.x + random.normal(0, 0.04) * frame.y  # the heel effect
    low, median, high = np.percentile(density, [4, 50, 97]).tolist()
    gamma = math.log(random.uniform(0.42, 0.6)) / math.log((median - low) / (high - low))
    black, white = random.uniform(0.02, 0.1), site.contrast * random.uniform(0.85, 1.0)
    grey = black + (white - black) * np.clip((density - low) / (high - low), 0, 1.25) ** gamma
    picture = Image.fromarray((np.clip(grey, 0, 1) * 255).astype(np.uint8))
    _draw_hardware(ImageDraw.Draw(picture), frame, site, random)
    picture = picture.filter(ImageFilter.GaussianBlur(site.blur * frame.size / 256))
    noise = random.uniform(0.6, 1.4) * 255 * site.noise * random.standard_normal(grey.shape, dtype=np.float32)
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def _draw_hardware(pen: ImageDraw.ImageDraw, frame: Frame, site: PhantomSite, random: Generator) -> None:
    """What hides or marks a picture: electrode wires, a letter L on the patient's left."""
    thickness = max(1, round(0.008 * frame.size))
    t = np.linspace(0, 1, 24)
    for _ in range(random.integers(1, 4) if random.random() < site.wires else 0):
        x = random.uniform(-0.7, 0.7) + random.uniform(-0.5, 0.5) * t + 0.15 * np.sin(random.uniform(2, 6) * t)
        wire = frame.pixels(x, random.uniform(-0.6, 0.4) + random.uniform(0.3, 1.2) * t)
        pen.line(wire.ravel().tolist(), fill=225, width=thickness)
        pen.circle(wire[0].tolist(), 2.2 * thickness, fill=225)
    corner = np.array([frame.width * random.uniform(0.82, 0.9), frame.height * random.uniform(0.05, 0.08)])
    letter = corner + frame.size * np.array([[0, 0], [0, 0.045], [0.025, 0.045]])
    pen.line(letter.ravel().tolist(), fill=240, width=thickness)
