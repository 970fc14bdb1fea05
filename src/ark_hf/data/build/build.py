"""
The engine of the builders: a release on disk to a task dataset, that is parquet shards and a card (DESIGN, "Data").

A build works in the hidden folder `.NAME.building` beside its output. Shards are planned from the rows alone, and each
is there whole or not at all. So a build that was killed, that failed or was refused continues with the same command,
and what comes out is the same to the byte, however often that happened and however many processes took part.
"""

import errno
import hashlib
import math
import multiprocessing
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import filelock
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from tqdm.auto import tqdm

from ...files import check_new_folder, printable, replace_folder, write_json, write_text
from ...models.ark.configuration_ark import ArkTask, SegmentationTask
from ...signals import ended_by_signals
from ..image_statistics import STATISTICS_FILE, statistics_schema
from ..rows import OPTIONAL_COLUMNS, Problem, Release, Row, read_image_file
from ..summary import split_summary
from ..task_dataset import BUILD_REPORT, SPLITS
from ..unlabelled import AnyTask
from .cards import dataset_card
from .duplicates import HASH_FILE, HASH_SCHEMA, Duplicate, Place, find_duplicates
from .masks import MaskStore
from .pictures import PictureStore, encode_png
from .shards import ROWS_PER_SHARD, Shard, ShardBuilder, ShardRecord, write_parquet
from .volumes import VolumeStore
from .workers import PROCESS_NAME, build_shards

__all__ = ["build_dataset", "check_output", "encode_png", "task_features", "write_task_dataset"]

FORMAT = 2  # to be raised when the same rows come to be stored otherwise
MIN_SIZE = 32
SHOWN_PROBLEMS = 10
NAMED_FILES = 100  # of those that were left out for the same reason


