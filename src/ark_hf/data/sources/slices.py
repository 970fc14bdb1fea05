"""
Axial slices of the volumes in a folder as a release of pictures: with the labels of a table, with label maps, or
without labels. Needs no torch.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ...cells import plain_number
from ...files import printable
from ...models.ark.tasks_ark import ArkTask, SegmentationTask
from ..images.image_files import UnreadableImageError, collecting_doubts, doubt
from ..rows import Problem, Release, Row
from ..volumes.cubes import LEAST_AIR, NO_AIR, WINDOW, check_window, scale_window
from ..volumes.geometry import AXES, on_grid_of, reorient
from ..volumes.reading import read_volume
from ..volumes.volume import Volume
from .generic import find_table
from .generic_masks import read_legend
from .generic_volumes import LabelMapFiles, VolumeSource, read_volumes
from .tables import Table

DISTANCE = 5.0  # mm between slices: neighbours show nearly the same
PERCENTILES = (0.5, 99.5)  # of a volume's values, which become black and white where they have no unit
NOTES = (
    "Axial slices of volumes, seen from the feet: the patient's right is on the left, the front above. What lies in "
    "the window has 256 grey levels."
)
SQUARE = 0.02  # by which the sides of a pixel may differ


@dataclass
class SliceSource(VolumeSource):
    """
    A folder of volumes, see [`VolumeSource`], of which axial slices are taken.

    Labels of a table are those of each slice of the volume, or of one slice where a column names it. With `label_maps`
    the structures are outlined in the slices, or with `presence` a slice has a label if one of its voxels has.

    Args:
        every: Of how many slices one is taken; unless set, as many as lie `DISTANCE` apart.
        distance: Or how many mm these lie apart.
        slice_column: The table's column of slices, whose rows are the slices that are taken. They count from 0 along
            the axis of the file that leads to head or feet: k of `read_volume(path).voxels[:, :, k]`.
        window: The values that become black and white. Unless set, -1000 and 1000 Hounsfield units of CT, and the
            `PERCENTILES` of each volume of another modality.
        presence: See above.
    """

    every: int | None = field(default=None, kw_only=True)
    distance: float | None = field(default=None, kw_only=True)
    slice_column: str | None = field(default=None, kw_only=True)
    window: list[float] | None = field(default=None, kw_only=True)
    presence: bool = field(default=False, kw_only=True)


def read_slices(source: SliceSource) -> Release:
    """
    The slices of a folder's volumes as rows, each with its volume for its study; wrong ones are among its problems.

    All slices of a volume are in one split, and those that are of one grey throughout are left out. Every volume is
    read, one in memory at a time.

    Raises:
        ValueError: As [`read_volumes`], or the options do not fit together.
    """
    _check_options(source)
    _let_go()  # files may have changed
    scans = read_volumes(source)
    numbers = None if source.slice_column is None else _slice_numbers(source)
    masks = None
    if isinstance(scans.task, SegmentationTask):
        masks = SliceMasks(tuple(read_legend(source.legend).items()))
    release = _empty_release(source, scans)
    of_volume: dict[Path, list[Row]] = {}
    for row in scans.rows:
        of_volume.setdefault(row.path, []).append(row)
    spacings, empty = set(), 0
    for rows in tqdm(of_volume.values(), desc="looking through volumes", unit="volume", disable=len(of_volume) < 10):
        try:
            volume = _Looked(source, rows[0], masks)
        except ValueError as error:
            reason = str(error).removeprefix(f"{printable(rows[0].path)}: ")
            release.problems += [Problem(row.where, reason) for row in rows]
            continue
        spacings.add(volume.pixel_spacing)
        for row in volume.taken(source, rows) if numbers is None else volume.named(rows, numbers, release.problems):
            if np.ptp(_grey(row)) == 0:
                empty += 1
                continue
            if masks is not None and source.presence:
                row.labels = [float(mask.any()) for mask in masks(row) if mask is not None]
            release.rows.append(row)
    _let_go()
    if isinstance(release.task, SegmentationTask):
        release.read_masks = masks
        if len(spacings) == 1:
            release.task = replace(release.task, pixel_spacing=list(spacings.pop()))
    if empty:
        release.remarks.append(f"{empty:,} slices are of one grey throughout, and are left out.")
    if any(row.metadata["patient_id"] is None for row in scans.rows):
        release.remarks.append("Patients are not told of all volumes: each of the others counts as a patient's.")
    return release


def _empty_release(source: SliceSource, volumes: Release) -> Release:
    task, facts = volumes.task, volumes.facts | {"options": _told_options(source), "notes": NOTES}
    if source.presence:
        task = ArkTask(task.name, task.labels, modality=task.modality)
        facts["semantics"] = f"1: the label has a voxel in the slice; 0: none. {facts['semantics']}"
    elif isinstance(task, ArkTask) and source.slice_column is None:
        facts["semantics"] = "Labels are those of the whole volume: a single slice may not show what they name."
    return Release(task, [], [*volumes.problems], facts, volumes.left_out, read_slice, remarks=[*volumes.remarks])


def _check_options(source: SliceSource) -> None:
    if source.every is not None and source.distance is not None:
        raise ValueError("--every and --distance both say which slices are taken: leave one of the two out.")
    if source.every is not None and source.every < 1:
        raise ValueError(f"--every must be at least 1, not {source.every}.")
    if source.distance is not None and not 0 < source.distance < float("inf"):
        raise ValueError(f"--distance must be more than 0 mm, not {source.distance:g}.")
    if source.slice_column is not None and (source.every is not None or source.distance is not None):
        raise ValueError("--slice_column names the slices that are taken: leave --every and --distance out.")
    if source.presence and source.label_maps is None:
        raise ValueError("--presence says of what is in label maps whether a slice has it: add --label_maps.")
    if source.window is not None:
        try:
            check_window(source.window)
        except ValueError:
            raise ValueError(f"--window must be two numbers, the smaller first, not {source.window}.") from None


def _told_options(source: SliceSource) -> dict[str, str]:
    """For the card: which slices were taken, and how values became grey."""
    if source.slice_column is not None:
        taken = "those that the table names"
    elif source.every is not None:
        taken = "all" if source.every == 1 else f"one of {source.every}"
    else:
        taken = f"{source.distance or DISTANCE:g} mm apart"
    window = source.window or (WINDOW if source.modality == "CT" else None)
    percentiles = "from the {:g}th to the {:g}th percentile of each volume".format(*PERCENTILES)
    return {"slices": taken, "window": percentiles if window is None else "{:g} to {:g}".format(*window)}


def _slice_numbers(source: SliceSource) -> dict[str, str]:
    """The cells of the column of slices by [`Row.where`]."""
    path = source.csv or find_table(source.folder)
    if path is None:
        raise ValueError(f"{source.folder} has no labels.csv, of which --slice_column names a column: pass --csv.")
    column = source.slice_column or ""
    return {f"{path.name}, line {line}": record[column] for line, record in Table(path, [column])}


# Which slices there are ----------------------------------------------------------------------------------------------


class _Looked:
    """
    What is to be known of a volume before its slices are stored.

    Args:
        scan: A row of it.
        masks: What reads its label map, if there is one.

    Raises:
        ValueError: It, or its label map, cannot be read, or it shows nothing.
    """

    def __init__(self, source: SliceSource, scan: Row, masks: "SliceMasks | None"):
        with collecting_doubts() as self.doubts:
            volume, self.upwards = _turned(scan.path)
            if masks is not None:
                masks.label_map(scan)
        x, y, self.distance = volume.spacing
        self.count = volume.shape[2]
        self.pixel_spacing = round(y, 4), round(x, 4)
        if max(x, y) > (1 + SQUARE) * min(x, y):
            self.doubts.append(f"its pixels are {x:.3g} x {y:.3g} mm, so that it is distorted")
        if source.modality == "CT" and source.window is None and volume.voxels.min() >= LEAST_AIR:
            self.doubts.append(NO_AIR)
        self.window = _window(source, volume)

    def number(self, place: int) -> int:
        """Which slice, in the order of the file, is the one in this place from the feet; and the reverse."""
        return place if self.upwards else self.count - 1 - place

    def taken(self, source: SliceSource, rows: Sequence[Row]) -> Iterator[Row]:
        """The slices that are taken by their distance, of each of the volume's rows."""
        distance = source.distance or DISTANCE
        if source.every is not None:
            places = [*range(0, self.count, source.every)]
        else:
            wanted = np.arange(0, (self.count - 0.5) * self.distance, distance)
            places = sorted({min(round(mm / self.distance), self.count - 1) for mm in wanted.tolist()})
        for row in rows:
            yield from (self._slice(row, place, f"{row.where}, slice {self.number(place)}") for place in places)

    def named(self, rows: Sequence[Row], numbers: dict[str, str], problems: list[Problem]) -> Iterator[Row]:
        """The slices that the rows name; those that name none are added to the problems."""
        for row in rows:
            text = plain_number(numbers.get(row.where, "").strip())
            if re.fullmatch(r"\d{1,6}", text) and int(text) < self.count:
                yield self._slice(row, self.number(int(text)), row.where)
            else:
                problems.append(Problem(row.where, f"the slice must be a number from 0 to {self.count - 1}"))

    def _slice(self, row: Row, place: int, where: str) -> Row:
        volume = row.metadata["image_id"]
        metadata = row.metadata | {
            "image_id": f"{volume}/{self.number(place):04d}",
            "patient_id": row.metadata["patient_id"] or volume,  # whose slices are no patients of their own
            "study_id": row.metadata.get("study_id") or volume,
        }
        masks = [place, *self.window, self.doubts, *(row.masks or [])]
        return replace(row, where=where, metadata=metadata, masks=masks)


