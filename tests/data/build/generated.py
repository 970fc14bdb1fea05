"""Generated releases for the tests of the builders. Their processes import this file, so it needs no torch."""

import csv
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.rows import Row


@dataclass(frozen=True)
class Noise:
    """
    Reads a row's image without a file: noise that its `path`, a number, decides.

    Args:
        size: Side in pixels.
        delay: Seconds that each takes.
        bad: Numbers of images that cannot be read.
        fatal: Number of the image at which the process kills itself, unless the file `spared` exists.
        log: A file to which each image read adds a byte.
        peaks: A file to which each image read adds its process's largest memory so far, in MB, as a line.
    """

    size: int = 32
    delay: float = 0.0
    bad: tuple[int, ...] = ()
    fatal: int | None = None
    spared: Path = Path("never")
    log: Path | None = None
    peaks: Path | None = None

    def __call__(self, row: Row) -> np.ndarray:
        number = int(row.path.name)
        time.sleep(self.delay)
        if self.log is not None:
            with open(self.log, "ab") as file:
                file.write(b".")
        if self.peaks is not None:
            with open(self.peaks, "a") as file:
                file.write(f"{peak_memory()}\n")
        if number == self.fatal and not self.spared.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if number in self.bad:
            raise UnreadableImageError(f"{row.path}: it is bad")
        return np.random.default_rng(number).integers(0, 256, (1, self.size, self.size), dtype=np.uint8)


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MB. (`ru_maxrss` counts what it was forked from too.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def noise_rows(train: int, validation: int = 0, test: int = 0) -> list[Row]:
    """Rows of labels of two findings and a class each, one a patient; the numbers count on over the splits."""
    rows = []
    for split, count in {"train": train, "validation": validation, "test": test}.items():
        for _ in range(count):
            number = len(rows)
            labels = [float(number % 2), (0.0, 1.0, -1.0, float("nan"))[number % 4]]
            metadata = {"image_id": f"{number}.png", "patient_id": f"p{number}", "age": 20.0 + number % 60}
            rows.append(Row(f"list, line {number}", Path(str(number)), split, labels, metadata))
    return rows


def write_rows(folder: Path, rows: list[dict]) -> None:
    """Writes `labels.csv`."""
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)


def draw_picture(path: Path, seed: int, shape: tuple[int, int] = (48, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