def build_dataset(
    release: Release,
    output_dir: Path,
    size: int = 1024,
    num_workers: int | None = None,
    skip_bad: bool = False,
    allow_patient_overlap: bool = False,
) -> dict[str, Any]:
    """
    Builds a task dataset: `data/SPLIT-*.parquet`, card, `build_report.json`, `image_hashes.parquet` and
    `image_statistics.parquet`.

    Everything that can be checked without reading images is checked first. The folder appears whole, at the end; until
    then, what is done is kept for the same call to continue.

    Args:
        release: The rows and how their images are read.
        output_dir: New folder of the dataset.
        size: Pictures are shrunk, never enlarged, to this longer side, at least 32 pixels. Volumes stay as they are.
        num_workers: Processes that read images; as many as there are cores unless said, fewer for small datasets.
        skip_bad: Whether to leave rows and images that cannot be used out instead of stopping.
        allow_patient_overlap: Whether a patient or a picture may stand in two splits.

    Returns:
        The report, as in `build_report.json`: `name`; `rows` a split; `size` of pictures; `bytes` of a split's files;
        `splits`, see [`split_summary`]; `problems`, what was left out; `left_out`, files that were not looked at,
        counted by reason, the first hundred by name; `doubts`, what speaks against single pictures;
        `duplicates` across splits, where `equal` are the same to the pixel and `near` differ in `distance` bits of
        their perceptual hashes, `within_splits`, the number of rows that repeat a picture of their own split, and
        `contradicting`, rows anywhere with the very picture of an earlier one and other labels; `patient_overlap`, the
        rows whose patient stands in an earlier split too; `expected`, counts that are not the release's; and its
        `remarks` and `facts`.

    Raises:
        ValueError: Rows or images cannot be used, or a patient, an image or a picture stands in two splits (the
            message names the first ten and a file that lists all); no image has a pixel of some label to be
            segmented; the output exists; another build writes to it.
        OSError: The disk is full, or a process was killed.
    """
    if multiprocessing.current_process().name == PROCESS_NAME:
        raise RuntimeError("A script that builds datasets must do so under `if __name__ == '__main__':`.")
    check_output(output_dir, size)
    rows, problems = _without_repetitions(release)
    overlap = _find_patient_overlap(rows)
    columns = [name for name in OPTIONAL_COLUMNS if any(row.metadata.get(name) is not None for row in rows)]
    store, stored = _store(release, size)
    features = task_features(stored, columns)
    complaints = _Complaints(release.task.name, output_dir, skip_bad, allow_patient_overlap)
    complaints.check_problems(problems)
    complaints.check_overlap("patients", overlap, "Keep each in one split")
    if not rows:
        raise ValueError(f"{release.task.name}: there is no row to build.")

    with _work_folder(output_dir) as work:
        builder = _open_builder(work, release, rows, store, features)
        shards = _plan(rows, release.rows_per_shard or ROWS_PER_SHARD)
        _finish_shards(builder, shards, release.task.name, num_workers)

        kept: dict[str, list[Row]] = {split: [] for split in SPLITS}
        doubts: list[Problem] = []
        schema = statistics_schema(store.statistics)
        hashes, statistics = [HASH_SCHEMA.empty_table()], [schema.empty_table()]
        sizes: Counter[str] = Counter()
        shrunk: set[tuple[float, ...]] = set()
        for shard in shards:
            record = builder.read_record(shard)
            sizes[shard.name.partition("-")[0]] += record.size
            problems += [Problem(shard.rows[number].where, reason) for number, reason in record.problems]
            doubts += [Problem(shard.rows[number].where, reason) for number, reason in record.doubts]
            shrunk.update(map(tuple, record.shrunk))
            hashes.append(_collect(shard, record, kept))
            statistics.append(_statistics_table(shard, record, hashes[-1], schema))
        complaints.check_problems(problems)
        if not any(kept.values()) or not kept["train"] and any(row.split == "train" for row in rows):
            raise ValueError(f"{release.task.name}: no image {'of split train ' * any(kept.values())}can be read.")
        _check_every_label(release.task, kept)
        task, remarks = _with_spacing(release.task, shrunk)
        table = pa.concat_tables(hashes)
        duplicates = _describe_duplicates(table, kept)
        complaints.check_overlap("pictures", duplicates["equal"], "Keep one file of each, or both in one split")

        report = {
            "name": release.task.name,
            "rows": {split: len(kept[split]) for split in SPLITS},
            **({} if isinstance(store, VolumeStore) else {"size": size}),
            "bytes": {split: sizes[split] for split in SPLITS if kept[split]},
            "splits": {split: _summarise(release.task, kept[split], columns) for split in SPLITS if kept[split]},
            "problems": [asdict(problem) for problem in problems],
            "left_out": [
                {"reason": reason, "files": len(names), "first": [printable(name) for name in names[:NAMED_FILES]]}
                for reason, names in release.left_out.items()
                if names
            ],
            "doubts": [asdict(reason) for reason in doubts],
            "duplicates": duplicates,
            "patient_overlap": overlap,
            "expected": release.facts.get("expected", []),
            "remarks": [*release.remarks, *_two_sexes(rows), *remarks],
            "facts": {name: fact for name, fact in release.facts.items() if name != "expected"},
        }
        dataset = work / "dataset"
        pq.write_table(table, dataset / HASH_FILE)
        pq.write_table(pa.concat_tables(statistics), dataset / STATISTICS_FILE)
        write_json(dataset / BUILD_REPORT, report)
        write_text(dataset / "README.md", dataset_card(task, features, report))
        if output_dir.exists():
            output_dir.rmdir()
        dataset.rename(output_dir)
        complaints.file.unlink(missing_ok=True)
    return report


def _check_every_label(task: AnyTask, kept: Mapping[str, list[Row]]) -> None:
    """Raises `ValueError` if a label that is to be segmented has no pixel anywhere."""
    if not isinstance(task, SegmentationTask):
        return
    values = [row.labels for rows in kept.values() for row in rows]
    absent = [label for number, label in enumerate(task.labels) if all(each[number] != 1 for each in values)]  # type: ignore[index]
    if absent:
        raise ValueError(
            f"{task.name}: none of the {len(values):,} images has a pixel of {', '.join(map(repr, absent))}; correct "
            "the masks or what names them, or leave that label out."
        )


def _with_spacing(task: AnyTask, shrunk: Collection[tuple[float, ...]]) -> tuple[AnyTask, list[str]]:
    """The task with the spacing of the stored pixels, and what is to be told if they have none in common."""
    if not isinstance(task, SegmentationTask) or task.pixel_spacing is None:
        return task, []
    if len(shrunk) > 1:
        told = "Images of several sizes were shrunk, so that their pixels have no spacing in common: it is unknown."
        return replace(task, pixel_spacing=None), [told]
    (factors,) = shrunk
    return replace(task, pixel_spacing=[mm * each for mm, each in zip(task.pixel_spacing, factors, strict=True)]), []


