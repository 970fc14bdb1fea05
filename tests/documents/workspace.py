"""The folder in which the documents' commands are run: what their readers have, drawn and small."""

import csv
import functools
import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from openpyxl import Workbook
from PIL import Image, ImageOps

from ark_hf import (
    PHANTOM_SITES,
    build_phantom_volumes,
    draw_phantom_image,
)
from ark_hf.cli.main import main
from tests.data.images.test_dicom import make_dicom, save
from tests.data.volumes.made import ct, nifti, series
from tests.models.ark.original_files import peac_state_dict, swin_state_dict, training_checkpoint
from tests.models.genesis.original_files import genesis_state_dict
from tests.models.genesis.original_files import training_checkpoint as genesis_checkpoint

from .small import SHAPE

SPLITS = ["train"] * 10 + ["validation"] * 6 + ["test"] * 8
CLASSES = ("normal", "bacterial", "viral")


@functools.cache
def picture(number: int) -> dict:
    return draw_phantom_image(PHANTOM_SITES["phantom_city"], "train", number, size=64)


def write_pictures(folder: Path, numbers: range) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.png" for number in numbers]
    for number, name in zip(numbers, names, strict=True):
        picture(number)["image"].save(folder / name)
    return names


def write_table(path: Path, *lines: list) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)


