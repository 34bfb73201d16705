"""Readings of the wall clock, in lanes and windows: recorded, bounded, and given again. No clock of its own.

1. A reading belongs to a lane (a thread that was announced) and to a window (how many deliveries that thread had
   consumed). Recorded readings are given again in their lane and window, to whoever asks there.
2. What is recorded between two drains is bounded: after ``FINE`` readings the clock moves in steps of ``GRANULE``, and
   the steps double with every ``COARSE`` of them. A reading between two steps repeats the last one, and is counted.
3. Within an execution time never runs backwards in a lane, whatever the machine's clock does.
4. A library that is being imported reads beside the code: nothing is recorded for it, and nothing recorded given.

It stands in where libclock.c is not preloaded, and keeps the same rules.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Entry", "Readings"]

#: Readings between two drains that are as fine as the clock: more than code that stamps its records needs.
FINE = 64
#: After that the clock moves in steps of this (ns), doubled after so many of them.
GRANULE = 1_000_000
COARSE = 256


class Entry(NamedTuple):
    """A value (ns since 1970), how many readings gave it, and in which window."""

    value: int
    times: int
    window: int


class _Lane:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.fresh: list[list[int]] = []
        self.begin()

    def begin(self) -> None:
        self.window = self.last = self.last_real = self.used = 0
        self.recorded: deque[Entry] = deque()

    def read(self, real: int, owner: Readings) -> int:
        while self.recorded and self.recorded[0].window < self.window:
            self.recorded.popleft()
            self.used = 0
        value = self._again(real) if self.recorded else self._live(real, owner)
        self.last, self.last_real = value, real
        return value

    def beside(self, real: int, owner: Readings) -> int:
        """Return the time that the code would read, and leave it there."""
        value = self.last + max(0, real - self.last_real) if self.last else real + owner.skew
        return min(value, self.recorded[0].value) if self.recorded else value

    def _again(self, real: int) -> int:
        entry = self.recorded[0]
        if entry.window == self.window:
            self.used += 1
            if self.used >= entry.times:
                self.recorded.popleft()
                self.used = 0
            return entry.value
        # More is asked than was: time goes on from what was given last, as fast as it does.
        if self.last:
            return self.last + max(0, real - self.last_real)
        return min(real, entry.value)

    def _live(self, real: int, owner: Readings) -> int:
        value = real + owner.skew
        if value < self.last:
            owner.skew += self.last - value
            value = self.last
        before = self.fresh[-1] if self.fresh else None
        if before is not None and before[2] == self.window:
            steps = len(self.fresh)
            coarse = steps >= FINE and value - before[0] < GRANULE << (steps - FINE) // COARSE
            if coarse or value == before[0]:
                before[1] += 1
                return before[0]
        self.fresh.append([value, 1, self.window])
        return value


class Readings:
    """All lanes of a process; ``now`` gives the real time (ns since 1970)."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.skew = 0
        self._now = now
        self._on = False
        self._lanes: dict[int, _Lane] = {}
        self._local = threading.local()

    def read(self) -> int:
        """Return the time as this thread is to see it."""
        lane: _Lane | None = getattr(self._local, "lane", None)
        if lane is None or not self._on:
            return self._now()
        with lane.lock:
            return (lane.beside if getattr(self._local, "beside", 0) else lane.read)(self._now(), self)

    def beside(self, on: int) -> int:
        """Have this thread read beside the code, or as the code (0); return how it was."""
        before = getattr(self._local, "beside", 0)
        self._local.beside = on
        return before

    def switch(self, *, on: bool) -> None:
        """Switch readings on or off; off, the clock is the real one."""
        self._on = on

    def reset(self) -> None:
        """Forget every reading: an execution begins."""
        self.skew = 0
        for lane in self._lanes.values():
            with lane.lock:
                lane.fresh.clear()
                lane.begin()

    def enter(self, number: int) -> bool:
        """Make this thread read in a lane from now on; below 0: in none."""
        self._local.lane = self._lanes.setdefault(number, _Lane()) if number >= 0 else None
        return True

    def feed(self, number: int, entries: Iterable[Entry]) -> None:
        """Give a lane what it replays."""
        lane = self._lanes.setdefault(number, _Lane())
        with lane.lock:
            lane.recorded, lane.used = deque(entries), 0

    def next(self) -> None:
        """A delivery is consumed in this thread: the next window begins."""
        lane: _Lane | None = getattr(self._local, "lane", None)
        if lane is not None:
            with lane.lock:
                lane.window += 1

    def renew(self, number: int) -> None:
        """Forget how far a lane is: another thread is to read in it."""
        lane = self._lanes[number]
        with lane.lock:
            lane.begin()

    def drain(self, number: int) -> list[Entry]:
        """Take what was read in a lane since the last time."""
        lane = self._lanes[number]
        with lane.lock:
            fresh, lane.fresh = lane.fresh, []
        return [Entry(*entry) for entry in fresh]
