"""The durable function ``execute``: one attempt at one execution, from an untrusted param to a recorded result.

1. What is believed of the param is decided by admission; how the code runs by the attempt's tenure.
2. What this host still has of an earlier attempt is stopped or taken over before the next one acts.
3. An execution always resolves, with a Result; only the loss of the attempt leaves it to the next one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from perdure.engine.checkpoints import DAMAGED
from perdure.engine.durable import Attempt, AttemptLost, now_ms
from perdure.engine.errors import PerdureError, StateUnusable
from perdure.engine.events import Ended
from perdure.engine.ids import cancel_id
from perdure.engine.records import ErrorInfo, Result

from .admission import Refused, admit
from .beats import beat_on
from .elsewhere import ask_elsewhere
from .handlers import Handlers, Scope
from .live import Live
from .stopping import stop
from .tenure import Tenure, without_base

if TYPE_CHECKING:
    from resonate.context import Context

    from perdure.engine.durable import Promise

    from .admission import Job
    from .service import Services

__all__ = ["Executions"]

log = structlog.get_logger()

#: A cancel is looked for from this long after the start on: most executions are over by then and pay nothing, and
#: whoever cancels one that has just begun waits hardly longer (s).
WATCH_AFTER = 0.05
#: Likewise where it was resumed: one with many answers is resumed for each, and rests again in a moment (s).
WATCH_RESUMED_AFTER = 0.25
#: What handlers of a lost attempt have come to is kept so long for the next one (s): longer than a lease, and than a
#: worker elsewhere takes that has it in between and dies.
OUTCOMES_KEPT = 120.0
#: Pause before an attempt gives up for a reason outside (a full disk): the store hands it out again at once (s).
BACK_OFF = 1.0
#: How often is looked meanwhile whether somebody has ended it (s).
LOOK_EVERY = 0.1
#: It doubles with every time in a row, up to this (s): soon enough for who has made room, seldom enough for the rest.
MAX_BACK_OFF = 30.0


class Executions:
    """Runs executions for one worker."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._live: dict[str, Live] = {}
        #: How long the next attempt at an execution pauses, if it too has to give up for a reason outside.
        self._pauses: dict[str, float] = {}
        self._draining = False
        self._closing = False

    async def execute(self, context: Context, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Run one attempt; returns the Result's JSON form. This is what the SDK calls.

        Anybody may hand in anything: what does not fit a signature the SDK would reject, in an encoding of its own.
        """
        attempt = Attempt(context, self._services.promises, self._services.observer)
        self._services.leases.on_expiry(attempt.id, attempt.version, lambda: attempt.lose("the lease has ended"))
        try:
            result = await self._run(attempt, [*arguments, *([named] if named else [])])
        except AttemptLost as exc:
            log.warning("attempt.lost", execution=attempt.id, version=attempt.version, reason=str(exc))
            attempt.abandon()
        except Exception as exc:  # a fault of ours: a definite end, never a loop, and never the SDK's pickled rejection
            log.exception("execution.failed", execution=attempt.id)
            error = ErrorInfo(type=type(exc).__name__, message=f"internal error: {exc}", module="perdure")
            result = Result(execution=attempt.id, status="failed", error=error)
        self._pauses.pop(attempt.id, None)
        _tell_end(attempt)
        return result.model_dump(mode="json")

    async def _run(self, attempt: Attempt, submission: list[Any]) -> Result:
        if self._draining or self._closing:
            # The store hands it out again at once, and may do so to this worker.
            await asyncio.sleep(BACK_OFF)
            raise AttemptLost("the worker is stopping")
        try:
            job = await admit(self._services, attempt.id, submission, version=attempt.version)
        except (*DAMAGED, StateUnusable) as exc:
            return await without_base(self._services, attempt, exc)
        except (OSError, MemoryError, PerdureError) as exc:
            raise await self._given_back(attempt, exc) from exc
        except Refused as exc:
            return Result(
                execution=attempt.id,
                status="busy" if exc.status == "busy" else "refused",
                error=ErrorInfo(type=exc.status, message=str(exc), module="perdure"),
            )
        if self._closing:
            raise AttemptLost("the worker is stopping")
        attempt.seal = lambda id, value: self._services.seals.add(id, value, job.base.step)
        live = await self._take_over(attempt, job)
        watch = asyncio.create_task(self._watch(attempt, live))
        result, tenure = None, Tenure(self._services, attempt, job, live)
        try:
            result = await tenure.work()
            return result
        except DAMAGED as exc:
            result = await tenure.damaged(exc)
            return result
        except (OSError, MemoryError, PerdureError) as exc:
            given_back = await self._given_back(attempt, exc)
            if live.stop is None:
                raise given_back from exc
            # Whoever waits for the disk to be mended may stop waiting.
            result = await tenure.stopped(exc)
            return result
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            live.attempt = None
            live.run = None
            live.ended.set()
            # The next attempt takes over what runs, and what has ended and is not recorded: it would be done again.
            self._forget(attempt.id, live, at_once=result is not None)

    async def _given_back(self, attempt: Attempt, problem: Exception) -> AttemptLost:
        """Give the task back for a reason outside (a full disk, a wall that is gone): it goes on when it can."""
        outside = isinstance(problem, OSError | MemoryError)
        reason = str(problem) or type(problem).__name__
        log.error("attempt.failed", execution=attempt.id, reason=reason, exc_info=outside)
        pause = self._pauses.get(attempt.id, BACK_OFF)
        self._pauses[attempt.id] = min(2 * pause, MAX_BACK_OFF)
        live = self._live.get(attempt.id)
        for _ in range(round(pause / LOOK_EVERY)):
            # A stop of the worker, or of the execution, does not wait for it.
            if self._closing or attempt.lost.done() or (live and live.stop):
                break
            await asyncio.sleep(LOOK_EVERY)
        return AttemptLost(reason)

    def _forget(self, execution: str, live: Live, *, at_once: bool) -> None:
        if live.attempt is not None:
            return
        if live.handlers.busy or (live.handlers.holds and not at_once):
            asyncio.get_running_loop().call_later(OUTCOMES_KEPT, lambda: self._forget(execution, live, at_once=True))
        elif self._live.get(execution) is live:
            del self._live[execution]

    async def _take_over(self, attempt: Attempt, job: Job) -> Live:
        """Stop what this worker still has of an earlier attempt; its handlers go on and are adopted."""
        live = self._live.get(attempt.id)
        while live is not None and live.attempt is not None:
            live.attempt.lose(f"version {attempt.version} of the task has taken over")
            await live.ended.wait()
        scope = self._scope(attempt, job)
        if live is None:
            live = Live(Handlers(self._services.registry, scope, self._services.identity))
            self._live[attempt.id] = live
        live.handlers.scope = scope
        live.attempt = attempt
        live.watched = False
        live.grace = job.head.settings.limits.grace_seconds
        live.ended = asyncio.Event()
        return live

    def _scope(self, attempt: Attempt, job: Job) -> Scope:
        services = self._services
        return Scope(
            execution=attempt.id,
            session=job.id.session,
            state=services.state_id,
            incarnation=job.head.settings.incarnation,
            granted=frozenset(name for grant in job.grants for name in services.names(grant)),
            attempt=attempt.version,
            lease_ttl=services.settings.lease_seconds,
            lease_left=lambda: services.leases.left(attempt.id, attempt.version),
            elsewhere=partial(ask_elsewhere, services.promises),
        )

    # -- cancels, answers, and ends by others ------------------------------------------

    async def _watch(self, attempt: Attempt, live: Live) -> None:
        """Look out for a request to cancel, and for the execution being settled by others; say what it does."""
        await asyncio.sleep(WATCH_AFTER if attempt.version == 1 else WATCH_RESUMED_AFTER)
        if attempt.settling is not None:
            return  # It is over.
        live.watched = True
        try:
            cancel = await attempt.create(cancel_id(attempt.id), "cancel", {"at": now_ms()}, external=True)
            heard = await attempt.listen(cancel.id)
            if heard is not None and heard.settled:
                await self.heard(heard)
            root = await attempt.listen(attempt.id)
            if root is not None and root.settled:
                await self.heard(root)
        except AttemptLost:
            return
        await beat_on(attempt.id, live, self._services.run_folder)

    async def heard(self, promise: Promise) -> None:
        """Take in a promise that settled: an answer, a request to cancel, or an execution ended by others."""
        execution = promise.id.partition(":")[0]
        live = self._live.get(execution)
        if live is None or live.attempt is None:
            return
        if promise.id == execution:
            live.attempt.lose("the execution was settled by others")
        elif promise.id == cancel_id(execution):
            await stop(live, "cancelled")
        elif live.run is not None:
            await live.run.answered(promise)

    async def drain(self, seconds: float) -> None:
        """Begin nothing more, and wait so long for what runs to end or come to rest."""
        self._draining = True
        running = [live.ended.wait() for live in self._live.values() if live.attempt is not None]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*running)

    async def close(self) -> None:
        """Give every task back and end everything that runs; what is handed out later begins nothing."""
        self._closing = True
        for live in list(self._live.values()):
            if live.attempt is not None:
                live.attempt.lose("the worker is stopping")
        await asyncio.gather(*(live.ended.wait() for live in list(self._live.values()) if live.attempt is not None))


def _tell_end(attempt: Attempt) -> None:
    """Tell the observer that the attempt has ended; one whose last step is recorded with its end, after that."""
    ended = Ended(attempt.id, attempt.version)
    settling = attempt.settling
    if settling is None:
        attempt.tell(ended)
        return

    def settled(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            attempt.tell(ended)

    settling.add_done_callback(settled)
