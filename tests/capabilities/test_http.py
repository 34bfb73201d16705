"""http against a real server on loopback: what is sent, what comes back, and what each failure is called."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from perdure.capabilities.base import CallContext
from perdure.capabilities.errors import (
    BadArguments,
    CallFailed,
    CallInDoubt,
    CallTimeout,
    CapabilityNotGranted,
    NotPerformed,
    TooLarge,
)
from perdure.capabilities.http import HTTP, HttpOptions, http
from perdure.capabilities.registry import Registry
from perdure.capabilities.values import decode

pytestmark = pytest.mark.no_blocking

_CONTEXT = CallContext(session="s", execution="s@1", call="s@1:s0.0", attempt=1)


@dataclass
class _Seen:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


type _Answer = Callable[[_Seen], bytes | None]


@dataclass
class _Service:
    """An HTTP server that answers with whatever bytes a test wants, and keeps what it got."""

    answer: _Answer = lambda _seen: _response(b"ok")
    seen: list[_Seen] = field(default_factory=list)
    url: str = ""
    port: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            method, target, _ = first.split(" ")
            seen = _Seen(method, target, headers, body)
            self.seen.append(seen)
            raw = self.answer(seen)
            if raw is None:
                await self.hold.wait()
            else:
                writer.write(raw)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _response(body: bytes, kind: str = "text/plain", status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def _redirect(to: str, status: str = "302 Found") -> bytes:
    return _response(b"", status=status, more=f"Location: {to}\r\n")


@asynccontextmanager
async def _serving() -> AsyncIterator[_Service]:
    service = _Service()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    service.port = server.sockets[0].getsockname()[1]
    service.url = f"http://127.0.0.1:{service.port}"
    try:
        yield service
    finally:
        service.hold.set()
        server.close()
        await server.wait_closed()


@pytest.fixture
async def service() -> AsyncIterator[_Service]:
    async with _serving() as running:
        yield running


_REGISTRY = Registry(HTTP)


def _call(
    name: str, *args: Any, registry: Registry = _REGISTRY, key: str = "key-1", **kwargs: Any
) -> Coroutine[Any, Any, Any]:
    bound = registry.get(name).bind(args, kwargs)
    handler = bound.capability.handler
    assert handler is not None

    async def run() -> Any:
        return decode(bound.capability.reply(await handler(**bound.injected(key=key, ctx=_CONTEXT))))

    return run()


async def test_a_request_carries_the_host_s_key_and_what_was_asked(service: _Service) -> None:
    reply = await _call(
        "http.post", service.url + "/a?x=1", json={"n": 1}, params={"y": [1, 2]}, headers={"X-Own": "v"}, key="k-7"
    )
    assert reply["status"] == 200
    assert reply["text"] == "ok"
    (seen,) = service.seen
    assert (seen.method, seen.target) == ("POST", "/a?x=1&y=1&y=2")
    assert json.loads(seen.body) == {"n": 1}
    assert seen.headers["idempotency-key"] == "k-7"
    assert seen.headers["x-own"] == "v"


@pytest.mark.parametrize(
    "name, method, effect",
    [
        ("get", "GET", "repeat"),
        ("head", "HEAD", "repeat"),
        ("options", "OPTIONS", "repeat"),
        ("put", "PUT", "repeat"),
        ("delete", "DELETE", "repeat"),
        ("post", "POST", "unknown"),
        ("post_idempotent", "POST", "repeat"),
        ("patch", "PATCH", "unknown"),
    ],
)
async def test_each_method_and_its_effect(service: _Service, name: str, method: str, effect: str) -> None:
    if method == "HEAD":
        service.answer = lambda _seen: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert (await _call(f"http.{name}", service.url))["status"] == 200
    assert service.seen[0].method == method
    assert service.seen[0].headers["idempotency-key"] == "key-1"
    assert _REGISTRY.get(f"http.{name}").effect == effect


async def test_any_method_is_asked_for_once(service: _Service) -> None:
    await _call("http.request", "report", service.url)
    assert service.seen[0].method == "REPORT"
    assert _REGISTRY.get("http.request").effect == "unknown"
    with pytest.raises(BadArguments, match="not a method"):
        await _call("http.request", "GE T", service.url)


async def test_data_as_text_bytes_and_form(service: _Service) -> None:
    await _call("http.put", service.url, data="é")
    await _call("http.put", service.url, data=b"\x00\xff")
    await _call("http.post", service.url, data={"a": "1 2"})
    assert [each.body for each in service.seen] == ["é".encode(), b"\x00\xff", b"a=1+2"]
    assert service.seen[2].headers["content-type"] == "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    "body, kind, has",
    [
        (b'{"a": [1, NaN]}', "application/json", {"text", "json"}),
        (b'{"a": 1}', "application/problem+json; charset=utf-8", {"text", "json"}),
        (b"{broken", "application/json", {"text"}),
        (b"[" * 99 + b"]" * 99, "application/json", {"text", "json"}),
        (b"[" * 100 + b"]" * 100, "application/json", {"text"}),
        (b"[" * 9000 + b"]" * 9000, "application/json", {"text"}),
        (b"a,b", "text/csv", {"text"}),
        (b"\xff\xfe", "text/plain", {"content"}),
        (b"\xe9", "text/plain; charset=latin-1", {"text"}),
        (b"e", "text/plain; charset=nonsense", {"content"}),
        (b"plain letters", "application/octet-stream", {"content"}),
        (b'["\\ud800"]', "application/json", {"text", "json"}),
        (b'{"a": "%s"}' % (b"x" * 400_000), "application/json", {"text", "json"}),
        (b"", "text/plain", {"text"}),
    ],
)
async def test_the_body_comes_as_its_type_says(service: _Service, body: bytes, kind: str, has: set[str]) -> None:
    service.answer = lambda _seen: _response(body, kind, more="X-Two: a\r\nX-Two: b\r\n")
    reply = await _call("http.get", service.url)
    assert reply.keys() - {"status", "url", "headers"} == has
    assert reply["headers"]["x-two"] == "a, b"
    if "content" in has:
        assert reply["content"] == body


async def test_a_status_is_a_reply_and_not_an_error(service: _Service) -> None:
    service.answer = lambda _seen: _response(b"gone", status="503 Unavailable")
    assert (await _call("http.post", service.url))["status"] == 503
    assert len(service.seen) == 1


async def test_a_body_over_the_limit_is_named(service: _Service) -> None:
    registry = Registry(http("small", HttpOptions(max_body=1000)))
    service.answer = lambda _seen: _response(b"x" * 1000)
    assert len((await _call("small.get", service.url, registry=registry))["text"]) == 1000
    service.answer = lambda _seen: _response(b"x" * 1001)
    with pytest.raises(TooLarge, match="larger than 1000 bytes") as caught:
        await _call("small.get", service.url, registry=registry)
    assert caught.value.data == {"status": 200, "limit": 1000}
    packed = gzip.compress(b"x" * 50_000)
    assert len(packed) < 1000
    service.answer = lambda _seen: _response(packed, more="Content-Encoding: gzip\r\n")
    with pytest.raises(TooLarge):
        await _call("small.get", service.url, registry=registry)


async def test_no_connection_is_not_performed() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for name in ("http.get", "http.post"):
            with pytest.raises(NotPerformed, match="no connection"):
                await _call(name, url)


@pytest.mark.parametrize("half", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"])
async def test_a_connection_that_breaks_leaves_a_post_in_doubt(service: _Service, half: bytes) -> None:
    service.answer = lambda _seen: half
    with pytest.raises(CallInDoubt, match="may have been performed"):
        await _call("http.post", service.url)
    for name in ("http.get", "http.post_idempotent"):
        with pytest.raises(ConnectionError, match="the connection broke"):
            await _call(name, service.url)


async def test_no_response_in_time_is_a_timeout(service: _Service) -> None:
    service.answer = lambda _seen: None
    with pytest.raises(CallTimeout, match=r"within 0\.2 s"):
        await _call("http.get", service.url, timeout=0.2)


async def test_a_longer_timeout_than_the_options_allow_is_cut(service: _Service) -> None:
    service.answer = lambda _seen: None
    registry = Registry(http("quick", HttpOptions(timeout=0.1)))
    with pytest.raises(CallTimeout, match=r"within 0\.1 s"):
        await _call("quick.post", service.url, registry=registry, timeout=100)
    assert registry.get("quick.post").timeout == pytest.approx(10.1)


async def test_a_response_that_cannot_be_unpacked_has_failed(service: _Service) -> None:
    service.answer = lambda _seen: _response(b"not gzip", more="Content-Encoding: gzip\r\n")
    with pytest.raises(CallFailed, match="cannot be read"):
        await _call("http.post", service.url)


# --- redirects and hosts


async def test_redirects_are_followed_unless_refused(service: _Service) -> None:
    service.answer = lambda seen: _redirect("/end", "303 See Other") if seen.target == "/start" else _response(b"end")
    reply = await _call("http.post", service.url + "/start", json=1)
    assert (reply["text"], reply["url"]) == ("end", service.url + "/end")
    assert [each.method for each in service.seen] == ["POST", "GET"]
    reply = await _call("http.get", service.url + "/start", redirects=False)
    assert (reply["status"], reply["headers"]["location"]) == (303, "/end")


async def test_redirects_are_bounded(service: _Service) -> None:
    service.answer = lambda _seen: _redirect("/again")
    with pytest.raises(CallFailed, match="more than 10 redirects"):
        await _call("http.get", service.url)
    assert len(service.seen) == 11


async def test_a_redirect_to_where_nobody_is_does_not_undo_what_was_answered(service: _Service) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        service.answer = lambda _seen: _redirect(f"http://127.0.0.1:{port}/", "303 See Other")
        with pytest.raises(CallInDoubt):
            await _call("http.post", service.url)


async def test_a_redirect_cannot_leave_the_hosts_granted(service: _Service) -> None:
    async with _serving() as other:
        registry = Registry(http("own", HttpOptions(hosts=(f"127.0.0.1:{service.port}",))))
        service.answer = lambda _seen: _redirect(other.url)
        with pytest.raises(CapabilityNotGranted, match="not among the hosts granted"):
            await _call("own.get", service.url, registry=registry)
        assert other.seen == []
        with pytest.raises(CapabilityNotGranted):
            await _call("own.get", other.url, registry=registry)
        assert other.seen == []


@pytest.mark.parametrize(
    "pattern, url, allowed",
    [
        ("api.example.com", "https://api.example.com/x", True),
        ("api.example.com", "https://API.example.com./x", True),
        ("api.example.com", "http://api.example.com:443/x", False),
        ("api.example.com", "https://api.example.com:8443/x", False),
        ("api.example.com:8443", "https://api.example.com:8443/x", True),
        ("api.example.com:443", "https://api.example.com/x", True),
        ("api.example.com:*", "https://api.example.com:1/x", True),
        ("api.example.com", "https://api.example.com.evil.org/", False),
        ("api.example.com", "https://api.example.com@evil.org/", False),
        ("*.example.com", "https://a.b.example.com/", True),
        ("*.example.com", "https://example.com/", False),
        ("*.example.com", "https://evilexample.com/", False),
        ("[::1]", "http://[::1]/", True),
        ("[::1]:8000", "http://[::1]:8000/", True),
        ("[::1]:8000", "http://[::1]:8001/", False),
        ("münchen.de", "https://münchen.de/", False),
        ("xn--mnchen-3ya.de", "https://münchen.de/", True),
    ],
)
def test_which_hosts_a_pattern_allows(pattern: str, url: str, *, allowed: bool) -> None:
    assert HttpOptions(hosts=(pattern,)).allows(httpx.URL(url)) is allowed


# --- what the code cannot do


@pytest.mark.parametrize(
    "kwargs, says",
    [
        ({"headers": {"Host": "internal"}}, "set by the host"),
        ({"headers": {"idempotency-key": "mine"}}, "set by the host"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "set by the host"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "X-A|header"),
        ({"headers": {"X A": "a"}}, "header"),
        ({"headers": {"X-A": "\ud800"}}, "unicode|surrogate|codec"),
        ({"json": 1, "data": "x"}, "not both"),
        ({"json": {"when": {1, 2}}}, "JSON"),
        ({"timeout": 0}, "greater than 0"),
        ({"verify": False}, "unexpected keyword"),
        ({"key": "mine"}, "unexpected keyword"),
    ],
)
async def test_what_no_request_can_ask_for(service: _Service, kwargs: dict[str, Any], says: str) -> None:
    async def call() -> None:
        bound = _REGISTRY.get("http.post").bind([service.url], kwargs)
        assert bound.capability.handler is not None
        await bound.capability.handler(**bound.injected(key="k", ctx=_CONTEXT))

    with pytest.raises(BadArguments, match=says):
        await call()
    assert service.seen == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/", "/relative", "http://", "nonsense", "http://x:y/"])
async def test_what_is_no_address(url: str) -> None:
    with pytest.raises(BadArguments):
        await _call("http.get", url)


async def test_neither_proxies_nor_credentials_of_the_host_are_lent(
    service: _Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await _call("http.get", service.url))["status"] == 200
    assert "authorization" not in service.seen[0].headers


async def test_no_cookie_goes_from_one_request_to_the_next(service: _Service) -> None:
    service.answer = lambda _seen: _response(b"", more="Set-Cookie: a=b\r\n")
    await _call("http.get", service.url)
    await _call("http.get", service.url)
    assert "cookie" not in service.seen[1].headers
