"""Procedural chest phantoms: drawn radiographs with findings of known place, for demos and tests.

Phantom data shows that code runs and learns. It is drawn, not measured, and is never evidence about patients.

Coordinates of the body: the midline is x = 0, x grows towards the right of the image (the patient's left), y grows
downwards, and an upright trunk fills about [-1, 1] in both. Density is X-ray attenuation: more is brighter.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from PIL import Image, ImageDraw, ImageFilter

from ..rows import Row

PREVALENCE = 0.33
SIDES = RIGHT, LEFT = -1, 1  # of the patient, as the sign of x


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
      in years, `view` ("PA", "AP");
    - `masks`: bool (H, W) arrays: "lungs", "heart" and, under its label, every finding that is drawn, whatever
      `labels` says about it.

    Raises `ValueError` for a size below 32.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, not {size}")
    return (draw_phantom_image(site, split, index, size, seed) for index in range(count))


def describe_phantom_image(site: PhantomSite, split: str, index: int, seed: int = 0) -> dict:
    """All that [`draw_phantom_images`] yields but `image` and `masks`, without drawing them."""
    stream = partial(_random, seed, site.name, split)
    number = 2 * index // 3  # patients have two images, one, two, one, ...
    patient = _Patient(site, stream("patient", number))
    return {
        "labels": _report(site, split, _draw_present(site, index, stream), stream("report", index)),
        "sample_id": f"{site.name}-{split}-{index:05d}",
        "patient_id": f"{site.name}-{split}-{number:04d}",
        "sex": patient.sex,
        "age": patient.age,
        "view": _draw_view(site, stream("image", index)),
    }


def draw_phantom_image(site: PhantomSite, split: str, index: int, size: int = 256, seed: int = 0) -> dict:
    """One of the images of [`draw_phantom_images`]."""
    stream = partial(_random, seed, site.name, split)
    patient = _Patient(site, stream("patient", 2 * index // 3))
    present = _draw_present(site, index, stream)
    random = stream("image", index)
    view = _draw_view(site, random)
    large_heart = any(FINDINGS.get(label) is _large_heart for label in present)
    chest = _Chest(patient, _Frame(site, size, random), view, large_heart, random)
    density, masks = chest.density, {"lungs": chest.lungs > 0.5, "heart": chest.heart > 0.5}
    for label in present:
        if label in FINDINGS:
            change, place = FINDINGS[label](chest, stream("finding", index, label))
            density, masks[label] = density + change, place > 0.3
    described = describe_phantom_image(site, split, index, seed)
    return {"image": _expose(density, chest.frame, site, random), **described, "masks": masks}


@dataclass(frozen=True)
class PhantomPictures:
    """Draws the images of a site's rows, whose `path` is their index, as `Release.read_image`."""

    site: str
    size: int
    seed: int

    def __call__(self, row: Row) -> np.ndarray:
        drawn = draw_phantom_image(SITES[self.site], row.split, int(row.path.name), self.size, self.seed)
        return np.asarray(drawn["image"])[None]


def _draw_view(site: PhantomSite, random: Generator) -> str:
    return "AP" if random.random() < site.ap_share else "PA"


def _random(*key: object) -> Generator:
    # Python's hash() of a string differs between processes, crc32 does not.
    return Generator(Philox(SeedSequence([zlib.crc32(str(part).encode()) for part in key])))


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


class _Patient:
    """Who is imaged, and the anatomy that all images of a patient share: lengths in body coordinates."""

    def __init__(self, site: PhantomSite, random: Generator):
        self.sex = "F" if random.random() < 0.5 else "M"
        self.age = int(random.integers(*site.ages, endpoint=True))
        female, years = self.sex == "F", self.age / 90
        self.chest_width = random.uniform(0.66, 0.76) - 0.03 * female  # half of the thorax
        self.apex, self.dome = random.uniform(-0.84, -0.74), random.uniform(0.36, 0.5)  # top and bottom of the lungs
        self.heart_ratio = random.uniform(0.38, 0.45) + 0.02 * years
        self.large_heart_ratio = random.uniform(0.53, 0.64) + 0.02 * years
        self.rib_pitch, self.rib_phase = random.uniform(0.17, 0.21), random.random()
        self.aorta = random.uniform(0.07, 0.1) + 0.05 * years
        self.fat, self.scoliosis = random.random(), random.normal(0, 0.01 + 0.01 * years)
        self.breast = female * (self.age > 12) * random.uniform(0.08, 0.22)
        self.vessel_seed = int(random.integers(2**32))


