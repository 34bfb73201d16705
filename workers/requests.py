"""What a guest asks for, as the host reads it: its fingerprint, and what it may not name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

from perdure.capabilities import values
from perdure.engine.journal import Request

from .messages import ProtocolViolation

if TYPE_CHECKING:
    from .link import Link
    from .messages import Call

__all__ = ["check_text", "fingerprint", "refuse_refs", "request_of"]


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
        msg = "a reference to a blob in a value of the guest"
        raise ProtocolViolation(msg)


def check_text(raw: bytes) -> None:
    """Check an encoded value of any size, as JSON text. Raises ProtocolViolation.

    It is looked through, and parsed only if it might name a blob: parsing half a gigabyte would stop everybody else for
    longer than a lease.
    """
    try:
        if b"$ref" in raw or b"\\u0024" in raw:
            refuse_refs(json.loads(raw))
        else:
            _looked_through(raw)
    except (ValueError, RecursionError) as exc:
        msg = f"a value that is not JSON: {exc}"
        raise ProtocolViolation(msg) from None


def _looked_through(raw: bytes) -> None:
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except msgspec.DecodeError:
        # Half a character pair, which the other parser takes.
        json.loads(raw)
