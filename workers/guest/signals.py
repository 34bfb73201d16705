"""Signal handlers wait while the runtime must not be cut in two; no other file installs one.

1. A handler, ours or the user's, never runs between a byte written to the channel and the note that it was.
2. A deferred handler runs as soon as that is over, in the main thread, and may raise there as usual.
"""

from __future__ import annotations

import signal
import threading
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    type Handler = Callable[[int, FrameType | None], Any]

__all__ = ["Critical", "Guard", "install"]


class Critical:
    """A region of the main thread that no signal handler may cut; other threads never run handlers."""

    __slots__ = ("_depth", "_main", "_waiting")

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._depth = 0
        self._waiting: list[tuple[Handler, int, FrameType | None]] = []

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() == self._main:
            self._depth -= 1
            while self._waiting and not self._depth:
                handler, number, frame = self._waiting.pop(0)
                handler(number, frame)

    def run(self, handler: Handler, number: int, frame: FrameType | None) -> None:
        """Run a handler now, or when the region ends."""
        if self._depth:
            self._waiting.append((handler, number, frame))
        else:
            handler(number, frame)


class Guard:
    """A lock whose holder cannot be cut by a signal handler. Finalizers that run inside may take it again."""

    __slots__ = ("_critical", "_lock")

    def __init__(self, critical: Critical) -> None:
        self._critical = critical
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._critical.__enter__()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._critical.__exit__()


def install(critical: Critical) -> None:
    """Make ``signal.signal`` install handlers that wait for ``critical``; ``getsignal`` returns the user's own."""
    set_handler, get_handler = signal.signal, signal.getsignal

    def ours(handler: Handler) -> Handler:
        def deferred(number: int, frame: FrameType | None) -> None:
            critical.run(handler, number, frame)

        deferred.perdure_handler = handler  # type: ignore[attr-defined]
        return deferred

    def theirs(handler: Any) -> Any:
        return getattr(handler, "perdure_handler", handler)

    @wraps(set_handler)
    def set_deferred(signalnum: int, handler: Any) -> Any:
        wrapped = ours(handler) if callable(handler) and not isinstance(handler, int) else handler
        return theirs(set_handler(signalnum, wrapped))

    @wraps(get_handler)
    def get_original(signalnum: int) -> Any:
        return theirs(get_handler(signalnum))

    signal.signal = set_deferred
    signal.getsignal = get_original
