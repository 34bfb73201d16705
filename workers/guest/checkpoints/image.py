"""A whole checkpoint in one piece: pure, no pickle here.

    magic (8 bytes) | header length (u64, little endian) | header (JSON, ASCII) | padding | pack

1. An image is self-contained: its manifest names bytes of the pack and of nothing else.
2. Everything it says about lengths is checked against the bytes before it is believed.
3. A reader refuses what another version of the format wrote, and says which.

The pack starts on a page, so that buffers in it can be mapped.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from .restoring import CheckpointDamaged, check_format

__all__ = ["decode", "encode"]

MAGIC = b"PRDUNS\r\n"

# A copy-on-write mapping of the file can then be handed to numpy without a copy.
ALIGNMENT = 4096

# A header names variables and extents; more than this is not a session's namespace but a damaged length.
MAX_HEADER = 256 << 20

_PREFIX = struct.Struct("<8sQ")


def encode(manifest: dict[str, Any], chunks: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the image as chunks in order; those of the pack are not copied."""
    size = sum(len(chunk) for chunk in chunks)
    header = {"format": manifest["format"], "pack": size, "manifest": manifest}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    head = _PREFIX.pack(MAGIC, len(text)) + text
    return [head, bytes(-len(head) % ALIGNMENT if size else 0), *chunks]


def decode(data: bytes | bytearray | memoryview) -> tuple[dict[str, Any], dict[int, memoryview]]:
    """Return the manifest of an image and its packs, as views of `data`.

    Raises `CheckpointDamaged` for anything that does not add up, and what `check_format` raises.
    """
    view = memoryview(data).cast("B")
    if len(view) < _PREFIX.size:
        message = f"a checkpoint of {len(view)} bytes is cut short"
        raise CheckpointDamaged(message)
    magic, length = _PREFIX.unpack(view[: _PREFIX.size])
    if magic != MAGIC:
        message = "the bytes are not a checkpoint"
        raise CheckpointDamaged(message)
    start = _PREFIX.size + length
    if length > MAX_HEADER or start > len(view):
        message = f"a checkpoint says its header has {length} bytes and has {len(view)} in all"
        raise CheckpointDamaged(message)
    try:
        header = json.loads(bytes(view[_PREFIX.size : start]))
        version = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        message = f"the header of a checkpoint cannot be read: {error}"
        raise CheckpointDamaged(message) from error
    check_format(version)
    base = start + (-start % ALIGNMENT if header["pack"] else 0)
    if base + header["pack"] != len(view):
        message = f"a checkpoint has {len(view) - base} bytes of data where it should have {header['pack']}"
        raise CheckpointDamaged(message)
    return header["manifest"], {1: view[base:]}
