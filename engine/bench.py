"""Measurements, as ratios against a yardstick of the same run on the same disk; ``perdure bench`` prints them.

Figures of a shared machine move; their ratios to a plain durable commit measured in between move less.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from perdure.capabilities import capability

from .client import Client

__all__ = ["BENCHES", "run_bench"]

type Rows = list[dict[str, Any]]

#: Calls of one execution: the last ones show what a long history costs.
CALLS = 2000
#: Calls at each end whose median is compared.
WINDOW = 100
#: First executions of a session that are not counted.
WARM_UP = 10
#: Bytes of one record as the store keeps it; what the yardstick commits.
RECORD_BYTES = 600


@capability("bench.repeat", effect="repeat")
async def _repeat(n: int) -> int:
    """Do nothing that may be repeated."""
    return n


@capability("bench.unknown", effect="unknown")
async def _unknown(n: int) -> int:
    """Do nothing that may not."""
    return n


def commit_times(folder: Path, count: int = 500, size: int = RECORD_BYTES) -> list[float]:
    """Return the seconds of durable SQLite commits of one row each."""
    database = sqlite3.connect(folder / "yardstick.db", isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB)")
        data = os.urandom(size)
        times = []
        for _ in range(count):
            began = time.perf_counter()
            database.execute("INSERT INTO rows (data) VALUES (?)", (data,))
            times.append(time.perf_counter() - began)
        return times
    finally:
        database.close()


async def bench_calls(folder: Path) -> Rows:
    """Time sequential calls of one execution, at its beginning and at its end."""
    rows: Rows = []
    code = (
        "import time\ntimes = []\nfor n in range({count}):\n    began = time.perf_counter()\n"
        "    {name}(n)\n    times.append(time.perf_counter() - began)\ntimes"
    )
    async with Client.open(folder / "state", capabilities=[_repeat, _unknown]) as client:
        for effect in ("repeat", "unknown"):
            before = commit_times(_fresh(folder, f"{effect}-before"))
            session = await client.session(effect, grants=[f"bench.{effect}"])
            execution = await session.submit(code.format(count=CALLS, name=f"bench.{effect}"))
            times = (await execution.result()).value
            after = commit_times(_fresh(folder, f"{effect}-after"))
            commit = median(before + after)
            first, last = median(times[WARM_UP : WARM_UP + WINDOW]), median(times[-WINDOW:])
            rows.append(
                {
                    "what": f"{effect} call, p50",
                    "ms": round(median(times) * 1000, 3),
                    "yardstick": "one durable SQLite commit",
                    "yardstick_ms": round(commit * 1000, 3),
                    "ratio": round(median(times) / commit, 2),
                    "bar": "<= 1.5" if effect == "repeat" else "<= 2.2",
                }
            )
            rows.append(
                {
                    "what": f"{effect} call, the last {WINDOW} of {CALLS}",
                    "ms": round(last * 1000, 3),
                    "yardstick": f"calls {WARM_UP} to {WARM_UP + WINDOW}",
                    "yardstick_ms": round(first * 1000, 3),
                    "ratio": round(last / first, 2),
                    "bar": "<= 1.2",
                }
            )
    return rows


async def bench_execution(folder: Path) -> Rows:
    """Time ``1+1`` from submission to result: in a warm session, and as the first of a new one."""
    warm: list[float] = []
    cold: list[float] = []
    async with Client.open(folder / "state") as client:
        session = await client.session("warm")
        for n in range(60):
            began = time.perf_counter()
            await (await session.submit("1+1")).result()
            if n >= WARM_UP:
                warm.append(time.perf_counter() - began)
        for n in range(10):
            fresh = await client.session(f"cold-{n}")
            began = time.perf_counter()
            await (await fresh.submit("1+1")).result()
            cold.append(time.perf_counter() - began)
    commit = median(commit_times(_fresh(folder, "commits")))
    return [
        {
            "what": what,
            "ms": round(median(times) * 1000, 2),
            "yardstick": "one durable SQLite commit",
            "yardstick_ms": round(commit * 1000, 3),
            "ratio": round(median(times) / commit, 1),
            "bar": bar,
        }
        for what, times, bar in (
            ("1+1 in a warm session", warm, "<= 10 ms"),
            ("1+1 in a new session", cold, "<= 60 ms with a zygote, which is not there yet"),
        )
    ]


#: What can be measured, by name.
BENCHES: dict[str, Callable[[Path], Awaitable[Rows]]] = {"calls": bench_calls, "execution": bench_execution}


def run_bench(what: str, *, as_json: bool = False) -> int:
    """Run one benchmark (or ``all``) and print its rows; returns the exit code."""
    if what not in BENCHES and what != "all":
        names = "\n".join(f"  {name:12}{(bench.__doc__ or '').splitlines()[0]}" for name, bench in BENCHES.items())
        sys.stdout.write(f"perdure bench NAME, where NAME is all or one of:\n{names}\n")
        return 0 if what == "list" else 2
    rows: Rows = []
    for name, bench in BENCHES.items():
        if what in (name, "all"):
            with tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=Path.cwd()) as folder:
                rows += asyncio.run(_run(bench, Path(folder)), loop_factory=uvloop.new_event_loop)
    if as_json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))
        return 0
    table = Table(box=None, header_style="bold")
    for header in ("what", "ms", "against", "ms ", "ratio", "bar"):
        table.add_column(header)
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("what", "ms", "yardstick", "yardstick_ms", "ratio", "bar")))
    Console().print(table)
    return 0


async def _run(bench: Callable[[Path], Awaitable[Rows]], folder: Path) -> Rows:
    return await bench(folder)


def _fresh(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place
