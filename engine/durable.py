"""The adapter to the Resonate SDK: the only file that touches its internals.

1. Nothing of ours takes an id from the SDK's counters, and no record shares a branch with another.
2. An operation that fails ends the attempt: whoever waits on ``Attempt.lost`` is told, wherever it happened.
3. A rejected promise carries plain data of our own, and nothing that came from outside is ever unpickled.

``tests/engine/test_durable.py`` holds what this file assumes of the pinned SDK version.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from base64 import b64decode
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import msgspec
from resonate.codec import Codec, NoopEncryptor
from resonate.context import Context
from resonate.effects import ResonateEffects
from resonate.error import PlatformError, ResonateError, ServerError, StoppedError, Suspended
from resonate.ids import origin_of
from resonate.types import PromiseCreateReq, PromiseRecord, PromiseSettleReq

from .errors import RecordDamaged
from .events import Recorded, Recording, Settled, Settling, Suspending
from .store import Refused, fenced

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from resonate.resonate import Resonate
    from resonate.send import Sender

    from .events import Event, Observer
    from .store import SqliteConnection
    from .store.wire import PromiseRecord as EmbeddedRecord

__all__ = [
    "EXTERNAL",
    "KIND",
    "Attempt",
    "AttemptLost",
    "Promise",
    "PromiseState",
    "Promises",
    "damage_in",
    "decoded",
    "now_ms",
    "watch",
]

PromiseState = Literal["pending", "resolved", "rejected", "rejected_canceled", "rejected_timedout"]

#: A promise born settled lies this far in the past, so that a client's clock that runs ahead of the store's by less
#: than this still has it settled at once.
BORN_SETTLED_MS = 1

#: The tag that says what a promise of ours is: state, settings, execution, step, call, output, timer, death, cancel.
KIND = "perdure:kind"
#: The tag of what anybody may settle.
EXTERNAL = "resonate:external"

_NOT_FOUND = 404
_NOT_IMPLEMENTED = 501
_PAGE = 100
_CODEC = Codec(NoopEncryptor())


def now_ms() -> int:
    """Return milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class AttemptLost(Exception):
    """The attempt may not act any more: its lease is gone or the store refused it."""


class GivenBack(StoppedError):
    """An execution goes back to the store, on purpose; whoever decided that has said why."""

    SAYS = "the execution was given back"

    def __str__(self) -> str:
        return self.SAYS


class _NotWhatWasDecided(logging.Filter):
    """Drops what the SDK says of executions that were given back: to it each is a failure with three tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        problem = record.exc_info[1] if record.exc_info else None
        causes = problem.causes if isinstance(problem, PlatformError) else record.args or ()
        return not any(str(cause) == GivenBack.SAYS for cause in causes)


for _name in ("resonate.core", "resonate.observability"):
    logging.getLogger(_name).addFilter(_NotWhatWasDecided())


class Promise(NamedTuple):
    """A promise as the store holds it, decoded; times in ms since 1970.

    ``problem`` says what of it cannot be read, to whom asked for it all the same: that part is None then.
    """

    id: str
    state: PromiseState
    param: Any
    value: Any
    tags: dict[str, str]
    timeout_at: int
    created_at: int
    settled_at: int | None
    problem: str | None = None

    @property
    def settled(self) -> bool:
        """Whether the promise has an outcome."""
        return self.state != "pending"


def decoded(record: PromiseRecord | EmbeddedRecord, param: Any = None, *, strict: bool = True) -> Promise:
    """Decode a promise as the protocol, or the embedded store, carries it; ``param``, if given, is its parameter.

    Raises RecordDamaged if it is ``strict``.
    """
    tags = record.tags
    wrong = None
    if param is None:
        param, wrong = _readable(record.param.data)
    value, also = _readable(record.value.data)
    problem = _said(record.id, wrong or also)
    if problem and strict:
        raise RecordDamaged(problem)
    return Promise(
        record.id,
        record.state,
        param,
        value,
        tags if isinstance(tags, dict) else msgspec.json.decode(tags),
        record.timeout_at,
        record.created_at,
        record.settled_at,
        problem,
    )


def damage_in(id: str, parts: Iterable[str]) -> str | None:
    """Return what is wrong with what is stored of a promise, if it cannot be read."""
    return next((_said(id, wrong) for _, wrong in map(_readable, parts) if wrong), None)


def _said(id: str, wrong: Exception | None) -> str | None:
    if wrong is None:
        return None
    return (
        f"what is recorded of {id} cannot be read ({wrong}): the file of the store was damaged. "
        "'perdure doctor --state' says what else is; restore the state from a backup, and submit again"
    )


def _readable(data: str | None) -> tuple[Any, Exception | None]:
    try:
        return _plain(data), None
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        return None, exc


def _plain(data: str | None) -> Any:
    """Return what the SDK's codec would, a third as dear: a replay begins with all that a step has recorded."""
    return msgspec.json.decode(b64decode(data, validate=True)) if data else None


