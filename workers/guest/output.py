"""What the code writes: streams whose every line is a message, and the raw descriptors 1 and 2.

1. Where one write ends and the next begins depends on what is written, never on time: at the last line end of a
   ``write``, at a flush, before any message, before waiting, at the end, and at WRITE_MAX characters.
2. What is written to descriptors (by extensions, ``os.write``) lands in files of ours and goes before the next message.
3. What is cut is said, once, in the output itself.
"""

from __future__ import annotations

import base64
import codecs
import io
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Never

__all__ = ["Output", "memory_file"]

#: Characters of one write: twelve bytes each at worst in a message's JSON, so that a frame (1 MiB) has room for more.
WRITE_MAX = 32 << 10
#: Bytes collected without a line end before they are sent.
HELD_MAX = 64 << 10
#: Bytes of a raw file that were sent before it is emptied.
RAW_KEPT = 1 << 20
#: Bytes read from a raw file at once.
RAW_READ = 256 << 10

_NAMES = {1: "stdout", 2: "stderr"}


class Sink(io.RawIOBase):
    """The binary end of one stream; what ``sys.stdout.buffer`` is."""

    def __init__(self, output: Output, fd: int) -> None:
        super().__init__()
        self._output = output
        self._fd = fd
        self.name = f"<{_NAMES[fd]}>"
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        if self.closed:
            raise ValueError("write to closed file")
        return self._output.write(self._fd, bytes(data))

    def flush(self) -> None:
        super().flush()
        self._output.flush_stream(self._fd)


class NoInput(io.TextIOBase):
    """``sys.stdin``: there is none; ``input()`` is a call."""

    name = "<stdin>"
    encoding = "utf-8"

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 0

    def isatty(self) -> bool:
        return False

    def _none(self, *_: object) -> NoReturn:
        msg = "there is no standard input here: input() asks, and waits as long as it takes"
        raise io.UnsupportedOperation(msg)

    def read(self, size: int | None = -1, /) -> Never:
        self._none(size)

    def readline(self, size: int = -1, /) -> Never:  # type: ignore[override]
        self._none(size)

    def __next__(self) -> Never:
        self._none()