def check_output(output_dir: Path, size: int) -> None:
    """Raises `ValueError` if a dataset cannot be built there, or not at this size."""
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} pixels, got {size}.")
    check_new_folder(output_dir, "--out")


Store: TypeAlias = PictureStore | MaskStore | VolumeStore


def _store(release: Release, size: int) -> tuple[Store, Features]:
    """What stores a row of the release, and the columns that it stores."""
    task = release.task
    if release.read_volume is not None:
        segmented = isinstance(task, SegmentationTask)
        if segmented != (release.read_label_map is not None):
            raise ValueError(f"{task.name}: a segmentation of volumes, and no other task, needs `read_label_map`.")
        return VolumeStore(release.read_volume, release.read_label_map, len(task.labels)), VolumeStore.features(task)
    read_image = release.read_image or partial(read_image_file, modality=task.modality)
    if not isinstance(task, SegmentationTask):
        return PictureStore(read_image, size), PictureStore.features(task)
    if release.read_masks is None:
        raise ValueError(f"{task.name}: a segmentation needs `read_masks`, which reads the masks of a row.")
    store = MaskStore(read_image, release.read_masks, size, task.labels, task.overlapping)
    return store, MaskStore.features()


def task_features(stored: Features, columns: Iterable[str]) -> Features:
    """Columns of a task dataset: those that are stored of its rows, and those of `OPTIONAL_COLUMNS` that are named."""
    metadata = {name: Value("float32" if OPTIONAL_COLUMNS[name] is float else "string") for name in columns}
    return Features({**stored, "image_id": Value("string"), **metadata})


@dataclass
class _Complaints:
    """Refusals to build: the first lines stand in the message, all in a file beside the output."""

    name: str
    output_dir: Path
    skip_bad: bool
    allow_overlap: bool

    @property
    def file(self) -> Path:
        return self.output_dir.with_name(f"{self.output_dir.name}.problems.json")

    def check_problems(self, problems: list[Problem]) -> None:
        if problems and not self.skip_bad:
            self._refuse(
                f"{len(problems)} rows or images cannot be used",
                [f"{problem.where}: {problem.reason}" for problem in problems],
                [asdict(problem) for problem in problems],
                "Mend or remove them, or pass --skip_bad to leave them out.",
            )

    def check_overlap(self, what: str, overlap: list[dict[str, Any]], remedy: str) -> None:
        if overlap and not self.allow_overlap:
            self._refuse(
                f"{what} stand in two splits, {len(overlap)} times",
                ["{where} ({split}) and {other} ({other_split})".format(**pair) for pair in overlap],
                overlap,
                f"{remedy}, or pass --allow_patient_overlap.",
            )

    def _refuse(self, fault: str, lines: list[str], entries: list[dict[str, Any]], remedy: str) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, entries)
        more = [f"... and {len(lines) - SHOWN_PROBLEMS} more"] * (len(lines) > SHOWN_PROBLEMS)
        raise ValueError(
            "\n".join([f"{self.name}: {fault} (list: {self.file}):", *lines[:SHOWN_PROBLEMS], *more, remedy])
            + " Images that are built already are kept for the next try."
        )


def _without_repetitions(release: Release) -> tuple[list[Row], list[Problem]]:
    """
    The first row of each image that has a name, and the problems: rows that repeat it, and all rows of an image that
    contradict each other.
    """
    of_image: dict[str, list[Row]] = {}
    kept, problems = [], list(release.problems)
    for row in release.rows:
        name = printable(row.metadata["image_id"])
        if name != row.metadata["image_id"]:
            problems.append(Problem(row.where, f"the name of its image, {name}, is not UTF-8; rename it"))
        else:
            of_image.setdefault(name, []).append(row)
    for first, *others in of_image.values():
        differing = _differing([first, *others])
        if not differing:
            kept.append(first)
        for row in others:
            what = f", with another {' and '.join(differing)}: none of its rows can be trusted" if differing else ""
            if "label" in differing:
                what += "; where each row is a finding, make one of an image's rows"
            reason = f"its image ({row.split}) stands in {first.where} ({first.split}) too{what}"
            problems.append(Problem(row.where, reason))
        if differing:
            reason = f"its image stands in {others[0].where} too, with another {' and '.join(differing)}"
            problems.append(Problem(first.where, reason))
    return kept, problems