class _Frame:
    """Where the body lies on the detector: body coordinates `x`, `y` of every pixel (H, W), and pixels of points."""

    def __init__(self, site: PhantomSite, size: int, random: Generator):
        aspect = site.aspect * random.uniform(0.93, 1.07)
        self.size, self.width, self.height = size, round(size * min(1, aspect)), round(size * min(1, 1 / aspect))
        angle = math.radians(random.normal(0, 2))
        self.cos, self.sin = math.cos(angle), math.sin(angle)
        self.scale = random.uniform(0.51, 0.59) * min(self.width, self.height)  # pixels in a unit of the body
        off_x, off_y = random.normal(0, 0.035 * self.scale, 2).tolist()
        self.centre_x, self.centre_y = self.width / 2 + off_x, self.height / 2 + off_y
        right = (np.arange(self.width, dtype=np.float32) - self.centre_x) / self.scale
        down = (np.arange(self.height, dtype=np.float32)[:, None] - self.centre_y) / self.scale
        self.x, self.y = self.cos * right + self.sin * down, self.cos * down - self.sin * right

    def pixels(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Pixel positions (..., 2) as (column, row) of body points (...)."""
        right, down = self.cos * x - self.sin * y, self.sin * x + self.cos * y
        return np.stack([right * self.scale + self.centre_x, down * self.scale + self.centre_y], axis=-1)

    def clouds(self, random: Generator, cells: int) -> np.ndarray:
        """Smooth noise (H, W) of about unit scale with `cells` bumps a side, the same at every size."""
        coarse = Image.fromarray(random.standard_normal((cells, cells), dtype=np.float32))
        return np.asarray(coarse.resize((self.width, self.height), Image.Resampling.BICUBIC))


def _ramp(depth: np.ndarray, edge: float = 0.03) -> np.ndarray:
    """A step from 0 to 1 at depth 0, `edge` wide."""
    return np.clip(depth / edge + 0.5, 0.0, 1.0)


def _depth(x: np.ndarray, y: np.ndarray, radius_x: float, radius_y: float) -> np.ndarray:
    """How far inside an ellipse about the origin points lie: 1 at its centre, 0 on its border."""
    return 1 - np.hypot(x / radius_x, y / radius_y)


def _bands(phase: np.ndarray, share: float) -> np.ndarray:
    """Bones seen along a phase that counts them: bands of `share` of the pitch with a brighter cortex."""
    depth = share / 2 - np.abs(phase - np.rint(phase))
    return _ramp(depth, 0.1) * (1 - 0.45 * _ramp(depth - 0.09, 0.1))


class _Chest:
    """Density (H, W) of a chest without its findings, but for the size of its heart; soft masks of its organs."""

    def __init__(self, patient: _Patient, frame: _Frame, view: str, large_heart: bool, random: Generator):
        self.patient, self.frame = patient, frame
        self.dome = patient.dome + random.normal(0, 0.02)  # how deep the breath was
        self.base = self.dome + 0.38
        x, y = frame.x, frame.y
        ratio = patient.large_heart_ratio if large_heart else patient.heart_ratio
        self.heart = self._heart(1.08 * ratio if view == "AP" else ratio)  # from the front it is farther from the film
        great_vessels = np.clip(0.3 - np.abs(y + 0.05), 0, 0.3)
        mediastinum = _ramp(0.11 + 0.3 * great_vessels - np.abs(x), 0.05) * _ramp(self.dome - y)
        mediastinum = np.maximum(mediastinum, _ramp(_depth(x - 0.09, y + 0.36, patient.aorta - 0.02, 0.1), 0.2))
        self.lungs = (self.cavity(x, y, RIGHT) + self.cavity(x, y, LEFT)) * (1 - self.heart) * (1 - mediastinum)
        self.vessels = random.uniform(0.2, 0.36) * self.lungs * self._vessels()
        self.density = self._soft_tissue(random) + self._bones() + 0.15 * self.heart + 0.08 * mediastinum
        self.density += self.vessels - random.uniform(0.45, 0.7) * self.lungs  # a breath holds more air or less
        trachea = _ramp(0.035 - np.abs(x + 0.01)) * _ramp(-0.3 - y, 0.1)
        stomach = _ramp(_depth(x - 0.36, y - self.dome - 0.2, 0.16, 0.09), 0.4)
        self.density -= 0.15 * trachea + random.uniform(0, 0.3) * stomach

    def _climb(self, y: np.ndarray | float) -> np.ndarray:
        return np.clip((self.base - y) / (self.base - self.patient.apex), 0, 1)

    def wall(self, y: np.ndarray | float) -> np.ndarray:
        """Distance of the lateral lung border from the midline."""
        climb = self._climb(y)
        return self.patient.chest_width * np.sqrt(1 - climb * climb * np.sqrt(climb))

    def cavity(self, x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
        """Soft mask of one side of the thorax, the heart's place included."""
        u = side * x
        medial = 0.08 + 4 * np.clip(self._climb(y) - 0.75, 0, 1) ** 2
        diaphragm = self.dome + 0.05 * (side == LEFT) + 1.6 * (u - 0.34) ** 2
        return _ramp(self.wall(y) - u) * _ramp(u - medial) * _ramp(diaphragm - y)

    def _heart(self, ratio: float) -> np.ndarray:
        """An ellipse with its apex to the patient's left, `ratio` of the thorax wide, that rests on the diaphragm."""
        half_width = ratio * self.patient.chest_width
        half_height, lean = 0.15 + 0.4 * half_width, 0.5
        upright_width = math.sqrt(half_width**2 - (lean * half_height) ** 2)
        y = self.frame.y - (self.dome + 0.1 - half_height)
        return _ramp(_depth(self.frame.x - 0.33 * half_width - lean * y, y, upright_width, half_height), 0.15)

    def _soft_tissue(self, random: Generator) -> np.ndarray:
        patient, u, y = self.patient, np.abs(self.frame.x), self.frame.y
        trunk = patient.chest_width + 0.13 + 0.12 * patient.fat + 0.5 * np.clip(-0.15 - y, 0, 1) ** 2
        shoulders = 0.22 + 0.03 * patient.fat + 1.5 * np.sqrt(np.clip(y + 0.93, 0, 1))
        across = np.clip(1 - (u / np.minimum(trunk, shoulders)) ** 2, 0, 1)
        tissue = 0.95 * np.sqrt(np.sqrt(across)) + 0.05 * self.frame.clouds(random, 7) * (across > 0)
        abdomen = 0.16 * _ramp(y - self.dome - 0.05, 0.4) * across
        return tissue + abdomen + patient.breast * _ramp(_depth(u - 0.4, y - 0.28, 0.3, 0.25), 0.5)

    def _bones(self) -> np.ndarray:
        patient, u, y = self.patient, np.abs(self.frame.x), self.frame.y
        v = u / patient.chest_width
        cage = _ramp(self.wall(y) + 0.035 - u) * _ramp(self.dome + 0.3 - y, 0.3) * _ramp(u - 0.07)
        behind = _bands((y + 0.12 * v - 0.34 * v**3) / patient.rib_pitch + patient.rib_phase, 0.42)
        front = _bands((y + 0.62 * v - 0.2 * v**3) / patient.rib_pitch / 1.15 + patient.rib_phase, 0.5)
        ribs = cage * (0.2 * behind + 0.1 * front * _ramp(v - 0.4, 0.3))
        vertebrae = 0.07 + 0.07 * _bands(y / 0.15 + patient.rib_phase, 0.8)
        spine = vertebrae * _ramp(0.075 - np.abs(self.frame.x - patient.scoliosis * np.sin(3 * y)))
        above_clavicle = y + 0.6 + 0.17 * v - 0.06 * np.sin(5.5 * v)
        clavicles = _ramp(0.032 - np.abs(above_clavicle)) * _ramp(u - 0.07) * _ramp(1 - v, 0.1)
        return ribs + spine + 0.2 * clavicles

    def _vessels(self) -> np.ndarray:
        """Trees that fork outwards from the hila, drawn as lines and softened."""
        frame, random = self.frame, _random(self.patient.vessel_seed)
        canvas = Image.new("L", (frame.width, frame.height))
        pen = ImageDraw.Draw(canvas)
        side, angle = np.repeat([RIGHT, LEFT], 3), np.tile([-0.95, 0.0, 0.95], 2)
        x, y = 0.12 * side, np.full(6, -0.05)
        for length, calibre, shade in ((0.22, 0.03, 230), (0.17, 0.02, 185), (0.13, 0.013, 140), (0.1, 0.009, 95)):
            side, angle, x, y = (np.repeat(values, 2) for values in (side, angle, x, y))
            angle += random.uniform(0.1, 0.45, len(side)) * np.tile([-1, 1], len(side) // 2)
            reach = length * random.uniform(0.7, 1.3, len(side))
            start, x, y = frame.pixels(x, y), x + side * reach * np.cos(angle), y + 1.25 * reach * np.sin(angle)
            width = calibre * frame.scale
            for line in np.concatenate([start, frame.pixels(x, y)], axis=-1).tolist():
                # A line cannot be thinner than a pixel, but it can be fainter.
                pen.line(line, fill=round(shade * min(1, width)), width=max(1, round(width)))
        soft = canvas.filter(ImageFilter.GaussianBlur(0.006 * frame.scale))
        hila = _ramp(_depth(np.abs(frame.x) - 0.14, frame.y + 0.05, 0.08, 0.13), 1.0)
        return np.asarray(soft, dtype=np.float32) / 255 + 0.4 * hila


Drawn = tuple[np.ndarray, np.ndarray]  # what a finding adds to the density, and where it is in [0, 1]; both (H, W)


def _effusion(chest: _Chest, random: Generator) -> Drawn:
    """Fluid with a meniscus that climbs the lateral wall, on one side or both."""
    x, y, fluid = chest.frame.x, chest.frame.y, np.zeros_like(chest.lungs)
    for side in random.permutation(SIDES).tolist()[: 1 + (random.random() < 0.3)]:
        level = chest.dome + random.uniform(-0.2, 0.06)
        meniscus = 0.25 * np.exp(-np.clip(chest.wall(y) - side * x, 0, 1) / 0.12)
        fluid += (side * x > 0) * chest.lungs * _ramp(y - level + meniscus, 0.06)
    return (0.55 - chest.vessels) * fluid, fluid


def _large_heart(chest: _Chest, random: Generator) -> Drawn:
    """Nothing to add: the heart hides what lies around it, so the chest was drawn with a large one."""
    return np.zeros_like(chest.heart), chest.heart


def _nodule(chest: _Chest, random: Generator) -> Drawn:
    """One to three round spots in the upper and middle lungs, clear of the heart."""
    spots = np.zeros_like(chest.lungs)
    for _ in range(random.integers(1, 4)):
        y, radius = random.uniform(-0.5, 0.05), random.uniform(0.06, 0.11)
        u = 0.15 + (float(chest.wall(y)) - 0.15) * random.uniform(0.4, 0.75)
        depth = _depth(chest.frame.x - SIDES[random.integers(2)] * u, chest.frame.y - y, radius, radius)
        spots = np.maximum(spots, _ramp(depth, 0.35))
    return random.uniform(0.34, 0.46) * spots, spots


def _consolidation(chest: _Chest, random: Generator) -> Drawn:
    """A patchy opacity in a lobe of one lung: the bacterial pattern."""
    x, y = SIDES[random.integers(2)] * random.uniform(0.34, 0.48), random.uniform(-0.3, 0.25)
    place = _patch(chest, random, x, y, radius=random.uniform(0.17, 0.27))
    return 0.43 * place, place


def _interstitial(chest: _Chest, random: Generator) -> Drawn:
    """A fine net and a haze through both lungs: the viral pattern."""
    net = sum(0.9 - np.abs(chest.frame.clouds(random, cells)) for cells in (30, 44))
    return random.uniform(0.11, 0.16) * chest.lungs * np.clip(net, -1, 2), chest.lungs


def _pneumothorax(chest: _Chest, random: Generator) -> Drawn:
    """Air around a lung that has shrunk towards its hilum: a rim without vessels behind a fine pleural line."""
    x, y = chest.frame.x, chest.frame.y
    side, shrink = SIDES[random.integers(2)], random.uniform(0.66, 0.8)
    hilum_x, hilum_y = 0.1 * side, chest.dome - 0.1
    lung = chest.cavity(hilum_x + (x - hilum_x) / shrink, hilum_y + (y - hilum_y) / shrink, side)
    rim = (side * x > 0) * chest.lungs * (1 - lung)
    return 0.4 * lung * rim + 0.1 * lung * chest.lungs - (0.15 + chest.vessels) * rim, rim


def _tuberculosis(chest: _Chest, random: Generator) -> Drawn:
    """A patch in an upper lobe, with a ring around a cavity in two of three."""
    x, y = SIDES[random.integers(2)] * random.uniform(0.26, 0.36), random.uniform(-0.5, -0.36)
    place = _patch(chest, random, x, y, radius=random.uniform(0.14, 0.2))
    depth = _depth(chest.frame.x - x, chest.frame.y - y, *random.uniform(0.06, 0.09, 2).tolist())
    cavity = (random.random() < 0.67) * (0.25 * _ramp(0.4 - np.abs(depth), 0.3) - 0.35 * _ramp(depth - 0.3, 0.4))
    return 0.33 * place + cavity * chest.lungs, place


def _patch(chest: _Chest, random: Generator, x: float, y: float, radius: float) -> np.ndarray:
    """A roundish cloud in the lungs, its border frayed by noise."""
    frame = chest.frame
    depth = _depth(frame.x - x, frame.y - y, radius, radius * random.uniform(0.8, 1.2))
    core = np.clip(0.85 + 0.15 * frame.clouds(random, 24), 0, 1)
    return chest.lungs * core * _ramp(depth + 0.2 * frame.clouds(random, 14), 0.7)


FINDINGS: dict[str, Callable[[_Chest, Generator], Drawn]] = {
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


def _expose(density: np.ndarray, frame: _Frame, site: PhantomSite, random: Generator) -> Image.Image:
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


def _draw_hardware(pen: ImageDraw.ImageDraw, frame: _Frame, site: PhantomSite, random: Generator) -> None:
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
