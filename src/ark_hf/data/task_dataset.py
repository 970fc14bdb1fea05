"""Task datasets: a Hub dataset, or the same layout on disk, whose card holds the `ArkTask` that its labels mean."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import (
    ClassLabel,
    Dataset,
    Features,
    Image,
    IterableDataset,
    List,
    Nifti,
    Value,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
)
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from datasets.packaged_modules.parquet.parquet import Parquet
from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ..cells import LABEL_VALUES, label_word
from ..files import printable, read_json
from ..hub_errors import HUB_ERRORS, LOG_IN, explain
from ..models.ark.tasks_ark import DEFAULT_MODALITY, ArkTask, SegmentationTask, check_modality
from ..plain_yaml import parse_yaml
from .copies import cache_dir, forget_earlier_states, split_revision
from .unlabelled import AnyTask, Unlabelled, select_images
from .volumes.volume import nibabel

SPLITS = ("train", "validation", "test")
CARD_KEY = "ark_task"
KIND_KEY, KINDS = "ark_kind", ("classification", "segmentation", "unlabelled")  # a card without it is of the first
NAME_KEY = "ark_name"  # of images without labels, whose card has no task
MODALITY_KEY = "ark_modality"
BUILD_REPORT = "build_report.json"
OTHER_KINDS = {"masks": "segmentation masks", "mask": "segmentation masks", "volume": "volumes"}  # by column
MAX_CARD = 2**22  # characters
SMOOTHED = {"lsr_ones": (0.55, 0.85), "lsr_zeros": (0.0, 0.3)}


def read_task(name_or_path: str | Path) -> ArkTask:
    """
    The task of classification that the dataset's card describes, see [`read_dataset_task`].

    Raises:
        ValueError: As there, or the dataset is of another kind.
    """
    task = read_dataset_task(name_or_path)
    if isinstance(task, SegmentationTask):
        raise ValueError(_other_kind(name_or_path, OTHER_KINDS["masks"]))
    return task


def read_dataset_task(name_or_path: str | Path) -> ArkTask | SegmentationTask:
    """
    The task that the dataset's card describes, see [`read_any_task`].

    Raises:
        ValueError: As there, or the dataset has no labels.
    """
    task = read_any_task(name_or_path)
    if isinstance(task, Unlabelled):
        raise ValueError(
            f"{str(name_or_path)!r} holds images without labels, and labels are wanted here: it serves `ark-hf "
            "pretrain` with `method: peac`, of volumes with `method: genesis`, and `ark-hf embed`. If there are "
            "labels, build it without --unlabelled."
        )
    return task


def read_any_task(name_or_path: str | Path) -> AnyTask:
    """
    The task that the dataset's card describes under `ark_task`, with the kind and the modality that stand beside it.

    Args:
        name_or_path: Folder or Hub id of a task dataset; an id may name a revision, "someone/nih14@v1".

    Raises:
        ValueError: There is no such dataset, it has no card, or its card holds no task, nor says that there are no
            labels.
    """
    card = read_card(name_or_path).data.to_dict()
    kind = card.get(KIND_KEY, KINDS[0])
    if kind not in KINDS:
        raise ValueError(f"The card of {name_or_path}: {KIND_KEY} {kind!r} is unknown; use one of {KINDS}.")
    values = card.get(CARD_KEY)
    modality = card.get(MODALITY_KEY, DEFAULT_MODALITY)
    if kind == "unlabelled":
        if values is not None:
            raise ValueError(f"The card of {name_or_path}: `{CARD_KEY}` is of labels; `{KIND_KEY}: {kind}` has none.")
        if NAME_KEY not in card:
            raise ValueError(f"The card of {name_or_path} has no `{NAME_KEY}` beside `{KIND_KEY}: {kind}`; add it.")
        check_modality(modality, f"The card of {name_or_path}: {MODALITY_KEY}")
        return Unlabelled(card[NAME_KEY], modality)
    if values is None:
        raise ValueError(
            f"The card of {name_or_path} has no `{CARD_KEY}` entry; build the dataset with `ark-hf data`, or give "
            "`name` and `columns` in the recipe."
        )
    task = SegmentationTask.from_dict(values) if kind == "segmentation" else ArkTask.from_dict(values)
    if "modality" in values:
        raise ValueError(
            f"The card of {name_or_path}: write `{MODALITY_KEY}: {task.modality}` beside `{CARD_KEY}`, not within it."
        )
    check_modality(modality, f"The card of {name_or_path}: {MODALITY_KEY}")
    return replace(task, modality=modality)


def card_entries(task: AnyTask) -> dict[str, Any]:
    """What [`read_any_task`] reads, as a card has it."""
    values = task.to_dict()
    modality = values.pop("modality", None)
    if isinstance(task, Unlabelled):
        entries: dict[str, Any] = {KIND_KEY: "unlabelled", NAME_KEY: task.name}
    else:
        entries = {CARD_KEY: values} | ({KIND_KEY: "segmentation"} if isinstance(task, SegmentationTask) else {})
    return entries | ({} if modality is None else {MODALITY_KEY: modality})


def _other_kind(name_or_path: str | Path, what: str) -> str:
    return f"{str(name_or_path)!r} holds {what}, and a dataset of labels is wanted here."


def read_card(name_or_path: str | Path) -> DatasetCard:
    """The dataset's card. Raises `ValueError` if there is no such dataset, or it has no card that can be read."""
    card_file = Path(name_or_path) / "README.md"
    if Path(name_or_path).exists() and not card_file.is_file():
        raise ValueError(
            f"{name_or_path} is not a task dataset: it has no card README.md. Build one with `ark-hf data`."
        )
    if not card_file.is_file():
        name, revision = split_revision(name_or_path)
        try:
            card_file = Path(hf_hub_download(name, "README.md", repo_type="dataset", revision=revision))
        except HUB_ERRORS as error:
            raise ValueError(
                f"{str(name_or_path)!r} is neither a folder with a task dataset nor a reachable Hub dataset: "
                f"{explain(error)} Check the path (`--data_root`) or the repository id."
            ) from None
    try:
        return open_card(card_file)
    except ValueError as error:
        raise ValueError(f"The card of {name_or_path} is not UTF-8 with a YAML header: {error}") from None


