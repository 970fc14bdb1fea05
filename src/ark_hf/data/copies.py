"""Where `datasets` keeps its copies of a task dataset: one for each state of a folder, or revision on the Hub."""

import hashlib
import shutil
from pathlib import Path
from urllib.parse import quote

from datasets import config

from ..names import check_name


def split_revision(name_or_path: str | Path) -> tuple[str, str | None]:
    """`someone/nih14@v1` of the Hub to its id and the revision; a folder has none. Raises `ValueError` for neither."""
    if Path(name_or_path).exists():
        return str(name_or_path), None
    name, _, revision = str(name_or_path).partition("@")
    check_name(name, "dataset")
    return name, revision or None


def cache_dir(name_or_path: str | Path) -> str | None:
    """
    A cache of its own for every state of a local folder, and for every revision of a Hub dataset that is named.

    `datasets` tells local folders apart by their last name alone: without this, a rebuilt dataset, or another of the
    same name, would silently give the rows of the first. Offline, it takes any revision for the one that is asked for.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        name, revision = split_revision(name_or_path)
        if revision is None:
            return None
        return str(Path(config.HF_DATASETS_CACHE, "ark_hf", f"revision-{quote(revision, safe='')}"))  # "a/b" is one
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digests = [hashlib.sha256(part.encode()).hexdigest()[:16] for part in (str(folder.resolve()), repr(state))]
    return str(Path(config.HF_DATASETS_CACHE, "ark_hf", *digests))


def forget_earlier_states(cache: str | None) -> None:
    """
    Deletes what `datasets` has copied of a local folder before its files changed: nothing would read it again.

    Args:
        cache: [`cache_dir`] of the folder, as it was when it was loaded: by now the folder may have vanished.
    """
    if cache is None or Path(cache).parents[1] != Path(config.HF_DATASETS_CACHE, "ark_hf"):  # of the Hub
        return
    for other in Path(cache).parent.iterdir():
        if other != Path(cache):
            shutil.rmtree(other, ignore_errors=True)
