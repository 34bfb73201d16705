"""How an execution ended, as data: bounded representations, and tracebacks that show the user's frames."""

from __future__ import annotations

import contextlib
import linecache
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["describe_error", "register_source", "short_repr"]

_HERE = str(Path(__file__).parent)
#: Seconds a ``__repr__`` may take.
REPR_SECONDS = 1.0
#: Characters of a traceback that are kept, from its end.
MAX_TRACEBACK = 50_000
#: Sources kept for tracebacks; the oldest goes first.
MAX_SOURCES = 1000

_sources: dict[str, None] = {}


class _TooSlow(BaseException):
    pass


def register_source(filename: str, source: str) -> None:
    """Let tracebacks show the lines of code that is in no file."""
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    _sources.pop(filename, None)
    _sources[filename] = None
    while len(_sources) > MAX_SOURCES:
        oldest = next(iter(_sources))
        del _sources[oldest]
        linecache.cache.pop(oldest, None)


def short_repr(value: object, limit: int) -> str:
    """Return ``repr(value)`` within a size and a time, whatever the value does."""
    try:
        with _deadline(REPR_SECONDS):
            text = repr(value)
    except _TooSlow:
        return f"<{type(value).__name__} whose repr takes longer than {REPR_SECONDS:g} s>"
    except Exception as exc:
        return f"<{type(value).__name__} whose repr raises {type(exc).__name__}>"
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)


def describe_error(exc: BaseException) -> dict[str, Any]:
    """Return an exception as data, with the traceback of the user's frames only."""
    shown = traceback.TracebackException.from_exception(exc, capture_locals=False)
    _users_frames(shown, set())
    try:
        text = "".join(shown.format())
    except Exception as broken:
        text = f"{type(exc).__name__}: <cannot be shown: {type(broken).__name__}>\n"
    try:
        message = str(exc)
    except Exception as broken:
        message = f"<its message raises {type(broken).__name__}>"
    notes = getattr(exc, "__notes__", [])
    return {
        "type": type(exc).__qualname__,
        "module": type(exc).__module__,
        "message": message[:MAX_TRACEBACK],
        "traceback": text if len(text) <= MAX_TRACEBACK else "...\n" + text[-MAX_TRACEBACK:],
        "line": _line(exc),
        "notes": [str(note)[:1000] for note in notes][:20] if isinstance(notes, list) else [],
    }


def _line(exc: BaseException) -> int | None:
    line = None
    if isinstance(exc, SyntaxError) and exc.filename in _sources:
        return exc.lineno
    tb = exc.__traceback__
    while tb is not None:
        if tb.tb_frame.f_code.co_filename in _sources:
            line = tb.tb_lineno
        tb = tb.tb_next
    return line


def _users_frames(shown: traceback.TracebackException, seen: set[int]) -> None:
    if id(shown) in seen:
        return
    seen.add(id(shown))
    frames = [frame for frame in shown.stack if not frame.filename.startswith(_HERE)]
    first = next((at for at, frame in enumerate(frames) if frame.filename in _sources), None)
    if first is not None:
        frames = frames[first:]
    shown.stack[:] = frames
    for other in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if other is not None:
            _users_frames(other, seen)


def users_line() -> int | None:
    """Return the line of the user's code that is running in this thread, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename in _sources:
            return frame.f_lineno
        frame = frame.f_back
    return None