def decode_message(raw: str) -> Promise | None:
    """Return the promise that an ``unblock`` message of a source carries, or None for another message."""
    message = msgspec.json.decode(raw)
    if message.get("kind") != "unblock":
        return None
    data = message["data"]["promise"]
    data = {key: value for key, value in data.items() if value is not None}
    return decoded(msgspec.convert(data, PromiseRecord))


class Promises:
    """Promises outside any task: what clients do, and what a worker reads. Raises the SDK's ResonateError family."""

    def __init__(self, resonate: Resonate, group: str, store: SqliteConnection | None = None) -> None:
        self._sender: Sender = resonate._sender
        self._store = store
        self._source = resonate._source
        self._resolve = resonate._resolve_target
        self._group = group

    def target(self) -> str:
        """Return the address at which the workers of the group take tasks."""
        return self._resolve(self._group)

    async def get(self, id: str, *, strict: bool = True) -> Promise | None:
        """Return the promise, or None if there is none. Raises RecordDamaged if it is ``strict``."""
        if self._store is not None:
            record = await self._store.promise(id)
            return None if record is None else decoded(record, strict=strict)
        try:
            return decoded(await self._sender.promise_get(id), strict=strict)
        except ServerError as exc:
            if exc.code == _NOT_FOUND:
                return None
            raise

    async def create(
        self,
        id: str,
        kind: str,
        param: Any,
        *,
        timeout_at: int,
        parent: str | None = None,
        target: bool | str = False,
        external: bool = False,
        settled: bool = False,
    ) -> Promise:
        """Create a promise, or return the one that has this id already.

        With ``target`` a worker takes it as a task, one of ours or of the group it names; ``settled``: it is born
        resolved, whatever ``timeout_at``.
        """
        tags = {KIND: kind}
        if target:
            tags["resonate:target"] = self._resolve(target) if isinstance(target, str) else self.target()
        if external:
            tags[EXTERNAL] = "true"
        request = _create_request(id, parent or origin_of(id), param, timeout_at, tags, settled=settled)
        return decoded(await self._sender.promise_create(request))

    async def search(self, kind: str, *, pending: bool = False, strict: bool = True) -> list[Promise]:
        """Return every promise of a kind. Raises NotImplementedError where the store cannot search."""
        found: list[Promise] = []
        cursor: str | None = None
        try:
            while True:
                page = await self._sender.promise_search("pending" if pending else None, {KIND: kind}, _PAGE, cursor)
                found += [decoded(record, strict=strict) for record in page.promises]
                cursor = page.cursor
                if cursor is None:
                    return found
        except ServerError as exc:
            if exc.code == _NOT_IMPLEMENTED:
                msg = "this store cannot search: name a session or an execution"
                raise NotImplementedError(msg) from None
            raise

    async def waiting(self, id: str) -> bool:
        """Whether the task of this promise is suspended: nothing runs, and it waits for others."""
        try:
            _, data = await self._sender._send_envelope("task.get", {"id": id}, allow_409=False, routes_by=id)
        except ServerError:
            return False
        return isinstance(data, dict) and data.get("task", {}).get("state") == "suspended"

    async def settle(
        self, id: str, value: Any, *, state: Literal["resolved", "rejected"] = "resolved"
    ) -> Promise | None:
        """Settle a promise and return it as it is then (perhaps settled before, otherwise); None if there is none."""
        try:
            settled = await self._sender.promise_settle(
                PromiseSettleReq(id=id, state=state, value=_CODEC.encode(value))
            )
        except ServerError as exc:
            if exc.code == _NOT_FOUND:
                return None
            raise
        return decoded(settled)

    async def fence(
        self, task: str, version: int, request: PromiseCreateReq | PromiseSettleReq, param: Any = None
    ) -> Promise:
        """Create or settle a promise under a task's lease; the embedded store is asked without the SDK's envelopes.

        ``param`` is what a request to create has encoded.
        """
        if self._store is not None:
            record = _allowed(await self._store.fence(task, version, request))
            ours = isinstance(request, PromiseCreateReq) and record.param.data == request.param.data
            return decoded(record, param if ours else None)
        if isinstance(request, PromiseCreateReq):
            return decoded((await self._sender.task_fence_create(task, version, request)).promise)
        return decoded((await self._sender.task_fence_settle(task, version, request)).promise)

    def settle_along(self, task: str, version: int, request: PromiseSettleReq) -> Coroutine[Any, Any, Promise] | None:
        """Settle a promise under a task's lease in one commit with what is asked for next; None where there is no way.

        It is asked for when this returns, and done when what it returns is.
        """
        if self._store is None:
            return None
        reply = self._store.fence_along(task, version, request)

        async def done() -> Promise:
            return decoded(_allowed(fenced(await reply)))

        return done()

    async def listen(self, id: str) -> Promise | None:
        """Ask to be told (by an unblock message to this process) when the promise settles; return it as it is now."""
        if self._source is None:
            return await self.get(id)
        try:
            return decoded(await self._sender.promise_register_listener(id, self._source.unicast()))
        except ServerError as exc:
            if exc.code == _NOT_FOUND:
                return None
            raise


