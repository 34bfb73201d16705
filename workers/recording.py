"""Writing down what a guest does: one record after another, in the guest's order, under the attempt's lease.

1. A record carries the deliveries that were consumed before it and that no record carries yet.
2. Whoever is told of a call's outcome, or shown output, is told after the record of it.
3. Output waits a moment for more, and for nothing else: whatever else is to be recorded takes it along first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from perdure.engine.durable import AttemptLost, now_ms
from perdure.engine.ids import record_id, step_id
from perdure.engine.journal import DISPLAY, outcome_of
from perdure.engine.refs import stored

from .messages import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from perdure.engine.blobs import BlobStore
    from perdure.engine.durable import Attempt, Promise
    from perdure.engine.journal import Journal, Request

__all__ = ["Owner", "Recorder"]

#: Output waits this long for more, so that a loop of prints makes few records and is still seen live (s).
OUTPUT_DELAY = 0.015
#: A record of output holds about this many characters at the most.
OUTPUT_BATCH = 64 * 1024
#: What a write weighs beside its characters: its length is recorded, and an empty line is not for nothing.
WRITE_WEIGHT = 8
#: Unrecorded output beyond this stops the reading of the guest until it is written.
OUTPUT_BACKLOG = 1024 * 1024
#: And so do more records than this that are not written: a second's worth.
CALLS_BACKLOG = 1000


class Owner(Protocol):
    """The run whose guest is written down; told of each record that somebody waits for."""

    def started(self, request: Request, effect: str, record: str) -> None:
        """The start of that call is recorded: it may be performed."""
        ...

    def answered_in(self, path: str, outcome: dict[str, Any]) -> None:
        """The outcome of that call is recorded: it may be delivered."""
        ...

    def quiet(self) -> None:
        """Nothing is left to be recorded."""
        ...


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
class _GiveUp:
    path: str
    record: str


@dataclass(slots=True)
class _Writes:
    since: float
    chunks: list[list[Any]] = field(default_factory=list)
    characters: int = 0
    #: Characters that are held for it in memory: what a display shows counts here, and as one character above.
    weight: int = 0


@dataclass(slots=True)
class _Flush:
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Recorder:
    """The queue of what is to be recorded for one run, and the task that empties it."""

    def __init__(
        self,
        execution: str,
        step: int,
        journal: Journal,
        blobs: BlobStore,
        worker: str,
        owner: Owner,
        characters: int = 0,
    ) -> None:
        self._execution = execution
        self._step = step
        self._journal = journal
        self._blobs = blobs
        self._worker = worker
        self._owner = owner
        self.attempt: Attempt
        #: Characters of output recorded, of the whole execution: where its output goes on.
        self.characters = characters + journal.characters
        self._unrecorded: list[list[Any]] = []
        self._queue: deque[_Start | _Answer | _Writes | _GiveUp | _Flush] = deque()
        self._queued = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._fewer = asyncio.Event()
        self._backlog = 0
        self._shown = 0
        #: Characters that may be recorded; the guest cuts what is more, and one that does not is hostile.
        self.most: int | None = None
        #: Calls whose start is to be recorded.
        self.starting = 0
        self._writing = False
        self._writer: asyncio.Task[None] | None = None
        #: Done when nothing more is written, while somebody runs this.
        self._over: asyncio.Future[None] | None = None
        self._stopped = False
        #: Waits until that is recorded which comes before everything here; None once it is.
        self.follows: Callable[[], Awaitable[None]] | None = None
        # A deadline is recorded from elsewhere than the queue: two writers would take the same number.
        self._one = asyncio.Lock()

    def begin(self, step: int, journal: Journal) -> None:
        """Go on in the next step; what was consumed in the one before is recorded with its end."""
        self._step, self._journal = step, journal
        self._unrecorded = []

    @property
    def busy(self) -> bool:
        """Whether something is being recorded, or is about to be."""
        return self._writing or bool(self._queue)

    @property
    def entered(self) -> list[list[Any]]:
        """What has entered the guest since the last record."""
        return self._unrecorded

    # -- what is to be recorded --------------------------------------------------

    def start(self, request: Request, effect: str) -> None:
        """Record that a call is about to be performed, or asked of somebody outside."""
        self.starting += 1
        self._put(_Start(request, effect))

    def answer(self, request: Request, effect: str, outcome: dict[str, Any], record: str | None) -> None:
        """Record a call's outcome: in its record, or in one that is written with it."""
        self._put(_Answer(request, effect, outcome, record))

    async def write(self, stream: str, texts: list[str]) -> None:
        """Record output, write by write; returns when there is room for more."""
        last = self._last_writes()
        if last.chunks and last.chunks[-1][0] == stream:
            last.chunks[-1][1] += texts
        else:
            last.chunks.append([stream, list(texts)])
        characters = sum(map(len, texts))
        await self._added(last, characters, characters, characters + WRITE_WEIGHT * len(texts))

    async def show(self, data: dict[str, str]) -> None:
        """Record a display among the output; returns when there is room for more."""
        last = self._last_writes()
        last.chunks.append([DISPLAY, data])
        weight = sum(map(len, data.values()))
        await self._added(last, 1, weight, weight)

    def _last_writes(self) -> _Writes:
        last = self._queue[-1] if self._queue else None
        if not isinstance(last, _Writes) or last.weight > OUTPUT_BATCH:
            last = _Writes(time.monotonic())
            self._put(last)
        return last

    async def _added(self, last: _Writes, characters: int, shown: int, weight: int) -> None:
        last.characters += characters
        last.weight += weight
        self._backlog += weight
        self._shown += shown
        if self.most is not None and self._shown > self.most:
            msg = f"it showed more than {self.most} characters, which output_characters and display_bytes do not allow"
            raise ProtocolViolation(msg)
        if last.weight > OUTPUT_BATCH:
            self._queued.set()
        if self._backlog > OUTPUT_BACKLOG:
            self._room.clear()
            await self._room.wait()

    def give_up(self, path: str, record: str) -> None:
        """Record that the code stopped waiting for an answer, and close the question."""
        self._put(_GiveUp(path, record))

    def enter(self, items: list[list[Any]]) -> None:
        """Take deliveries that the guest has consumed along with the next record."""
        self._unrecorded += items

    async def room(self) -> None:
        """Wait until little enough is unrecorded: a flood of calls slows the guest that makes it, not its host."""
        while len(self._queue) > CALLS_BACKLOG and not self._stopped:
            self._fewer.clear()
            await self._fewer.wait()

    async def flushed(self) -> None:
        """Wait until everything up to now is recorded."""
        flush = _Flush()
        self._put(flush)
        await flush.done.wait()

    def unrecorded(self) -> dict[str, Any] | None:
        """Return the deliveries consumed since the last record, as a record carries them."""
        if not self._unrecorded:
            return None
        return {"at": self._journal.consumed - len(self._unrecorded), "items": list(self._unrecorded)}

    def _put(self, item: _Start | _Answer | _Writes | _GiveUp | _Flush) -> None:
        self._queue.append(item)
        self._queued.set()
        self._begin_to_write()

    def _begin_to_write(self) -> None:
        """Have the queue emptied, unless it is: begun at once, so that nobody has to be woken for a record."""
        if self._over is not None and not self._over.done() and not self._writing:
            self._writing = True
            loop = asyncio.get_running_loop()
            self._writer = asyncio.Task(self._write(), loop=loop, eager_start=True)

    # -- recording -----------------------------------------------------------------

    async def run(self) -> None:
        """Record everything, until it is stopped. Raises AttemptLost."""
        self._stopped = False
        self._over = over = asyncio.get_running_loop().create_future()
        try:
            if self._queue:
                self._begin_to_write()
            else:
                self._owner.quiet()
            await over
        finally:
            self._over = None
            if self._writer is not None:
                self._writer.cancel()
                await asyncio.gather(self._writer, return_exceptions=True)
            self._writing = False

    async def _write(self) -> None:
        over = self._over
        assert over is not None  # noqa: S101 - it is begun by those who have looked
        try:
            while self._queue and not self._stopped:
                await self._write_next()
            self._writing = False
            if not self._stopped:
                self._owner.quiet()
            elif not over.done():
                over.set_result(None)
        except Exception as exc:  # noqa: BLE001 - it ends the run, which waits for it
            if not over.done():
                over.set_exception(exc)

    async def _write_next(self) -> None:
        item = self._queue[0]
        if isinstance(item, _Writes):
            await self._more_output(item)
        self._queue.popleft()
        self._less()
        match item:
            case _Start():
                await self._record_start(item)
            case _Answer():
                await self._record_answer(item)
            case _Writes():
                await self._record_output(item)
            case _GiveUp():
                await self._record_given_up(item)
            case _Flush():
                item.done.set()

    def _less(self) -> None:
        if len(self._queue) <= CALLS_BACKLOG // 2:
            self._fewer.set()

    def stop(self) -> None:
        """Begin no other record; ``run`` ends once the one under way is written.

        Cut off, that one would be in the store a moment after the records were listed: the next guest would be told
        to ask again what is recorded, and its own record would find the number taken.
        """
        self._stopped = True
        self._queued.set()
        if self._over is not None and not self._over.done() and not self._writing:
            self._over.set_result(None)

    async def timers(self, new: dict[str, int], wake: int) -> str:
        """Record deadlines, by path, and return the id of a promise that resolves at ``wake`` (ms since 1970)."""
        promise = await self._record({"kind": "timer", "timers": new, "wake": wake}, wake=wake)
        return promise.id

    async def _more_output(self, item: _Writes) -> None:
        """Wait for more output to share the record, unless something else wants to be recorded."""
        while len(self._queue) == 1 and item.weight <= OUTPUT_BATCH and not self._stopped:
            left = item.since + OUTPUT_DELAY - time.monotonic()
            if left <= 0:
                return
            self._queued.clear()
            try:
                async with asyncio.timeout(left):
                    await self._queued.wait()
            except TimeoutError:
                return

    async def begun(self) -> None:
        """Wait until the step is recorded that the records are of."""
        if self.follows is not None:
            await self.follows()
            self.follows = None

    async def _record(self, param: dict[str, Any], **how: Any) -> Promise:
        async with self._one:
            await self.begun()
            param["at"] = now_ms()
            count = len(self._unrecorded)
            if count:
                param["entered"] = {"at": self._journal.consumed - count, "items": self._unrecorded[:count]}
            id = record_id(self._execution, self._step, self._journal.next_index)
            parent = step_id(self._execution, self._step)
            promise = await self.attempt.create(id, param["kind"], param, parent=parent, **how)
            if promise.param.get("at") != param["at"]:
                # A write of the guest before, still under way when its records were listed, has taken this number.
                msg = f"{id} was written meanwhile: what is recorded is read again"
                self.attempt.lose(msg)
                raise AttemptLost(msg)
            self._journal.next_index += 1
            del self._unrecorded[:count]
            return promise

    async def _call_param(self, request: Request, effect: str) -> dict[str, Any]:
        return {
            "kind": "call",
            "path": request.path,
            "name": request.name,
            "args": await stored(self._blobs, request.data),
            "print": request.print,
            "line": request.line,
            "after": request.after,
            "effect": effect,
            "worker": self._worker,
        }

    async def _record_start(self, item: _Start) -> None:
        param = await self._call_param(item.request, item.effect)
        promise = await self._record(param, external=item.effect == "external")
        self.starting -= 1
        self._owner.started(item.request, item.effect, promise.id)

    async def _record_answer(self, item: _Answer) -> None:
        outcome = item.outcome
        if "value" in outcome:
            outcome = {"value": await stored(self._blobs, outcome["value"])}
        if item.record is None:
            param = await self._call_param(item.request, item.effect)
            await self._record({**param, "outcome": outcome}, settled=True)
        else:
            if "value" in outcome:
                settled = await self.attempt.settle(item.record, outcome["value"])
            else:
                settled = await self.attempt.settle(item.record, outcome["error"], state="rejected")
            # Whoever settled it first decided; that is what every replay will see.
            outcome = outcome_of(settled) or outcome
        self._owner.answered_in(item.request.path, outcome)

    async def _record_given_up(self, item: _GiveUp) -> None:
        # With what made the code stop waiting, before the promise says so: a replay is not to take it for an answer.
        await self._record({"kind": "cancelled", "path": item.path}, settled=True)
        gone = {"type": "CallCancelled", "message": "the code stopped waiting for the answer", "data": item.path}
        await self.attempt.settle(item.record, gone, state="rejected")

    async def _record_output(self, item: _Writes) -> None:
        chunks = [await self._chunk(stream, content) for stream, content in item.chunks]
        await self._record({"kind": "output", "offset": self.characters, "chunks": chunks}, settled=True)
        self.characters += item.characters
        self._backlog -= item.weight
        if self._backlog <= OUTPUT_BACKLOG // 2:
            self._room.set()

    async def _chunk(self, stream: str, content: Any) -> list[Any]:
        if stream == DISPLAY:
            return [stream, await stored(self._blobs, content), [1]]
        return [stream, "".join(content), [len(text) for text in content]]
