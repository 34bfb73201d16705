"""Everything that enters a running execution goes through here: replies and timer firings, one at a time.

1. While a recorded delivery is left, only that one may enter; afterwards the order is that of arrival, and is reported.
2. Whoever waits reads the channel; there is no thread of ours (mailbox.py).
3. Nothing enters but where the code waits: a synchronous call takes its own reply, a loop takes one delivery when it
   has nothing ready, or at fixed turns if it never has.
"""

from __future__ import annotations

import select
import threading
import time
from typing import TYPE_CHECKING, Any

from .clock import Clock
from .mailbox import Mailbox
from .parties import Asked, LoopParty, Party, Waiter
from .replay import REPLY, TIMER, Deliveries
from .signals import Guard
from .wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .channel import Channel
    from .replay import Delivery
    from .signals import Critical
    from .wallclock import WallClock
    from .wire import Message

__all__ = ["Hub"]

#: Seconds of waiting after which the host is told: longer than a fast call takes, short beside what suspending costs.
IDLE_AFTER = 0.005
#: Paths and timers named in one ``idle``: far below MAX_FRAME. The host knows the pending calls anyway.
IDLE_NAMED = 10_000
#: Seconds that stand for all longer ones (30 years): code sleeps for ``math.inf``, which no deadline can say.
FAR = 1e9
#: Seconds that a wait takes at the most before it is begun again: the system cannot count what code may ask for.
LONGEST = 86_400.0
#: Deliveries not yet reported after which they are sent alone, so that no message outgrows a frame.
UNREPORTED = 5_000
#: Seconds between looks at whether other threads still run, while a recorded delivery cannot be made.
STUCK_LOOK = 0.1
#: Seconds between looks at whether other threads still run, after the host was told that they do: it waits for no
#: answer of theirs, only for leave to suspend.
RUNNING_LOOK = 0.25


