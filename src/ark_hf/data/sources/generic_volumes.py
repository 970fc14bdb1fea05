"""Any folder of volumes as a release: with a table of labels, with label maps, or without labels. Needs no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...files import printable
from ...models.ark.tasks_ark import DEFAULT_MODALITY, SegmentationTask
from ..build.volumes import VOLUMES_PER_SHARD
from ..images.image_files import UnreadableImageError
from ..rows import Problem, Release, Row
from ..unlabelled import Unlabelled
from ..volumes.reading import read_volume
from ..volumes.volume import Volume, nibabel
from .generic import LABEL_TABLES, TABLE_OPTIONS, GenericSource, ImageTable, derive_splits, find_table
from .generic_masks import read_legend
from .labelled import ClassNames, LabelReader, metadata_remarks, places
from .tables import Record
from .volume_folder import PathPattern, VolumeFolder

LABEL_OPTIONS = ("labels", "label_column", "label_map", "classes", "separator")
MAX_LABELS = 254  # of a label map of bytes, whose 255 is unknown


@dataclass
class VolumeSource(GenericSource):
    """
    A folder of volumes, see [`GenericSource`]: NIfTI or MetaImage files, or folders of DICOM, one series each.

    With `labels` or `label_column` a table says what the volumes show. With `label_maps` each voxel is labelled, and a
    table, if there is one, tells of splits and patients alone. With `unlabelled` nothing is.

    Args:
        volumes: Which paths are volumes, by a pattern with one `*`, such as "imagesTr/*.nii.gz"; all that are found
            unless set. It fits the end of a path too. A table may then name a folder in which one volume fits.
        label_maps: Which are label maps, likewise: what `*` stands for in both belongs together.
        legend: What their values stand for: VALUE=LABEL. 0 is background unless it is named.
        unlabelled: Whether labels do not count.
    """

    volumes: str | None = field(default=None, kw_only=True)
    label_maps: str | None = field(default=None, kw_only=True)
    legend: list[str] = field(default_factory=list, kw_only=True)
    unlabelled: bool = field(default=False, kw_only=True)


def read_volumes(source: VolumeSource) -> Release:
    """
    The rows of a folder of volumes; wrong ones are among its problems. No volume is opened.

    Raises:
        ValueError: The folder is none or holds no volumes, the table cannot be read or lacks columns, or the options
            do not fit together.
    """
    nibabel()  # its absence is told before any volume is blamed
    _check_options(source)
    folder = VolumeFolder(source.folder, _pattern(source, "volumes"), _pattern(source, "label_maps"))
    table = source.csv or find_table(source.folder)
    if table is None and (source.labels or source.label_column is not None):
        table = source.folder / LABEL_TABLES[0]  # which is refused by its name
    told = source.labels or ([] if source.label_column is None else [source.label_column])
    rows = None if table is None else ImageTable(source, table, told)
    release, read = _empty_release(source, rows)
    if rows is None:
        _list_volumes(source, folder, release)
    else:
        release.rows, release.problems = rows.read(folder, read)
        release.remarks = [*metadata_remarks(rows.columns), *release.remarks]
    if source.label_maps is not None:
        _give_label_maps(source, folder, release)
    release.left_out = _left_out(folder, release)
    if rows is None or rows.split_column is None:
        derive_splits(release)
    return release


def _empty_release(source: VolumeSource, rows: ImageTable | None) -> tuple[Release, Callable[[Record], Any]]:
    """The release without its rows, and what reads the labels of one."""
    settings: dict[str, Any] = {"read_volume": read_volume_file, "rows_per_shard": VOLUMES_PER_SHARD}
    if source.label_maps is not None:
        legend = read_legend(source.legend)
        places([*legend.values()])  # which refuses twins
        if len(legend) > MAX_LABELS:
            raise ValueError(f"--legend names {len(legend)} labels; a label map has {MAX_LABELS} at most.")
        outlined = SegmentationTask(source.name, [*legend.values()], modality=source.modality)
        facts = {"semantics": f"From a label map for each volume, of the values {', '.join(source.legend)}."}
        return Release(outlined, [], read_label_map=LabelMapFiles(legend), facts=facts, **settings), lambda record: []
    if source.unlabelled or rows is None:
        return Release(Unlabelled(source.name, source.modality), [], **settings), lambda record: []
    names = None
    if source.label_column is not None:
        names = ClassNames(source, is_list=source.separator is not None)
        names.learn(record[source.label_column] for _, record in rows.rows)
    labels = LabelReader(source.name, source, names)
    task = replace(labels.task, modality=source.modality)
    return Release(task, [], remarks=names.remarks if names else [], **settings), labels.read


def read_volume_file(row: Row) -> Volume:
    """The volume of the row's file or folder. Raises `UnreadableImageError`."""
    return read_volume(row.path)


