"""Running the pickling hooks of user code so that they leave no trace.

1. What a hook prints is discarded, what it draws from the global generators is put back, and it makes no call.
2. A hook that runs longer than its budget is stopped, and costs only its own object.
3. A hook that forks does not get a second process that goes on as the guest.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import threading
import warnings
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

# One hook may take this long. Pickling a large array in C takes tens of milliseconds per gigabyte, so a hook
# that needs seconds computes or waits; the rest of the checkpoint, and the client, wait with it.
HOOK_SECONDS = 5.0

# How often the clock is looked at while hooks run: a signal every so often costs nothing, a clock reading
# around every object would.
_TICK = 0.25


class HookTimeout(BaseException):
    """A pickling hook ran longer than its budget; not an `Exception`, so that the hook does not swallow it."""


class Watch:
    """Calls hooks and stops the one that runs too long (on the main thread, which alone gets signals)."""

    def __init__(self, seconds: float = HOOK_SECONDS) -> None:
        self._limit = max(1, round(seconds / _TICK))
        self._ticks = 0
        self._since: int | None = None
        self._idle = False
        """Whether the first hook is to start the clock: most checkpoints call none, and starting it is dear."""
        self._stop: Callable[[], None] | None = None
        self.seconds = seconds

    def call(self, hook: Callable[..., Any], *args: Any) -> Any:
        """Return `hook(*args)`, or raise `HookTimeout` once it has used up its budget."""
        global _before  # noqa: PLW0603 - one guest, one main thread: the state is the process's
        if _before is None:
            _before = _generator_states()
        if self._idle:
            self._start()
        outer = self._since
        self._since = self._ticks
        try:
            return hook(*args)
        finally:
            self._since = outer

    def __enter__(self) -> None:
        """Count the time of hooks while the body runs; a timer of the user's own goes on afterwards where it was."""
        self._idle = threading.get_ident() == threading.main_thread().ident

    def __exit__(self, *_: object) -> None:
        self._idle = False
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()

    def _start(self) -> None:
        self._idle = False
        begun = monotonic()
        handler = signal.signal(signal.SIGALRM, self._tick)
        left, interval = signal.setitimer(signal.ITIMER_REAL, _TICK, _TICK)

        def stop() -> None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
            if left:
                signal.setitimer(signal.ITIMER_REAL, max(left - (monotonic() - begun), 1e-6), interval)

        self._stop = stop

    def _tick(self, _signal: int, _frame: FrameType | None) -> None:
        self._ticks += 1
        if self._since is not None and self._ticks - self._since > self._limit:
            raise HookTimeout(f"it ran for more than {self.seconds:g} seconds")


class _Sink(io.TextIOBase):
    """Takes what hooks print."""

    encoding = "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        return len(text)

    def close(self) -> None:
        """Stay open, for the hooks to come."""


# One for all: to let go of a file is to close it, which takes as long as a small value does.
_sink = _Sink()

_running = 0

# The global generators as they were before the first hook that this checkpoint called; None before that.
_before: list[tuple[Callable[[Any], None], Any]] | None = None


def hooks_running() -> bool:
    """Say whether a checkpoint is being made or loaded: a call asked for now must be refused."""
    return _running > 0


class untraced:  # noqa: N801 - used as a function is
    """Run the body with output discarded, the collector off, and the global generators put back after it."""

    __slots__ = ("_collecting", "_process", "_streams")

    def __enter__(self) -> None:
        global _running, _before  # noqa: PLW0603 - as above
        _before = None
        self._process = os.getpid()
        self._streams = sys.stdout, sys.stderr
        self._collecting = gc.isenabled()
        gc.disable()
        sys.stdout = sys.stderr = _sink
        _running += 1

    def __exit__(self, *_: object) -> None:
        global _running  # noqa: PLW0603 - as above
        _running -= 1
        if os.getpid() != self._process:
            os._exit(0)
        sys.stdout, sys.stderr = self._streams
        _put_back()
        if self._collecting:
            gc.enable()


class unwarned:  # noqa: N801 - used as a function is
    """Run the body with warnings discarded: what Python will one day refuse to pickle is stored as long as it can be.

    `warnings.catch_warnings` would leave a trace: told of a change, the module forgets what it showed, and shows it
    again.
    """

    __slots__ = ("_filters",)

    def __enter__(self) -> None:
        self._filters = warnings.filters
        warnings.filters = [("ignore", None, Warning, None, 0)]

    def __exit__(self, *_: object) -> None:
        warnings.filters = self._filters


def _put_back() -> None:
    """Undo what hooks drew from the global generators."""
    global _before  # noqa: PLW0603 - as above
    if _before is not None:
        for put_back, state in _before:
            put_back(state)
    _before = None


def _generator_states() -> list[tuple[Callable[[Any], None], Any]]:
    states: list[tuple[Callable[[Any], None], Any]] = []
    random = sys.modules.get("random")
    if random is not None:
        states.append((random.setstate, random.getstate()))
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        states.append((numpy_random.set_state, numpy_random.get_state(legacy=False)))
    return states
