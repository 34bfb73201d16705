"""HTTP requests, made by the host: code has no network of its own.

1. Every request carries ``Idempotency-Key``, the same however often it is made again; code cannot choose it.
2. What surely was not sent is NotPerformed; what may have been is never repeated unless its effect says so.
3. Nothing of the host is lent: no proxy, credential or cookie of its environment, and no state between two requests.

``http`` reaches any host the worker reaches, those of its own network too. For less, make capabilities of your own
with ``http("billing", HttpOptions(hosts=("api.example.com",)))`` and grant these instead.
"""

from __future__ import annotations

import asyncio
import json as json_module
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final

import httpx
from pydantic import Field

from .base import Capability, Effect, capability
from .errors import BadArguments, CallFailed, CallInDoubt, CallTimeout, CapabilityNotGranted, NotPerformed, TooLarge
from .values import MAX_DEPTH, NotPlain, encode

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

__all__ = ["HTTP", "MAX_BODY", "HttpOptions", "http"]

#: Bytes of a response (unpacked) that are kept: what is larger is a file, and belongs into a capability of its own.
MAX_BODY: Final = 10 << 20
#: Redirects that are followed: twice what browsers' users ever see, and half of where browsers give up.
MAX_REDIRECTS: Final = 10
#: Seconds for a whole request, redirects included.
TIMEOUT: Final = 50.0
#: Seconds that the capability allows beyond it, so that the request's own, more telling error comes first.
_SLACK: Final = 10.0
#: Seconds to connect, names included: a host that is there answers in one or two round trips.
CONNECT_TIMEOUT: Final = 10.0
#: Bytes above which a body is read into JSON or text beside the event loop: below, the thread costs more.
_LARGE: Final = 256 << 10

#: Headers that belong to the connection or to the host's own bookkeeping.
_OURS: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"}
    | {"proxy-authorization", "proxy-connection", "idempotency-key"}
)
_METHOD: Final = re.compile(r"[A-Za-z]{1,20}")
_TEXTUAL: Final = re.compile(r"text/.*|.*[/+](json|xml|javascript|yaml|x-www-form-urlencoded|x-ndjson|csv|toml|sql)")

type _Headers = dict[str, str] | None
type _Params = dict[str, str | int | float | bool | list[str | int | float | bool] | None] | None
type _Body = str | bytes | dict[str, str] | None
type _Timeout = Annotated[float, Field(gt=0)] | None


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What a set of HTTP capabilities may reach and receive.

    ``hosts`` None allows any; otherwise ``api.example.com`` (the scheme's usual port), ``127.0.0.1:8000``,
    ``localhost:*`` (any port) or ``*.example.com`` (any name below it). Redirects are held to it too.
    """

    hosts: tuple[str, ...] | None = None
    max_body: int = MAX_BODY
    max_redirects: int = MAX_REDIRECTS
    timeout: float = TIMEOUT

    def allows(self, url: httpx.URL) -> bool:
        """Say whether a request may go there."""
        if self.hosts is None:
            return True
        name = url.raw_host.decode("ascii").lower().rstrip(".")
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        return any(_matches(each.lower(), name, port, usual=url.port is None) for each in self.hosts)


def _matches(pattern: str, name: str, port: int, *, usual: bool) -> bool:
    host, colon, wanted = pattern.rpartition(":")
    if not colon or pattern.endswith("]"):
        host, wanted = pattern, ""
    if not (usual if not wanted else wanted in {"*", str(port)}):
        return False
    host = host.strip("[]")
    return name.endswith(host[1:]) if host.startswith("*.") else name == host


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request as the code asked for it."""

    method: str
    url: str
    headers: _Headers = None
    params: _Params = None
    json: Any = None
    data: _Body = None
    timeout: float | None = None
    redirects: bool = True


def http(name: str, options: HttpOptions | None = None) -> tuple[Capability, ...]:
    """Make ``name.get`` and its sisters under these options; grant the tuple as ``module:attr``."""
    given = options or HttpOptions()
    again, once = "; made again if its outcome is lost", "; if its outcome is lost, the code gets CallInDoubt"
    honours = "POST to a service that honours Idempotency-Key; made again, with the same key, if its outcome is lost"
    return (
        _plain(given, f"{name}.get", "GET", f"GET{again}. {_REPLY}"),
        _plain(given, f"{name}.head", "HEAD", f"HEAD{again}."),
        _plain(given, f"{name}.options", "OPTIONS", f"OPTIONS{again}."),
        _plain(given, f"{name}.delete", "DELETE", f"DELETE{again}. {_REPLY}"),
        _with_body(given, f"{name}.put", "PUT", "repeat", f"PUT{again}. {_REPLY}"),
        _with_body(given, f"{name}.post", "POST", "unknown", f"POST, once{once}. {_REPLY}"),
        _with_body(given, f"{name}.post_idempotent", "POST", "repeat", f"{honours}. {_REPLY}"),
        _with_body(given, f"{name}.patch", "PATCH", "unknown", f"PATCH, once{once}. {_REPLY}"),
        _any_method(given, f"{name}.request", f"Any method, once{once}. {_REPLY}"),
    )


_REPLY = "The reply has status, url, headers, and text or content; json too where it is JSON."


def _plain(options: HttpOptions, name: str, method: str, doc: str) -> Capability:
    async def call(
        url: str,
        *,
        headers: _Headers = None,
        params: _Params = None,
        timeout: _Timeout = None,
        redirects: bool = True,
        key: str,
    ) -> dict[str, Any]:
        asked = _Asked(method, url, headers, params, timeout=timeout, redirects=redirects)
        return await _perform(options, "repeat", asked, key)

    call.__doc__ = doc
    return capability(name, effect="repeat", timeout=options.timeout + _SLACK)(call)


def _with_body(options: HttpOptions, name: str, method: str, effect: Effect, doc: str) -> Capability:
    async def call(
        url: str,
        *,
        json: Any = None,
        data: _Body = None,
        headers: _Headers = None,
        params: _Params = None,
        timeout: _Timeout = None,
        redirects: bool = True,
        key: str,
    ) -> dict[str, Any]:
        asked = _Asked(method, url, headers, params, json, data, timeout, redirects)
        return await _perform(options, effect, asked, key)

    call.__doc__ = doc
    return capability(name, effect=effect, timeout=options.timeout + _SLACK)(call)


def _any_method(options: HttpOptions, name: str, doc: str) -> Capability:
    async def call(  # noqa: PLR0913 - one argument per part of a request
        method: str,
        url: str,
        *,
        json: Any = None,
        data: _Body = None,
        headers: _Headers = None,
        params: _Params = None,
        timeout: _Timeout = None,
        redirects: bool = True,
        key: str,
    ) -> dict[str, Any]:
        if not _METHOD.fullmatch(method):
            raise BadArguments(f"{method!r} is not a method of HTTP")
        asked = _Asked(method.upper(), url, headers, params, json, data, timeout, redirects)
        return await _perform(options, "unknown", asked, key)

    call.__doc__ = doc
    return capability(name, effect="unknown", timeout=options.timeout + _SLACK)(call)


async def _perform(options: HttpOptions, effect: Effect, asked: _Asked, key: str) -> dict[str, Any]:
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


def _build(client: httpx.AsyncClient, asked: _Asked, key: str) -> httpx.Request:
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


#: Everything that the grant ``http`` names.
HTTP: Final = http("http")
