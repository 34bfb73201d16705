"""The guest's end of the channel: whole frames out, whole frames in.

1. A frame is written whole or not at all, whatever threads, finalizers and signal handlers do meanwhile.
2. A full channel blocks whoever sends: a flood slows the one who makes it.
3. The end of the channel is the end of this process: nothing of an attempt acts after its worker is gone.
"""

from __future__ import annotations

import json
import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from .orders import check
from .signals import Guard
from .wire import (
    CHUNK,
    MESSAGE,
    TEXT,
    Chunk,
    Decoder,
    Framer,
    Streams,
    as_json,
    chunk_payloads,
    message_payload,
    with_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .signals import Critical
    from .wire import Message

__all__ = ["EXIT_CHANNEL", "Channel"]

#: Bytes asked of the socket at once: a message's. Room for much more would be mapped, cleared and unmapped again for
#: every reply, which costs more than all that is done with it; bytes of streams are read to where they stay.
READ_SIZE = 16 << 10
#: The byte before the text of a write.
_STREAMS = {1: b"\x01", 2: b"\x02"}
_NAMES = {1: "stdout", 2: "stderr"}
#: Exit code of a guest whose worker is gone or spoke nonsense (EX_PROTOCOL of sysexits.h).
EXIT_CHANNEL = 76


class Channel:
    """Descriptor, decoder and outbox. ``report`` gives what the next message must carry as ``entered``."""

    def __init__(self, fd: int, critical: Critical) -> None:
        self.fd = fd
        self.streams = Streams()
        self.report: Callable[[], dict[str, Any] | None] = lambda: None
        self._decoder = Decoder()
        #: A chunk whose bytes are read to where they stay: its stream, and how many are to come.
        self._filling: tuple[int, int] | None = None
        self._more = select.poll()
        self._more.register(fd, select.POLLIN)
        self._framer = Framer()
        #: Kind, payload, and whether it carries the deliveries consumed.
        self._outbox: deque[tuple[int, bytes, bool]] = deque()
        self._guard = Guard(critical)
        self._sender = 0
        self._stream_ids = 0

    def send(self, message: Message, *, entered: bool = False) -> None:
        """Send a message, blocking while the channel is full; with ``entered`` it carries the deliveries consumed."""
        self._outbox.append((MESSAGE, message_payload(message), entered))
        self._drain()

    def send_payload(self, payload: bytes) -> None:
        """Send a message that is encoded already; it carries the deliveries consumed."""
        self._outbox.append((MESSAGE, payload, True))
        self._drain()

    def send_text(self, fd: int, data: bytes) -> None:
        """Send one write of a stream, UTF-8; like a message, it carries the deliveries consumed."""
        self._outbox.append((TEXT, _STREAMS[fd] + data, True))
        self._drain()

    def send_stream(self, *pieces: bytes | memoryview) -> int:
        """Send a stream, its bytes in pieces; return its id, for the message that uses it."""
        self._stream_ids += 1
        stream = self._stream_ids
        self.send({"t": "stream", "id": stream, "size": sum(map(len, pieces))})
        for piece in pieces:
            for payload in chunk_payloads(stream, piece):
                self._outbox.append((CHUNK, payload, False))
                self._drain()
        return stream

    def receive(self) -> Iterator[Message]:
        """Read what is there, when the descriptor is readable; yield the messages that are complete now.

        The caller holds a Critical: bytes that were read and not decoded would be lost.
        """
        while True:
            if self._filling is not None:
                self._fill(*self._filling)
            else:
                # No further than to where the bytes of a stream begin: half a gigabyte is not copied once more.
                yield from self._frames(self._decoder.missing() if self.streams.unfinished else READ_SIZE)
            if not self.streams.unfinished or not self._more.poll(0):
                return

    def _fill(self, stream: int, left: int) -> None:
        """Read bytes of a stream to where they stay."""
        try:
            count = os.readv(self.fd, [self.streams.space(stream, left)])
        except OSError:
            count = 0
        if not count:
            os._exit(EXIT_CHANNEL)
        self.streams.filled(stream, count)
        self._filling = (stream, left - count) if count < left else None

    def _frames(self, size: int) -> Iterator[Message]:
        try:
            data = os.read(self.fd, size)
        except OSError:
            data = b""
        if not data:
            os._exit(EXIT_CHANNEL)
        for frame in self._decoder.feed(data):
            if isinstance(frame, Chunk):
                self.streams.add(frame)
            elif check(frame)["t"] == "stream":
                self.streams.announce(frame["id"], frame["size"])
            else:
                yield frame
        if (begun := self._decoder.begun()) is not None:
            chunk, left = begun
            self.streams.add(chunk)
            self._filling = chunk.stream, left

    def content(self, holder: dict[str, Any], key: str) -> Any:
        """Return ``holder[key]``, or the JSON in the stream that ``key_stream`` names; None if it has neither."""
        stream = holder.get(f"{key}_stream")
        return holder.get(key) if stream is None else json.loads(self.streams.take(stream))

    def _drain(self) -> None:
        me = threading.get_ident()
        while self._outbox:
            # A finalizer that ran while this thread was writing: the writer below us goes on with what it added.
            if self._sender == me:
                return
            with self._guard:
                self._sender = me
                try:
                    while self._outbox:
                        kind, payload, entered = self._outbox.popleft()
                        if entered and (report := self.report()) is not None:
                            kind, payload = MESSAGE, _with_entered(kind, payload, report)
                        frame = self._framer.frame(kind, payload)
                        try:
                            sent = os.write(self.fd, frame)
                        except OSError:
                            os._exit(EXIT_CHANNEL)
                        if sent < len(frame):
                            self._write(memoryview(frame)[sent:])
                finally:
                    self._sender = 0

    def _write(self, view: memoryview) -> None:
        while view:
            try:
                view = view[os.write(self.fd, view) :]
            except OSError:
                os._exit(EXIT_CHANNEL)


def _with_entered(kind: int, payload: bytes, report: dict[str, Any]) -> bytes:
    if kind == TEXT:
        text = payload[1:].decode()
        return message_payload({"t": "output", "stream": _NAMES[payload[0]], "text": text, "entered": report})
    return with_json(payload, "entered", as_json(report))
