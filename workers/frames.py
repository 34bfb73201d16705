"""What a guest's bytes mean, without I/O: frames, messages, and streams put together on the way.

The guest is hostile: a length is checked before its payload is kept, and anything unexpected is a ProtocolViolation.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from .messages import ProtocolViolation, StreamOpened, parse

if TYPE_CHECKING:
    from .messages import FromGuest

__all__ = ["CHUNK", "HEADER", "MAX_FRAME", "MAX_STREAM", "MAX_STREAMS", "MESSAGE", "STREAM", "Frames"]

#: The largest frame, kind and payload: large enough that framing costs nothing, small enough to be held twice.
MAX_FRAME: Final = 1 << 20
#: The largest stream: a namespace image. Beyond this a guest needs another way to keep its data.
MAX_STREAM: Final = 4 << 30
#: Streams a guest may have open or unused at once: one value and one image, with room.
MAX_STREAMS: Final = 8
#: Bytes of all streams that a guest has open or unused at once.
MAX_STREAMED: Final = MAX_STREAM + (64 << 20)
#: Frames within so many seconds. Honest ones are slowed by what is done with them, to far below this.
MAX_FRAMES, FRAMES_WINDOW = 200_000, 10.0

HEADER: Final = struct.Struct(">IB")
STREAM: Final = struct.Struct(">I")
MESSAGE, CHUNK = 0, 1


class Frames:
    """Takes bytes as they come, in any pieces, and gives back messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._streams: dict[int, tuple[int, bytearray]] = {}
        self._window = 0.0
        self._recent = 0
        #: Frames taken in all.
        self.taken = 0

    @property
    def partial(self) -> bool:
        """Whether what is left is the beginning of a frame."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        self._buffer += data

    def next(self, now: float) -> FromGuest | None:
        """Take the next message that is whole; None if more bytes are needed. Raises ProtocolViolation."""
        while (frame := self._frame()) is not None:
            self._count(now)
            kind, payload = frame
            if kind == CHUNK:
                self._chunk(payload)
                continue
            message = parse(payload)
            if not isinstance(message, StreamOpened):
                return message
            self._open(message)
        return None

    def take(self, stream: int) -> bytes:
        """Return the whole content of a stream that a message named, once. Raises ProtocolViolation."""
        size, data = self._streams.pop(stream, (-1, bytearray()))
        if len(data) != size:
            msg = f"stream {stream} is not complete"
            raise ProtocolViolation(msg)
        return bytes(data)

    def _frame(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < HEADER.size:
            return None
        length, kind = HEADER.unpack_from(self._buffer)
        if not 1 <= length <= MAX_FRAME or kind not in (MESSAGE, CHUNK):
            msg = f"a frame of kind {kind} and length {length}"
            raise ProtocolViolation(msg)
        end = HEADER.size + length - 1
        if len(self._buffer) < end:
            return None
        payload = bytes(memoryview(self._buffer)[HEADER.size : end])
        del self._buffer[:end]
        return kind, payload

    def _count(self, now: float) -> None:
        self.taken += 1
        self._recent += 1
        if now - self._window > FRAMES_WINDOW:
            self._recent, self._window = 1, now
        elif self._recent > MAX_FRAMES:
            msg = f"more than {MAX_FRAMES} frames within {FRAMES_WINDOW:g} s"
            raise ProtocolViolation(msg)

    def _open(self, opened: StreamOpened) -> None:
        total = opened.size + sum(size for size, _ in self._streams.values())
        if opened.id in self._streams or len(self._streams) >= MAX_STREAMS or total > MAX_STREAMED:
            msg = f"stream {opened.id} of {opened.size} bytes refused"
            raise ProtocolViolation(msg)
        self._streams[opened.id] = (opened.size, bytearray())

    def _chunk(self, payload: bytes) -> None:
        if len(payload) <= STREAM.size:
            # One without content costs its sender nothing, and could come for ever.
            msg = "a chunk without content"
            raise ProtocolViolation(msg)
        (stream,) = STREAM.unpack_from(payload)
        size, data = self._streams.get(stream, (-1, bytearray()))
        if len(data) + len(payload) - STREAM.size > size:
            msg = f"stream {stream} is longer than announced"
            raise ProtocolViolation(msg)
        data += memoryview(payload)[STREAM.size :]
