"""Signs of life of a guest that runs: whether it computes, waits, or neither, without asking it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from perdure.engine.beats import forget_beat, keep_beat
from perdure.engine.durable import now_ms
from perdure.engine.ids import parse_execution
from perdure.engine.records import Beat

if TYPE_CHECKING:
    from pathlib import Path

    from .live import Live
    from .run import Run

__all__ = ["beat_on", "doing"]

log = structlog.get_logger()

#: Seconds between two looks: soon enough for a person, nothing beside what the guest does.
EVERY = 1.0
#: Part of a processor from which on a guest computes.
COMPUTES = 0.05
#: Seconds of neither after which the worker's log says so, once.
LONG_SILENT = 60.0


def doing(cpu: float, seconds: float, *, waits: bool) -> str:
    """Say what a guest did in so many seconds, of which it used ``cpu``."""
    if cpu >= COMPUTES * seconds:
        return "computing"
    return "waiting" if waits else "silent"


async def beat_on(execution: str, live: Live, folder: Path) -> None:
    """Keep an execution's beat until this is cancelled."""
    session = parse_execution(execution).session
    before, said, refused = 0.0, False, False
    try:
        while True:
            await asyncio.sleep(EVERY)
            if live.run is None:
                forget_beat(folder, session)
                continue
            beat = _beat(live.run, before)
            before = beat.cpu_seconds
            if beat.doing == "silent" and beat.quiet_seconds > LONG_SILENT and not said:
                said = True
                log.warning(
                    "guest.silent", execution=execution, seconds=round(beat.quiet_seconds), cpu=beat.cpu_seconds
                )
            try:
                keep_beat(folder, session, beat)
            except OSError as exc:
                # There may be room again in a moment.
                if not refused:
                    log.warning("guest.beat", execution=execution, reason=str(exc))
                refused = True
    finally:
        forget_beat(folder, session)


def _beat(run: Run, before: float) -> Beat:
    now = run.usage()
    return Beat.model_validate(
        {
            "execution": run.execution,
            "at": now_ms(),
            "doing": doing(now.cpu - before, EVERY, waits=run.waits),
            "quiet_seconds": round(time.monotonic() - run.guest.link.heard_at, 3),
            "memory_bytes": now.memory,
            "cpu_seconds": now.cpu,
            "threads": now.threads,
            "names": run.names,
        }
    )
