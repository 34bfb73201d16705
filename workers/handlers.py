"""Handlers that run in this worker, for as long as they run: across guests and attempts of one execution.

1. One handler at a time per call: whoever asks again while it runs is given the one that runs.
2. A call that started and has no outcome is settled by its capability's policy, never by a guess.
3. No handler starts when the attempt's lease is about to end (the caller checks ``may_start`` first).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perdure.capabilities import policy, values
from perdure.capabilities.base import CallContext
from perdure.capabilities.errors import (
    BadArguments,
    CallInDoubt,
    CallTimeout,
    CapabilityError,
    CapabilityNotGranted,
    NotPerformed,
    UnknownCapability,
    as_call_error,
)
from perdure.engine.durable import now_ms
from perdure.engine.ids import rpc_id

from .identity import known_dead

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from perdure.capabilities.base import BoundCall, Capability
    from perdure.capabilities.registry import Registry
    from perdure.engine.journal import CallRecord, Request

__all__ = ["Begun", "Handlers", "Running", "Scope"]

#: Between two looks at a predecessor, or at the lease (s).
ALONE_POLL = 0.05


class _NotBegun(Exception):
    """A handler's thread came too late: its lease may have ended meanwhile, and nothing was done."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What the calls of one execution may do and are known by."""

    execution: str
    session: str
    state: str
    incarnation: str
    granted: frozenset[str]
    attempt: int
    lease_ttl: float
    #: Seconds for which the lease is sure to last; no handler starts at or below zero.
    lease_left: Callable[[], float]
    #: Asks a worker of another group: promise id, capability, encoded arguments.
    elsewhere: Callable[[str, Capability, Any, CallContext], Awaitable[Any]] | None = None


