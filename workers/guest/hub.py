"""Everything that enters a running execution goes through here: replies and timer firings, one at a time.

1. While a recorded delivery is left, only that one may enter; afterwards the order is that of arrival, and is reported.
2. Whoever waits reads the channel; there is no thread of ours. One reads, and wakes the one whose turn it is.
3. Nothing enters but where the code waits: a synchronous call takes its own reply, a loop takes one delivery when it
   has nothing ready, or at fixed turns if it never has.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from .replay import REPLY, TIMER, Deliveries
from .signals import Guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from .channel import Channel
    from .replay import Delivery
    from .signals import Critical
    from .wire import Message

__all__ = ["BUSY_TURNS", "Asked", "Hub", "Party", "Waiter"]

#: A loop that never rests takes a delivery at every so-manieth turn: often enough to make progress (a turn is some
#: microseconds), seldom enough to cost nothing. Recorded turns depend on it: changing it is a change of the format.
BUSY_TURNS = 64
#: Seconds of waiting after which the host is told: longer than a fast call takes, short beside what suspending costs.
IDLE_AFTER = 0.005
#: Paths and timers named in one ``idle``: far below MAX_FRAME. The host knows the pending calls anyway.
IDLE_NAMED = 10_000
#: Deliveries not yet reported after which they are sent alone, so that no message outgrows a frame.
UNREPORTED = 5_000
#: Seconds between looks at whether other threads still run, while a recorded delivery cannot be made.
STUCK_LOOK = 0.1


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


class Asked:
    """A call that was sent and whose reply nobody has consumed."""

    __slots__ = ("arrived", "deliver", "name", "outcome", "owner", "path")

    def __init__(self, path: str, name: str, owner: Any, deliver: Callable[[dict[str, Any]], None] | None) -> None:
        self.path = path
        self.name = name
        self.owner = owner
        self.deliver = deliver
        self.outcome: dict[str, Any] | None = None
        self.arrived = 0.0


class Waiter:
    """A thread that waits for its own reply, its own timer, or the next message for the main program."""

    def __init__(self, kind: str, path: str, due: float | None = None) -> None:
        self.kind = kind
        self.path = path
        self.due = due
        self._bell = threading.Lock()
        self._bell.acquire()

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


class Clock:
    """The monotonic clock of the session: real, moved forward where replay does not sleep again what was slept."""

    def __init__(self) -> None:
        self._offset = 0.0

    def now(self) -> float:
        """Return seconds; never less than before."""
        return time.monotonic() + self._offset

    def reach(self, due: float) -> None:
        """Let it be at least ``due``."""
        self._offset += max(0.0, due - self.now())


class Hub:
    """Who asked, who waits, what has arrived and what is recorded."""

    def __init__(self, channel: Channel, critical: Critical, flush: Callable[[], None]) -> None:
        self.channel = channel
        self.clock = Clock()
        self.deliveries = Deliveries()
        self.asked: dict[str, Asked] = {}
        self.inbox: deque[Asked] = deque()
        self.control: deque[Message] = deque()
        self.execution = ""
        #: How many threads of the user run, not counting those that wait here; set by the threads module.
        self.running_threads: Callable[[set[int]], int] = lambda _blocked: 0
        self.guard = Guard(critical)
        self._critical = critical
        self._flush = flush
        self._reader = threading.Lock()
        self._parties: dict[Party, int] = {}
        channel.report = self._report

    # -- messages --------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send a message after the output written before it, with the deliveries consumed."""
        self._flush()
        self.channel.send(message, entered=True)

    def begin(self, execution: str, recorded: dict[str, Any] | None) -> None:
        """Start an execution, with what it replays. Replies to calls of earlier ones that are still awaited stay."""
        with self.guard:
            self.execution = execution
            self.deliveries = Deliveries(recorded)

    def end(self) -> None:
        """End the execution: nothing enters until the next one begins."""
        self.execution = ""

    def next_message(self) -> Message:
        """Wait for the next message that is for the main program (main thread, between executions)."""
        party = Waiter("", "")
        return self._wait(party, lambda: self.control.popleft() if self.control else None, idle=False)

    # -- calls and sleeps ------------------------------------------------------

    def ask(self, asked: Asked, message: Message) -> None:
        """Send a call."""
        with self.guard:
            self.asked[asked.path] = asked
        self.send(message)

    def forget(self, path: str) -> None:
        """Nobody will consume the reply to that call."""
        with self.guard:
            asked = self.asked.pop(path, None)
            if asked is not None and asked.outcome is not None and asked in self.inbox:
                self.inbox.remove(asked)

    def wait_reply(self, asked: Asked) -> dict[str, Any]:
        """Block this thread until the reply may enter; return the outcome."""
        asked.owner = party = Waiter(REPLY, asked.path)

        def ready() -> dict[str, Any] | None:
            deliveries = self.deliveries
            if deliveries.replaying:
                return self._replayed(party).outcome if deliveries.wants(REPLY, asked.path) else None
            if asked.outcome is not None:
                self._entered(REPLY, asked.path, 0)
            return asked.outcome

        try:
            outcome = self._wait(party, ready)
        finally:
            self.forget(asked.path)
        return outcome

    def sleep(self, path: str, seconds: float) -> None:
        """Block this thread for that long; a recorded sleep is over at once."""
        due = self.due(path, self.clock.now() + seconds)
        party = Waiter(TIMER, path, due)

        def ready() -> bool | None:
            if self.deliveries.replaying:
                if not self.deliveries.wants(TIMER, path):
                    return None
                self._replayed(party)
                self.clock.reach(due)
                return True
            if self.clock.now() < due:
                return None
            self._entered(TIMER, path, 0)
            return True

        self._wait(party, ready)

    def due(self, path: str, deadline: float) -> float:
        """Return when a timer is due: a recorded deadline holds, whatever time it is now."""
        left = self.deliveries.timers.get(path)
        return deadline if left is None else self.clock.now() + left

    # -- loops -----------------------------------------------------------------

    def rest(self, loop: LoopParty) -> None:
        """The loop has nothing ready: wait until one delivery was made to it, or something else stirs it."""

        def ready() -> bool | None:
            return True if self._deliver(loop, 0) or loop.stirred() else None

        self._wait(loop, ready)

    def busy(self, loop: LoopParty, turns: int) -> None:
        """The loop is at a turn with work to do: make a delivery if one is recorded for this turn, or it is time."""
        head = self.deliveries.head
        if head is None:
            if turns % BUSY_TURNS:
                return
            self._read_nowait()
            with self.guard:
                self._deliver(loop, turns)
        elif 0 < head.turns <= turns:
            with self.guard:
                if not self._deliver(loop, turns) and not self.running_threads(set(self._parties.values())):
                    self._diverge()

    def _deliver(self, loop: LoopParty, turns: int) -> bool:
        deliveries = self.deliveries
        head = deliveries.head
        if head is not None:
            if head.turns != turns or not loop.takes(head):
                return False
            self._replayed(loop)
            self.asked.pop(head.path, None)
            loop.deliver(head.kind, head.path, head.outcome)
            return True
        asked = next((each for each in self.inbox if each.owner is loop), None)
        timer = loop.nearest()
        if timer is not None and timer[1] <= self.clock.now() and (asked is None or timer[1] <= asked.arrived):
            self._entered(TIMER, timer[0], turns)
            loop.deliver(TIMER, timer[0], None)
            return True
        if asked is None:
            return False
        self.inbox.remove(asked)
        self.asked.pop(asked.path, None)
        self._entered(REPLY, asked.path, turns)
        loop.deliver(REPLY, asked.path, asked.outcome)
        return True

    # -- consuming -------------------------------------------------------------

    def _replayed(self, party: Party) -> Delivery:
        delivery = self.deliveries.replayed()
        self._wake_others(party)
        return delivery

    def _entered(self, kind: str, path: str, turns: int) -> None:
        self.deliveries.entered(kind, path, turns)
        if self.deliveries.unreported >= UNREPORTED:
            # One thread runs, which is why nothing is waited for: the host only takes note.
            self.channel.send(
                {"t": "idle", "waiting": [], "timers": [], "consumed": self.deliveries.consumed, "threads": 1},
                entered=True,
            )

    def _report(self) -> dict[str, Any] | None:
        return self.deliveries.report()

    # -- waiting ---------------------------------------------------------------

    def _wait[T](self, party: Party, ready: Callable[[], T | None], *, idle: bool = True) -> T:
        self._flush()
        idle_at = time.monotonic() + IDLE_AFTER if idle else None
        with self.guard:
            self._parties[party] = threading.get_ident()
        try:
            while True:
                with self.guard:
                    found = ready()
                    if found is None and self._stuck(party):
                        self._diverge()
                if found is not None:
                    return found
                if idle_at is not None and time.monotonic() >= idle_at:
                    idle_at = None if self._tell_idle() else time.monotonic() + STUCK_LOOK
                self._listen(party, self._timeout(party, idle_at))
        finally:
            with self.guard:
                del self._parties[party]
                self._wake_others(party)

    def _timeout(self, party: Party, idle_at: float | None) -> float | None:
        """Return how long may pass before something must be looked at again."""
        limits = [] if idle_at is None else [idle_at - time.monotonic()]
        if self.deliveries.replaying:
            limits.append(STUCK_LOOK)
        elif (due := party.next_due()) is not None:
            limits.append(due - self.clock.now())
        return max(0.0, min(limits)) if limits else None

    def _listen(self, party: Party, timeout: float | None) -> None:
        reads = False
        try:
            with self._critical:
                reads = self._reader.acquire(blocking=False)
            if party.listen(self.channel.fd if reads else None, timeout):
                with self._critical:
                    self._read()
        finally:
            if reads:
                self._reader.release()

    def _read_nowait(self) -> None:
        with self._critical:
            if not self._reader.acquire(blocking=False):
                return
            try:
                poll = select.poll()
                poll.register(self.channel.fd, select.POLLIN)
                if poll.poll(0):
                    self._read()
            finally:
                self._reader.release()

    def _read(self) -> None:
        for message in self.channel.receive():
            kind = message["t"]
            if kind == "reply":
                self._reply(message)
            elif kind == "shutdown":
                os._exit(0)
            elif kind != "cancel":  # The signal that follows a cancel is what acts.
                with self.guard:
                    self.control.append(message)
                    self._wake("", "")

    def _reply(self, message: Message) -> None:
        value = self.channel.content(message, "value")
        with self.guard:
            asked = self.asked.get(message["path"])
            if asked is None or asked.outcome is not None:
                return
            asked.outcome = {"error": message["error"]} if "error" in message else {"value": value}
            asked.arrived = self.clock.now()
            if isinstance(asked.owner, Waiter):
                asked.owner.wake()
            elif asked.owner is not None:
                self.inbox.append(asked)
                asked.owner.wake()

    def _wake(self, kind: str, path: str) -> None:
        for party in self._parties:
            if isinstance(party, Waiter) and party.kind == kind and party.path == path:
                party.wake()

    def _wake_others(self, party: Party) -> None:
        for other in self._parties:
            if other is not party:
                other.wake()

    # -- when nothing can go on ------------------------------------------------

    def _tell_idle(self) -> bool:
        if not self.execution or self.deliveries.replaying:
            return False
        with self.guard:
            parties = list(self._parties)
            threads = self.running_threads(set(self._parties.values()))
            now = self.clock.now()
            timers = sorted((due - now, path) for party in parties for path, due in party.deadlines())
            waiting = [path for party in parties for path in party.waiting()]
        self.send(
            {
                "t": "idle",
                "waiting": waiting[:IDLE_NAMED],
                "timers": [[path, max(0.0, left)] for left, path in timers[:IDLE_NAMED]],
                "consumed": self.deliveries.consumed,
                "threads": threads,
            }
        )
        return True

    def _stuck(self, party: Party) -> bool:
        """Whether the next recorded delivery is for nobody and nobody is left who could ask for it."""
        head = self.deliveries.head
        if head is None or not self.execution or party.reachable():
            return False
        if head.turns == 0 and any(other.takes(head) for other in self._parties):
            return False
        return self.running_threads(set(self._parties.values())) == 0

    def finish_replay(self) -> None:
        """The code has ended: let threads of the user consume what is recorded for them, or diverge."""
        if self.deliveries.replaying:
            self._wait(Waiter("", ""), lambda: None if self.deliveries.replaying else True, idle=False)

    def _diverge(self) -> None:
        head = self.deliveries.head
        if head is None:
            return
        what = "the reply to call" if head.kind == REPLY else "the firing of timer"
        self.send(
            {
                "t": "diverged",
                "message": f"{what} {head.path} is recorded next, and nothing in the code waits for it now",
                "expected": f"{head.kind} {head.path} {head.turns}",
                "path": head.path,
            }
        )
        self.halt()

    def halt(self) -> None:
        """Run no more code of the user; the host ends this process."""
        while True:
            for _message in self.channel.receive():
                pass


class LoopParty(Party, Protocol):
    """An event loop as a party."""

    def deliver(self, kind: str, path: str, outcome: dict[str, Any] | None) -> None:
        """Make a delivery: resolve the call's future, or queue the timer's callback."""
        ...

    def nearest(self) -> tuple[str, float] | None:
        """Return the nearest timer: path and deadline."""
        ...
