"""The page's server: slow and boundless clients, paths, and what is left of a real process when it has ended."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ark_hf.serving import guard
from ark_hf.serving.server import PageServer
from tests.conftest import REPOSITORY
from tests.serving.test_page import CHEST, ask, free_port, model, page, pipe, send_to, serve  # noqa: F401

pytestmark = pytest.mark.slow_ci  # real servers and processes

MANY = 64 * 2**20  # bytes: more than all buffers between server and client hold
POST = b"POST /gradio_api/component_server/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.fixture
def server(monkeypatch) -> Iterator[PageServer]:
    """One that answers a GET with more than is read, and has little patience."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": bytes(MANY)})

    monkeypatch.setattr(guard, "GRACE", 0.3)
    monkeypatch.setattr(guard, "SLOWEST", 2**30)
    server = PageServer(app, "127.0.0.1", free_port())
    yield server
    server.close()


def until_the_end(client: socket.socket) -> bytes:
    """What comes before the server ends the connection."""
    client.settimeout(60)
    parts = []
    try:
        while part := client.recv(2**20):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: 127", POST + b"Content-Length: 50\r\n\r\n{"])
def test_a_client_that_stops_sending_is_left(server, sent):
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(sent)
        answer = until_the_end(client)
    assert answer.startswith(b"HTTP/1.1 408") if sent.endswith(b"{") else answer == b""


def test_a_client_that_sends_a_byte_now_and_then_is_left(server):
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(0.05)
        for _ in range(1000):
            try:
                client.sendall(b"G")
                assert client.recv(1) == b""
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it is still waited for")


def test_a_client_that_does_not_read_is_left(server):
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while server._server.server_state.connections or not server._server.server_state.total_requests:
            pass  # until it has been left
        assert 0 < len(until_the_end(client)) < MANY


def test_headers_without_end_are_refused(server):
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        with pytest.raises(ConnectionError):
            client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * MANY)
            client.sendall(bytes(MANY))


def test_more_connections_than_are_served(server, monkeypatch):
    server._server.config.limit_concurrency = 3
    others = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    assert ask(server.port, "GET", "/")[0] == 503
    for each in others:
        each.close()


@pytest.mark.parametrize("root", ["/static/", "/assets/", "/gradio_api/file=", "/"])
def test_no_path_leads_to_other_files(page, root):  # noqa: F811
    above = "../" * 12
    for path in (above, above.replace(".", "%2e"), above.replace("/", "%2f"), "/", "%2f", "file:/", "....//" * 12):
        for name in ("etc/passwd", str(Path(__file__).relative_to("/"))):
            status, text, _ = ask(page.server_port, "GET", f"{root}{path}{name}")
            assert status in (403, 404) and "root:" not in text and "PageServer" not in text, path


def test_ctrl_c_ends_it(server):
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        server.wait()
    with pytest.raises(ConnectionError):
        ask(server.port, "GET", "/")


def test_nothing_is_on_disk_after_the_end(model, tmp_path):  # noqa: F811
    places = [tmp_path / each for each in ("home", "tmp", "work")]
    for each in places:
        each.mkdir()
    port = free_port()
    variables = {"HOME": places[0], "TMPDIR": places[1], "PYTHONPATH": REPOSITORY / "src", "MPLBACKEND": "agg"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    command = [sys.executable, "-m", "ark_hf", "serve", model, "--port", str(port)]
    process = subprocess.Popen(
        command,
        cwd=places[2],
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        first = next(line for line in process.stdout if "The page is at" in line)
        assert f":{port}/" in first
        assert "ark-columns" in send_to(port, "JANE_DOE.png", CHEST)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(POST + b"Content-Length: 5000\r\n\r\n{JANE_DOE")  # and an upload that is under way
            process.terminate()
            rest = process.stdout.read()
        assert process.wait(60) == 128 + signal.SIGTERM and "JANE" not in rest and "Traceback" not in rest
    finally:
        process.kill()
        process.wait()
    assert [str(file) for place in places for file in place.rglob("*") if file.is_file()] == []
