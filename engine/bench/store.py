"""The store: what one action costs beside the commit it cannot do without, with company, and as it fills."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from resonate.connections.local import LocalConnection

from ..store import SqliteConnection
from .peers import dbos_step_times
from .store_actions import COMMIT, DATA, FAR, Ask, asker, bench_actions, timed, used
from .yardstick import Commits, Rows, fresh, row

__all__ = ["bench_store"]

#: Commits beside each measurement.
BESIDE = 60
#: Requests of all clients together.
REQUESTS = 1_000
#: Times each action is measured among many promises, and a waiting task is woken.
COUNT = 100
#: Promises in the file; an action must cost the same in each.
SIZES = (1_000, 10_000, 100_000, 1_000_000)
#: Tasks that wait, each for a promise of its own.
SUSPENDED = 100_000

_SMALL = "x" * 20  # what fills the file: its indexes are as large as with more, and it is written in a bearable time


async def bench_store(folder: Path) -> Rows:
    """Measure latency, throughput, growth and waiting tasks, beside the SDK's in-memory server and DBOS."""
    commits = Commits(fresh(folder, "commits"))

    def commit() -> float:
        return median(commits.times(BESIDE))

    rows = await bench_actions(folder, commit)
    own = next(line for line in rows if line["what"].startswith("task.fence create"))
    rows += await _local(commit)
    rows += _dbos(folder, own["ms"] / 1000, commit)
    rows += await _clients(folder, commit)
    rows += await _sizes(folder, commit)
    rows += await _waiting(folder, commit)
    commits.close()
    return rows


# -- others, and company ---------------------------------------------------------------------


async def _local(commit: Callable[[], float]) -> Rows:
    memory = LocalConnection(pid="bench", group="bench")
    try:
        each = median(await _fences(asker(memory), 1))
    finally:
        await memory.stop()
    return [row("LocalConnection (not durable): task.fence create", each, COMMIT, commit(), "")]


def _dbos(folder: Path, own: float, commit: Callable[[], float]) -> Rows:
    steps = dbos_step_times(fresh(folder, "dbos"))
    if steps is None:
        return [{**row("a DBOS step on SQLite", 0.0, COMMIT, commit(), "not installed"), "ms": "", "ratio": ""}]
    step = median(steps)
    return [
        row("a DBOS step on SQLite", step, COMMIT, commit(), ""),
        row("task.fence create", own, "a DBOS step on SQLite", step, "< 1"),
    ]


