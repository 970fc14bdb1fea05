"""Cubes of a CT as Models Genesis learns from: where they may lie, which hold too little air, and their scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .geometry import AXES, reorient
from .volume import Volume

AIR = -1000.0
WINDOW = (-1000.0, 1000.0)
LEAST_AIR = -200  # HU: every CT of a body has something below
NO_AIR = f"no voxel is below {LEAST_AIR} HU: it may not be a CT in Hounsfield units"
LOOK_AHEAD = 2  # slices that the rule of air looks beyond a cube
TRIES = 50  # for each cube that is wanted


class TooSmallError(ValueError):
    """A volume has no room for a cube so far from its border."""


@dataclass(frozen=True)
class CubeRules:
    """
    Which cubes of a CT are drawn, in voxels along x, y and z; by default those of the publication.

    Args:
        size: Of a cube.
        border: How far it stays from the volume's border.
        count: Cubes of a volume.
        window: Hounsfield units that become 0 and 1.
        tissue: Hounsfield units from which a voxel is no air.
        most_tissue: The share of a cube that may be none, see [`tissue_share`]; None: any, as of MR.

    Raises:
        ValueError: A size or the count is less than one, a border negative, or the window empty.
    """

    size: tuple[int, int, int] = (64, 64, 32)
    border: tuple[int, int, int] = (100, 100, 30)
    count: int = 32
    window: tuple[float, float] = WINDOW
    tissue: float = -150.0
    most_tissue: float | None = 0.15

    def __post_init__(self):
        if min(*self.size, self.count) < 1 or min(self.border) < 0:
            raise ValueError(f"a cube has positive sides and a border of at least 0, got {self.size}, {self.border}.")
        check_window(self.window)


def check_window(window: Sequence[float]) -> None:
    """Raises `ValueError` if it is not two numbers, the smaller first."""
    if len(window) != 2 or not window[0] < window[1] or not np.isfinite(window).all():
        raise ValueError(f"a window is two Hounsfield units, the smaller first, got {window!r}.")


def scale_window(voxels: np.ndarray, window: Sequence[float] = WINDOW) -> np.ndarray:
    """Hounsfield units to float32 in [0, 1]: those of the window, by default [-1000, 1000]; others are clipped."""
    check_window(window)
    low, high = window
    scaled = np.clip(voxels, low, high, dtype=np.float32)
    scaled -= np.float32(low)
    scaled /= np.float32(high - low)
    return scaled


def tissue_share(block: np.ndarray, tissue: float = -150.0) -> float:
    """
    How much of a cube is no air, by the rule of Models Genesis: a voxel counts whole if it reaches `tissue`, and half
    if not it but the next one in z does; the one after that adds nothing, as in the original.

    Args:
        block: (x, y, z + 2) Hounsfield units, a cube and the two slices after it.
    """
    dense = block >= tissue
    here, ahead = dense[..., :-LOOK_AHEAD], dense[..., 1 : 1 - LOOK_AHEAD]
    return float((here.sum() + 0.5 * (ahead & ~here).sum()) / here.size)


def draw_cubes(
    volume: Volume, generator: np.random.Generator, rules: CubeRules | None = None, axes: str = "xyz"
) -> np.ndarray:
    """
    Random cubes of a CT, for training without labels.

    A cube with too much tissue is drawn anew, up to 50 times as often as cubes are wanted, so that there may be fewer,
    or none.

    Args:
        volume: In whatever orientation.
        generator: Source of their places.
        rules: Those of the publication unless given.
        axes: Of the result, "xyz" or "zyx"; see `AXES`.

    Returns:
        (cubes, *size) float32 in [0, 1], sizes and axes in the order of `axes`.

    Raises:
        TooSmallError: The volume is too small for cubes with such borders.
    """
    rules = rules or CubeRules()
    if axes not in AXES:
        raise ValueError(f"axes {axes!r}: use one of {tuple(AXES)}.")
    voxels = reorient(volume, AXES["xyz"]).voxels
    cubes = [scale_window(voxels[place], rules.window) for place in cube_places(voxels, generator, rules)]
    found = np.stack(cubes) if cubes else np.empty((0, *rules.size), dtype=np.float32)
    return found if axes == "xyz" else np.ascontiguousarray(found.transpose(0, 3, 2, 1))


def cube_places(voxels: np.ndarray, generator: np.random.Generator, rules: CubeRules) -> list[tuple[slice, ...]]:
    """
    Where the cubes of [`draw_cubes`] lie: of each its slices along x, y and z.

    Args:
        voxels: (x, y, z), of the unit of the rules' `tissue`; their `window` has no part in it.

    Raises:
        TooSmallError: As of [`draw_cubes`].
    """
    ahead = LOOK_AHEAD if rules.most_tissue is not None else 0
    needed = [side + 2 * edge for side, edge in zip(rules.size, rules.border, strict=True)]
    needed[2] += ahead
    if any(there < side for there, side in zip(voxels.shape, needed, strict=True)):
        sides, wanted = (" x ".join(map(str, each)) for each in (voxels.shape, needed))
        raise TooSmallError(
            f"the volume has {sides} voxels, and cubes of {' x '.join(map(str, rules.size))}, "
            f"{', '.join(map(str, rules.border))} from its border, need {wanted}: choose smaller cubes or borders"
        )
    room = [there - side for there, side in zip(voxels.shape, needed, strict=True)]
    places: list[tuple[slice, ...]] = []
    for _ in range(TRIES * rules.count):
        start = [edge + int(generator.integers(more + 1)) for edge, more in zip(rules.border, room, strict=True)]
        x, y, z = (slice(at, at + side) for at, side in zip(start, rules.size, strict=True))
        if rules.most_tissue is not None:
            block = voxels[x, y, z.start : z.stop + LOOK_AHEAD]
            if tissue_share(block, rules.tissue) > rules.most_tissue:
                continue
        places.append((x, y, z))
        if len(places) == rules.count:
            break
    return places


def cube_at(
    volume: Volume, centre: Sequence[float], size: Sequence[int] = (64, 64, 32), outside: float = AIR
) -> Volume:
    """
    The cube around a place, at the volume's own spacing.

    Args:
        volume: In whatever orientation.
        centre: In mm, RAS as in [`Volume`]; its voxel is the cube's at half of `size`.
        size: Voxels along x, y and z.
        outside: The value where the cube reaches beyond the volume.

    Returns:
        Axes x, y, z of `AXES`, of the volume's type.

    Raises:
        ValueError: The place is not in the volume.
    """
    volume = reorient(volume, AXES["xyz"])
    index = np.rint((np.linalg.inv(volume.affine) @ [*centre, 1])[:3]).astype(int)
    if (index < 0).any() or (index >= volume.shape).any():
        raise ValueError("it lies outside the volume")
    start = index - np.array(size) // 2
    low, high = np.maximum(start, 0), np.minimum(start + size, volume.shape)
    cube = np.full(tuple(size), outside, dtype=volume.voxels.dtype)
    inside = tuple(slice(*ends) for ends in zip(low - start, high - start, strict=True))
    cube[inside] = volume.voxels[tuple(slice(*ends) for ends in zip(low, high, strict=True))]
    affine = volume.affine.copy()
    affine[:3, 3] = (volume.affine @ [*start, 1])[:3]
    return Volume(cube, affine)
