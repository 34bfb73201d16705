"""Frames of the channel, without I/O: ``u32 length (big endian) | u8 kind | u32 number | u64 time | payload``.

1. A length is checked before a byte of its payload is kept.
2. Bytes may arrive in any pieces; what was decoded never depends on where they were cut.
3. Each side numbers its frames from 1 without a gap: one that was lost, or is not ours, is noticed at once.
"""

from __future__ import annotations

import json
import time
from json import encoder
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from .checkpoints.room import stretched
from .checkpoints.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "CHUNK",
    "CHUNK_SIZE",
    "MAX_FRAME",
    "MESSAGE",
    "TEXT",
    "Chunk",
    "Decoder",
    "Framer",
    "Streams",
    "WireError",
    "as_json",
    "chunk_payloads",
    "message_payload",
    "with_json",
]

#: Largest frame, all behind its length: both sides refuse more. Framing costs nothing at this size.
MAX_FRAME = 1 << 20
#: Bytes of a stream in one frame: small enough that a message in between is not held up, far below MAX_FRAME.
CHUNK_SIZE = 256 << 10
#: Bytes of streams not taken yet that are kept at once; the host sends one image or a few large replies at a time.
MAX_STREAMS_HELD = 8 << 30

MESSAGE = 0
CHUNK = 1
#: One write of the code: a byte for its stream (1 or 2) and UTF-8. A message would cost several times as much.
TEXT = 2

_HEADER = Struct(">IBIQ")
#: What a length counts beside the payload: kind, number, time.
_COUNTED = _HEADER.size - 4
#: The number of a frame comes round after this.
_NUMBERS = (1 << 32) - 1
# The real one: what the code sees may have been set forward.
_now = time.monotonic_ns
_STREAM_ID = Struct(">I")

#: Streams of the code's writes, by the byte that stands for them.
_STREAMS = {b"\x01": "stdout", b"\x02": "stderr"}

type Message = dict[str, Any]


