"""What `ark-hf data` is told: the options of its builders and of its report."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..names import key_of
from .arguments import check_at_least, check_names


@dataclass
class BuildArguments:
    """What every builder is told."""

    raw: str = field(metadata={"help": "Folder of the release as it was unpacked."})
    out: str = field(metadata={"help": "New folder of the task dataset; the same command continues a killed build."})
    num_workers: int | None = field(default=None, metadata={"help": "Processes; as many as cores unless set."})
    skip_bad: bool = field(
        default=False,
        metadata={"help": "Leave rows and images that cannot be used out (build_report.json lists them)."},
    )
    allow_patient_overlap: bool = field(
        default=False, metadata={"help": "Build although a patient or a picture stands in two splits."}
    )
    push: str | None = field(
        default=None, metadata={"help": "Then send it to this private Hub repository, as `ark-hf push` does."}
    )
    allow_patient_data: bool = field(
        default=False, metadata={"help": "With --push: as in `ark-hf push`; data of patients may be on the Hub."}
    )

    def __post_init__(self):
        if self.num_workers is not None:
            check_at_least(1, num_workers=self.num_workers)
        if self.allow_patient_data and self.push is None:
            raise ValueError("--allow_patient_data is for sending the dataset: add --push REPOSITORY.")


@dataclass
class SizeArguments(BuildArguments):
    """What every builder is told that stores pictures; volumes are stored as they are."""

    size: int = field(default=1024, metadata={"help": "Longer side to which larger images are shrunk."})


@dataclass
class PictureArguments(SizeArguments):
    """What every builder is told whose files are pictures."""

    dicom_metadata: list[str] = field(
        default_factory=list,
        metadata={"help": "Of age, sex, view: read these from DICOM images where the release's tables do not say."},
    )


@dataclass
class ReleaseArguments(PictureArguments):
    """What the builders of the catalog are told; each has options of its own beside these."""

    lists: str | None = field(
        default=None,
        metadata={"help": "Folder of lists in the originals' formats, train, val, test: their splits and labels."},
    )


@dataclass
class LabelArguments(BuildArguments):
    """How the labels of a source that we do not know are read."""

    name: str = field(default="", metadata={"help": "Name of the task; made of the last part of --raw unless set."})
    labels: list[str] = field(
        default_factory=list, metadata={"help": "Columns of 0, 1, -1 or blank: a multi-label task."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Or one column of class names: a single-label task."}
    )
    separator: str | None = field(
        default=None,
        metadata={
            "help": "That column holds lists of findings with this between them: a multi-label task. `No Finding` is "
            "none of them, blank is unknown."
        },
    )
    classes: list[str] = field(
        default_factory=list, metadata={"help": "Names in that column in order; those that occur, sorted, unless set."}
    )
    label_map: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What words beside 0, 1, yes, False, positive, ... stand for: ja=1 nein=0 fraglich=-1; in a "
            "--label_column a class: covid=COVID-19."
        },
    )
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    patient_column: str | None = field(
        default="patient_id",
        metadata={"help": "Column of the patients, if it has one; null: not read. PatientID and the like are found."},
    )
    sex_column: str | None = field(
        default="sex", metadata={"help": "Of the patients' sex, in any usual word; likewise."}
    )
    age_column: str | None = field(default="age", metadata={"help": "Of their age: 45, 045Y, 6M, >89; likewise."})
    view_column: str | None = field(default="view", metadata={"help": "Of the view: PA, AP, lateral; likewise."})
    modality: str = field(
        default="CR",
        metadata={
            "help": "DICOM's code of what the images are taken with: CR (any radiograph of the chest), CT, MR, OP, ..."
        },
    )
    title: str | None = field(default=None, metadata={"help": "For the cards: what the source is called."})
    homepage: str | None = field(default=None, metadata={"help": "For the cards: where it is found."})
    license: str | None = field(
        default=None,
        metadata={
            "help": "For the cards: its licence by its name on the Hub, such as cc-by-4.0, or other. Under an open "
            "one `ark-hf push` needs no --allow_patient_data."
        },
    )
    access: str | None = field(default=None, metadata={"help": "For the cards: on what terms one gets it."})

    @property
    def source_facts(self) -> dict[str, str]:
        facts = {name: getattr(self, name) for name in ("title", "homepage", "license", "access")}
        return {name: fact for name, fact in facts.items() if fact is not None}

    def __post_init__(self):
        super().__post_init__()
        if not self.name:
            self.name = _task_name(Path(self.raw.partition("@")[0]).resolve().name)

    @property
    def reading(self) -> dict[str, Any]:
        """How the source's labels and metadata are read."""
        from ..data.sources.labelled import LabelledSource

        return {each.name: getattr(self, each.name) for each in fields(LabelledSource)}


@dataclass
class TableArguments(LabelArguments):
    """What the builders of a folder are told."""

    csv: str | None = field(
        default=None,
        metadata={"help": "Table of the images, CSV, TSV or .xlsx; labels.* in --raw unless set."},
    )
    split_column: str = field(
        default="split", metadata={"help": "Column of train, val, test; without it, patients are split by a hash."}
    )


