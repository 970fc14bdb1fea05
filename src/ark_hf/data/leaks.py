"""Pictures and patients that are trained on and held out too: in another task, or by an earlier training."""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .build.duplicates import HASH_FILE, Place, find_duplicates, read_hashes
from .open_dataset import TaskDataset
from .task_dataset import dataset_file

SHARED_KEY, DIGEST_KEY = "shared_images", "pictures_sha256"


@dataclass(frozen=True)
class Shared:
    """
    What a held-out split has in common with the training images of a task.

    Args:
        trained: The task that is trained on them.
        task, split: Where they are held out.
        equal, near: Pictures of the split that are trained on, to the pixel or nearly: see [`find_duplicates`].
        patients: Patients of the split that are trained on.
        named: Images of the split that are trained on by their name, where the two datasets have one source.
    """

    trained: str
    task: str
    split: str
    equal: int = 0
    near: int = 0
    patients: int = 0
    named: int = 0


def mark_shared_images(tasks: Sequence[TaskDataset], allowed: bool) -> list[TaskDataset]:
    """
    Compares the images that are trained on with those that any of the datasets holds out for validation or test.

    Pictures are compared by the hashes that builders leave, patients and names of images where two datasets have one
    source. Within a dataset only equal pictures count, as in its build, which has reported the like ones.

    Args:
        tasks: What is trained on has a split `train`.
        allowed: Whether to go on all the same.

    Returns:
        The tasks. Their `facts` have what a later test can know their pictures by, `pictures_sha256` of each split,
        and where held-out images are shared, `shared_images`.

    Raises:
        ValueError: There are shared images or patients; the message says how many, and where.
    """
    shared, unknown = _find_shared(tasks)
    if unknown:
        warnings.warn(
            f"Without {HASH_FILE} of the rows that are there, whether pictures that are trained on are held out too "
            f"could not be checked for: {', '.join(unknown)}. Datasets that `ark-hf data build` makes have it.",
            stacklevel=3,
        )
    if shared and not allowed:
        raise ValueError(
            f"Held-out images are trained on: {'; '.join(_counted(each) for each in shared)}. Scores on them would be "
            "too good. Leave one of the datasets out or split them alike by patient; or set allow_shared_images: the "
            "model's card and its reports then say so."
        )
    marked = []
    for data in tasks:
        ours = [asdict(each) for each in shared if each.task == data.task.name]
        facts = {DIGEST_KEY: picture_digests(data), SHARED_KEY: ours}
        marked.append(replace(data, facts=data.facts | {key: fact for key, fact in facts.items() if fact}))
    return marked


def mark_trained_before(
    tasks: Sequence[TaskDataset], start: Mapping[str, Any], allowed: bool = False
) -> list[TaskDataset]:
    """
    Compares held-out splits with what the model that training starts from was trained on, as its notes tell.

    Warns where a dataset has been split otherwise since.

    Args:
        start: `start`, what training starts from, and if its notes are there `start_provenance`.
        allowed: Whether to go on with images that were trained on.

    Returns:
        The tasks, as of [`mark_shared_images`].

    Raises:
        ValueError: A held-out split was trained on.
    """
    marked = []
    for data in tasks:
        for split in [split for split in data.splits if split != "train"]:
            certain, possible = _trained_on_before(data, split, start.get("start_provenance"))
            if certain and not allowed:
                raise ValueError(
                    f"{data.source}: {certain} Start from another model; or set allow_shared_images: the model's card "
                    "and its reports then say so."
                )
            if possible:
                warnings.warn(f"{data.source}: {possible}", stacklevel=3)
            if certain:
                shared = asdict(Shared(start["start"], data.task.name, split, equal=len(data.splits[split])))
                data = replace(data, facts={**data.facts, SHARED_KEY: [*data.facts.get(SHARED_KEY, ()), shared]})
        marked.append(data)
    return marked


