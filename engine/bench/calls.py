"""Capability calls: what one costs, and whether a long history makes it dearer."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from perdure.capabilities import capability

from ..client import Client
from .yardstick import Rows, commit_times, fresh, row

__all__ = ["bench_calls"]

#: Calls of one execution: the last ones show what a long history costs.
CALLS = 2000
#: Calls at each end whose median is compared.
WINDOW = 100
#: Calls at the beginning that are not counted.
WARM_UP = 10


@capability("bench.repeat", effect="repeat")
async def _repeat(n: int) -> int:
    """Do nothing that may be repeated."""
    return n


@capability("bench.unknown", effect="unknown")
async def _unknown(n: int) -> int:
    """Do nothing that may not."""
    return n


async def bench_calls(folder: Path) -> Rows:
    """Time sequential calls of one execution, at its beginning and at its end."""
    rows: Rows = []
    code = (
        "import time\ntimes = []\nfor n in range({count}):\n    began = time.perf_counter()\n"
        "    {name}(n)\n    times.append(time.perf_counter() - began)\ntimes"
    )
    async with Client.open(folder / "state", capabilities=[_repeat, _unknown]) as client:
        for effect in ("repeat", "unknown"):
            before = commit_times(fresh(folder, f"{effect}-before"))
            session = await client.session(effect, grants=[f"bench.{effect}"])
            execution = await session.submit(code.format(count=CALLS, name=f"bench.{effect}"))
            times = (await execution.result()).value
            commit = median(before + commit_times(fresh(folder, f"{effect}-after")))
            first, last = median(times[WARM_UP : WARM_UP + WINDOW]), median(times[-WINDOW:])
            bar = "<= 1.5" if effect == "repeat" else "<= 2.2"
            rows.append(row(f"{effect} call, p50", median(times), "one durable SQLite commit", commit, bar))
            ends = f"{effect} call, the last {WINDOW} of {CALLS}"
            rows.append(row(ends, last, f"calls {WARM_UP} to {WARM_UP + WINDOW}", first, "<= 1.2"))
    return rows