class Hub:
    """Who asked, who waits, what has arrived and what is recorded."""

    def __init__(self, channel: Channel, critical: Critical, flush: Callable[[], None], wall: WallClock) -> None:
        self.channel = channel
        self.clock = Clock()
        self.wall = wall
        self.deliveries = Deliveries()
        self.execution = ""
        #: Called with the path of every reply that is consumed.
        self.consumed: Callable[[str], None] = lambda _path: None
        #: Calls asked since the step began.
        self.calls_asked = 0
        #: Whether hooks of a checkpoint run: what they wait for is not the code's.
        self.hooks_run = False
        #: How many threads of the user run, not counting those that wait here; set by the threads module.
        self.running_threads: Callable[[set[int]], int] = lambda _blocked: 0
        #: How many of these wait for another thread; likewise.
        self.held_up_threads: Callable[[set[int]], int] = lambda _blocked: 0
        #: How many names the namespace has.
        self.names: Callable[[], int] = lambda: 0
        #: How often somebody came to wait or went on, and as of when the host was told what is waited for.
        self._moves = self._told = 0
        self.guard = Guard(critical)
        self._flush = flush
        self._mail = Mailbox(
            channel, critical, self.guard, self.clock, lambda: self._wake("", ""), self._wake_everybody
        )
        self._parties: dict[Party, int] = {}
        channel.report = self._report

    # -- messages --------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send a message after the output written before it, with the deliveries consumed."""
        self._flush()
        self.channel.send(message, entered=True)

    def begin(self, execution: str, recorded: dict[str, Any] | None) -> None:
        """Start an execution, with what it replays. What sleeps on from an earlier one keeps its name."""
        with self.guard:
            self.execution = execution
            for party in self._parties:
                if isinstance(party, Waiter):
                    party.lives_in(execution)
            self.calls_asked = 0
            self.deliveries = Deliveries(recorded)
            self.wall.begin(execution, self.deliveries.readings)

    def end(self) -> None:
        """End the execution: what its threads take from here on is not recorded, and nobody else takes anything."""
        with self.guard:
            self.execution = ""
            self.wall.end()

    def close(self) -> None:
        """The host has answered or closed every call of the execution that has ended: whoever asked has it now.

        The next one knows none of them: a reply that entered there would be one to a call that it never made.
        """
        with self.guard:
            for asked in list(self._mail.asked.values()):
                if asked.outcome is None:
                    continue
                asked.over = True
                if asked in self._mail.inbox:
                    self._mail.forget(asked.path)
                    asked.owner.deliver(REPLY, asked.path, asked.outcome)
                if asked.owner is not None:
                    asked.owner.wake()

    def next_message(self, rest: float | None = None) -> Message | None:
        """Wait for the next message that is for the main program (main thread, between executions).

        None: there was none for ``rest`` seconds.
        """
        control = self._mail.control
        due = None if rest is None else self.clock.now() + rest

        def ready() -> list[Message] | None:
            if control:
                return [control.popleft()]
            return [] if due is not None and self.clock.now() >= due else None

        found = self._wait(Waiter("", "", due), ready, idle=False)
        return found[0] if found else None

    def wanted(self) -> bool:
        """Whether the host has something to say (main thread, between executions, while no other thread runs)."""
        if self._mail.control:
            return True
        poll = select.poll()
        poll.register(self.channel.fd, select.POLLIN)
        return bool(poll.poll(0))

    def settle_step(self, message: Message) -> bool:
        """Send what ends the step and wait for the host's word; the next one then counts from 0.

        Nothing is flushed: where a step ends must not show in the output.
        """
        self.channel.send(message, entered=True)
        mail = self._mail.control
        answer = self._wait(Waiter("", ""), lambda: mail.popleft() if mail else None, idle=False, flush=False)
        if answer["t"] != "settled":
            msg = f"a step was answered with {answer['t']}"
            raise WireError(msg)
        if answer["ok"]:
            with self.guard:
                self.calls_asked = 0
                self.deliveries = Deliveries()
                self.wall.begin(self.execution, ())
        return bool(answer["ok"])

    def unanswered(self) -> set[str]:
        """Return the paths of calls whose replies nobody has consumed."""
        with self.guard:
            return set(self._mail.asked)

    # -- calls and sleeps ------------------------------------------------------

    def ask(self, asked: Asked, payload: bytes) -> None:
        """Send a call."""
        self._mail.expect(asked)
        self.calls_asked += 1
        self._flush()
        self.channel.send_payload(payload)

    def forget(self, path: str) -> None:
        """Nobody will consume the reply to that call."""
        self._mail.forget(path)

    def give_up(self, path: str) -> None:
        """The code stopped waiting for that reply; the host is told, and may close the question."""
        self._mail.forget(path)
        if self.execution:
            self.send({"t": "abandon", "path": path})

    def wait_reply(self, asked: Asked) -> dict[str, Any]:
        """Block this thread until the reply may enter; return the outcome."""
        asked.owner = party = Waiter(REPLY, asked.path)

        def ready() -> dict[str, Any] | None:
            if asked.over:
                self._mail.asked.pop(asked.path, None)
                return asked.outcome
            deliveries = self.deliveries
            if deliveries.replaying:
                if not deliveries.wants(REPLY, asked.path):
                    return None
                outcome = self._replayed(party).outcome
            else:
                outcome = asked.outcome
                if outcome is None:
                    return None
                self._entered(REPLY, asked.path, 0)
            self._mail.asked.pop(asked.path, None)
            return outcome

        try:
            # What was written before it was sent with it.
            return self._wait(party, ready, flush=False)
        except BaseException:
            self.forget(asked.path)
            raise

    def sleep(self, path: str, seconds: float, execution: str) -> None:
        """Block this thread for that long; a recorded sleep is over at once."""
        due = self.due(path, self.clock.now() + seconds)
        party = Waiter(TIMER, path, due, execution)

        def ready() -> bool | None:
            if self.deliveries.replaying:
                if not self.deliveries.wants(TIMER, party.path):
                    return None
                self._replayed(party)
                self.clock.reach(due)
                return True
            if self.clock.now() < due:
                return None
            self._entered(TIMER, party.path, 0)
            return True

        self._wait(party, ready)

    def due(self, path: str, deadline: float) -> float:
        """Return when a timer is due: a recorded deadline holds, whatever time it is now."""
        left = self.deliveries.timer(path)
        return deadline if left is None else self.clock.now() + left

    # -- loops -----------------------------------------------------------------

    def rest(self, loop: LoopParty) -> None:
        """The loop has nothing ready: wait until one delivery was made to it, or something else stirs it."""

        def ready() -> bool | None:
            return True if self._deliver(loop, 0) or loop.stirred() else None

        self._wait(loop, ready)

    def busy(self, loop: LoopParty, turns: int) -> None:
        """The loop is at a turn with work to do, and it is time, or deliveries are recorded, perhaps for this turn."""
        head = self.deliveries.head
        if head is None:
            self._mail.read_nowait()
            with self.guard:
                self._deliver(loop, turns)
        elif 0 < head.turns <= turns:
            with self.guard:
                # Whoever else waits or runs may yet take it.
                if not (self._deliver(loop, turns) or self._parties or self.running_threads({threading.get_ident()})):
                    self._diverge()

    def _deliver(self, loop: LoopParty, turns: int) -> bool:
        deliveries = self.deliveries
        head = deliveries.head
        if head is not None:
            if head.turns != turns or not loop.takes(head):
                return False
            self._replayed(loop)
            self._mail.forget(head.path)
            loop.deliver(head.kind, head.path, head.outcome)
            return True
        asked = next((each for each in self._mail.inbox if each.owner is loop), None)
        timer = loop.nearest()
        if timer is not None and timer[1] <= self.clock.now() and (asked is None or timer[1] <= asked.arrived):
            self._entered(TIMER, timer[0], turns)
            loop.deliver(TIMER, timer[0], None)
            return True
        if asked is None:
            return False
        self._mail.inbox.remove(asked)
        self._mail.asked.pop(asked.path, None)
        self._entered(REPLY, asked.path, turns)
        loop.deliver(REPLY, asked.path, asked.outcome)
        return True

    # -- consuming -------------------------------------------------------------

    def _replayed(self, party: Party) -> Delivery:
        delivery = self.deliveries.replayed()
        self.wall.next()
        self._note(delivery.kind, delivery.path)
        self._wake_others(party)
        return delivery

    def _entered(self, kind: str, path: str, turns: int) -> None:
        if not self.execution:
            self._note(kind, path)
            return
        self.deliveries.entered(kind, path, turns)
        self.wall.next()
        self._note(kind, path)
        if self.deliveries.unreported >= UNREPORTED:
            # One thread runs, which is why nothing is waited for: the host only takes note.
            self.channel.send(
                {"t": "idle", "waiting": [], "timers": [], "consumed": self.deliveries.consumed, "threads": 1},
                entered=True,
            )

    def _note(self, kind: str, path: str) -> None:
        if kind == REPLY:
            self.consumed(path)

    def _report(self) -> dict[str, Any] | None:
        return self.deliveries.report(self.wall.report())

    # -- waiting ---------------------------------------------------------------

    def _wait[T](self, party: Party, ready: Callable[[], T | None], *, idle: bool = True, flush: bool = True) -> T:
        if flush:
            self._flush()
        with self.guard:
            if isinstance(party, Waiter) and self.execution:
                party.lives_in(self.execution)
            self._moves += 1
            found = ready()
            if found is not None:
                # Most of what is replayed is there when it is asked for.
                self._wake_others(party)
                return found
            self._parties[party] = threading.get_ident()
        try:
            look = IDLE_AFTER if idle else None
            idle_at = None if look is None else time.monotonic() + look
            while True:
                with self.guard:
                    found = ready()
                    if found is not None:
                        # With what it took, or another thread would find nobody running and nobody waiting for the
                        # next delivery, and call that a divergence.
                        self._parties.pop(party)
                        self._moves += 1
                        self._wake_others(party)
                        return found
                    if self._stuck(party):
                        self._diverge()
                if idle_at is not None and time.monotonic() >= idle_at:
                    look = self._tell_idle(again=look == RUNNING_LOOK)
                    idle_at = None if look is None else time.monotonic() + look
                elif idle_at is None and idle and self._told != self._moves:
                    look = IDLE_AFTER
                    idle_at = time.monotonic() + look
                self._listen(party, self._timeout(party, idle_at))
        except BaseException:
            with self.guard:
                self._parties.pop(party, None)
                self._wake_others(party)
            raise

    def _listen(self, party: Party, timeout: float | None) -> None:
        if self.deliveries.replaying and isinstance(party, Waiter):
            # What it waits for comes from whoever consumes the delivery before; one that reads hears nobody else.
            party.listen(None, timeout)
            self._mail.read_nowait()
        else:
            self._mail.listen(party, timeout)

    def _timeout(self, party: Party, idle_at: float | None) -> float | None:
        """Return how long may pass before something must be looked at again."""
        limits = [] if idle_at is None else [idle_at - time.monotonic()]
        if self.deliveries.replaying:
            limits.append(STUCK_LOOK)
        elif (due := party.next_due()) is not None:
            limits.append(due - self.clock.now())
        if self.execution and isinstance(party, Waiter) and threading.active_count() > 1:
            # One that reads does not hear that another went on, after which the host is to be told anew.
            limits.append(RUNNING_LOOK)
        return max(0.0, min(*limits, LONGEST)) if limits else None

    def _wake(self, kind: str, path: str) -> None:
        for party in self._parties:
            if isinstance(party, Waiter) and party.kind == kind and party.path == path:
                party.wake()

    def _wake_everybody(self) -> None:
        with self.guard:
            for party in self._parties:
                party.wake()

    def _wake_others(self, party: Party) -> None:
        for other in self._parties:
            if other is not party:
                other.wake()

    # -- when nothing can go on ------------------------------------------------

    def _tell_idle(self, *, again: bool) -> float | None:
        """Tell the host what is waited for; return after how many seconds it may have to be told again."""
        if not self.execution or self.deliveries.replaying:
            return STUCK_LOOK
        with self.guard:
            parties, waiting = list(self._parties), set(self._parties.values())
            threads = self.running_threads(waiting)
            held_up = min(threads, self.held_up_threads(waiting)) if threads else 0
            threads -= held_up
            if self._told == self._moves and not again:
                return None  # Another one has said it all.
            if again and threads:
                return RUNNING_LOOK
            self._told = self._moves
            now = self.clock.now()
            timers = sorted((due - now, path) for party in parties for path, due in party.deadlines())
            named = [path for party in parties for path in party.waiting()]
        self.send(
            {
                "t": "idle",
                "waiting": named[:IDLE_NAMED],
                "timers": [[path, min(max(0.0, left), FAR)] for left, path in timers[:IDLE_NAMED]],
                "consumed": self.deliveries.consumed,
                "threads": threads,
                "held_up": held_up,
                "names": self.names(),
            }
        )
        # A thread that ends tells nobody, and until the host hears of it the execution is not suspended.
        return RUNNING_LOOK if threads else None

    def _stuck(self, party: Party) -> bool:
        """Whether the next recorded delivery is for nobody and nobody is left who could ask for it."""
        head = self.deliveries.head
        if head is None or not self.execution or party.reachable():
            return False
        if head.turns == 0 and any(other.takes(head) for other in self._parties):
            return False
        if self.running_threads(set(self._parties.values())):
            return False
        # Asked last: a thread that has just ended may have woken one of them before.
        return not any(other.stirred() for other in self._parties)

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
