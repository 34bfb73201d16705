"""One attempt's way through an execution: guest after guest, until the code ends, waits, or the attempt is lost.

1. No two guests of one execution act at once: what was parked goes on under the next version of the task, or is
   killed before a new guest starts.
2. A dead guest's step is replayed by the next guest, from the same checkpoint and fed with what was recorded.
3. An execution always resolves, with a Result; only the loss of the attempt leaves it to the next one.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from perdure.engine.durable import EXTERNAL, KIND, AttemptLost, now_ms
from perdure.engine.errors import RecordDamaged
from perdure.engine.events import Launched
from perdure.engine.ids import cancel_id, parse_record, parse_step, record_id, step_id
from perdure.engine.inspection import promises_of
from perdure.engine.journal import Journal, JournalDamaged
from perdure.engine.records import ErrorInfo, Result
from perdure.engine.refs import fetched
from perdure.engine.sessions import Base, last_step, seed_of

from .deaths import Deaths, place_of
from .divergences import divergence_error
from .endings import Ending, closed_by, succeeded
from .ends import Diverging, Ended, Losing, Resting, Stepping
from .guests import GuestDied, GuestFailed, WorkspaceTaken
from .link import LinkClosed
from .messages import ProtocolViolation, StateLost
from .orders import Execute
from .pool import Idle, Parked
from .run import Run
from .starting import fresh_guest
from .stopping import WHY, bounded, seconds_of
from .totals import Totals
from .walls import recorded

if TYPE_CHECKING:
    from perdure.engine.durable import Attempt, Promise
    from perdure.engine.journal import Divergence
    from perdure.engine.records import Stop
    from perdure.engine.settings import WorkerSettings
    from perdure.engine.substrate import Substrate

    from .admission import Job
    from .live import Live
    from .service import Services

__all__ = ["Tenure", "without_base"]


#: Characters beyond its limits that a guest may write: it says what was cut, once for each display.
SAID_OF_CUTS = 1 << 20


class Tenure:
    """Works on one execution for as long as the attempt lasts."""

    def __init__(self, services: Services, attempt: Attempt, job: Job, live: Live) -> None:
        self._services = services
        self._attempt = attempt
        self._job = job
        self._live = live
        self._ending = Ending(services, attempt, job, live, time.monotonic())
        self._step = 0
        #: The step whose checkpoint the current step starts from, and its value; nothing at the session's birth.
        self._base = job.base
        self._deaths = Deaths([])
        #: Whether it had been asked to stop when this attempt began: it does nothing first that it might regret.
        self._cancelled_before = False
        #: Whether a guest that was kept from before served this execution: it may have held what its checkpoint lacks.
        self._kept = False
        #: What stood around the step's first guest.
        self._isolation: dict[str, Any] | None = None
        #: The recording of the first step's beginning, while its guest runs already.
        self._beginning: asyncio.Task[Promise] | None = None

    async def work(self) -> Result:
        """Run the execution to its end. Raises AttemptLost, and whatever ends the task when it suspends."""
        found, records = await self._find_step()
        if found is not None and found.settled:
            await self._ending.close()
            return Result.model_validate(found.value["result"])
        self._take(found)
        run = await self._parked()
        if self._cancelled_before and not (run or self._step or records):
            message = "it was cancelled before any of it ran"
            reason = ErrorInfo(type="Cancelled", message=message, module="perdure")
            return await self._fail(None, "cancelled", reason, stop="stopped")
        while True:
            try:
                run = self._live.run = run or await self._launch(records)
                result = await self._drive(run)
                if result is not None:
                    return result
            except GuestDied as exc:
                run = self._live.run = None
                await self._begun()
                records = await self._records()
                await self._deaths.record(self._attempt, self._step, len(records), exc)
                end = self._end_of_deaths(exc, place_of(records))
                if end is not None:
                    return await self._failed(None, *end)
            except (JournalDamaged, GuestFailed, ProtocolViolation) as exc:
                await _end_guest(run, f"{type(exc).__name__}: {exc}")
                status = "crashed" if isinstance(exc, ProtocolViolation) else "failed"
                return await self._failed(run, status, type(exc).__name__, str(exc))
            except WorkspaceTaken as exc:
                raise AttemptLost(str(exc)) from exc
            except (Exception, asyncio.CancelledError):  # not what suspends it: its guest is parked
                await _end_guest(run, "its attempt has ended")
                raise

    async def damaged(self, problem: Exception) -> Result:
        """End what would go on from something that is damaged: no attempt at it would find that again."""
        await self._begun()
        try:
            if not (self._step or await self._records()):
                result = damaged(self._attempt.id, problem)
                await self._ending.refuse(self._step, result)
                return result
            reason = had_begun(problem)
            return await self._fail(None, "failed", reason)
        except RecordDamaged:
            # What cannot be read is of this execution itself: its end rests on nothing but its base.
            await close_all(self._services.substrate, self._attempt, "failed")
            return Result(
                execution=self._attempt.id, status="failed", error=had_begun(problem), checkpoint=self._base.step
            )

    async def stopped(self, problem: Exception) -> Result:
        """End what somebody stopped while it could not go on."""
        status = self._live.stop or "cancelled"
        return await self._failed(None, status, "Cancelled", f"{WHY[status]}, while it could not go on: {problem}")

    # -- steps -------------------------------------------------------------------------

    async def _begin_step(self, at: int | None = None) -> Promise:
        """Create the promise of the step that comes now, or return it if there is one."""
        param: dict[str, Any] = {"step": self._step, "at": at or now_ms(), "isolation": self._isolation}
        if self._kept:
            param["kept"] = True
        return await self._attempt.create(step_id(self._attempt.id, self._step), "step", param)

    def _take(self, step: Promise | None) -> None:
        """Take over what the record of a step says of its first guest; later steps of the execution have it too."""
        if step is None:
            return
        self._isolation = step.param.get("isolation")
        self._kept = bool(step.param.get("kept"))

    def _begin_beside(self) -> None:
        """Record the beginning of the first step while its guest begins: nothing of the step is recorded before it.

        Until then this is an execution that nobody has begun, for whoever comes after this attempt.
        """
        self._beginning = asyncio.create_task(self._begin_first())
        self._beginning.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _begin_first(self) -> Promise:
        at = now_ms()
        step = await self._begin_step(at)
        if step.param.get("at") != at:
            # Made from outside since it was looked for: the next attempt takes it as it is.
            msg = f"{step.id} was written meanwhile: what is recorded is read again"
            self._attempt.lose(msg)
            raise AttemptLost(msg)
        return step

    async def _begun(self) -> None:
        """Wait until the beginning of the first step is recorded."""
        if self._beginning is not None:
            await self._beginning
            self._beginning = None

    async def _find_step(self) -> tuple[Promise | None, list[Promise]]:
        """Return the execution's last step and its records; begun now, if the one before it is settled.

        None for the first step of what nobody has begun.
        """
        session, version = self._job.id.session, self._job.head.version
        self._isolation = recorded(await self._services.source(self._job.head.settings))
        self._kept = self._services.pool.holds_idle(session, self._base.step, version)
        new = self._attempt.version == 1 and self._job.submission.fork is None
        begun = self._attempt.get(step_id(self._attempt.id, 0)) if new else self._begin_step()
        self._deaths, records, first, self._cancelled_before = await asyncio.gather(
            Deaths.read(self._attempt), self._records(), begun, self._is_cancelled()
        )
        if self._cancelled_before:
            self._live.stop = self._live.stop or "cancelled"
        if first is None:
            if not (self._cancelled_before or self._deaths.any or records):
                self._begin_beside()
                return None, records
            first = await self._begin_step()
        if not first.settled or first.value["final"]:
            return first, records
        last = await last_step(self._attempt.get, self._attempt.id, first)
        self._step = parse_step(last.id)
        before = last if last.settled else await self._attempt.get(step_id(self._attempt.id, self._step - 1))
        if before is not None and not before.value["final"]:
            self._base = Base(before.id, before.value)
            self._ending.totals = Totals.of(before.value)
        if last.settled and not last.value["final"]:
            self._take(last)
            self._step += 1
            last = await self._begin_step()
        return last, await self._records()

    async def _next_step(self, run: Run, end: Stepping) -> None:
        """Settle the step, and only then begin the next one."""
        settled = await self._ending.step(run, end.ends)
        self._base = Base(settled.id, settled.value)
        self._step += 1
        await self._begin_step()
        await run.go_on(self._step)

    async def _parked(self) -> Run | None:
        """Return the run that waits for this attempt, if there is one."""
        session = self._job.id.session
        parked = await self._services.pool.take_parked(session, self._attempt.id, self._attempt.version)
        if parked is None:
            return None
        run = parked.run
        if run.step != self._step:
            await run.guest.kill("its execution has gone on from a later checkpoint")
            return None
        run.handlers = self._live.handlers
        if not run.waiting.calls:
            run.ran += time.monotonic() - run.parked_at
        return run

    async def _is_cancelled(self) -> bool:
        id = cancel_id(self._attempt.id)
        cancel = self._attempt.preloaded.get(id) or await self._attempt.get(id)
        return cancel is not None and cancel.settled

    def _end_of_deaths(self, died: GuestDied, place: str) -> tuple[str, str, str] | None:
        """Say how the execution ends after a guest's death; None if it goes on with another guest."""
        if self._live.stop is not None:
            return self._live.stop, "Cancelled", f"{WHY[self._live.stop]}; its process was killed: {died}"
        if died.death.limit:
            return "crashed", "LimitExceeded", f"its process was ended: {died}"
        own, times = self._deaths.in_a_row()
        settings = self._services.settings
        if own >= settings.poison_deaths:
            message = f"its process died {own} times in a row without getting further: {died}; {place}"
            return "crashed", "GuestDied", message
        if times >= settings.outside_deaths:
            message = (
                f"its process was killed from outside {times} times in a row without getting further: {died}; {place}"
            )
            return "crashed", "GuestDied", message
        return None

    # -- one guest ---------------------------------------------------------------------

    async def _launch(self, records: list[Promise]) -> Run:
        """Get a guest, and tell it what to run and what to replay."""
        services, job = self._services, self._job
        session, submission = job.id.session, job.submission
        journal = Journal.read(records)
        guest = None
        if not (self._step or records or submission.files):
            guest = await services.pool.take_idle(session, self._base.step, job.head.version)
        kept = guest is not None
        if guest is None:
            await services.pool.drop(session, "its execution starts from a checkpoint")
            await services.seals.verify(self._base.step)
            # What came with the submission is in every later checkpoint, as the code left it.
            files = submission.files if not self._step else {}
            guest = await fresh_guest(services, job, self._base, files, self._isolation)
        handlers, totals = self._live.handlers, self._ending.totals
        self._ending.not_restored = guest.not_restored
        run = Run(guest, self._attempt.id, self._step, journal, handlers, services.blobs, services.identity, totals)
        if not (kept or self._step or records or self._deaths.any):
            self._kept = False  # It was gone when it was wanted: nothing of this execution ran in it.
        run.kept = self._kept
        run.strict = job.submission.strict_output
        run.recorder.follows = self._begun if self._beginning else None
        limits = job.head.settings.limits
        run.calls.most = limits.open_calls
        run.recorder.most = limits.output_characters + limits.display_bytes + SAID_OF_CUTS
        order = await self._message()
        # A guest of the first run had what this one lacks; it may not go on as if it had been lost then.
        order.lost_ends = self._kept and not kept
        await _tell(run, order)
        self._attempt.tell(Launched(self._attempt.id, guest.pid, kept, journal.unasked))
        return run

    async def _message(self) -> Execute:
        submission, fork = self._job.submission, None
        if submission.fork is not None and submission.fork.step == self._step:
            fork = {"path": submission.fork.path, "seed": seed_of(self._job.head.settings.incarnation)}
        order = Execute(
            fork=fork,
            execution=self._attempt.id,
            code=submission.code,
            filename=submission.filename or f"<{self._attempt.id}>",
            argv=[submission.filename or "", *submission.argv],
            flags=submission.flags,
            step=self._step,
            # What is to be undone as a whole is one step.
            steps=None if submission.atomic else _policy(self._services.settings),
            grants=self._services.describe(self._job.grants),
            # What is atomic may be about to be undone.
            image=not submission.atomic,
        )
        brought = submission.variables
        # In a later step they are variables like the others.
        if brought is not None and not self._step:
            order.variables = await fetched(self._services.blobs, brought.values)
            order.strategy = brought.strategy
        return order

    async def _drive(self, run: Run) -> Result | None:
        """Go on until something ends; returns None if it is only a step."""
        async with bounded(self._live, run, seconds_of(self._job)):
            end = await run.drive(self._attempt)
        await self._begun()
        match end:
            case Stepping():
                await self._next_step(run, end)
                return None
            case Losing():
                return await self._state_lost(run, end.lost)
            case Ended():
                return await self._ended(run, end)
            case Diverging():
                return await self._diverged(run, end.divergence)
            case Resting():
                if self._live.stop is not None or self._is_out_of_time_before(run, end):
                    run.stays = True
                    return await self._drive(run)
                return await self._suspend(run, end)

    def _is_out_of_time_before(self, run: Run, end: Resting) -> bool:
        """Whether the bound of the run falls into a sleep; waiting for somebody's answer does not count."""
        seconds = seconds_of(self._job)
        if seconds is None or end.wake is None or run.waiting.calls:
            return False
        return end.wake - now_ms() > (seconds - run.ran) * 1000

    async def _ended(self, run: Run, end: Ended) -> Result:
        if self._job.submission.atomic and not succeeded(end.done):
            await run.guest.kill("its execution is rolled back")
            return await self._ending.roll_back(run, self._job.base.step, end.done)
        result = await self._ending.commit(run, end.done)
        memory = result.usage.memory_bytes
        step = step_id(self._attempt.id, run.step)
        idle = Idle(run.guest, step, self._job.head.version, memory, self._attempt.settling)
        await self._services.pool.rest(self._job.id.session, idle)
        return result

    async def _state_lost(self, run: Run, lost: StateLost) -> Result:
        await run.guest.kill("it went on without what it needs")
        where = f"{lost.where} was " if lost.where else ""
        message = (
            f"{where}{lost.what}, held by the process that ran this before and not by its checkpoint: {lost.why}. "
            "Make it again in the code that uses it, and run that anew."
        )
        data = {"what": lost.what, "where": lost.where, "origin": self._job.base.step}
        error = ErrorInfo(type="StateLost", module="perdure", message=message, line=lost.line, data=data)
        return await self._fail(run, "state_lost", error)

    async def _diverged(self, run: Run, found: Divergence) -> Result:
        origin, foreign, _ = found.path.partition("|")
        if self._kept and foreign:
            what = f"a task or thread that {origin} had started"
            why = "tasks and threads do not survive a restore"
            return await self._state_lost(run, StateLost(t="state_lost", what=what, where=found.path, why=why))
        await run.guest.kill("its replay diverged")
        error = await divergence_error(self._services, run, found, self._job.submission.on_divergence)
        return await self._fail(run, "diverged", error)

    async def _suspend(self, run: Run, end: Resting) -> Result | None:
        """Park the guest and leave until something it waits for settles; goes on only if it was cancelled meanwhile."""
        attempt, session = self._attempt, self._job.id.session
        run.parked_at = time.monotonic()
        await self._services.pool.park(session, Parked(run, attempt.version))
        cancel = await attempt.create(cancel_id(attempt.id), "cancel", {"at": now_ms()}, external=True)
        if not cancel.settled:
            attempt.suspend([*end.waiting, cancel.id])
        self._live.stop = "cancelled"
        if await self._services.pool.take_parked(session, attempt.id, attempt.version) is None:
            raise GuestDied(await asyncio.shield(run.guest.died))
        run.stays = True
        return await self._drive(run)

    # -- ends --------------------------------------------------------------------------

    async def _failed(self, run: Run | None, status: str, kind: str, message: str) -> Result:
        stop: Stop | None = "killed" if status in WHY else None
        return await self._fail(run, status, ErrorInfo(type=kind, message=message, module="perdure"), stop=stop)

    async def _fail(self, run: Run | None, status: str, reason: ErrorInfo, *, stop: Stop | None = None) -> Result:
        # What is atomic leaves nothing of itself, not even its settled steps.
        base = self._job.base.step if self._job.submission.atomic else self._base.step
        await self._begun()
        return await self._ending.fail(self._step, base, await self._records(), run, status, reason, stop)

    async def _records(self) -> list[Promise]:
        """List the step's records by asking for one after another, several at a time, where they cannot be listed."""
        listed = await self._services.substrate.scan(step_id(self._attempt.id, self._step) + ".")
        if listed is not None:
            return sorted(listed, key=lambda promise: parse_record(promise.id).number)
        records: list[Promise] = []
        ahead = 1
        while True:
            wanted = range(len(records), len(records) + ahead)
            ids = [record_id(self._attempt.id, self._step, index) for index in wanted]
            for promise in await asyncio.gather(*map(self._attempt.get, ids)):
                if promise is None:
                    return records
                records.append(promise)
            ahead = min(ahead * 4, 64)


