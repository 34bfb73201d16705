"""Frames of the channel, without I/O: ``u32 length (big endian) | u8 kind | payload`` (docs/design.md).

1. A length is checked before a byte of its payload is kept.
2. Bytes may arrive in any pieces; what was decoded never depends on where they were cut.
"""

from __future__ import annotations

import json
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from .checkpoints.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CHUNK_SIZE", "MAX_FRAME", "Chunk", "Decoder", "Streams", "WireError", "chunk_frames", "message_frame"]

#: Largest frame, kind and payload: both sides refuse more. Framing costs nothing at this size.
MAX_FRAME = 1 << 20
#: Bytes of a stream in one frame: small enough that a message in between is not held up, far below MAX_FRAME.
CHUNK_SIZE = 256 << 10
#: Bytes of streams not taken yet that are kept at once; the host sends one image or a few large replies at a time.
MAX_STREAMS_HELD = 8 << 30

MESSAGE = 0
CHUNK = 1

_HEADER = Struct(">IB")
_STREAM_ID = Struct(">I")

type Message = dict[str, Any]


class WireError(Exception):
    """The other side sent something that is not in the protocol."""


class Chunk(NamedTuple):
    """A piece of a stream."""

    stream: int
    data: bytes


def message_frame(message: Message) -> bytes:
    """Return a message as a frame; raises WireError if it is too large to be one."""
    payload = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if len(payload) + 1 > MAX_FRAME:
        msg = f"a message of type {message.get('t')!r} would be {len(payload)} bytes, above {MAX_FRAME}"
        raise WireError(msg)
    return _HEADER.pack(len(payload) + 1, MESSAGE) + payload


def chunk_frames(stream: int, data: bytes | memoryview) -> Iterator[bytes]:
    """Yield the content of a stream as frames."""
    view = memoryview(data)
    for start in range(0, len(view), CHUNK_SIZE):
        piece = view[start : start + CHUNK_SIZE]
        yield b"".join((_HEADER.pack(len(piece) + 5, CHUNK), _STREAM_ID.pack(stream), piece))


class Decoder:
    """Takes bytes as they come and gives back whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message | Chunk]:
        """Add bytes; return the frames they complete, in order. Raises WireError."""
        buffer = self._buffer
        buffer += data
        frames: list[Message | Chunk] = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, kind = _HEADER.unpack_from(buffer, start)
            if not 1 <= length <= MAX_FRAME:
                msg = f"a frame of {length} bytes; 1 to {MAX_FRAME} are allowed"
                raise WireError(msg)
            end = start + 4 + length
            if len(buffer) < end:
                break
            frames.append(_frame(kind, bytes(memoryview(buffer)[start + _HEADER.size : end])))
            start = end
        if start:
            del buffer[:start]
        return frames

    def pending(self) -> int:
        """Return how many bytes wait for the rest of their frame."""
        return len(self._buffer)


def _frame(kind: int, payload: bytes) -> Message | Chunk:
    if kind == MESSAGE:
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError) as error:
            msg = f"a message that is not JSON: {error}"
            raise WireError(msg) from None
        if not isinstance(message, dict) or not isinstance(message.get("t"), str):
            msg = "a message without a type"
            raise WireError(msg)
        return message
    if kind == CHUNK and len(payload) >= _STREAM_ID.size:
        return Chunk(_STREAM_ID.unpack_from(payload)[0], payload[_STREAM_ID.size :])
    msg = f"a frame of unknown kind {kind}"
    raise WireError(msg)


class Streams:
    """Streams that are arriving, by id: announced, filled in order, taken once."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, Storage]] = {}
        self._announced = 0

    def announce(self, stream: int, size: int) -> None:
        """Expect a stream of that many bytes. Raises WireError if the id is in use or too much is held already."""
        if stream in self._open:
            msg = f"stream {stream} was announced twice"
            raise WireError(msg)
        if size < 0 or self._announced + size > MAX_STREAMS_HELD:
            msg = f"stream {stream} of {size} bytes; {MAX_STREAMS_HELD - self._announced} are left"
            raise WireError(msg)
        self._announced += size
        self._open[stream] = (size, Storage())

    def add(self, chunk: Chunk) -> None:
        """Append a piece. Raises WireError if nobody announced it or it is more than was announced."""
        size, data = self._open.get(chunk.stream, (-1, Storage()))
        if len(data) + len(chunk.data) > size:
            msg = f"stream {chunk.stream} has more bytes than were announced"
            raise WireError(msg)
        data += chunk.data

    def take(self, stream: int) -> bytes:
        """Return a whole stream and forget it. Raises WireError if it is unknown or not complete."""
        return bytes(self.take_memory(stream))

    def take_memory(self, stream: int) -> Storage:
        """Return the memory that a whole stream is in, without a copy."""
        size, data = self._open.pop(stream, (-1, Storage()))
        if len(data) != size:
            msg = f"stream {stream} is used before it is complete"
            raise WireError(msg)
        self._announced -= size
        return data
