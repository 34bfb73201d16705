"""The host's end of the channel to a guest.

1. The guest is hostile: a length is checked before a byte is read, and anything unexpected ends it (law 7).
2. Reading waits for the handler, so a flood of messages slows the guest, not the host.
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
        self._header: tuple[int, int] | None = None

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
        try:
            # The header is kept while its payload is awaited: whoever reads may be cancelled in between.
            if self._header is None:
                self._header = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
            length, kind = self._header
            if not 1 <= length <= MAX_FRAME or kind not in (_MESSAGE, _CHUNK):
                msg = f"frame of kind {kind} and length {length}"
                raise ProtocolViolation(msg)
            payload = await self._reader.readexactly(length - 1)
            self._header = None
            return kind, payload
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            msg = "the guest closed its channel"
            raise LinkClosed(msg) from exc

    def _open(self, opened: StreamOpened) -> None:
        if opened.id in self._streams or len(self._streams) >= MAX_STREAMS or opened.size > MAX_STREAM:
            msg = f"stream {opened.id} of {opened.size} bytes refused"
            raise ProtocolViolation(msg)
        self._streams[opened.id] = (opened.size, bytearray())

    def _chunk(self, payload: bytes) -> None:
        if len(payload) < _STREAM.size:
            msg = "short chunk"
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
