"""Random histories through this store and through Resonate on Postgres, which is the judge.

Runs where `PERDURE_TEST_PG` names a database (a libpq connection string) into which `resonate.sql` was loaded.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from perdure.engine.store.cron import InvalidCron, next_run

from .conftest import Machine

POSTGRES = os.environ.get("PERDURE_TEST_PG", "")
ROOTS = ("a", "b")
IDS = ROOTS + tuple(f"{root}:{number}" for root in ROOTS for number in range(3))
ANY = {"resonate:target": "poll://any@g"}
KINDS: tuple[dict[str, str], ...] = ({}, ANY, {"resonate:external": "true"}, {"resonate:timer": "true"})
LISTENER = "poll://uni@g/p"


class Reference:
    """Resonate on Postgres, emptied for every history."""

    def __init__(self, conninfo: str) -> None:
        import psycopg

        self.connection = psycopg.connect(conninfo, autocommit=True)
        self.connection.execute("SET search_path TO resonate, public")
        self.connection.execute(
            "TRUNCATE promises, tasks, task_resumes, callbacks, listeners, schedules, outbox CASCADE"
        )

    def apply(self, now: int, kind: str, data: dict[str, Any]) -> tuple[int, Any]:
        head = {"corrId": "c", "version": "1", "resonate:debug_time": now}
        envelope = json.dumps({"kind": kind, "head": head, "data": data})
        row = self.connection.execute("SELECT resonate_rpc(%s::jsonb)", (envelope,)).fetchone()
        assert row is not None
        return row[0]["head"]["status"], row[0]["data"]

    def tick(self, now: int) -> None:
        self.connection.execute("SELECT process_timeouts(%s)", (now,))

    def messages(self) -> set[tuple[str, str]]:
        rows = self.connection.execute(
            "DELETE FROM outbox RETURNING kind, coalesce(task_id, promise->>'id')"
        ).fetchall()
        return set(rows)


def requests(chance: random.Random, now: int, version: dict[str, int]) -> tuple[str, dict[str, Any]]:
    """One request, sensible more often than not."""
    id, other = chance.choice(IDS), chance.choice(IDS)
    task = chance.choice(ROOTS) if chance.random() < 0.8 else id
    held = version.get(task, 0) + (0 if chance.random() < 0.9 else chance.choice((-1, 1)))
    held = max(held, 0)
    state = chance.choice(("resolved", "rejected", "rejected_canceled"))
    settle = {"id": id, "state": state, "value": {"data": "dg=="}}
    timeout = now + chance.choice((-5, 0, 700, 9_000, 10**9))
    tags = dict(chance.choice(KINDS))
    if "resonate:target" in tags and chance.random() < 0.2 and timeout > now + 800:
        tags["resonate:delay"] = str(now + 750)
    create = {"id": id, "timeoutAt": timeout, "param": {"data": "cA=="}, "tags": tags}
    own = {"id": task, "timeoutAt": now + 10**8, "param": {}, "tags": ANY}
    same = [child for child in IDS if child.startswith(task[0])]
    awaited = chance.sample(same, chance.randint(1, 3))
    actions = [{"kind": "promise.register_callback", "data": {"awaited": a, "awaiter": task}} for a in awaited]
    lease = {"pid": "p", "ttl": chance.choice((900, 50_000))}
    inner = chance.choice((("promise.create", create), ("promise.settle", settle)))
    finish = {"id": task, "state": state, "value": {"data": "Zg=="}}
    choices: list[tuple[float, str, dict[str, Any]]] = [
        (3, "promise.create", create),
        (1, "promise.get", {"id": id}),
        (2, "promise.settle", settle),
        (1, "promise.register_callback", {"awaited": chance.choice(same), "awaiter": task}),
        (1, "promise.register_listener", {"awaited": id, "address": LISTENER}),
        (1, "task.get", {"id": other}),
        (2, "task.create", {**lease, "action": {"kind": "promise.create", "data": own}}),
        (3, "task.acquire", {"id": task, "version": held, **lease}),
        (3, "task.fence", {"id": task, "version": held, "action": {"kind": inner[0], "data": inner[1]}}),
        (1, "task.heartbeat", {"pid": "p", "tasks": [{"id": task, "version": held}]}),
        (4, "task.suspend", {"id": task, "version": held, "actions": actions}),
        (0.4, "task.fulfill", {"id": task, "version": held, "action": {"kind": "promise.settle", "data": finish}}),
        (1, "task.release", {"id": task, "version": held}),
        (0.4, "task.halt", {"id": task}),
        (1, "task.continue", {"id": task}),
    ]
    weights = [choice[0] for choice in choices]
    _, kind, data = chance.choices(choices, weights)[0]
    return kind, data


def normal(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what is only spelling: absent, null and empty are one."""
    full = {key: normal(value) if isinstance(value, dict) else value for key, value in record.items()}
    return {key: value for key, value in full.items() if value not in (None, {}, 0, [])}


