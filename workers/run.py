"""A run: one guest's way through a step, recording what it asks and delivering what it is owed.

1. Record, then deliver or show: a guest learns nothing, and a client sees nothing, that is not in the journal.
2. Records are written one at a time, in the guest's order, under the attempt's lease.
3. While recorded calls have not all been asked again, a new call waits (journal.py); a guest that rests or ends
   before that has diverged.

Every message of the guest goes through ``handle``; what becomes of its calls is in open_calls.py, everything that has
to be written goes through one queue (recording.py), what others answer is in waiting.py, and replies go out in
deliveries.py. The run ends with the first of: the code ended, a divergence, rest (nothing can happen without the
outside), all of which are in ends.py, the guest's death, the loss of the attempt.
"""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from perdure.engine.events import Delivered, Delivering
from perdure.engine.journal import Divergence, Journal
from perdure.engine.refs import print_of

from .deliveries import Deliveries
from .ends import Diverging, Ended, Losing, Resting, Stepping
from .guests import GuestDied
from .images import Images
from .link import LinkClosed
from .messages import (
    Abandon,
    Call,
    Checkpoint,
    Display,
    Diverged,
    Done,
    Idle,
    Output,
    ProtocolViolation,
    StateLost,
    StepEnds,
    Written,
)
from .open_calls import OpenCalls
from .orders import Cancel, Execute, Settled
from .recording import Recorder
from .requests import check_entered
from .showing import bundle_of_display
from .telling import recorded_deliveries, tell
from .totals import Totals
from .waiting import Waiting
from .watchdog import switches_of, usage_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from perdure.engine.blobs import BlobStore
    from perdure.engine.durable import Attempt, Promise
    from perdure.engine.journal import Request

    from .ends import End
    from .guests import Guest
    from .handlers import Handlers
    from .messages import Entered, FromGuest
    from .watchdog import Usage

__all__ = ["Run"]

#: A guest at rest is given this long, in case an answer comes at once, before the execution is suspended (s).
LINGER = 0.05
#: A guest whose next timer is due sooner than this waits for it itself (s).
NEAR_TIMER = 2.0


