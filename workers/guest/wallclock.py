"""The wall clock of an execution: which thread reads in which lane, what is replayed, what is reported.

An item of a record is ``["c", lane, window, value, count, step, count, step, count, ...]``: a lane's readings in one
window, each value (ns since 1970) as its distance from the one before, with how many readings gave it.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from . import patches
from .readings import Entry, Readings
from .replay import CLOCK
from .shim import Shim, preloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .lineage import Node

__all__ = ["WallClock", "take_over"]

#: The main thread's lane.
_MAIN = 0


class Backend(Protocol):
    """What keeps the readings: the preloaded library, or its substitute."""

    @property
    def next(self) -> Callable[[], object]: ...
    @property
    def beside(self) -> Callable[[int], int]: ...

    def switch(self, *, on: bool) -> None: ...
    def reset(self) -> None: ...
    def enter(self, number: int) -> bool: ...
    def feed(self, number: int, entries: Sequence[Entry]) -> None: ...
    def renew(self, number: int) -> None: ...
    def drain(self, number: int) -> list[Entry]: ...


_backend: Backend | None = None


def take_over() -> Backend:
    """Take over the clock, the order of directories and what the machine counts: once, before any foreign import."""
    global _backend  # noqa: PLW0603 - one process, one clock
    if _backend is None:
        patches.fix_cpu_count()
        _backend = preloaded()
        if isinstance(_backend, Shim):
            _backend.sort_directories()
        else:
            _backend = Readings(time.time_ns)
            patches.take_over_clock(_backend)
            patches.sort_directories()
    return _backend


class WallClock:
    """The lanes of this process; the main program's is there from the start."""

    def __init__(self) -> None:
        self._backend = take_over()
        self.shim = self._backend if isinstance(self._backend, Shim) else None
        #: A delivery is consumed in this thread.
        self.next: Callable[[], object] = self._backend.next
        #: This thread reads beside the code (1), or as the code (0).
        self.beside: Callable[[int], int] = self._backend.beside
        # Taken again by whoever prints in a signal handler or a finalizer: a message carries a report.
        self._lock = threading.RLock()
        self._here = threading.local()
        self._lanes: dict[int, Node | None] = {_MAIN: None}
        self._free: list[int] = []
        self._ended: list[list[Any]] = []
        self._recorded: dict[str, list[Entry]] = {}
        self._execution = ""
        self._on = False
        self._backend.enter(_MAIN)

    def begin(self, execution: str, items: Iterable[Sequence[Any]]) -> None:
        """Begin an execution, with the readings that it replays."""
        self._recorded = {}
        for _kind, lane, window, *rest in items:
            value, entries = 0, self._recorded.setdefault(lane, [])
            for step, count in zip(rest[::2], rest[1::2], strict=True):
                value += step
                entries.append(Entry(value, count, window))
        with self._lock:
            self._execution = execution
            self._ended.clear()
            # An import that was interrupted as it ended has left it on.
            self._backend.beside(0)
            self._backend.reset()
            for number in self._lanes:
                self._feed(number)
        self._on = True
        self._backend.switch(on=True)

    def end(self) -> None:
        """End it: nothing is recorded until the next one begins."""
        self._on = False
        self._backend.switch(on=False)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Return a context in which the clock is the real one: hooks of a checkpoint run."""
        self._backend.switch(on=False)
        try:
            yield
        finally:
            self._backend.switch(on=self._on)

    @contextmanager
    def lane(self, node: Node) -> Iterator[None]:
        """Return a context in which this thread reads in a lane of its own: a thread, or a piece of a pool's work."""
        with self._lock:
            number = self._free.pop() if self._free else len(self._lanes)
            self._lanes[number] = node
        before = getattr(self._here, "number", -1)
        entered = self._backend.enter(number)
        if entered:
            self._here.number = number
            self._backend.renew(number)
            self._feed(number)
        try:
            yield
        finally:
            self._here.number = before
            self._backend.enter(before)
            with self._lock:
                if entered:
                    self._ended += self._items(number)
                    self._free.append(number)

    def report(self) -> list[list[Any]]:
        """Return what was read since the last report, as items of a record."""
        with self._lock:
            items, self._ended = self._ended, []
            for number in self._lanes:
                if number not in self._free:
                    items += self._items(number)
        return items

    def _name(self, number: int) -> str:
        node = self._lanes[number]
        return "main" if node is None else node.path(self._execution)

    def _feed(self, number: int) -> None:
        entries = self._recorded.pop(self._name(number), None)
        if entries:
            self._backend.feed(number, entries)

    def _items(self, number: int) -> list[list[Any]]:
        items: list[list[Any]] = []
        window, before = -1, 0
        for entry in self._backend.drain(number):
            if entry.window != window:
                window, before = entry.window, 0
                items.append([CLOCK, self._name(number), window])
            items[-1] += [entry.value - before, entry.times]
            before = entry.value
        return items