def _allowed(record: EmbeddedRecord | Refused) -> EmbeddedRecord:
    if isinstance(record, Refused):
        raise ServerError(record.status, record.why)
    return record


def _create_request(
    id: str, parent: str, param: Any, timeout_at: int, tags: dict[str, str], *, settled: bool
) -> PromiseCreateReq:
    every = {
        "resonate:scope": "global" if len(tags) > 1 else "local",
        "resonate:branch": id,
        "resonate:parent": parent,
        "resonate:origin": origin_of(id),
        **tags,
    }
    if settled:
        timeout_at = now_ms() - BORN_SETTLED_MS
        every["resonate:timer"] = "true"
    return PromiseCreateReq(id=id, timeout_at=timeout_at, param=_CODEC.encode(param), tags=every)


class Attempt:
    """One worker's tenure of an execution: every write goes through its lease and is refused after it.

    ``lost`` fails as soon as any operation of the attempt failed, or ``lose`` was called; wait on it beside the work.
    """

    def __init__(self, context: Context, promises: Promises, observer: Observer | None = None) -> None:
        state = context._state
        effects = state.effects
        if not isinstance(effects, ResonateEffects):
            msg = f"unexpected effects of the SDK: {type(effects).__name__}"
            raise TypeError(msg)
        state.workflow = True  # user code is never retried by the SDK
        self._state = state
        self._sender = effects.sender
        self._promises = promises
        self._observer = observer
        #: The settling of its last step, while that waits to be recorded with the end of the execution.
        self.settling: asyncio.Task[None] | None = None
        #: Given the id and value of whatever is settled, returns what to settle it with.
        self.seal: Callable[[str, Any], Awaitable[Any]] | None = None
        self.id = state.id
        self.version = effects.task_version
        self.timeout_at = state.timeout_at
        #: Promises that came with the task: the settled ones it was resumed by, where the store says so.
        self.preloaded = {
            record.id: Promise(
                record.id,
                record.state,
                record.param.data,
                record.value.data,
                record.tags,
                record.timeout_at,
                record.created_at,
                record.settled_at,
            )
            for record in effects.cache.values()
        }
        self.lost: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        self.lost.add_done_callback(lambda future: future.cancelled() or future.exception())

    def lose(self, why: str) -> None:
        """End the attempt: nothing of it is recorded any more."""
        if not self.lost.done():
            self.lost.set_exception(AttemptLost(why))

    def tell(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        if self._observer is not None:
            self._observer(event)

    def _check(self) -> None:
        if self.lost.done():
            self.lost.result()

    @contextlib.contextmanager
    def _fatal(self) -> Any:
        try:
            yield
        except (ResonateError, PlatformError) as exc:
            self.lose(str(exc))
            raise AttemptLost(str(exc)) from exc

    async def get(self, id: str) -> Promise | None:
        """Return a promise, or None if there is none."""
        self._check()
        with self._fatal():
            return await self._promises.get(id)

    async def listen(self, id: str) -> Promise | None:
        """Like Promises.listen."""
        self._check()
        with self._fatal():
            return await self._promises.listen(id)

    async def create(
        self,
        id: str,
        kind: str,
        param: Any,
        *,
        parent: str | None = None,
        external: bool = False,
        wake: int | None = None,
        settled: bool = False,
    ) -> Promise:
        """Create a promise under the lease, or return the one there is.

        ``external``: anybody may settle it, and the execution may wait for it. ``wake``: a timer that resolves at
        that time (ms since 1970). ``settled``: born resolved, in one write. Raises AttemptLost.
        """
        self._check()
        tags = {KIND: kind}
        timeout_at = self.timeout_at
        if external:
            tags[EXTERNAL] = "true"
        if wake is not None:
            timeout_at = min(wake, self.timeout_at)
            tags |= {
                "resonate:timer": "true",
                "resonate:target": self._promises.target(),
                "resonate:delay": str(max(timeout_at - 1, 0)),
            }
        request = _create_request(id, parent or self.id, param, timeout_at, tags, settled=settled)
        if self._observer is not None:
            self._observer(Recording(self.id, id, kind, param))
        promise = await self._fenced(request, param)
        if self._observer is not None:
            self._observer(Recorded(self.id, id, kind, param))
        return promise

    async def _fenced(self, request: PromiseCreateReq | PromiseSettleReq, param: Any = None) -> Promise:
        try:
            return await self._promises.fence(self.id, self.version, request, param)
        except (ResonateError, PlatformError) as exc:
            self.lose(str(exc))
            raise AttemptLost(str(exc)) from exc

    async def settle(self, id: str, value: Any, *, state: Literal["resolved", "rejected"] = "resolved") -> Promise:
        """Settle a promise under the lease; returns what is recorded, which may be somebody else's outcome."""
        self._check()
        if self.seal is not None:
            value = await self.seal(id, value)
        request = PromiseSettleReq(id=id, state=state, value=_CODEC.encode(value))
        if self._observer is not None:
            self._observer(Settling(self.id, id))
        promise = await self._fenced(request)
        if self._observer is not None:
            self._observer(Settled(self.id, id))
        return promise

    async def settle_along(self, id: str, value: Any) -> bool:
        """Resolve a promise in one commit with the end of this attempt, which must follow; False if there is no way.

        ``settling`` ends when both are recorded, or fails as ``settle`` does: nobody is told of the end before.
        """
        self._check()
        if self.seal is not None:
            value = await self.seal(id, value)
        request = PromiseSettleReq(id=id, state="resolved", value=_CODEC.encode(value))
        self.tell(Settling(self.id, id))
        done = self._promises.settle_along(self.id, self.version, request)
        if done is None:
            return False
        self.settling = asyncio.create_task(self._settled_along(id, done))
        self.settling.add_done_callback(lambda task: task.cancelled() or task.exception())
        return True

    async def _settled_along(self, id: str, done: Coroutine[Any, Any, Promise]) -> None:
        with self._fatal():
            await done
        self.tell(Settled(self.id, id))

    def suspend(self, waiting: Iterable[str]) -> NoReturn:
        """Leave until one of these promises (external ones or timers) settles; does not return."""
        self._check()
        waiting = tuple(waiting)
        self.tell(Suspending(self.id, waiting))
        for id in waiting:
            self._state.tree.add_child(self._state.id, id, "ext")
            self._state.spawned_remote.append(id)
        raise Suspended

    def abandon(self) -> NoReturn:
        """Give the task back to the store for another attempt; does not return."""
        raise PlatformError([GivenBack()])


def watch(source: Any, callback: Callable[[Promise], None]) -> None:
    """Call back with every promise whose settlement is announced to this process. Before the source starts."""

    def receive(raw: str) -> None:
        promise = decode_message(raw)
        if promise is not None:
            callback(promise)

    source.recv(receive)
