"""
The server as processes: Flower's SuperLink, to which the sites come, and in it our app, which asks them.

A site runs only an app that a key it trusts has signed. Flower's link takes signatures from a hub alone: so there is
one here, on the loopback, with this one app.
"""

import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ..files import write_json
from ..signals import ended_by_signals
from .credentials import CA, CERTIFICATE, CERTIFICATE_KEY, check_certificate, read_signature
from .processes import FEDERATION, environment, flower_home, start, stop
from .recipe import FederatedArguments, SiteSpec

APP = Path(__file__).parent / "app"
CONNECTION = "ark"  # what our file of Flower's connections calls the link
SECONDS_FOR_A_PORT, SECONDS_TO_START, SECONDS_FOR_A_COMMAND, SECONDS_BETWEEN = 10.0, 60.0, 300.0, 60.0


def serve(args: FederatedArguments, sites: Sequence[SiteSpec], credentials: Path, host: str, port: int) -> Path:
    """
    Runs a federation of sites that come over the network; the same call again goes on from the newest master.

    Args:
        sites: With the paths of their public keys.
        credentials: Folder that `ark-hf federate keys` made.
        host: Address to listen at. Whoever reaches it controls the run: let a proxy pass the path /v1/fleet/ alone.

    Returns:
        The folder of the model that is published; with `keep_batch_norm`, where there is none, that of the federation.

    Raises:
        ValueError: The run ended without a model; the message says why.
    """
    for name in (CA, CERTIFICATE):
        check_certificate(credentials / name)
    app = build_app()
    signature = read_signature(app, credentials)
    _check_port(host, port)
    with flower_home(Path(args.output_dir)) as home, ended_by_signals(), hub(app, signature) as address:
        told, log, result = home / "federation.json", home / "server.log", home / "result.json"
        settings = {name: value for name, value in args.to_dict().items() if name != "cycles"}
        listed = [{"name": site.name, "key": str(Path(str(site.key)).resolve())} for site in sites]
        files = {"log": str(log), "result": str(result)}
        names = [site.name for site in sites]
        write_json(told, {"settings": settings, "sites": names, "recipe": {**settings, "sites": listed}, **files})
        log.touch()
        variables = environment(home, FLWR_SUPERGRID_API_URL=address, **{FEDERATION: str(told)})
        with _link(credentials, host, port, home, variables) as link:
            for site in sites:
                _flwr(["supernode", "register", str(site.key), CONNECTION, "--name", site.name], variables)
            run = _flwr(["run", app_spec(), CONNECTION], variables)["run-id"]
            return _follow(link, log, result, lambda: _status(run, variables))


def build_app() -> bytes:
    """The app as Flower ships it: names, a licence, no code."""
    from flwr.cli.build import build_fab_from_disk

    return build_fab_from_disk(APP)


def app_spec() -> str:
    """What Flower calls the app."""
    told = tomllib.loads((APP / "pyproject.toml").read_text(encoding="utf-8"))
    return f"@{told['tool']['flwr']['app']['publisher']}/{told['project']['name']}=={told['project']['version']}"


@contextmanager
def hub(app: bytes, signature: dict[str, Any]) -> Iterator[str]:
    """Serves the app and its signature to our link; the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = {"fab_url": f"{address}/app.fab", "verifications": [signature]}
            self._send(json.dumps(answer).encode(), "application/json")

        def do_GET(self) -> None:
            self._send(app, "application/octet-stream")

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield address
        finally:
            server.shutdown()


@contextmanager
def _link(
    credentials: Path, host: str, port: int, home: Path, variables: dict[str, str]
) -> Iterator[subprocess.Popen]:
    """Flower's SuperLink, and the file by which its commands find it."""
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    address = f"[{near}]:{port}" if ":" in near else f"{near}:{port}"
    certificate = credentials.resolve() / CA
    lines = [
        *("[superlink]", f'default = "{CONNECTION}"', f"[superlink.{CONNECTION}]"),
        *(f'address = "{address}"', f"root-certificates = {json.dumps(str(certificate), ensure_ascii=False)}"),
    ]
    (home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [
        *("flower-superlink", "--host", host, "--port", str(port), "--ssl-ca-certfile", str(certificate)),
        *("--ssl-certfile", str(credentials / CERTIFICATE), "--ssl-keyfile", str(credentials / CERTIFICATE_KEY)),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    ]
    with open(home / "superlink.log", "wb") as log:
        # It keeps nothing that would have to be saved, and its port must be free for its successor
        link = start(command, variables, signal.SIGKILL, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"https://{address}/health", certificate, link, home)
        yield link
    finally:
        stop(link)


def _wait_for(url: str, certificate: Path, link: subprocess.Popen, home: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    end, problem = time.monotonic() + SECONDS_TO_START, "it does not answer"
    while time.monotonic() < end:
        _check_alive(link, home)
        try:
            opener.open(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError) as error:
            problem = str(error)
            time.sleep(0.2)
    raise ValueError(f"The server could not be started at {url}: {problem}")


def _check_alive(link: subprocess.Popen, home: Path) -> None:
    if link.poll() is not None:
        raise ValueError(f"Flower's link has ended; {home / 'superlink.log'} tells why.")


def _check_port(host: str, port: int) -> None:
    """Raises `ValueError` if it cannot be listened to; that of a server that was just killed is free in a moment."""
    end = time.monotonic() + SECONDS_FOR_A_PORT
    while True:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((host, port))
            return
        except OSError as error:
            if time.monotonic() >= end:
                raise ValueError(f"Cannot listen at {host}, port {port}: {error.strerror or error}.") from None
            time.sleep(0.2)


def _flwr(words: list[str], variables: dict[str, str]) -> dict[str, Any]:
    """What a command of Flower's answers; `ValueError` if it fails."""
    try:
        done = subprocess.run(
            ["flwr", *words, "--format", "json"],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS_FOR_A_COMMAND,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"`flwr {' '.join(words)}` did not end in {SECONDS_FOR_A_COMMAND:g} s.") from None
    found = re.search(r"\{.*\}", done.stdout, re.DOTALL)
    answer = json.loads(found[0]) if found else {}
    if not answer.get("success"):
        said = answer.get("error-message") or " ".join(done.stderr.split()) or done.stdout
        raise ValueError(f"`flwr {' '.join(words)}` failed: {said}")
    return answer


def _status(run: str, variables: dict[str, str]) -> str | None:
    """Why a run has ended; None while it goes on."""
    (told,) = _flwr(["list", CONNECTION, "--run-id", run], variables)["runs"]
    if not told["status"].startswith("finished"):
        return None
    return f"{told['status']} ({told['status-details']})"


def _follow(link: subprocess.Popen, log: Path, result: Path, status: Callable[[], str | None]) -> Path:
    """Shows what the app prints, until it has left a result."""
    asked = time.monotonic()
    with open(log, encoding="utf-8", errors="replace", newline="") as shown:
        while True:
            done = result.exists()
            sys.stderr.write(shown.read())
            sys.stderr.flush()
            if done:
                told = json.loads(result.read_text(encoding="utf-8"))
                if "reason" in told:
                    raise ValueError(told["reason"])
                return Path(told["model"])
            _check_alive(link, log.parent)
            if time.monotonic() - asked > SECONDS_BETWEEN:
                why, asked = status(), time.monotonic()
                if why is not None and not result.exists():
                    raise ValueError(f"The server's app ended without a result: {why}.")
            time.sleep(0.5)
