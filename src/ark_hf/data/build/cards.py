"""Dataset cards: README.md of a task dataset, from its build report; the Hub and `datasets` read its header."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from ...models.ark.tasks_ark import DEFAULT_MODALITY, ArkTask, SegmentationTask
from ...pages.formats import markdown_cell
from ...provenance import package_version
from ..task_dataset import card_entries
from ..unlabelled import AnyTask, Unlabelled

TEMPLATE = Path(__file__).parents[2] / "hub" / "templates" / "dataset_card.md"
PAPER_URL = "https://doi.org/10.1007/978-3-031-43907-0_62"
PLACE = "path/to/this/dataset"  # in the card's examples; `push` puts the repository's id in its place
PHANTOM_TAG = "phantom"
# Licences under which anybody may pass the images on, shrunk as they are, by their names on the Hub; not the -nd- ones
OPEN_LICENSES = ("cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "apache-2.0")
FEW = 10  # a figure about fewer patients could be one patient's
MOST_COMMON = 6
MOST_SHOWN = 20  # labels; a longer table is folded
COLUMNS = {
    "volume": "the volume as NIfTI (.nii.gz): voxels, type, affine and spacing as they were read, nothing else",
    "image": "the radiograph: one channel of 8 or 16 bits, lossless",
    "image_id": "the image, as the source calls it",
    "patient_id": "the patient, as the source calls them",
    "study_id": "the study, as the source calls it",
    "sex": "M or F",
    "age": "in years",
    "view": "PA, AP, lateral, or as the source gives it",
}


def dataset_card(task: AnyTask, features: Features, report: Mapping[str, Any]) -> str:
    """
    The text of README.md: a header for the Hub, `datasets` and [`read_any_task`], and a page for people.

    Nothing in it is one patient's: counts, means and the range of ages.

    Args:
        task: The dataset's task.
        features: Its columns.
        report: The build report, see [`build_dataset`]. Of its `facts`, all optional, `title`, `homepage`, `license`,
            `access`, `citation`, `splits`, `semantics` and `notes` are told; `license` is the Hub's name of it,
            "other" where `access` has the terms. `phantom` marks drawn data.
    """
    facts, phantom = report["facts"], bool(report["facts"].get("phantom"))
    radiographs = task.modality == DEFAULT_MODALITY
    license_id = "apache-2.0" if phantom else facts.get("license") or "unknown"
    title = facts.get("title") or task.name
    volumes = "volume" in features
    header = DatasetCardData(
        pretty_name=title,
        license=license_id,
        task_categories=[f"image-{_purpose(task)}"],
        size_categories=[_size_category(sum(report["rows"].values()))],
        tags=[*(["chest-x-ray", "radiology"] if radiographs else []), *["3d"] * volumes, "medical", "ark"]
        + [PHANTOM_TAG] * phantom,
    )
    if license_id == "other":
        header["license_name"], header["license_link"] = (
            f"terms-of-{task.name}".replace("_", "-"),
            facts.get("homepage"),
        )
    if license_id not in OPEN_LICENSES:
        for key, value in _gate(title, facts).items():
            header[f"extra_gated_{key}"] = value
    header["configs"] = [
        {
            "config_name": "default",
            "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in report["splits"]],
        }
    ]
    _describe_splits(header, features, report)
    for key, value in card_entries(task).items():
        header[key] = value
    card = DatasetCard.from_template(
        header,
        template_path=str(TEMPLATE),
        title=title,
        phantom=phantom,
        column="volume" if volumes else "image",
        labels=_labels_column(task, volumes),
        segmentation=isinstance(task, SegmentationTask),
        unlabelled=isinstance(task, Unlabelled),
        description=f"{title}, as `ark-hf data build` reads the source's own files.",
        paper_url=PAPER_URL,
        place=PLACE,
        first_split=next(iter(report["splits"])),
        columns={name: _meaning(name, task, report) for name in features},
        source=_source(facts),
        terms="" if phantom else _terms(license_id),
        items="volumes" if volumes else "images",
        label_note=facts.get("semantics", ""),
        overview=_overview(report["splits"]),
        splits=[_split_rows(name, summary, volumes) for name, summary in report["splits"].items()],
        disjointness=_disjointness(report),
        provenance=_provenance(report, isinstance(task, SegmentationTask), volumes),
        problems=_problems(report),
        citation=facts.get("citation", "").strip(),
    )
    return str(card).rstrip() + "\n"


def _labels_column(task: AnyTask, volumes: bool) -> str:
    if not isinstance(task, SegmentationTask):
        return "labels"
    return "mask" if volumes else "masks"


def _purpose(task: AnyTask) -> str:
    if isinstance(task, Unlabelled):
        return "feature-extraction"
    return "segmentation" if isinstance(task, SegmentationTask) else "classification"


def _size_category(rows: int) -> str:
    steps = ["1K", "10K", "100K", "1M", "10M"]
    below = [i for i in range(len(steps)) if rows < 10 ** (3 + i)]
    if not below:
        return "10M<n<100M"
    return "n<1K" if below[0] == 0 else f"{steps[below[0] - 1]}<n<{steps[below[0]]}"


def _gate(title: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The form that a reader of a gated repository fills in."""
    terms = " ".join(facts.get("access", "").split()) or "Ask its owner for the terms of use."
    return {
        "heading": f"Access to {title} is bound to the terms of its source",
        "prompt": terms,
        "fields": {
            "I have accepted the terms of use of the source": "checkbox",
            "I will not try to identify patients, and will not pass the data on": "checkbox",
            "Affiliation": "text",
        },
    }


