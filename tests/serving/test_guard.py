"""What stands before the page: requests of other sites, paths, sizes, and how much is held at once. No gradio."""

import asyncio

import pytest

from ark_hf.serving import guard
from ark_hf.serving.guard import Guard, is_this_machine

READ = "/gradio_api/component_server/"
JSON = {"content-type": "application/json"}


def scope_of(method: str, path: str, headers: dict[str, str]) -> dict:
    pairs = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1:7860", **headers}.items()]
    return {"type": "http", "method": method, "path": path, "query_string": b"", "headers": pairs}


async def status_of(served: Guard, scope: dict, messages: list[dict], pause=None) -> int | None:
    """What the client of a request gets, None if nothing."""
    sent: list[dict] = []

    async def receive():
        if pause is not None:
            await pause()
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    await served(scope, receive, send)
    return sent[0]["status"] if sent else None


async def nothing(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"access-control-allow-origin", b"*")]})
    await send({"type": "http.response.body", "body": b""})


def ask(method: str, path: str, body: bytes = b"{}", listening: str = "127.0.0.1", **headers: str) -> int | None:
    headers = {"content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    messages = [{"type": "http.request", "body": body}]
    return asyncio.run(status_of(Guard(nothing, listening), scope_of(method, path, headers), messages))


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"sec_fetch_site": "same-origin", "origin": "http://127.0.0.1:7860"}, 200),
        ({"origin": "http://127.0.0.1:7860"}, 200),
        ({"origin": "https://ark.hospital.org", "x_forwarded_host": "ark.hospital.org"}, 200),
        ({"sec_fetch_site": "cross-site", "origin": "http://127.0.0.1:7860"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"origin": "http://127.0.0.1:7861"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example:7860", "origin": "http://evil.example:7860"}, 421),  # a name that points here
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": "[::1]:7860", "origin": "http://[::1]:7860"}, 200),
        ({"content_type": "text/plain"}, 415),  # which a form of another site can send
        ({"content_type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_only_the_page_itself_may_ask(headers, status):
    assert ask("POST", READ, **{"content_type": "application/json", **headers}) == status


def test_other_machines_may_be_served_by_any_name():
    assert ask("GET", "/", listening="0.0.0.0", host="ark.example") == 200
    assert [is_this_machine(each) for each in ("localhost", "127.0.0.9", "::1")] == [True] * 3
    assert [is_this_machine(each) for each in ("0.0.0.0", "::", "192.0.2.1", "ark.example", "")] == [False] * 5


def test_no_other_site_may_read_the_page():
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(nothing, "0.0.0.0")(scope_of("GET", "/", {"origin": "https://evil.example"}), None, send))
    assert not [name for name, _ in sent[0]["headers"] if name.startswith(b"access-control")]
    assert ask("OPTIONS", READ, origin="https://evil.example", access_control_request_method="POST") == 404


@pytest.mark.parametrize("length", ["0", "-1", "+5", "1e3", "\u0663", "", str(guard._POSTS[READ][1] + 1), "9" * 5000])
def test_lengths_that_are_none_or_too_large(length):
    # A client that sends without a length says 0 or nothing
    scope = scope_of("POST", READ, {**JSON, "content-length": length})
    assert asyncio.run(status_of(Guard(nothing, "127.0.0.1"), scope, [])) == 413


def test_more_than_was_said_is_not_read():
    scope = scope_of("POST", READ, {**JSON, "content-length": "5"})
    messages = [{"type": "http.request", "body": b"123456", "more_body": True} for _ in range(9)]
    assert asyncio.run(status_of(Guard(nothing, "127.0.0.1"), scope, messages)) is None and len(messages) == 8


def test_uploads_are_held_within_bounds_and_answered_one_after_another(monkeypatch):
    monkeypatch.setattr(guard, "_MAX_HELD", 100)
    held = answering = most_held = most_answering = 0

    async def app(scope, receive, send):
        nonlocal answering, most_answering
        answering += 1
        most_answering = max(most_answering, answering)
        await asyncio.sleep(0.001)
        assert len((await receive())["body"]) == 40
        answering -= 1
        await nothing(scope, receive, send)

    async def client(served):
        nonlocal held, most_held

        async def reads():
            nonlocal held, most_held
            if len(messages) == 4:
                held += 40
                most_held = max(most_held, held)
            await asyncio.sleep(0)

        messages = [{"type": "http.request", "body": bytes(10), "more_body": left > 0} for left in (3, 2, 1, 0)]
        status = await status_of(served, scope_of("POST", READ, {**JSON, "content-length": "40"}), messages, reads)
        held -= 40
        return status

    async def clients():
        served = Guard(app, "127.0.0.1")
        return await asyncio.gather(*(client(served) for _ in range(50)))

    assert asyncio.run(clients()) == [200] * 50
    assert most_held == 80 and most_answering == 1


def test_nothing_is_evaluated_for_who_has_gone():
    async def never(scope, receive, send):
        pytest.fail("nobody reads it")

    scope = scope_of("POST", READ, {**JSON, "content-length": "2"})
    messages = [{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}]
    assert asyncio.run(status_of(Guard(never, "127.0.0.1"), scope, messages)) is None and not messages


def test_who_is_too_slow_or_waits_too_long_is_told(monkeypatch):
    monkeypatch.setattr(guard, "GRACE", 0.05)
    scope = scope_of("POST", READ, {**JSON, "content-length": "500"})
    begun = [{"type": "http.request", "body": b"{", "more_body": True}]
    assert asyncio.run(status_of(Guard(nothing, "127.0.0.1"), scope, begun)) == 408
    monkeypatch.setattr(guard, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(guard, "_MAX_HELD", 499)
    assert asyncio.run(status_of(Guard(nothing, "127.0.0.1"), scope, [])) == 408


def test_a_failure_is_logged_without_what_was_asked(capsys):
    async def fail(scope, receive, send):
        raise KeyError((await receive())["body"])

    served, scope = Guard(fail, "127.0.0.1"), scope_of("POST", READ, {**JSON, "content-length": "8"})
    body = {"type": "http.request", "body": b"JANE_DOE"}
    assert asyncio.run(status_of(served, scope, [body])) is None
    told = capsys.readouterr().err
    assert "KeyError" in told and "test_guard.py" in told and "JANE" not in told
