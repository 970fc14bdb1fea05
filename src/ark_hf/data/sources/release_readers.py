"""The official releases' own files, one function a release: what `catalog.yaml` names as its `reader`.

A reader yields, in the order of the release's files, a [`ReleasedImage`] for each image and a [`Problem`] for each
line that cannot be used. It opens no image.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ...cells import LABEL_VALUES, is_blank, read_id, read_view
from ...labels import normalise
from ..images.image_files import image_suffix
from ..rows import Problem
from .catalog import CatalogEntry
from .columns import instead_of
from .original_lists import read_original_list
from .raw_folder import RawFolder
from .released_images import ReleasedImage, ReleasedImages, each_row, read_age, read_sex, read_value
from .tables import Record, Table

KNOWN_VALUES = {word: value for word, value in LABEL_VALUES.items() if value >= 0}  # where only these can be

Reader = Callable[[RawFolder, CatalogEntry, Mapping[str, str]], ReleasedImages]


def chestxray14(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    columns = ["Image Index", "Finding Labels", "Patient Age", "Patient Gender", "View Position"]
    table = raw.table("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", needed=columns)
    listed: dict[str, tuple[str | None, str]] = {}
    in_both: set[str] = set()
    for name, split in {"train_val_list.txt": None, "test_list.txt": "test"}.items():
        for where, image in raw.lines(name):
            if listed.setdefault(image, (split, where))[0] != split:
                in_both.add(image)
                yield Problem(where, "this image stands in train_val_list.txt too")
    positions = {label: position for position, label in enumerate(entry.labels)}
    told: set[str] = set()

    def read(where: str, row: Record) -> ReleasedImage:
        image = row["Image Index"]
        if image not in listed:
            raise ValueError("this image is in neither list")
        told.add(image)
        if image in in_both:
            raise ValueError("this image is in both lists")
        split, _ = listed[image]
        labels = [0.0] * len(positions)
        for finding in row["Finding Labels"].split("|"):
            if finding not in positions and finding != "No Finding":
                raise ValueError(f"Finding Labels must be of {', '.join(positions)}, No Finding")
            if finding in positions:
                labels[positions[finding]] = 1.0
        sex, age, view = row["Patient Gender"], row["Patient Age"], row["View Position"]
        return ReleasedImage(
            where, image, labels, split, image[:8], None, read_sex(sex), read_age(age), read_view(view)
        )

    yield from each_row(table, read)
    for image, (_, where) in listed.items():
        if image not in told:
            yield Problem(where, f"this image has no row in {table.path.name}")


def chexpert(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    values = _values_with_blank(options)
    # Splits have other folders in other copies (valid or val, batches); from the patient down all are alike.
    file = re.compile(r"(patient\d+)/(study\d+)/[^/]+$")

    def read(split: str, where: str, row: Record) -> ReleasedImage:
        path = file.search(row["Path"])
        if path is None:
            raise ValueError("Path must end with patientN/studyN/FILE")
        labels = [read_value(row.get(label, ""), label, values) for label in entry.labels]
        frontal = {"AP": "AP", "PA": "PA"}.get(row.get("AP/PA", ""))  # 17 frontal images are called LL or RL
        view = "lateral" if row.get("Frontal/Lateral") == "Lateral" else frontal
        sex, age = read_sex(row.get("Sex", "")), read_age(row.get("Age", ""))
        return ReleasedImage(where, path[0], labels, split, path[1], f"{path[1]}/{path[2]}", sex, age, view)

    train = raw.table("train.csv", needed=["Path", *entry.labels])
    yield from each_row(train, partial(read, "train"))
    others = {"validation": ("valid.csv", "val_labels.csv"), "test": ("test_labels.csv", "test.csv")}
    for split, names in others.items():
        if raw.has(*names):
            # The table of the test set has neither sex nor age nor views.
            table = raw.table(*names, needed=["Path", *(entry.eval_labels or [])])
            yield from each_row(table, partial(read, split))


def mimic_cxr(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    values = _values_with_blank(options)
    studies: dict[str | None, list[float]] = {}
    contradicted: set[str | None] = set()

    def read_study(where: str, row: Record) -> None:
        study, found = read_id(row["study_id"]), [read_value(row[label], label, values) for label in entry.labels]
        if repr(studies.setdefault(study, found)) != repr(found):
            contradicted.add(study)
            raise ValueError("this study has other labels in an earlier line")

    labels = raw.table("mimic-cxr-2.0.0-chexpert.csv", needed=["study_id", *entry.labels])
    yield from (item for item in each_row(labels, read_study) if item)
    views = {}
    if raw.has("mimic-cxr-2.0.0-metadata.csv"):
        metadata = raw.table("mimic-cxr-2.0.0-metadata.csv", needed=["dicom_id", "ViewPosition"])
        views = {row["dicom_id"]: read_view(row["ViewPosition"]) for _, row in metadata}
    splits = {"train": "train", "validate": "validation", "test": "test"}
    unknown = [math.nan] * len(entry.labels)

    def read(where: str, row: Record) -> ReleasedImage:
        dicom, study, patient = row["dicom_id"], read_id(row["study_id"]), read_id(row["subject_id"])
        if study in contradicted:
            raise ValueError("its study has two rows of labels that differ")
        if row["split"] not in splits:
            raise ValueError(f"split must be one of {', '.join(splits)}")
        split, known = splits[row["split"]], studies.get(study, unknown)
        return ReleasedImage(where, f"{dicom}.jpg", known, split, patient, study, view=views.get(dicom))

    table = raw.table("mimic-cxr-2.0.0-split.csv", needed=["dicom_id", "study_id", "subject_id", "split"])
    yield from each_row(table, read)


def vindr_cxr(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    for split, name in {None: "image_labels_train.csv", "test": "image_labels_test.csv"}.items():
        table = raw.table(name, needed=["image_id"])
        named = {normalise(column): column for column in table.header}
        other_names = {"PE": "Pleural effusion", "Other diseases": "Other disease"}
        columns = [
            named.get(normalise(label)) or named.get(normalise(other_names.get(label, ""))) for label in entry.labels
        ]
        missing = [label for label, column in zip(entry.labels, columns, strict=True) if column is None]
        if missing:
            raise ValueError(f"{table.path} has no columns for {missing}; {instead_of(missing, table.header)}")

        def read(where: str, row: Record, columns=columns) -> tuple[str, str, list[float]]:
            seen = [read_value(row[column], column, KNOWN_VALUES) for column in columns]
            return where, row["image_id"], seen

        votes: dict[str, tuple[str, list[list[float]]]] = {}
        for item in each_row(table, read):
            if isinstance(item, Problem):
                yield item
            else:
                where, image, labels = item
                votes.setdefault(image, (where, []))[1].append(labels)
        for image, (where, readers) in votes.items():
            yield ReleasedImage(where, image, _merge(readers, entry.labels, options["readers"]), split)


def vinbigdata(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    positions = {label: position for position, label in enumerate(entry.labels)}
    readings: dict[str, tuple[str, dict[str, list[float]]]] = {}

    def read(where: str, row: Record) -> None:
        if row["class_name"] not in positions:
            raise ValueError(f"class_name must be one of {', '.join(positions)}")
        readers = readings.setdefault(row["image_id"], (where, {}))[1]
        readers.setdefault(row["rad_id"], [0.0] * len(positions))[positions[row["class_name"]]] = 1.0

    table = raw.table("train.csv", needed=["image_id", "class_name", "rad_id"])
    yield from (item for item in each_row(table, read) if item)
    for image, (where, readers) in readings.items():
        yield ReleasedImage(where, image, _merge(list(readers.values()), entry.labels, options["readers"]))


def _merge(readers: Sequence[Sequence[float]], labels: Sequence[str], rule: str) -> list[float]:
    """One value per label from those of several readers; "No finding" never stands beside a finding."""
    merged = []
    for label, votes in zip(labels, zip(*readers, strict=True), strict=True):
        share = sum(votes) / len(votes)
        if rule == "majority":
            merged.append(float(share > 0.5))
        else:
            merged.append(float(share == 1 if label == "No finding" else share > 0))
    return merged


def rsna(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    classes = {normalise(label): position for position, label in enumerate(entry.labels)}

    def read(row: Record) -> int:
        if normalise(row["class"]) not in classes:
            raise ValueError(f"class must be one of {', '.join(entry.labels)}")
        return classes[normalise(row["class"])]

    yield from _rsna_boxes(raw, raw.table("stage_2_detailed_class_info.csv", needed=["patientId", "class"]), read)


def rsna_opacity(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    def read(row: Record) -> list[float]:
        return [read_value(row["Target"], "Target", KNOWN_VALUES)]

    yield from _rsna_boxes(raw, raw.table("stage_2_train_labels.csv", needed=["patientId", "Target"]), read)


def _rsna_boxes(raw: RawFolder, table: Table, read: Callable[[Record], list[float] | int]) -> ReleasedImages:
    """One record an image of a table with a row a box, all of which have the image's label."""
    patients = _rsna_patients(raw)
    seen: dict[str, list[list[float] | int]] = {}  # of several, each is told of, and the builder refuses the image

    def read_box(where: str, row: Record) -> ReleasedImage | None:
        image, labels = row["patientId"], read(row)
        if labels in seen.setdefault(image, []):
            return None
        seen[image].append(labels)
        return ReleasedImage(where, image, labels, patient_id=patients.get(image, image))

    yield from (item for item in each_row(table, read_box) if item)


