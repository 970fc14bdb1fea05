"""Sending checked files to the Hub in one commit that can be resumed; see `push_dataset` and `push_model`."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tqdm.auto import tqdm

from ..hub_errors import HUB_ERRORS, explain

CARD_FILE = "README.md"
# "/home/me/x", "C:\x", "\\server\x", "file:/x" or "~/x", but not the path in an address such as https://host/x/y
MACHINE_PATH = re.compile(r"(?<![\w/.~-])(?:/[^\s/'\"`,:;()]+){2,}|\b[A-Za-z]:\\|(?<!\w)~/|\bfile:/|\\\\[\w.-]+\\")
SECRET = re.compile(
    r"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
SHOWN_FILES = 5
ONLY_GIT = {".gitattributes"}


class Push(NamedTuple):
    """
    What a push did: the address of the repository, or of the pull request; files sent, found unchanged, removed; the
    names of those sent anew in the place of what an earlier version of ark-hf wrote; and of those that stay here.
    """

    url: str
    sent: int
    unchanged: int
    removed: int
    renewed: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()


class Repository(NamedTuple):
    """One state of a repository on the Hub: its id, the commit, and what it holds by path."""

    id: str
    kind: str
    commit: str
    files: dict

    @property
    def is_new(self) -> bool:
        return not set(self.files) - ONLY_GIT


def open_repository(
    api: HfApi, repo_id: str, kind: str, public: bool, revision: str | None = None, pull_request: bool = False
) -> Repository:
    """
    The repository as it is now; it is made if there is none, and so is the branch `revision`.

    Args:
        repo_id: `someone/name`, or `name` for the account's own.
        kind: "model" or "dataset".
        public: Whether everybody may find it, and a pull request to it.

    Raises:
        ValueError: It is public where it should be private, or the reverse.
    """
    if not pull_request:
        repo_id = api.create_repo(repo_id, repo_type=kind, private=not public, exist_ok=True).repo_id
    if api.repo_info(repo_id, repo_type=kind).private == public:
        is_now, remedy = ("private", "leave out --public") if public else ("public", "add --public")
        raise ValueError(f"it is {is_now}; change that in its settings, or {remedy}.")
    if revision is not None:
        api.create_branch(repo_id, repo_type=kind, branch=revision, exist_ok=True)
    commit = api.repo_info(repo_id, repo_type=kind, revision=revision).sha
    tree = api.list_repo_tree(repo_id, repo_type=kind, revision=commit, recursive=True)
    return Repository(repo_id, kind, commit, {entry.path: entry for entry in tree})


def send(
    api: HfApi,
    there: Repository,
    files: Mapping[str, Path | bytes],
    message: str,
    is_ours: Callable[[str], object],
    revision: str | None = None,
    pull_request: bool = False,
) -> Push:
    """
    Sends files in one commit: readers see all of them or nothing.

    What an interrupted push has sent, and large files that have not changed, are not sent again.

    Args:
        files: By path in the repository.
        is_ours: Says of a path there whether it may be removed if `files` has it no longer.
        revision: Branch; the main one unless set.
        pull_request: Whether to propose the change to the owner instead of making it.
    """
    hashes = {path: entry.lfs.sha256 for path, entry in there.files.items() if getattr(entry, "lfs", None)}
    additions = [CommitOperationAdd(path, content) for path, content in files.items()]
    new = []
    size = sum(addition.upload_info.size for addition in additions)
    where = {"repo_type": there.kind, "revision": revision, "create_pr": pull_request}
    with _hub_bars_off(), tqdm(total=size, unit="B", unit_scale=True, desc=f"sending to {there.id}") as bar:
        for addition in additions:
            there_too = hashes.get(addition.path_in_repo)  # only then is the file's own worth a reading
            if there_too is None or there_too != addition.upload_info.sha256.hex():
                api.preupload_lfs_files(there.id, [addition], free_memory=False, **where)
                new.append(addition)
            bar.update(addition.upload_info.size)
        gone = [CommitOperationDelete(path) for path in there.files if path not in files and is_ours(path)]
        commit = api.create_commit(
            there.id, [*new, *gone], commit_message=message, parent_commit=there.commit, **where
        )
    kind = "datasets/" if there.kind == "dataset" else ""
    url = commit.pr_url or f"{api.endpoint}/{kind}{there.id}{f'/tree/{revision}' if revision else ''}"
    return Push(url, len(new), len(additions) - len(new), len(gone))


def check_text(name: Path | str, text: str) -> None:
    """Raises `ValueError` if a text to be published names a path of this machine or holds a token or a key."""
    path = MACHINE_PATH.search(text)
    if path:
        raise ValueError(f"{name} names a path of this machine, {path[0]!r}: take it out.")
    check_secrets(name, text)


def check_secrets(name: Path | str, text: str) -> None:
    """Raises `ValueError` if a text to be published holds what looks like a token or a key."""
    if SECRET.search(text):
        raise ValueError(f"{name} holds what looks like a token or a private key: take it out, and have it revoked.")


def name_files(names: list[str]) -> str:
    """The first few of them."""
    more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
    return ", ".join(names[:SHOWN_FILES]) + more


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns what the Hub's client raises into a `ValueError` of one line that begins with `what`."""
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