@dataclass(slots=True)
class Running:
    """A handler at work; ``outcome`` resolves with ``{"value"}`` or ``{"error"}`` and never fails."""

    print: str
    outcome: asyncio.Future[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Begun:
    """What became of a new call: refused at once, started, or to be recorded first and then started or waited for."""

    effect: str
    running: Running | None = None
    refused: dict[str, Any] | None = None


class Handlers:
    """The handlers of one execution in this worker."""

    def __init__(self, registry: Registry, scope: Scope, identity: str) -> None:
        self._registry = registry
        self._identity = identity
        self._running: dict[str, Running] = {}
        #: Calls that start once their start is recorded.
        self._bound: dict[str, BoundCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.scope = scope

    def begin(self, execution: str, request: Request, *, at_once: bool) -> Begun:
        """Take in a call that no record knows; ``at_once``: one that may be repeated starts before it is recorded."""
        del execution
        running = self._running.get(request.path)
        try:
            bound = self._bind(request)
        except CapabilityError as exc:
            return Begun("refused", refused={"error": exc.to_data()})
        capability = bound.capability
        if capability.external:
            return Begun("external")
        if running is not None and running.print == request.print:
            return Begun(capability.effect, running)
        if capability.effect == "repeat" and at_once:
            return Begun("repeat", self._start(request, bound, self._perform(request, bound)))
        self._bound[request.path] = bound
        return Begun(capability.effect)

    def start(self, execution: str, request: Request) -> Running:
        """Start the handler of a call whose start is recorded."""
        del execution
        bound = self._bound.pop(request.path, None) or self._bind(request)
        return self._start(request, bound, self._perform(request, bound))

    def resume(self, execution: str, record: CallRecord, deadline: int) -> Running:
        """Settle a call that was started, perhaps by a predecessor, and has no outcome: by its policy."""
        del execution, deadline
        request = record.request
        running = self._running.get(request.path)
        if running is not None and running.print == request.print:
            return running
        try:
            bound = self._bind(request)
        except CapabilityError as exc:
            return self._settled(request, {"error": exc.to_data()})
        return self._start(request, bound, self._recover(record, bound))

    def forget(self, execution: str, path: str) -> None:
        """Drop a handler whose outcome is recorded."""
        del execution
        self._running.pop(path, None)
        self._bound.pop(path, None)

    @property
    def busy(self) -> bool:
        """Whether any handler still runs."""
        return bool(self._tasks)

    @property
    def holds(self) -> bool:
        """Whether there is an outcome that no record has yet."""
        return bool(self._running)

    async def finish(self) -> None:
        """Wait for every handler that still runs."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _bind(self, request: Request) -> BoundCall:
        if request.name not in self.scope.granted:
            try:
                self._registry.get(request.name)
            except UnknownCapability:
                pass
            else:
                msg = (
                    f"{request.name} is not granted to this execution; grant it when the session or the run is started"
                )
                raise CapabilityNotGranted(msg)
        capability = self._registry.get(request.name)
        try:
            arguments = values.decode(request.data)
        except values.NotPlain as exc:
            msg = f"{request.name}: {exc}"
            raise BadArguments(msg) from None
        return capability.bind((), arguments)

    def _settled(self, request: Request, outcome: dict[str, Any]) -> Running:
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        future.set_result(outcome)
        return Running(request.print, future)

    def _start(self, request: Request, bound: BoundCall, work: Coroutine[Any, Any, Any]) -> Running:
        running = Running(request.print, asyncio.get_running_loop().create_future())
        self._running[request.path] = running
        # Begun at once: one that needs no wait is over before anybody has to be woken for it.
        loop = asyncio.get_running_loop()
        task = asyncio.Task(self._outcome(running, bound.capability, work), loop=loop, eager_start=True)
        if task.done():
            return running
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return running

    async def _outcome(self, running: Running, capability: Capability, work: Coroutine[Any, Any, Any]) -> None:
        try:
            outcome = {"value": capability.reply(await work)}
        except asyncio.CancelledError:
            running.outcome.cancel()
            raise
        except Exception as exc:  # noqa: BLE001 - a handler is somebody's, and may fail in any way
            outcome = {"error": as_call_error(exc).to_data()}
        if not running.outcome.done():
            running.outcome.set_result(outcome)

    def _key(self, request: Request) -> str:
        return policy.idempotency_key(
            self.scope.state, self.scope.incarnation, f"{self.scope.execution}!{request.path}"
        )

    async def _call(self, function: Any, bound: BoundCall, request: Request, retry: int) -> Any:
        capability = bound.capability
        timeout = capability.timeout or 0.0
        acts = function is capability.handler
        arguments = bound.arguments
        context: CallContext | None = None
        if capability.injects or capability.remote is not None:
            context = CallContext(
                session=self.scope.session,
                execution=self.scope.execution,
                call=f"{self.scope.execution}!{request.path}",
                attempt=self.scope.attempt,
                retry=retry,
                deadline=time.monotonic() + timeout,
            )
            arguments = bound.injected(key=self._key(request), ctx=context)
        # One that is served has its time from when its host begins, and the promise an end of its own.
        limit = asyncio.timeout(None if capability.served else timeout)
        try:
            async with limit:
                if capability.remote is not None and self.scope.elsewhere is not None and context is not None:
                    id = rpc_id(self.scope.execution, self._key(request), retry)
                    return await self.scope.elsewhere(id, capability, request.data, context)
                if inspect.iscoroutinefunction(function):
                    return await function(**arguments)
                run = self._in_time if acts else _run
                return await asyncio.to_thread(run, function, arguments)
        except TimeoutError:
            if not limit.expired():
                raise  # The handler's own: of something that it asked.
            msg = f"{capability.name} gave no outcome within {timeout:g} s"
            raise CallTimeout(msg) from None

    def _in_time(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run a handler in its thread: it may have waited for one, and its process been paused meanwhile."""
        if self.scope.lease_left() <= 0:
            raise _NotBegun
        return _run(function, arguments)

    async def _perform(self, request: Request, bound: BoundCall) -> Any:
        """Run the handler, again where the policy allows it."""
        retry = 0
        while True:
            if self.scope.lease_left() <= 0:
                await self._until_leased()
            try:
                return await self._call(bound.capability.handler, bound, request, retry)
            except _NotBegun:
                continue
            except Exception as exc:  # noqa: BLE001 - raised below, unless the policy knows better
                failure = exc
            # The probe of what is served elsewhere is asked there.
            if policy.asks_probe(bound.capability, failure) and not bound.capability.served:
                found = await self._probed(request, bound, failure)
                if not isinstance(found, CapabilityError):
                    return found
                failure = found
            delay = policy.retry_delay(bound.capability, failure, retry)
            if delay is None:
                raise failure
            await asyncio.sleep(delay)
            retry += 1

    async def _probed(self, request: Request, bound: BoundCall, failure: Exception) -> Any:
        """Find out what became of a call whose handler gave no outcome: its reply, or a CapabilityError."""
        try:
            return await self._call(bound.capability.probe, bound, request, 0)
        except NotPerformed as exc:
            if bound.capability.is_async or not isinstance(failure, CallTimeout):
                return exc
            # A thread cannot be stopped: it may still act, whatever the probe has not seen yet.
            why = "its handler still runs"
        except Exception as exc:  # noqa: BLE001 - a probe is somebody's, and may fail in any way
            why = str(exc)
        msg = f"{request} gave no outcome ({failure}), and its probe cannot say whether it was performed: {why}"
        return CallInDoubt(msg)

    async def _recover(self, record: CallRecord, bound: BoundCall) -> Any:
        """Settle a call whose handler is lost, by its policy, once its predecessor can act no more."""
        capability = bound.capability
        if capability.served:
            # What became of it is the promise's that its host was asked by, whoever asks.
            return await self._perform(record.request, bound)
        match policy.recovery(capability.effect):
            case "repeat":
                await self._until_alone(record, capability)
                return await self._perform(record.request, bound)
            case "probe":
                await self._until_alone(record, capability)
                return await self._probe(record, bound)
            case "in doubt":
                msg = f"{record.request} was started, and whether it was performed is not known"
                raise CallInDoubt(msg, {"call": record.id})

    async def _until_leased(self) -> None:
        """Start nothing under a lease about to end: the next attempt of this worker, if there is one, goes on here."""
        while self.scope.lease_left() <= 0:  # noqa: ASYNC110 - the clock says when, nobody else does
            await asyncio.sleep(ALONE_POLL)

    async def _until_alone(self, record: CallRecord, capability: Capability) -> None:
        """Wait until whoever started the call is surely not acting on it: dead, or past every deadline it had."""
        over = record.at + (self.scope.lease_ttl + (capability.timeout or 0.0)) * 1000
        while record.worker != self._identity and not known_dead(record.worker) and now_ms() < over:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(ALONE_POLL)

    async def _probe(self, record: CallRecord, bound: BoundCall) -> Any:
        try:
            found = await self._call(bound.capability.probe, bound, record.request, 0)
        except NotPerformed:
            return await self._perform(record.request, bound)
        except Exception as exc:
            msg = f"{record.request} was started, and its probe cannot say whether it was performed: {exc}"
            raise CallInDoubt(msg, {"call": record.id}) from exc
        return found


def _run(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    return function(**arguments)
