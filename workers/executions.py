"""The durable function ``execute``: one attempt at one execution, from an untrusted param to a recorded result.

1. Nothing in the param is believed: order, base and grants are checked against what is recorded.
2. No two guests of one execution act at once: what this host still has of an earlier attempt is stopped or taken over
   before a new guest starts, and the workspace's lock proves that it is gone.
3. An execution always resolves, with a Result; only the loss of the attempt leaves it to the next one.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import ValidationError

from perdure.capabilities.errors import UnknownGrant
from perdure.capabilities.registry import intersect
from perdure.engine.durable import Attempt, AttemptLost, now_ms
from perdure.engine.errors import InvalidName, PerdureError
from perdure.engine.events import Ended as AllRecorded
from perdure.engine.events import Imaged, Launched, Stored
from perdure.engine.ids import cancel_id, death_id, parse_execution, record_id, step_id
from perdure.engine.journal import Journal, JournalDamaged
from perdure.engine.records import ErrorInfo, Result, Timings
from perdure.engine.refs import stored_raw
from perdure.engine.sessions import Base, base_of, ensure_session
from perdure.engine.settings import Submission

from .checkpoints import Manifest, load_image, restore_workspace, save
from .confine.errors import SandboxUnavailable
from .guests import Guest, GuestDied, GuestFailed, WorkspaceLock, WorkspaceTaken
from .handlers import Handlers, Scope
from .launching import guest_config
from .link import LinkClosed
from .messages import Done, ProtocolViolation, Restored
from .pool import Idle, Parked
from .requests import refuse_refs
from .run import Diverging, Ended, Resting, Run

if TYPE_CHECKING:
    from resonate.context import Context

    from perdure.engine.durable import Promise
    from perdure.engine.ids import ExecutionId
    from perdure.engine.sessions import Head

    from .service import Services

__all__ = ["Executions", "Refused"]

log = structlog.get_logger()

#: A cancel is looked for from this long after the start on: most executions are over by then and pay nothing (s).
WATCH_AFTER = 0.25
#: From the request to cancel to the kill of code that ignores it (s).
CANCEL_GRACE = 5.0
#: Pause before an attempt gives up for a reason outside (a full disk): the store hands it out again at once (s).
BACK_OFF = 1.0


class Refused(Exception):
    """The submission cannot run; the execution resolves with this reason, and nothing of it ran."""

    def __init__(self, status: str, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(slots=True)
class _Live:
    """What this worker has of one execution, across attempts."""

    handlers: Handlers
    attempt: Attempt | None = None
    run: Run | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class _Job:
    """A submission that was checked, and what it starts from."""

    id: ExecutionId
    submission: Submission
    head: Head
    base: Base
    grants: tuple[str, ...]

    @property
    def manifest(self) -> Manifest | None:
        """The checkpoint it starts from; None at the session's birth."""
        return Manifest.model_validate(self.base.value["checkpoint"]) if self.base.value else None


