"""A run: one guest's way through a step, recording what it asks and delivering what it is owed.

1. Record, then deliver or show: a guest learns nothing, and a client sees nothing, that is not in the journal.
2. Records are written one at a time, in the guest's order, under the attempt's lease.
3. While recorded calls have not all been asked again, a new call waits (journal.py); a guest that rests or ends
   before that has diverged.

Every message of the guest goes through ``handle``; everything that has to be written goes through one queue to
``_record_all``. The run ends with the first of: the code ended, a divergence, rest (nothing can happen without the
outside), the guest's death, the loss of the attempt.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from perdure.capabilities import values
from perdure.engine.durable import now_ms
from perdure.engine.events import Delivered, Delivering
from perdure.engine.ids import record_id, step_id
from perdure.engine.journal import CallRecord, Divergence, Journal, Request, outcome_of
from perdure.engine.refs import INLINE_LIMIT, fetched, stored

from .guests import GuestDied
from .link import LinkClosed
from .messages import Call, Checkpoint, Diverged, Done, Idle, Output, ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from perdure.engine.blobs import BlobStore
    from perdure.engine.durable import Attempt, Promise

    from .guests import Guest
    from .handlers import Handlers, Running
    from .messages import Entered, FromGuest

__all__ = ["Diverging", "Ended", "Resting", "Run"]

#: Output waits this long for more, so that a loop of prints makes few records and is still seen live (s).
OUTPUT_DELAY = 0.015
#: A record of output holds about this many characters at the most.
OUTPUT_BATCH = 64 * 1024
#: Unrecorded output beyond this stops the reading of the guest until it is written.
OUTPUT_BACKLOG = 1024 * 1024
#: A repeatable call that takes longer than this is recorded as started, so that it can be seen (s).
VISIBLE_AFTER = 0.05
#: A guest at rest is given this long, in case an answer comes at once, before the execution is suspended (s).
LINGER = 0.05
#: A guest whose next timer is due sooner than this waits for it itself (s).
NEAR_TIMER = 2.0
#: Answers from outside are listened for if the guest is still live after this (s); a suspended one is woken anyway.
LISTEN_AFTER = 0.25


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


End = Ended | Resting | Diverging


@dataclass(slots=True)
class _Start:
    request: Request
    effect: str


@dataclass(slots=True)
class _Answer:
    request: Request
    effect: str
    outcome: dict[str, Any]
    record: str | None


@dataclass(slots=True)
class _Writes:
    since: float
    chunks: list[list[Any]] = field(default_factory=list)
    characters: int = 0


@dataclass(slots=True)
class _Flush:
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Run:
    """Drives one guest through one step of one execution; survives suspension while its guest is parked."""

    def __init__(
        self,
        guest: Guest,
        execution: str,
        step: int,
        journal: Journal,
        handlers: Handlers,
        blobs: BlobStore,
        worker: str,
    ) -> None:
        self.guest = guest
        self.execution = execution
        self.step = step
        self.journal = journal
        self.handlers = handlers
        self.blobs = blobs
        self.worker = worker
        self.calls = 0
        self.replayed = journal.unasked
        self.writes = 0
        self.characters = journal.characters
        self.waiting: dict[str, str] = {}
        self.ran = 0.0
        self._attempt: Attempt
        self._sent = self._taken = sum(1 for item in journal.deliveries if item[0] == "r")
        self._held: deque[Request] = deque()
        self._idle: Idle | None = None
        self._unrecorded: list[list[Any]] = []
        self._queue: deque[_Start | _Answer | _Writes | _Flush] = deque()
        self._queued = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._backlog = 0
        self._busy = False
        self._running: dict[str, Running] = {}
        self._started: dict[str, str] = {}
        self._listened: set[str] = set()
        self._images: asyncio.Queue[Checkpoint] = asyncio.Queue(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: asyncio.Future[End] | None = None
        self._suspending = False
        self.cancelled = False
        self.kept = False
        self._deadlines = dict(journal.timers)
        self._timer = journal.wake

    async def cancel(self) -> None:
        """Ask the code to stop: a signal reaches Python code and awaits; the caller's patience does the rest."""
        self.cancelled = True
        try:
            await self.guest.link.send({"t": "cancel"})
        except LinkClosed:
            return
        self.guest.signal(signal.SIGUSR1)

    # -- driving ----------------------------------------------------------------

    async def execute(self, message: dict[str, Any]) -> None:
        """Tell the guest what to run, with the recorded deliveries of the step, values fetched from where they are."""
        replay = {
            "deliveries": await self._recorded(),
            "timers": self._seconds_left(),
            "consumed": self.journal.consumed,
        }
        data = json.dumps(replay, separators=(",", ":")).encode()
        if len(data) > INLINE_LIMIT:
            message["replay_stream"] = await self.guest.link.send_stream(data)
        else:
            message["replay"] = replay
        code = message["code"].encode("utf-8", "surrogatepass")
        if len(code) > INLINE_LIMIT:
            message["code_stream"] = await self.guest.link.send_stream(code)
            del message["code"]
        await self.guest.link.send(message)

    async def drive(self, attempt: Attempt) -> End:
        """Go on until the code ends, diverges or rests. Raises GuestDied, AttemptLost, ProtocolViolation."""
        self._attempt = attempt
        self._suspending = False
        self._end = asyncio.get_running_loop().create_future()
        started = time.monotonic()
        self._spawn(self._record_all())
        self._spawn(self._listen_later())
        pump = asyncio.create_task(self.guest.link.pump(self.handle))
        try:
            self._resume()
            # A task that fails sets the end; one that ends well is no end.
            awaited: set[asyncio.Future[Any]] = {pump, self.guest.died, attempt.lost, self._end}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            return await self._ending(pump)
        finally:
            self.ran += time.monotonic() - started
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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # A task that ends well only leaves the set; one that fails ends the run: drive waits on all of them.
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

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

    async def handle(self, message: FromGuest) -> None:
        """Act on one message of the guest."""
        match message:
            case Call():
                self._enter(message.entered)
                self._idle = None
                await self._asked(message)
            case Output():
                self._enter(message.entered)
                self._idle = None
                await self._wrote(message)
            case Idle():
                self._enter(message.entered)
                self._idle = message
                self._consider_rest()
            case Done():
                self._enter(message.entered)
                self._idle = None
                self._spawn(self._ended(message))
            case Diverged():
                self._enter(message.entered)
                call = self.journal.first_unasked()
                expected = message.expected or (str(call.request) if call else "nothing more")
                line = call.request.line if call else None
                self._finish(Diverging(Divergence("delivery", message.path, line, expected, message.message)))
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
            new = self.journal.enter({"at": entered.at, "items": entered.items})
            self._taken += sum(1 for item in new if item[0] == "r")
            self._unrecorded += new

    async def _asked(self, call: Call) -> None:
        if call.args_stream is not None:
            raw = self.guest.link.take(call.args_stream)
            data = json.loads(raw)
            if not isinstance(data, dict):
                msg = "arguments that are not an object"
                raise ProtocolViolation(msg)
        else:
            data = call.args or {}
        refuse_refs(data)
        request = Request(call.path, call.name, data, fingerprint(call.name, data), call.line)
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
        if record.outcome is not None:
            await self._deliver(record.request.path, record.outcome)
        elif record.effect == "external":
            self.waiting[record.request.path] = record.id
            await self._look([record.id])
        else:
            running = self.handlers.resume(self.execution, record, self._attempt.timeout_at)
            self._follow(record.request, record.effect, running, record.id)

    async def _new(self, request: Request) -> None:
        self.calls += 1
        begun = self.handlers.begin(self.execution, request)
        if begun.refused is not None:
            self._put(_Answer(request, "refused", begun.refused, None))
        elif begun.effect == "repeat" and begun.running is not None:
            self._follow(request, begun.effect, begun.running, None)
        else:
            self._put(_Start(request, begun.effect))

    def _follow(self, request: Request, effect: str, running: Running, record: str | None) -> None:
        self._running[request.path] = running
        if record is not None:
            self._started[request.path] = record
        self._spawn(self._await_outcome(request, effect, running, record))

    async def _await_outcome(self, request: Request, effect: str, running: Running, record: str | None) -> None:
        if record is None:
            await asyncio.wait({running.outcome}, timeout=VISIBLE_AFTER)
            if not running.outcome.done():
                self._put(_Start(request, effect))
                return
        outcome = await asyncio.shield(running.outcome)
        self._put(_Answer(request, effect, outcome, record))

    async def _wrote(self, output: Output) -> None:
        if not self.journal.write(output.stream, output.text):
            return
        self.writes += 1
        last = self._queue[-1] if self._queue else None
        if not isinstance(last, _Writes) or last.characters > OUTPUT_BATCH:
            last = _Writes(time.monotonic())
            self._put(last)
        if last.chunks and last.chunks[-1][0] == output.stream:
            last.chunks[-1][1].append(output.text)
        else:
            last.chunks.append([output.stream, [output.text]])
        last.characters += len(output.text)
        self._backlog += len(output.text)
        if last.characters > OUTPUT_BATCH:
            self._queued.set()
        if self._backlog > OUTPUT_BACKLOG:
            self._room.clear()
            await self._room.wait()

    async def _ended(self, done: Done) -> None:
        divergence = self.journal.rested(self._held[0] if self._held else None, "ended")
        if divergence is not None and not self.cancelled:
            self._finish(Diverging(divergence))
            return
        # What still runs has an effect outside; its outcome is recorded though the code did not wait for it.
        # A cancelled execution does not wait: it says of each call that it was given up, not what became of it.
        while self._running and not self.cancelled:
            await asyncio.wait({running.outcome for running in self._running.values()})
            await self._flushed()
        await self._flushed()
        for path in self._running:
            if path in self._started:
                msg = "the execution was cancelled while the call was under way; whether it was performed is not known"
                gone = {"type": "CallCancelled", "message": msg, "data": path}
                await self._attempt.settle(self._started[path], gone, state="rejected")
        for path, id in self.waiting.items():
            await self._attempt.settle(
                id,
                {"type": "CallCancelled", "message": "the code ended without waiting for the answer", "data": path},
                state="rejected",
            )
        self._finish(Ended(done))

    # -- recording -------------------------------------------------------------------

    def _put(self, item: _Start | _Answer | _Writes | _Flush) -> None:
        self._queue.append(item)
        self._queued.set()

    async def _flushed(self) -> None:
        flush = _Flush()
        self._put(flush)
        await flush.done.wait()

    async def _record_all(self) -> None:
        while True:
            while not self._queue:
                self._busy = False
                self._consider_rest()
                self._queued.clear()
                await self._queued.wait()
            self._busy = True
            item = self._queue[0]
            if isinstance(item, _Writes):
                await self._more_output(item)
            self._queue.popleft()
            match item:
                case _Start():
                    await self._record_start(item)
                case _Answer():
                    await self._record_answer(item)
                case _Writes():
                    await self._record_output(item)
                case _Flush():
                    item.done.set()

    async def _more_output(self, item: _Writes) -> None:
        """Wait for more output to share the record, unless something else wants to be recorded."""
        while len(self._queue) == 1 and item.characters <= OUTPUT_BATCH:
            left = item.since + OUTPUT_DELAY - time.monotonic()
            if left <= 0:
                return
            self._queued.clear()
            try:
                async with asyncio.timeout(left):
                    await self._queued.wait()
            except TimeoutError:
                return

    async def _record(self, param: dict[str, Any], **how: Any) -> Promise:
        param["at"] = now_ms()
        count = len(self._unrecorded)
        if count:
            param["entered"] = {"at": self.journal.consumed - count, "items": self._unrecorded[:count]}
        id = record_id(self.execution, self.step, self.journal.next_index)
        promise = await self._attempt.create(id, param["kind"], param, parent=step_id(self.execution, self.step), **how)
        self.journal.next_index += 1
        del self._unrecorded[:count]
        return promise

    async def _call_param(self, request: Request, effect: str) -> dict[str, Any]:
        return {
            "kind": "call",
            "path": request.path,
            "name": request.name,
            "args": await stored(self.blobs, request.data),
            "print": request.print,
            "line": request.line,
            "effect": effect,
            "worker": self.worker,
        }

    async def _record_start(self, item: _Start) -> None:
        external = item.effect == "external"
        promise = await self._record(await self._call_param(item.request, item.effect), external=external)
        if external:
            self.waiting[item.request.path] = promise.id
            return
        running = self._running.get(item.request.path) or self.handlers.start(self.execution, item.request)
        self._follow(item.request, item.effect, running, promise.id)

    async def _record_answer(self, item: _Answer) -> None:
        path = item.request.path
        outcome = await self._stored_outcome(item.outcome)
        if item.record is None:
            param = await self._call_param(item.request, item.effect)
            await self._record({**param, "outcome": outcome}, settled=True)
        else:
            if "value" in outcome:
                settled = await self._attempt.settle(item.record, outcome["value"])
            else:
                settled = await self._attempt.settle(item.record, outcome["error"], state="rejected")
            # Whoever settled it first decided; that is what every replay will see.
            outcome = outcome_of(settled) or outcome
        self._running.pop(path, None)
        self._started.pop(path, None)
        self.handlers.forget(self.execution, path)
        await self._deliver(path, outcome)

    async def _record_output(self, item: _Writes) -> None:
        chunks = [[stream, "".join(texts), [len(text) for text in texts]] for stream, texts in item.chunks]
        await self._record({"kind": "output", "offset": self.characters, "chunks": chunks}, settled=True)
        self.characters += item.characters
        self._backlog -= item.characters
        if self._backlog <= OUTPUT_BACKLOG // 2:
            self._room.set()

    # -- delivering --------------------------------------------------------------------

    async def _deliver(self, path: str, outcome: dict[str, Any]) -> None:
        self._idle = None
        self._sent += 1
        self._attempt.tell(Delivering(self.execution, path))
        message: dict[str, Any] = {"t": "reply", "path": path}
        if "error" in outcome:
            message["error"] = outcome["error"]
        else:
            data = await fetched(self.blobs, outcome["value"])
            raw = json.dumps(data, separators=(",", ":")).encode()
            if len(raw) > INLINE_LIMIT:
                message["value_stream"] = await self.guest.link.send_stream(raw)
            else:
                message["value"] = data
        try:
            await self.guest.link.send(message)
        except LinkClosed:
            # The guest is dead, and its death ends the run; the record is what counts.
            await self.guest.died
        self._attempt.tell(Delivered(self.execution, path))

    async def answered(self, promise: Promise) -> None:
        """Deliver the answer to a call that was answered from outside, once."""
        if self._suspending or not promise.settled:
            return
        path = next((path for path, id in self.waiting.items() if id == promise.id), None)
        outcome = outcome_of(promise)
        if path is not None and outcome is not None:
            del self.waiting[path]
            await self._deliver(path, outcome)

    def _resume(self) -> None:
        """Look, after a suspension, at what may have been answered meanwhile."""
        if not self.waiting:
            return
        known = [promise for id in self.waiting.values() if (promise := self._attempt.preloaded.get(id))]
        settled = [promise for promise in known if promise.settled]
        if settled:
            self._spawn(self._answers(settled))
        else:
            self._spawn(self._look(list(self.waiting.values())))

    async def _answers(self, promises: list[Promise]) -> None:
        for promise in promises:
            await self.answered(promise)

    async def _look(self, ids: list[str]) -> None:
        for id in ids:
            promise = await self._attempt.get(id)
            if promise is not None:
                await self.answered(promise)

    async def _listen_later(self) -> None:
        while True:
            await asyncio.sleep(LISTEN_AFTER)
            for id in [id for id in self.waiting.values() if id not in self._listened]:
                self._listened.add(id)
                promise = await self._attempt.listen(id)
                if promise is not None:
                    await self.answered(promise)

    # -- resting -------------------------------------------------------------------------

    def _consider_rest(self) -> None:
        idle = self._idle
        if idle is None or self._taken < self._sent or self._queue or self._busy or self._running:
            return
        if idle.threads:
            return
        divergence = self.journal.rested(self._held[0] if self._held else None, "waits without asking it")
        if divergence is not None:
            self._finish(Diverging(divergence))
            return
        nearest = min((left for _, left in idle.timers), default=None)
        if nearest is not None and nearest < NEAR_TIMER:
            return
        self._spawn(self._rest(idle))

    async def _rest(self, idle: Idle) -> None:
        await asyncio.sleep(LINGER)
        if self._idle is not idle or self._suspending or self._queue or self._running:
            return
        self._suspending = True
        waiting = list(self.waiting.values())
        wake = await self._timer_promise(idle)
        if wake is not None:
            waiting.append(wake[0])
        self._finish(Resting(tuple(waiting), wake[1] if wake else None))

    async def _timer_promise(self, idle: Idle) -> tuple[str, int] | None:
        """Record the deadlines that the guest depends on; one promise resolves at the nearest."""
        if not idle.timers:
            return None
        now = now_ms()
        new: dict[str, int] = {}
        for path, left in idle.timers:
            if path not in self._deadlines:
                new[path] = now + int(left * 1000)
        self._deadlines |= new
        live = {path for path, _ in idle.timers}
        self._deadlines = {path: at for path, at in self._deadlines.items() if path in live}
        wake = max(min(self._deadlines.values()), now + 1)
        if self._timer is None or self._timer[1] != wake or new:
            promise = await self._record({"kind": "timer", "timers": dict(new), "wake": wake}, wake=wake)
            self._timer = (promise.id, wake)
        return self._timer

    def _seconds_left(self) -> dict[str, float]:
        now = now_ms()
        return {path: max(0.0, (deadline - now) / 1000) for path, deadline in self._deadlines.items()}

    # -- values ----------------------------------------------------------------------------

    async def _stored_outcome(self, outcome: dict[str, Any]) -> dict[str, Any]:
        if "value" in outcome:
            return {"value": await stored(self.blobs, outcome["value"])}
        return outcome

    async def _recorded(self) -> list[list[Any]]:
        """Return the recorded deliveries as the guest gets them: replies with their outcomes."""
        deliveries: list[list[Any]] = []
        for item in self.journal.deliveries:
            if item[0] != "r":
                deliveries.append(item)
                continue
            outcome = self.journal.calls[item[1]].outcome
            assert outcome is not None  # noqa: S101 - Journal.read checked it
            if "value" in outcome:
                outcome = {"value": await fetched(self.blobs, outcome["value"])}
            deliveries.append([*item, outcome])
        return deliveries

    # -- the end of a step --------------------------------------------------------------------

    async def image(self, timeout: float) -> tuple[bytes, list[dict[str, Any]]]:
        """Ask the guest for its namespace. Raises GuestDied, TimeoutError, ProtocolViolation."""
        pump = asyncio.create_task(self.guest.link.pump(self.handle))
        try:
            await self.guest.link.send({"t": "checkpoint"})
            got = asyncio.create_task(self._images.get())
            try:
                awaited: set[asyncio.Future[Any]] = {got, pump, self.guest.died}
                await asyncio.wait(awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if got.done():
                    message = got.result()
                    return self.guest.link.take(message.stream), message.names
            finally:
                got.cancel()
            if pump.done() and (exc := pump.exception()) is not None and not isinstance(exc, LinkClosed):
                raise exc
            if self.guest.died.done() or pump.done():
                raise GuestDied(await asyncio.shield(self.guest.died))
            msg = f"the namespace was not written within {timeout:.0f} s"
            raise TimeoutError(msg)
        except LinkClosed:
            raise GuestDied(await asyncio.shield(self.guest.died)) from None
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    def unrecorded(self) -> dict[str, Any] | None:
        """Return the deliveries consumed since the last record, as a record carries them."""
        if not self._unrecorded:
            return None
        return {"at": self.journal.consumed - len(self._unrecorded), "items": list(self._unrecorded)}


def fingerprint(name: str, data: Any) -> str:
    """Return the fingerprint of a request: 32 hexadecimal digits over its name and canonical arguments."""
    return blake3(name.encode() + b"\0" + values.fingerprint_bytes(data)).hexdigest(16)


def refuse_refs(data: Any) -> None:
    """Only the host names blobs: a guest that does wants to read what it was not given. Raises ProtocolViolation."""
    if next(values.refs(data), None) is not None:
        msg = "a reference to a blob in a value of the guest"
        raise ProtocolViolation(msg)
