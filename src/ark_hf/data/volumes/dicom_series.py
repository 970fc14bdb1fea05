"""
Reads the slices of a DICOM series into one volume: sorted by where they lie, and refused by name where they are no one
grid. Needs no torch.

Of the tags only those that place and scale the slices are read, and none of the patient. What tells series apart is
compared and never shown.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...files import printable
from ..images.dicom import BURNED_IN, BURNED_IN_TAG, is_burned_in, is_dicom, read_stored, read_tags
from ..images.image_files import UnreadableImageError, check_size, doubt, is_other_file, open_image_file
from .volume import Volume, check_claim, rescaled, whole_type

RESCUE = "convert the series to NIfTI"
_SCALE_TAGS = ["RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"]
_PLACE_TAGS = f"""
    {BURNED_IN_TAG} SeriesInstanceUID ImageOrientationPatient ImagePositionPatient PixelSpacing Rows Columns
    NumberOfFrames BitsStored PixelRepresentation
""".split()
ALIKE = 1e-3  # by which directions (of length 1) and spacings (of mm) of one series may differ: digits of their texts
UNEVEN = 0.1, 0.02  # mm, or if that is more, share of the distance of slices, by which one may lie beside its place
TILT = 0.01  # radians
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Slice:
    """
    What places and scales one file's slice: the direction of its rows and of its columns (2, 3) and the place of its
    first pixel (3,), in mm in LPS; distance of rows and of columns in mm; between which values it lies; and whether
    text is burned into it.
    """

    path: Path
    series: str
    directions: np.ndarray
    position: np.ndarray
    spacing: tuple[float, float]
    shape: tuple[int, int]
    limits: tuple[float, float]
    whole: bool
    burned_in: bool

    @property
    def name(self) -> str:
        return printable(self.path.name)


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files in a folder, by content or by name, those in folders of it left out; sorted."""
    found = []
    with os.scandir(folder) as entries:
        paths = sorted(Path(entry.path) for entry in entries if entry.is_file() and not entry.name.startswith("."))
    for path in paths:
        if path.suffix.lower() in (".dcm", ".dicom"):
            found.append(path)
        elif not is_other_file(path):
            with path.open("rb") as file:
                found += [path] if is_dicom(path, file.read(132)) else []
    return found


def read_dicom_series(folder: Path) -> Volume:
    """
    The volume of the DICOM files in a folder, which are one series.

    Slices are sorted by their places along the normal of their planes, whatever files and numbers are called. Values
    are Hounsfield units of CT: each slice's own slope and intercept are applied. They are int16, int32 if that is too
    small, or float32 if slopes or intercepts are fractions.

    Returns:
        Axes: columns, rows, slices, the latter towards where the normal of the planes leads.

    Raises:
        UnreadableImageError: There are no DICOM files, or of several series; they lack places, or differ in
            orientation, size or spacing; two lie in one place, one is missing between others, or they lie unevenly;
            there is one slice alone; or one cannot be read. The message names a file, not the folder.
    """
    paths = dicom_files(folder)
    if not paths:
        deeper = " itself; name the one below it that does" * any(each.is_dir() for each in folder.iterdir())
        raise UnreadableImageError(f"the folder holds no DICOM files{deeper}")
    try:
        slices = [_read_slice(path) for path in paths]
        _check_alike(slices)
        if any(each.burned_in for each in slices):
            doubt(BURNED_IN)
        normal = np.cross(*slices[0].directions)
        slices.sort(key=lambda each: float(each.position @ normal))
        _check_steps(slices, [float(each.position @ normal) for each in slices])
        return Volume(_stack(slices), _affine(slices, normal))
    except UnreadableImageError as refusal:
        raise UnreadableImageError(str(refusal).removeprefix(f"{printable(folder)}{os.sep}")) from None


def _read_slice(path: Path) -> Slice:
    with open_image_file(path, RESCUE) as file:
        tags = read_tags(file, [*_PLACE_TAGS, *_SCALE_TAGS])
        if int(tags.get("NumberOfFrames") or 1) != 1:
            raise UnreadableImageError("it holds several frames (enhanced DICOM), which are not read; " + RESCUE)
        if tags.get("ModalityLUTSequence"):
            raise UnreadableImageError("its values go through a table (modality LUT), which is not read; " + RESCUE)
        rows, columns = int(tags.get("Rows") or 0), int(tags.get("Columns") or 0)
        check_size(rows, columns)
        directions = _numbers(tags.get("ImageOrientationPatient"), 6, "orientation").reshape(2, 3)
        if np.abs(directions @ directions.T - np.eye(2)).max() > ALIKE:
            raise UnreadableImageError("its rows and columns are not at right angles (ImageOrientationPatient)")
        row_step, column_step = _numbers(tags.get("PixelSpacing"), 2, "spacing").tolist()
        if min(row_step, column_step) <= 0:
            raise UnreadableImageError("the spacing of its pixels is not positive")
        slope, intercept = _scale(tags)
        bits, signed = int(tags.get("BitsStored") or 16), int(tags.get("PixelRepresentation") or 0)
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return Slice(
            path,
            str(tags.get("SeriesInstanceUID") or ""),
            directions,
            _numbers(tags.get("ImagePositionPatient"), 3, "position"),
            (row_step, column_step),
            (rows, columns),
            (low * slope + intercept, high * slope + intercept),
            slope.is_integer() and intercept.is_integer(),
            is_burned_in(tags),
        )


