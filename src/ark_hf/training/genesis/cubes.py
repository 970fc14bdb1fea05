"""
The cubes of a run: cut once from its volumes, as in the release, into a folder from which every epoch reads them.

A volume has a file there, `.npy`, (cubes, and the model's axes) uint16, 0 and 65,535 the ends of the window (a level
is 0.03 Hounsfield units of a CT's); or one that says why it gives none, `.txt`. Each is there whole or not at all, and
what is in it is a function of settings, seed and volume: a run that was killed while it cut goes on where it was.
"""

import json
import math
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from tqdm.auto import tqdm

from ...data.open_dataset import TaskDataset
from ...data.views import sample_generator
from ...data.volume_samples import read_rows, whole_volume
from ...data.volumes.cubes import CubeRules, TooSmallError, cube_places
from ...data.volumes.volume import Volume
from ...files import printable, replacing, write_json, write_text
from ...models.genesis.image_processing_genesis import GenesisImageProcessor
from .fast_deformation import LEVELS

SETTINGS_FILE = "cubes.json"
PLACES_STREAM = 2**32 - 1  # stands where an epoch does, so that the places share no draws with a deformation
TISSUE = CubeRules().tissue
# Of a volume's sides along x, y and z, by default: about what the publication has of 512 x 512 x 300
BORDER = (0.2, 0.2, 0.1)
NAMED = 10  # volumes without cubes
TOO_DENSE = "every cube that was drawn has more tissue than most_tissue allows: raise it, or set it to null"


