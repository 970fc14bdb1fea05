"""Task datasets to the Hub: what may go is checked first, and is sent in one commit that can be resumed."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, HfApi, hf_hub_download

from ..data.build.cards import OPEN_LICENSES, PHANTOM_TAG, PLACE
from ..data.build.duplicates import HASH_FILE
from ..data.image_statistics import STATISTICS_FILE
from ..data.rows import OPTIONAL_COLUMNS
from ..data.task_dataset import BUILD_REPORT, CARD_KEY, NAME_KEY, SPLITS, open_card, read_any_task
from .push import CARD_FILE, Push, Repository, check_text, explained, name_files, open_repository, send

SHARD = re.compile(rf"data/({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.parquet")
FILES = ("image", "volume", "masks", "mask")  # columns of files, each with its path
COLUMNS = [*FILES, "labels", "image_id", *OPTIONAL_COLUMNS]
# "/home/x", "~/x", "C:\\x", "file:/x", and ".." between slashes
_LEADS_OUT = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|file:|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)
PATIENT_COLUMNS = ["patient_id", "study_id", "sex", "age"]


def push_dataset(folder: Path, repo_id: str, public: bool = False, allow_patient_data: bool = False) -> Push:
    """
    Pushes a task dataset to the Hub, in one commit: readers see all of it or nothing.

    What an interrupted push has sent, and files that have not changed, are not sent again. Parquet files that are
    there but no longer in the folder are removed. Where the licence does not let anybody pass the images on, a new
    public repository is gated: its owner lets each reader in.

    Args:
        folder: See [`check_dataset_folder`], whose checks come first.
        repo_id: `someone/name`, or `name` for the account's own.
        public: Whether everybody may find the repository; it is made if there is none.
        allow_patient_data: See [`check_dataset_folder`].

    Raises:
        ValueError: The folder may not be pushed; the repository is public where it should be private or the reverse,
            or holds something else; or the Hub refuses or cannot be reached.
    """
    files: dict[str, Path | bytes] = dict(check_dataset_folder(folder, allow_patient_data))
    card = open_card(folder / CARD_FILE)
    api, task = HfApi(), read_any_task(folder).name
    with explained(f"Cannot push {folder} to {repo_id}: "):
        there = open_repository(api, repo_id, "dataset", public)
        earlier = None if there.is_new else _card_of_same_task(there, task)
        # Later it is the owner's to open the gate
        if public and not _is_open(card) and (earlier is None or _is_open(earlier)):
            api.update_repo_settings(there.id, repo_type="dataset", gated="manual")
        files |= {CARD_FILE: str(card).replace(PLACE, there.id).encode()}
        return send(api, there, files, f"{task}, {len(files)} files", _tells_of_pictures)


def _tells_of_pictures(name: str) -> bool:
    """Whether a file would tell of pictures that are there no longer."""
    return SHARD.fullmatch(name) is not None or name in (HASH_FILE, STATISTICS_FILE)


def check_dataset_folder(folder: Path, allow_patient_data: bool = False) -> dict[str, Path]:
    """
    What of a task dataset's folder goes to the Hub, if all of it may.

    Args:
        folder: A folder that `ark-hf data build` wrote.
        allow_patient_data: Says that the terms of the source and whoever is responsible allow the images, and the
            columns about patients, to be stored on the Hub. Needed unless the card names a licence under which anybody
            may pass the images on, or the data are phantoms.

    Returns:
        The files by their path in the repository.

    Raises:
        ValueError: The folder is no task dataset, holds anything else, is damaged, names paths of this machine, or
            holds patients' data without being allowed to.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    read_any_task(folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    shards = [name for name in files if SHARD.fullmatch(name)]
    if not shards:
        raise ValueError(f"{folder} has no data/*.parquet; build the dataset with `ark-hf data build`.")
    others = sorted(set(files) - {*shards, CARD_FILE, BUILD_REPORT, HASH_FILE, STATISTICS_FILE})
    if others:
        raise ValueError(
            f"{folder} holds files that are no part of a task dataset: {name_files(others)}. Move them elsewhere."
        )
    for name in (CARD_FILE, BUILD_REPORT):
        if name in files:
            check_text(folder / name, files[name].read_text(encoding="utf-8"))

    card = open_card(folder / CARD_FILE)
    columns = _check_shards(folder, shards, card)
    if not _is_open(card):
        about = [column for column in PATIENT_COLUMNS if column in columns]
        what = f"{folder} (with {', '.join(about)})" if about else str(folder)
        check_allowed(what, card.data.license, allow_patient_data)
    return files


def check_allowed(what: str, license_id: str | None, allow_patient_data: bool) -> None:
    """Raises `ValueError` if `what` is not known to be free to be passed on, and nobody has said that it may be."""
    if license_id not in OPEN_LICENSES and not allow_patient_data:
        raise ValueError(
            f"The images of {what} are not under a licence that lets anybody pass them on (it is "
            f"{license_id or 'unknown'!r}). If the terms of their source, and whoever is responsible for them, allow "
            "them to be stored on the Hub, add --allow_patient_data."
        )


def _is_open(card: DatasetCard) -> bool:
    return card.data.license in OPEN_LICENSES or PHANTOM_TAG in (card.data.get("tags") or [])


def _check_shards(folder: Path, shards: list[str], card: DatasetCard) -> set[str]:
    """The columns of the parquet files, which hold what the card says and nothing more."""
    columns: set[str] = set()
    rows = dict.fromkeys(SPLITS, 0)
    for name in shards:
        try:
            file = pq.ParquetFile(folder / name)
            columns |= set(file.schema_arrow.names)
            rows[name.removeprefix("data/").split("-")[0]] += file.metadata.num_rows
            leaves = [file.schema.column(number).path for number in range(len(file.schema))]
            paths = [leaf for leaf in leaves if leaf.partition(".")[0] in FILES and leaf.endswith(".path")]
            for batch in file.iter_batches(columns=[*paths, "image_id"]):
                if any(name and _LEADS_OUT.match(name) for column in batch.columns for name in _names(column)):
                    raise ValueError(
                        "images are named by paths of this machine, or that lead out of the source's folder; build it "
                        "again with names from there"
                    )
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{folder / name}: {error}.") from None
    unknown = sorted(columns - set(COLUMNS))
    if unknown:
        raise ValueError(f"{folder} has the columns {unknown}; a task dataset has no others than {COLUMNS}.")
    info = DatasetInfosDict.from_dataset_card_data(card.data).get("default")
    for split, expected in ((info.splits or {}) if info else {}).items():
        if rows[split] != expected.num_examples:
            raise ValueError(
                f"{folder}: split {split!r} should have {expected.num_examples} images as {CARD_FILE} says, but its "
                f"files hold {rows[split]}. Build it again."
            )
    return columns


def _names(column: pa.Array) -> list[str | None]:
    """The paths in a column of files, or of lists of them; or what a column of texts holds."""
    if pa.types.is_list(column.type):
        column = column.flatten()
    return (column.field("path") if pa.types.is_struct(column.type) else column).to_pylist()


def _card_of_same_task(there: Repository, task: str) -> DatasetCard:
    """The card there, if it is of a dataset for the same task."""
    if CARD_FILE in there.files:
        path = hf_hub_download(there.id, CARD_FILE, repo_type="dataset", revision=there.commit)
        try:
            card = open_card(Path(path))
            entries = card.data.to_dict()
            if task == (entries[NAME_KEY] if NAME_KEY in entries else entries[CARD_KEY]["name"]):
                return card
        except (ValueError, KeyError, TypeError):
            pass
    raise ValueError("it holds something else; choose another name.")
