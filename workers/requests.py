"""What a guest asks for, as the host reads it: its fingerprint, and what it may not name."""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

from perdure.capabilities import values
from perdure.engine.journal import Request

from .messages import ProtocolViolation

if TYPE_CHECKING:
    from perdure.engine.blobs import Data

    from .link import Link
    from .messages import Call

__all__ = ["check_text", "fingerprint", "refuse_refs", "request_of"]

_REFUSED = "a reference to a blob in a value of the guest"
#: Bytes that are looked through before others of the loop have their turn: some milliseconds.
PIECE = 2 << 20
#: The text "$ref", however its characters are written, and the longest of these ways.
_REF = re.compile(rb'"(?:\$|\\u0024)(?:r|\\u0072)(?:e|\\u0065)(?:f|\\u0066)"')
_REF_MAX = 26
#: What makes a text the key of an object.
_COLON = re.compile(rb"[ \t\r\n]*:")
#: Half a character pair.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF_MAX = 4


def request_of(call: Call, link: Link, after: int) -> Request:
    """Return a call of the guest as the journal knows it, asked after so many deliveries. Raises ProtocolViolation."""
    if call.args_stream is not None:
        data = json.loads(link.take(call.args_stream))
        if not isinstance(data, dict):
            msg = "arguments that are not an object"
            raise ProtocolViolation(msg)
    else:
        data = call.args or {}
    refuse_refs(data)
    return Request(call.path, call.name, data, fingerprint(call.name, data), call.line, after)


def fingerprint(name: str, data: Any) -> str:
    """Return the fingerprint of a request: 32 hexadecimal digits over its name and canonical arguments."""
    return blake3(name.encode() + b"\0" + values.fingerprint_bytes(data)).hexdigest(16)


def refuse_refs(data: Any) -> None:
    """Only the host names blobs: a guest that does wants to read what it was not given. Raises ProtocolViolation."""
    if next(values.refs(data), None) is not None:
        raise ProtocolViolation(_REFUSED)


async def check_text(raw: Data) -> None:
    """Check an encoded value of any size, as JSON text that names no blob. Raises ProtocolViolation.

    It is never parsed into objects, which may take fifty times its size; and looked through a piece at a time: half a
    gigabyte at once would stop everybody else for longer than a lease.
    """
    text = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(raw), PIECE):
            text.decode(raw[start : start + PIECE], final=start + PIECE >= len(raw))
            if _names_a_blob(raw, start):
                raise ProtocolViolation(_REFUSED)
            await asyncio.sleep(0)
        try:
            msgspec.json.decode(raw, type=msgspec.Raw)
        except msgspec.DecodeError:
            msgspec.json.decode(await _without_halves(raw), type=msgspec.Raw)
    except (ValueError, RecursionError) as exc:
        msg = f"a value that is not JSON: {exc}"
        raise ProtocolViolation(msg) from None


def _names_a_blob(raw: Data, start: int) -> bool:
    """Whether an object has the key of a reference that begins in the piece from ``start`` on.

    In JSON a quote without a backslash that is followed by a dollar begins a text, so nothing else is taken for one.
    """
    return any(
        raw[found.start() - 1 : found.start()] != b"\\" and _COLON.match(raw, found.end())
        for found in _REF.finditer(raw, start, start + PIECE + _REF_MAX)
    )


async def _without_halves(raw: Data) -> bytearray:
    """Return the text without halves of pairs: they are allowed in it, and this parser refuses them."""
    plain = bytearray()
    for start in range(0, len(raw), PIECE):
        plain += raw[start : start + PIECE]
        for half in _HALF.finditer(plain, max(0, start - _HALF_MAX)):
            plain[half.start() + 2 : half.end()] = b"00"
        await asyncio.sleep(0)
    return plain