def leaks_into(data: TaskDataset, split: str, origin: Mapping[str, Any] | None) -> list[str]:
    """
    Sentences on images of a split that a model was trained on, as far as its notes tell; none if all is well.

    Args:
        data: What is tested, as [`open_dataset`] gives it.
        origin: The model's provenance.
    """
    found = [sentence for sentence in _trained_on_before(data, split, origin) if sentence]
    for entry in _trained(origin, held_out=True):
        if entry.get("dataset") == data.name:
            found += [
                f"Trained on, with leave: {_counted(Shared(**each))}."
                for each in entry.get(SHARED_KEY, ())
                if each["split"] == split
            ]
    return list(dict.fromkeys(found))


def shared_lines(origin: Mapping[str, Any]) -> list[str]:
    """For the card: what one training shared with splits that it held out."""
    return [_counted(Shared(**each)) for data in origin.get("data", ()) for each in data.get(SHARED_KEY, ())]


def picture_digests(data: TaskDataset) -> dict[str, str]:
    """By split a sha256 of its pictures, whatever their order; of the splits whose hashes are known."""
    table = _hashes(data)
    if table is None:
        return {}
    digests = {}
    for split in data.splits:
        of_split = table.filter(pc.equal(table["split"], split))["sha256"].combine_chunks()
        digests[split] = hashlib.sha256(b"".join(sorted(of_split.to_pylist()))).hexdigest()
    return digests


def _counted(shared: Shared) -> str:
    """Such as "of rsna/test 2 pictures to the pixel and 3 patients are trained on in nih"."""
    counts = {
        "pictures to the pixel": shared.equal,
        "pictures nearly": shared.near,
        "patients": shared.patients,
        "images by name": shared.named,
    }
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"of {shared.task}/{shared.split} {told} in the training images of {shared.trained}"


def _find_shared(tasks: Sequence[TaskDataset]) -> tuple[list[Shared], list[str]]:
    """What is shared, and the names of the datasets whose pictures could not be compared."""
    by_place: dict[str, list[TaskDataset]] = {}
    for data in tasks:  # a dataset may be read as two tasks, through other columns
        by_place.setdefault(_place(data), []).append(data)
    sources = [_Source(group) for group in by_place.values()]
    if not any(source.is_trained for source in sources):
        return [], []
    parts = {f"t{number}": source.rows(True) for number, source in enumerate(sources) if source.is_trained}
    parts |= {f"v{number}": source.rows(False) for number, source in enumerate(sources)}

    counts: dict[tuple[int, int, str], dict[str, set]] = {}
    related: set[tuple[int, int]] = set()
    for duplicate in find_duplicates({name: table for name, table in parts.items() if len(table)}):
        first, second = sorted((duplicate.first, duplicate.second), key=lambda place: place.split != "train")
        one, other = int(first.dataset[1:]), int(second.dataset[1:])
        if duplicate.equal and one != other and sources[one].patient(first) == sources[other].patient(second) != "":
            related |= {(one, other), (other, one)}
        if first.split == "train" != second.split and (one != other or duplicate.equal):
            rows = counts.setdefault((one, other, second.split), {"equal": set(), "near": set()})
            rows["equal" if duplicate.equal else "near"].add(second.row)
    found: dict[tuple[int, int, str], dict[str, int]] = {
        key: {"equal": len(rows["equal"]), "near": len(rows["near"] - rows["equal"])} for key, rows in counts.items()
    }
    for one, trained in enumerate(sources):
        for other, held_out in enumerate(sources):
            if one == other or not trained.is_trained:
                continue
            if not (trained.is_of_the_source_of(held_out) or (one, other) in related):
                continue
            for split in held_out.held_out:
                for column, what in (("patient_id", "patients"), ("image_id", "named")):
                    common = trained.values("train", column) & held_out.values(split, column)
                    if common:
                        found.setdefault((one, other, split), {})[what] = len(common)
    shared = [
        Shared(sources[one].trained_task, sources[other].tasks[0].task.name, split, **numbers)
        for (one, other, split), numbers in sorted(found.items())
    ]
    return shared, [source.tasks[0].name for source in sources if source.hashes is None]