def _window(source: SliceSource, volume: Volume) -> tuple[float, float]:
    if source.window is not None:
        return source.window[0], source.window[1]
    if source.modality == "CT":
        return WINDOW
    low, high = (float(value) for value in np.percentile(volume.voxels, PERCENTILES))
    if low == high:  # of what is small within nothing
        low, high = float(volume.voxels.min()), float(volume.voxels.max())
    if low == high:
        raise UnreadableImageError("all its voxels are of one value, so that there is nothing to be seen")
    return low, high


# Reading them --------------------------------------------------------------------------------------------------------


# The slices of a volume follow each other, and it is let go before the next one is read
_volumes: dict[Path, tuple[Volume, bool]] = {}
_label_maps: dict[tuple[Path, Path, tuple], Volume] = {}


def _let_go() -> None:
    _volumes.clear()
    _label_maps.clear()


def _turned(path: Path) -> tuple[Volume, bool]:
    """
    A volume with axes to the left, to the back and to the head, and whether its slices have that order in the file.
    Raises `UnreadableImageError`.
    """
    if path not in _volumes:
        _let_go()
        volume = read_volume(path)
        _volumes[path] = reorient(volume, AXES["xyz"]), "S" in volume.orientation
    return _volumes[path]


def read_slice(row: Row) -> np.ndarray:
    """
    (1, H, W) uint8 of a row, whose `masks` are the slice's place from the feet, the values that become black and
    white, and reasons to doubt it. The patient's right is on the left, and the front above.

    Raises:
        UnreadableImageError: The volume cannot be read.
    """
    for reason in row.masks[3]:
        doubt(reason)
    return _grey(row)[None]