def _rsna_patients(raw: RawFolder) -> dict[str, str]:
    """The ChestX-ray14 patient of each image, from RSNA's mapping; empty without it."""
    name = "pneumonia-challenge-dataset-mappings_2018.json"
    if not raw.has(name):
        return {}
    path = raw.file(name)
    try:
        with open(path, encoding="utf-8") as file:
            return {item["subset_img_id"]: item["img_id"][:8] for item in json.load(file)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} must be a list of mappings with subset_img_id and img_id.") from None


def nlm_tuberculosis(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    prefix = "CHNCXR" if entry.name == "shenzhen" else "MCUCXR"
    for path in raw.images():
        name = path.rpartition("/")[2]
        label = re.fullmatch(prefix + r"_\d+_([01])", name.removesuffix(image_suffix(name)))
        if label:
            # "male 45yrs" or "Patient's Sex: F", "Patient's Age: 027Y", and then the reading
            reading = " ".join(raw.text(f"{label[0]}.txt").splitlines()[:2])
            sex = re.search(r"\b(female?|male|F|M)\b", reading, re.IGNORECASE)
            age = re.search(r"\d+ ?[ymwd]", reading, re.IGNORECASE)
            known = (read_sex(sex[1]) if sex else None, read_age(age[0]) if age else None)
            yield ReleasedImage(path, name, [float(label[1])], None, None, None, *known, view="PA")


def covidx(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    names = {None: ("train_COVIDx9A.txt", "train_COVIDx9A_clean.txt", "train.txt")}
    for split, lists in (names | {"test": ("test_COVIDx9A.txt", "test.txt")}).items():
        for item in read_original_list(raw.file(*lists), "covidx"):
            if isinstance(item, Problem):
                yield item
            else:
                yield ReleasedImage(item.where, item.image, item.labels, split, item.patient)


def chestdr(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    for split, name in {"train": "fewshot-pool.txt", "test": "test.txt"}.items():
        for item in read_original_list(raw.file(name), "chestdr"):
            yield item if isinstance(item, Problem) else ReleasedImage(item.where, item.image, item.labels, split)


def tbx11k(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    classes = {"health": 0, "sick": 1, "tb": 2}
    for split, name in {None: "TBX11K_train.txt", "test": "TBX11K_val.txt"}.items():
        for where, path in raw.lines(name):
            image = "/".join(path.split("/")[-2:])
            folder = image.partition("/")[0]
            if folder in classes:
                yield ReleasedImage(where, image, classes[folder], split)
            else:
                yield Problem(where, f"the folder must be one of {', '.join(classes)}")


def siim_acr(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    table = raw.table("stage_2_train.csv", "train-rle.csv", needed=["ImageId", "EncodedPixels"])
    seen: set[tuple[str, bool]] = set()

    def read(where: str, row: Record) -> ReleasedImage | None:
        image, outline = row["ImageId"], row["EncodedPixels"].strip()
        if is_blank(outline):
            raise ValueError("EncodedPixels is blank; it must be -1 or an outline")
        return _once(where, image, outline != "-1", seen)

    yield from (item for item in each_row(table, read) if item)


def node21(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    left_out = set()
    if options["sources"] == "without_chestxray14":
        sources = raw.table("filenames_orig_and_new.csv", needed=["orig_dataset", "node21_img_id"])
        # What the release calls ChestX-ray14 here could not be verified.
        nih = re.compile(r"nih|chest ?x ?ray|cxr ?14", re.IGNORECASE)
        left_out = {row["node21_img_id"] for _, row in sources if nih.search(normalise(row["orig_dataset"]))}
        if not left_out:
            raise ValueError(f"{sources.path} names no images of ChestX-ray14 in the column orig_dataset.")
    seen: set[tuple[str, bool]] = set()

    def read(where: str, row: Record) -> ReleasedImage | None:
        image, label = row["img_name"], read_value(row["label"], "label", KNOWN_VALUES)
        if image.removesuffix(image_suffix(image)) in left_out:
            return None
        return _once(where, image, bool(label), seen)

    columns = ["img_name", "label"]
    table = raw.table("proccessed_data/metadata.csv", "processed_data/metadata.csv", "metadata.csv", needed=columns)
    yield from (item for item in each_row(table, read) if item)


def _once(where: str, image: str, label: bool, seen: set[tuple[str, bool]]) -> ReleasedImage | None:
    """The image of a table with a row a finding, unless an earlier row says the same of it."""
    if (image, label) in seen:
        return None
    seen.add((image, label))
    return ReleasedImage(where, image, [float(label)])


def kermany(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    names = re.compile(
        r"(?P<kaggle>person\d+_(?P<kind>bacteria|virus))_\d+"
        r"|(?P<mendeley>(?P<KIND>NORMAL|BACTERIA|VIRUS)-\d+)-\d+"
        r"|(?P<normal>(NORMAL2-)?IM-\d+)-\d+(-\d+)?"
    )
    splits = {"train": None, "val": None, "test": "test"}
    classes = ("normal", "bacteria", "virus")
    seen = set()
    for path in raw.images():
        parts = path.split("/")[-3:]
        if len(parts) < 3 or parts[0] not in splits or parts[1] not in ("NORMAL", "PNEUMONIA"):
            continue
        if tuple(parts) in seen:  # Kaggle's archive holds everything twice, one folder in the other
            continue
        seen.add(tuple(parts))
        name = names.fullmatch(parts[2].removesuffix(image_suffix(parts[2])))
        kind = (name["kind"] or name["KIND"] or "normal").lower() if name else ""
        if not name or (kind == "normal") != (parts[1] == "NORMAL"):
            yield Problem(path, f"the name is none of the release's for folder {parts[1]}")
            continue
        index = classes.index(kind)
        labels: list[float] | int = index if len(entry.labels) > 1 else [float(index > 0)]
        patient = name["kaggle"] or name["mendeley"] or name["normal"]
        yield ReleasedImage(path, "/".join(parts), labels, splits[parts[0]], patient, path=path)


def padchest(raw: RawFolder, entry: CatalogEntry, options: Mapping[str, str]) -> ReleasedImages:
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    columns = ["ImageID", "PatientID", "StudyID", "StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM"]
    table = raw.table(name, needed=[*columns, "Projection", "Labels"])
    positions = {label: position for position, label in enumerate(entry.labels)}
    quoted = re.compile(r"'([^']*)'|\"([^\"]*)\"")

    def read(where: str, row: Record) -> ReleasedImage:
        text = row["Labels"].strip()
        if not is_blank(text) and not (text.startswith("[") and text.endswith("]")):
            raise ValueError("Labels must be a list in brackets, or nan")
        found = {(single or double).strip() for single, double in quoted.findall(text)}
        unusable = not found or "exclude" in found
        labels = [math.nan if unusable or "unchanged" in found else 0.0] * len(positions)
        for finding in () if unusable else found:
            if finding in positions:
                labels[positions[finding]] = 1.0
        born, taken = row["PatientBirth"][:4], row["StudyDate_DICOM"][:4]
        age = read_age(str(int(taken) - int(born))) if born.isdecimal() and taken.isdecimal() else None
        sex, view = read_sex(row["PatientSex_DICOM"]), read_view(row["Projection"])
        patient, study = read_id(row["PatientID"]), read_id(row["StudyID"])
        return ReleasedImage(where, row["ImageID"], labels, None, patient, study, sex, age, view)

    yield from each_row(table, read)


def _values_with_blank(options: Mapping[str, str]) -> Mapping[str, float]:
    return LABEL_VALUES | {"": 0.0} if options["blank"] == "zero" else LABEL_VALUES


READERS: dict[str, Reader] = {
    reader.__name__: reader
    for reader in (
        *(chestxray14, chexpert, mimic_cxr, vindr_cxr, vinbigdata, rsna, rsna_opacity, nlm_tuberculosis, covidx),
        *(chestdr, tbx11k, siim_acr, node21, kermany, padchest),
    )
}
