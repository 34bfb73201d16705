"""A whole execution of ``1+1``: what is paid besides the code."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from ..client import Client
from .yardstick import Rows, commit_times, fresh, row

__all__ = ["bench_execution"]

#: First executions of a session that are not counted, and those that are.
WARM_UP, COUNTED = 10, 50
#: New sessions.
SESSIONS = 10


async def bench_execution(folder: Path) -> Rows:
    """Time ``1+1`` from submission to result: in a warm session, and as the first of a new one."""
    warm: list[float] = []
    cold: list[float] = []
    async with Client.open(folder / "state") as client:
        session = await client.session("warm")
        for n in range(WARM_UP + COUNTED):
            began = time.perf_counter()
            await (await session.submit("1+1")).result()
            if n >= WARM_UP:
                warm.append(time.perf_counter() - began)
        for n in range(SESSIONS):
            new = await client.session(f"cold-{n}")
            began = time.perf_counter()
            await (await new.submit("1+1")).result()
            cold.append(time.perf_counter() - began)
    commit = median(commit_times(fresh(folder, "commits")))
    return [
        row("1+1 in a warm session", median(warm), "one durable SQLite commit", commit, "<= 10 ms"),
        row("1+1 in a new session", median(cold), "one durable SQLite commit", commit, "<= 60 ms"),
    ]