class Executions:
    """Runs executions for one worker."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._live: dict[str, _Live] = {}
        self._watched: set[str] = set()

    async def execute(self, context: Context, submission: dict[str, Any]) -> dict[str, Any]:
        """Run one attempt; returns the Result's JSON form. This is what the SDK calls."""
        attempt = Attempt(context, self._services.promises, self._services.observer)
        self._services.leases.on_expiry(attempt.id, attempt.version, lambda: attempt.lose("the lease has ended"))
        try:
            result = await self._attempt(attempt, submission)
        except AttemptLost as exc:
            log.warning("attempt.lost", execution=attempt.id, version=attempt.version, reason=str(exc))
            attempt.abandon()
        except Exception as exc:  # a fault of ours: a definite end, never a loop, and never the SDK's pickled rejection
            log.exception("execution.failed", execution=attempt.id)
            error = ErrorInfo(type=type(exc).__name__, message=f"internal error: {exc}", module="perdure")
            result = Result(execution=attempt.id, status="failed", error=error)
        attempt.tell(AllRecorded(attempt.id, attempt.version))
        return result.model_dump(mode="json")

    async def _attempt(self, attempt: Attempt, submission: dict[str, Any]) -> Result:
        try:
            job = await self._admit(attempt, submission)
        except Refused as exc:
            return Result(
                execution=attempt.id,
                status="busy" if exc.status == "busy" else "refused",
                error=ErrorInfo(type=exc.status, message=str(exc), module="perdure"),
            )
        live = await self._take_over(attempt, job)
        watch = asyncio.create_task(self._watch(attempt))
        try:
            return await self._work(attempt, job, live)
        except (OSError, PerdureError) as exc:
            # The disk is full, a folder is gone: nothing the code did. Give the task back; it goes on when it can.
            log.exception("attempt.failed", execution=attempt.id)
            await asyncio.sleep(BACK_OFF)
            raise AttemptLost(str(exc)) from exc
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            live.attempt = None
            live.run = None
            live.ended.set()
            self._watched.discard(attempt.id)
            if not live.handlers.busy:
                self._live.pop(attempt.id, None)

    # -- admission -------------------------------------------------------------------

    async def _admit(self, attempt: Attempt, raw: dict[str, Any]) -> _Job:
        try:
            id = parse_execution(attempt.id)
            submission = Submission.model_validate(raw)
        except InvalidName as exc:
            raise Refused("BadSubmission", str(exc)) from None
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "submission"
            raise Refused("BadSubmission", f"{where}: {first['msg']}") from None
        if submission.session not in (None, id.session):
            msg = f"the submission names session {submission.session!r}, its promise {id.session!r}"
            raise Refused("BadSubmission", msg)
        promises = self._services.promises
        base, head = await asyncio.gather(base_of(promises, id.session, id.n), ensure_session(promises, id.session))
        if base is None:
            msg = f"{id.session}@{id.n - 1} has not settled: submit again when it has"
            raise Refused("busy", msg)
        before = f"{id.session}@{id.n - 1}" if id.n > 1 else None
        if submission.base not in (None, before, base.step):
            msg = f"the submission builds on {submission.base!r}, but execution {id.n} follows {before!r}"
            raise Refused("BadSubmission", msg)
        allowed = head.settings.grants
        grants = tuple(allowed if submission.grants is None else intersect(submission.grants, allowed))
        try:
            await self._services.require(head.settings.isolation)
            self._services.describe(grants)
        except (UnknownGrant, SandboxUnavailable) as exc:
            raise Refused(type(exc).__name__, str(exc)) from None
        return _Job(id, submission, head, base, grants)

    async def _take_over(self, attempt: Attempt, job: _Job) -> _Live:
        """Stop what this worker still has of an earlier attempt; its handlers go on and are adopted."""
        live = self._live.get(attempt.id)
        while live is not None and live.attempt is not None:
            live.attempt.lose(f"version {attempt.version} of the task has taken over")
            await live.ended.wait()
        settings = self._services.settings
        granted = frozenset(name for grant in job.grants for name in self._services.names(grant))
        scope = Scope(
            execution=attempt.id,
            session=job.id.session,
            state=self._services.state_id,
            incarnation=job.head.settings.incarnation,
            granted=granted,
            attempt=attempt.version,
            lease_ttl=settings.lease_seconds,
            lease_left=lambda: self._services.leases.left(attempt.id, attempt.version),
        )
        if live is None:
            live = _Live(Handlers(self._services.registry, scope, self._services.identity))
            self._live[attempt.id] = live
        live.handlers.scope = scope
        live.attempt = attempt
        live.ended = asyncio.Event()
        return live

    # -- work ---------------------------------------------------------------------------

    async def _work(self, attempt: Attempt, job: _Job, live: _Live) -> Result:
        started = time.monotonic()
        step = 0
        deaths, records, found = await asyncio.gather(
            self._deaths(attempt),
            self._records(attempt, step),
            attempt.create(step_id(attempt.id, step), "step", {"step": step, "at": now_ms()}),
        )
        if found.settled:
            return Result.model_validate(found.value["result"])
        parked = await self._services.pool.take_parked(job.id.session, attempt.id, attempt.version)
        run = parked.run if parked else None
        if run is not None:
            run.handlers = live.handlers
        while True:
            try:
                run = live.run = run or await self._launch(attempt, job, live, step, records)
                return await self._drive(attempt, job, live, run, started)
            except GuestDied as exc:
                run = live.run = None
                records = await self._records(attempt, step)
                deaths = await self._died(attempt, deaths, step, len(records), exc)
                end = self._end_of_deaths(live, deaths, exc)
                if end is not None:
                    return await self._failed(attempt, job, step, None, *end)
            except (JournalDamaged, GuestFailed, ProtocolViolation) as exc:
                await _end_guest(run, f"{type(exc).__name__}: {exc}")
                status = "crashed" if isinstance(exc, ProtocolViolation) else "failed"
                return await self._failed(attempt, job, step, run, status, type(exc).__name__, str(exc))
            except WorkspaceTaken as exc:
                raise AttemptLost(str(exc)) from exc
            except (AttemptLost, asyncio.CancelledError):
                await _end_guest(run, "its attempt has ended")
                raise

    def _end_of_deaths(self, live: _Live, deaths: list[dict[str, Any]], died: GuestDied) -> tuple[str, str, str] | None:
        """Say how the execution ends after a guest's death; None if it goes on with another guest."""
        if live.cancelled:
            return "cancelled", "Cancelled", f"cancelled; the guest was killed: {died}"
        last = deaths[-1]
        row = [death for death in deaths if (death["step"], death["records"]) == (last["step"], last["records"])]
        if len(row) < self._services.settings.poison_deaths:
            return None
        return "crashed", "GuestDied", f"its process died {len(row)} times in a row without getting further: {died}"

    async def _drive(self, attempt: Attempt, job: _Job, live: _Live, run: Run, started: float) -> Result:
        end = await run.drive(attempt)
        if isinstance(end, Ended):
            return await self._commit(attempt, job, run, end.done, started)
        if isinstance(end, Diverging):
            await run.guest.kill("its replay diverged")
            found = end.divergence
            error = ErrorInfo(
                type="ReplayDivergence",
                module="perdure",
                message=str(found),
                line=found.line,
                data={"path": found.path, "expected": found.expected, "got": found.got},
            )
            return await self._failed(attempt, job, run.step, run, "diverged", error=error)
        if live.cancelled:
            raise GuestDied(await run.guest.kill("cancelled while it waited"))
        return await self._suspend(attempt, job, live, run, end)

    async def _suspend(self, attempt: Attempt, job: _Job, live: _Live, run: Run, end: Resting) -> Result:
        """Park the guest and leave until something it waits for settles; returns only if it was cancelled meanwhile."""
        await self._services.pool.park(job.id.session, Parked(run, attempt.version))
        cancel = await attempt.create(cancel_id(attempt.id), "cancel", {"at": now_ms()}, external=True)
        if not cancel.settled:
            attempt.suspend([*end.waiting, cancel.id])
        live.cancelled = True
        await self._services.pool.drop(job.id.session, "cancelled while it waited")
        return await self._failed(attempt, job, run.step, run, "cancelled", "Cancelled", "cancelled while it waited")

    async def _launch(self, attempt: Attempt, job: _Job, live: _Live, step: int, records: list[Promise]) -> Run:
        services = self._services
        session = job.id.session
        submission = job.submission
        journal = Journal.read(records)
        guest = None
        if not records and not submission.files:
            guest = await services.pool.take_idle(session, job.base.step, job.head.version)
        kept = guest is not None
        if guest is None:
            await services.pool.drop(session, "its execution starts from a checkpoint")
            guest = await self._fresh(job)
        run = Run(guest, attempt.id, step, journal, live.handlers, services.blobs, services.identity)
        run.kept = kept
        await self._tell(
            run,
            {
                "t": "execute",
                "execution": attempt.id,
                "code": submission.code,
                "filename": submission.filename or f"<{attempt.id}>",
                "argv": [submission.filename or "", *submission.argv],
                "flags": submission.flags,
                "step": step,
                "grants": services.describe(job.grants),
            },
        )
        attempt.tell(Launched(attempt.id, guest.pid, kept, journal.unasked))
        return run

    @staticmethod
    async def _tell(run: Run, message: dict[str, Any]) -> None:
        try:
            await run.execute(message)
        except LinkClosed:
            raise GuestDied(await asyncio.shield(run.guest.died)) from None

    async def _fresh(self, job: _Job) -> Guest:
        """Start a guest with the namespace and the workspace that the execution starts from."""
        services = self._services
        session = job.id.session
        workspace = services.workspace(session)
        lock = await WorkspaceLock.take(services.run_folder / f"{session}.lock")
        try:
            await restore_workspace(job.manifest, workspace, services.blobs, job.submission.files)
            guest = await Guest.start(guest_config(services, job.head.settings, session, workspace, job.grants), lock)
        finally:
            lock.release()
        if job.manifest is None:
            return guest
        try:
            stream = await guest.link.send_stream(await load_image(job.manifest, services.blobs))
            await guest.link.send({"t": "restore", "stream": stream})
            answer = await guest.link.receive()
        except LinkClosed:
            raise GuestDied(await asyncio.shield(guest.died)) from None
        except BaseException:
            await guest.kill("its namespace could not be restored")
            raise
        if not isinstance(answer, Restored):
            await guest.kill("it spoke while it was restored")
            msg = f"the guest answered a restore with {answer.t}"
            raise GuestFailed(msg)
        return guest

    async def _records(self, attempt: Attempt, step: int) -> list[Promise]:
        """List a step's records by asking for one after another, several at a time."""
        records: list[Promise] = []
        ahead = 1
        while True:
            wanted = range(len(records), len(records) + ahead)
            found = await asyncio.gather(*(attempt.get(record_id(attempt.id, step, index)) for index in wanted))
            for promise in found:
                if promise is None:
                    return records
                records.append(promise)
            ahead = min(ahead * 4, 64)

    # -- ends ----------------------------------------------------------------------------

    async def _commit(self, attempt: Attempt, job: _Job, run: Run, done: Done, started: float) -> Result:
        services = self._services
        begun = time.monotonic()
        limits = job.head.settings.limits
        image, names = await run.image(limits.checkpoint_seconds)
        attempt.tell(Imaged(attempt.id))
        workspace = services.workspace(job.id.session)
        manifest, notes = await save(
            job.manifest, image, names, run.guest.python, workspace, run.guest.pid, services.blobs, limits
        )
        attempt.tell(Stored(attempt.id))
        status = done.status
        result = self._result(attempt, job, run).model_copy(
            update={
                "status": status,
                "data": await self._value(run, done),
                "has_value": done.has_value,
                "repr": done.repr,
                "error": ErrorInfo.model_validate(done.error) if done.error else None,
                "exit_code": done.code,
                "lost": tuple(report for report in manifest.names if report.status == "lost"),
                "left": tuple(done.left),
                "notes": (*self._notes(run), *done.notes, *notes),
                "checkpoint": step_id(attempt.id, run.step),
                "timings": Timings(total=time.monotonic() - started, ran=run.ran, checkpoint=time.monotonic() - begun),
            }
        )
        await self._settle_step(attempt, run.step, run, result, manifest)
        await services.pool.rest(job.id.session, Idle(run.guest, step_id(attempt.id, run.step), job.head.version))
        return result

    async def _value(self, run: Run, done: Done) -> Any:
        if done.value_stream is not None:
            raw = run.guest.link.take(done.value_stream)
            refuse_refs(json.loads(raw))
            return await stored_raw(self._services.blobs, raw)
        refuse_refs(done.value)
        return done.value

    async def _failed(
        self,
        attempt: Attempt,
        job: _Job,
        step: int,
        run: Run | None,
        status: str,
        kind: str = "",
        message: str = "",
        *,
        error: ErrorInfo | None = None,
    ) -> Result:
        """End an execution whose guest is gone: what it leaves is what it started from."""
        reason = error or ErrorInfo(type=kind, message=message, module="perdure")
        result = self._result(attempt, job, run).model_copy(
            update={"status": status, "error": reason, "checkpoint": job.base.step}
        )
        for record in await self._records(attempt, step):
            if not record.settled and record.param.get("effect") == "external":
                gone = {"type": "CallCancelled", "message": f"the execution ended as {status}", "data": None}
                await attempt.settle(record.id, gone, state="rejected")
        await self._settle_step(attempt, step, run, result, None)
        return result

    async def _settle_step(
        self, attempt: Attempt, step: int, run: Run | None, result: Result, manifest: Manifest | None
    ) -> None:
        if attempt.version > 1 or attempt.id in self._watched:
            cancel = await attempt.get(cancel_id(attempt.id))
            if cancel is not None and not cancel.settled:
                await attempt.settle(cancel.id, {"at": now_ms(), "unused": True})
        await attempt.settle(
            step_id(attempt.id, step),
            {
                "checkpoint": manifest.model_dump(mode="json") if manifest else None,
                "entered": run.recorder.unrecorded() if run else None,
                "final": True,
                "result": result.model_dump(mode="json"),
            },
        )

    def _result(self, attempt: Attempt, job: _Job, run: Run | None) -> Result:
        return Result(
            execution=attempt.id,
            status="failed",
            isolation=job.head.settings.isolation,
            base=job.base.step,
            attempts=attempt.version,
            calls=run.calls + run.replayed if run else 0,
            writes=run.writes if run else 0,
            characters=run.characters if run else 0,
            replayed=run.replayed if run else 0,
            kept_guest=run.kept if run else False,
        )

    def _notes(self, run: Run) -> tuple[str, ...]:
        differing = run.journal.differing_writes
        if not differing:
            return ()
        return (f"{differing} writes differed on replay from what had been shown; the log keeps what was shown",)

    # -- deaths and cancels ------------------------------------------------------------------

    async def _deaths(self, attempt: Attempt) -> list[dict[str, Any]]:
        deaths: list[dict[str, Any]] = []
        while (found := await attempt.get(death_id(attempt.id, len(deaths)))) is not None:
            deaths.append(found.param)
        return deaths

    async def _died(
        self, attempt: Attempt, deaths: list[dict[str, Any]], step: int, recorded: int, died: GuestDied
    ) -> list[dict[str, Any]]:
        """Record a guest's death durably, with how far the step had come; returns all deaths of the execution."""
        param = {"at": now_ms(), "how": str(died), "step": step, "records": recorded}
        await attempt.create(death_id(attempt.id, len(deaths)), "death", param, settled=True)
        log.warning("guest.died", execution=attempt.id, how=str(died), records=recorded)
        return [*deaths, param]

    async def _watch(self, attempt: Attempt) -> None:
        """Look out for a request to cancel, and for the execution being settled by others."""
        await asyncio.sleep(WATCH_AFTER)
        self._watched.add(attempt.id)
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

    async def heard(self, promise: Promise) -> None:
        """Take in a promise that settled: an answer, a request to cancel, or an execution ended by others."""
        execution = promise.id.partition(":")[0]
        live = self._live.get(execution)
        if live is None or live.attempt is None:
            return
        if promise.id == execution:
            live.attempt.lose("the execution was settled by others")
        elif promise.id == cancel_id(execution):
            await self._cancel(live)
        elif live.run is not None:
            await live.run.answered(promise)

    async def _cancel(self, live: _Live) -> None:
        if live.cancelled:
            return
        live.cancelled = True
        run = live.run
        if run is None:
            return
        await run.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_GRACE):
                await live.ended.wait()
                return
        await run.guest.kill(f"cancelled, and it went on for {CANCEL_GRACE:g} s")

    async def close(self) -> None:
        """Give every task back and end everything that runs."""
        for live in list(self._live.values()):
            if live.attempt is not None:
                live.attempt.lose("the worker is stopping")
        await asyncio.gather(*(live.ended.wait() for live in list(self._live.values()) if live.attempt is not None))


async def _end_guest(run: Run | None, reason: str) -> None:
    if run is not None:
        with suppress(asyncio.CancelledError):
            await run.guest.kill(reason)