def _differing(rows: list[Row]) -> list[str]:
    """What rows of one image say differently."""
    if len(rows) == 1:
        return []
    told = [{"label": repr(row.labels), "split": row.split, **row.metadata} for row in rows]  # NaN is not NaN
    return [what for what in told[0] if len({each.get(what) for each in told}) > 1]


def _find_patient_overlap(rows: list[Row]) -> list[dict[str, Any]]:
    first_rows: dict[str, Row] = {}
    overlap = []
    for row in rows:
        patient = row.metadata.get("patient_id")
        first = row if patient is None else first_rows.setdefault(patient, row)
        if first.split != row.split:
            overlap.append(_pair(row, first))
    return overlap


def _two_sexes(rows: list[Row]) -> list[str]:
    """Tells of patients who are men in some rows and women in others: one id for two, or an error of the source."""
    first_rows: dict[str, Row] = {}
    differing: dict[str, Row] = {}
    for row in rows:
        patient, sex = row.metadata.get("patient_id"), row.metadata.get("sex")
        if patient is not None and sex is not None:
            first = first_rows.setdefault(patient, row)
            if first.metadata["sex"] != sex:
                differing.setdefault(patient, row)
    if not differing:
        return []
    patient, row = next(iter(differing.items()))
    return [
        f"{len(differing):,} patients have two sexes, such as the one of {first_rows[patient].where} and {row.where}."
    ]


def _pair(row: Row, other: Row) -> dict[str, Any]:
    return {"where": row.where, "split": row.split, "other": other.where, "other_split": other.split}


@contextmanager
def _work_folder(output_dir: Path) -> Iterator[Path]:
    """The folder of an unfinished build, for one process at a time; removed when all has gone well."""
    work = output_dir.with_name(f".{output_dir.name}.building")
    work.mkdir(parents=True, exist_ok=True)
    try:
        lock = filelock.FileLock(work / "lock").acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(f"Another build is writing {output_dir}; wait for its end or choose another --out.") from None
    words = "the build is stopped. What is built is kept: the same command continues."
    with lock, ended_by_signals(words):
        try:
            yield work
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = shutil.disk_usage(work).free / 1e6
            raise OSError(
                f"No space left on device: {work.parent} has {free:,.0f} MB. What is built is kept: make room, and "
                "the same command continues."
            ) from error
        shutil.rmtree(work, ignore_errors=True)


def _open_builder(work: Path, release: Release, rows: list[Row], store: Store, features: Features) -> ShardBuilder:
    """A builder that continues what is in `work`, if that is of the same rows and settings."""
    builder = ShardBuilder(work / "dataset" / "data", work / "records", features.arrow_schema, store)
    settings = (FORMAT, PIL.__version__, pa.__version__, store.settings, release.task.to_dict(), list(features))
    digest = hashlib.sha256(repr(settings).encode())
    for row in rows:
        digest.update(repr(row).encode())
    fingerprint = work / "fingerprint"
    if fingerprint.is_file() and fingerprint.read_text(encoding="utf-8") != digest.hexdigest():
        tqdm.write(
            f"{release.task.name}: the interrupted build had other rows or settings; starting anew.", sys.stderr
        )
        shutil.rmtree(work / "dataset", ignore_errors=True)
        shutil.rmtree(work / "records", ignore_errors=True)
    write_text(fingerprint, digest.hexdigest())
    for folder in (builder.data_dir, builder.record_dir):
        folder.mkdir(parents=True, exist_ok=True)
    builder.remove_unfinished()
    return builder


