"""The anatomy of the phantoms: a patient, how the body lies on the detector, and what of the chest absorbs X-rays.

Coordinates of the body: the midline is x = 0, x grows towards the right of the image (the patient's left), y grows
downwards, and an upright trunk fills about [-1, 1] in both. Density is X-ray attenuation: more is brighter.
"""

import math
import zlib

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from PIL import Image, ImageDraw, ImageFilter

SIDES = RIGHT, LEFT = -1, 1  # of the patient, as the sign of x
HILUM_Y = -0.05
INSET = 0.015  # from borders to the landmarks in their corners: there a lung is drawn whole
NUM_RIBS = 12  # at most, of which crossings are looked for
FRONT_PITCH = 1.15  # of anterior ribs, in that of posterior ones


def random_stream(*key: object) -> Generator:
    # Python's hash() of a string differs between processes, crc32 does not.
    return Generator(Philox(SeedSequence([zlib.crc32(str(part).encode()) for part in key])))


class Patient:
    """Who is imaged, and the anatomy that all images of a patient share: lengths in body coordinates."""

    def __init__(self, ages: tuple[int, int], random: Generator):
        self.sex = "F" if random.random() < 0.5 else "M"
        self.age = int(random.integers(*ages, endpoint=True))
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


class Frame:
    """Where the body lies on the detector: body coordinates `x`, `y` of every pixel (H, W), and pixels of points."""

    def __init__(self, aspect: float, size: int, random: Generator):
        aspect *= random.uniform(0.93, 1.07)
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

    def fractions(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Places (..., 2) of body points in the picture, as parts of its width and height."""
        return (self.pixels(x, y) + 0.5) / [self.width, self.height]

    def clouds(self, random: Generator, cells: int) -> np.ndarray:
        """Smooth noise (H, W) of about unit scale with `cells` bumps a side, the same at every size."""
        coarse = Image.fromarray(random.standard_normal((cells, cells), dtype=np.float32))
        return np.asarray(coarse.resize((self.width, self.height), Image.Resampling.BICUBIC))


def ramp(depth: np.ndarray, edge: float = 0.03) -> np.ndarray:
    """A step from 0 to 1 at depth 0, `edge` wide."""
    return np.clip(depth / edge + 0.5, 0.0, 1.0)


def depth_in_ellipse(x: np.ndarray, y: np.ndarray, radius_x: float, radius_y: float) -> np.ndarray:
    """How far inside an ellipse about the origin points lie: 1 at its centre, 0 on its border."""
    return 1 - np.hypot(x / radius_x, y / radius_y)


def _bands(phase: np.ndarray, share: float) -> np.ndarray:
    """Bones seen along a phase that counts them: bands of `share` of the pitch with a brighter cortex."""
    depth = share / 2 - np.abs(phase - np.rint(phase))
    return ramp(depth, 0.1) * (1 - 0.45 * ramp(depth - 0.09, 0.1))


class Chest:
    """
    Density (H, W) of a chest without its findings, but for the size of its heart; soft masks of its organs, and masks
    of its bones by name.
    """

    def __init__(self, patient: Patient, frame: Frame, view: str, large_heart: bool, random: Generator):
        self.patient, self.frame = patient, frame
        self.dome = patient.dome + random.normal(0, 0.02)  # how deep the breath was
        self.base = self.dome + 0.38
        x, y = frame.x, frame.y
        ratio = patient.large_heart_ratio if large_heart else patient.heart_ratio
        self.heart_ratio = 1.08 * ratio if view == "AP" else ratio  # from the front it is farther from the film
        self.lungs, self.heart, mediastinum = self._organs(x, y)
        self.vessels = random.uniform(0.2, 0.36) * self.lungs * self._vessels()
        self.density = self._soft_tissue(random) + self._bones() + 0.15 * self.heart + 0.08 * mediastinum
        self.density += self.vessels - random.uniform(0.45, 0.7) * self.lungs  # a breath holds more air or less
        trachea = ramp(0.035 - np.abs(x + 0.01)) * ramp(-0.3 - y, 0.1)
        stomach = ramp(depth_in_ellipse(x - 0.36, y - self.dome - 0.2, 0.16, 0.09), 0.4)
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
        return ramp(self.wall(y) - u) * ramp(u - self._medial(y)) * ramp(self._diaphragm(u, side) - y)

    def _medial(self, y: np.ndarray) -> np.ndarray:
        """Distance of the medial lung border from the midline."""
        return 0.08 + 4 * np.clip(self._climb(y) - 0.75, 0, 1) ** 2

    def _diaphragm(self, u: np.ndarray, side: int) -> np.ndarray:
        """Height of the lower lung border by the distance from the midline."""
        return self.dome + 0.05 * (side == LEFT) + 1.6 * (u - 0.34) ** 2

    def _organs(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Soft masks of lungs, heart and mediastinum at points of the body."""
        heart, mediastinum = self._heart(x, y), ramp(_mediastinum(y) - np.abs(x), 0.05) * ramp(self.dome - y)
        arch = ramp(depth_in_ellipse(x - 0.09, y + 0.36, self.patient.aorta - 0.02, 0.1), 0.2)
        mediastinum = np.maximum(mediastinum, arch)
        lungs = (self.cavity(x, y, RIGHT) + self.cavity(x, y, LEFT)) * (1 - heart) * (1 - mediastinum)
        return lungs, heart, mediastinum

    def _heart(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """An ellipse with its apex to the patient's left, a share of the thorax wide, that rests on the diaphragm."""
        half_width = self.heart_ratio * self.patient.chest_width
        half_height, lean = 0.15 + 0.4 * half_width, 0.5
        upright_width = math.sqrt(half_width**2 - (lean * half_height) ** 2)
        y = y - (self.dome + 0.1 - half_height)
        return ramp(depth_in_ellipse(x - 0.33 * half_width - lean * y, y, upright_width, half_height), 0.15)

    def _soft_tissue(self, random: Generator) -> np.ndarray:
        patient, u, y = self.patient, np.abs(self.frame.x), self.frame.y
        trunk = patient.chest_width + 0.13 + 0.12 * patient.fat + 0.5 * np.clip(-0.15 - y, 0, 1) ** 2
        shoulders = 0.22 + 0.03 * patient.fat + 1.5 * np.sqrt(np.clip(y + 0.93, 0, 1))
        across = np.clip(1 - (u / np.minimum(trunk, shoulders)) ** 2, 0, 1)
        tissue = 0.95 * np.sqrt(np.sqrt(across)) + 0.05 * self.frame.clouds(random, 7) * (across > 0)
        abdomen = 0.16 * ramp(y - self.dome - 0.05, 0.4) * across
        return tissue + abdomen + patient.breast * ramp(depth_in_ellipse(u - 0.4, y - 0.28, 0.3, 0.25), 0.5)

    def _bones(self) -> np.ndarray:
        patient, u, y = self.patient, np.abs(self.frame.x), self.frame.y
        v = u / patient.chest_width
        cage = ramp(self.wall(y) + 0.035 - u) * ramp(self.dome + 0.3 - y, 0.3) * ramp(u - 0.07)
        behind = _bands(self._posterior(v, y), 0.42)
        front = _bands(self._anterior(v, y), 0.5)
        ribs = cage * (0.2 * behind + 0.1 * front * ramp(v - 0.4, 0.3))
        vertebrae = 0.07 + 0.07 * _bands(y / 0.15 + patient.rib_phase, 0.8)
        spine = vertebrae * ramp(0.075 - np.abs(self.frame.x - patient.scoliosis * np.sin(3 * y)))
        above_clavicle = y + 0.6 + 0.17 * v - 0.06 * np.sin(5.5 * v)
        clavicles = ramp(0.032 - np.abs(above_clavicle)) * ramp(u - 0.07) * ramp(1 - v, 0.1)
        self.bones = {
            "posterior_ribs": (cage > 0.5) & (behind > 0.5),
            "anterior_ribs": (cage > 0.5) & (front > 0.5) & (v > 0.4),
            "clavicles": clavicles > 0.5,
        }
        return ribs + spine + 0.2 * clavicles

    def _vessels(self) -> np.ndarray:
        """Trees that fork outwards from the hila, drawn as lines and softened."""
        frame, random = self.frame, random_stream(self.patient.vessel_seed)
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
        hila = ramp(depth_in_ellipse(np.abs(frame.x) - 0.14, frame.y - HILUM_Y, 0.08, 0.13), 1.0)
        return np.asarray(soft, dtype=np.float32) / 255 + 0.4 * hila

    def landmarks(self) -> dict[str, tuple[float, float]]:
        """Named places, as [`draw_phantom_images`] describes them."""
        found = {}
        for side, name in ((RIGHT, "right"), (LEFT, "left")):
            points = {
                "apex": self._apex(),
                "hilum": (_mediastinum(HILUM_Y), HILUM_Y),
                "costophrenic_angle": self._costophrenic_angle(side),
                **self._rib_crossings(side),
            }
            u, y = np.array(list(points.values())).T
            for point, (across, down) in zip(points, self.frame.fractions(side * u, y).tolist(), strict=True):
                if 0 <= across < 1 and 0 <= down < 1:
                    found[f"{name}_{point}"] = across, down
        return found

    def _apex(self) -> tuple[float, float]:
        """Where the lateral border of a lung meets the medial one: distance from the midline, and height."""
        y = np.linspace(self.patient.apex, 0, 1001)
        wall, medial = self.wall(y), self._medial(y)
        top = int(np.argmax(wall - medial > 2 * INSET))
        return (wall[top] + medial[top]) / 2, y[top]

    def _costophrenic_angle(self, side: int) -> tuple[float, float]:
        """Where the lateral border of a lung meets the lower one."""
        y = np.linspace(self.base, self.dome, 1001)
        u = self.wall(y) - INSET
        lowest = int(np.argmax(self._diaphragm(u, side) - y > INSET))
        return u[lowest], y[lowest]

    def _rib_crossings(self, side: int) -> dict[str, tuple[float, float]]:
        """Where the middle of a posterior rib lies behind that of an anterior one, by the numbers of both."""
        patient, v = self.patient, np.linspace(0.45, 1, 101)  # from where on anterior ribs are to be seen
        pitch, front_pitch = patient.rib_pitch, FRONT_PITCH * patient.rib_pitch
        # Counted downwards from the first that would meet the midline below the apices
        first, first_front = (math.ceil(patient.apex / each + patient.rib_phase) for each in (pitch, front_pitch))
        rib, front = first + np.arange(NUM_RIBS)[:, None], first_front + np.arange(NUM_RIBS)
        parting = front_pitch * self._anterior(v, 0) - pitch * self._posterior(v, 0)  # increases outwards
        place = np.interp(front_pitch * front - pitch * rib, parting, v, left=np.nan, right=np.nan)
        u, y = place * patient.chest_width, pitch * (rib - self._posterior(place, 0))
        lungs, _, _ = self._organs(side * u, y)
        return {
            f"rib_crossing_{row + 1}_{column + 1}": (u[row, column], y[row, column])
            for row, column in np.argwhere(lungs > 0.9).tolist()
        }

    def _posterior(self, v: np.ndarray, y: np.ndarray | float) -> np.ndarray:
        """Counts posterior ribs at shares `v` of the chest's half width: an integer in the middle of each."""
        return (y + 0.12 * v - 0.34 * v**3) / self.patient.rib_pitch + self.patient.rib_phase

    def _anterior(self, v: np.ndarray, y: np.ndarray | float) -> np.ndarray:
        """Counts anterior ribs likewise."""
        return (y + 0.62 * v - 0.2 * v**3) / self.patient.rib_pitch / FRONT_PITCH + self.patient.rib_phase


def _mediastinum(y: np.ndarray | float) -> np.ndarray:
    """Distance of its border from the midline: farthest at the hila."""
    return 0.11 + 0.3 * np.clip(0.3 - np.abs(y - HILUM_Y), 0, 0.3)
