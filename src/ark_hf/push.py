"""Task datasets to the Hub: what may go is checked first, and is sent in one commit that can be resumed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from datasets.info import DatasetInfosDict
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi, hf_hub_download
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tqdm.auto import tqdm

from .data.cards import OPEN_LICENSES, PHANTOM_TAG, PLACE
from .data.duplicates import HASH_FILE
from .data.rows import OPTIONAL_COLUMNS
from .data.task_dataset import SPLITS, read_task
from .hub_errors import HUB_ERRORS, explain

CARD, REPORT = "README.md", "build_report.json"
SHARD = re.compile(rf"data/({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.parquet")
COLUMNS = ["image", "labels", "image_id", *OPTIONAL_COLUMNS]
PATIENT_COLUMNS = ["patient_id", "study_id", "sex", "age"]
# "/home/me/x", "C:\x" or "~/x", but not the path in an address such as https://host/x/y
MACHINE_PATH = re.compile(r"(?<![\w:/.~-])(?:/[^\s/'\"`,:;()]+){2,}|\b[A-Za-z]:\\|(?<!\w)~/")
SHOWN_FILES = 5


class Push(NamedTuple):
    """What a push did: the repository's address; files sent, found there unchanged, and removed there."""

    url: str
    sent: int
    unchanged: int
    removed: int


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
    files = check_dataset_folder(folder, allow_patient_data)
    card = DatasetCard.load(folder / CARD)
    api = HfApi()
    with _explained(f"Cannot push {folder} to {repo_id}: "):
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=not public, exist_ok=True).repo_id
        there = api.dataset_info(repo_id)
        if there.private == public:
            is_now, remedy = ("private", "leave out --public") if public else ("public", "add --public")
            raise ValueError(f"it is {is_now}; change that in its settings, or {remedy}.")
        listed = {entry.path: entry for entry in api.list_repo_tree(repo_id, repo_type="dataset", recursive=True)}
        is_new = not set(listed) - {".gitattributes"}
        earlier = None if is_new else _card_of_same_task(repo_id, there.sha, read_task(folder).name)
        # Later it is the owner's to open the gate
        if public and not _is_open(card) and (earlier is None or _is_open(earlier)):
            api.update_repo_settings(repo_id, repo_type="dataset", gated="manual")

        hashes = {path: entry.lfs.sha256 for path, entry in listed.items() if getattr(entry, "lfs", None)}
        text = str(card).replace(PLACE, repo_id)
        additions = [CommitOperationAdd(path, file) for path, file in files.items() if path != CARD]
        additions.append(CommitOperationAdd(CARD, text.encode()))
        new = []
        size = sum(addition.upload_info.size for addition in additions)
        with _hub_bars_off(), tqdm(total=size, unit="B", unit_scale=True, desc=f"sending to {repo_id}") as bar:
            for addition in additions:
                there_too = hashes.get(addition.path_in_repo)  # only then is the file's own worth a reading
                if there_too is None or there_too != addition.upload_info.sha256.hex():
                    api.preupload_lfs_files(repo_id, [addition], repo_type="dataset", free_memory=False)
                    new.append(addition)
                bar.update(addition.upload_info.size)
            gone = [CommitOperationDelete(path) for path in listed if SHARD.fullmatch(path) and path not in files]
            api.create_commit(
                repo_id,
                [*new, *gone],
                repo_type="dataset",
                commit_message=f"{read_task(folder).name}, {len(files)} files",
                parent_commit=there.sha,
            )
    return Push(f"{api.endpoint}/datasets/{repo_id}", len(new), len(additions) - len(new), len(gone))


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
    if (folder / "config.json").is_file():
        raise ValueError(f"{folder} is a model; only task datasets can be pushed yet.")
    read_task(folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    shards = [name for name in files if SHARD.fullmatch(name)]
    if not shards:
        raise ValueError(f"{folder} has no data/*.parquet; build the dataset with `ark-hf data build`.")
    others = sorted(set(files) - {*shards, CARD, REPORT, HASH_FILE})
    if others:
        more = f" and {len(others) - SHOWN_FILES} more" if len(others) > SHOWN_FILES else ""
        names = ", ".join(others[:SHOWN_FILES])
        raise ValueError(
            f"{folder} holds files that are no part of a task dataset: {names}{more}. Move them elsewhere."
        )
    for name in (CARD, REPORT):
        path = MACHINE_PATH.search(files[name].read_text(encoding="utf-8")) if name in files else None
        if path:
            raise ValueError(f"{folder / name} names a path of this machine, {path[0]!r}: take it out.")

    card = DatasetCard.load(folder / CARD)
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
            f"The radiographs of {what} are not under a licence that lets anybody pass them on (it is "
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
            for batch in file.iter_batches(columns=["image.path", "image_id"]):
                paths = batch.column("image").field("path").to_pylist() + batch.column("image_id").to_pylist()
                if any(path and MACHINE_PATH.match(path) for path in paths):
                    raise ValueError("images are named by paths of this machine; build it again with shorter ones")
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{folder / name}: {error}.") from None
    unknown = sorted(columns - set(COLUMNS))
    if unknown:
        raise ValueError(f"{folder} has the columns {unknown}; a task dataset has no others than {COLUMNS}.")
    info = DatasetInfosDict.from_dataset_card_data(card.data).get("default")
    for split, expected in ((info.splits or {}) if info else {}).items():
        if rows[split] != expected.num_examples:
            raise ValueError(
                f"{folder}: split {split!r} should have {expected.num_examples} images as {CARD} says, but its files "
                f"hold {rows[split]}. Build it again."
            )
    return columns


def _card_of_same_task(repo_id: str, revision: str, task: str) -> DatasetCard:
    """The card there, if it is of a dataset for the same task."""
    try:
        if read_task(f"{repo_id}@{revision}").name == task:
            return DatasetCard.load(hf_hub_download(repo_id, CARD, repo_type="dataset", revision=revision))
    except ValueError:
        pass
    raise ValueError("it holds something else; choose another name.")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except HUB_ERRORS as error:
        raise ValueError(what + explain(error)) from None


@contextmanager
def _hub_bars_off() -> Iterator[None]:
    """One bar for all files instead of huggingface_hub's own for each."""
    were_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()
