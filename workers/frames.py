"""What a guest's bytes mean, without I/O: frames, messages, and streams put together on the way.

The guest is hostile: a length is checked before its payload is kept, and anything unexpected is a ProtocolViolation.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Literal

from .messages import ProtocolViolation, StreamOpened, Written, parse

if TYPE_CHECKING:
    from .messages import FromGuest

__all__ = [
    "CHUNK",
    "COUNTED",
    "HEADER",
    "MAX_FRAME",
    "MAX_STREAM",
    "MAX_STREAMS",
    "MESSAGE",
    "NUMBERS",
    "STREAM",
    "TEXT",
    "Frames",
    "StreamTooLarge",
]

#: The largest frame, all behind its length: large enough that framing costs nothing, small enough to be held twice.
MAX_FRAME: Final = 1 << 20
#: The largest stream: a namespace image. Beyond this a guest needs another way to keep its data.
MAX_STREAM: Final = 4 << 30
#: Streams a guest may have open or unused at once: one value and one image, with room.
MAX_STREAMS: Final = 8
#: Bytes of all streams that a guest has open or unused at once.
MAX_STREAMED: Final = MAX_STREAM + (64 << 20)
#: Frames within so many seconds. Honest ones are slowed by what is done with them, to far below this.
MAX_FRAMES, FRAMES_WINDOW = 200_000, 10.0
#: Writes count less: one costs a twentieth of a message, and what is recorded of them holds their printer back.
TEXTS_A_FRAME: Final = 20
#: Characters of writes that are handed on at once.
TEXTS_MAX: Final = 64 << 10

#: Length of what follows, kind, number (from 1, without a gap), and the sender's monotonic clock in ns.
HEADER: Final = struct.Struct(">IBIQ")
#: What a length counts beside the payload.
COUNTED: Final = HEADER.size - 4
#: The number of a frame comes round after this.
NUMBERS: Final = (1 << 32) - 1
STREAM: Final = struct.Struct(">I")
MESSAGE, CHUNK, TEXT = 0, 1, 2
_STREAMS: Final[dict[bytes, Literal["stdout", "stderr"]]] = {b"\x01": "stdout", b"\x02": "stderr"}


class StreamTooLarge(ProtocolViolation):
    """A guest has more to send than a stream may have."""


class Frames:
    """Takes bytes as they come, in any pieces, and gives back messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._streams: dict[int, tuple[int, bytearray]] = {}
        self._window = 0.0
        self._recent = 0
        #: Frames taken in all.
        self.taken = 0
        #: When the frame taken last was sent, on the guest's monotonic clock (ns), which is this machine's.
        self.sent_at = 0

    @property
    def partial(self) -> bool:
        """Whether what is left is the beginning of a frame."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        self._buffer += data

    def next(self, now: float) -> FromGuest | Written | None:
        """Take the next message that is whole, or the writes up to it; None if more bytes are needed.

        Raises ProtocolViolation.
        """
        while (head := self._head()) is not None:
            kind, end = head
            if kind == TEXT:
                return self._texts(now)
            payload = bytes(memoryview(self._buffer)[HEADER.size : end])
            del self._buffer[:end]
            self.taken += 1
            self._count(now, TEXTS_A_FRAME)
            if kind == CHUNK:
                self._chunk(payload)
                continue
            message = parse(payload)
            if not isinstance(message, StreamOpened):
                return message
            self._open(message)
        return None

    def take(self, stream: int) -> bytearray:
        """Return the whole content of a stream that a message named, once. Raises ProtocolViolation.

        It is the memory that it came in: a copy of half a gigabyte would hold up everybody else for a second.
        """
        size, data = self._streams.pop(stream, (-1, bytearray()))
        if len(data) != size:
            msg = f"stream {stream} is not complete"
            raise ProtocolViolation(msg)
        return data

    def _head(self) -> tuple[int, int] | None:
        """Return the kind of the next frame, and where it ends, if it is whole."""
        if len(self._buffer) < HEADER.size:
            return None
        length, kind, number, sent_at = HEADER.unpack_from(self._buffer)
        if not COUNTED <= length <= MAX_FRAME or kind > TEXT:
            msg = f"a frame of kind {kind} and length {length}"
            raise ProtocolViolation(msg)
        if number != self.taken % NUMBERS + 1:
            msg = f"frame {number} after frame {self.taken}"
            raise ProtocolViolation(msg)
        if len(self._buffer) < 4 + length:
            return None
        self.sent_at = sent_at
        return kind, 4 + length

    def _texts(self, now: float) -> Written:
        """Take the write that comes next, and those to the same stream behind it; what is wrong is left to be found."""
        buffer, texts = self._buffer, []
        stream = buffer[HEADER.size : HEADER.size + 1]
        start = size = 0
        while size < TEXTS_MAX and start + HEADER.size < len(buffer):
            length, kind, number, _ = HEADER.unpack_from(buffer, start)
            begin, end = start + HEADER.size, start + 4 + length
            expected = kind == TEXT and number == self.taken % NUMBERS + 1 and length > COUNTED + 1
            if not expected or end > len(buffer) or buffer[begin : begin + 1] != stream:
                break
            try:
                texts.append(str(memoryview(buffer)[begin + 1 : end], "utf-8"))
            except UnicodeDecodeError:
                break
            size += end - begin
            start = end
            self.taken += 1
        if bytes(stream) not in _STREAMS or not texts:
            # One without content costs its sender nothing, and could come for ever.
            msg = "a write without content, to no stream, or not in UTF-8"
            raise ProtocolViolation(msg)
        del buffer[:start]
        self._count(now, len(texts))
        return Written(_STREAMS[bytes(stream)], texts)

    def _count(self, now: float, weight: int) -> None:
        self._recent += weight
        if now - self._window > FRAMES_WINDOW:
            self._recent, self._window = weight, now
        elif self._recent > MAX_FRAMES * TEXTS_A_FRAME:
            msg = f"more than {MAX_FRAMES} frames within {FRAMES_WINDOW:g} s"
            raise ProtocolViolation(msg)

    def _open(self, opened: StreamOpened) -> None:
        if opened.size > MAX_STREAM:
            msg = f"stream {opened.id} has {opened.size} bytes, and the most is {MAX_STREAM}"
            raise StreamTooLarge(msg)
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
