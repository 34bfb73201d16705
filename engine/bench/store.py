"""The embedded store: what each action costs beside the commit it cannot do without, with company, and as it fills."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from resonate.connections.local import LocalConnection

from ..store import SqliteConnection
from .peers import dbos_step_times
from .yardstick import RECORD_BYTES, USED, Commits, Rows, fresh, row

__all__ = ["bench_store"]

#: Times each action is measured.
COUNT = 200
#: Commits beside each measurement.
BESIDE = 100
#: Requests of all clients together.
REQUESTS = 2_000
#: Promises in the file; an action must cost the same in each.
SIZES = (1_000, 10_000, 100_000, 1_000_000)
#: Tasks that wait, each for a promise of its own.
SUSPENDED = 100_000

_FAR = 2**53
_DATA = "x" * (RECORD_BYTES // 2)
_SMALL = "x" * 20  # what fills the file: its indexes are as large as with more, and it is written in a bearable time
_COMMIT = "one durable SQLite commit"

type Ask = Callable[..., Awaitable[Any]]


def asker(network: Any) -> Ask:
    """Return what asks a connection for one action, by its protocol, and insists on a yes."""

    async def ask(kind: str, **data: Any) -> Any:
        request = {"kind": kind, "head": {"corrId": "c", "version": "2026-04-01"}, "data": data}
        answer = json.loads(await network.send(json.dumps(request)))
        if answer["head"]["status"] >= 400:  # noqa: PLR2004 - the protocol's own number
            msg = f"{kind}: {answer}"
            raise RuntimeError(msg)
        return answer["data"]

    return ask


async def bench_store(folder: Path) -> Rows:
    """Measure latency, throughput, growth and waiting tasks, beside the SDK's in-memory server and DBOS."""
    rows: Rows = []
    commits = Commits(fresh(folder, "commits"))
    for part in (_actions, _clients, _sizes, _waiting):
        rows += await part(folder, lambda: median(commits.times(BESIDE)))
    commit = median(commits.times(BESIDE))
    commits.close()
    steps = dbos_step_times(fresh(folder, "dbos"))
    own = next(line for line in rows if line["what"].startswith("task.fence create"))
    if steps is None:
        rows.append({**row("a DBOS step on SQLite", 0.0, _COMMIT, commit, "not installed"), "ms": "", "ratio": ""})
    else:
        step = median(steps)
        rows.append(row("task.fence create", own["ms"] / 1000, "a DBOS step on SQLite", step, "< 1"))
    return rows


async def timed(count: int, what: Callable[[int], Awaitable[Any]]) -> list[float]:
    """Return the seconds of each of so many calls, one after another."""
    times = []
    for n in range(count):
        began = time.perf_counter()
        await what(n)
        times.append(time.perf_counter() - began)
    return times


# -- each action alone --------------------------------------------------------------------


async def _actions(folder: Path, commit: Callable[[], float]) -> Rows:
    rows: Rows = []
    async with SqliteConnection(fresh(folder, "actions") / "store.db", group="bench") as connection:
        await _used(connection)
        async for name, times in _each(asker(connection)):
            bar = "" if "get" in name else "<= 1.5"
            rows.append(row(f"{name}, p50", median(times), _COMMIT, commit(), bar))
    memory = LocalConnection(pid="bench", group="bench")
    try:
        local = await _fences(asker(memory), 1)
    finally:
        await memory.stop()
    rows.append(row("LocalConnection (not durable): task.fence create", median(local), _COMMIT, commit(), ""))
    return rows


async def _used(connection: SqliteConnection) -> None:
    """Bring a new file to where the yardstick is."""
    ask = asker(connection)
    await timed(USED, lambda n: ask("promise.create", id=f"used-{n}", timeoutAt=_FAR, param={"data": _DATA}))


async def _each(ask: Ask) -> AsyncIterator[tuple[str, list[float]]]:
    """Time every action that a durable call, a suspension or a client makes."""
    far = {"timeoutAt": _FAR, "param": {"data": _DATA}}
    target = {"tags": {"resonate:target": "poll://any@nobody"}}
    external = {"tags": {"resonate:external": "true"}}
    value = {"data": _DATA}
    yield "promise.create", await timed(COUNT, lambda n: ask("promise.create", id=f"p{n}", **far))
    yield "promise.get", await timed(COUNT, lambda n: ask("promise.get", id=f"p{n}"))
    yield (
        "promise.settle",
        await timed(COUNT, lambda n: ask("promise.settle", id=f"p{n}", state="resolved", value=value)),
    )
    yield "promise.create with a task", await timed(COUNT, lambda n: ask("promise.create", id=f"t{n}", **far, **target))
    lease = {"pid": "bench", "ttl": 10**9}
    yield "task.acquire", await timed(COUNT, lambda n: ask("task.acquire", id=f"t{n}", version=0, **lease))
    version = (await ask("task.get", id="t0"))["task"]["version"]
    async for name, times in _held(ask, version, {**far, **external}, value):
        yield name, times