def _grey(row: Row) -> np.ndarray:
    place, low, high, *_ = row.masks
    with collecting_doubts():  # which are those of the row
        volume, _ = _turned(row.path)
    return np.rint(255 * scale_window(volume.voxels[:, :, place].T, (low, high))).astype(np.uint8)


@dataclass(frozen=True)
class SliceMasks:
    """
    Reads the masks of slices, as `Release.read_masks`; their `masks` end with the file of the volume's label map.

    Args:
        legend: Labels by the files' values.
    """

    legend: tuple[tuple[int, str], ...]

    def __call__(self, row: Row) -> list[np.ndarray | None]:
        """bool (H, W) of each label. Raises `UnreadableImageError`."""
        with collecting_doubts():  # which are those of the row
            plane = self.label_map(row).voxels[:, :, row.masks[0]].T
        return [plane == number for number in range(1, len(self.legend) + 1)]

    def label_map(self, row: Row) -> Volume:
        """The label map of a row's volume, turned as that is. Raises `UnreadableImageError`."""
        (volume, _), path = _turned(row.path), row.masks[-1]
        key = row.path, path, self.legend
        if key not in _label_maps:
            _label_maps.clear()
            stored = LabelMapFiles(dict(self.legend))(replace(row, masks=[path]))
            try:
                _label_maps[key] = on_grid_of(stored, volume.shape, volume.affine)
            except ValueError as error:
                raise UnreadableImageError(f"its label map does not fit: {error}") from None
        return _label_maps[key]
