"""The thread that writes: requests in the order they came, as many to a transaction as were waiting.

1. An answer leaves after the commit that made it true, a message after the commit that caused it.
2. A request that fails takes nobody with it: what shared its transaction is done again, each alone.
3. Nothing polls. The thread sleeps until the next request or the nearest deadline.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from . import timeouts
from .database import Database
from .delivery import Messages
from .errors import StoreError, StoreLocked

if TYPE_CHECKING:
    from resonate.timing import Clock

BATCH: Final = 256  # requests in one transaction: enough to hide the fsync, few enough not to hold up the first
RECHECK: Final = 60.0  # seconds; a wall clock that was set forward must not leave a deadline unseen for longer
AFTER_ERROR: Final = 1_000  # ms until timeouts are tried again when they could not be written

type Write[T] = Callable[[Database, int, Messages], T]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Job:
    write: Write[Any]
    loop: asyncio.AbstractEventLoop | None = None  # none: the thread's own
    done: asyncio.Future[Any] | None = None
    result: Any = None
    error: Exception | None = None

    def settle(self) -> None:
        """Hand over what became of it, on its loop."""
        if self.done is None or self.done.done():  # a cancelled caller: what it asked for stands
            return
        if self.error is not None:
            self.done.set_exception(self.error)
        else:
            self.done.set_result(self.result)


class Committer:
    """Runs writes one after the other on a thread of its own.

    After each transaction that changed something, `committed` is called with its messages, on the loop of `start`.
    """

    def __init__(self, clock: Clock, committed: Callable[[Messages], None]) -> None:
        self._clock = clock
        self._committed = committed
        self._jobs: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        #: Jobs of this turn of the loop.
        self._gathered: list[_Job] = []
        self._handing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._deadline: int | None = 0  # what fell due while no process was there comes first

    def start(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to write; from here on the database belongs to the thread."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, args=(database, loop), name="perdure-store", daemon=True)
        self._thread.start()

    async def write[T](self, write: Write[T]) -> T:
        """Run one write, alone or with what else waits; returns once it is durable."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._put(_Job(write, loop, done))
        return await done

    def _put(self, job: _Job) -> None:
        """Hand a job over with all others of this turn of the loop: the thread would begin with the first alone."""
        if self._loop is None or job.loop is not self._loop:
            self._jobs.put([job])
            return
        self._gathered.append(job)
        if not self._handing:
            self._handing = True
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        jobs, self._gathered, self._handing = self._gathered, [], False
        for start in range(0, len(jobs), BATCH):
            self._jobs.put(jobs[start : start + BATCH])

    def expect(self, deadline: int) -> None:
        """Wake for a deadline that another process has set, if it is before what is waited for."""
        if self._deadline is None or deadline < self._deadline:
            self._jobs.put([_Job(lambda _db, _now, messages: messages.wake(deadline))])

    async def stop(self) -> None:
        """Finish what was asked for, then close the database."""
        self._hand_over()
        self._jobs.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while not self._closing:
                jobs = self._collect(self._wait_for(self._deadline))
                timer = None
                if self._deadline is not None and self._deadline <= self._clock():
                    timer = _Job(timeouts.fire)
                    jobs.append(timer)
                if jobs:
                    self._commit(database, jobs, loop)
                if timer is not None:
                    self._deadline = self._after(database, timer)
        finally:
            database.close()

    def _wait_for(self, deadline: int | None) -> float:
        if deadline is None:
            return RECHECK
        return min(max((deadline - self._clock()) / 1000, 0.0), RECHECK)

    def _collect(self, wait: float) -> list[_Job]:
        jobs: list[_Job] = []
        try:
            more = self._jobs.get(timeout=wait) if wait else self._jobs.get_nowait()
            while True:
                if more is None:
                    self._closing = True
                    break
                jobs += more
                if len(jobs) >= BATCH:
                    break
                more = self._jobs.get_nowait()
        except queue.Empty:
            pass
        return jobs

    def _commit(self, database: Database, jobs: list[_Job], loop: asyncio.AbstractEventLoop) -> None:
        messages = Messages()
        before = database.changes
        try:
            with database.transaction():
                for job in jobs:
                    job.result = job.write(database, self._clock(), messages)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked, and the thread serves the others
            if len(jobs) > 1 and not isinstance(error, StoreLocked):  # a lock would be waited for once per job
                for job in jobs:
                    self._commit(database, [job], loop)
                return
            for job in jobs:
                job.error = error
        changed = database.changes != before and not jobs[0].error
        if messages.deadline is not None and not jobs[0].error:
            self._note(messages.deadline)
        self._report(jobs, messages if changed else None, loop)

    def _report(self, jobs: list[_Job], messages: Messages | None, loop: asyncio.AbstractEventLoop) -> None:
        elsewhere: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        here: list[_Job] = []
        for job in jobs:
            if job.loop is loop:
                here.append(job)
            elif job.loop is not None:
                elsewhere.setdefault(job.loop, []).append(job)
        # In one call, so that whoever is answered finds the commit already counted.
        call_on(loop, self._finish, here, messages)
        for other, settled in elsewhere.items():
            call_on(other, _settle, settled)

    def _finish(self, jobs: list[_Job], messages: Messages | None) -> None:
        _settle(jobs)
        if messages is not None:
            self._committed(messages)

    def _note(self, deadline: int) -> None:
        if self._deadline is None or deadline < self._deadline:
            self._deadline = deadline

    def _after(self, database: Database, timer: _Job) -> int | None:
        if timer.error is not None:
            log.warning("timeouts could not be written; they are tried again", error=str(timer.error))
            return self._clock() + AFTER_ERROR
        try:
            with database.snapshot():
                return timeouts.nearest(database)
        except StoreError as error:
            log.warning("the next timeout could not be read; it is tried again", error=str(error))
            return self._clock() + AFTER_ERROR


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        job.settle()


def call_on[*Arguments](
    loop: asyncio.AbstractEventLoop, call: Callable[[*Arguments], None], *arguments: *Arguments
) -> None:
    """Call something on a loop from this thread; a loop that has closed waits for nothing."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)
