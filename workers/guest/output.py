"""What code prints: text in whole writes, and raw bytes of descriptors 1 and 2, in the order of the program.

1. How text is cut into writes depends on the program alone, never on time, so that a replay makes the same writes.
2. Everything written before a message is sent goes out before it.
"""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Output", "TextStream"]

#: Characters of one write: JSON may make six bytes of each, and a frame holds a MiB.
MAX_WRITE = 150_000


class TextStream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr``: joins what is written up to the end of a line."""

    encoding = "utf-8"
    errors = "surrogateescape"
    newlines = None
    line_buffering = True

    def __init__(self, output: Output, name: str, fd: int) -> None:
        self._output = output
        self._fd = fd
        self.stream = name
        self.name = f"<{name}>"
        self.mode = "w"

    def write(self, text: Any, /) -> int:
        if not isinstance(text, str):
            msg = f"write() argument must be str, not {type(text).__name__}"
            raise TypeError(msg)
        if text:
            self._output.write(self.stream, str.__str__(text))
        return len(text)

    def writelines(self, lines: Iterable[str], /) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._output.flush()

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        self.flush()

    @property
    def buffer(self) -> Any:
        return _Bytes(self)


class _Bytes(io.RawIOBase):
    def __init__(self, text: TextStream) -> None:
        self._text = text

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        raw = bytes(data)
        self._text.write(raw.decode("utf-8", "replace"))
        return len(raw)

    def flush(self) -> None:
        self._text.flush()


class Output:
    """Collects writes and hands them to ``send(stream, text)``; counts against a limit and says what it cut."""

    def __init__(self, send: Callable[[str, str], None], limit: int) -> None:
        self._send = send
        self._limit = limit
        self._lock = threading.RLock()
        self._pending: list[tuple[str, str]] = []
        self._written = 0
        self.cut = 0
        self._raw = {"stdout": _capture(1), "stderr": _capture(2)}

    def begin(self) -> None:
        """Start counting for an execution."""
        self._written = 0
        self.cut = 0

    def write(self, stream: str, text: str) -> None:
        """Take in text; complete lines and large pieces go out at once."""
        with self._lock:
            if self._pending and self._pending[-1][0] == stream:
                self._pending[-1] = (stream, self._pending[-1][1] + text)
            else:
                self._pending.append((stream, text))
            last = self._pending[-1][1]
            if "\n" in text or "\r" in text or len(last) >= MAX_WRITE:
                self._flush_text()

    def flush(self) -> None:
        """Send everything that was written, raw descriptors included."""
        with self._lock:
            self._flush_text()
            for stream, raw in self._raw.items():
                data = raw.drain()
                if data:
                    self._emit(stream, data.decode("utf-8", "replace"))

    def _flush_text(self) -> None:
        while self._pending:
            stream, text = self._pending.pop(0)
            self._emit(stream, text)

    def _emit(self, stream: str, text: str) -> None:
        room = self._limit - self._written
        if len(text) > room:
            self.cut += len(text) - max(room, 0)
            text = text[: max(room, 0)]
        self._written += len(text)
        for start in range(0, len(text), MAX_WRITE):
            self._send(stream, text[start : start + MAX_WRITE])


class _capture:  # noqa: N801 - used like a function
    """A descriptor that writes to memory, read from where the last reading ended."""

    def __init__(self, fd: int) -> None:
        memory = os.memfd_create("output", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{memory}"
        # Opened anew to append: the position of a shared description would be moved by the user's own writes.
        appending = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        os.dup2(appending, fd)
        os.close(appending)
        self.fd = memory
        self._at = 0

    def drain(self) -> bytes:
        try:
            size = os.fstat(self.fd).st_size
            if size <= self._at:
                return b""
            data = os.pread(self.fd, size - self._at, self._at)
            self._at += len(data)
        except OSError:
            return b""
        return data
