"""A run: one guest's way through a step, recording what it asks and delivering what it is owed.

1. Record, then deliver or show: a guest learns nothing, and a client sees nothing, that is not in the journal.
2. Records are written one at a time, in the guest's order, under the attempt's lease.
3. While recorded calls have not all been asked again, a new call waits (journal.py); a guest that rests or ends
   before that has diverged.

Every message of the guest goes through ``handle``; everything that has to be written goes through one queue
(recording.py); what others answer is in waiting.py. The run ends with the first of: the code ended, a divergence, rest
(nothing can happen without the outside), the guest's death, the loss of the attempt.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from perdure.capabilities.errors import TooManyCalls
from perdure.engine.events import Delivered, Delivering
from perdure.engine.inspection import shown_call
from perdure.engine.journal import CallRecord, Divergence, Journal, Request, not_waited_for, outcome_of
from perdure.engine.refs import INLINE_LIMIT, dumped, fetched, is_ref, print_of
from perdure.engine.settings import DEFAULT_LIMITS

from .deliveries import Deliveries
from .frames import StreamTooLarge
from .guests import GuestDied
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
from .orders import Cancel, Execute, MakeCheckpoint, Settled
from .recording import Recorder
from .requests import check_entered, request_of
from .showing import bundle_of_display
from .totals import Totals
from .waiting import Waiting
from .watchdog import switches_of, usage_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from perdure.engine.blobs import BlobStore
    from perdure.engine.durable import Attempt, Promise

    from .guests import Guest
    from .handlers import Handlers, Running
    from .messages import Entered, FromGuest
    from .watchdog import Usage

__all__ = ["Diverging", "Ended", "Losing", "Resting", "Run", "Stepping"]

#: A repeatable call that takes longer than this is recorded as started, so that it can be seen (s).
VISIBLE_AFTER = 0.05
#: A guest at rest is given this long, in case an answer comes at once, before the execution is suspended (s).
LINGER = 0.05
#: A guest whose next timer is due sooner than this waits for it itself (s).
NEAR_TIMER = 2.0
#: What is said of a call that was under way when its execution was cancelled.
GIVEN_UP = "the execution was cancelled while the call was under way; whether it was performed is not known"


@dataclass(frozen=True, slots=True)
class Ended:
    """The code ended, and the guest said how."""

    done: Done


@dataclass(frozen=True, slots=True)
class Resting:
    """Nothing can happen before one of these promises settles."""

    waiting: tuple[str, ...]
    wake: int | None


@dataclass(frozen=True, slots=True)
class Diverging:
    """The replay does something else than the first run."""

    divergence: Divergence


@dataclass(frozen=True, slots=True)
class Stepping:
    """The guest waits between two statements: everything of the step is recorded, and it can be settled."""

    ends: StepEnds


@dataclass(frozen=True, slots=True)
class Losing:
    """The replay touched what only the guest of the first run had."""

    lost: StateLost


End = Ended | Resting | Diverging | Stepping | Losing


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
        self.calls = 0
        self.replayed = journal.unasked
        self.writes = 0
        self._earlier = before._replace(writes=before.writes + len(journal.writes))
        self.ran = before.ran
        self.recorder = Recorder(execution, step, journal, blobs, worker, self, before.characters)
        self.waiting = Waiting(journal, self._deliver)
        self._deliveries = Deliveries(
            guest,
            blobs,
            lambda path: self._attempt.tell(Delivering(execution, path)),
            lambda path: self._attempt.tell(Delivered(execution, path)),
        )
        self._attempt: Attempt
        #: Calls that were asked, by path: a guest names each once.
        self._paths: set[str] = set()
        self._done = False
        #: Calls whose reply was sent and not consumed, and those that the code stopped waiting for.
        self._owed: set[str] = set()
        self._given_up: set[str] = set(journal.cancelled)
        self._held: deque[Request] = deque()
        self._idle: Idle | None = None
        #: Calls whose replies the guest can take just now: one for a loop that does not run waits, and keeps nobody up.
        self._awaited: frozenset[str] = frozenset()
        self._running: dict[str, Running] = {}
        self._started: dict[str, str] = {}
        self._images: asyncio.Queue[Checkpoint] = asyncio.Queue(1)
        self._tasks: set[asyncio.Task[None]] = set()
        #: Calls that were open when the code ended, in words; and of these, those that an earlier attempt had closed.
        self.closed: list[str] = []
        self._closed_before: list[CallRecord] = []
        self._end: asyncio.Future[End] | None = None
        self.cancelled = False
        #: Calls that may be open at once; whoever asks more is refused.
        self.most_calls = DEFAULT_LIMITS.open_calls
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
            self._earlier.calls + self.calls + self.replayed,
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
            "deliveries": await self._recorded(),
            "timers": self.waiting.seconds_left(),
            "consumed": self.journal.consumed,
            "calls": self.journal.to_ask,
        }
        large: dict[str, int] = {}
        link, data = self.guest.link, dumped(replay)
        if len(data) > INLINE_LIMIT:
            large["replay_stream"] = await link.send_stream(data)
        else:
            order.replay = replay
        if len(brought := dumped(order.variables)) > INLINE_LIMIT:
            large["variables_stream"] = await link.send_stream(brought)
        code = order.code.encode("utf-8", "surrogatepass")
        if len(code) > INLINE_LIMIT:
            large["code_stream"] = await link.send_stream(code)
        inline = order.model_fields_set - {name.removesuffix("_stream") for name in large}
        await link.send(order.model_construct(inline | {*large}, **{**order.__dict__, **large}))

    async def go_on(self, step: int) -> None:
        """Let the guest begin the next step, its own being settled. Raises GuestDied."""
        self.differing += self.journal.differing_writes
        self._paths.clear()  # No step ends while one of its calls is open.
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
        self._attempt = self.recorder.attempt = self.waiting.attempt = attempt
        self.waiting.suspending = False
        self._end = asyncio.get_running_loop().create_future()
        started = time.monotonic()
        recording = self._spawn(self.recorder.run())
        self._spawn(self.waiting.listen())
        self._spawn(self._send())
        pump = asyncio.create_task(self.guest.link.pump(self.handle))
        try:
            if self.waiting.calls:
                self._spawn(self.waiting.resume())
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
        if self._attempt.lost.done():
            self._attempt.lost.result()
        if self._end.done():
            return self._end.result()
        if pump.done() and (exc := pump.exception()) is not None and not isinstance(exc, LinkClosed):
            raise exc
        death = await asyncio.shield(self.guest.died)
        raise GuestDied(death)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
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

    def _finish(self, end: End) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_result(end)

    # -- what the guest says -------------------------------------------------------

    async def handle(self, message: FromGuest | Written) -> None:
        """Act on one message of the guest."""
        match message:
            case Call():
                self._enter(message.entered)
                self._idle = None
                await self._asked(message)
            case Abandon():
                self._enter(message.entered)
                self._abandoned(message.path)
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
            case Diverged():
                self._enter(message.entered)
                call = self.journal.first_unasked()
                expected = message.expected or (str(call.request) if call else "nothing more")
                line = call.request.line if call else None
                self._finish(Diverging(Divergence("delivery", message.path, line, expected, message.message)))
            case StepEnds() | StateLost():
                self._enter(message.entered)
                self._idle = None
                self._stands(message)
            case Checkpoint():
                if self._images.full():
                    msg = "an image nobody asked for"
                    raise ProtocolViolation(msg)
                self._images.put_nowait(message)
            case _:
                msg = f"a message of type {message.t} in the middle of a run"
                raise ProtocolViolation(msg)

    def _enter(self, entered: Entered | None) -> None:
        if entered is not None:
            check_entered(entered, self.journal.consumed, self._is_answered)
            new = self.journal.enter({"at": entered.at, "items": entered.items})
            self._owed.difference_update(item[1] for item in new if item[0] == "r")
            if new:
                # What it waited for may have come while it said so: then its word is older than what it did since.
                self._idle = None
            self.recorder.enter(new)

    def _is_answered(self, path: str) -> bool:
        return path in self._paths and path not in self._running and path not in self.waiting.calls

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
            self._finish(Diverging(self.journal.differs))

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
        self._idle = None
        self.over.set()
        self._spawn(self._ended(done))

    def _stands(self, message: StepEnds | StateLost) -> None:
        if isinstance(message, StateLost):
            self._finish(Losing(message))
        else:
            self._spawn(self._step_ends(message))

    async def _step_ends(self, message: StepEnds) -> None:
        """Settle the step if all of it is recorded; what still runs, or was not seen again, belongs to it."""
        await self.recorder.flushed()
        if self.journal.complete and not (self._running or self.waiting.calls or self._closed_before):
            self._finish(Stepping(message))
            return
        self.guest.link.take(message.stream)
        await self.guest.link.send(Settled(ok=False))

    async def _ended(self, done: Done) -> None:
        divergence = self.journal.rested(self._held[0] if self._held else None, "ended")
        if divergence is not None and not self.cancelled:
            self._finish(Diverging(divergence))
            return
        # What still runs has an effect outside; its outcome is recorded though the code did not wait for it.
        # A cancelled execution does not wait: it says of each call that it was given up, not what became of it.
        while self._running and not self.cancelled:
            await asyncio.wait({running.outcome for running in self._running.values()})
            await self.recorder.flushed()
        await self.recorder.flushed()
        await self._close()
        # A task that lives on has its reply before the execution is over: there is nobody to bring it later.
        await self._deliveries.sent()
        self._finish(Ended(done))

    async def _close(self) -> None:
        """End the calls that are open still: no other execution may wait for them, and whoever asked is told so."""
        # What is under way may end, and what is asked be answered, while this is written: both leave these tables.
        for path in list(self._running):
            gone = {"error": {"type": "CallCancelled", "message": GIVEN_UP, "data": path}}
            id = self._started.get(path)
            self._deliver(path, gone if id is None else await self._closed(path, id, gone))
        for path, id in list(self.waiting.calls.items()):
            outcome = await self._closed(path, id, not_waited_for(path))
            if self.waiting.calls.pop(path, None) is not None:
                self._deliver(path, outcome)
        self._tell_closed()

    async def _closed(self, path: str, id: str, gone: dict[str, Any]) -> dict[str, Any]:
        settled = await self._attempt.settle(id, gone["error"], state="rejected")
        outcome = outcome_of(settled) or gone
        if outcome == gone and path not in self._given_up:
            self.closed.append(_in_words(settled.param, id))
        return outcome

    def _tell_closed(self) -> None:
        """Tell of the calls that an earlier attempt closed: the code has come to its end, or waits for nothing else."""
        for record in self._closed_before:
            assert record.outcome is not None  # noqa: S101 - that is how it came to be here
            self._deliver(record.request.path, record.outcome)
        self._closed_before.clear()

    # -- calls -------------------------------------------------------------------------

    async def _asked(self, call: Call) -> None:
        if call.path in self._paths:
            msg = f"two calls under the name {call.path[:100]}"
            raise ProtocolViolation(msg)
        self._paths.add(call.path)
        request = request_of(call, self.guest.link, self.journal.consumed)
        match self.journal.ask(request):
            case Divergence() as divergence:
                self._finish(Diverging(divergence))
            case CallRecord() as record:
                await self._known(record)
                while self._held and not self.journal.replaying:
                    await self._new(self._held.popleft())
            case None if self.journal.replaying:
                self._held.append(request)
            case None:
                await self._new(request)

    async def _known(self, record: CallRecord) -> None:
        if record.delivered:
            return
        if record.request.path in self._given_up and record.outcome is None and record.effect == "external":
            self.recorder.give_up(record.request.path, record.id)
            return
        if record.outcome == not_waited_for(record.request.path):
            request = record.request
            self.closed.append(_in_words({"name": request.name, "args": request.data, "line": request.line}, record.id))
            self._closed_before.append(record)
        elif record.outcome is not None:
            self._deliver(record.request.path, record.outcome)
        elif record.effect == "external":
            self.waiting.calls[record.request.path] = record.id
            await self.waiting.look([record.id])
        else:
            running = self.handlers.resume(self.execution, record, self._attempt.timeout_at)
            self._follow(record.request, record.effect, running, record.id)

    async def _new(self, request: Request) -> None:
        self.calls += 1
        if self._open >= self.most_calls:
            words = f"more than {self.most_calls} calls are open (the limit open_calls of the session can be raised)"
            self.recorder.answer(request, "refused", {"error": TooManyCalls(words).to_data()}, None)
            await self.recorder.room()
            return
        begun = self.handlers.begin(self.execution, request, at_once=self._forced())
        if begun.refused is not None:
            self.recorder.answer(request, "refused", begun.refused, None)
        elif begun.effect == "repeat" and begun.running is not None:
            self._follow(request, begun.effect, begun.running, None)
        else:
            self.recorder.start(request, begun.effect)
        await self.recorder.room()

    @property
    def _open(self) -> int:
        """How many calls are open: to be started, under way, or waiting for somebody."""
        return self.recorder.starting + len(self._running) + len(self.waiting.calls)

    def _forced(self) -> bool:
        """Whether a replay could only ask the same again: nothing entered since the last record but what had to.

        Otherwise the call's start is recorded first, with what entered, though its effect may be repeated: done again
        after a crash it would carry another time, or follow another order, under the same idempotency key.
        """
        entered = self.recorder.entered
        if not entered:
            return True
        others = self._owed or self._running or self.waiting.calls
        return len(entered) == 1 and entered[0][0] == "r" and entered[0][2] == 0 and not others

    def _follow(self, request: Request, effect: str, running: Running, record: str | None) -> None:
        self._running[request.path] = running
        if record is not None:
            self._started[request.path] = record
        if running.outcome.done() and not running.outcome.cancelled():
            self.recorder.answer(request, effect, running.outcome.result(), record)
        else:
            self._spawn(self._await_outcome(request, effect, running, record))

    async def _await_outcome(self, request: Request, effect: str, running: Running, record: str | None) -> None:
        if record is None:
            await asyncio.wait({running.outcome}, timeout=VISIBLE_AFTER)
            if not running.outcome.done():
                self.recorder.start(request, effect)
                return
        outcome = await asyncio.shield(running.outcome)
        self.recorder.answer(request, effect, outcome, record)

    def _abandoned(self, path: str) -> None:
        """Nobody waits for that reply any more: what runs is let run, what was asked of somebody is closed."""
        self._owed.discard(path)
        if path in self._paths and path not in self._given_up:
            self._given_up.add(path)
            record = self.waiting.calls.pop(path, None)
            if record is not None:
                self.recorder.give_up(path, record)

    # -- what the recorder says ----------------------------------------------------------

    def started(self, request: Request, effect: str, record: str) -> None:
        """Perform a call whose start is recorded, or wait for whoever answers it."""
        if self._end is not None and self._end.done():
            return  # It diverged meanwhile, or was cancelled: nothing more is performed.
        if effect == "external":
            if request.path in self._given_up:
                self.recorder.give_up(request.path, record)
            else:
                self.waiting.calls[request.path] = record
            return
        running = self._running.get(request.path) or self.handlers.start(self.execution, request)
        self._follow(request, effect, running, record)

    def answered_in(self, path: str, outcome: dict[str, Any]) -> None:
        """Deliver an outcome that is recorded."""
        self._running.pop(path, None)
        self._started.pop(path, None)
        self.handlers.forget(self.execution, path)
        self._deliver(path, outcome)

    def quiet(self) -> None:
        """Consider whether the guest is at rest: it says so, and nothing is under way here."""
        idle = self._idle
        if idle is None or self._owed & self._awaited or self._busy or idle.threads:
            return
        if self.stays:
            return
        divergence = self.journal.rested(self._held[0] if self._held else None, "waits without asking it")
        if divergence is not None:
            self._finish(Diverging(divergence))
            return
        if self._closed_before and not (idle.timers or self.waiting.calls):
            self._tell_closed()
            return
        nearest = min((left for _, left in idle.timers), default=None)
        if nearest is None or nearest >= NEAR_TIMER:
            self._spawn(self._rest(idle))

    @property
    def _busy(self) -> bool:
        return self.recorder.busy or self._deliveries.busy or bool(self._running)

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
        self._finish(Resting(tuple(promises), timer[1] if timer else None))

    # -- delivering --------------------------------------------------------------------

    def _deliver(self, path: str, outcome: dict[str, Any]) -> None:
        if path in self._given_up:
            return
        if path in self._awaited:
            self._idle = None
        self._owed.add(path)
        if not self._deliveries.add(path, outcome):
            return
        # Sent before anybody else runs, if its guest reads.
        if self._deliveries.send_now():
            self.quiet()
        else:
            self._spawn(self._send())

    async def _send(self) -> None:
        if self._deliveries.busy:
            await self._deliveries.send()
            self.quiet()

    async def answered(self, promise: Promise) -> None:
        """Deliver the answer to a call that was answered from outside, once."""
        await self.waiting.answered(promise)

    async def _recorded(self) -> list[list[Any]]:
        """Return the recorded deliveries as the guest gets them: replies with their outcomes."""
        deliveries: list[list[Any]] = []
        for item in self.journal.deliveries:
            if item[0] != "r":
                deliveries.append(item)
                continue
            outcome = self.journal.calls[item[1]].outcome
            assert outcome is not None  # noqa: S101 - Journal.read checked it
            if "value" in outcome and is_ref(outcome["value"]):
                outcome = {"value": await fetched(self.blobs, outcome["value"])}
            deliveries.append([*item, outcome])
        return deliveries

    # -- the end of a step --------------------------------------------------------------------

    async def image(self, timeout: float, since: int) -> bytearray:
        """Ask the guest for what changed since the checkpoint of that number (0: for everything).

        Raises GuestDied, ProtocolViolation.
        """
        pump = asyncio.create_task(self.guest.link.pump(self.handle))
        try:
            await self.guest.link.send(MakeCheckpoint(since=since))
            got = asyncio.create_task(self._images.get())
            try:
                awaited: set[asyncio.Future[Any]] = {got, pump, self.guest.died}
                await asyncio.wait(awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if got.done():
                    return self.guest.link.take(got.result().stream)
            finally:
                got.cancel()
            if pump.done() and isinstance(exc := pump.exception(), StreamTooLarge):
                raise GuestDied(await self.guest.exceed("namespace_bytes", f"its namespace is too large: {exc}"))
            if pump.done() and (exc := pump.exception()) is not None and not isinstance(exc, LinkClosed):
                raise exc
            if self.guest.died.done() or pump.done():
                raise GuestDied(await asyncio.shield(self.guest.died))
            # No error of the outside, which would have it tried again: the next guest would take as long.
            raise GuestDied(await self.guest.exceed("checkpoint_seconds", f"its namespace took above {timeout:g} s"))
        except LinkClosed:
            raise GuestDied(await asyncio.shield(self.guest.died)) from None
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


def _in_words(call: dict[str, Any], id: str) -> str:
    where = f" in line {call['line']}" if call.get("line") else ""
    return f"{call['name']}({shown_call(call)}){where} ({id})"