@dataclass(frozen=True)
class Cutting:
    """
    How volumes are cut.

    Args:
        processor: Brings them to what the network sees.
        count: Cubes of a volume.
        border, most_tissue: As in `GenesisArguments`.
        seed: Of the places.

    Raises:
        ValueError: There is a rule for tissue, and no window that tells it from air.
    """

    processor: GenesisImageProcessor
    count: int
    border: list[int] | None
    most_tissue: float | None
    seed: int

    def __post_init__(self):
        low, high = self.processor.hu_window or (0, 0)
        if self.most_tissue is not None and not low < TISSUE < high:
            raise ValueError(
                f"most_tissue tells tissue from air at {TISSUE:g} Hounsfield units, which do not lie in hu_window "
                f"{self.processor.hu_window}: set it to null, or another window."
            )

    def cut(self, volume: Volume, generator: np.random.Generator) -> np.ndarray:
        """
        Cubes of a volume, in whatever orientation, as the network sees it, before they are deformed.

        Returns:
            uint16 (cubes, *cube_size of the processor), of as many levels as [`deform_fast`] knows.

        Raises:
            ValueError: It is too small, or its values are none that the processor takes.
        """
        voxels = self._turned(whole_volume(self.processor, volume, self.processor.modality)[0].numpy())
        cubes = [voxels[place] for place in cube_places(voxels, generator, self._rules(voxels.shape))]
        levels = [np.rint(self._turned(cube) * LEVELS).astype(np.uint16) for cube in cubes]
        return np.stack(levels) if levels else np.empty((0, *self.processor.cube_size), np.uint16)

    def _turned(self, voxels: np.ndarray) -> np.ndarray:
        """From the axes of the model to x, y, z, or back."""
        return voxels if self.processor.axes == "xyz" else voxels.T

    def _rules(self, shape: tuple[int, ...]) -> CubeRules:
        turn = slice(None, None, 1 if self.processor.axes == "xyz" else -1)
        size = self.processor.cube_size[turn]
        if self.border is not None:
            border = self.border[turn]
        else:
            room = [max(there - side, 0) for there, side in zip(shape, size, strict=True)]
            border = [
                min(int(share * there), more // 4) for share, there, more in zip(BORDER, shape, room, strict=True)
            ]
        tissue = 0.0
        if self.most_tissue is not None:
            low, high = self.processor.hu_window or (0, 1)
            tissue = float(np.float32(TISSUE - low) / np.float32(high - low))  # as the processor scales voxels
        (x, y, z), (left, back, up) = size, border
        return CubeRules((x, y, z), (left, back, up), self.count, tissue=tissue, most_tissue=self.most_tissue)


@dataclass(frozen=True)
class Source:
    """
    A volume and what is known of its cubes.

    Args:
        data, split, row: Where it is.
        folder: Of the run's cubes.
    """

    data: TaskDataset
    split: str
    row: int
    folder: Path

    @property
    def name(self) -> str:
        """What the volume is known by in its dataset, and its draws with it."""
        names = self.data.column(self.split, "image_id")
        return f"{self.split} {self.row}" if names is None or names[self.row] is None else str(names[self.row])

    @property
    def dataset(self) -> str:
        """With the split, for messages."""
        return f"{self.data.source}, split {self.split!r}"

    @property
    def where(self) -> str:
        return f"{self.dataset}, row {self.row} ({printable(self.name)})"

    @property
    def cubes(self) -> Path:
        return self.folder / self.data.task.name / f"{self.split}-{self.row}.npy"

    @property
    def reason(self) -> Path:
        """Where it says why there are none."""
        return self.cubes.with_suffix(".txt")

    def cut(self, how: Cutting) -> None:
        """Writes one of the two files. Raises `ValueError` if the volume cannot be read or is not to be taken."""
        rows: Any = self.data.splits[self.split]  # volumes are not streamed
        ((_, volume),) = read_rows(rows, [self.row], self.dataset)
        generator = sample_generator(how.seed, PLACES_STREAM, self.data.task.name, self.name)
        try:
            found, reason = how.cut(volume, generator), TOO_DENSE
        except TooSmallError as error:
            found, reason = np.empty(0, np.uint16), str(error)
        except ValueError as error:
            raise ValueError(f"{self.where}: {str(error).removesuffix('.')}.") from None
        if not len(found):
            write_text(self.reason, reason)
            return
        with replacing(self.cubes) as new, new.open("wb") as file:
            np.save(file, found)


class Cubes:
    """
    All cubes of a split, of one volume after the other.

    Args:
        sources: The volumes, those without cubes among them.
    """

    def __init__(self, sources: list[Source]):
        self.sources = [source for source in sources if source.cubes.is_file()]
        self.ends = np.cumsum([len(np.load(source.cubes, mmap_mode="r")) for source in self.sources], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, number: int) -> tuple[str, str, np.ndarray]:
        """A cube's dataset, its name there, and what [`Cutting.cut`] gave."""
        volume = int(np.searchsorted(self.ends, number, side="right"))
        source = self.sources[volume]
        at = number - (int(self.ends[volume - 1]) if volume else 0)
        cubes = np.load(source.cubes, mmap_mode="r")  # opened anew: so many open files are not allowed
        return source.data.task.name, f"{source.name} {at}", np.asarray(cubes[at])

    def rows(self, numbers: np.ndarray) -> dict[str, list[int]]:
        """By dataset the rows of the volumes that cubes are of."""
        found: dict[str, list[int]] = {}
        for volume in np.unique(np.searchsorted(self.ends, numbers, side="right")):
            found.setdefault(self.sources[volume].data.task.name, []).append(self.sources[volume].row)
        return found


def cut_cubes(
    data: list[TaskDataset], how: Cutting, folder: Path, settings: dict[str, Any], accelerator: Accelerator
) -> dict[str, Cubes]:
    """
    Cuts what is not there yet, each process its share of the volumes, a volume at a time.

    Args:
        data: Of their splits `train` and `validation`.
        folder: Of the cubes; those of other settings make room.
        settings: Ready for JSON. All that the cubes depend on.

    Returns:
        The cubes of both splits. Volumes without any are warned of by name.

    Raises:
        ValueError: A volume cannot be read, its values are none that the processor takes, none has a cube, or there is
            no room for them on the disk.
    """
    sources = [
        Source(each, split, row, folder)
        for split in ("train", "validation")
        for each in data
        if split in each.splits
        for row in range(len(each.splits[split]))
    ]
    if accelerator.is_main_process:
        _prepare(folder, sources, how, settings)
    accelerator.wait_for_everyone()
    mine = sources[accelerator.process_index :: accelerator.num_processes]
    missing = [source for source in mine if not (source.cubes.is_file() or source.reason.is_file())]
    for source in tqdm(missing, desc="cutting cubes", disable=not (missing and accelerator.is_main_process)):
        source.cut(how)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _tell(sources)
    cubes = {split: Cubes([each for each in sources if each.split == split]) for split in ("train", "validation")}
    if not len(cubes["train"]):
        first = next(each for each in sources if each.split == "train")
        raise ValueError(
            f"No volume gives a cube to train on, the first ({first.where}) because "
            f"{first.reason.read_text(encoding='utf-8')}."
        )
    return cubes


def _prepare(folder: Path, sources: list[Source], how: Cutting, settings: dict[str, Any]) -> None:
    """Makes the folders, without cubes of other settings and what a killed process has begun."""
    noted = folder / SETTINGS_FILE
    if not noted.is_file() or json.loads(noted.read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
        shutil.rmtree(folder, ignore_errors=True)
    for parent in {source.cubes.parent for source in sources}:
        parent.mkdir(parents=True, exist_ok=True)
        for begun in parent.glob(".*.new"):
            begun.unlink()
    write_json(noted, settings)
    missing = sum(not (source.cubes.is_file() or source.reason.is_file()) for source in sources)
    needed, free = missing * how.count * 2 * math.prod(how.processor.cube_size), shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"The cubes need {needed / 1e9:,.1f} GB in {folder}, where {free / 1e9:,.1f} GB are free: make room, or "
            "lower cubes_per_volume."
        )


def _tell(sources: list[Source]) -> None:
    """Warns of volumes that give no cube, by name."""
    without = [source for source in sources if source.reason.is_file()]
    if without:
        told = [f"{each.where}: {each.reason.read_text(encoding='utf-8')}" for each in without[:NAMED]]
        more = [f"and {len(without) - NAMED:,} more"] if len(without) > NAMED else []
        warnings.warn(
            f"{len(without):,} of {len(sources):,} volumes give no cube. {'; '.join(told + more)}.", stacklevel=4
        )
