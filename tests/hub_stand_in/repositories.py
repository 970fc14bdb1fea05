"""Repositories in memory: commits of files, what points to them, and the rules that commits keep."""

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True)
class File:
    """A file of a commit; large ones are what git LFS keeps outside the commit."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.blob_id

    def to_dict(self, path: str) -> dict[str, Any]:
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        described = {"type": "file", "path": path, "oid": self.blob_id, "size": len(self.content)}
        return described | ({"lfs": lfs} if self.large else {})


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str | None
    title: str
    date: str
    files: dict[str, File]


@dataclass
class Repository:
    """One repository; `readers` are the accounts that a gated one has let in beside its owner."""

    kind: str
    id: str
    private: bool = False
    gated: bool | str = False
    readers: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    large_files: dict[str, bytes] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def commit(self, files: dict[str, File], title: str, ref: str = "main", parent: str | None = None) -> Commit:
        parent = parent or self.refs.get(ref)
        # Time is counted in commits: what is the same has the same id in every run
        date = datetime(2026, 1, 1) + timedelta(seconds=len(self.commits))
        state = [parent, title, date.isoformat(), sorted((path, file.etag) for path, file in files.items())]
        new_id = hashlib.sha1(repr((self.kind, self.id, state)).encode()).hexdigest()
        commit = Commit(new_id, parent, title, date.strftime("%Y-%m-%dT%H:%M:%S.000Z"), files)
        self.commits[new_id] = commit
        self.refs[ref] = new_id
        return commit

    def resolve(self, revision: str) -> Commit:
        commit_id = self.refs.get(revision) or self.tags.get(revision) or revision
        if commit_id not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[commit_id]

    @property
    def files(self) -> dict[str, bytes]:
        """What `main` holds."""
        return {path: file.content for path, file in self.resolve("main").files.items()}


class Refusal(Exception):
    """An answer that is an error of the client's."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


def change(files: dict[str, File], key: str, value: dict[str, Any], large_files: dict[str, bytes]) -> None:
    """Applies one line of a commit to its files."""
    path = value.get("path", "")
    if key != "header" and (not path or path.startswith("/") or {"..", ".git"} & set(path.split("/"))):
        raise Refusal(400, f"{path!r} is no path")
    if key == "file":
        files[path] = File(base64.b64decode(value["content"], validate=True), large=False)
    elif key == "lfsFile":
        if value["oid"] not in large_files:
            raise Refusal(400, f"{path}: its content has not been sent")
        files[path] = File(large_files[value["oid"]], large=True)
    elif key in ("deletedFile", "deletedFolder"):
        gone = [each for each in files if each == path or (key == "deletedFolder" and each.startswith(f"{path}/"))]
        if not gone:
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for each in gone:
            del files[each]
    elif key != "header":
        raise Refusal(400, f"unknown key {key!r} in a commit")