async def without_base(services: Services, attempt: Attempt, problem: Exception) -> Result:
    """End what cannot even be admitted, because what it starts from is damaged."""
    begun = await services.promises.get(record_id(attempt.id, 0, 0), strict=False)
    if begun is None:
        first = await services.promises.get(step_id(attempt.id, 0), strict=False)
        if first is None or not first.settled:
            return damaged(attempt.id, problem)
    await close_all(services.substrate, attempt, "failed")
    return Result(execution=attempt.id, status="failed", error=had_begun(problem))


async def close_all(substrate: Substrate, attempt: Attempt, status: str) -> None:
    """Close every question of an execution that ends so, whatever of it can be read: nobody waits for an answer."""
    for record in await promises_of(substrate, attempt.id, strict=False):
        if not record.settled and record.tags.get(KIND) == "call" and EXTERNAL in record.tags:
            with suppress(RecordDamaged):  # as it is read back
                await attempt.settle(record.id, closed_by(status), state="rejected")


def had_begun(problem: Exception) -> ErrorInfo:
    """Return why an execution ends that has acted on the world."""
    text = f"{problem}. It had begun, and cannot go on; what it has asked for stays recorded"
    return ErrorInfo(type=type(problem).__name__, message=text, module="perdure")


def damaged(execution: str, problem: Exception) -> Result:
    """Refuse what has not begun, for good: a definite end loses nothing, and says what is to be mended."""
    error = ErrorInfo(type=type(problem).__name__, message=str(problem), module="perdure")
    return Result(execution=execution, status="refused", error=error)


def _policy(settings: WorkerSettings) -> dict[str, float] | None:
    """Return when a guest shall end steps; what is None is left out, and does not count."""
    wanted = {"cpu_seconds": settings.step_cpu_seconds, "calls": settings.step_calls}
    return {key: value for key, value in wanted.items() if value is not None} or None


async def _tell(run: Run, order: Execute) -> None:
    try:
        await run.execute(order)
    except LinkClosed:
        raise GuestDied(await asyncio.shield(run.guest.died)) from None


async def _end_guest(run: Run | None, reason: str) -> None:
    if run is not None:
        with suppress(asyncio.CancelledError):
            await run.guest.kill(reason)
