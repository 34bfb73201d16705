"""The format of a namespace image, version 1: pure, no pickle here.

1. An image is self-contained: a prefix, a JSON header, the pickle stream, then the large buffers.
2. Everything the header says about lengths is checked against the bytes before it is believed.
3. A reader refuses what a newer writer wrote; a writer never changes the meaning of a version.

    magic (8 bytes) | header length (u64, little endian) | header (JSON, ASCII) | stream | padding | buffer | ...

The stream is one pickle per *segment*, all sharing one memo, so that a value bound to two names is stored once
and a segment that fails can be cut off without the rest. Buffers start on a page, so that they can be mapped.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

MAGIC = b"PRDUNS\r\n"
FORMAT = 1

# Buffers start on a page: a copy-on-write mapping of the file can then be handed to numpy without a copy.
ALIGNMENT = 4096

# A header names variables and offsets; more than this is not a session's namespace but a damaged length.
MAX_HEADER = 256 << 20

_PREFIX = struct.Struct("<8sQ")


class ImageError(Exception):
    """A namespace image cannot be read."""


class ImageDamaged(ImageError):
    """The bytes are not a whole namespace image: restore an older checkpoint."""


class ImageTooNew(ImageError):
    """The image was written by a newer Perdure: run that version, or a later one."""


@dataclass(slots=True)
class Segment:
    """One pickle of the stream: the value of one name, or one part of the ambient state."""

    kind: str
    name: str
    end: int
    """Where the segment ends in the stream; it begins where the one before it ended."""
    buffers: int
    """How many of the buffers are used up once it is loaded."""


@dataclass(slots=True)
class Header:
    """What is known about an image without unpickling it."""

    python: str
    magic: str
    """Bytecode magic number in hexadecimal: code objects of another one are never executed."""
    seeds: int
    """Length of the stream's prologue, which puts the live objects into the memo."""
    seed_memo: int
    segments: list[Segment] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    names: list[dict[str, Any]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    """Where each object that was left behind hung, by the number the stream knows it by."""
    sources: dict[str, Any] = field(default_factory=dict)
    """File name and text of each source, by key: definitions are compiled from them under another Python."""
    ambient: dict[str, Any] = field(default_factory=dict)
    buffers: list[tuple[int, int, bool]] = field(default_factory=list)
    """(offset in the image counted from the first page after the stream, length, read-only)."""


def encode(header: Header, stream: bytes, buffers: list[memoryview]) -> list[bytes | memoryview]:
    """Return the image as chunks in order; the buffers are not copied."""
    offset = 0
    header.buffers = []
    for buffer in buffers:
        header.buffers.append((offset, buffer.nbytes, buffer.readonly))
        offset += _padded(buffer.nbytes)
    text = json.dumps(_to_json(header, len(stream)), separators=(",", ":"), sort_keys=True).encode("ascii")
    head = _PREFIX.pack(MAGIC, len(text)) + text
    chunks: list[bytes | memoryview] = [head, stream]
    if buffers:
        chunks.append(bytes(-(len(head) + len(stream)) % ALIGNMENT))
    for buffer in buffers:
        chunks.append(buffer)
        chunks.append(bytes(-buffer.nbytes % ALIGNMENT))
    return [chunk for chunk in chunks if len(chunk)]


def decode(data: bytes | bytearray | memoryview) -> tuple[Header, memoryview, list[memoryview]]:
    """Return the header, the stream and the buffers of an image, as views of `data`.

    Raises `ImageDamaged` for anything that does not add up and `ImageTooNew` for a later format.
    """
    view = memoryview(data).cast("B")
    if len(view) < _PREFIX.size:
        message = f"a namespace image of {len(view)} bytes is cut short"
        raise ImageDamaged(message)
    magic, length = _PREFIX.unpack(view[: _PREFIX.size])
    if magic != MAGIC:
        message = "the bytes are not a namespace image"
        raise ImageDamaged(message)
    start = _PREFIX.size + length
    if length > MAX_HEADER or start > len(view):
        message = f"a namespace image says its header has {length} bytes and has {len(view)} in all"
        raise ImageDamaged(message)
    header, stream_length = _from_json(bytes(view[_PREFIX.size : start]))
    stream = _part(view, start, stream_length)
    base = start + stream_length
    base += -base % ALIGNMENT
    buffers = [_part(view, base + offset, size) for offset, size, _readonly in header.buffers]
    return header, stream, buffers


def _padded(size: int) -> int:
    return size + -size % ALIGNMENT


def _part(view: memoryview, start: int, length: int) -> memoryview:
    if start < 0 or length < 0 or start + length > len(view):
        message = f"a namespace image names bytes {start} to {start + length} of {len(view)}"
        raise ImageDamaged(message)
    return view[start : start + length]


def _to_json(header: Header, stream_length: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "python": header.python,
        "magic": header.magic,
        "stream": stream_length,
        "seeds": header.seeds,
        "seed_memo": header.seed_memo,
        "segments": [[part.kind, part.name, part.end, part.buffers] for part in header.segments],
        "order": header.order,
        "names": header.names,
        "places": header.places,
        "sources": header.sources,
        "ambient": header.ambient,
        "buffers": header.buffers,
    }


def _from_json(text: bytes) -> tuple[Header, int]:
    try:
        data = json.loads(text)
        version = data["format"]
    except (ValueError, KeyError, TypeError) as error:
        message = f"the header of a namespace image cannot be read: {error}"
        raise ImageDamaged(message) from error
    if not isinstance(version, int) or version > FORMAT:
        message = f"the image has format {version!r}, this Perdure reads up to {FORMAT}"
        raise ImageTooNew(message)
    try:
        header = Header(
            python=data["python"],
            magic=data["magic"],
            seeds=int(data["seeds"]),
            seed_memo=int(data["seed_memo"]),
            segments=[Segment(str(k), str(n), int(e), int(m)) for k, n, e, m in data["segments"]],
            order=list(data["order"]),
            names=list(data["names"]),
            places=dict(data["places"]),
            sources=dict(data["sources"]),
            ambient=dict(data["ambient"]),
            buffers=[(int(offset), int(size), bool(readonly)) for offset, size, readonly in data["buffers"]],
        )
        return header, int(data["stream"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"the header of a namespace image cannot be read: {error}"
        raise ImageDamaged(message) from error