@dataclass
class GenericArguments(TableArguments, PictureArguments):
    masks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "A segmentation: LABEL=FOLDER for each label, of a mask file for each image, called as the image "
            "is (1.png or 1_mask.png for 1.jpg), 0 outside and one other value inside."
        },
    )
    label_maps: str | None = field(
        default=None, metadata={"help": "Or the folder of one label map an image, whose values --legend names."}
    )
    legend: list[str] = field(
        default_factory=list, metadata={"help": "Values of the label maps: 1=lungs 2=heart; 0 is background."}
    )
    overlapping: bool = field(default=False, metadata={"help": "With --masks: a pixel may belong to several labels."})
    allow_missing_masks: bool = field(
        default=False,
        metadata={"help": "With --masks: an image may lack files of some; these labels are unknown for it."},
    )
    unlabelled: bool = field(
        default=False,
        metadata={
            "help": "Images without labels, for `pretrain` with `method: peac` and for `embed`: each below --raw, or "
            "each that a table names, of which only patients, sex, age, view and splits count."
        },
    )


@dataclass
class VolumeArguments(TableArguments):
    modality: str = field(
        default="CT", metadata={"help": "DICOM's code of what the volumes were taken with: CT, MR, PT, ..."}
    )
    volumes: str | None = field(
        default=None,
        metadata={
            "help": "Which of the paths are volumes, by a pattern with one *: 'imagesTr/*.nii.gz', '*_flair.nii.gz'; "
            "all that are found unless set."
        },
    )
    label_maps: str | None = field(
        default=None,
        metadata={
            "help": "A segmentation: which are label maps, likewise: 'labelsTr/*.nii.gz', '*_seg.nii.gz'. What * "
            "stands for in both belongs together."
        },
    )
    legend: list[str] = field(
        default_factory=list, metadata={"help": "Values of the label maps: 1=liver 2=tumour; 0 is background."}
    )
    unlabelled: bool = field(
        default=False,
        metadata={
            "help": "Volumes without labels, for `pretrain` with `method: genesis`: each below --raw, or each that a "
            "table names."
        },
    )


@dataclass
class SliceArguments(VolumeArguments, SizeArguments):
    label_maps: str | None = field(
        default=None,
        metadata={
            "help": "Which are label maps, likewise: 'labelsTr/*.nii.gz', '*_seg.nii.gz'; what * stands for in both "
            "belongs together. A segmentation of slices, unless --presence is set."
        },
    )
    presence: bool = field(
        default=False, metadata={"help": "With --label_maps: labels say of each slice whether it has the structure."}
    )
    unlabelled: bool = field(
        default=False,
        metadata={"help": "Slices without labels, for `pretrain` with `method: peac` and for `embed`."},
    )
    every: int | None = field(
        default=None, metadata={"help": "Of how many axial slices one is taken; those 5 mm apart unless set."}
    )
    distance: float | None = field(default=None, metadata={"help": "Or how many mm they lie apart."})
    slice_column: str | None = field(
        default=None,
        metadata={"help": "Or the table's column of slices, from 0 in the order of the file: a row is a slice then."},
    )
    window: list[float] | None = field(
        default=None,
        metadata={
            "help": "Values that become black and white: -1000 1000 of CT unless set, and the 0.5th and 99.5th "
            "percentile of each volume of another modality."
        },
    )


@dataclass
class HubArguments(LabelArguments, PictureArguments):
    config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset, if it has several."})

    def __post_init__(self):
        check_names(datasets=[self.raw])
        super().__post_init__()


@dataclass
class PhantomArguments:
    out: str = field(metadata={"help": "New folder, with a folder for each task dataset."})
    size: int = field(default=256, metadata={"help": "Longer side of the pictures."})
    train: int = field(default=300, metadata={"help": "Pictures for training."})
    validation: int = field(default=60, metadata={"help": "Pictures for validation."})
    test: int = field(default=150, metadata={"help": "Pictures for the test."})
    seed: int = field(default=0, metadata={"help": "Seed of everything drawn."})

    def __post_init__(self):
        check_at_least(1, train=self.train, validation=self.validation, test=self.test)


@dataclass
class PhantomVolumeArguments(PhantomArguments):
    size: int = field(default=64, metadata={"help": "Voxels from right to left."})


@dataclass
class ReportArguments:
    out: str = field(default="data_report", metadata={"help": "Folder for report.html and report.json."})
    images: int = field(
        default=1000, metadata={"help": "Images a split that are looked at for sizes, grey levels and shortcuts."}
    )

    def __post_init__(self):
        check_at_least(1, images=self.images)


def _task_name(folder: str) -> str:
    """A task's name made of a folder's. Raises `ValueError` if none can be."""
    from ..models.ark.configuration_ark import ArkTask

    try:
        return ArkTask(key_of(folder), ["any"]).name
    except ValueError:
        raise ValueError(
            f"The task would be called as the folder is, {folder!r}, and no task can be: give another with --name."
        ) from None