def _describe_splits(header: DatasetCardData, features: Features, report: Mapping[str, Any]) -> None:
    """Columns and lengths in the form of `datasets`, which checks them when it loads, and streams without looking."""
    splits = SplitDict()
    for name, summary in report["splits"].items():
        splits.add(SplitInfo(name=name, num_bytes=report.get("bytes", {}).get(name, 0), num_examples=summary["rows"]))
    size = sum(report.get("bytes", {}).values())
    info = DatasetInfo(features=features, splits=splits, download_size=size or None, dataset_size=size or None)
    DatasetInfosDict({"default": info}).to_dataset_card_data(header)


def _meaning(column: str, task: AnyTask, report: Mapping[str, Any]) -> str:
    if column == "masks" and isinstance(task, SegmentationTask):
        rule = "a pixel may be in several" if task.overlapping else "a pixel is in one at most"
        return (
            f"a mask per label, in the order of their table: 255 in it, 0 outside; {rule}; none where a label "
            "is unknown for the image"
        )
    if column == "mask":
        values = ", ".join(f"{value} {label}" for value, label in enumerate(task.labels, start=1))
        return f"a label map on the volume's grid, as NIfTI: 0 background, {values}"
    if column == "labels" and isinstance(task, ArkTask) and task.problem_type == "single_label_classification":
        return "a class index: " + ", ".join(f"{i} {label}" for i, label in enumerate(task.labels)) + "; −1 unknown"
    if column == "labels":
        return "a number per label, in the order of their table: 1 positive, 0 negative, −1 uncertain, NaN unknown"
    size = f", longer side at most {report['size']} pixels" if column == "image" and "size" in report else ""
    meaning = COLUMNS[column]
    if task.modality != DEFAULT_MODALITY:
        meaning = meaning.replace("the radiograph", f"the image, of modality {task.modality}")
    return meaning + size


def _source(facts: Mapping[str, Any]) -> dict[str, str]:
    named = {"release": "title", "home": "homepage", "licence": "license", "access": "access", "notes": "notes"}
    facts = {**facts, "license": "see access" if facts.get("license") == "other" else facts.get("license")}
    return {name: markdown_cell(facts[key]) for name, key in named.items() if facts.get(key)}


def _terms(license_id: str) -> str:
    if license_id in OPEN_LICENSES:
        return "The licence of the source holds for this copy too: name the source, and keep to what it asks."
    return (
        "**This copy is bound to the terms of its source.** Whoever uses it must have accepted them there, and may "
        "pass it on only as they allow. ark-hf grants no rights to it."
    )


def _overview(splits: Mapping[str, Any]) -> dict[str, Any]:
    """A row per label: in each split how many of those where it is known have it."""
    names = list(next(iter(splits.values()))["labels"])
    rows = [
        [markdown_cell(name), *(_positives(summary["labels"][name]) for summary in splits.values())] for name in names
    ]
    return {"rows": rows, "folded": len(rows) > MOST_SHOWN}


