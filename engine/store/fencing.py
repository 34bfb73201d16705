"""Writes under a task's lease for programs in this process, without the protocol's envelopes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from resonate.types import PromiseCreateReq, PromiseSettleReq

from . import wire
from .task_actions import fence
from .wire import Reply

if TYPE_CHECKING:
    from .commits import Committer, Write
    from .database import Database
    from .delivery import Messages

__all__ = ["Along", "Refused", "fenced", "fencing"]


class Refused(NamedTuple):
    """A request that was not applied, by the protocol's rules."""

    status: int
    why: str


def fencing(task: str, version: int, request: PromiseCreateReq | PromiseSettleReq) -> Write[Reply]:
    """Creating or settling a promise if a task is held under a version, as a write."""
    inner: wire.PromiseCreate | wire.PromiseSettle
    if isinstance(request, PromiseCreateReq):
        param = wire.Value(request.param.headers, request.param.data)
        inner = wire.PromiseCreate(request.id, request.timeout_at, param, request.tags)
    else:
        inner = wire.PromiseSettle(request.id, request.state, wire.Value(request.value.headers, request.value.data))
    return lambda db, now, messages: fence(db, now, task, version, inner, messages)


def fenced(reply: Reply) -> wire.PromiseRecord | Refused:
    """The promise that a fenced request was answered with, or why it was refused."""
    if isinstance(reply.data, str):
        return Refused(reply.status, reply.data)
    promise: wire.PromiseRecord = reply.data["promise"]
    return promise


class _Waiting(NamedTuple):
    write: Write[Reply]
    done: asyncio.Future[Reply]


class Along:
    """Writes that wait for the fulfilment of their task: neither is ever done without the other."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}

    def add(self, task: str, write: Write[Reply]) -> asyncio.Future[Reply]:
        """Have a write done with the task's fulfilment, whenever that is asked for."""
        self.refuse(task)
        waiting = self._waiting[task] = _Waiting(write, asyncio.get_running_loop().create_future())
        return waiting.done

    def refuse(self, task: str | None = None) -> None:
        """Give up what waits for a task (None: for any), which comes to no end here."""
        for each in [task] if task is not None else list(self._waiting):
            waiting = self._waiting.pop(each, None)
            if waiting is not None and not waiting.done.done():
                waiting.done.set_result(wire.conflict("the task was not fulfilled"))

    async def write_with(self, task: str, write: Write[Reply], committer: Committer) -> Reply:
        """Do a fulfilment, after what waits for it and in one transaction; neither, if that is refused."""
        waiting = self._waiting.pop(task, None)
        if waiting is None:
            return await committer.write(write)

        def both(db: Database, now: int, messages: Messages) -> tuple[Reply, Reply]:
            first = waiting.write(db, now, messages)
            return first, first if isinstance(first.data, str) else write(db, now, messages)

        try:
            first, reply = await committer.write(both)
        except BaseException as error:
            if isinstance(error, Exception) and not waiting.done.done():
                waiting.done.set_exception(error)
            waiting.done.cancel()
            raise
        if not waiting.done.done():
            waiting.done.set_result(first)
        return reply