class _Source:
    """A dataset, with the one or more tasks that it is read as."""

    def __init__(self, tasks: list[TaskDataset]):
        self.tasks = tasks
        self.hashes = _hashes(tasks[0])
        self.is_trained = any("train" in data.splits for data in tasks)
        self.held_out = sorted({split for data in tasks for split in data.splits} - {"train"})

    @property
    def trained_task(self) -> str:
        return next(data.task.name for data in self.tasks if "train" in data.splits)

    def rows(self, train: bool) -> pa.Table:
        """The hashes of the training images, or of all others, also of splits that are not opened."""
        if self.hashes is None:
            return pa.table({"split": pa.array([], pa.string())})
        is_train = pc.equal(self.hashes["split"], "train")
        return self.hashes.filter(is_train if train else pc.invert(is_train))

    def patient(self, place: Place) -> str:
        """Empty where it is not known."""
        data = next((data for data in self.tasks if place.split in data.splits), None)
        patients = None if data is None else data.patients(place.split)
        return "" if patients is None else str(patients[place.row] or "")

    def values(self, split: str, column: str) -> set[str]:
        known = {value for data in self.tasks if split in data.splits for value in data.column(split, column) or ()}
        return {str(value) for value in known if value not in (None, "")}

    def is_of_the_source_of(self, other: "_Source") -> bool:
        """Whether both were built from one release, so that their patients are the same."""
        ours, theirs = self.tasks[0].facts, other.tasks[0].facts
        return any(ours.get(fact) and ours.get(fact) == theirs.get(fact) for fact in ("homepage", "title"))


def _place(data: TaskDataset) -> str:
    path = Path(data.source)
    return str(path.resolve()) if path.exists() else data.source


def _hashes(data: TaskDataset) -> pa.Table | None:
    """Those of the dataset's builder; None without them, or if they are of other rows than those that are there."""
    path = dataset_file(data.source, HASH_FILE)
    if path is None:
        return None
    table = read_hashes(path.parent)
    counts = {row["values"]: row["counts"] for row in pc.value_counts(table["split"]).to_pylist()}
    is_of_these = all(counts.get(split) == len(rows) for split, rows in data.splits.items())
    return table if is_of_these else None


def _trained(origin: Mapping[str, Any] | None, held_out: bool = False) -> Iterator[Mapping[str, Any]]:
    """The datasets that a model was trained on, and what it started from; with `held_out` those of validation too."""
    while origin:
        for entry in origin.get("data", ()):
            if held_out or "train" in entry.get("splits", {}):
                yield entry
        origin = origin.get("start_provenance")


def _trained_on_before(data: TaskDataset, split: str, origin: Mapping[str, Any] | None) -> tuple[str, str]:
    """A sentence if the split was trained on, and one if it may have been; else empty."""
    earlier = [entry for entry in _trained(origin) if entry.get(DIGEST_KEY, {}).get("train")]
    digests = (data.facts.get(DIGEST_KEY) or picture_digests(data)) if earlier else {}
    ours = digests.get(split), digests.get("train")
    if ours[0] in {entry[DIGEST_KEY]["train"] for entry in earlier}:
        return f"The pictures of the split {split!r} are those that the model was trained on.", ""
    for entry in earlier:
        if entry.get("dataset") == data.name and ours[1] not in (None, entry[DIGEST_KEY]["train"]):
            counts = entry["splits"]["train"]["rows"], len(data.splits["train"])
            return "", (
                f"The model was trained on another {data.name} ({counts[0]:,} training images) than the one here "
                f"({counts[1]:,}): images of the split {split!r} may have been among them."
            )
    return "", ""
