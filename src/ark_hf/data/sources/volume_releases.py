"""
The official releases of volumes, one function a release: what `catalog.yaml` names as its `reader`.

Readers are as those of `release_readers`; beside each stands what reads the volumes of its rows. Needs no torch.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...files import printable
from ..build.volumes import VOLUMES_PER_SHARD
from ..images.image_files import UnreadableImageError
from ..rows import Problem, Row, hashed_split
from ..volumes.cubes import cube_at
from ..volumes.reading import read_volume
from ..volumes.volume import Volume
from .catalog import CatalogEntry
from .generic_volumes import read_volume_file
from .raw_folder import RawFolder
from .release_readers import Reader
from .released_images import ReleasedImage, ReleasedImages, each_row
from .tables import Record

LUNA_SPLITS = {subset: "train" if subset < 5 else "validation" if subset < 7 else "test" for subset in range(10)}
LUNA_PLACE = ["seriesuid", "coordX", "coordY", "coordZ"]
LUNA_NEGATIVES = 1 / 50  # of the candidates that are no nodules: about ten for each nodule


@dataclass(frozen=True)
class VolumeRelease:
    """
    Args:
        read: Its reader.
        volumes: What reads a row's volume, by the options; and how many a file holds.
    """

    read: Reader
    volumes: Callable[[Mapping[str, str]], tuple[Callable[[Row], Volume], int | None]]


def luna16(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    candidates = options["content"] == "candidates"
    if options["negatives"] == "all" and not candidates:
        raise ValueError("--negatives is of candidates; add --content candidates.")
    scans: dict[str, tuple[str, str]] = {}
    for path in raw.images():
        found = re.fullmatch(r"(?:.*/)?subset(\d)/([^/]+)\.mhd", path)
        if found and found[2] in scans:
            yield Problem(path, f"its scan is {scans[found[2]][1]} too; keep one")
        elif found:
            scans[found[2]] = LUNA_SPLITS[int(found[1])], path
    named: dict[str, list[ReleasedImage]] = {}
    names = ("candidates_V2.csv", "candidates.csv") if candidates else ("annotations.csv",)
    table = raw.table(*names, needed=[*LUNA_PLACE, *["class"] * candidates])

    def read(where: str, row: Record) -> ReleasedImage:
        scan, number = row["seriesuid"], where.rpartition(" ")[2]
        place = tuple(float(row[name]) for name in LUNA_PLACE[1:])
        split, path = scans.get(scan, ("", ""))
        if candidates and row["class"] not in ("0", "1"):
            raise ValueError("class must be 0 or 1")
        labels = [float(row["class"]) if candidates else 1.0]
        return ReleasedImage(where, f"{scan}/{number}", labels, split, scan, path=path, masks=place)

    for item in each_row(table, read):
        if isinstance(item, Problem):
            yield item
        elif item.labels == [1.0] or options["negatives"] == "all" or _is_kept(item.image):
            named.setdefault(str(item.patient_id), []).append(item)
    absent = sorted(named.keys() - scans.keys())
    if absent:
        yield Problem(
            table.path.name, f"of the scans that it names {len(absent)} are in no subset, such as {absent[0]}.mhd"
        )
    for scan, (split, path) in sorted(scans.items(), key=lambda each: each[1][1]):
        if candidates:
            yield from named.get(scan, [])
        else:
            yield ReleasedImage(path, scan, [float(scan in named)], split, scan, path=path)


def _is_kept(candidate: str) -> bool:
    return hashed_split("luna16_negatives", candidate, {"kept": LUNA_NEGATIVES}) == "kept"


def read_candidate(row: Row) -> Volume:
    """The cube around a row's place, which `masks` has in mm in LPS. Raises `UnreadableImageError`."""
    x, y, z = row.masks
    try:
        return cube_at(_scan(row.path), (-x, -y, z))
    except UnreadableImageError:
        raise
    except ValueError as error:
        raise UnreadableImageError(f"{printable(row.path)}: the candidate's place: {error}") from None


@lru_cache(maxsize=1)  # the candidates of a scan follow each other
def _scan(path: Path) -> Volume:
    return read_volume(path)


def _luna_volumes(options: Mapping[str, str]) -> tuple[Callable[[Row], Volume], int | None]:
    return (read_candidate, None) if options["content"] == "candidates" else (read_volume_file, VOLUMES_PER_SHARD)


VOLUME_RELEASES = {"luna16": VolumeRelease(luna16, _luna_volumes)}