def open_card(path: Path) -> DatasetCard:
    """
    The card in a file, its header read as [`parse_yaml`] does.

    Raises:
        ValueError: It cannot be read, is longer than `MAX_CARD` or not UTF-8, or its header is no YAML or no mapping
            of names. The message names no file.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # line ends stay as they are
            text = file.read(MAX_CARD + 1)
    except OSError as error:
        raise ValueError(error.strerror) from None
    except UnicodeDecodeError:
        raise ValueError("it has other bytes than UTF-8") from None
    if len(text) > MAX_CARD:
        raise ValueError(f"it has more than {MAX_CARD:,} characters")
    header = REGEX_YAML_BLOCK.search(text)
    values = parse_yaml(header[2]) if header else None
    if values is not None and not (isinstance(values, dict) and all(isinstance(key, str) for key in values)):
        raise ValueError("its header does not map names to values")
    try:
        return DatasetCard(text)
    except Exception as error:  # huggingface_hub's own classes take most headers, and each is wrong in its own way
        raise ValueError(f"huggingface_hub cannot read its header ({type(error).__name__})") from None


def read_build_facts(name_or_path: str | Path) -> dict[str, Any]:
    """
    What the dataset's build report knows of its source: `title`, `homepage`, `license`, `access`, `citation`, ...

    Empty if there is no such report, as of datasets that `ark-hf data build` did not make.
    """
    path = dataset_file(name_or_path, BUILD_REPORT)
    try:
        return {} if path is None else dict(read_json(path)["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def dataset_file(name_or_path: str | Path, name: str) -> Path | None:
    """A file that a builder left beside the dataset's card; None if there is none, or it cannot be reached."""
    if Path(name_or_path).exists():
        path = Path(name_or_path, name)
        return path if path.is_file() else None
    try:
        repository, revision = split_revision(name_or_path)
        return Path(hf_hub_download(repository, name, repo_type="dataset", revision=revision))
    except HUB_ERRORS:
        return None


