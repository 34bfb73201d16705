"""HTTP requests, made by the host: code has no network of its own.

Every request carries ``Idempotency-Key``, the same however often it is made again. A POST or PATCH is made again by
itself only under ``http.post_idempotent``, for services that honour that header: any other would do it twice.
"""

from __future__ import annotations

import json as json_module
from typing import Any

import httpx

from .base import capability
from .errors import CallFailed, CallTimeout, NotPerformed, TooLarge

__all__ = ["HTTP", "MAX_BODY"]

#: Bytes of a response that are kept: larger ones are files, and belong into a capability of their own.
MAX_BODY = 10 << 20
#: Redirects that are followed.
MAX_REDIRECTS = 10
#: Seconds for a whole request; the capability's own timeout is a little longer.
TIMEOUT = 50.0


async def _request(  # one argument per part of a request
    method: str,
    url: str,
    key: str,
    *,
    headers: dict[str, str] | None,
    params: dict[str, Any] | None,
    json: Any = None,
    data: str | bytes | None = None,
) -> dict[str, Any]:
    sent = {"Idempotency-Key": key, **(headers or {})}
    try:
        # Neither proxies nor credentials of the host's environment are lent to the code that asks.
        async with (
            httpx.AsyncClient(
                timeout=TIMEOUT, follow_redirects=True, max_redirects=MAX_REDIRECTS, trust_env=False
            ) as client,
            client.stream(method, url, headers=sent, params=params, json=json, content=data) as response,
        ):
            body = await _body(response)
    except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
        msg = f"{method} {url}: no connection ({exc})"
        raise NotPerformed(msg) from None
    except httpx.TimeoutException:
        msg = f"{method} {url}: no whole response within {TIMEOUT:g} s"
        raise CallTimeout(msg) from None
    except httpx.TransportError as exc:
        msg = f"{method} {url}: the connection broke ({type(exc).__name__}: {exc})"
        raise CallTimeout(msg) from None
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        msg = f"{method} {url}: {exc}"
        raise CallFailed(msg) from None
    reply: dict[str, Any] = {
        "status": response.status_code,
        "url": str(response.url),
        "headers": dict(response.headers),
    }
    if response.headers.get("content-type", "").partition(";")[0].strip().endswith("json"):
        try:
            reply["json"] = json_module.loads(body)
        except ValueError:
            reply["json"] = None
    try:
        reply["text"] = body.decode(response.encoding or "utf-8")
    except (UnicodeDecodeError, LookupError):
        reply["content"] = body
    return reply


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BODY:
            msg = f"the response of {response.url} is larger than {MAX_BODY >> 20} MiB"
            raise TooLarge(msg)
    return bytes(body)


@capability("http.get", effect="repeat")
async def get(
    url: str, *, headers: dict[str, str] | None = None, params: dict[str, Any] | None = None, key: str
) -> dict[str, Any]:
    """GET; the reply has ``status``, ``headers``, ``text`` (or ``content``), and ``json`` where it is JSON."""
    return await _request("GET", url, key, headers=headers, params=params)


@capability("http.head", effect="repeat")
async def head(
    url: str, *, headers: dict[str, str] | None = None, params: dict[str, Any] | None = None, key: str
) -> dict[str, Any]:
    """HEAD."""
    return await _request("HEAD", url, key, headers=headers, params=params)


@capability("http.put", effect="repeat")
async def put(
    url: str, *, json: Any = None, data: str | bytes | None = None, headers: dict[str, str] | None = None, key: str
) -> dict[str, Any]:
    """PUT, which by its definition may be made again."""
    return await _request("PUT", url, key, headers=headers, params=None, json=json, data=data)


@capability("http.delete", effect="repeat")
async def delete(url: str, *, headers: dict[str, str] | None = None, key: str) -> dict[str, Any]:
    """DELETE, which by its definition may be made again."""
    return await _request("DELETE", url, key, headers=headers, params=None)


@capability("http.post", effect="unknown")
async def post(
    url: str, *, json: Any = None, data: str | bytes | None = None, headers: dict[str, str] | None = None, key: str
) -> dict[str, Any]:
    """POST, once: if its outcome is lost, the code gets CallInDoubt."""
    return await _request("POST", url, key, headers=headers, params=None, json=json, data=data)


@capability("http.post_idempotent", effect="repeat")
async def post_idempotent(
    url: str, *, json: Any = None, data: str | bytes | None = None, headers: dict[str, str] | None = None, key: str
) -> dict[str, Any]:
    """POST to a service that honours ``Idempotency-Key``: made again, under the same key, if its outcome is lost."""
    return await _request("POST", url, key, headers=headers, params=None, json=json, data=data)


@capability("http.patch", effect="unknown")
async def patch(
    url: str, *, json: Any = None, data: str | bytes | None = None, headers: dict[str, str] | None = None, key: str
) -> dict[str, Any]:
    """PATCH, once: if its outcome is lost, the code gets CallInDoubt."""
    return await _request("PATCH", url, key, headers=headers, params=None, json=json, data=data)


#: Everything that the grant ``http`` names.
HTTP = (get, head, put, delete, post, post_idempotent, patch)
