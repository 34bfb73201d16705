"""The calls of one run: matched with what is recorded, begun, followed to their outcome, closed with the code.

1. While recorded calls have not all been asked again, a new one is held (journal.py).
2. A call is performed after the record of its start, or, where doing it again does no harm, before any record of it.
3. With the code end the calls that it left open: nobody of another execution may wait for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from perdure.capabilities.errors import TooManyCalls
from perdure.engine.inspection import shown_call
from perdure.engine.journal import CallRecord, Divergence, not_waited_for, outcome_of
from perdure.engine.settings import DEFAULT_LIMITS

from .ends import Diverging
from .messages import ProtocolViolation
from .requests import request_of

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from perdure.engine.durable import Attempt
    from perdure.engine.journal import Journal, Request

    from .ends import End
    from .guests import Guest
    from .handlers import Handlers, Running
    from .messages import Call
    from .recording import Recorder
    from .waiting import Waiting

__all__ = ["OpenCalls", "Owner"]

#: A repeatable call that takes longer than this is recorded as started, so that it can be seen (s).
VISIBLE_AFTER = 0.05
#: What is said of a call that was under way when its execution was cancelled.
GIVEN_UP = "the execution was cancelled while the call was under way; whether it was performed is not known"


class Owner(Protocol):
    """The run whose calls they are."""

    guest: Guest
    execution: str
    journal: Journal
    handlers: Handlers
    attempt: Attempt
    recorder: Recorder
    waiting: Waiting
    cancelled: bool
    kept: bool

    @property
    def finished(self) -> bool:
        """Whether it has come to an end: nothing more is performed."""
        ...

    def finish(self, end: End) -> None:
        """Come to this end, unless there is one."""
        ...

    def deliver(self, path: str, outcome: dict[str, Any]) -> None:
        """Send an outcome that is recorded to the guest."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        """Do this beside the rest, for as long as the run is driven."""
        ...


class OpenCalls:
    """What a guest has asked and what became of it, by the path of each call."""

    def __init__(self, run: Owner, given_up: Iterable[str]) -> None:
        self._run = run
        #: How many new ones there were.
        self.count = 0
        #: Calls that may be open at once; whoever asks more is refused.
        self.most = DEFAULT_LIMITS.open_calls
        #: Calls that were open when the code ended, in words; and of these, those that an earlier attempt had closed.
        self.closed: list[str] = []
        self._closed_before: list[CallRecord] = []
        #: Calls whose reply was sent and not consumed, and those that the code stopped waiting for.
        self.owed: set[str] = set()
        self.given_up: set[str] = set(given_up)
        self.running: dict[str, Running] = {}
        self._started: dict[str, str] = {}
        #: Calls that were asked: a guest names each once.
        self._paths: set[str] = set()
        self._held: deque[Request] = deque()

    def begin(self) -> None:
        """Go on in the next step: none ends while one of its calls is open."""
        self._paths.clear()

    @property
    def held(self) -> Request | None:
        """The first call that is new, though not all recorded ones have been asked again."""
        return self._held[0] if self._held else None

    @property
    def closed_before(self) -> bool:
        """Whether the code waits for a call that an earlier attempt closed, and has not been told so."""
        return bool(self._closed_before)

    @property
    def unsettled(self) -> bool:
        """Whether a call is under way, is waited for, or was closed and its code not told."""
        return bool(self.running or self._run.waiting.calls or self._closed_before)

    def is_answered(self, path: str) -> bool:
        """Whether the guest can have been given a reply to that call."""
        return path in self._paths and path not in self.running and path not in self._run.waiting.calls

    # -- what the guest says -------------------------------------------------------

    async def ask(self, call: Call) -> None:
        """Take in a call of the guest. Raises ProtocolViolation."""
        if call.path in self._paths:
            msg = f"two calls under the name {call.path[:100]}"
            raise ProtocolViolation(msg)
        self._paths.add(call.path)
        journal = self._run.journal
        request = request_of(call, self._run.guest.link, journal.consumed)
        match journal.ask(request):
            case Divergence() as divergence:
                self._run.finish(Diverging(divergence))
            case CallRecord() as record:
                await self._known(record)
                while self._held and not journal.replaying:
                    await self._new(self._held.popleft())
            case None if journal.replaying:
                self._held.append(request)
            case None:
                await self._new(request)

    def abandon(self, path: str) -> None:
        """Nobody waits for that reply any more: what runs is let run, what was asked of somebody is closed."""
        self.owed.discard(path)
        if path in self._paths and path not in self.given_up:
            self.given_up.add(path)
            record = self._run.waiting.calls.pop(path, None)
            if record is not None:
                self._run.recorder.give_up(path, record)

    async def _known(self, record: CallRecord) -> None:
        run, path = self._run, record.request.path
        if record.delivered:
            return
        if path in self.given_up and record.outcome is None and record.effect == "external":
            run.recorder.give_up(path, record.id)
            return
        if record.outcome == not_waited_for(path):
            request = record.request
            self.closed.append(_in_words({"name": request.name, "args": request.data, "line": request.line}, record.id))
            self._closed_before.append(record)
        elif record.outcome is not None:
            run.deliver(path, record.outcome)
        elif record.effect == "external":
            run.waiting.calls[path] = record.id
            await run.waiting.look([record.id])
        else:
            running = run.handlers.resume(run.execution, record, run.attempt.timeout_at)
            self._follow(record.request, record.effect, running, record.id)

    async def _new(self, request: Request) -> None:
        recorder = self._run.recorder
        self.count += 1
        if self._open >= self.most:
            words = f"more than {self.most} calls are open (the limit open_calls of the session can be raised)"
            recorder.answer(request, "refused", {"error": TooManyCalls(words).to_data()}, None)
            await recorder.room()
            return
        if self._run.kept:
            # What it asks may rest on what no checkpoint has: whoever comes after a crash must know that it was kept.
            await recorder.begun()
        begun = self._run.handlers.begin(self._run.execution, request, at_once=self._forced())
        if begun.refused is not None:
            recorder.answer(request, "refused", begun.refused, None)
        elif begun.effect == "repeat" and begun.running is not None:
            self._follow(request, begun.effect, begun.running, None)
        else:
            recorder.start(request, begun.effect)
        await recorder.room()

    @property
    def _open(self) -> int:
        """How many calls are open: to be started, under way, or waiting for somebody."""
        return self._run.recorder.starting + len(self.running) + len(self._run.waiting.calls)

    def _forced(self) -> bool:
        """Whether a replay could only ask the same again: nothing entered since the last record but what had to.

        Otherwise the call's start is recorded first, with what entered, though its effect may be repeated: done again
        after a crash it would carry another time, or follow another order, under the same idempotency key.
        """
        entered = self._run.recorder.entered
        if not entered:
            return True
        others = self.owed or self.running or self._run.waiting.calls
        return len(entered) == 1 and entered[0][0] == "r" and entered[0][2] == 0 and not others

    # -- until there is an outcome -------------------------------------------------

    def _follow(self, request: Request, effect: str, running: Running, record: str | None) -> None:
        self.running[request.path] = running
        if record is not None:
            self._started[request.path] = record
        if running.outcome.done() and not running.outcome.cancelled():
            self._run.recorder.answer(request, effect, running.outcome.result(), record)
        else:
            self._run.spawn(self._await_outcome(request, effect, running, record))

    async def _await_outcome(self, request: Request, effect: str, running: Running, record: str | None) -> None:
        if record is None:
            await asyncio.wait({running.outcome}, timeout=VISIBLE_AFTER)
            if not running.outcome.done():
                self._run.recorder.start(request, effect)
                return
        outcome = await asyncio.shield(running.outcome)
        self._run.recorder.answer(request, effect, outcome, record)

    def started(self, request: Request, effect: str, record: str) -> None:
        """Perform a call whose start is recorded, or wait for whoever answers it."""
        run = self._run
        if run.finished:
            return  # It diverged meanwhile, or was cancelled: nothing more is performed.
        if effect == "external":
            if request.path in self.given_up:
                run.recorder.give_up(request.path, record)
            else:
                run.waiting.calls[request.path] = record
            return
        running = self.running.get(request.path) or run.handlers.start(run.execution, request)
        self._follow(request, effect, running, record)

    def answered_in(self, path: str, outcome: dict[str, Any]) -> None:
        """Deliver an outcome that is recorded."""
        self.running.pop(path, None)
        self._started.pop(path, None)
        self._run.handlers.forget(self._run.execution, path)
        self._run.deliver(path, outcome)

    # -- the code has ended --------------------------------------------------------

    async def end(self) -> None:
        """Wait for what is under way, record it, and close what is left.

        What still runs has an effect outside; its outcome is recorded though the code did not wait for it. A cancelled
        execution does not wait: it says of each call that it was given up, not what became of it.
        """
        while self.running and not self._run.cancelled:
            await asyncio.wait({running.outcome for running in self.running.values()})
            await self._run.recorder.flushed()
        await self._run.recorder.flushed()
        await self._close()

    async def _close(self) -> None:
        """End the calls that are open still: no other execution may wait for them, and whoever asked is told so."""
        waiting, deliver = self._run.waiting, self._run.deliver
        # What is under way may end, and what is asked be answered, while this is written: both leave these tables.
        for path in list(self.running):
            gone = {"error": {"type": "CallCancelled", "message": GIVEN_UP, "data": path}}
            id = self._started.get(path)
            deliver(path, gone if id is None else await self._closed(path, id, gone))
        for path, id in list(waiting.calls.items()):
            outcome = await self._closed(path, id, not_waited_for(path))
            if waiting.calls.pop(path, None) is not None:
                deliver(path, outcome)
        self.tell_closed()

    async def _closed(self, path: str, id: str, gone: dict[str, Any]) -> dict[str, Any]:
        settled = await self._run.attempt.settle(id, gone["error"], state="rejected")
        outcome = outcome_of(settled) or gone
        if outcome == gone and path not in self.given_up:
            self.closed.append(_in_words(settled.param, id))
        return outcome

    def tell_closed(self) -> None:
        """Tell of the calls that an earlier attempt closed: the code has come to its end, or waits for nothing else."""
        # Taken away first: a delivery that nobody waits for lets the run look at once whether it is at rest.
        closed, self._closed_before = self._closed_before, []
        for record in closed:
            assert record.outcome is not None  # noqa: S101 - that is how it came to be here
            self._run.deliver(record.request.path, record.outcome)


def _in_words(call: dict[str, Any], id: str) -> str:
    where = f" in line {call['line']}" if call.get("line") else ""
    return f"{call['name']}({shown_call(call)}){where} ({id})"