def split_names(name_or_path: str | Path) -> list[str]:
    """Names of the dataset's splits. Raises `ValueError` if it cannot be reached."""
    name, revision = split_revision(name_or_path)
    try:
        return get_dataset_split_names(name, revision=revision, cache_dir=cache_dir(name_or_path))
    except (*HUB_ERRORS, DatasetsError) as error:
        raise ValueError(f"Cannot read the splits of {str(name_or_path)!r}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, DatasetNotFoundError):
        return f"{error} If you may read it, {LOG_IN}."
    reason = error.__cause__ or error  # `datasets` wraps some, and then says little itself
    return "it is empty." if "corresponds to no data" in str(reason) else printable(explain(reason))  # damaged bytes


def load_task_dataset(
    name_or_path: str | Path,
    split: str,
    streaming: bool = False,
    columns: Mapping[str, Any] | None = None,
) -> Dataset | IterableDataset:
    """
    Loads one split with the same columns whatever the source.

    Args:
        name_or_path: Folder or Hub id of a task dataset; an id may name a revision, "someone/nih14@v1".
        split: "train", "validation" or "test".
        streaming: Whether to read lazily, as `datasets.load_dataset` does.
        columns: For foreign datasets, `{"image": column, "labels": [column, ...]}`: one 0/1 column per label, or one
            column of classes (`ClassLabel`).

    Returns:
        Rows with `image` (a PIL image), `labels` (a list of floats in 0/1/-1/NaN for multi-label, a class index with
        -1 unknown for single-label) or, of a segmentation, `masks` (a list of PIL images, None unknown) and, where
        known, `patient_id`, `sex`, `age`, `view`, `study_id`. Volumes have `volume` in place of `image`, and `mask` in
        place of `masks`: nibabel images, each read when it is asked for; see [`stored_volume`].

    Raises:
        ValueError: The dataset, the split or a column is missing, or the split is empty.
    """
    if not streaming:
        return load_task_splits(name_or_path, [split], columns)[split]
    _check_splits([split])
    name, revision = split_revision(name_or_path)
    cache = cache_dir(name_or_path)
    try:
        rows = load_dataset(name, split=split, revision=revision, streaming=True, cache_dir=cache)
    except (*HUB_ERRORS, DatasetsError, yaml.YAMLError) as error:
        raise ValueError(f"Cannot load split {split!r} of {str(name_or_path)!r}: {_reason(error)}") from None
    return _with_known_columns(rows, split, columns, name_or_path)


def load_task_splits(
    name_or_path: str | Path,
    splits: Sequence[str],
    columns: Mapping[str, Any] | None = None,
    images_only: bool = False,
) -> dict[str, Dataset]:
    """
    Several splits by name, each as of [`load_task_dataset`], for little more than the time that one takes.

    Args:
        images_only: Whether labels and masks are left out, or may be lacking: see [`image_column`] for `columns` then.
    """
    _check_splits(splits)
    name, revision = split_revision(name_or_path)
    cache = cache_dir(name_or_path)
    try:
        loaded = load_dataset(name, split=list(splits), revision=revision, cache_dir=cache)
    except (*HUB_ERRORS, DatasetsError, yaml.YAMLError) as error:
        what = " and ".join(map(repr, splits))
        raise ValueError(f"Cannot load split {what} of {str(name_or_path)!r}: {_reason(error)}") from None
    forget_earlier_states(cache)
    found = {}
    for split, rows in zip(splits, loaded, strict=True):
        known = select_images if images_only else _with_known_columns
        found[split] = known(rows, split, columns, name_or_path)
        content = "volume" if "volume" in found[split].column_names else "image"
        cells = found[split].data.column(content)
        if cells.null_count:
            missing = [row for row, cell in enumerate(cells) if not cell.is_valid]
            raise ValueError(
                f"Split {split!r} of {str(name_or_path)!r} has no {content} in {len(missing)} rows, the first is row "
                f"{missing[0]}; give them {content}s or leave the rows out."
            )
    return found


def _check_splits(splits: Sequence[str]) -> None:
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"Unknown split {unknown[0]!r}; use one of {SPLITS}.")


