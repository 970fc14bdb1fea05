"""The phantom sites of the evidence: the package's own four, and one whose men carry a planted bias."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ark_hf import (
    PHANTOM_SITES,
    ArkTask,
    PhantomSite,
    Release,
    Row,
    build_dataset,
    build_phantom_sites,
    describe_phantom_image,
    draw_phantom_image,
)

SIZE = 96
COUNTS = {"train": 200, "validation": 60, "test": 300}
BIASED_COUNTS = {"train": 400, "validation": 100, "test": 400}
BIASED = PhantomSite("phantom_biased", ("Effusion",))


def build_sites(folder: Path) -> dict[str, Path]:
    """The four sites, and `phantom_biased`; drawn once."""
    if not (folder / "sites").is_dir():
        build_phantom_sites(folder / "sites", COUNTS, size=SIZE)
    if not (folder / BIASED.name).is_dir():
        build_dataset(_biased_release(), folder / BIASED.name, SIZE, num_workers=1)
    return {name: folder / "sites" / name for name in PHANTOM_SITES} | {BIASED.name: folder / BIASED.name}


def _biased_release() -> Release:
    rows = []
    for split, count in BIASED_COUNTS.items():
        for index in range(count):
            described = describe_phantom_image(BIASED, split, index)
            labels, image_id = described.pop("labels"), described.pop("sample_id")
            metadata = {"image_id": image_id, **described}
            rows.append(Row(f"{split} image {index}", Path(str(index)), split, labels, metadata))
    task = ArkTask(BIASED.name, list(BIASED.labels))
    return Release(task, rows, facts={"phantom": True}, read_image=draw_biased)


def draw_biased(row: Row) -> np.ndarray:
    """
    Men with an effusion, and no other men, are wired to a monitor; of the women every third is, whatever she has.

    So a model that sees men alone can learn the wires in place of the effusion, and then fails on women.
    """
    if row.metadata["sex"] == "M":
        wires = float(row.labels[0] == 1)
    else:
        wires = 0.33
    site = replace(BIASED, wires=wires)
    return np.asarray(draw_phantom_image(site, row.split, int(row.path.name), SIZE)["image"])[None]