async def _held(
    ask: Ask, version: int, far: dict[str, Any], value: dict[str, str]
) -> AsyncIterator[tuple[str, list[float]]]:
    def action(kind: str, **data: Any) -> dict[str, Any]:
        return {"kind": kind, "head": {}, "data": data}

    yield (
        "task.fence create",
        await timed(
            COUNT,
            lambda n: ask(
                "task.fence", id=f"t{n}", version=version, action=action("promise.create", id=f"t{n}:a", **far)
            ),
        ),
    )
    yield (
        "task.fence settle",
        await timed(
            COUNT,
            lambda n: ask(
                "task.fence",
                id=f"t{n}",
                version=version,
                action=action("promise.settle", id=f"t{n}:a", state="resolved", value=value),
            ),
        ),
    )
    yield (
        "task.heartbeat",
        await timed(COUNT, lambda n: ask("task.heartbeat", pid="bench", tasks=[{"id": f"t{n}", "version": version}])),
    )
    for n in range(COUNT):
        await ask("promise.create", id=f"t{n}:b", **far)
    yield (
        "task.suspend",
        await timed(
            COUNT,
            lambda n: ask(
                "task.suspend",
                id=f"t{n}",
                version=version,
                actions=[action("promise.register_callback", awaited=f"t{n}:b", awaiter=f"t{n}")],
            ),
        ),
    )
    yield (
        "promise.settle that wakes a task",
        await timed(COUNT, lambda n: ask("promise.settle", id=f"t{n}:b", state="resolved", value=value)),
    )
    for n in range(COUNT):
        await ask("task.acquire", id=f"t{n}", version=version, pid="bench", ttl=10**9)
    yield (
        "task.fulfill",
        await timed(
            COUNT,
            lambda n: ask(
                "task.fulfill",
                id=f"t{n}",
                version=version + 1,
                action=action("promise.settle", id=f"t{n}", state="resolved", value=value),
            ),
        ),
    )


async def _fences(ask: Ask, clients: int) -> list[float]:
    """Time fences of so many clients at once, each under a task of its own; their share of the whole time."""
    version = 0
    for client in range(clients):
        tags = {"resonate:target": "poll://any@nobody"}
        create = {"id": f"f{clients}-{client}", "timeoutAt": _FAR, "param": {}, "tags": tags}
        action = {"kind": "promise.create", "head": {}, "data": create}
        version = (await ask("task.create", pid="bench", ttl=10**9, action=action))["task"]["version"]

    async def work(client: int) -> None:
        task = f"f{clients}-{client}"
        for n in range(REQUESTS // clients):
            create = {"id": f"{task}:{n}", "timeoutAt": _FAR, "param": {"data": _DATA}, "tags": {}}
            action = {"kind": "promise.create", "head": {}, "data": create}
            await ask("task.fence", id=task, version=version, action=action)

    began = time.perf_counter()
    await asyncio.gather(*map(work, range(clients)))
    return [(time.perf_counter() - began) / (REQUESTS // clients * clients)]


# -- in company, as the file fills, and while many wait -------------------------------------


async def _clients(folder: Path, commit: Callable[[], float]) -> Rows:
    rows: Rows = []
    async with SqliteConnection(fresh(folder, "clients") / "store.db", group="bench") as connection:
        await _used(connection)
        for clients, bar in ((1, "<= 1.5"), (8, "<= 0.5"), (64, "<= 0.3")):
            each = median(await _fences(asker(connection), clients))
            rows.append(row(f"a durable create, {clients} clients at once", each, _COMMIT, commit(), bar))
    return rows


async def _sizes(folder: Path, commit: Callable[[], float]) -> Rows:
    """Time a create, a get and a settle in files that hold more and more settled promises."""
    rows: Rows = []
    first: dict[str, float] = {}
    async with SqliteConnection(fresh(folder, "sizes") / "store.db", group="bench") as connection:
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
                    rows.append(row(what, here, _COMMIT, commit(), "flat"))
    return rows


async def _among(ask: Ask, size: int) -> dict[str, list[float]]:
    async def create(n: int) -> None:
        await ask("promise.create", id=f"n{n * 7919 % COUNT}-{size}", timeoutAt=_FAR, param={"data": _DATA})

    async def get(n: int) -> None:
        await ask("promise.get", id=f"r{n * 7919 % size // 10}:{n * 7919 % 10}")

    async def settle(n: int) -> None:
        await ask("promise.settle", id=f"n{n}-{size}", state="resolved", value={"data": _DATA})

    return {name: await timed(COUNT, what) for name, what in (("create", create), ("get", get), ("settle", settle))}


async def fill(connection: SqliteConnection, start: int, stop: int) -> None:
    """Write settled promises in trees of ten, as their creation and settlement would have left them."""
    columns = "id, state, param_data, value_data, tags, timer, external, head, timeout_at, created_at, settled_at"
    sql = f"INSERT INTO promises ({columns}) VALUES (?, 'resolved', ?, ?, '{{}}', 0, 0, ?, {_FAR}, 1, 2)"  # noqa: S608
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
            await ask("promise.settle", id=f"w{n * (SUSPENDED // COUNT)}:x", state="resolved", value={"data": _DATA})
            times.append(await told.get() - began)
        memory = resident() - before
    return [
        row(f"waking one of {SUSPENDED:,} suspended tasks, p50", median(times), _COMMIT, commit(), "<= 20 ms"),
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
    promise = f"INSERT INTO promises ({columns}) VALUES (?, 'pending', '{{}}', ?, 0, 1, ?, {_FAR}, 1)"  # noqa: S608
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