def _encoder() -> Callable[[Any], str]:
    """Return what ``json.dumps`` does, without the encoders that it makes for every message."""
    plain = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
    make = getattr(encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    # Nothing that is sent contains itself, so that containers need not be noted.
    pieces = make(None, plain.default, encoder.encode_basestring_ascii, None, ":", ",", False, False, False)
    return lambda data: "".join(pieces(data, 0))


as_json = _encoder()


class WireError(Exception):
    """The other side sent something that is not in the protocol."""


class Chunk(NamedTuple):
    """A piece of a stream."""

    stream: int
    data: bytes


def message_payload(message: Message) -> bytes:
    """Return a message as the payload of a frame; raises WireError if it is too large for one."""
    payload = as_json(message).encode()
    if len(payload) + _COUNTED > MAX_FRAME:
        msg = f"a message of type {message.get('t')!r} would be {len(payload)} bytes, above {MAX_FRAME}"
        raise WireError(msg)
    return payload


def with_json(payload: bytes, key: str, text: str) -> bytes:
    """Return a message with one more value, whose JSON there is already; whoever adds it knows that it fits."""
    return b"".join((payload[:-1], b',"', key.encode(), b'":', text.encode(), b"}"))


def chunk_payloads(stream: int, data: bytes | memoryview) -> Iterator[bytes]:
    """Yield the content of a stream as payloads of chunks."""
    view = memoryview(data)
    for start in range(0, len(view), CHUNK_SIZE):
        yield b"".join((_STREAM_ID.pack(stream), view[start : start + CHUNK_SIZE]))


class Framer:
    """Numbers the frames of one side, in the order in which they are written, and says when."""

    __slots__ = ("_number",)

    def __init__(self) -> None:
        self._number = 0

    def frame(self, kind: int, payload: bytes) -> bytes:
        """Return the next frame."""
        self._number = self._number % _NUMBERS + 1
        return _HEADER.pack(len(payload) + _COUNTED, kind, self._number, _now()) + payload


class Decoder:
    """Takes bytes as they come and gives back whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._number = 0

    def feed(self, data: bytes) -> list[Message | Chunk]:
        """Add bytes; return the frames they complete, in order. Raises WireError."""
        buffer = self._buffer
        buffer += data
        frames: list[Message | Chunk] = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, kind, number, _ = _HEADER.unpack_from(buffer, start)
            if not _COUNTED <= length <= MAX_FRAME:
                msg = f"a frame of {length} bytes; {_COUNTED} to {MAX_FRAME} are allowed"
                raise WireError(msg)
            if number != self._number % _NUMBERS + 1:
                msg = f"frame {number} came after frame {self._number}"
                raise WireError(msg)
            end = start + 4 + length
            if len(buffer) < end:
                break
            self._number = number
            frames.append(_frame(kind, bytes(memoryview(buffer)[start + _HEADER.size : end])))
            start = end
        if start:
            del buffer[:start]
        return frames

    def pending(self) -> int:
        """Return how many bytes wait for the rest of their frame."""
        return len(self._buffer)

    def missing(self) -> int:
        """Return how many bytes are to come until the next frame, or what a chunk begins with, is here."""
        if len(self._buffer) < _HEADER.size:
            return _HEADER.size + _STREAM_ID.size - len(self._buffer)
        return 4 + int(_HEADER.unpack_from(self._buffer)[0]) - len(self._buffer)

    def begun(self) -> tuple[Chunk, int] | None:
        """Take out what is here of a chunk that has begun; return it, and how many bytes whoever asks reads itself."""
        buffer = self._buffer
        if len(buffer) < _HEADER.size + _STREAM_ID.size:
            return None
        _length, kind, number, _ = _HEADER.unpack_from(buffer)
        if kind != CHUNK:
            return None
        left = self.missing()
        self._number = number
        (stream,) = _STREAM_ID.unpack_from(buffer, _HEADER.size)
        chunk = Chunk(stream, bytes(memoryview(buffer)[_HEADER.size + _STREAM_ID.size :]))
        buffer.clear()
        return chunk, left


def _frame(kind: int, payload: bytes) -> Message | Chunk:
    if kind == MESSAGE:
        try:
            message = json.loads(payload.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            msg = f"a message that is not JSON: {error}"
            raise WireError(msg) from None
        if not isinstance(message, dict) or not isinstance(message.get("t"), str):
            msg = "a message without a type"
            raise WireError(msg)
        return message
    if kind == CHUNK and len(payload) >= _STREAM_ID.size:
        return Chunk(_STREAM_ID.unpack_from(payload)[0], payload[_STREAM_ID.size :])
    if kind == TEXT and payload[:1] in _STREAMS:
        return {"t": "output", "stream": _STREAMS[payload[:1]], "text": _text(payload[1:])}
    msg = f"a frame of unknown kind {kind}"
    raise WireError(msg)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        msg = f"a write that is not UTF-8: {error}"
        raise WireError(msg) from None


class Streams:
    """Streams that are arriving, by id: announced, filled in order, taken once."""

    def __init__(self) -> None:
        self._open: dict[int, _Arriving] = {}
        self._announced = 0
        self._unfinished = 0

    @property
    def unfinished(self) -> bool:
        """Whether more of one is to come."""
        return self._unfinished > 0

    def announce(self, stream: int, size: int) -> None:
        """Expect a stream of that many bytes. Raises WireError if the id is in use or too much is held already."""
        if stream in self._open:
            msg = f"stream {stream} was announced twice"
            raise WireError(msg)
        if size < 0 or self._announced + size > MAX_STREAMS_HELD:
            msg = f"stream {stream} of {size} bytes; {MAX_STREAMS_HELD - self._announced} are left"
            raise WireError(msg)
        self._announced += size
        self._unfinished += size > 0
        self._open[stream] = _Arriving(stretched(Storage(), size))

    def add(self, chunk: Chunk) -> None:
        """Append a piece. Raises WireError if nobody announced it or it is more than was announced."""
        self.space(chunk.stream, len(chunk.data))[:] = chunk.data
        self.filled(chunk.stream, len(chunk.data))

    def space(self, stream: int, size: int) -> memoryview:
        """Return where the next bytes of a stream go. Raises WireError like `add`."""
        arriving = self._open.get(stream) or _Arriving(Storage())
        if arriving.filled + size > len(arriving.memory):
            msg = f"stream {stream} has more bytes than were announced"
            raise WireError(msg)
        return memoryview(arriving.memory)[arriving.filled : arriving.filled + size]

    def filled(self, stream: int, size: int) -> None:
        """Take note that so many bytes of a stream are where they go."""
        arriving = self._open.get(stream)
        if arriving is not None and size:
            arriving.filled += size
            self._unfinished -= arriving.filled == len(arriving.memory)

    def take(self, stream: int) -> bytes:
        """Return a whole stream and forget it. Raises WireError if it is unknown or not complete."""
        return bytes(self.take_memory(stream))

    def take_memory(self, stream: int) -> Storage:
        """Return the memory that a whole stream is in, without a copy."""
        arriving = self._open.get(stream)
        if arriving is None or arriving.filled != len(arriving.memory):
            msg = f"stream {stream} is used before it is complete"
            raise WireError(msg)
        del self._open[stream]
        self._announced -= arriving.filled
        return arriving.memory


class _Arriving:
    """A stream that was announced: memory of its size, and how much of it is here."""

    __slots__ = ("filled", "memory")

    def __init__(self, memory: Storage) -> None:
        self.memory = memory
        self.filled = 0