@dataclass(frozen=True)
class LabelMapFiles:
    """
    Reads the label map of a row, whose `masks` are its one file, as `Release.read_label_map`.

    Args:
        legend: Labels by the files' values; they get numbers from 1 in this order.
    """

    legend: Mapping[int, str]

    def __call__(self, row: Row) -> Volume:
        (path,) = row.masks
        try:
            stored = read_volume(path)
            return Volume(self._numbered(stored.voxels), stored.affine)
        except ValueError as error:
            reason = str(error).removeprefix(f"{printable(path)}: ")  # where it lies on this machine is told to no one
            raise UnreadableImageError(f"its label map {printable(path.name)}: {reason}") from None

    def _numbered(self, values: np.ndarray) -> np.ndarray:
        if values.dtype.kind == "f":  # as some tools write whole numbers
            whole = np.rint(values)
            if not np.array_equal(whole, values):
                raise ValueError("it holds fractions, and a label map whole numbers: it may be a volume")
            values = whole.astype(np.int32)
        low, high = int(values.min()), int(values.max())
        if high - low >= 2**16:
            raise ValueError(f"it holds values from {low} to {high}: it may be a volume")
        numbers = {0: 0} | {value: number for number, value in enumerate(self.legend, start=1)}
        table = np.zeros(high - low + 1, dtype=np.uint8)
        occurs = np.zeros(len(table), dtype=bool)
        for plane in values.T:
            occurs |= np.bincount(np.subtract(plane, low, dtype=np.int32).ravel(), minlength=len(table)) > 0
        unknown = [value for value in (np.flatnonzero(occurs) + low).tolist() if value not in numbers]
        if unknown:
            more = ", ..." if len(unknown) > 8 else ""
            raise ValueError(
                f"it holds {', '.join(map(str, unknown[:8]))}{more}, which the legend does not name; it names "
                f"{', '.join(map(str, self.legend))}"
            )
        for value, number in numbers.items():
            if low <= value <= high:
                table[value - low] = number
        return table[values.astype(np.int64) - low] if low else table[values]


def check_has_modality(modality: str) -> None:
    """Raises `ValueError` if volumes were to be radiographs."""
    if modality == DEFAULT_MODALITY:
        raise ValueError("--modality CR is of radiographs; say what the volumes were taken with: CT, MR, PT, ...")


def _check_options(source: VolumeSource) -> None:
    given = [option for option in LABEL_OPTIONS if getattr(source, option) not in (None, [])]
    check_has_modality(source.modality)
    if source.unlabelled and (given or source.label_maps or source.legend):
        raise ValueError("--unlabelled reads no labels: leave it out, or what names them.")
    if bool(source.legend) != (source.label_maps is not None):
        raise ValueError("--label_maps and --legend VALUE=LABEL ... go together: the legend names their values.")
    if source.label_maps is not None:
        if given:
            raise ValueError(f"--{given[0]} is of labels in a table; --legend says what the labels are.")
        if source.volumes is None:
            raise ValueError(
                "--label_maps needs --volumes: two patterns, such as 'labelsTr/*.nii.gz' and 'imagesTr/*.nii.gz', "
                "whose * belong together."
            )
    elif not source.unlabelled:
        source.check_label_options()


def _pattern(source: VolumeSource, option: str) -> PathPattern | None:
    pattern = getattr(source, option)
    return None if pattern is None else PathPattern(pattern, f"--{option}")


def _list_volumes(source: VolumeSource, folder: VolumeFolder, release: Release) -> None:
    """Makes a row of every volume."""
    for option in TABLE_OPTIONS:
        if getattr(source, option) != GenericSource.__dataclass_fields__[option].default:
            raise ValueError(
                f"{source.folder} has no labels.csv, of which --{option} names a column: give the table with --csv."
            )
    for path in folder.paths:
        metadata = {"image_id": path, "patient_id": None}
        release.rows.append(Row(printable(path), source.folder / path, "", [], metadata))


def _give_label_maps(source: VolumeSource, folder: VolumeFolder, release: Release) -> None:
    """Finds the label maps of the rows; those for which this fails become problems."""
    kept = []
    users: dict[str, str] = {}
    for row in release.rows:
        name = row.metadata["image_id"]
        case = folder.pattern.case(name) if folder.pattern else None
        found = folder.label_maps.get(case or "", [])
        fault = ""
        if len(found) != 1:
            fault = f"{len(found) or 'none'} of the label maps {source.label_maps!r} has {case!r} for *; one is needed"
        elif users.setdefault(found[0], name) != name:
            fault = f"its label map {found[0]} is that of {users[found[0]]} too: * stands for the same in both"
        if fault:
            release.problems.append(Problem(row.where, fault))
        else:
            row.masks = [source.folder / found[0]]
            kept.append(row)
    release.rows = kept


def _left_out(folder: VolumeFolder, release: Release) -> dict[str, list[str]]:
    """The files of which neither a row nor a problem tells, by the reason."""
    told = {row.metadata["image_id"] for row in release.rows} | {problem.where for problem in release.problems}
    used = {path.relative_to(folder.root).as_posix() for row in release.rows for path in row.masks or []}
    files = {
        "no row that can be used names it": folder.paths,
        "it is a label map, and no volume that can be used has it": sorted(sum(folder.label_maps.values(), [])),
        "it does not fit --volumes": folder.unfit,
        "it is an image, and no volume that is read": folder.others,
    }
    return {reason: [path for path in paths if path not in told | used] for reason, paths in files.items()}