class Output:
    """Both streams of the process."""

    def __init__(self, send: Callable[[int, bytes], None], limit: int) -> None:
        self._send = send
        self._limit = limit
        self._sent = 0
        #: Characters that were cut in this execution.
        self.cut = 0
        self._held: dict[int, deque[bytes]] = {1: deque(), 2: deque()}
        #: Whether a stream's decoder has half a character.
        self._half = {1: False, 2: False}
        self._size = {1: 0, 2: 0}
        self._decoders = {fd: codecs.getincrementaldecoder("utf-8")("backslashreplace") for fd in _NAMES}
        self._raw: dict[int, RawFile] = {}
        self.forked = False

    def streams(self) -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
        """Return what ``sys.stdout`` and ``sys.stderr`` are to be."""
        return self._stream(1, "surrogateescape"), self._stream(2, "backslashreplace")

    def _stream(self, fd: int, errors: str) -> io.TextIOWrapper:
        stream = io.TextIOWrapper(Sink(self, fd), encoding="utf-8", errors=errors, newline="\n", write_through=True)
        stream.mode = "w"  # type: ignore[misc]
        return stream

    def take_descriptors(self) -> list[int]:
        """Point descriptors 1 and 2 at files of ours; return the descriptors that must stay open for it."""
        self._raw = {fd: RawFile(fd) for fd in _NAMES}
        return [raw.fd for raw in self._raw.values()]

    def begin(self, limit: int) -> None:
        """Start counting for an execution."""
        self._limit = limit
        self._sent = self.cut = 0

    def state(self) -> dict[str, Any]:
        """Return what a step that ends inside an execution carries over; nothing is sent for it.

        Flushed here, a replay that ends its step elsewhere would write otherwise than the first run did.
        """
        return {
            "sent": self._sent,
            "cut": self.cut,
            "held": {str(fd): _text(b"".join(held)) for fd, held in self._held.items()},
            "half": {str(fd): _text(decoder.getstate()[0]) for fd, decoder in self._decoders.items()},
            "raw": {str(fd): _text(raw.unread()) for fd, raw in self._raw.items()},
        }

    def too_much(self) -> int:
        """Return how many bytes wait in the raw files, if they are more than a step's end should carry over."""
        waits = sum(raw.waits() for raw in self._raw.values())
        return waits if waits > RAW_KEPT else 0

    def resume(self, limit: int, state: dict[str, Any]) -> None:
        """Go on in an execution where ``state`` was taken."""
        self._limit, self._sent, self.cut = limit, state["sent"], state["cut"]
        for name, text in state["held"].items():
            data = base64.b64decode(text)
            self._held[int(name)] = deque([data] if data else [])
            self._size[int(name)] = len(data)
        for name, text in state["half"].items():
            half = base64.b64decode(text)
            self._decoders[int(name)].setstate((half, 0))
            self._half[int(name)] = bool(half)
        for name, text in state["raw"].items():
            os.write(self._raw[int(name)].fd, base64.b64decode(text))

    def drop_raw(self) -> Callable[[], None]:
        """Return what throws away everything that is written to descriptors from now on until it is called."""
        marks = {fd: raw.size() for fd, raw in self._raw.items()}

        def drop() -> None:
            for fd, raw in self._raw.items():
                if raw.size() > marks[fd]:
                    os.ftruncate(raw.fd, marks[fd])

        return drop

    def write(self, fd: int, data: bytes) -> int:
        """Take bytes of a stream."""
        if self.forked:
            return os.write(fd, data)
        self._held[fd].append(data)
        self._size[fd] += len(data)
        # Most writes end with their line: this is the path of every print.
        end = len(data) if data.endswith(b"\n") else max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if end:
            self._flush_held(fd, len(data) - end)
        elif self._size[fd] >= HELD_MAX:
            self._flush_held(fd, 0)
        return len(data)

    def flush_stream(self, fd: int) -> None:
        """Send what a stream holds."""
        if not self.forked and self._held[fd]:
            self._flush_held(fd, 0)

    def flush(self) -> None:
        """Send everything that was written so far, raw writes included."""
        if self.forked:
            return
        for fd in _NAMES:
            if self._held[fd]:
                self._flush_held(fd, 0)
        self._flush_raw()

    def _flush_raw(self) -> None:
        for fd, raw in self._raw.items():
            while raw.grown() and (data := raw.read()):
                self._emit(fd, data)

    def _flush_held(self, fd: int, keep: int) -> None:
        """Send what is held but for the last ``keep`` bytes. Other threads may add meanwhile: nothing is lost."""
        self._flush_raw()
        held = self._held[fd]
        pieces: list[bytes] = []
        while held:
            pieces.append(held.popleft())
        data = b"".join(pieces)
        self._size[fd] -= len(data)
        if keep:
            held.appendleft(data[-keep:])
            self._size[fd] += keep
            data = data[:-keep]
        self._emit(fd, data)

    def _emit(self, fd: int, data: bytes) -> None:
        size = len(data)
        if size <= WRITE_MAX and self._sent + size <= self._limit and not self._half[fd] and data.isascii():
            if data:
                self._sent += size
                self._send(fd, data)
            return
        decoder = self._decoders[fd]
        text = decoder.decode(data)
        self._half[fd] = bool(decoder.getstate()[0])
        room = self._limit - self._sent
        if room < 0:
            self.cut += len(text)
            return
        self._sent += len(text)
        if len(text) > room:
            self.cut += len(text) - room
            text = f"{text[:room]}\n[output cut: more than {self._limit} characters in one execution]\n"
            self._sent = self._limit + 1
        for start in range(0, len(text), WRITE_MAX):
            self._send(fd, text[start : start + WRITE_MAX].encode())


class RawFile:
    """What is written to a descriptor behind the streams' back."""

    def __init__(self, target: int) -> None:
        self.fd = memory_file(f"fd{target}")
        os.dup2(self.fd, target)
        self._read = 0
        self._reading = threading.Lock()

    def size(self) -> int:
        """Return how many bytes the file holds."""
        return os.fstat(self.fd).st_size

    def grown(self) -> bool:
        """Whether there are bytes that are new; asked before every line that is written."""
        # Half the price of a stat. Where it leaves the descriptor does not matter: who writes appends.
        return os.lseek(self.fd, 0, os.SEEK_END) > self._read

    def waits(self) -> int:
        """Return how many bytes are new."""
        return max(0, self.size() - self._read)

    def unread(self) -> bytes:
        """Return bytes that are new and leave them there."""
        return os.pread(self.fd, self.waits(), self._read)

    def read(self) -> bytes:
        """Return bytes that are new, at most RAW_READ; nothing while another thread, or who was interrupted, reads."""
        if not self._reading.acquire(blocking=False):
            return b""
        try:
            return self._new()
        finally:
            self._reading.release()

    def _new(self) -> bytes:
        size = os.fstat(self.fd).st_size
        if size <= self._read:
            return b""
        data = os.pread(self.fd, min(RAW_READ, size - self._read), self._read)
        self._read += len(data)
        # With one thread nobody can write between the look and the cut.
        if self._read == size and size >= RAW_KEPT and threading.active_count() == 1:
            os.ftruncate(self.fd, 0)
            self._read = 0
        return data


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def memory_file(name: str) -> int:
    """Return a descriptor of a file without a name, opened for appending."""
    import fcntl
    import tempfile

    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    return fd
