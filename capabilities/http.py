"""HTTP requests, made by the host: code has no network of its own.

1. Every request carries ``Idempotency-Key``, the same however often it is made again; code cannot choose it.
2. What surely was not sent is NotPerformed; what may have been is never repeated unless its effect says so.
3. Nothing of the host is lent: no proxy, credential or cookie of its environment, and no state between two requests.

``http`` reaches any host the worker reaches, those of its own network too. For less, make capabilities of your own
with ``http("billing", HttpOptions(hosts=("api.example.com",)))`` and grant these instead.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from .base import Capability, Effect, capability
from .errors import BadArguments

if TYPE_CHECKING:
    import httpx

__all__ = ["HTTP", "MAX_BODY", "Asked", "HttpOptions", "http"]

#: Bytes of a response (unpacked) that are kept: what is larger is a file, and belongs into a capability of its own.
MAX_BODY: Final = 10 << 20
#: Redirects that are followed: twice what browsers' users ever see, and half of where browsers give up.
MAX_REDIRECTS: Final = 10
#: Seconds for a whole request, redirects included.
TIMEOUT: Final = 50.0
#: Seconds that the capability allows beyond it, so that the request's own, more telling error comes first.
_SLACK: Final = 10.0
_METHOD: Final = re.compile(r"[A-Za-z]{1,20}")

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
class Asked:
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
        asked = Asked(method, url, headers, params, timeout=timeout, redirects=redirects)
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
        asked = Asked(method, url, headers, params, json, data, timeout, redirects)
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
        asked = Asked(method.upper(), url, headers, params, json, data, timeout, redirects)
        return await _perform(options, "unknown", asked, key)

    call.__doc__ = doc
    return capability(name, effect="unknown", timeout=options.timeout + _SLACK)(call)


async def _perform(options: HttpOptions, effect: Effect, asked: Asked, key: str) -> dict[str, Any]:
    # Loaded by the first request, beside the event loop: most processes that know of http never send one.
    sending = await asyncio.to_thread(importlib.import_module, f"{__package__}.http_sending")
    reply: dict[str, Any] = await sending.perform(options, effect, asked, key)
    return reply


#: Everything that the grant ``http`` names.
HTTP: Final = http("http")
