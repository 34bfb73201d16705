"""Sending one HTTP request and reading its response: the only file that imports the HTTP client.

1. A request whose outcome is lost is never sent again here; what became of it is said by the error.
2. No connection, cookie or credential outlives its request.
"""

from __future__ import annotations

import asyncio
import json as json_module
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import httpx

from .errors import BadArguments, CallFailed, CallInDoubt, CallTimeout, CapabilityNotGranted, NotPerformed, TooLarge
from .values import MAX_DEPTH, NotPlain, encode

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from .base import Effect
    from .http import Asked, HttpOptions

__all__ = ["perform"]

#: Seconds to connect, names included: a host that is there answers in one or two round trips.
CONNECT_TIMEOUT: Final = 10.0
#: Bytes above which a body is read into JSON or text beside the event loop: below, the thread costs more.
_LARGE: Final = 256 << 10

#: Headers that belong to the connection or to the host's own bookkeeping.
_OURS: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"}
    | {"proxy-authorization", "proxy-connection", "idempotency-key"}
)
_TEXTUAL: Final = re.compile(r"text/.*|.*[/+](json|xml|javascript|yaml|x-www-form-urlencoded|x-ndjson|csv|toml|sql)")


async def perform(options: HttpOptions, effect: Effect, asked: Asked, key: str) -> dict[str, Any]:
    """Send a request under these options; returns the reply. Raises the errors of capability calls."""
    what = f"{asked.method} {asked.url}"
    limit = min(asked.timeout or options.timeout, options.timeout)
    # A connection is made for each request: one kept open may be closed by the other side just as it is used, and
    # nobody could then say whether the request was performed; nor is anything shared between two sessions.
    timeouts = httpx.Timeout(None, connect=min(CONNECT_TIMEOUT, limit))
    client = httpx.AsyncClient(verify=_tls(), trust_env=False, timeout=timeouts, headers={"User-Agent": "perdure"})
    answered = False
    try:
        async with asyncio.timeout(limit), client:
            request = _build(client, asked, key)
            for _ in range(options.max_redirects + 1):
                _allow(options, request.url)
                response = await client.send(request, stream=True)
                answered = True
                try:
                    following = response.next_request if asked.redirects else None
                    if following is None:
                        return await _read(response, options.max_body)
                finally:
                    await response.aclose()
                request = following
    except httpx.LocalProtocolError as error:
        raise BadArguments(f"{what}: {error}") from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        if not answered:
            raise NotPerformed(f"{what}: no connection ({_say(error)})") from None
        raise _broken(effect, what, error) from None
    except TimeoutError:
        raise CallTimeout(f"{what}: no whole response within {limit:g} s") from None
    except httpx.TransportError as error:
        raise _broken(effect, what, error) from None
    except httpx.HTTPError as error:
        raise CallFailed(f"{what}: the response cannot be read ({error})") from None
    raise CallFailed(f"{what}: more than {options.max_redirects} redirects")


def _broken(effect: Effect, what: str, error: Exception) -> Exception:
    text = f"{what}: the connection broke before the response was whole ({_say(error)})"
    # The policy tries again what a ConnectionError ended, where the effect allows it.
    return ConnectionError(text) if effect == "repeat" else CallInDoubt(f"{text}; it may have been performed")


def _say(error: Exception) -> str:
    return str(error) or type(error).__name__


def _build(client: httpx.AsyncClient, asked: Asked, key: str) -> httpx.Request:
    headers: Mapping[str, str] = asked.headers or {}
    for each in headers:
        if each.lower() in _OURS:
            raise BadArguments(f"the header {each} is set by the host; leave it out")
    if asked.json is not None and asked.data is not None:
        raise BadArguments("give json or data, not both")
    form = asked.data if isinstance(asked.data, dict) else None
    raw = None if form is not None else asked.data
    try:
        url = httpx.URL(asked.url)
        return client.build_request(
            asked.method,
            url if asked.params is None else url.copy_merge_params(asked.params),
            headers={**headers, "Idempotency-Key": key},
            json=asked.json,
            content=raw if isinstance(raw, (str, bytes)) else None,
            data=form,
        )
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise BadArguments(f"{asked.method} {asked.url}: {error}") from None


def _allow(options: HttpOptions, url: httpx.URL) -> None:
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadArguments(f"{url} is not an address of HTTP: it begins with http:// or https:// and names a host")
    if not options.allows(url):
        raise CapabilityNotGranted(f"{url.host} is not among the hosts granted: {', '.join(options.hosts or ())}")


async def _read(response: httpx.Response, limit: int) -> dict[str, Any]:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > limit:
            raise TooLarge(
                f"the response of {response.url} is larger than {limit} bytes",
                {"status": response.status_code, "limit": limit},
            )
    if len(body) > _LARGE:
        return await asyncio.to_thread(_reply, response, bytes(body))
    return _reply(response, bytes(body))


def _reply(response: httpx.Response, body: bytes) -> dict[str, Any]:
    reply: dict[str, Any] = {
        "status": response.status_code,
        "url": str(response.url),
        "headers": dict(response.headers),
    }
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind or response.charset_encoding or _TEXTUAL.fullmatch(kind):
        try:
            reply["text"] = body.decode(response.charset_encoding or "utf-8")
        except (UnicodeDecodeError, LookupError):
            reply["content"] = body
    else:
        reply["content"] = body
    if re.fullmatch(r".*[/+]json", kind):
        try:
            reply["json"] = _parse(body)
        except (ValueError, RecursionError, NotPlain):
            pass  # it says that it is JSON, and is not (or too deep): its text is there
    return reply


def _parse(body: bytes) -> Any:
    value = json_module.loads(body)
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH - 2:
        encode(value, max_depth=MAX_DEPTH - 1)  # as deep as it will be inside the reply
    return value


@cache
def _tls() -> ssl.SSLContext:
    # Reading the certificates takes longer than a request; the context is made for sharing.
    return httpx.create_ssl_context(trust_env=False)
