"""Folders of radiographs as people have them, and what is read of them."""

from pathlib import Path

from ark_hf.data.rows import Release
from ark_hf.data.sources.generic import GenericSource, read_generic

from ..build.generated import draw_picture, write_rows

PATIENT = "Sentinel"
FILES = ("images/0.png", "images/1.png", "images/2.jpg", "images/3.png", "images/4.png", "images/5.png")
SPLITS = ("train", "train", "train", "train", "val", "test")


def read(folder: Path, rows: list[dict] | None = None, **options) -> Release:
    """The release; of two findings, unless the options say else."""
    if rows is not None:
        write_rows(folder, rows)
    if "label_column" not in options:
        options = {"labels": ["Edema", "Mass"]} | options
    return read_generic(GenericSource(folder, "lungs", **options))


def problems(release: Release) -> dict[str, str]:
    told = {problem.where: problem.reason for problem in release.problems}
    assert PATIENT not in str(told)
    return told


def fill(folder: Path, *paths: str) -> Path:
    for number, path in enumerate(paths):
        draw_picture(folder / path, number)
    return folder