def _scale(tags) -> tuple[float, float]:
    slope, intercept = tags.get("RescaleSlope"), tags.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), float(intercept or 0)


def _numbers(value, count: int, what: str) -> np.ndarray:
    try:
        numbers = np.array([float(each) for each in value], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise UnreadableImageError(f"it does not say its {what}, and without it is no slice of a volume; leave it out")
    return numbers


def _check_alike(slices: Sequence[Slice]) -> None:
    first = slices[0]
    by_series: dict[str, list[Slice]] = {}
    for each in slices:
        by_series.setdefault(each.series, []).append(each)
    if len(by_series) > 1:
        counts = " and ".join(f"{len(some):,} such as {some[0].name}" for some in by_series.values())
        raise UnreadableImageError(
            f"it mixes {len(by_series)} series, files of each: {counts}; give each a folder of its own"
        )
    for each in slices:
        pair = f"{first.name} and {each.name}"
        if np.abs(each.directions - first.directions).max() > ALIKE:
            raise UnreadableImageError(f"it mixes orientations, {pair}: move localisers to another folder")
        if each.shape != first.shape:
            raise UnreadableImageError(f"it mixes sizes of slices, {pair}; give each a folder of its own")
        if not np.allclose(each.spacing, first.spacing, rtol=ALIKE):
            raise UnreadableImageError(f"it mixes spacings of pixels, {pair}; give each a folder of its own")
    if len(slices) < 2:
        raise UnreadableImageError(f"it holds one slice, {first.name}, which is 2D: a volume has several")
    check_claim([*first.shape, len(slices)], np.dtype(np.int16))


def _check_steps(slices: Sequence[Slice], places: Sequence[float]) -> None:
    """Raises `UnreadableImageError` unless the sorted places, in mm, lie evenly."""
    steps = np.diff(places)
    usual = float(np.median(steps))
    pairs = [f"{one.name} and {other.name}" for one, other in zip(slices, slices[1:], strict=False)]
    least = int(steps.argmin())
    if steps[least] < max(ALIKE, 0.01 * usual):
        raise UnreadableImageError(f"two slices lie in one place, {pairs[least]}: two phases or copies; leave one out")
    most = int(steps.argmax())
    if steps[most] > 1.5 * usual:
        missing = max(round(steps[most] / usual) - 1, 1)
        raise UnreadableImageError(
            f"{missing} {'slices are' if missing > 1 else 'slice is'} missing between {pairs[most]}: they lie "
            f"{steps[most]:.4g} mm apart, the others {usual:.4g} mm; fetch the whole series"
        )
    even = np.linspace(places[0], places[-1], len(places))
    apart = np.abs(np.asarray(places) - even)
    if apart.max() > max(UNEVEN[0], UNEVEN[1] * usual):
        name = slices[int(apart.argmax())].name
        raise UnreadableImageError(
            f"its slices lie unevenly, from {steps.min():.4g} to {steps.max():.4g} mm apart, {name} furthest from its "
            "place; resample it to one spacing with another tool"
        )


def _affine(slices: Sequence[Slice], normal: np.ndarray) -> np.ndarray:
    first, last = slices[0], slices[-1]
    row_step, column_step = first.spacing
    step = (last.position - first.position) / (len(slices) - 1)
    tilt = np.arccos(min(float(step @ normal / np.linalg.norm(step)), 1.0))
    if tilt > TILT:
        doubt(f"its slices are stacked {np.degrees(tilt):.1f} degrees askew (gantry tilt), so its axes are, too")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.directions[0] * column_step, first.directions[1] * row_step
    affine[:3, 2], affine[:3, 3] = step, first.position
    return LPS_TO_RAS @ affine


def _stack(slices: Sequence[Slice]) -> np.ndarray:
    """(columns, rows, slices), a slice decoded at a time."""
    limits = [limit for each in slices for limit in each.limits]
    dtype = whole_type(min(limits), max(limits)) if all(each.whole for each in slices) else None
    rows, columns = slices[0].shape
    planes = np.empty((len(slices), rows, columns), dtype or np.float32)
    for plane, values in zip(planes, _decoded(slices), strict=True):
        plane[:] = values
    if dtype == np.int32:
        smaller = whole_type(float(planes.min()), float(planes.max()))
        planes = planes.astype(smaller, copy=False)
    return planes.transpose(2, 1, 0)


def _decoded(slices: Sequence[Slice]) -> Iterable[np.ndarray]:
    for each in slices:
        with open_image_file(each.path, RESCUE) as file:
            tags, stored = read_stored(file, _SCALE_TAGS)
            yield rescaled(stored, *_scale(tags))
