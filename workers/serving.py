"""Serving capabilities from a process that is no worker of ours, with plain resonate-sdk, and keeping their policies.

1. That a call is begun is durable before it is performed, unless it may be repeated: a promise beside the call's own.
2. A call that was begun by a host that was lost ends by its effect: performed again, looked up, or in doubt.
3. Each is registered under a name that is asked for only where ``served`` is declared: a host that does not keep these
   rules has no function of that name, and performs nothing.

``NotPerformed`` goes back to who asked: trying again is the asking worker's, under the same idempotency key.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from resonate.retry import Never
from resonate.types import Value

from perdure.capabilities import CallContext, CallInDoubt, NotPerformed, values
from perdure.capabilities.errors import CallTimeout, as_call_error
from perdure.engine.durable import now_ms

from .elsewhere import served_name
from .identity import known_dead, own_identity

if TYPE_CHECKING:
    from resonate.context import Context
    from resonate.resonate import Resonate

    from perdure.capabilities import Capability
    from perdure.capabilities.base import BoundCall

__all__ = ["serve"]

#: Between two looks at whether the host that had begun a call can act no more (s).
ALONE_POLL = 0.1


def serve(resonate: Resonate, *capabilities: Capability) -> None:
    """Register these with a Resonate client, which is then started as ever; raise ValueError if one is not served."""
    for capability in capabilities:
        if not capability.served or capability.handler is None:
            msg = f"{capability.name} is not declared as served: capability(..., remote=GROUP, served=True)"
            raise ValueError(msg)
        served = _Served(resonate, capability)
        resonate.register(
            served.answer, name=served_name(capability.name), version=capability.version, retry_policy=Never()
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """One call as it came: the promise to be settled, and what its handler is called with."""

    id: str
    timeout_at: int
    bound: BoundCall
    context: CallContext
    key: str


@dataclass(frozen=True, slots=True)
class _Begun:
    """Who began to perform a call, and when."""

    number: int
    host: str
    at: int


class _Served:
    """One capability in this process."""

    def __init__(self, resonate: Resonate, capability: Capability) -> None:
        self._resonate = resonate
        self._capability = capability
        self._running: dict[str, asyncio.Task[dict[str, Any]]] = {}

    async def answer(self, ctx: Context, *, data: Any, call: str, attempt: int) -> dict[str, Any]:
        """Return the outcome as data: what is raised here would be pickled."""
        id, timeout_at = ctx.info.id, ctx.info.timeout_at
        # A task that is handed out again while its handler runs here is the same call.
        task = self._running.get(id)
        if task is None:
            task = self._running[id] = asyncio.create_task(self._outcome(id, timeout_at, data, call, attempt))
            task.add_done_callback(lambda _: self._running.pop(id, None))
        return await asyncio.shield(task)

    async def _outcome(self, id: str, timeout_at: int, data: Any, call: str, attempt: int) -> dict[str, Any]:
        capability = self._capability
        try:
            bound = capability.bind((), values.decode(data))
            execution, _, rest = id.partition(":rpc.")
            key, _, retry = rest.rpartition(".")
            deadline = time.monotonic() + (capability.timeout or 0.0)
            context = CallContext(
                session=execution.partition("@")[0],
                execution=execution,
                call=call,
                attempt=attempt,
                retry=int(retry),
                deadline=deadline,
            )
            value = await self._perform(_Asked(id, timeout_at, bound, context, key))
            return {"value": capability.reply(value)}
        except Exception as exc:  # noqa: BLE001 - a handler is somebody's, and may fail in any way
            return {"error": as_call_error(exc).to_data()}

    async def _perform(self, asked: _Asked) -> Any:
        if self._capability.effect == "repeat":
            return await self._run(self._capability.handler, asked)
        before = await self._begin(asked, 0)
        while before is not None:
            if self._capability.effect == "unknown":
                why = "was begun by a host that gave no outcome; whether it was performed is not known"
                raise CallInDoubt(f"{asked.context.call} {why}")
            await self._until_alone(before)
            try:
                return await self._run(self._capability.probe, asked)
            except NotPerformed:
                before = await self._begin(asked, before.number + 1)
            except Exception as exc:
                raise _in_doubt(asked, exc) from exc
        return await self._first(asked)

    async def _first(self, asked: _Asked) -> Any:
        """Perform it; what may have happened all the same is looked up."""
        try:
            return await self._run(self._capability.handler, asked)
        except (CallTimeout, ConnectionError, TimeoutError) as failure:
            if self._capability.effect != "reconcile":
                raise
            try:
                return await self._run(self._capability.probe, asked)
            except NotPerformed:
                if self._capability.is_async or not isinstance(failure, CallTimeout):
                    raise
                # A thread cannot be stopped: it may still act, whatever the probe has not seen yet.
                raise _in_doubt(asked, failure) from failure
            except Exception as exc:
                raise _in_doubt(asked, exc) from exc

    async def _begin(self, asked: _Asked, number: int) -> _Begun | None:
        """Make it durable that this process performs the call; return who has begun it, if somebody had."""
        nonce = uuid4().hex
        param = {"by": nonce, "host": own_identity(), "at": now_ms()}
        tags = {"resonate:origin": asked.context.execution, "resonate:parent": asked.id}
        id = f"{asked.id}.begun{number}"
        promise = await self._resonate.promises.create(id, asked.timeout_at, Value(data=param), tags)
        found: Any = promise.param.data
        return None if found["by"] == nonce else _Begun(number, str(found["host"]), int(found["at"]))

    async def _until_alone(self, before: _Begun) -> None:
        """Wait until whoever began the call is surely not acting on it: dead, or past the time that it had."""
        over = before.at + int((self._capability.timeout or 0.0) * 1000)
        while not known_dead(before.host) and now_ms() < over:  # noqa: ASYNC110 - the clock says when, nobody else does
            await asyncio.sleep(ALONE_POLL)

    async def _run(self, function: Any, asked: _Asked) -> Any:
        arguments = asked.bound.injected(key=asked.key, ctx=asked.context)
        limit = asyncio.timeout(self._capability.timeout)
        try:
            async with limit:
                if inspect.iscoroutinefunction(function):
                    return await function(**arguments)
                return await asyncio.to_thread(function, **arguments)
        except TimeoutError:
            if not limit.expired():
                raise  # The handler's own: of something that it asked.
            msg = f"{self._capability.name} gave no outcome within {self._capability.timeout:g} s"
            raise CallTimeout(msg) from None


def _in_doubt(asked: _Asked, why: Exception) -> CallInDoubt:
    return CallInDoubt(f"{asked.context.call} was begun, and its probe cannot say whether it was performed: {why}")
