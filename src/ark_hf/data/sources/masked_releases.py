"""
The official releases of outlined structures, one function a release: what `catalog.yaml` names as its `reader`.

Readers are as those of `release_readers`; beside each stands what reads the masks of its rows. Needs no torch.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...cells import is_blank
from ...files import printable
from ..build.pictures import shrink
from ..images.image_files import UnreadableImageError, image_suffix, open_image_file
from ..mask_files import MaskFiles
from ..radiograph import read_radiograph
from ..rows import Problem, Row
from .catalog import CatalogEntry
from .raw_folder import RawFolder
from .release_readers import Reader, nlm_tuberculosis
from .released_images import ReleasedImage, ReleasedImages, each_row, read_age, read_sex
from .tables import Record

JSRT_SIDE, JSRT_GREYS = 2048, 4096
SCR_SIDE = 1024
SIIM_SHAPE = (1024, 1024)
RUN = re.compile(r"\d{1,7}")


@dataclass(frozen=True)
class MaskedRelease:
    """
    Args:
        read: Its reader.
        masks: Makes what reads a row's masks, as in [`Release`].
        image: Reads a row's image.
    """

    read: Reader
    masks: Callable[[RawFolder, CatalogEntry], Callable[[Row], list[np.ndarray | None]]]
    image: Callable[[Row], np.ndarray] | None = None


# Files of masks ------------------------------------------------------------------------------------------------------


def jsrt(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    known = _jsrt_patients(raw)
    name = re.compile(r"(JPC[LN]N\d{3})\.\w+", re.IGNORECASE)
    images: dict[str, list[str]] = {}
    masks: dict[tuple[str, str], list[str]] = {}
    for path in sorted([*raw.others, *raw.images(), *raw.masks]):
        *_, folder, file = ["", *path.split("/")]
        found = name.fullmatch(file)
        structure = folder.lower().replace("_", " ")
        if found and structure in entry.labels:
            masks.setdefault((found[1].upper(), structure), []).append(path)
        elif found and path not in raw.masks:
            images.setdefault(found[1].upper(), []).append(path)
    for image, paths in sorted(images.items()):
        originals = [path for path in paths if path.lower().endswith(".img")] or paths
        sex, age = known.get(image, (None, None))
        record = ReleasedImage(paths[0], image, [], path=originals[0], sex=sex, age=age, view="PA")
        yield _with_masks(raw, record, originals, {label: masks.get((image, label), []) for label in entry.labels})


def _jsrt_patients(raw: RawFolder) -> dict[str, tuple[str | None, float | None]]:
    """Sex and age by image: in the release's tables, without headers, the age stands before the sex."""
    known = {}
    line = re.compile(r"(JPC[LN]N\d{3})\.IMG\b.*?\b(\d{1,3})\s+(male|female)\b", re.IGNORECASE)
    for name in ("CLNDAT_EN.txt", "CNNDAT_EN.txt"):
        if raw.has(name):
            for _, text in raw.lines(name):
                if found := line.match(text):
                    known[found[1].upper()] = read_sex(found[3]), read_age(found[2])
    return known