def labelled(folder: Path, first: int, names: list[str], labels) -> None:
    """Pictures with a `labels.csv`: a row per image, its patient's data, and `labels(number)`."""
    rows = []
    for number, (name, split) in enumerate(zip(write_pictures(folder, range(first, first + 24)), SPLITS, strict=True)):
        known = ["M" if number % 2 else "F", 30 + number, ("PA", "AP")[number // 2 % 2]]
        rows.append([name, split, f"p{number}", *known, *labels(number)])
    write_table(folder / "labels.csv", ["image", "split", "patient_id", "sex", "age", "view", *names], *rows)


def write_raw(root: Path) -> None:
    raw = root / "raw"
    labelled(raw / "rsna", 0, ["pneumonia"], lambda number: [number // 2 % 2])
    labelled(raw / "kermany", 24, ["label"], lambda number: [CLASSES[number % 3]])
    labelled(raw / "covidx", 48, ["covid"], lambda number: [number % 2])
    labelled(raw / "montgomery", 72, ["TB"], lambda number: [number % 2])
    labelled(raw / "node21", 96, ["Nodule"], lambda number: [number % 2])
    for kind in ("NORMAL", "PNEUMONIA"):
        write_pictures(raw / "kids" / kind, range(120 + 12 * (kind == "NORMAL"), 132 + 12 * (kind == "NORMAL")))
    for kind in ("healthy", "retinopathy"):
        names = write_pictures(
            raw / "fundus" / kind, range(430 + 12 * (kind == "healthy"), 442 + 12 * (kind == "healthy"))
        )
        for path in (raw / "fundus" / kind / name for name in names):
            ImageOps.colorize(Image.open(path), "black", "orange").save(path)
    names = write_pictures(raw / "findings", range(150, 174))
    findings = [[name, f"p{name}", ("Mass|Effusion", "Effusion", "Mass", "")[i % 4]] for i, name in enumerate(names)]
    write_table(raw / "findings" / "findings.csv", ["Image Index", "Patient ID", "Finding Labels"], *findings)
    names = write_pictures(raw / "sheet", range(180, 204))
    book = Workbook()
    book.active.append(["image", "Geschlecht", "Nodule", "Mass"])
    for number, name in enumerate(names):
        book.active.append([name, "FM"[number % 2], number % 2, number // 2 % 2])
    book.save(raw / "sheet" / "labels.xlsx")
    for folder in (raw / "films", raw / "maps"):
        names = write_pictures(folder, range(210, 234))
        for number, name in zip(range(210, 234), names, strict=True):
            lungs, heart = (picture(number)["masks"][each] for each in ("lungs", "heart"))
            drawn = {"lungs": lungs * 255, "heart": heart * 255, "maps": np.where(heart, 2, lungs)}
            for kind in ("lungs", "heart") if folder.name == "films" else ("maps",):
                (folder / kind).mkdir(exist_ok=True)
                Image.fromarray(drawn[kind].astype(np.uint8)).save(folder / kind / name)


def write_foreign(root: Path) -> None:
    """Somebody else's dataset, as the Hub holds many: images and classes, and no card of ours."""
    numbers = range(400, 424)
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["no", "tb"])})
    rows = {"image": [picture(number)["image"] for number in numbers], "label": [number % 2 for number in numbers]}
    (root / "foreign").mkdir()
    for split, first, end in (("train", 0, 10), ("validation", 10, 16), ("test", 16, 24)):
        part = {name: values[first:end] for name, values in rows.items()}
        Dataset.from_dict(part, features=features).to_parquet(root / "foreign" / f"{split}.parquet")


def write_volumes(root: Path) -> None:
    """Folders of volumes as the releases lay them out."""
    counts = {"train": 8, "validation": 2, "test": 4}
    built = build_phantom_volumes(root / "phantoms", counts, size=32)
    shutil.copytree(built["phantom_ct_nodule"], root / "data" / "luna16")
    for number in range(12):
        voxels = ct((20, 20, 20), seed=number).voxels
        label = np.zeros(voxels.shape, np.uint8)
        label[4:12, 4:12, 4:12], label[14:17, 14:17, 14:17], label[0:3, 0:3, 0:3] = 1, 2, 4
        only = (label == 1).astype(np.uint8)
        for path, array in {
            f"scans3d/{number}.nii.gz": voxels, f"brains/{number}.nii.gz": voxels,
            f"liver/ct-{number}.nii.gz": voxels, f"liver/seg-{number}.nii.gz": only,
            f"Task06_Lung/imagesTr/l{number}.nii.gz": voxels, f"Task06_Lung/labelsTr/l{number}.nii.gz": only,
            f"LiTS/volume-{number}.nii": voxels, f"LiTS/segmentation-{number}.nii": np.where(label == 4, 0, label),
            f"BraTS2020_TrainingData/P{number}/P{number}_flair.nii.gz": voxels,
            f"BraTS2020_TrainingData/P{number}/P{number}_seg.nii.gz": label,
        }.items():  # fmt: skip
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(nifti(array, packed=path.endswith("gz")))
    rows = [[f"{number}.nii.gz", SPLITS[2 * number], f"p{number}", number % 2, 0] for number in range(12)]
    write_table(root / "scans3d/labels.csv", ["image", "split", "patient_id", "pneumonia", "emphysema"], *rows)
    slices = [[f"{number}.nii.gz", z, number % 2] for number in range(12) for z in (4, 9)]
    write_table(root / "brains/slices.csv", ["image", "z", "haemorrhage"], *slices)
    series_rows = []
    for number in range(12):
        folder = f"LIDC-IDRI/LIDC-{number:04d}/ct"
        series(root / folder, ct((8, 8, 6), seed=number), SeriesInstanceUID=f"1.2.826.{number}")
        series_rows.append([f"LIDC-{number:04d}", "CT", f".\\{folder.removeprefix('LIDC-IDRI/')}".replace("/", "\\")])
    write_table(root / "LIDC-IDRI/metadata.csv", ["Subject ID", "Modality", "File Location"], *series_rows)
    write_table(
        root / "diagnosis.csv",
        ["patient", "diagnosis"],
        *[[f"LIDC-{number:04d}", 1 + number % 2] for number in range(12)],
    )
    (root / "ct.nii.gz").write_bytes((root / "scans3d/0.nii.gz").read_bytes())
    series(root / "series", ct((20, 20, 20)))


def write_checkpoints(root: Path) -> None:
    student, teacher = swin_state_dict(1), swin_state_dict(0)
    torch.save(training_checkpoint(student, teacher), root / "Ark6_swinLarge768_ep50.pth.tar")
    torch.save(swin_state_dict(heads=[2, 3]), root / "mine.pth")
    torch.save(peac_state_dict(), root / "peac.pth")
    torch.save(genesis_checkpoint(genesis_state_dict()), root / "Genesis_Chest_CT.pt")


def write_models(root: Path) -> None:
    """The released weights, a run of two datasets, what was calibrated of it, and a pretrained Genesis."""
    run("convert", "Ark6_swinLarge768_ep50.pth.tar", "--out", "ark-cxr")
    recipe = {**SHAPE, "cycles": 1, "batch_size": 8, "learning_rate": 0.01}
    recipe["tasks"] = [{"dataset": "rsna"}, {"dataset": "kermany"}]
    for name, seed in (("mine", 0), ("new", 1)):
        (root / "first.yaml").write_text(yaml.safe_dump(recipe | {"output_dir": f"runs/{name}", "seed": seed}))
        run("pretrain", "first.yaml", "--data_root", "data")
    (root / "first.yaml").unlink()
    calibrated = ["--calibrate", "runs/calibrated", "--bootstrap", "9", "--out"]
    run("evaluate", "runs/mine/ark-cxr", "data/rsna", "data/kermany", *calibrated, "first_report")
    run("evaluate", "runs/calibrated", "data/rsna", "data/kermany", "--bootstrap", "9", "--out", "report")


def run(*words: str) -> None:
    assert main(list(words)) == 0


def make(root: Path) -> None:
    """All of it, in the present folder, which is `root`."""
    write_raw(root)
    build = ["--num_workers", "1", "--out"]
    for name, options in {
        "rsna": ["--labels", "pneumonia"], "kermany": ["--label_column", "label", "--classes", *CLASSES],
        "covidx": ["--labels", "covid"], "montgomery": ["--labels", "TB"], "node21": ["--labels", "Nodule"],
        "organs": ["--masks", "lungs=raw/films/lungs", "heart=raw/films/heart"],
        "chests": ["--unlabelled"],
    }.items():  # fmt: skip
        raw = {"organs": "films", "chests": "kids"}.get(name, name)
        run("data", "build", "generic", "--raw", f"raw/{raw}", *build, f"data/{name}", *options)
    write_foreign(root)
    write_volumes(root)
    write_checkpoints(root)
    write_models(root)
    write_pictures(root / "scans", range(300, 303))
    picture(303)["image"].save(root / "chest.png")
    save(make_dicom(np.asarray(picture(304)["image"], np.uint16) * 16, 12), root / "chest.dcm")