def _plan(rows: list[Row], rows_per_shard: int) -> list[Shard]:
    """Shards of equal length, in the order of the rows."""
    shards = []
    for split in SPLITS:
        chosen = [row for row in rows if row.split == split]
        count = math.ceil(len(chosen) / rows_per_shard)
        edges = [len(chosen) * i // count for i in range(count + 1)] if count else []
        for i, (start, stop) in enumerate(pairwise(edges)):
            shards.append(Shard(f"{split}-{i:05d}-of-{count:05d}.parquet", chosen[start:stop]))
    return shards


def _finish_shards(builder: ShardBuilder, shards: list[Shard], name: str, num_workers: int | None) -> None:
    unfinished = [shard for shard in shards if not builder.is_finished(shard)]
    total, left = (sum(len(shard.rows) for shard in some) for some in (shards, unfinished))
    if num_workers is None:  # a process takes about a second to start
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        num_workers = min(cores, max(1, left // ROWS_PER_SHARD))
    with tqdm(total=total, initial=total - left, desc=f"building {name}", unit="image") as bar:
        build_shards(builder, unfinished, min(num_workers, len(unfinished)), bar.update)


def _collect(shard: Shard, record: ShardRecord, kept: dict[str, list[Row]]) -> pa.Table:
    """Adds a shard's rows to those of the shards before it; the hashes of their pictures."""
    split = shard.name.partition("-")[0]
    start = len(kept[split])
    for number, present in zip(record.kept, record.present, strict=True):
        row = shard.rows[number]
        labels = [math.nan if value is None else float(value) for value in present] if present else row.labels
        kept[split].append(replace(row, labels=labels))
    columns = {
        "split": [split] * len(record.kept),
        "row": range(start, len(kept[split])),
        "sha256": [bytes.fromhex(content) for content, _ in record.hashes],
        "perceptual_hash": [bytes.fromhex(look) for _, look in record.hashes],
    }
    return pa.table(columns, schema=HASH_SCHEMA)


def _statistics_table(shard: Shard, record: ShardRecord, places: pa.Table, schema: pa.Schema) -> pa.Table:
    """The statistics of a shard's pictures, in the places of their hashes; none where nothing has statistics."""
    values = [
        (shard.rows[number].metadata["image_id"], *numbers)
        for number, numbers in zip(record.kept, record.statistics, strict=True)
        if numbers
    ]
    if not values:
        return schema.empty_table()
    return pa.table([places["split"], places["row"], *map(list, zip(*values, strict=True))], schema=schema)


def _describe_duplicates(table: pa.Table, kept: dict[str, list[Row]]) -> dict[str, Any]:
    def row(place: Place) -> Row:
        return kept[place.split][place.row]

    def describe(duplicate: Duplicate) -> dict[str, Any]:
        # Splits sort otherwise than they stand, and it is the later row that is one too many
        first, second = sorted((duplicate.first, duplicate.second), key=lambda place: SPLITS.index(place.split))
        return _pair(row(second), row(first))

    duplicates = find_duplicates({"": table})
    places = zip(*(table.column(name).to_pylist() for name in ("split", "row", "sha256")), strict=True)
    content, first_rows, contradicting = [], dict[bytes, Row](), []
    for split, number, picture in places:
        content.append((split, picture))
        found = kept[split][number]
        first = first_rows.setdefault(picture, found)
        if repr(first.labels) != repr(found.labels):  # NaN is not NaN
            contradicting.append(_pair(found, first))
    return {
        "equal": [describe(duplicate) for duplicate in duplicates if duplicate.equal],
        "near": [describe(each) | {"distance": each.distance} for each in duplicates if not each.equal],
        "within_splits": sum(count - 1 for count in Counter(content).values()),
        "contradicting": contradicting,
    }


def _summarise(task: AnyTask, rows: list[Row], columns: list[str]) -> dict[str, Any]:
    metadata = {name: [row.metadata.get(name) for row in rows] for name in columns}
    return split_summary(task, [row.labels for row in rows], metadata)


def write_task_dataset(
    output_dir: Path,
    task: ArkTask,
    rows: Mapping[str, Callable[[], Iterable[dict]]],
    optional_columns: list[str],
    facts: dict[str, Any],
) -> None:
    """
    Writes rows that are at hand, images encoded, as a task dataset without hashes of its pictures.

    Args:
        output_dir: Folder of the dataset, replaced when the new one is whole.
        task: Its task.
        rows: Returns the rows of each split; each must have some.
        optional_columns: Those of `OPTIONAL_COLUMNS` that the rows have.
        facts: As of a [`Release`].
    """
    features = task_features(PictureStore.features(task), optional_columns)

    def write(folder: Path) -> None:
        (folder / "data").mkdir()
        splits = {}
        for split, read in rows.items():
            path = folder / "data" / f"{split}-00000-of-00001.parquet"
            write_parquet(path, features.arrow_schema, read())
            table = pq.read_table(path, columns=["labels", *optional_columns]).to_pydict()
            splits[split] = split_summary(task, table.pop("labels"), table)
        counts = {split: summary["rows"] for split, summary in splits.items()}
        report = {"name": task.name, "rows": counts, "splits": splits, "problems": [], "facts": facts}
        write_json(folder / BUILD_REPORT, report)
        write_text(folder / "README.md", dataset_card(task, features, report))

    replace_folder(output_dir, write)
