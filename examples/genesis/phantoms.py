"""
Datasets of drawn volumes beside those of `ark-hf data build phantom_volumes`.

    python examples/genesis/phantoms.py FOLDER

phantom_mr_structures: drawn CTs whose values went through a rising curve, another for each, so that they have no unit
in common, as those of MR have none; with label maps. phantom_ct_candidates and phantom_mr_candidates: small cubes, in
the middle of each a nodule or a piece of a vessel. In a slice both are round spots; only the third dimension tells
them apart, as it does with the candidates of LUNA16.
"""

import csv
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ark_hf

STRUCTURES = {"train": 300, "validation": 20, "test": 60}  # volumes
CANDIDATES = {"train": 300, "validation": 100, "test": 200}  # CTs, of which each gives one cube or two
SIDE = 16  # voxels of 5 mm, of those cubes
STRUCTURES_SEED, CANDIDATES_SEED = 2, 1  # so that no volume is one of those drawn by default, nor in both
KNOTS = 4  # of a curve, between its ends
HIGHEST = 1000  # value of a volume of no unit
VESSELS = 2  # in label maps


def without_unit(volume: ark_hf.Volume, generator: np.random.Generator) -> ark_hf.Volume:
    """A CT whose values, of -1000 to 1000 Hounsfield units, are brought to 0 to 1000 by a rising curve."""
    places, values = (np.sort(generator.random(KNOTS)) for _ in range(2))
    curve = np.interp(volume.voxels, np.r_[-1000, 2000 * places - 1000, 1000], HIGHEST * np.r_[0, values, 1])
    return ark_hf.Volume(np.rint(curve).astype(np.int16), volume.affine)


def draw(counts: dict[str, int], seed: int) -> Iterator[tuple[str, dict, np.random.Generator]]:
    """Split, CT and a generator for what is made of it."""
    for number, (split, count) in enumerate(counts.items()):
        for index in range(count):
            yield (
                split,
                ark_hf.draw_phantom_volume(split, index, seed=seed),
                np.random.default_rng([seed, number, index]),
            )


def build_structures(output_dir: Path) -> None:
    with tempfile.TemporaryDirectory() as raw:
        rows = []
        for split, drawn, generator in draw(STRUCTURES, STRUCTURES_SEED):
            name = drawn["sample_id"]
            ark_hf.write_nifti(Path(raw, f"{name}.nii.gz"), without_unit(drawn["volume"], generator))
            ark_hf.write_nifti(Path(raw, f"{name}_labels.nii.gz"), drawn["mask"])
            rows.append([f"{name}.nii.gz", split, drawn["patient_id"]])
        write_table(Path(raw), ["image", "split", "patient_id"], rows)
        settings = {
            "volumes": "*.nii.gz",
            "label_maps": "*_labels.nii.gz",
            "legend": ["1=lungs", "2=vessels", "3=nodules"],
        }
        build(Path(raw), output_dir, "phantom_mr_structures", "MR", **settings)


def build_candidates(output_dir: Path, modality: str) -> None:
    with tempfile.TemporaryDirectory() as raw:
        rows = []
        for split, drawn, generator in draw(CANDIDATES, CANDIDATES_SEED):
            for place, label in candidates(drawn, generator):
                cube = cut(drawn["volume"], place)
                name = f"{drawn['sample_id']}-{label}.nii.gz"
                ark_hf.write_nifti(Path(raw, name), cube if modality == "CT" else without_unit(cube, generator))
                rows.append([name, split, drawn["patient_id"], label])
        write_table(Path(raw), ["image", "split", "patient_id", "Nodule"], rows)
        build(Path(raw), output_dir, f"phantom_{modality.lower()}_candidates", modality, labels=["Nodule"])


def candidates(drawn: dict, generator: np.random.Generator) -> list[tuple[np.ndarray, int]]:
    """One or two places (i, j, k) in a drawn CT, with 1 for a nodule and 0 for a vessel."""
    to_index = np.linalg.inv(drawn["volume"].affine)
    vessels = np.argwhere(drawn["mask"].voxels == VESSELS)
    places = [(vessels[generator.integers(len(vessels))], 0)]
    return places + [
        (np.rint(to_index @ [*nodule["center"], 1])[:3].astype(int), 1) for nodule in drawn["nodules"][:1]
    ]


def cut(volume: ark_hf.Volume, place: np.ndarray) -> ark_hf.Volume:
    """The cube around a place, with air where it reaches beyond the CT."""
    padded = np.pad(volume.voxels, SIDE, constant_values=-1000)
    start = place - SIDE // 2
    affine = volume.affine.copy()
    affine[:3, 3] = (volume.affine @ [*start, 1])[:3]
    return ark_hf.Volume(padded[tuple(slice(at + SIDE, at + 2 * SIDE) for at in start)], affine)


def write_table(folder: Path, columns: list[str], rows: list[list]) -> None:
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def build(raw: Path, output_dir: Path, name: str, modality: str, **settings) -> None:
    release = ark_hf.read_volumes(ark_hf.VolumeSource(raw, name, modality=modality, **settings))
    release.facts["phantom"] = True
    ark_hf.build_dataset(release, output_dir / name)


def main(output_dir: Path) -> None:
    build_structures(output_dir)
    for modality in ("CT", "MR"):
        build_candidates(output_dir, modality)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
