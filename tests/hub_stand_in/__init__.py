"""
A Hub on this machine: the routes of huggingface.co that huggingface_hub, datasets and transformers use, in memory.

It checks what it is sent as the Hub does (rights, sha256 of large files, parents of commits, byte ranges), remembers
every request, and fails on demand. It imports the standard library and PyYAML alone, because the address must be
known before the Hugging Face libraries are imported, see `tests/conftest.py`.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import Any

from .repositories import File, Repository
from .routes import Routes

OWNER, STRANGER = "hf_owner", "hf_stranger"  # tokens of the accounts `someone` and `stranger`


@dataclass
class Failure:
    """
    Of the requests that match, the first `skip` are answered; the next `times` end with `status`, where 0 drops the
    connection after `after` bytes.
    """

    pattern: str
    status: int
    times: int = 1000
    skip: int = 0
    after: int = 0

    def meets(self, request: str) -> bool:
        """Whether the request, "METHOD path", must fail; counts it."""
        if self.times == 0 or not re.search(self.pattern, request):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass
class Request:
    """What was asked; `size` counts the bytes sent along."""

    method: str
    path: str
    status: int
    size: int


class Hub:
    """
    The Hub. Its address is taken at once, and answers from `start` on: until then, connections are refused.

    Attributes:
        endpoint: What belongs into `HF_ENDPOINT`.
        accounts: Names by token.
        repositories: By ("datasets" or "models", id).
        requests: All requests so far.
    """

    def __init__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Routes", (Routes,), {"hub": self}), False)
        self.server.daemon_threads = True
        self.server.server_bind()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        # Large files come from another host, as from the Hub: clients must not send it their token
        self.storage = f"http://localhost:{self.server.server_port}"
        self.lock = threading.RLock()
        self.thread: threading.Thread | None = None
        self.reset()

    def start(self) -> None:
        if self.thread is None:
            self.server.server_activate()
            self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
            self.thread.start()

    def reset(self) -> None:
        """Forgets everything."""
        self.accounts = {OWNER: "someone", STRANGER: "stranger"}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.failures: list[Failure] = []

    def create(self, kind: str, repo_id: str, **settings: Any) -> Repository:
        repository = Repository(kind, repo_id, **settings)
        attributes = File(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n", large=False)
        repository.commit({".gitattributes": attributes}, "initial commit")
        self.repositories[kind, repo_id] = repository
        return repository

    def dataset(self, repo_id: str) -> Repository:
        return self.repositories["datasets", repo_id]

    def model(self, repo_id: str) -> Repository:
        return self.repositories["models", repo_id]

    def record(self, *request: Any) -> None:
        self.requests.append(Request(*request))

    @contextmanager
    def failing(self, pattern: str, status: int = 500, **settings: int) -> Iterator[Failure]:
        """Inside, requests whose "METHOD path" matches `pattern` fail; see [`Failure`]."""
        failure = Failure(pattern, status, **settings)
        self.failures.append(failure)
        try:
            yield failure
        finally:
            self.failures.remove(failure)

    @contextmanager
    def recording(self) -> Iterator[list[Request]]:
        """The requests made inside."""
        seen: list[Request] = []
        start = len(self.requests)
        try:
            yield seen
        finally:
            seen += self.requests[start:]


HUB = Hub()  # one a process
