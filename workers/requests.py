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
    from collections.abc import Callable

    from perdure.engine.blobs import Data

    from .link import Link
    from .messages import Call, Entered

__all__ = ["check_entered", "check_text", "fingerprint", "refuse_no_json", "refuse_refs", "request_of"]

#: What may have entered a guest: a reply or the firing of a timer (its path, turns of the loop), readings of the clock
#: (lane, window, then a value and how often it was given, one after another).
_REPLY, _TIMER, _CLOCK = "r", "t", "c"
#: Kind, path or lane, and turns or window: all of the first two.
_NAMED = 3

_NO_NUMBER = 'a number that JSON does not have: NaN and infinities are written as {"$float": ...}'
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
    data = call.args or {} if call.args_stream is None else _arguments(link.take(call.args_stream))
    canonical = values.fingerprint_bytes(data)
    # Looked for in the text, which is there in any case: most calls have none of it.
    if b"NaN" in canonical or b"Infinity" in canonical:
        refuse_no_json(data)
    if b'"$ref"' in canonical:
        refuse_refs(data)
    return Request(call.path, call.name, data, _fingerprint(call.name, canonical), call.line, after)


def _arguments(raw: bytes | bytearray) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        msg = f"arguments that are not JSON: {exc}"
        raise ProtocolViolation(msg) from None
    if not isinstance(data, dict):
        msg = "arguments that are not an object"
        raise ProtocolViolation(msg)
    return data


def check_entered(entered: Entered, consumed: int, answered: Callable[[str], bool]) -> None:
    """Check what a guest says has entered it, of which ``consumed`` are known: a replay could not feed it otherwise.

    Raises ProtocolViolation.
    """
    if entered.at > consumed:
        msg = f"deliveries {consumed} to {entered.at} were left out"
        raise ProtocolViolation(msg)
    for item in entered.items:
        if not _is_delivery(item):
            msg = f"a delivery that is none: {str(item)[:100]}"
            raise ProtocolViolation(msg)
    for item in entered.items[consumed - entered.at :]:
        if item[0] == _REPLY and not answered(str(item[1])):
            msg = f"it consumed a reply to {str(item[1])[:100]}, and was given none"
            raise ProtocolViolation(msg)


def _is_delivery(item: list[str | int | float]) -> bool:
    if len(item) < _NAMED or not isinstance(item[1], str) or not all(isinstance(each, int) for each in item[2:]):
        return False
    if item[0] in (_REPLY, _TIMER):
        return len(item) == _NAMED
    readings = len(item) - _NAMED
    return item[0] == _CLOCK and readings > 0 and readings % 2 == 0


def fingerprint(name: str, data: Any) -> str:
    """Return the fingerprint of a request: 32 hexadecimal digits over its name and canonical arguments."""
    return _fingerprint(name, values.fingerprint_bytes(data))


def _fingerprint(name: str, canonical: bytes) -> str:
    return blake3(name.encode() + b"\0" + canonical).hexdigest(16)


def refuse_refs(data: Any) -> None:
    """Only the host names blobs: a guest that does wants to read what it was not given. Raises ProtocolViolation."""
    if next(values.refs(data), None) is not None:
        raise ProtocolViolation(_REFUSED)


def refuse_no_json(data: Any) -> None:
    """Refuse NaN and infinities, which Python reads and whoever reads the record takes for null.

    Raises ProtocolViolation.
    """
    try:
        json.dumps(data, allow_nan=False)
    except ValueError:
        raise ProtocolViolation(_NO_NUMBER) from None


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
