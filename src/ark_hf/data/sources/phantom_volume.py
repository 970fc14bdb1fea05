"""
Procedural CT of the chest: trunk, lungs, vessels and nodules of known place, for demos and tests. Needs no torch.

Phantom data shows that code runs and learns. It is drawn, not measured, and is never evidence about patients.

Nodules are balls among vessels of their own thickness and density: in a slice both are round spots, and only the third
dimension tells them apart. Whether there are any says little of the sum of all voxels, as vessels vary more.
"""

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.random import Generator

from ..rows import Row
from ..volumes.volume import Volume
from .phantom_chest import LEFT, RIGHT, SIDES, random_stream

LABELS = ("lungs", "vessels", "nodules")  # of the label map, 1 to 3; what comes later hides what came before
WIDTH, DEPTH, HEIGHT = 320.0, 240.0, 240.0  # mm that are drawn
AIR, FAT, MUSCLE, LUNG, BLOOD, NODULE, BONE = -1000, -90, 50, -860, 40, 30, 450  # Hounsfield units
MIN_SIZE = 24


def draw_phantom_volume(split: str, index: int, size: int = 64, seed: int = 0) -> dict:
    """
    One CT, a pure function of (split, index, size, seed).

    Args:
        split: "train", "validation" or "test", or any other word.
        index: Of two in a row, 0 and 1, 2 and 3, one has nodules.
        size: Voxels from right to left, at least 24; there are three quarters of them from front to back, and as many
            in height, all of the same spacing.
        seed: Seed of everything drawn.

    Returns:
        A dict of
        - `volume`: [`Volume`] of int16 Hounsfield units, axes "LPS";
        - `mask`: [`Volume`] of uint8 on its grid, 0 or a number of `LABELS`, from 1;
        - `masks`: bool arrays of the same shape: "trunk", "lungs" (what is in them counted in), "vessels", "nodules";
        - `nodules`: of each its centre in mm, RAS as in [`Volume`], and its radius in mm;
        - `labels`: [1.0] if there are nodules, else [0.0];
        - `sample_id`, `patient_id` (a volume each), `sex` and `age`.

    Raises:
        ValueError: The size is below 24.
    """
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} voxels, not {size}")
    random = random_stream(seed, "phantom_volume", split, index)
    spacing = WIDTH / size
    shape = (size, round(DEPTH / spacing), round(HEIGHT / spacing))
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    x, y, z = _grid(shape, spacing)  # mm from the middle, to the left, the back and the head

    body = _Body(random)
    trunk = np.broadcast_to(body.trunk(x, y), shape)
    lungs = body.lung(x, y, z, RIGHT) | body.lung(x, y, z, LEFT)
    voxels = np.where(trunk > 0, np.where(trunk > 0.12, MUSCLE, FAT), AIR).astype(np.float32)
    spine = np.hypot(x / 17, (y - body.back) / 15) < 1
    voxels[spine & (trunk > 0)] = BONE
    voxels[lungs] = LUNG

    drawing = partial(_Drawing, voxels, spacing)
    vessels = drawing(BLOOD)
    for side in SIDES:
        vessels.tree(body, side, random)
    vessels.where &= lungs
    nodules = drawing(NODULE)
    places = []
    if _has_nodules(split, index, seed):
        places = _nodule_places(body, random)
        for place, radius in places:
            nodules.capsule(place, place, radius)
    nodules.where &= lungs
    for each in (vessels, nodules):
        voxels[each.where] = each.density
    voxels += 30 * random.standard_normal(shape, dtype=np.float32)

    labels = np.zeros(shape, dtype=np.uint8)
    for number, where in enumerate((lungs, vessels.where, nodules.where), start=1):
        labels[where] = number
    described = describe_phantom_volume(split, index, seed)
    return {
        "volume": Volume(np.clip(np.rint(voxels), -1024, 3071).astype(np.int16), affine),
        "mask": Volume(labels, affine),
        "masks": {
            "trunk": trunk > 0,
            "lungs": lungs,
            "vessels": vessels.where & ~nodules.where,
            "nodules": nodules.where,
        },
        "nodules": [{"center": [-each[0], -each[1], each[2]], "radius": radius} for each, radius in places],
        **described,
    }


def describe_phantom_volume(split: str, index: int, seed: int = 0) -> dict:
    """`labels`, `sample_id`, `patient_id`, `sex` and `age` of [`draw_phantom_volume`], without drawing."""
    random = random_stream(seed, "phantom_volume_patient", split, index)
    return {
        "labels": [float(_has_nodules(split, index, seed))],
        "sample_id": f"phantom_ct-{split}-{index:05d}",
        "patient_id": f"phantom_ct-{split}-{index:05d}",
        "sex": "F" if random.random() < 0.5 else "M",
        "age": int(random.integers(18, 90, endpoint=True)),
    }


@dataclass(frozen=True)
class PhantomVolumes:
    """Draws the volumes of rows, whose `path` is their index, as `Release.read_volume`; or what another key holds."""

    size: int
    seed: int
    key: str = "volume"

    def __call__(self, row: Row) -> Volume:
        return _drawn(row.split, int(row.path.name), self.size, self.seed)[self.key]


@lru_cache(maxsize=1)  # a row's volume and its label map are asked for one after the other
def _drawn(split: str, index: int, size: int, seed: int) -> dict:
    return draw_phantom_volume(split, index, size, seed)