def _positives(counts: Mapping[str, int]) -> str:
    known = counts["positive"] + counts["negative"]
    return f"{counts['positive']:,} of {known:,} ({counts['positive'] / known:.1%})" if known else "not known"


def _split_rows(name: str, summary: Mapping[str, Any], volumes: bool) -> dict[str, Any]:
    labels = []
    for label, counts in summary["labels"].items():
        known = counts["positive"] + counts["negative"]
        prevalence = f"{counts['positive'] / known:.1%}" if known else "–"
        labels.append(
            {"name": markdown_cell(label), "prevalence": prevalence, **{key: f"{n:,}" for key, n in counts.items()}}
        )
    patients = summary["patients"]
    return {
        "name": name,
        "rows": f"{summary['rows']:,} {'volumes' if volumes else 'images'}",
        "labels": labels,
        "patients": "unknown" if patients is None else f"{patients:,}",
        "sex": _shares(summary["sex"], summary["rows"]),
        "age": _ages(summary["age"]),
        "view": _shares(summary["view"], summary["rows"]),
    }


def _ages(age: Mapping[str, float] | None) -> str:
    if age is None:
        return "unknown"
    if age["known"] < FEW:
        return f"known of {age['known']} images"
    oldest = "90 or older" if age["max"] >= 90 else f"{age['max']:.0f}"
    return f"mean {age['mean']:.1f}, from {age['min']:.0f} to {oldest}; known of {age['known']:,} images"


def _shares(counts: Mapping[str, int], rows: int) -> str:
    if not counts:
        return "unknown"
    shown = dict(sorted(counts.items(), key=lambda item: -item[1])[:MOST_COMMON])
    shown["others"] = sum(counts.values()) - sum(shown.values())
    shown["unknown"] = rows - sum(counts.values())
    return ", ".join(f"{markdown_cell(value)} {count / rows:.1%}" for value, count in shown.items() if count)


def _disjointness(report: Mapping[str, Any]) -> str:
    if any(summary["patients"] is None for summary in report["splits"].values()):
        return "Patients are not known in every split: that no patient stands in two splits could not be checked."
    if report.get("patient_overlap"):
        return "**Some patients stand in several splits**, see the known problems."
    return "No patient stands in two splits; the builder checks it, and so does training."


def _provenance(report: Mapping[str, Any], segmentation: bool, volumes: bool) -> str:
    facts = report["facts"]
    what = "volumes" if volumes else "images"
    drawn = f"Drawn by `ark_hf.data.sources.phantom` of ark-hf {package_version()}, "
    read = f"By `ark-hf data build` of ark-hf {package_version()}: {what} read at full depth, "
    size = f"shrunk to a longer side of at most {report['size']} pixels (never enlarged), " if "size" in report else ""
    splits = f" Splits: {' '.join(facts['splits'].split())}" if facts.get("splits") else ""
    chosen = ", ".join(f"{name} {value}" for name, value in (facts.get("options") or {}).items())
    options = f" Options: {chosen}." if chosen else ""
    masks = "of a shrunken mask a pixel is in that was covered by more than half, " if segmentation else ""
    stored = f"{masks}stored as lossless grey PNG in parquet files."
    if volumes:
        stored = "not resampled, stored as NIfTI in parquet files."
    return f"{drawn if facts.get('phantom') else read + size}{stored}{splits}{options}"


def _problems(report: Mapping[str, Any]) -> list[str]:
    duplicates = report.get("duplicates", {})
    counted = {
        "rows or files of the source could not be used": len(report["problems"]),
        "files of the source were left out": sum(each["files"] for each in report.get("left_out", ())),
        "times the reader doubts an image, see build_report.json": len(report.get("doubts", ())),
        "images are of a patient who stands in an earlier split too": len(report.get("patient_overlap", ())),
        "images are the same, to the pixel, as one of an earlier split": len(duplicates.get("equal", ())),
        "images are nearly the same as one of an earlier split": len(duplicates.get("near", ())),
        "images repeat a picture of their own split": duplicates.get("within_splits", 0),
        "images are the same, to the pixel, as one that has other labels": len(duplicates.get("contradicting", ())),
    }
    problems = [f"{count:,} {what}." for what, count in counted.items() if count]
    problems += [f"Not what the release has: {markdown_cell(mismatch)}" for mismatch in report.get("expected", ())]
    return problems + [markdown_cell(remark) for remark in report.get("remarks", ())]
