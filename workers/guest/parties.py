"""Who waits for what enters: a thread for its own reply or timer, an event loop for all of its own."""

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING, Any, Protocol

from .replay import REPLY, TIMER

if TYPE_CHECKING:
    from collections.abc import Callable

    from .replay import Delivery

__all__ = ["Asked", "LoopParty", "Party", "Waiter"]


class Party(Protocol):
    """Somebody who waits for deliveries: a thread, or an event loop."""

    def takes(self, head: Delivery) -> bool:
        """Whether that delivery is for this party."""
        ...

    def wake(self) -> None:
        """Make it look again; called from any thread."""
        ...

    def listen(self, channel: int | None, timeout: float | None) -> bool:
        """Wait until woken, or until ``channel`` is readable if given; return whether that is so."""
        ...

    def stirred(self) -> bool:
        """Whether something other than a delivery ended the wait (a descriptor, another thread)."""
        ...

    def waiting(self) -> list[str]:
        """Paths of calls whose replies it can take now."""
        ...

    def deadlines(self) -> list[tuple[str, float]]:
        """Timers it can take now: path and deadline on the hub's clock."""
        ...

    def next_due(self) -> float | None:
        """When the nearest of them is due."""
        ...

    def reachable(self) -> bool:
        """Whether something outside this process, other than the host, can end the wait."""
        ...


class LoopParty(Party, Protocol):
    """An event loop as a party."""

    def deliver(self, kind: str, path: str, outcome: dict[str, Any] | None) -> None:
        """Make a delivery: resolve the call's future, or queue the timer's callback."""
        ...

    def nearest(self) -> tuple[str, float] | None:
        """Return the nearest timer: path and deadline."""
        ...


class Asked:
    """A call that was sent and whose reply nobody has consumed."""

    __slots__ = ("arrived", "deliver", "name", "outcome", "over", "owner", "path")

    def __init__(self, path: str, name: str, owner: Any, deliver: Callable[[dict[str, Any]], None] | None) -> None:
        self.path = path
        self.name = name
        self.owner = owner
        self.deliver = deliver
        self.outcome: dict[str, Any] | None = None
        self.arrived = 0.0
        #: The execution that asked has ended: the outcome is nothing that enters the next one.
        self.over = False


class Waiter:
    """A thread that waits for its own reply, its own timer, or the next message for the main program."""

    def __init__(self, kind: str, path: str, due: float | None = None, execution: str = "") -> None:
        self.kind = kind
        self.path = path
        self.due = due
        self._execution = execution
        self._bell = threading.Lock()
        self._bell.acquire()

    def lives_in(self, execution: str) -> None:
        """Take the name of the execution it began in along into another one, whose own first timer is called alike."""
        if self.kind == TIMER and self._execution not in ("", execution) and "|" not in self.path:
            self.path = f"{self._execution}|{self.path}"

    def takes(self, head: Delivery) -> bool:
        return head.kind == self.kind and head.path == self.path

    def wake(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            return  # It was rung already and nobody has looked yet.

    def listen(self, channel: int | None, timeout: float | None) -> bool:
        if channel is None:
            self._bell.acquire(timeout=-1 if timeout is None else timeout)
            return False
        # Who read before may have read what this one waits for, after it looked and before it came to read.
        if self._bell.acquire(blocking=False):
            return False
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def stirred(self) -> bool:
        return False

    def waiting(self) -> list[str]:
        return [self.path] if self.kind == REPLY else []

    def deadlines(self) -> list[tuple[str, float]]:
        return [] if self.due is None else [(self.path, self.due)]

    def next_due(self) -> float | None:
        return self.due

    def reachable(self) -> bool:
        return False