def _with_known_columns(rows, split: str, columns: Mapping[str, Any] | None, name_or_path: str | Path):
    if columns is not None:
        rows = _rename_columns(rows, columns, name_or_path)
    kinds: dict[str, Any] = {"image": Image()}
    if "volume" in rows.column_names and "image" not in rows.column_names:
        check_can_read_volumes(name_or_path)
        kinds = {"volume": Nifti()}
        if "labels" not in rows.column_names:
            kinds["mask"] = Nifti()
        if "mask" in kinds and "mask" not in rows.column_names:
            raise ValueError(
                f"Split {split!r} of {str(name_or_path)!r} has volumes without `labels` or `mask`; it has "
                f"{rows.column_names}. Volumes alone: `open_images`."
            )
    elif "masks" in rows.column_names and "labels" not in rows.column_names:
        kinds["masks"] = List(Image())
    else:
        check_has_image_and_labels(rows.column_names, split, name_or_path)
    for column, kind in kinds.items():
        if rows.features.get(column) != kind:
            rows = rows.cast_column(column, kind)
    return rows


def check_can_read_volumes(name_or_path: str | Path) -> None:
    """Raises `ValueError` without the library that reads volumes."""
    try:
        nibabel()
    except ValueError as error:
        raise ValueError(f"{str(name_or_path)!r}: {error}") from None


def load_splits(name_or_path: str | Path, config_name: str | None = None) -> dict[str, Dataset]:
    """All splits of any dataset that `datasets` can load, by name. Raises `ValueError` if it cannot."""
    name, revision = split_revision(name_or_path)
    try:
        return dict(load_dataset(name, config_name, revision=revision, cache_dir=cache_dir(name_or_path)))
    except (*HUB_ERRORS, DatasetsError, yaml.YAMLError) as error:
        raise ValueError(f"Cannot load {str(name_or_path)!r}: {_reason(error)}") from None


