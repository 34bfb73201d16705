"""The host's end of the channel to a guest.

1. The guest is hostile: a length is checked before its payload is kept, and anything unexpected ends it (law 7).
2. Reading waits for the handler, so a flood of messages slows the guest, not the host; nor do other guests wait for it.
3. A guest that does not read holds up only what is sent to it: code may compute for hours and read nothing meanwhile.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any

from perdure.engine.refs import dumped

from .messages import ProtocolViolation, StreamOpened, parse

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from .messages import FromGuest

__all__ = ["MAX_FRAME", "MAX_STREAM", "Link", "LinkClosed"]

#: The largest frame, kind and payload: large enough that framing costs nothing, small enough to be held twice.
MAX_FRAME = 1 << 20
#: The largest stream: a namespace image. Beyond this a guest needs another way to keep its data.
MAX_STREAM = 4 << 30
#: Streams a guest may have open or unused at once: one value and one image, with room.
MAX_STREAMS = 8
#: Bytes of all streams that a guest has open or unused at once.
MAX_STREAMED = MAX_STREAM + (64 << 20)
#: Seconds from the first byte of a frame to its last: a guest writes a frame at once, a loaded machine may not.
FRAME_TIMEOUT = 30.0
#: Frames within so many seconds. Honest ones are slowed by what is done with them, to far below this.
MAX_FRAMES, FRAMES_WINDOW = 200_000, 10.0
#: Frames after which others of the loop have their turn.
TURN = 64
#: Bytes asked of the socket at once.
READ_SIZE = 256 << 10
#: Payload of one chunk of ours.
CHUNK = 256 << 10

_HEADER = struct.Struct(">IB")
_STREAM = struct.Struct(">I")
_MESSAGE, _CHUNK = 0, 1


class LinkClosed(Exception):
    """The guest's end of the channel is gone."""


