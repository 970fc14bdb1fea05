"""The server of the page: uvicorn with bounds that it has not by itself."""

import asyncio
import socket
import threading

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from .guard import Guard, patience

MAX_CONNECTIONS = 200


class PageServer:
    """
    Serves an application in a thread, from its making on.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on.

    Raises:
        ValueError: This machine has no such address, or the port is taken or not allowed.
    """

    def __init__(self, app: ASGIApp, host: str, port: int):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ValueError(f"Cannot listen on {host}, port {port}: {reason}. Choose another port or host.") from None
        self.port = port
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        config = uvicorn.Config(
            Guard(app, host),
            http=_Protocol,
            ws="none",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=1,
            log_level="critical",  # it would quote what was asked; the guard logs failures
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Returns when Ctrl+C or SIGTERM has ended it; the signal then does what it does otherwise."""
        with self._server.capture_signals():
            while self._thread.is_alive():
                self._thread.join(0.2)

    def close(self) -> None:
        """Ends it, and frees the port."""
        self._server.should_exit = True
        self._thread.join()


class _Protocol(H11Protocol):
    """
    Leaves clients that are too slow: uvicorn itself waits without end for a request's headers, and for an answer to be
    read. The headers' size is bounded by h11.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def on_response_complete(self) -> None:
        self._await_request()
        super().on_response_complete()

    def _await_request(self) -> None:
        self.loop.call_later(patience(0), self._leave, self.cycle)

    def _leave(self, last_request: object) -> None:
        if self.cycle is last_request:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        seconds = patience(self.transport.get_write_buffer_size())
        self._to_be_read = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._to_be_read.cancel()
