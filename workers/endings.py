"""How an execution ends: its last checkpoint, its result, and the step that holds both.

1. The checkpoint first, then the step that names it: a settled step can always be gone on from.
2. An execution always ends with a Result, whatever became of its guest; what it leaves is its last settled step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from perdure.engine.durable import now_ms
from perdure.engine.events import Imaged, Stored
from perdure.engine.ids import cancel_id, step_id
from perdure.engine.records import ErrorInfo, Merged, Prevented, Result, Timings, Usage
from perdure.engine.refs import dumped, stored, stored_raw

from .checkpoints import save
from .messages import ProtocolViolation
from .requests import check_text, refuse_no_json, refuse_refs
from .showing import bundle_in_done
from .stopping import seconds_of
from .totals import Totals

if TYPE_CHECKING:
    from perdure.engine.blobs import Data
    from perdure.engine.checkpoints import Recorded
    from perdure.engine.durable import Attempt, Promise
    from perdure.engine.records import NameReport, Stop
    from perdure.engine.settings import Variables

    from .admission import Job
    from .checkpoints import Saved
    from .live import Live
    from .messages import Done, StepEnds
    from .run import Run
    from .service import Services

__all__ = ["Ending", "closed_by", "error_of", "succeeded"]

#: Calls left open that a result names, each in a line; how many there were is said.
CLOSED_NAMED = 10


@dataclass(slots=True)
class Ending:
    """Ends one attempt's execution, in its last step."""

    services: Services
    attempt: Attempt
    job: Job
    live: Live
    #: When the attempt began, on the monotonic clock.
    started: float
    #: Of the settled steps; what an execution has come to whose guest is gone.
    totals: Totals = Totals()  # noqa: RUF009 - a constant
    #: What the last guest could not load, should it be gone at the end.
    not_restored: tuple[NameReport, ...] = ()

    async def commit(self, run: Run, done: Done) -> Result:
        """Settle the step of code that ended, with the namespace it leaves. Raises GuestDied, OSError."""
        begun = time.monotonic()
        used = run.usage()
        step = step_id(self.attempt.id, run.step)
        saved = await self._save(run, None)
        told = await self._told(run, done)
        result = self._result(run).model_copy(
            update={
                **told,
                "lost": saved.lost,
                "left": tuple(done.left),
                "changed": tuple(done.changed),
                "commits": done.commits,
                "prevented": tuple(Prevented(what=what, line=line) for what, line in done.prevented),
                "notes": (*told["notes"], *saved.notes),
                "checkpoint": step,
                "timings": Timings(
                    total=time.monotonic() - self.started, ran=run.ran, checkpoint=time.monotonic() - begun
                ),
                "usage": Usage(memory_bytes=used.memory, cpu_seconds=used.cpu, names=done.names),
            }
        )
        await self._settle(run.step, run, result, saved.record)
        # To whom it serves next, what was bound to something else since is not missing.
        run.guest.not_restored = saved.absent
        return result

    async def roll_back(self, run: Run, base: str | None, done: Done) -> Result:
        """End an execution that failed and was to change nothing: the session is what it was before."""
        told = await self._told(run, done)
        if self.job.submission.variables is not None:
            told["merged"] = None
        result = self._result(run).model_copy(update={**told, "checkpoint": base, "rolled_back": True})
        await self._settle(run.step, run, result, None)
        return result

    async def _told(self, run: Run, done: Done) -> dict[str, Any]:
        """Return what a result takes from what the guest said of its end."""
        stop = self.live.stop if done.status == "cancelled" else None
        error = error_of(done, f"in {self.attempt.id}, step {run.step}")
        if stop == "timeout" and error is not None:
            text = f"it ran longer than {seconds_of(self.job):g} s (wall_seconds) and was stopped"
            error = error.model_copy(update={"type": "ExecutionTimeout", "message": text})
        brought = self.job.submission.variables
        display = bundle_in_done(done, run.guest.link)
        return {
            "status": stop or done.status,
            "stop": "stopped" if stop else None,
            "data": await self._value(run, done),
            "has_value": done.has_value,
            "repr": done.repr,
            "display": await stored(self.services.blobs, display) if display else None,
            "error": error,
            "exit_code": done.code,
            "mode": done.mode,
            "blocking": tuple(done.blocking),
            "merged": _merged(done, brought),
            "notes": (*_notes(run), *done.notes),
        }

    async def step(self, run: Run, ends: StepEnds) -> Promise:
        """Settle a step inside the execution, which goes on before the statement the guest stands at."""
        saved = await self._save(run, run.guest.link.take(ends.stream))
        settled = await self.attempt.settle(
            step_id(self.attempt.id, run.step),
            {
                "checkpoint": saved.record.model_dump(mode="json"),
                "entered": run.recorder.unrecorded(),
                "final": False,
                "statement": ends.statement,
                "line": ends.line,
                "totals": run.totals._asdict(),
            },
        )
        self.totals = run.totals
        return settled

    async def _save(self, run: Run, content: Data | None) -> Saved:
        """Store a checkpoint of the guest as it stands; nothing names it yet. Raises GuestDied, OSError."""
        saved = await save(
            run,
            step_id(self.attempt.id, run.step),
            self.services.workspace(self.job.id.session),
            self.services.blobs,
            self.job.head.settings.limits,
            content=content,
            imaged=lambda: self.attempt.tell(Imaged(self.attempt.id)),
            alarms=self.services.alarms,
        )
        self.attempt.tell(Stored(self.attempt.id))
        return saved

    async def fail(
        self,
        step: int,
        base: str | None,
        records: list[Promise],
        run: Run | None,
        status: str,
        reason: ErrorInfo,
        stop: Stop | None = None,
    ) -> Result:
        """End an execution whose guest is gone: what it leaves is ``base``, its last settled step or its own base."""
        how = {"status": status, "error": reason, "checkpoint": base, "stop": stop}
        result = self._result(run).model_copy(update={**how, "rolled_back": self.job.submission.atomic})
        for record in records:
            if not record.settled and record.param.get("effect") == "external":
                await self.attempt.settle(record.id, closed_by(status), state="rejected")
        await self._settle(step, run, result, None)
        return result

    async def refuse(self, step: int, result: Result) -> None:
        """Settle the step of what was refused after it was begun: left open, it would hold its execution for a year."""
        begun = await self.attempt.get(step_id(self.attempt.id, step))
        if begun is not None and not begun.settled:
            await self._settle(step, None, result, None)

    async def _value(self, run: Run, done: Done) -> Any:
        if done.value_stream is not None:
            raw = run.guest.link.take(done.value_stream)
            self._refuse_too_large(len(raw))
            await check_text(raw)
            return await stored_raw(self.services.blobs, raw)
        refuse_no_json(done.value)
        refuse_refs(done.value)
        self._refuse_too_large(len(dumped(done.value)))
        return done.value

    def _refuse_too_large(self, size: int) -> None:
        """Refuse a value that the guest's own runtime would have left out. Raises ProtocolViolation."""
        most = self.job.head.settings.limits.result_bytes
        if size > most:
            msg = f"a value of {size} bytes, which result_bytes ({most}) does not allow"
            raise ProtocolViolation(msg)

    async def _settle(self, step: int, run: Run | None, result: Result, record: Recorded | None) -> None:
        id = step_id(self.attempt.id, step)
        value = {
            "checkpoint": record.model_dump(mode="json") if record else None,
            "entered": run.recorder.unrecorded() if run else None,
            "final": True,
            "result": result.model_dump(mode="json"),
        }
        # With the execution's own end, if nothing of it has to be closed in between.
        if not (record and self._plain and await self.attempt.settle_along(id, value)):
            await self.attempt.settle(id, value)
            await self.close()

    @property
    def _plain(self) -> bool:
        """Whether nobody was given a way to cancel the execution, which would have to be closed."""
        return self.attempt.version == 1 and not self.live.watched

    async def close(self) -> None:
        """Close the way to cancel an execution whose outcome is settled.

        Before that, whoever goes on after a crash would take it for a request to cancel.
        """
        attempt = self.attempt
        if not self._plain:
            cancel = await attempt.get(cancel_id(attempt.id))
            if cancel is not None and not cancel.settled:
                await attempt.settle(cancel.id, {"at": now_ms(), "unused": True})

    def _result(self, run: Run | None) -> Result:
        totals = run.totals if run else self.totals
        return Result(
            execution=self.attempt.id,
            status="failed",
            isolation=self.job.head.settings.isolation,
            layers=run.guest.layers if run else (),
            missing=run.guest.missing if run else (),
            not_restored=run.guest.not_restored if run else self.not_restored,
            base=self.job.base.step,
            attempts=self.attempt.version,
            kept_guest=run.kept if run else False,
            calls=totals.calls,
            writes=totals.writes,
            characters=totals.characters,
            replayed=totals.replayed,
        )