class Link:
    """Frames to and from one guest, over a connected stream socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._streams: dict[int, tuple[int, bytearray]] = {}
        self._next_stream = 1
        #: What was read and is not a whole frame yet: whoever reads may be cancelled in between.
        self._buffer = bytearray()
        self._frames, self._window = 0, 0.0
        #: A guest that was stopped may be in the middle of a frame for as long as it is.
        self.frozen = False

    @classmethod
    async def over(cls, sock: socket.socket) -> Link:
        """Wrap our end of a socket pair; the link owns it."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=MAX_FRAME * 2)
        return cls(reader, writer)

    # -- from the guest ---------------------------------------------------------

    async def receive(self) -> FromGuest:
        """Return the next message, streams put together on the way. Raises LinkClosed, ProtocolViolation."""
        while True:
            kind, payload = await self._frame()
            if kind == _CHUNK:
                self._chunk(payload)
                continue
            message = parse(payload)
            if not isinstance(message, StreamOpened):
                return message
            self._open(message)

    async def pump(self, handle: Callable[[FromGuest], Awaitable[None]]) -> None:
        """Hand every message to ``handle``, one after another, until the link closes or the guest misbehaves."""
        while True:
            await handle(await self.receive())

    def take(self, stream: int) -> bytes:
        """Return the whole content of a stream that a message named, once. Raises ProtocolViolation."""
        size, data = self._streams.pop(stream, (-1, bytearray()))
        if len(data) != size:
            msg = f"stream {stream} is not complete"
            raise ProtocolViolation(msg)
        return bytes(data)

    async def _frame(self) -> tuple[int, bytes]:
        if self._frames % TURN == TURN - 1:
            # Frames that are here already are read without a wait, and would keep everybody else from running.
            await asyncio.sleep(0)
        began: float | None = None
        while (frame := self._whole()) is None:
            loop = asyncio.get_running_loop()
            if self._buffer and began is None:
                began = loop.time()
            try:
                async with asyncio.timeout_at(None if began is None else began + FRAME_TIMEOUT):
                    data = await self._reader.read(READ_SIZE)
            except TimeoutError:
                if self.frozen:
                    began = None
                    continue
                msg = f"a frame was not finished within {FRAME_TIMEOUT:g} s"
                raise ProtocolViolation(msg) from None
            except ConnectionError as exc:
                msg = "the guest closed its channel"
                raise LinkClosed(msg) from exc
            if not data:
                msg = "the guest closed its channel"
                raise LinkClosed(msg)
            self._buffer += data
        self._count()
        return frame

    def _whole(self) -> tuple[int, bytes] | None:
        """Take the first frame out of what was read, if it is whole."""
        if len(self._buffer) < _HEADER.size:
            return None
        length, kind = _HEADER.unpack_from(self._buffer)
        if not 1 <= length <= MAX_FRAME or kind not in (_MESSAGE, _CHUNK):
            msg = f"a frame of kind {kind} and length {length}"
            raise ProtocolViolation(msg)
        end = _HEADER.size + length - 1
        if len(self._buffer) < end:
            return None
        payload = bytes(memoryview(self._buffer)[_HEADER.size : end])
        del self._buffer[:end]
        return kind, payload

    def _count(self) -> None:
        self._frames += 1
        now = asyncio.get_running_loop().time()
        if now - self._window > FRAMES_WINDOW:
            self._frames, self._window = 0, now
        elif self._frames > MAX_FRAMES:
            msg = f"more than {MAX_FRAMES} frames within {FRAMES_WINDOW:g} s"
            raise ProtocolViolation(msg)

    def _open(self, opened: StreamOpened) -> None:
        total = opened.size + sum(size for size, _ in self._streams.values())
        if opened.id in self._streams or len(self._streams) >= MAX_STREAMS or total > MAX_STREAMED:
            msg = f"stream {opened.id} of {opened.size} bytes refused"
            raise ProtocolViolation(msg)
        self._streams[opened.id] = (opened.size, bytearray())

    def _chunk(self, payload: bytes) -> None:
        if len(payload) <= _STREAM.size:
            # One without content costs its sender nothing, and could come for ever.
            msg = "a chunk without content"
            raise ProtocolViolation(msg)
        (stream,) = _STREAM.unpack_from(payload)
        size, data = self._streams.get(stream, (-1, bytearray()))
        if len(data) + len(payload) - _STREAM.size > size:
            msg = f"stream {stream} is longer than announced"
            raise ProtocolViolation(msg)
        data += memoryview(payload)[_STREAM.size :]

    # -- to the guest -------------------------------------------------------------

    async def send(self, message: dict[str, Any]) -> None:
        """Send one message (which must fit a frame). Raises LinkClosed."""
        payload = dumped(message)
        self._put(_MESSAGE, payload)
        await self._drain()

    async def send_stream(self, data: bytes | memoryview | Sequence[bytes]) -> int:
        """Send bytes of any length, or pieces in order; returns the number by which the next message can name them."""
        pieces = [data] if isinstance(data, bytes | memoryview) else data
        stream = self._next_stream
        self._next_stream += 1
        await self.send({"t": "stream", "id": stream, "size": sum(map(len, pieces))})
        head = _STREAM.pack(stream)
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(view), CHUNK):
                self._put(_CHUNK, head + view[start : start + CHUNK])
                await self._drain()
        return stream

    def _put(self, kind: int, payload: bytes) -> None:
        if len(payload) + 1 > MAX_FRAME:
            msg = f"a message of {len(payload)} bytes does not fit a frame"
            raise ValueError(msg)
        if self._writer.is_closing():
            msg = "the guest closed its channel"
            raise LinkClosed(msg)
        self._writer.write(_HEADER.pack(len(payload) + 1, kind) + payload)

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError as exc:
            msg = "the guest closed its channel"
            raise LinkClosed(msg) from exc

    def close(self) -> None:
        """Close our end."""
        self._writer.close()
