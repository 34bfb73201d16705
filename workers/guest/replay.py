"""The deliveries an execution replays, and the report of new ones. No I/O, no clock.

1. Deliveries are numbered from the first of the execution; each is consumed once, in that order.
2. While a recorded delivery is left, nothing else enters.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CLOCK", "REPLY", "TIMER", "Deliveries", "Delivery"]

CLOCK = "c"
REPLY = "r"
TIMER = "t"


class Delivery(NamedTuple):
    """One thing that entered: a reply (with its outcome) or the firing of a timer, by path.

    ``turns`` is 0 when the loop had nothing ready, else its number of turns since the delivery before.
    """

    kind: str
    path: str
    turns: int = 0
    outcome: dict[str, Any] | None = None


class Deliveries:
    """What is left to replay, and what was consumed since the host was last told."""

    def __init__(self, recorded: dict[str, Any] | None = None) -> None:
        recorded = recorded or {}
        items = recorded.get("deliveries", ())
        #: Those left to replay.
        self.recorded = deque(Delivery(*item) for item in items if item[0] != CLOCK)
        #: Recorded readings of the clock: they are pulled where they are asked, and order nothing.
        self.readings = [item for item in items if item[0] == CLOCK]
        #: Seconds left of timers whose deadline is recorded, by path.
        self.timers: dict[str, float] = dict(recorded.get("timers", {}))
        self._unset = set(self.timers)
        #: Number of the next delivery to be consumed. Those replayed end where the numbering of new ones begins.
        self.consumed = recorded.get("consumed", len(self.recorded)) - len(self.recorded)
        self._reported = self.consumed + len(self.recorded)
        self._fresh: deque[list[Any]] = deque()

    @property
    def replaying(self) -> bool:
        """Whether a recorded delivery is left."""
        return bool(self.recorded)

    def timer(self, path: str) -> float | None:
        """Return the seconds left of a timer that is being set, if its deadline is recorded."""
        self._unset.discard(path)
        return self.timers.get(path)

    @property
    def complete(self) -> bool:
        """Whether all that is recorded has come again: deliveries, and timers that were set."""
        return not self.recorded and not self._unset

    @property
    def head(self) -> Delivery | None:
        """The recorded delivery that must come next, if any is left."""
        return self.recorded[0] if self.recorded else None

    @property
    def left(self) -> int:
        """How many recorded deliveries are left."""
        return len(self.recorded)

    def wants(self, kind: str, path: str) -> bool:
        """Whether the next recorded delivery is this one."""
        return bool(self.recorded) and self.recorded[0].kind == kind and self.recorded[0].path == path

    def replayed(self) -> Delivery:
        """Consume the next recorded delivery."""
        self.consumed += 1
        return self.recorded.popleft()

    def entered(self, kind: str, path: str, turns: int) -> None:
        """Note a new delivery that was consumed."""
        self.consumed += 1
        self._fresh.append([kind, path, turns])

    def report(self, readings: Iterable[list[Any]] = ()) -> dict[str, Any] | None:
        """Return ``entered`` for the next message: what the host has not been told of, or None."""
        for item in readings:
            self.consumed += 1
            self._fresh.append(item)
        if not self._fresh:
            return None
        items: list[list[Any]] = []
        while self._fresh:
            items.append(self._fresh.popleft())
        at = self._reported
        self._reported += len(items)
        return {"at": at, "items": items}

    @property
    def unreported(self) -> int:
        """How many deliveries the host has not been told of."""
        return len(self._fresh)