def parquet_files(name_or_path: str | Path, split: str) -> list[str]:
    """
    The files of one split in order, as paths or URLs that fsspec opens; those of the Hub are of one revision.

    Raises:
        ValueError: The dataset cannot be reached, is not in parquet files, or lacks the split.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; use one of {SPLITS}.")
    name, revision = split_revision(name_or_path)
    try:
        builder = load_dataset_builder(name, revision=revision, cache_dir=cache_dir(name_or_path))
    except (*HUB_ERRORS, DatasetsError, yaml.YAMLError) as error:
        raise ValueError(f"Cannot load split {split!r} of {str(name_or_path)!r}: {_reason(error)}") from None
    if not isinstance(builder, Parquet):
        raise ValueError(
            f"{str(name_or_path)!r} is not in parquet files and cannot be streamed: set streaming to false, or build "
            "it with `ark-hf data build`."
        )
    files = builder.config.data_files
    if split not in files:
        raise ValueError(f"Cannot load split {split!r} of {str(name_or_path)!r}: it has only {[*files]}.")
    return list(files[split])


def check_has_image_and_labels(column_names: list[str], split: str, name_or_path: str | Path) -> None:
    """Raises `ValueError` if a split has not the two columns that every task dataset has."""
    missing = {"image", "labels"} - set(column_names)
    for column, what in OTHER_KINDS.items():
        if missing and column in column_names:
            raise ValueError(_other_kind(name_or_path, what))
    if missing:
        raise ValueError(
            f"Split {split!r} of {str(name_or_path)!r} lacks the columns {sorted(missing)}; it has {column_names}. "
            "Name them in the recipe: columns: {image: ..., labels: [...]}."
            + " Images alone: `open_images`."
            * (missing == {"labels"})
        )


def check_columns(columns: Mapping[str, Any], column_names: list[str], name_or_path: str | Path) -> None:
    """Raises `ValueError` if `columns` is not as in [`load_task_dataset`] or names one that is not there."""
    labels = columns.get("labels")
    if set(columns) != {"image", "labels"} or not isinstance(labels, list) or not labels:
        raise ValueError(
            f"{str(name_or_path)!r}: columns must be {{image: COLUMN, labels: [COLUMN, ...]}}, got {dict(columns)}."
        )
    missing = [column for column in [columns["image"], *labels] if column not in column_names]
    if missing:
        raise ValueError(f"{str(name_or_path)!r} has no columns {missing}; it has {column_names}.")


def named_class(feature: Any, value: Any) -> Any:
    """The name of the class that an index of a `ClassLabel` stands for, None for -1; any other value as it is."""
    if isinstance(feature, ClassLabel) and isinstance(value, int):
        return feature.int2str(value) if value >= 0 else None
    return value


def gather_labels(
    values: Sequence, labels: list[str], features: Mapping[str, Any], name_or_path: str | Path
) -> list[float]:
    """
    One row's labels from a column each, NaN for nothing; of a `ClassLabel` its names count, in whatever order.

    Raises:
        ValueError: One is neither a number nor a word for one.
    """
    try:
        values = [named_class(features.get(label), value) for label, value in zip(labels, values, strict=True)]
        words = [label_word(value) for value in values]
        return [LABEL_VALUES[word] if word in LABEL_VALUES else float(word) for word in words]
    except ValueError:
        row = dict(zip(labels, values, strict=True))
        raise ValueError(f"{str(name_or_path)!r} has a row with {row}; use 0, 1, -1 or nothing.") from None


def _rename_columns(dataset, columns: Mapping[str, Any], name_or_path: str | Path):
    check_columns(columns, dataset.column_names, name_or_path)
    labels = columns["labels"]
    is_class = len(labels) == 1 and isinstance(dataset.features[labels[0]], ClassLabel)
    taken = {"image"} | ({"labels"} if is_class else set())
    dataset = dataset.remove_columns(sorted(taken & set(dataset.column_names) - {columns["image"], *labels}))
    if columns["image"] != "image":
        dataset = dataset.rename_column(columns["image"], "image")
    dataset = dataset.cast_column("image", Image())
    if is_class:
        return dataset if labels == ["labels"] else dataset.rename_column(labels[0], "labels")

    stored = dataset.features

    def gather(*values):
        return {"labels": gather_labels(values, labels, stored, name_or_path)}

    kept = {name: feature for name, feature in dataset.features.items() if name not in labels}
    features = Features(kept | {"labels": List(Value("float32"))})
    return dataset.map(gather, input_columns=labels, remove_columns=labels, features=features)


def resolve_labels(
    labels: list[float] | int,
    task: ArkTask,
    uncertain: str = "ignore",
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """
    Stored labels to training targets: float32 (labels,) with NaN unknown, or an int64 scalar with -100 unknown.

    Args:
        labels: As stored: 0, 1, -1 (uncertain), NaN or None; a class index, -1 unknown, for single-label tasks.
        uncertain: What -1 becomes: "ignore" (unknown), "ones", "zeros", "lsr_ones" U(0.55, 0.85) or "lsr_zeros"
            U(0, 0.3).
        generator: Source of the two `lsr` policies' draws, which they need.

    Raises:
        ValueError: An `lsr` policy without a generator.
    """
    if task.problem_type == "single_label_classification":
        index = np.asarray(-1 if labels is None else labels, dtype=np.int64)
        return np.where(index < 0, -100, index)
    targets = np.array([np.nan if value is None else value for value in np.atleast_1d(labels)], dtype=np.float32)
    doubtful = targets == -1
    if uncertain in SMOOTHED:
        if generator is None:
            raise ValueError(f"{uncertain} draws a target for each uncertain label: pass a generator.")
        targets[doubtful] = generator.uniform(*SMOOTHED[uncertain], doubtful.sum())
    else:
        targets[doubtful] = {"ignore": np.nan, "ones": 1, "zeros": 0}[uncertain]
    return targets
