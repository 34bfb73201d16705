"""The host's end of the channel to a guest.

1. The guest is hostile: a length is checked before its payload is kept, and anything unexpected ends it (law 7).
2. Reading waits for the handler, so a flood of messages slows the guest, not the host; nor do other guests wait for it.
3. A guest that does not read holds up only what is sent to it: code may compute for hours and read nothing meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from perdure.engine.refs import dumped

from .frames import CHUNK, COUNTED, HEADER, MAX_FRAME, MAX_STREAM, MESSAGE, NUMBERS, STREAM, Frames
from .messages import ProtocolViolation
from .orders import OpenStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from .messages import FromGuest, Written
    from .orders import Order

__all__ = ["MAX_FRAME", "MAX_STREAM", "Link", "LinkClosed"]

#: Seconds from the first byte of a frame to its last: a guest writes a frame at once, a loaded machine may not.
FRAME_TIMEOUT = 30.0
#: Messages after which others of the loop have their turn.
TURN = 64
#: Bytes asked of the socket at once.
READ_SIZE = 256 << 10
#: Payload of one chunk of ours.
CHUNK_SIZE = 256 << 10


class LinkClosed(Exception):
    """The guest's end of the channel is gone."""


class Link:
    """Frames to and from one guest, over a connected stream socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._socket: int = writer.get_extra_info("socket").fileno()
        self._next_stream = 1
        self._number = 0
        #: When something was last heard, on this machine's monotonic clock.
        self.heard_at = time.monotonic()
        #: Keeps what is no whole message yet: whoever reads may be cancelled in between.
        self._frames = Frames()
        self._heard = 0
        #: A guest that was stopped may be in the middle of a frame for as long as it is.
        self.frozen = False

    @classmethod
    async def over(cls, sock: socket.socket) -> Link:
        """Wrap our end of a socket pair; the link owns it."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=MAX_FRAME * 2)
        return cls(reader, writer)

    # -- from the guest ---------------------------------------------------------

    async def receive(self) -> FromGuest | Written:
        """Return the next message, streams put together on the way. Raises LinkClosed, ProtocolViolation."""
        loop = asyncio.get_running_loop()
        if self._heard % TURN == TURN - 1:
            # What is here already is read without a wait, and would keep everybody else from running.
            await asyncio.sleep(0)
        frames, began, taken = self._frames, None, -1
        while (message := frames.next(loop.time())) is None:
            # From the first byte of each frame on, for as long as this side waits for it.
            if not frames.partial:
                began = None
            elif began is None or taken != frames.taken:
                began, taken = loop.time(), frames.taken
            if not await self._more(began):
                began = None
        self._heard += 1
        return message

    async def _more(self, began: float | None) -> bool:
        """Wait for bytes; False if the time for the frame that began is up, but its guest is stopped."""
        try:
            if began is None:  # Nearly always: a guest writes a frame at once.
                data = await self._reader.read(READ_SIZE)
            else:
                async with asyncio.timeout_at(began + FRAME_TIMEOUT):
                    data = await self._reader.read(READ_SIZE)
        except TimeoutError:
            if self.frozen:
                return False
            msg = f"a frame was not finished within {FRAME_TIMEOUT:g} s"
            raise ProtocolViolation(msg) from None
        except ConnectionError as exc:
            msg = "the guest closed its channel"
            raise LinkClosed(msg) from exc
        if not data:
            msg = "the guest closed its channel"
            raise LinkClosed(msg)
        self._frames.feed(data)
        self.heard_at = time.monotonic()
        return True

    async def pump(self, handle: Callable[[FromGuest | Written], Awaitable[None]]) -> None:
        """Hand every message to ``handle``, one after another, until the link closes or the guest misbehaves."""
        while True:
            await handle(await self.receive())

    def take(self, stream: int) -> bytearray:
        """Return the whole content of a stream that a message named, once. Raises ProtocolViolation."""
        return self._frames.take(stream)

    # -- to the guest -------------------------------------------------------------

    async def send(self, order: Order) -> None:
        """Send one message (which must fit a frame). Raises LinkClosed."""
        await self.send_text(dumped(order.to_wire()))

    async def send_text(self, text: bytes) -> None:
        """Send the JSON text of a message (which must fit a frame). Raises LinkClosed."""
        self._put(MESSAGE, text)
        await self._drain()

    def send_text_now(self, text: bytes) -> None:
        """Send it likewise, if the link is idle: nothing needs to be waited for then. Raises LinkClosed."""
        self._put(MESSAGE, text)

    async def send_stream(self, data: bytes | memoryview | Sequence[bytes | memoryview]) -> int:
        """Send bytes of any length, or pieces in order; returns the number by which the next message can name them."""
        pieces = [data] if isinstance(data, bytes | memoryview) else data
        stream = self._next_stream
        self._next_stream += 1
        await self.send(OpenStream(id=stream, size=sum(map(len, pieces))))
        head = STREAM.pack(stream)
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(view), CHUNK_SIZE):
                self._put(CHUNK, head, view[start : start + CHUNK_SIZE])
                await self._drain()
        return stream

    def _put(self, kind: int, payload: bytes, content: memoryview | None = None) -> None:
        """Write a frame: its payload, and content that is not copied."""
        size = len(payload) + (0 if content is None else len(content))
        if size + COUNTED > MAX_FRAME:
            msg = f"a message of {size} bytes does not fit a frame"
            raise ValueError(msg)
        if self._writer.is_closing():
            msg = "the guest closed its channel"
            raise LinkClosed(msg)
        self._number = self._number % NUMBERS + 1
        head = HEADER.pack(size + COUNTED, kind, self._number, time.monotonic_ns()) + payload
        # At once: a loop writes when all else that is ready has run, and a guest waits for just this.
        sent = self._written(head, content) if self.idle else 0
        if sent < len(head):
            self._writer.write(head[sent:])
        if content is not None and sent < len(head) + len(content):
            self._writer.write(content[max(0, sent - len(head)) :])

    @property
    def idle(self) -> bool:
        """Whether everything sent so far is in the guest's socket."""
        return self._writer.transport.get_write_buffer_size() == 0

    def _written(self, head: bytes, content: memoryview | None) -> int:
        try:
            return os.write(self._socket, head) if content is None else os.writev(self._socket, [head, content])
        except BlockingIOError:
            return 0
        except OSError as exc:
            msg = "the guest closed its channel"
            raise LinkClosed(msg) from exc

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError as exc:
            msg = "the guest closed its channel"
            raise LinkClosed(msg) from exc

    def close(self) -> None:
        """Close our end."""
        self._writer.close()
