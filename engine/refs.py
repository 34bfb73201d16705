"""Values too large for their record: the place they are kept, and how they come back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

if TYPE_CHECKING:
    from .blobs import BlobStore, Data

__all__ = ["INLINE_LIMIT", "dumped", "fetched", "is_ref", "print_of", "stored"]

#: Values up to this many bytes (encoded) are kept in their record, larger ones as blobs (DESIGN, Values).
INLINE_LIMIT = 256 * 1024


def dumped(data: Any) -> bytes:
    """Return encoded data, or a message that holds some, as JSON text."""
    try:
        return msgspec.json.encode(data)  # ten times as fast as the standard library, on the path of every call
    except UnicodeEncodeError:
        # Half a character pair, which only escapes can carry: text of somebody's error message.
        return json.dumps(data, separators=(",", ":")).encode()


async def stored(blobs: BlobStore, data: Any) -> Any:
    """Return encoded data as a record holds it: itself, or the reference to a blob."""
    raw = dumped(data)
    if len(raw) <= INLINE_LIMIT:
        return data
    return await stored_raw(blobs, raw)


def print_of(data: Any) -> str:
    """Return what names encoded data, whether it is held in its record or by reference."""
    if is_ref(data):
        return str(data["$ref"])
    return f"blake3:{blake3(dumped(data)).hexdigest()}"


async def stored_raw(blobs: BlobStore, raw: Data) -> dict[str, Any]:
    """Store the JSON text of a large value; returns its reference."""
    return {"$ref": await blobs.put(raw), "size": len(raw)}


def parsed(raw: bytes) -> Any:
    """Return what JSON text holds."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return json.loads(raw)


def is_ref(data: Any) -> bool:
    """Whether encoded data is the reference to a blob."""
    return isinstance(data, dict) and isinstance(data.get("$ref"), str) and data.keys() <= {"$ref", "size"}


async def fetched(blobs: BlobStore, data: Any) -> Any:
    """Return encoded data with a reference, if it is one, resolved."""
    if is_ref(data):
        return parsed(await blobs.get(data["$ref"]))
    return data
