"""
The official releases of other modalities than radiographs of the chest, one function a release: what `catalog.yaml`
names as its `reader`.

Readers are as those of `release_readers`.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping

from ...cells import is_blank, plain_number
from ...labels import normalise
from ..images.image_files import image_suffix
from ..rows import Problem, hashed_split
from .catalog import CatalogEntry
from .raw_folder import RawFolder
from .release_readers import KNOWN_VALUES, Reader
from .released_images import ReleasedImage, ReleasedImages, each_row, read_value
from .tables import Record

# By folder of the images: the table of their labels, and their split
IDRID_SETS = {
    "a. Training Set": ("a. IDRiD_Disease Grading_Training Labels.csv", None),
    "b. Testing Set": ("b. IDRiD_Disease Grading_Testing Labels.csv", "test"),
}
REFERABLE = 2  # moderate retinopathy, from which on screening refers


# Fundus photographs --------------------------------------------------------------------------------------------------


def aptos2019(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    def read(where: str, row: Record) -> ReleasedImage:
        return ReleasedImage(where, row["id_code"], _read_grade(row["diagnosis"], "diagnosis", 4))

    found = list(each_row(raw.table("train.csv", needed=["id_code", "diagnosis"]), read))
    firsts = first_of_copies(raw, (item.image for item in found if isinstance(item, ReleasedImage)))
    for item in found:
        if isinstance(item, ReleasedImage):
            item.split = hashed_split(entry.seed, firsts.get(item.image, item.image), entry.shares)
        yield item


def idrid(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    columns = ["Image name", "Retinopathy grade", "Risk of macular edema"]
    sets: dict[str | None, list[ReleasedImage | Problem]] = {}
    for folder, (name, split) in IDRID_SETS.items():

        def read(where: str, row: Record, folder: str = folder, split: str | None = split) -> ReleasedImage:
            image, grade, risk = (row[column] for column in columns)
            labels = _fundus_labels(entry, _read_grade(grade, columns[1], 4), _read_grade(risk, columns[2], 2) == 2)
            return ReleasedImage(where, f"{folder}/{image}", labels, split)

        sets[split] = list(each_row(raw.table(name, needed=columns), read))
    test = [item.image for item in sets["test"] if isinstance(item, ReleasedImage)]
    others = [item.image for item in sets[None] if isinstance(item, ReleasedImage)]
    firsts = first_of_copies(raw, [*test, *others])
    for item in sets[None]:
        twin = firsts.get(item.image) if isinstance(item, ReleasedImage) else None
        yield Problem(item.where, f"its file is the same as {twin}, of test") if twin in test else item
    yield from sets["test"]


def messidor2(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    patients: dict[str, str] = {}

    def read_pair(where: str, row: Record) -> None:
        eyes = [_without_suffix(row[eye]) for eye in ("left", "right") if not is_blank(row[eye])]
        if any(eye in patients for eye in eyes):
            raise ValueError("one of its images stands in an earlier pair")
        patients.update(dict.fromkeys(eyes, eyes[0]) if eyes else {})

    if raw.has("messidor-2.csv"):
        yield from (
            item for item in each_row(raw.table("messidor-2.csv", needed=["left", "right"]), read_pair) if item
        )
    columns = ["image_id", "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable"]

    def read(where: str, row: Record) -> ReleasedImage:
        image, grade, oedema, gradable = (row[column] for column in columns)
        labels = _fundus_labels(entry, None, math.nan)
        if read_value(gradable, columns[3], KNOWN_VALUES):
            known = read_value(oedema, columns[2], KNOWN_VALUES)
            labels = _fundus_labels(entry, _read_grade(grade, columns[1], 4), known)
        return ReleasedImage(where, image, labels, patient_id=patients.get(_without_suffix(image)))

    yield from each_row(raw.table("messidor_data.csv", needed=columns), read)


def _read_grade(text: str, column: str, highest: int) -> int:
    grades = [*map(str, range(highest + 1))]
    if plain_number(text.strip()) not in grades:
        raise ValueError(f"{column} must be one of {', '.join(grades)}")
    return int(plain_number(text.strip()))


def _fundus_labels(entry: CatalogEntry, grade: int | None, oedema: float) -> list[float] | int:
    """The grade, None unknown, as a class, or what follows from it; and whether macular oedema is to be referred."""
    if entry.problem_type == "single_label_classification":
        return -1 if grade is None else grade
    if grade is None:
        return [math.nan] * len(entry.labels)
    return [float(grade > 0), float(grade >= REFERABLE), float(oedema)]


def first_of_copies(raw: RawFolder, images: Iterable[str]) -> dict[str, str]:
    """
    Of each image whose file is, to the byte, that of an earlier one: the name of the first of these.

    Files are read only where two are of one size. Empty ones are alike, and none is a picture.
    """
    sizes: dict[int, list[str]] = {}
    for image in dict.fromkeys(images):
        try:
            sizes.setdefault(raw.find_image(image).stat().st_size, []).append(image)
        except (OSError, ValueError):  # which is told where the image is looked for
            continue
    firsts = {}
    for size, alike in sizes.items():
        seen: dict[bytes, str] = {}
        for image in alike if size and len(alike) > 1 else ():
            try:
                with raw.find_image(image).open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
            except OSError:  # told where it is read
                continue
            if seen.setdefault(content, image) != image:
                firsts[image] = seen[content]
    return firsts


def _without_suffix(name: str) -> str:
    return name.strip().removesuffix(image_suffix(name.strip()))


# Mammography ---------------------------------------------------------------------------------------------------------


def vindr_mammo(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    column = "breast_density" if entry.name == "vindr_mammo_density" else "breast_birads"
    classes = {normalise(label): position for position, label in enumerate(entry.labels)}
    splits = {"training": None, "test": "test"}

    def read(where: str, row: Record) -> ReleasedImage:
        if normalise(row[column]) not in classes:
            raise ValueError(f"{column} must be one of {', '.join(entry.labels)}")
        if row["split"] not in splits:
            raise ValueError(f"split must be one of {', '.join(splits)}")
        side, view = row["laterality"], row["view_position"]
        if side not in ("L", "R") or view not in ("CC", "MLO"):
            raise ValueError("laterality must be L or R, and view_position CC or MLO")
        if is_blank(row["study_id"]):
            raise ValueError("study_id is blank")
        study, label = row["study_id"], classes[normalise(row[column])]
        return ReleasedImage(where, row["image_id"], label, splits[row["split"]], study, study, view=side + view)

    needed = ["study_id", "image_id", "laterality", "view_position", column, "split"]
    yield from each_row(raw.table("breast-level_annotations.csv", needed=needed), read)


MODALITY_READERS: dict[str, Reader] = {
    reader.__name__: reader for reader in (aptos2019, idrid, messidor2, vindr_mammo)
}
