"""The routes: what each address of the Hub answers."""

import base64
import gzip
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

from .repositories import Commit, Refusal, Repository, change

if TYPE_CHECKING:
    from . import Hub

LARGE = re.compile(r"\.(parquet|arrow|safetensors|bin|png|jpg|zip|pt|onnx)$")
LARGE_BYTES = 10_000_000
KINDS = {"models": "", "datasets": "datasets/"}
REPO = r"(?P<kind>models|datasets)/(?P<repo>[\w.-]+/[\w.-]+|[\w.-]+)"
ROUTES: list[tuple[str, re.Pattern, str]] = []


def route(method: str, pattern: str):
    def add(function):
        ROUTES.append((method, re.compile(pattern.replace("REPO", REPO) + "$"), function.__name__))
        return function

    return add


class Routes(BaseHTTPRequestHandler):
    """Answers requests; every route returns JSON-ready values, or sends its answer itself and returns None."""

    hub: "Hub"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or answers in two parts wait for each other

    # Requests and answers --------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        self.body = self.read_body()
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        # `/someone/name/...` is `/models/someone/name/...` where no kind is named
        path = url.path if re.match("/(api|datasets|storage)/", url.path) else "/models" + url.path
        with self.hub.lock:
            asked = f"{self.command} {unquote(self.path)}"
            failure = next((each for each in self.hub.failures if each.meets(asked)), None)
        try:
            if failure is not None and failure.status:
                self.send(failure.status, b'{"error": "on demand"}')
            elif failure is not None and not failure.after:
                self.record(0)
                self.drop()
            else:
                self.cut = failure.after if failure is not None else None
                self.answer(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def answer(self, path: str) -> None:
        for method, pattern, name in ROUTES:
            match = pattern.match(path)
            if match and method in (self.command, "GET" if self.command == "HEAD" else ""):
                parts = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                try:
                    with self.hub.lock:
                        value = getattr(self, name)(**parts)
                except Refusal as refusal:
                    headers = {"X-Error-Code": refusal.code} if refusal.code else {}
                    headers["X-Error-Message"] = str(refusal)
                    return self.send(refusal.status, json.dumps({"error": str(refusal)}).encode(), headers)
                return None if value is None else self.send(200, json.dumps(value).encode())
        return self.send(404, b'{"error": "the stand-in has no such route"}')

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(chunks)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.record(status)
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut, self.cut = getattr(self, "cut", None), None
        self.wfile.write(content if cut is None else content[:cut])
        if cut is not None:
            self.drop()

    def record(self, status: int) -> None:
        """Before the answer: whoever has that finds the request among those made."""
        self.hub.record(self.command, self.path, status, len(self.body))

    def drop(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    def send_content(self, content: bytes, headers: dict[str, str]) -> None:
        """The content, or the range of it that was asked for."""
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"} | headers
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.send(200, content, headers)
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if start > end:
            return self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self.send(206, content[start : end + 1], headers)

    def log_message(self, *_: Any) -> None:
        pass

    # Rights ----------------------------------------------------------------------------------------------------------

    @property
    def account(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not token:
            return None
        if token not in self.hub.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.accounts[token]

    def repository(self, kind: str, repo: str, write: bool = False, content: bool = False) -> Repository:
        """The repository, if the account may see it, change it (`write`) or read its files (`content`)."""
        found = self.hub.repositories.get((kind, repo))
        if found is None or (found.private and self.account != found.owner):
            raise Refusal(401 if self.account is None else 404, "Repository not found", "RepoNotFound")
        if content and found.gated and self.account not in {found.owner, *found.readers}:
            message = f"Access to {kind} {repo} is restricted."
            raise Refusal(401 if self.account is None else 403, message, "GatedRepo")
        if write and self.account is None:
            raise Refusal(401, "Invalid username or password.")
        if write and self.account != found.owner:
            raise Refusal(403, f"You don't have the rights to change {repo}")
        return found

    # Accounts and repositories ---------------------------------------------------------------------------------------

    @route("GET", "/api/whoami-v2")
    def whoami(self):
        if self.account is None:
            raise Refusal(401, "Invalid username or password.")
        return {"type": "user", "name": self.account, "fullname": self.account, "orgs": [], "auth": {}}

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self):
        header, wrong = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL), []
        try:
            if header and not isinstance(yaml.safe_load(header[1]), dict):
                wrong.append("the header must be a mapping")
        except yaml.YAMLError as error:
            wrong.append(str(error))
        answer = {"errors": [{"message": message} for message in wrong], "warnings": []}
        return self.send(400 if wrong else 200, json.dumps(answer).encode())

    @route("POST", "/api/repos/create")
    def create_repository(self):
        values = json.loads(self.body)
        kind, owner = values.get("type", "model") + "s", values.get("organization") or self.account
        if self.account is None:
            raise Refusal(401, "Invalid username or password.")
        if owner != self.account:
            raise Refusal(403, f"You don't have the rights to create a {kind[:-1]} under the namespace {owner!r}.")
        repo_id = f"{owner}/{values['name']}"
        answer = {"url": f"{self.hub.endpoint}/{KINDS[kind]}{repo_id}", "name": repo_id}
        if (kind, repo_id) in self.hub.repositories:
            return self.send(409, json.dumps(answer | {"error": f"You already created {repo_id}"}).encode())
        self.hub.create(kind, repo_id, private=values.get("visibility") == "private")
        return answer

    @route("DELETE", "/api/repos/delete")
    def delete_repository(self):
        values = json.loads(self.body)
        repo_id = f"{values.get('organization') or self.account}/{values['name']}"
        repository = self.repository(values.get("type", "model") + "s", repo_id, write=True)
        del self.hub.repositories[repository.kind, repository.id]
        return {}

    @route("PUT", "/api/REPO/settings")
    def change_settings(self, kind, repo):
        repository, values = self.repository(kind, repo, write=True), json.loads(self.body)
        repository.gated = values.get("gated", repository.gated)
        if "visibility" in values:
            repository.private = values["visibility"] == "private"
        return {}

    @route("GET", r"/api/REPO(/revision/(?P<revision>[^/]+))?")
    def info(self, kind, repo, revision="main"):
        repository = self.repository(kind, repo)
        commit = repository.resolve(revision)
        card = commit.files.get("README.md")
        header = re.match(rb"---\n(.*?)\n---\n", card.content, re.DOTALL) if card else None
        return {
            "_id": "0" * 24,
            "id": repository.id,
            "author": repository.owner,
            "sha": commit.id,
            "private": repository.private,
            "gated": repository.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": commit.date,
            "cardData": yaml.safe_load(header[1]) if header else {},
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }

    # Revisions and listings ------------------------------------------------------------------------------------------

    @route("GET", "/api/REPO/refs")
    def list_refs(self, kind, repo):
        repository = self.repository(kind, repo)

        def described(names: dict[str, str], prefix: str) -> list[dict]:
            refs = {name: name if name.startswith("refs/") else prefix + name for name in names}
            return [{"name": name, "ref": ref, "targetCommit": names[name]} for name, ref in refs.items()]

        pulls = {name: commit for name, commit in repository.refs.items() if name.startswith("refs/pr/")}
        branches = {name: commit for name, commit in repository.refs.items() if name not in pulls}
        return {
            "branches": described(branches, "refs/heads/"),
            "tags": described(repository.tags, "refs/tags/"),
            "converts": [],
            "pullRequests": described(pulls, ""),
        }

    @route("GET", r"/api/REPO/commits/(?P<revision>[^/]+)")
    def list_commits(self, kind, repo, revision):
        repository, commits = self.repository(kind, repo), []
        commit: Commit | None = repository.resolve(revision)
        while commit is not None:
            authors = [{"user": repository.owner}]
            commits.append(
                {"id": commit.id, "title": commit.title, "message": "", "date": commit.date, "authors": authors}
            )
            commit = repository.commits[commit.parent] if commit.parent else None
        return commits

    @route("POST", r"/api/REPO/(?P<what>branch|tag)/(?P<name>[^/]+)")
    def mark(self, kind, repo, what, name):
        repository, values = self.repository(kind, repo, write=True), json.loads(self.body or b"{}")
        # A branch is named in the address and starts where the body says; of a tag it is the other way round
        start, name = (values.get("startingPoint", "main"), name) if what == "branch" else (name, values["tag"])
        names = repository.refs if what == "branch" else repository.tags
        if name in names:
            raise Refusal(409, f"Reference already exists: {name}")
        names[name] = repository.resolve(start).id
        return {}

    @route("GET", r"/api/REPO/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?")
    def list_tree(self, kind, repo, revision, folder=""):
        files = self.repository(kind, repo).resolve(revision).files
        prefix = folder.strip("/") + "/" if folder.strip("/") else ""
        inside = {path: file for path, file in files.items() if path.startswith(prefix)}
        if prefix and not inside:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        deep = self.query.get("recursive", "").lower() == "true"
        listed = [file.to_dict(path) for path, file in inside.items() if deep or "/" not in path[len(prefix) :]]
        parents = {path[: match.start()] for path in inside for match in re.finditer("/", path)}
        folders = [each for each in parents if each.startswith(prefix) and (deep or "/" not in each[len(prefix) :])]
        listed += [describe_folder(each) for each in folders]
        return sorted(listed, key=lambda entry: entry["path"])

    @route("POST", r"/api/REPO/paths-info/(?P<revision>[^/]+)")
    def paths_info(self, kind, repo, revision):
        files = self.repository(kind, repo).resolve(revision).files
        as_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(self.body)["paths"] if as_json else parse_qs(self.body.decode())["paths"]
        asked = [path.strip("/") for path in asked]
        found = [files[path].to_dict(path) for path in asked if path in files]
        folders = [path for path in asked if path not in files and any(each.startswith(f"{path}/") for each in files)]
        return found + [describe_folder(path) for path in folders]

    # Sending ---------------------------------------------------------------------------------------------------------

    @route("POST", r"/api/REPO/preupload/(?P<revision>[^/]+)")
    def preupload(self, kind, repo, revision):
        repository = self.repository(kind, repo, write="create_pr" not in self.query)
        files = repository.resolve(revision).files
        answers = []
        for asked in json.loads(self.body)["files"]:
            path, old = asked["path"], files.get(asked["path"])
            binary = b"\0" in base64.b64decode(asked["sample"])
            large = bool(LARGE.search(path)) or binary or asked["size"] > LARGE_BYTES
            answers.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False})
            answers[-1]["oid"] = old.etag if old is not None else None
        return {"files": answers}

    @route("POST", r"/REPO\.git/info/lfs/objects/batch")
    def large_file_batch(self, kind, repo):
        repository, answers = self.repository(kind, repo), []
        if self.account is None:  # others may send, too: for a pull request
            raise Refusal(401, "Invalid username or password.")
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in repository.large_files:
                place = f"{self.hub.storage}/storage/{kind}/{quote(repo, '')}/{asked['oid']}"
                verify = f"{self.hub.endpoint}/api/{kind}/{repo}/verify"
                answer["actions"] = {"upload": {"href": place}, "verify": {"href": verify}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    @route("PUT", r"/storage/(?P<kind>\w+)/(?P<repo>[^/]+)/(?P<oid>[0-9a-f]{64})")
    def store(self, kind, repo, oid):
        if "Authorization" in self.headers:
            raise Refusal(400, "the storage must not see tokens")
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "the content is not what its sha256 says")
        self.hub.repositories[kind, repo].large_files[oid] = self.body
        return {}

    @route("GET", r"/storage/(?P<kind>\w+)/(?P<repo>[^/]+)/(?P<oid>[0-9a-f]{64})")
    def fetch(self, kind, repo, oid):
        if "Authorization" in self.headers:
            raise Refusal(400, "the storage must not see tokens")
        self.send_content(self.hub.repositories[kind, repo].large_files[oid], {"ETag": f'"{oid}"'})

    @route("POST", "/api/REPO/verify")
    def verify(self, kind, repo):
        values = json.loads(self.body)
        stored = self.repository(kind, repo).large_files.get(values["oid"])
        if stored is None or len(stored) != values["size"]:
            raise Refusal(404, f"{values['oid']} has not come whole")
        return {}

    @route("POST", r"/api/REPO/commit/(?P<revision>[^/]+)")
    def make_commit(self, kind, repo, revision):
        as_pull = "create_pr" in self.query
        repository = self.repository(kind, repo, write=not as_pull)
        if self.account is None:
            raise Refusal(401, "Invalid username or password.")
        parent = repository.resolve(revision)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, parent.id):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for line in lines:
            change(files, line["key"], line["value"], repository.large_files)
        pulls = 1 + sum(name.startswith("refs/pr/") for name in repository.refs)
        ref = f"refs/pr/{pulls}" if as_pull else revision
        commit = repository.commit(files, header["summary"], ref, parent.id)
        page = f"{self.hub.endpoint}/{KINDS[kind]}{repo}"
        answer = {"success": True, "commitOid": commit.id, "commitUrl": f"{page}/commit/{commit.id}"}
        return answer | ({"pullRequestUrl": f"{page}/discussions/{pulls}"} if as_pull else {})

    # Receiving -------------------------------------------------------------------------------------------------------

    @route("GET", r"/REPO/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def read(self, kind, repo, revision, path):
        commit = self.repository(kind, repo, content=True).resolve(revision)
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        file = commit.files.get(path)
        if file is None:
            return self.send(404, b'{"error": "Entry not found"}', headers | {"X-Error-Code": "EntryNotFound"})
        headers["ETag"] = f'"{file.etag}"'
        if not file.large:
            return self.send_content(file.content, headers)
        headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        headers["Location"] = f"{self.hub.storage}/storage/{kind}/{quote(repo, '')}/{file.sha256}"
        return self.send(302, b"", headers)


def describe_folder(path: str) -> dict[str, str]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()}