def closed_by(status: str) -> dict[str, Any]:
    """Return the outcome of a question whose execution ended so."""
    return {"type": "CallCancelled", "message": f"the execution ended as {status}", "data": None}


def succeeded(done: Done) -> bool:
    """Whether the code ran to its end, or called ``exit`` with success."""
    return done.status == "ok" or (done.status == "exit" and not done.code)


def error_of(done: Done, where: str) -> ErrorInfo | None:
    """Return what the code raised, with where that was, if it raised. Raises ProtocolViolation."""
    if done.error is None:
        return None
    refuse_no_json(done.error)
    try:
        error = ErrorInfo.model_validate(done.error)
    except ValidationError as exc:
        msg = f"an error that is none: {exc.error_count()} of its parts are wrong"
        raise ProtocolViolation(msg) from None
    return error.model_copy(update={"notes": (*error.notes, where)})


def _merged(done: Done, brought: Variables | None) -> Merged | None:
    if done.merged is None or brought is None:
        return None
    names = {what: tuple(done.merged.get(what, ())) for what in ("added", "changed", "kept")}
    return Merged(**names, source=brought.source)


def _notes(run: Run) -> tuple[str, ...]:
    notes = [
        f"{call} was open when the code ended: it is closed, and whoever still waits for it gets CallCancelled"
        for call in run.calls.closed[:CLOSED_NAMED]
    ]
    if more := len(run.calls.closed) - len(notes):
        notes.append(f"and so were {more} more calls")
    if differing := run.differing + run.journal.differing_writes:
        notes.append(f"{differing} writes differed on replay from what had been shown; the log keeps what was shown")
    return tuple(notes)