def _has_nodules(split: str, index: int, seed: int) -> bool:
    pair, second = divmod(index, 2)
    return bool(random_stream(seed, "phantom_volume_pair", split, pair).integers(2)) == bool(second)


def _grid(shape: tuple[int, ...], spacing: float) -> list[np.ndarray]:
    axes = [(np.arange(side, dtype=np.float32) - (side - 1) / 2) * spacing for side in shape]
    return [axis.reshape([-1 if at == number else 1 for at in range(3)]) for number, axis in enumerate(axes)]


class _Body:
    """The anatomy: lengths in mm, x to the patient's left, y to the back, z to the head."""

    def __init__(self, random: Generator):
        self.half_width, self.half_depth = random.uniform(135, 152), random.uniform(88, 104)
        self.back = 0.62 * self.half_depth
        self.lung_radii = random.uniform(0.9, 1.05, 3) * [50, 66, 100]
        self.lung_x, self.lung_z = 0.47 * self.half_width, random.uniform(-8, 8)
        self.heart = np.array([random.uniform(18, 30), -28, self.lung_z - 40]), random.uniform(40, 50)

    def trunk(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Depth below the skin: 0 there, 1 in the middle."""
        return 1 - np.sqrt((x / self.half_width) ** 2 + (y / self.half_depth) ** 2)

    def centre(self, side: int) -> np.ndarray:
        return np.array([side * self.lung_x, -4, self.lung_z])

    def lung(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, side: int) -> np.ndarray:
        places = zip((x, y, z), self.centre(side), self.lung_radii, strict=True)
        inside = sum(((axis - at) / radius) ** 2 for axis, at, radius in places) < 1
        (heart_x, heart_y, heart_z), radius = self.heart
        return inside & ((x - heart_x) ** 2 + (y - heart_y) ** 2 + (z - heart_z) ** 2 > radius**2)

    def is_in_lung(self, place: np.ndarray, side: int, margin: float) -> bool:
        """Whether a ball of this radius lies within the lung, clear of the heart."""
        inside = np.sum(((place - self.centre(side)) / (self.lung_radii - margin)) ** 2) < 1
        return bool(inside and np.linalg.norm(place - self.heart[0]) > self.heart[1] + margin)


class _Drawing:
    """Where something of one density is drawn, in the coordinates of [`_Body`]."""

    def __init__(self, voxels: np.ndarray, spacing: float, density: int):
        self.where, self.spacing, self.density = np.zeros(voxels.shape, dtype=bool), spacing, density
        self.middle = (np.array(voxels.shape) - 1) / 2

    def capsule(self, start: np.ndarray, end: np.ndarray, radius: float) -> None:
        """All that lies within a radius of the line between two places."""
        first, last = start / self.spacing + self.middle, end / self.spacing + self.middle
        thick = max(radius / self.spacing, 0.5)
        low = np.maximum(np.floor(np.minimum(first, last) - thick), 0).astype(int)
        high = np.minimum(np.ceil(np.maximum(first, last) + thick) + 1, self.where.shape).astype(int)
        if (high <= low).any():
            return
        box = tuple(slice(*edges) for edges in zip(low.tolist(), high.tolist(), strict=True))
        x, y, z = (axis - at for axis, at in zip(np.ogrid[box], first.tolist(), strict=True))
        dx, dy, dz = (last - first).tolist()
        share = np.clip((x * dx + y * dy + z * dz) / max(dx * dx + dy * dy + dz * dz, 1e-9), 0, 1)
        apart = (x - share * dx) ** 2 + (y - share * dy) ** 2 + (z - share * dz) ** 2
        self.where[box] |= apart < thick**2

    def tree(self, body: _Body, side: int, random: Generator) -> None:
        """Vessels from the hilum of a lung that fork and thin out, in all directions."""
        start = body.centre(side) - [side * 0.75 * body.lung_radii[0], 0, 0]
        twigs = [(start, _towards(random, np.array([side, 0.0, 0.0]), 1.0), random.uniform(8, 10))]
        twigs += [
            (start, _towards(random, np.array([0.3 * side, 0, up]), 0.4), random.uniform(7, 9)) for up in (1, -1)
        ]
        for _ in range(int(random.integers(18, 34))):
            place, direction, radius = twigs.pop(0)
            end = place + direction * random.uniform(20, 32)
            self.capsule(place, end, radius)
            thinner = max(radius * random.uniform(0.75, 0.9), 4.5)
            twigs += [(end, _towards(random, direction, 0.7), thinner) for _ in range(2)]


def _towards(random: Generator, direction: np.ndarray, spread: float) -> np.ndarray:
    changed = direction + spread * random.standard_normal(3)
    return changed / np.linalg.norm(changed)


def _nodule_places(body: _Body, random: Generator) -> list[tuple[np.ndarray, float]]:
    """Centres and radii of one to three, each whole within a lung."""
    count = int(random.integers(1, 4))
    places: list[tuple[np.ndarray, float]] = []
    while len(places) < count:
        side, radius = SIDES[random.integers(2)], random.uniform(8, 14)
        place = body.centre(side) + body.lung_radii * random.uniform(-1, 1, 3)
        if body.is_in_lung(place, side, radius + 2):
            places.append((place, radius))
    return places