def read_jsrt_image(row: Row) -> np.ndarray:
    """
    (1, 1024, 1024) of a row's image: as large as its masks are, and white where the film is.

    The release's files hold 2048 x 2048 values of 12 bits, high byte first, black where the film is white.
    """
    if row.path.suffix.lower() == ".img":
        with open_image_file(row.path) as file:
            content = file.read(2 * JSRT_SIDE**2 + 1)
            values = np.frombuffer(content[: len(content) // 2 * 2], dtype=">u2").astype(np.uint16)
            if len(content) != 2 * JSRT_SIDE**2 or values.max() >= JSRT_GREYS:
                raise UnreadableImageError("it is not as released, 2048 x 2048 numbers of 12 bits; fetch it again")
        image = (JSRT_GREYS - 1 - values).reshape(1, JSRT_SIDE, JSRT_SIDE)
    else:
        image = read_radiograph(row.path)
    height, width = image.shape[1:]
    if height != width or height < SCR_SIDE:
        raise UnreadableImageError(
            f"{printable(row.path)}: it is {width} x {height}, and the masks {SCR_SIDE} x {SCR_SIDE}; take the "
            "release's own file, or a copy that is not smaller"
        )
    return shrink(image, SCR_SIDE)


def montgomery_lungs(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    sides: dict[tuple[str, str], list[str]] = {}
    for path in raw.masks:
        *_, folder, file = ["", *path.split("/")]
        sides.setdefault((folder.lower(), file.removesuffix(image_suffix(file))), []).append(path)
    for item in nlm_tuberculosis(raw, entry, options):
        if isinstance(item, Problem):
            yield item
            continue
        name = item.image.removesuffix(image_suffix(item.image))
        found = {side: sides.get((side.lower(), name), []) for side in ("leftMask", "rightMask")}
        yield _with_masks(raw, replace(item, labels=[]), [item.image], found)


@dataclass(frozen=True)
class BothLungs:
    """Reads the masks of the two lungs of a row as one."""

    files: MaskFiles

    def __call__(self, row: Row) -> list[np.ndarray | None]:
        left, right = self.files(row)
        assert left is not None and right is not None  # rows lack none
        if left.shape != right.shape:
            raise UnreadableImageError(f"{printable(row.path)}: its masks of the left and right lung differ in size")
        return [left | right]


def _with_masks(
    raw: RawFolder, record: ReleasedImage, images: Sequence[str], masks: Mapping[str, Sequence[str]]
) -> ReleasedImage | Problem:
    """The image with the paths of its masks, or what is missing or there twice."""
    several = [paths for paths in (images, *masks.values()) if len(paths) > 1]
    missing = [what for what, paths in masks.items() if not paths]
    if several:
        return Problem(record.where, f"{several[0][0]} and {several[0][1]} may both be meant; keep one")
    if missing:
        return Problem(record.where, f"its masks lack {', '.join(missing)}")
    return replace(record, masks=[raw.root / path for (path,) in masks.values()])


# Outlines in tables --------------------------------------------------------------------------------------------------


def vindr_ribcxr(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    nothing, absent = ("", 0.0) if options["blank"] == "zero" else (None, math.nan)
    for split, name in {None: "VinDr_RibCXR_train_mask.json", "test": "VinDr_RibCXR_val_mask.json"}.items():
        path = raw.file(name)
        columns = _read_columns(path, ["img", *entry.labels])
        for number, image in columns["img"].items():
            where = f"{path.name}, image {number}"
            try:
                file = str(image).replace("\\", "/").rpartition("/")[2]
                if not file:
                    raise ValueError("img names no file")
                masks = [_polygon(label, columns[label].get(number)) for label in entry.labels]
                if not any(masks):
                    raise ValueError("no rib is outlined")
            except ValueError as error:
                yield Problem(where, str(error))
                continue
            labels = [1.0 if mask else absent for mask in masks]
            yield ReleasedImage(where, file, labels, split, masks=[mask or nothing for mask in masks])


def _read_columns(path: Path, needed: Sequence[str]) -> dict[str, dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as file:
            columns = json.load(file)
        if all(isinstance(columns[name], dict) for name in needed):
            return columns
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{path} must hold {', '.join(needed)}, each with a value for each image.")


def _polygon(label: str, points: Any) -> str:
    """Points as "X Y X Y ...", "" where nothing is outlined. Raises `ValueError`."""
    if points is None or points == "None" or points == []:
        return ""
    try:
        corners = [(float(point["x"]), float(point["y"])) for point in points]
        if len(corners) < 3 or not all(map(math.isfinite, [value for corner in corners for value in corner])):
            raise ValueError
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{label} must be a list of at least three points with x and y, or None") from None
    return " ".join(f"{value:.2f}" for corner in corners for value in corner)


def read_polygons(row: Row) -> list[np.ndarray | None]:
    """
    The masks of a row whose `masks` are polygons. What lies on a border is in; one that leaves the image is refused.
    """
    height, width = read_radiograph(row.path).shape[1:]
    masks: list[np.ndarray | None] = []
    for polygon in row.masks:
        values = [float(value) for value in polygon.split()] if polygon else []
        if values and not (min(values) >= 0 and max(values[::2]) <= width and max(values[1::2]) <= height):
            raise UnreadableImageError(
                f"{printable(row.path)}: an outline leaves the image, {width} x {height}; it may be a smaller copy"
            )
        drawing = Image.new("1", (width, height))
        if values:
            ImageDraw.Draw(drawing).polygon(values, fill=1)
        masks.append(None if polygon is None else np.asarray(drawing))
    return masks


def siim_acr_masks(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    table = raw.table("stage_2_train.csv", "train-rle.csv", needed=["ImageId", "EncodedPixels"])
    outlines: dict[str, tuple[str, list[str]]] = {}

    def read(where: str, row: Record) -> None:
        outline = row["EncodedPixels"].strip()
        if is_blank(outline):
            raise ValueError("EncodedPixels is blank; it must be -1 or an outline")
        if outline != "-1":
            read_runs(outline)
        runs = outlines.setdefault(row["ImageId"], (where, []))[1]
        if runs and (outline == "-1") != (runs[0] == "-1"):
            raise ValueError("EncodedPixels is -1, no outline, in one row of this image and an outline in another")
        runs.append(outline)

    yield from (item for item in each_row(table, read) if item)
    for image, (where, runs) in outlines.items():
        found = runs[0] != "-1"
        yield ReleasedImage(where, image, [float(found)], masks=["|".join(runs) if found else ""])


def read_runs(outline: str) -> np.ndarray:
    """
    bool (1024, 1024) of pairs of numbers, START LENGTH: columns from the left, each start counted from the end of the
    run before it. Raises `ValueError`.
    """
    words = outline.split()
    if len(words) % 2 or not all(map(RUN.fullmatch, words)):
        raise ValueError("EncodedPixels must be -1 or pairs of numbers, a start and a length")
    edges = np.cumsum(list(map(int, words)))
    if edges[-1] > math.prod(SIIM_SHAPE):
        raise ValueError(f"EncodedPixels leaves the image, {' x '.join(map(str, SIIM_SHAPE))}")
    mask = np.zeros(math.prod(SIIM_SHAPE), dtype=bool)
    for start, stop in edges.reshape(-1, 2):
        mask[start:stop] = True
    return mask.reshape(SIIM_SHAPE).T


def read_united_runs(row: Row) -> list[np.ndarray | None]:
    """The mask of a row that several outlines, or none, make up."""
    (outlines,) = row.masks
    mask = np.zeros(SIIM_SHAPE, dtype=bool)
    for outline in outlines.split("|") if outlines else ():
        mask |= read_runs(outline)
    return [mask]


MASKED_RELEASES = {
    "jsrt": MaskedRelease(
        jsrt, lambda raw, entry: MaskFiles(entry.labels, [raw.root] * len(entry.labels)), read_jsrt_image
    ),
    "montgomery_lungs": MaskedRelease(
        montgomery_lungs, lambda raw, entry: BothLungs(MaskFiles(["left lung", "right lung"], [raw.root] * 2))
    ),
    "vindr_ribcxr": MaskedRelease(vindr_ribcxr, lambda raw, entry: read_polygons),
    "siim_acr_masks": MaskedRelease(siim_acr_masks, lambda raw, entry: read_united_runs),
}