class Run:
    """Drives one guest through the steps of one execution; survives suspension while its guest is parked."""

    def __init__(
        self,
        guest: Guest,
        execution: str,
        step: int,
        journal: Journal,
        handlers: Handlers,
        blobs: BlobStore,
        worker: str,
        before: Totals = Totals(),  # noqa: B008 - a constant
    ) -> None:
        self.guest = guest
        self.execution = execution
        self.step = step
        self.journal = journal
        self.handlers = handlers
        self.blobs = blobs
        self.calls = OpenCalls(self, journal.cancelled)
        self.replayed = journal.unasked
        self.writes = 0
        self._earlier = before._replace(writes=before.writes + len(journal.writes))
        self.ran = before.ran
        self.recorder = Recorder(execution, step, journal, blobs, worker, self, before.characters)
        self.waiting = Waiting(journal, self.deliver)
        self._deliveries = Deliveries(
            guest,
            blobs,
            lambda path: self.attempt.tell(Delivering(execution, path)),
            lambda path: self.attempt.tell(Delivered(execution, path)),
        )
        self.attempt: Attempt
        self._done = False
        self._idle: Idle | None = None
        #: Calls whose replies the guest can take just now: one for a loop that does not run waits, and keeps nobody up.
        self._awaited: frozenset[str] = frozenset()
        self._images = Images()
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: asyncio.Future[End] | None = None
        self.cancelled = False
        #: Whether output that differs on a replay is a divergence.
        self.strict = False
        self.kept = False
        #: It is not to be suspended any more: it is being stopped, or its time is up before what it waits for.
        self.stays = False
        #: When it was last parked, on the monotonic clock.
        self.parked_at = 0.0
        #: The code has ended, or its guest is dead.
        self.over = asyncio.Event()
        guest.died.add_done_callback(lambda _: self.over.set())
        self._before = usage_of(guest.pid)
        #: Names in its namespace, when it last said.
        self.names: int | None = None
        #: Writes of settled steps that a replay wrote otherwise than was shown.
        self.differing = 0

    @property
    def totals(self) -> Totals:
        """What the execution has come to."""
        return Totals(
            self._earlier.calls + self.calls.count + self.replayed,
            self._earlier.writes + self.writes,
            self.recorder.characters,
            self._earlier.replayed + self.replayed,
            self.ran,
        )

    async def cancel(self) -> None:
        """Ask the code to stop: a signal reaches Python code and awaits; the caller's patience does the rest."""
        self.cancelled = True
        try:
            await self.guest.link.send(Cancel())
        except LinkClosed:
            return
        self.interrupt()

    def interrupt(self) -> None:
        """Send the signal; code that was stopped already takes no notice."""
        self.guest.signal(signal.SIGUSR1)

    def usage(self) -> Usage:
        """Measure the guest; its CPU seconds are those that this execution took."""
        now = usage_of(self.guest.pid)
        return replace(now, cpu=max(0.0, now.cpu - self._before.cpu))

    @property
    def waits(self) -> bool:
        """Whether the guest has said that all of its code waits."""
        return self._idle is not None and not self._idle.threads

    # -- driving ----------------------------------------------------------------

    async def execute(self, order: Execute) -> None:
        """Tell the guest what to run, with the recorded deliveries of the step, values fetched from where they are."""
        replay = {
            "deliveries": await recorded_deliveries(self.journal, self.blobs),
            "timers": self.waiting.seconds_left(),
            "consumed": self.journal.consumed,
            "calls": self.journal.to_ask,
        }
        await tell(self.guest.link, order, replay)

    async def go_on(self, step: int) -> None:
        """Let the guest begin the next step, its own being settled. Raises GuestDied."""
        self.differing += self.journal.differing_writes
        self.calls.begin()
        self.step = step
        self.journal = Journal()
        self.recorder.begin(step, self.journal)
        self.waiting.begin()
        try:
            await self.guest.link.send(Settled(ok=True))
        except LinkClosed:
            raise GuestDied(await asyncio.shield(self.guest.died)) from None

    async def drive(self, attempt: Attempt) -> End:
        """Go on until the code ends, diverges or rests. Raises GuestDied, AttemptLost, ProtocolViolation."""
        self.attempt = self.recorder.attempt = self.waiting.attempt = attempt
        self.waiting.suspending = False
        self._end = asyncio.get_running_loop().create_future()
        started = time.monotonic()
        recording = self.spawn(self.recorder.run())
        self.spawn(self.waiting.listen())
        self.spawn(self._send())
        pump = asyncio.create_task(self.guest.link.pump(self.handle))
        try:
            if self.waiting.calls:
                self.spawn(self.waiting.resume())
            # A task that fails sets the end; one that ends well is no end.
            awaited: set[asyncio.Future[Any]] = {pump, self.guest.died, attempt.lost, self._end}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            return await self._ending(pump)
        finally:
            self.ran += time.monotonic() - started
            self.recorder.stop()
            written: set[asyncio.Future[Any]] = {recording, attempt.lost}
            await asyncio.wait(written, return_when=asyncio.FIRST_COMPLETED)
            await self._stop(pump)

    async def _ending(self, pump: asyncio.Task[None]) -> End:
        assert self._end is not None  # noqa: S101 - set by drive
        if self.attempt.lost.done():
            self.attempt.lost.result()
        if self._end.done():
            return self._end.result()
        if pump.done() and (exc := pump.exception()) is not None and not isinstance(exc, LinkClosed):
            raise exc
        death = await asyncio.shield(self.guest.died)
        raise GuestDied(death)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do this beside the rest, for as long as the run is driven."""
        # A task that ends well only leaves the set; one that fails ends the run: drive waits on all of them.
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)
            return
        exc = task.exception()
        if self._end is not None and not self._end.done() and isinstance(exc, Exception):
            if isinstance(exc, LinkClosed):
                return
            self._end.set_exception(exc)

    async def _stop(self, pump: asyncio.Task[None]) -> None:
        tasks = [pump, *self._tasks]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._end is not None and self._end.done() and not self._end.cancelled():
            self._end.exception()

    @property
    def finished(self) -> bool:
        """Whether it has come to an end: nothing more is performed."""
        return self._end is not None and self._end.done()

    def finish(self, end: End) -> None:
        """Come to this end, unless there is one."""
        if self._end is not None and not self._end.done():
            self._end.set_result(end)

    # -- what the guest says -------------------------------------------------------

    async def handle(self, message: FromGuest | Written) -> None:
        """Act on one message of the guest."""
        match message:
            case Call():
                self._enter(message.entered)
                self._idle = None
                await self.calls.ask(message)
            case Abandon():
                self._enter(message.entered)
                self.calls.abandon(message.path)
            case Written() | Output() | Display():
                self._enter(message.entered)
                self._idle = None
                await self._shows(message)
            case Idle():
                self._enter(message.entered)
                self._idle, self._awaited = message, frozenset(message.waiting)
                self.names = message.names
                self.quiet()
            case Done():
                self._enter(message.entered)
                self._is_over(message)
                if message.follows and self._end is not None:
                    # The checkpoint is read by who wants it: one that is too large is that one's to judge.
                    await asyncio.wait({self._end})
            case Diverged():
                self._enter(message.entered)
                call = self.journal.first_unasked()
                expected = message.expected or (str(call.request) if call else "nothing more")
                line = call.request.line if call else None
                self.finish(Diverging(Divergence("delivery", message.path, line, expected, message.message)))
            case StepEnds() | StateLost():
                self._enter(message.entered)
                self._idle = None
                self._stands(message)
            case Checkpoint():
                self._images.take(message)
            case _:
                msg = f"a message of type {message.t} in the middle of a run"
                raise ProtocolViolation(msg)

    def _enter(self, entered: Entered | None) -> None:
        if entered is not None:
            check_entered(entered, self.journal.consumed, self.calls.is_answered)
            new = self.journal.enter({"at": entered.at, "items": entered.items})
            self.calls.owed.difference_update(item[1] for item in new if item[0] == "r")
            if new:
                # What it waited for may have come while it said so: then its word is older than what it did since.
                self._idle = None
            self.recorder.enter(new)

    async def _shows(self, message: Written | Output | Display) -> None:
        if isinstance(message, Display):
            await self._displayed(message)
        else:
            await self._wrote(message.stream, message.texts if isinstance(message, Written) else [message.text])

    async def _wrote(self, stream: str, texts: list[str]) -> None:
        new = texts
        if self.journal.all_written:
            self.journal.seen_writes += len(texts)
        else:
            new = [text for text in texts if self.journal.write(stream, text)]
        if new:
            self.writes += len(new)
            await self.recorder.write(stream, new)
        if self.strict and self.journal.differs is not None:
            self.finish(Diverging(self.journal.differs))

    async def _displayed(self, display: Display) -> None:
        data = bundle_of_display(display, self.guest.link)
        if self.journal.write("display", print_of(data)):
            self.writes += 1
            await self.recorder.show(data)

    def _is_over(self, done: Done) -> None:
        if self._done:
            msg = "a second result"
            raise ProtocolViolation(msg)
        self._done = True
        self._images.follows = done.follows
        self._idle = None
        self.over.set()
        self.spawn(self._ended(done))

    def _stands(self, message: StepEnds | StateLost) -> None:
        if isinstance(message, StateLost):
            self.finish(Losing(message))
        else:
            self.spawn(self._step_ends(message))

    async def _step_ends(self, message: StepEnds) -> None:
        """Settle the step if all of it is recorded; what still runs, or was not seen again, belongs to it."""
        await self.recorder.flushed()
        if self.journal.complete and not self.calls.unsettled:
            self.finish(Stepping(message))
            return
        self.guest.link.take(message.stream)
        await self.guest.link.send(Settled(ok=False))

    async def _ended(self, done: Done) -> None:
        divergence = self.journal.rested(self.calls.held, "ended")
        if divergence is not None and not self.cancelled:
            self.finish(Diverging(divergence))
            return
        await self.calls.end()
        # A task that lives on has its reply before the execution is over: there is nobody to bring it later.
        await self._deliveries.sent()
        self.finish(Ended(done))

    # -- what the recorder says ----------------------------------------------------------

    def started(self, request: Request, effect: str, record: str) -> None:
        """The start of that call is recorded."""
        self.calls.started(request, effect, record)

    def answered_in(self, path: str, outcome: dict[str, Any]) -> None:
        """The outcome of that call is recorded."""
        self.calls.answered_in(path, outcome)

    def quiet(self) -> None:
        """Consider whether the guest is at rest: it says so, and nothing is under way here."""
        idle = self._idle
        if idle is None or self.calls.owed & self._awaited or self._busy or idle.threads:
            return
        if self.stays:
            return
        divergence = self.journal.rested(self.calls.held, "waits without asking it")
        if divergence is not None:
            self.finish(Diverging(divergence))
            return
        if self.calls.closed_before and not (idle.timers or self.waiting.calls):
            self.calls.tell_closed()
            return
        nearest = min((left for _, left in idle.timers), default=None)
        if nearest is None or nearest >= NEAR_TIMER:
            self.spawn(self._rest(idle))

    @property
    def _busy(self) -> bool:
        return self.recorder.busy or self._deliveries.busy or bool(self.calls.running)

    async def _rest(self, idle: Idle) -> None:
        waiting = self.waiting
        before = None
        while True:
            # A thread that waits for another may just have been woken, and not have come to run: then it stirs.
            stirs = switches_of(self.guest.pid) if idle.held_up else 0
            if before == stirs:
                break
            before = stirs
            await asyncio.sleep(LINGER)
            if self._idle is not idle or waiting.suspending or self._busy:
                return
        waiting.suspending = True
        promises = list(waiting.calls.values())
        timer = await waiting.timer(idle, self.recorder)
        if timer is not None:
            promises.append(timer[0])
        self.finish(Resting(tuple(promises), timer[1] if timer else None))

    # -- delivering --------------------------------------------------------------------

    def deliver(self, path: str, outcome: dict[str, Any]) -> None:
        """Send an outcome that is recorded to the guest."""
        if path in self.calls.given_up:
            return
        if path in self._awaited:
            self._idle = None
        self.calls.owed.add(path)
        if not self._deliveries.add(path, outcome):
            return
        # Sent before anybody else runs, if its guest reads.
        if self._deliveries.send_now():
            self.quiet()
        else:
            self.spawn(self._send())

    async def _send(self) -> None:
        if self._deliveries.busy:
            await self._deliveries.send()
            self.quiet()

    async def answered(self, promise: Promise) -> None:
        """Deliver the answer to a call that was answered from outside, once."""
        await self.waiting.answered(promise)

    # -- the end of a step --------------------------------------------------------------------

    async def image(self, timeout: float, since: int) -> bytearray:
        """Ask the guest for what changed since the checkpoint of that number (0: for everything).

        Raises GuestDied, ProtocolViolation.
        """
        return await self._images.ask(self.guest, self.handle, timeout, since)
