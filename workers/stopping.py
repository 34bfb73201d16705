"""Stopping code that runs: asked first, killed when it goes on past its grace; and a bound on how long it may run.

1. Whoever stopped by itself is not kept waiting for, and keeps its namespace as it stands.
2. A signal may come before the code runs, or between two statements: it is sent again until the code has ended.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .admission import Job
    from .live import Live, Reason
    from .run import Run

__all__ = ["WHY", "bounded", "seconds_of", "stop", "stop_run"]

#: Seconds between two signals to code that has not ended yet.
AGAIN = 0.1
#: Seconds that a replay may take before it is stopped wherever it is.
REPLAY_PATIENCE = 60.0
#: What is said of a guest that had to be killed, by the reason of the stop.
WHY = {"cancelled": "cancelled", "timeout": "out of time"}


async def stop(live: Live, reason: Reason) -> None:
    """Have an execution stopped, once; returns when its code has ended or is killed."""
    if live.stop is not None:
        return
    live.stop = reason
    # Without a run its guest is being started: whoever starts it looks here.
    if live.run is not None:
        await stop_run(live, live.run)


async def stop_run(live: Live, run: Run) -> None:
    """Ask a run's code to stop until it has; kill its guest when the grace is over.

    What is being replayed is first let come to where it was: it is stopped there, not at a point it had passed.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(REPLAY_PATIENCE):
            while run.journal.replaying and not await _over(run):
                pass
    with suppress(TimeoutError):
        async with asyncio.timeout(live.grace):
            await run.cancel()
            while not await _over(run):
                run.interrupt()
            return
    await run.guest.kill(
        f"{WHY[live.stop or 'cancelled']}, and it went on for {live.grace:g} s after it was asked to stop"
    )


async def _over(run: Run) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(AGAIN):
            await run.over.wait()
    return run.over.is_set()


def seconds_of(job: Job) -> float | None:
    """Return how long an execution may run: the submission can only ask for less than the session allows."""
    bounds = [each for each in (job.head.settings.limits.wall_seconds, job.submission.seconds) if each is not None]
    return min(bounds, default=None)


@asynccontextmanager
async def bounded(live: Live, run: Run, seconds: float | None) -> AsyncIterator[None]:
    """Stop a run that goes on longer than ``seconds`` in all; what it waited suspended does not count."""
    if seconds is None and live.stop is None:
        yield
        return

    async def watch() -> None:
        if live.stop is not None:
            await stop_run(live, run)
        elif seconds is not None:
            await asyncio.sleep(max(0.0, seconds - run.ran))
            await stop(live, "timeout")

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
