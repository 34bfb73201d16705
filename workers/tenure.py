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

from perdure.engine.durable import AttemptLost, now_ms
from perdure.engine.events import Launched
from perdure.engine.ids import cancel_id, parse_record, record_id, step_id
from perdure.engine.journal import Journal, JournalDamaged
from perdure.engine.records import ErrorInfo, Result
from perdure.engine.refs import fetched
from perdure.engine.sessions import seed_of

from .deaths import Deaths
from .divergences import divergence_error
from .endings import Ending, succeeded
from .guests import GuestDied, GuestFailed, WorkspaceTaken
from .link import LinkClosed
from .messages import ProtocolViolation
from .pool import Idle, Parked
from .run import Diverging, Ended, Resting, Run
from .starting import fresh_guest
from .stopping import WHY, bounded, seconds_of
from .walls import recorded

if TYPE_CHECKING:
    from perdure.engine.durable import Attempt, Promise
    from perdure.engine.journal import Divergence
    from perdure.engine.records import Stop

    from .admission import Job
    from .live import Live
    from .service import Services

__all__ = ["Tenure"]


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
        #: Whether the guest is one that was parked and goes on.
        #: What stood around the step's first guest.
        self._isolation: dict[str, Any] | None = None

    async def work(self) -> Result:
        """Run the execution to its end. Raises AttemptLost, and whatever ends the task when it suspends."""
        attempt = self._attempt
        source = await self._services.source(self._job.head.settings)
        param = {"step": self._step, "at": now_ms(), "isolation": recorded(source)}
        self._deaths, records, found = await asyncio.gather(
            Deaths.read(attempt),
            self._records(),
            attempt.create(step_id(attempt.id, self._step), "step", param),
        )
        if found.settled:
            return Result.model_validate(found.value["result"])
        self._isolation = found.param.get("isolation")
        run = await self._parked()
        if run is not None and await self._is_cancelled():
            self._live.stop = self._live.stop or "cancelled"
        while True:
            try:
                run = self._live.run = run or await self._launch(records)
                return await self._drive(run)
            except GuestDied as exc:
                run = self._live.run = None
                records = await self._records()
                await self._deaths.record(attempt, self._step, len(records), exc)
                end = self._end_of_deaths(exc)
                if end is not None:
                    return await self._failed(None, *end)
            except (JournalDamaged, GuestFailed, ProtocolViolation) as exc:
                await _end_guest(run, f"{type(exc).__name__}: {exc}")
                status = "crashed" if isinstance(exc, ProtocolViolation) else "failed"
                return await self._failed(run, status, type(exc).__name__, str(exc))
            except WorkspaceTaken as exc:
                raise AttemptLost(str(exc)) from exc
            except (AttemptLost, asyncio.CancelledError):
                await _end_guest(run, "its attempt has ended")
                raise

    async def _parked(self) -> Run | None:
        """Return the run that waits for this attempt, if there is one."""
        session = self._job.id.session
        parked = await self._services.pool.take_parked(session, self._attempt.id, self._attempt.version)
        if parked is None:
            return None
        run = parked.run
        run.handlers = self._live.handlers
        if not run.waiting.calls:
            run.ran += time.monotonic() - run.parked_at
        return run

    async def _is_cancelled(self) -> bool:
        id = cancel_id(self._attempt.id)
        cancel = self._attempt.preloaded.get(id) or await self._attempt.get(id)
        return cancel is not None and cancel.settled

    def _end_of_deaths(self, died: GuestDied) -> tuple[str, str, str] | None:
        """Say how the execution ends after a guest's death; None if it goes on with another guest."""
        if self._live.stop is not None:
            return self._live.stop, "Cancelled", f"{WHY[self._live.stop]}; its process was killed: {died}"
        if died.death.limit:
            return "crashed", "LimitExceeded", f"its process was ended: {died}"
        times = self._deaths.in_a_row()
        if times < self._services.settings.poison_deaths:
            return None
        return "crashed", "GuestDied", f"its process died {times} times in a row without getting further: {died}"

    # -- one guest ---------------------------------------------------------------------

    async def _launch(self, records: list[Promise]) -> Run:
        """Get a guest, and tell it what to run and what to replay."""
        services, job = self._services, self._job
        session, submission = job.id.session, job.submission
        journal = Journal.read(records)
        guest = None
        if not records and not submission.files:
            guest = await services.pool.take_idle(session, self._base.step, job.head.version)
        kept = guest is not None
        if guest is None:
            await services.pool.drop(session, "its execution starts from a checkpoint")
            await services.seals.verify(self._base.step)
            guest = await fresh_guest(services, job, self._base, submission.files, self._isolation)
        run = Run(guest, self._attempt.id, self._step, journal, self._live.handlers, services.blobs, services.identity)
        run.kept = kept
        await _tell(run, await self._message())
        self._attempt.tell(Launched(self._attempt.id, guest.pid, kept, journal.unasked))
        return run

    async def _message(self) -> dict[str, Any]:
        submission, fork = self._job.submission, None
        if submission.fork is not None and submission.fork.step == self._step:
            fork = {"path": submission.fork.path, "seed": seed_of(self._job.head.settings.incarnation)}
        brought = submission.variables
        variables = {}
        if brought is not None:
            values = await fetched(self._services.blobs, brought.values)
            variables = {"variables": values, "strategy": brought.strategy}
        return {
            "t": "execute",
            "fork": fork,
            "execution": self._attempt.id,
            "code": submission.code,
            "filename": submission.filename or f"<{self._attempt.id}>",
            "argv": [submission.filename or "", *submission.argv],
            "flags": submission.flags,
            "step": self._step,
            "grants": self._services.describe(self._job.grants),
            **variables,
        }

    async def _drive(self, run: Run) -> Result:
        async with bounded(self._live, run, seconds_of(self._job)):
            end = await run.drive(self._attempt)
        match end:
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
        idle = Idle(run.guest, step_id(self._attempt.id, run.step), self._job.head.version)
        await self._services.pool.rest(self._job.id.session, idle)
        return result

    async def _diverged(self, run: Run, found: Divergence) -> Result:
        await run.guest.kill("its replay diverged")
        error = await divergence_error(self._services, run, found, self._job.submission.on_divergence)
        return await self._fail(run, "diverged", error)

    async def _suspend(self, run: Run, end: Resting) -> Result:
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


async def _tell(run: Run, message: dict[str, Any]) -> None:
    try:
        await run.execute(message)
    except LinkClosed:
        raise GuestDied(await asyncio.shield(run.guest.died)) from None


async def _end_guest(run: Run | None, reason: str) -> None:
    if run is not None:
        with suppress(asyncio.CancelledError):
            await run.guest.kill(reason)
