"""Following an execution from outside: its records as events, its state, its result. Reads only, and listens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .beats import beat_of
from .durable import KIND, now_ms
from .errors import ExecutionNotFound, RecordDamaged
from .ids import parse_execution, record_id, step_id
from .inspection import outputs_of, promises_of, records_from, shown_call, submitted
from .journal import outcome_of
from .records import CallEvent, DisplayEvent, ErrorInfo, ExecutionInfo, FinishedEvent, Result, Status, WaitingEvent
from .refs import fetched, is_ref

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from .durable import Promise
    from .records import Event
    from .substrate import Substrate

__all__ = ["follow", "result_of", "state_of"]

#: A look at the store although nothing was announced: announcements may be lost (s).
LOOK_EVERY = 1.0
#: From the last news on, an execution is asked whether it is suspended (s).
QUIET = 0.1


async def result_of(substrate: Substrate, id: str) -> Result:
    """Wait until an execution is settled and return its result. Raises ExecutionNotFound."""
    # Told once, instead of asking after every commit of everybody.
    told: asyncio.Future[Promise] = asyncio.get_running_loop().create_future()

    def hear(promise: Promise) -> None:
        if promise.id == id and promise.settled and not told.done():
            told.set_result(promise)

    substrate.on_settled(hear)
    try:
        root = await substrate.promises.listen(id) or await _root(substrate, id)
        while not root.settled:
            # What is told is the promise as it was settled: it need not be asked for again.
            await asyncio.wait([told], timeout=LOOK_EVERY)
            root = told.result() if told.done() else await _root(substrate, id)
        return await read_result(substrate, root)
    finally:
        substrate.no_longer(hear)


async def read_result(substrate: Substrate, root: Promise) -> Result:
    """Read the result of a settled execution, however it was settled. Raises RecordDamaged."""
    if root.problem:
        raise RecordDamaged(root.problem)
    if root.state == "resolved" and isinstance(root.value, dict) and "status" in root.value:
        result = Result.model_validate(root.value)
        held = {"data": result.data} if result.has_value else {}
        held |= {"display": result.display} if result.display else {}
        whole = {key: await fetched(substrate.blobs, value) for key, value in held.items() if is_ref(value)}
        return result.model_copy(update=whole) if whole else result
    status: Status = "timeout" if root.state == "rejected_timedout" else "cancelled"
    message = "its deadline passed" if status == "timeout" else f"it was settled from outside ({root.state})"
    return Result(execution=root.id, status=status, error=ErrorInfo(type="Settled", message=message, module="perdure"))


async def state_of(substrate: Substrate, id: str) -> ExecutionInfo:
    """Return an execution's state now. Raises ExecutionNotFound."""
    parsed = parse_execution(id)
    root = await _root(substrate, id)
    info = ExecutionInfo(
        id=id,
        session=parsed.session,
        n=parsed.n,
        state="settled",
        filename=submitted(root).get("filename"),
        created_at=root.created_at,
        settled_at=root.settled_at,
        damaged=root.problem,
    )
    if root.settled and root.problem:
        return info
    if root.settled:
        value = root.value if isinstance(root.value, dict) else {}
        update = {
            "status": value.get("status") or (await read_result(substrate, root)).status,
            "mode": value.get("mode"),
        }
        return ExecutionInfo.model_validate(info.model_dump() | update)
    waiting = await substrate.promises.waiting(id)
    calls = [
        promise.id
        for promise in await promises_of(substrate, id, strict=False)
        if not promise.settled and isinstance(promise.param, dict) and promise.param.get("effect") == "external"
    ]
    beat = None if waiting else beat_of(substrate.folder.run, parsed.session, id, now_ms())
    return info.model_copy(update={"state": "waiting" if waiting else "running", "pending": tuple(calls), "beat": beat})


async def follow(substrate: Substrate, id: str, from_offset: int, *, on: bool) -> AsyncIterator[Event]:
    """Yield an execution's events in the order of its records. Raises ExecutionNotFound."""
    reading = _Reading(substrate, id, from_offset)
    said_waiting: WaitingEvent | None = None
    while True:
        since = substrate.generation
        root = await _root(substrate, id)
        moved = False
        async for event in reading.news():
            moved = True
            yield event
        if await reading.next_step():
            continue
        if root.settled:
            yield FinishedEvent(result=await read_result(substrate, root))
            return
        if not on:
            return
        if moved:
            said_waiting = None
        elif await substrate.changed(QUIET, since) == since or not since:
            waiting = await _waiting(substrate, id, reading.open_calls)
            if waiting is not None and waiting != said_waiting:
                said_waiting = waiting
                yield waiting
            await substrate.changed(LOOK_EVERY, since)


class _Reading:
    """How far an execution's records have been read, and which of its calls had no outcome then."""

    def __init__(self, substrate: Substrate, id: str, from_offset: int) -> None:
        self._substrate = substrate
        self._id = id
        self._from = from_offset
        self._step = 0
        self._next = 0
        self.open_calls: dict[str, Promise] = {}

    async def news(self) -> AsyncIterator[Event]:
        """Yield what came since the last look."""
        async for record in records_from(self._substrate, self._id, self._step, self._next, strict=False):
            self._next += 1
            if record.problem:
                # Where it began is known to it alone: what was read before it ends there.
                if record.tags.get(KIND) == "output":
                    yield DisplayEvent(offset=self._from, data={}, record=record.id, lost=record.problem)
                continue
            for event in await self._events(record):
                yield event
            if record.param["kind"] == "call" and not record.settled:
                self.open_calls[record.id] = record
        for call_id in list(self.open_calls):
            now = await self._substrate.promises.get(call_id, strict=False)
            if now is not None and now.settled:
                yield _call_event(self.open_calls.pop(call_id), now)

    async def _events(self, record: Promise) -> Sequence[Event]:
        match record.param["kind"]:
            case "output":
                return await outputs_of(record, self._substrate.blobs, self._from)
            case "call":
                return [_call_event(record, record)]
            case _:
                return []

    async def next_step(self) -> bool:
        """Go on to the next step if there is one and this one is read to its end."""
        promises = self._substrate.promises
        if await promises.get(step_id(self._id, self._step + 1)) is None:
            return False
        if await promises.get(record_id(self._id, self._step, self._next)) is None:
            self._step, self._next = self._step + 1, 0
        return True


async def _waiting(substrate: Substrate, id: str, open_calls: dict[str, Promise]) -> WaitingEvent | None:
    if not await substrate.promises.waiting(id):
        return None
    timers = [
        promise.param["wake"]
        for promise in await promises_of(substrate, id, strict=False)
        if not promise.settled and isinstance(promise.param, dict) and promise.param.get("kind") == "timer"
    ]
    external = tuple(call for call, promise in open_calls.items() if promise.param["effect"] == "external")
    return WaitingEvent(calls=external, until=min((wake for wake in timers if wake > now_ms()), default=None))


def _call_event(record: Promise, now: Promise) -> CallEvent:
    outcome = outcome_of(now)
    return CallEvent(
        id=record.id,
        name=record.param["name"],
        args=shown_call(record.param),
        state="pending" if outcome is None else "rejected" if "error" in outcome else "resolved",
        external=record.param["effect"] == "external",
    )


async def _root(substrate: Substrate, id: str) -> Promise:
    root = await substrate.promises.get(id, strict=False)
    if root is None:
        msg = f"there is no execution {id}: 'perdure ps' lists those there are"
        raise ExecutionNotFound(msg)
    return root
