"""What stands between the page and the network: who may ask, for what, how much and how slowly."""

import asyncio
import re
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_MEGABYTES = 100
GRACE, SLOWEST = 20, 2**18  # seconds that every message has, and bytes a second of the rest of it
LONGEST_WAIT = 300  # seconds until an upload is let in

# What the page needs of gradio's many addresses: neither uploads to its folder, nor files, API pages or histories
_READ, _LOGIN = "/gradio_api/component_server/", "/login"
_SERVED = re.compile(r"/|/(favicon\.ico|theme\.css|config)|/(assets|static)/.+")
_POSTS = {
    _READ: (("application/json",), MAX_MEGABYTES * 2**20 * 4 // 3 + 2**16),  # base64, in a little JSON
    _LOGIN: (("application/x-www-form-urlencoded", "multipart/form-data"), 2**14),
}
_MAX_HELD = 3 * _POSTS[_READ][1]  # bytes of all uploads that were let in
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; object-src 'none'; form-action 'none'; "
    "frame-ancestors 'self' https://huggingface.co",  # which shows Spaces in a frame
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def patience(size: int) -> float:
    """Seconds that a client has for so many bytes."""
    return GRACE + size / SLOWEST


def is_this_machine(host: str) -> bool:
    """Whether a name or address that is listened on, or was asked for, can only be this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """
    Lets through what the page needs, and tells the browser to ask no other host and to keep nothing. Uploads are read
    here, so that all of them together are bounded, and the model sees one after another.
    """

    def __init__(self, app: ASGIApp, host: str):
        self._app, self._local = app, is_this_machine(host)
        self._held, self._room, self._turn = 0, asyncio.Condition(), asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in [each for each in headers if each.startswith("access-control-")]:
                    del headers[name]  # gradio lets other sites read the page
                headers.update(_HEADERS)
                if not scope["path"].startswith(("/assets/", "/static/")):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        refusal = _refusal(scope, self._local)
        if refusal is None and scope["method"] == "POST":
            refusal = await self._post(scope, receive, send_guarded)
        elif refusal is None:
            await self._answer(scope, receive, send_guarded)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> PlainTextResponse | None:
        size = int(Headers(scope=scope)["content-length"])
        try:
            async with self._held_back(size):
                body = await _read(receive, size)
                if scope["path"] == _LOGIN:
                    await self._answer(scope, _replay(body, receive), send)
                else:
                    async with self._turn:
                        if not await _has_gone(receive):
                            await self._answer(scope, _replay(body, receive), send)
        except TimeoutError:
            return PlainTextResponse("The connection is too slow, or too many ask", 408, {"Connection": "close"})
        except ConnectionError:  # of a client that has gone, and needs no answer
            pass
        return None

    @asynccontextmanager
    async def _held_back(self, size: int) -> AsyncIterator[None]:
        """Until there is room for an upload, of which nothing is read before."""
        async with self._room:
            async with asyncio.timeout(LONGEST_WAIT):
                await self._room.wait_for(lambda: self._held + size <= _MAX_HELD)
            self._held += size
        try:
            yield
        finally:
            async with self._room:
                self._held -= size
                self._room.notify_all()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            # Where it happened, but not its message: that may quote the request
            print("".join(traceback.format_tb(error.__traceback__)), type(error).__name__, file=sys.stderr)


def _refusal(scope: Scope, local: bool) -> PlainTextResponse | None:
    method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
    if local and not is_this_machine(urlsplit(f"//{headers.get('host', '')}").hostname or ""):
        return PlainTextResponse("This page is for its own machine; a proxy must ask for it by 127.0.0.1", 421)
    if method in ("GET", "HEAD") and _SERVED.fullmatch(path):
        return None
    if method != "POST" or path not in _POSTS:
        return PlainTextResponse("Not found", 404)
    if _is_of_another_site(headers):
        return PlainTextResponse("Only the page itself may ask this", 403)
    kinds, most = _POSTS[path]
    if headers.get("content-type", "").partition(";")[0] not in kinds:  # gradio writes other kinds to disk
        return PlainTextResponse(f"Only {' or '.join(kinds)} is accepted", 415)
    length = headers.get("content-length", "")
    if not (re.fullmatch("[0-9]{1,12}", length) and 0 < int(length) <= most):
        return PlainTextResponse(f"Files of up to {MAX_MEGABYTES} MB are accepted", 413)
    return None


def _is_of_another_site(headers: Headers) -> bool:
    """Whether a browser says so: by `Sec-Fetch-Site`, or, without TLS, by an `Origin` other than the page's."""
    if (site := headers.get("sec-fetch-site")) is not None:
        return site not in ("same-origin", "none")
    own = (headers.get("host"), headers.get("x-forwarded-host"))
    return "origin" in headers and urlsplit(headers["origin"]).netloc not in own


async def _read(receive: Receive, size: int) -> bytes:
    """A message's body; `TimeoutError` if it comes too slowly, `ConnectionError` if the client has gone."""
    start, parts, count = asyncio.get_running_loop().time(), [], 0
    while True:
        async with asyncio.timeout_at(start + patience(count)):
            message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        parts.append(message["body"])
        count += len(message["body"])
        if count > size:  # h11 sees to that; another server might not
            raise ConnectionError
        if not message.get("more_body"):
            return b"".join(parts)


async def _has_gone(receive: Receive) -> bool:
    """Whether the client of a message that was read has left; nothing else comes after it."""
    try:
        async with asyncio.timeout(0.01):
            return (await receive())["type"] == "http.disconnect"
    except TimeoutError:
        return False


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
