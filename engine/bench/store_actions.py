"""Every action of the protocol alone, beside one durable SQLite commit of a record's bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from ..store import SqliteConnection
from .yardstick import RECORD_BYTES, USED, Rows, fresh, row

__all__ = ["COMMIT", "DATA", "FAR", "Ask", "asker", "bench_actions", "timed", "used"]

#: Times each action is measured.
COUNT = 200

FAR = 2**53
DATA = "x" * (RECORD_BYTES // 2)
COMMIT = "one durable SQLite commit"
_RECORD = {"timeoutAt": FAR, "param": {"data": DATA}}
_TARGET = {"tags": {"resonate:target": "poll://any@nobody"}}
_LEASE = {"pid": "bench", "ttl": 10**9}
_SETTLED = {"state": "resolved", "value": {"data": DATA}}

type Ask = Callable[..., Awaitable[Any]]
type Data = Callable[[int], dict[str, Any]]


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


async def timed(count: int, what: Callable[[int], Awaitable[Any]]) -> list[float]:
    """Return the seconds of each of so many calls, one after another."""
    times = []
    for n in range(count):
        began = time.perf_counter()
        await what(n)
        times.append(time.perf_counter() - began)
    return times


async def used(connection: SqliteConnection) -> None:
    """Bring a new file to where the yardstick is."""
    ask = asker(connection)
    await timed(USED, lambda n: ask("promise.create", id=f"used-{n}", **_RECORD))


def inner(kind: str, **data: Any) -> dict[str, Any]:
    """Return an action that another one carries."""
    return {"kind": kind, "head": {}, "data": data}


def fenced(n: int, version: int, kind: str, **data: Any) -> dict[str, Any]:
    """Return what a holder of task ``t{n}`` says, with the action that it carries."""
    return {"id": f"t{n}", "version": version, "action": inner(kind, id=f"t{n}{data.pop('child', '')}", **data)}


_EXTERNAL = {"tags": {"resonate:external": "true"}}
_SCHEDULE = {
    "cron": "0 0 1 1 *",
    "promiseId": "{{.id}}-{{.timestamp}}",
    "promiseTimeout": 1,
    "promiseTags": _TARGET["tags"],
}


def awaits(n: int) -> dict[str, str]:
    """Return what task ``t{n}`` waits for."""
    return {"awaited": f"t{n}:b", "awaiter": f"t{n}"}


#: In this order, each on objects of its own: the kind, what is added to it in the row (None: no row), its request.
ACTIONS: tuple[tuple[str, str | None, Data], ...] = (
    ("promise.create", "", lambda n: {"id": f"p{n}", **_RECORD}),
    ("promise.get", "", lambda n: {"id": f"p{n}"}),
    ("promise.register_listener", "", lambda n: {"awaited": f"p{n}", "address": "poll://uni@g/p"}),
    ("promise.search", ", a page of 10", lambda n: {"limit": 10, "cursor": f"p{n}"}),
    ("promise.settle", "", lambda n: {"id": f"p{n}", **_SETTLED}),
    ("promise.create", " with a task", lambda n: {"id": f"o{n}", **_RECORD, **_TARGET}),
    ("task.create", "", lambda n: {**_LEASE, "action": inner("promise.create", id=f"t{n}", **_RECORD, **_TARGET)}),
    ("task.get", "", lambda n: {"id": f"t{n}"}),
    ("task.search", ", a page of 10", lambda n: {"limit": 10, "cursor": f"t{n}"}),
    ("task.heartbeat", "", lambda n: {"pid": "bench", "tasks": [{"id": f"t{n}", "version": 1}]}),
    ("task.fence", " create", lambda n: fenced(n, 1, "promise.create", child=":a", **_RECORD)),
    ("task.fence", " settle", lambda n: fenced(n, 1, "promise.settle", child=":a", **_SETTLED)),
    ("promise.create", None, lambda n: {"id": f"t{n}:b", **_RECORD, **_EXTERNAL}),
    ("promise.register_callback", "", awaits),
    ("task.suspend", "", lambda n: {"id": f"t{n}", "version": 1, "actions": [inner("", **awaits(n))]}),
    ("promise.settle", " that wakes a task", lambda n: {"id": f"t{n}:b", **_SETTLED}),
    ("task.acquire", "", lambda n: {"id": f"t{n}", "version": 1, **_LEASE}),
    ("task.release", "", lambda n: {"id": f"t{n}", "version": 2}),
    ("task.halt", "", lambda n: {"id": f"t{n}"}),
    ("task.continue", "", lambda n: {"id": f"t{n}"}),
    ("task.acquire", None, lambda n: {"id": f"t{n}", "version": 2, **_LEASE}),
    ("task.fulfill", "", lambda n: fenced(n, 3, "promise.settle", **_SETTLED)),
    ("schedule.create", "", lambda n: {"id": f"s{n}", **_SCHEDULE}),
    ("schedule.get", "", lambda n: {"id": f"s{n}"}),
    ("schedule.search", ", a page of 10", lambda n: {"limit": 10, "cursor": f"s{n}"}),
    ("schedule.delete", "", lambda n: {"id": f"s{n}"}),
)


async def bench_actions(folder: Path, commit: Callable[[], float]) -> Rows:
    """Time each action; those that only read are held against the yardstick too, and have no bar."""
    rows: Rows = []
    async with SqliteConnection(fresh(folder, "actions") / "store.db", group="bench") as connection:
        await used(connection)
        ask = asker(connection)
        for kind, form, data in ACTIONS:

            async def action(n: int, kind: str = kind, data: Data = data) -> None:
                await ask(kind, **data(n))

            times = await timed(COUNT, action)
            if form is not None:
                bar = "" if kind.endswith(("get", "search")) else "<= 2.2"
                rows.append(row(f"{kind}{form}, p50", median(times), COMMIT, commit(), bar))
    return rows