def differs(kind: str, data: dict[str, Any], ours: tuple[int, Any], theirs: tuple[int, Any]) -> bool:
    """Whether two answers differ in more than what is documented as deliberate."""
    if kind == "task.fence" and theirs[0] == 200:
        inner = theirs[1]["action"]["head"]["status"]
        if inner != 200:  # the SDK reads the outer status only, so here a refusal inside is one outside
            return bool(ours[0] != inner)
        theirs = (200, {"promise": theirs[1]["action"]["data"]["promise"]})
        ours = (ours[0], {"promise": ours[1]["action"]["data"]["promise"]}) if ours[0] == 200 else ours
    if ours[0] != theirs[0]:
        return True
    if ours[0] not in {200, 300}:
        return False
    keys = ("promise", "task")
    return normal({k: ours[1].get(k) for k in keys}) != normal({k: theirs[1].get(k) for k in keys})


def excused(kind: str, data: dict[str, Any], machine: Machine, now: int) -> bool:
    """Requests that the two answer differently on purpose."""
    if kind == "task.create":
        # A promise past its timeout whose task is still open: the server calls the task done, Postgres hands it out.
        row = machine.db.one("SELECT state, timeout_at FROM promises WHERE id = ?", (data["action"]["data"]["id"],))
        return row is not None and row[0] == "pending" and row[1] <= now
    return False


def history(path: Path, seed: int, length: int) -> int:
    machine, reference, chance = Machine(path), Reference(POSTGRES), random.Random(seed)
    machine.join()
    now, done = 1_000_000, 0
    for step in range(length):
        if chance.random() < 0.15:
            now += chance.choice((1, 600, 5_000, 60_000))
            machine.tick(now)
            reference.tick(now)
            what: Any = ("tick", now)
        else:
            versions = dict(machine.db.all("SELECT id, version FROM tasks"))
            kind, data = requests(chance, now, versions)
            if excused(kind, data, machine, now):
                continue
            ours, theirs = machine.apply(now, kind, **data), reference.apply(now, kind, data)
            what = (kind, data, ours, theirs)
            assert not differs(kind, data, ours, theirs), (seed, step, what)
            done += ours[0] == 200
        sent = {("execute", task) for task in machine.messages.executes}
        sent |= {("unblock", promise.id) for promise in machine.messages.unblocks}
        assert sent == reference.messages(), (seed, step, what)
    machine.close()
    reference.connection.close()
    return done


@pytest.mark.postgres
@pytest.mark.timeout(600)
def test_histories_end_as_they_do_on_postgres(tmp_path: Path) -> None:
    rounds = int(os.environ.get("PERDURE_HISTORIES", "40"))
    done = sum(history(tmp_path / f"{seed}.db", seed, 150) for seed in range(rounds))
    assert done > rounds * 30


def random_cron(chance: random.Random) -> str:
    def field(low: int, high: int) -> str:
        first = chance.randint(low, high)
        last = chance.randint(first, high)
        step = chance.randint(1, 20)
        return chance.choice(
            ("*", "*", str(first), f"{first}-{last}", f"*/{step}", f"{first}-{last}/{step}", f"{first},{last}")
        )

    return " ".join(field(low, high) for low, high in ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6)))


@pytest.mark.postgres
def test_schedules_fire_when_they_do_on_postgres() -> None:
    reference, chance = Reference(POSTGRES), random.Random(1)
    for _ in range(300):
        cron, after = random_cron(chance), chance.randint(0, 2**42)
        try:
            ours = next_run(cron, after)
        except InvalidCron:
            continue
        row = reference.connection.execute("SELECT _next_cron(%s, %s)", (cron, after)).fetchone()
        assert row == (ours,), (cron, after)
    reference.connection.close()