async def _fences(ask: Ask, clients: int) -> list[float]:
    """Time fences of so many clients at once, each under a task of its own; their share of the whole time."""
    version = 0
    for client in range(clients):
        tags = {"resonate:target": "poll://any@nobody"}
        create = {"id": f"f{clients}-{client}", "timeoutAt": FAR, "param": {}, "tags": tags}
        action = {"kind": "promise.create", "head": {}, "data": create}
        version = (await ask("task.create", pid="bench", ttl=10**9, action=action))["task"]["version"]

    async def work(client: int) -> None:
        task = f"f{clients}-{client}"
        for n in range(REQUESTS // clients):
            create = {"id": f"{task}:{n}", "timeoutAt": FAR, "param": {"data": DATA}, "tags": {}}
            action = {"kind": "promise.create", "head": {}, "data": create}
            await ask("task.fence", id=task, version=version, action=action)

    began = time.perf_counter()
    await asyncio.gather(*map(work, range(clients)))
    return [(time.perf_counter() - began) / (REQUESTS // clients * clients)]


async def _clients(folder: Path, commit: Callable[[], float]) -> Rows:
    rows: Rows = []
    async with SqliteConnection(fresh(folder, "clients") / "store.db", group="bench") as connection:
        await used(connection)
        for clients, bar in ((1, "<= 2.2"), (8, "<= 0.5"), (64, "<= 0.3")):
            each = median(await _fences(asker(connection), clients))
            rows.append(row(f"a durable create, {clients} clients at once", each, COMMIT, commit(), bar))
    return rows


async def _sizes(folder: Path, commit: Callable[[], float]) -> Rows:
    """Time a create, a get and a settle in files that hold more and more settled promises."""
    rows: Rows = []
    first: dict[str, float] = {}
    async with SqliteConnection(fresh(folder, "sizes") / "store.db", group="bench") as connection:
        await used(connection)
        ask, held = asker(connection), 0
        for size in SIZES:
            await fill(connection, held, size)
            held = size
            found = await _among(ask, size)
            for name, times in found.items():
                here, what = median(times), f"promise.{name} among {size:,} promises"
                if name == "get":
                    rows.append(row(what, here, f"among {SIZES[0]:,}", first.setdefault(name, here), "flat"))
                else:
                    rows.append(row(what, here, COMMIT, commit(), "flat"))
    return rows


async def _among(ask: Ask, size: int) -> dict[str, list[float]]:
    async def create(n: int) -> None:
        await ask("promise.create", id=f"n{n * 7919 % COUNT}-{size}", timeoutAt=FAR, param={"data": DATA})

    async def get(n: int) -> None:
        await ask("promise.get", id=f"r{n * 7919 % size // 10}:{n * 7919 % 10}")

    async def settle(n: int) -> None:
        await ask("promise.settle", id=f"n{n}-{size}", state="resolved", value={"data": DATA})

    return {name: await timed(COUNT, what) for name, what in (("create", create), ("get", get), ("settle", settle))}


async def fill(connection: SqliteConnection, start: int, stop: int) -> None:
    """Write settled promises in trees of ten, as their creation and settlement would have left them."""
    columns = "id, state, param_data, value_data, tags, timer, external, head, timeout_at, created_at, settled_at"
    sql = f"INSERT INTO promises ({columns}) VALUES (?, 'resolved', ?, ?, '{{}}', 0, 0, ?, {FAR}, 1, 2)"  # noqa: S608
    rows = ((f"r{n // 10}:{n % 10}", _SMALL, _SMALL, int(n % 10 == 0)) for n in range(start, stop))
    for batch in itertools.batched(rows, 10_000):

        def write(db: Any, _now: int, _messages: Any, batch: Any = batch) -> None:
            db.executemany(sql, batch)

        await connection._committer.write(write)  # noqa: SLF001 - no reply is worth a million of them


async def _waiting(folder: Path, commit: Callable[[], float]) -> Rows:
    """Count the memory that suspended tasks cost a process, and time the waking of one."""
    path = fresh(folder, "waiting") / "store.db"
    async with SqliteConnection(path, group="none") as connection:
        await suspend(connection, SUSPENDED)
    told: asyncio.Queue[float] = asyncio.Queue()
    gc.collect()
    before = resident()
    connection = SqliteConnection(path, group="bench")
    connection.recv(lambda _message: told.put_nowait(time.perf_counter()))
    async with connection:
        ask, times = asker(connection), []
        for n in range(COUNT):
            began = time.perf_counter()
            await ask("promise.settle", id=f"w{n * (SUSPENDED // COUNT)}:x", state="resolved", value={"data": DATA})
            times.append(await told.get() - began)
        memory = resident() - before
    return [
        row(f"waking one of {SUSPENDED:,} suspended tasks, p50", median(times), COMMIT, commit(), "<= 20 ms"),
        {
            "what": f"memory that {SUSPENDED:,} suspended tasks cost a process, MB",
            "ms": round(memory / 1e6, 1),
            "yardstick": "bytes each",
            "yardstick_ms": round(memory / SUSPENDED),
            "ratio": "",
            "bar": "<= 100 MB",
        },
    ]


async def suspend(connection: SqliteConnection, count: int) -> None:
    """Write suspended tasks, each with the promise it awaits, as task.suspend would have left them."""
    columns = "id, state, tags, target, timer, external, head, timeout_at, created_at"
    promise = f"INSERT INTO promises ({columns}) VALUES (?, 'pending', '{{}}', ?, 0, 1, ?, {FAR}, 1)"  # noqa: S608
    task = "INSERT INTO tasks (id, state, version, target) VALUES (?, 'suspended', 1, 'poll://any@bench')"
    for batch in itertools.batched(range(count), 10_000):

        def write(db: Any, _now: int, _messages: Any, batch: tuple[int, ...] = batch) -> None:
            db.executemany(promise, [(f"w{n}", "poll://any@bench", 1) for n in batch])
            db.executemany(promise, [(f"w{n}:x", None, 0) for n in batch])
            db.executemany(task, [(f"w{n}",) for n in batch])
            db.executemany("INSERT INTO callbacks VALUES (?, ?)", [(f"w{n}:x", f"w{n}") for n in batch])

        await connection._committer.write(write)  # noqa: SLF001 - no reply is worth 100,000 of them


def resident() -> int:
    """Return the bytes of memory this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
