"""Random histories through this store and a judge, with what they answer differently on purpose left out."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from .conftest import Machine
from .references import Postgres, Server

ROOTS = ("a", "b")
IDS = ROOTS + tuple(f"{root}:{number}" for root in ROOTS for number in range(3))
ANY = {"resonate:target": "poll://any@g"}
KINDS: tuple[dict[str, str], ...] = ({}, ANY, {"resonate:external": "true"}, {"resonate:timer": "true"})
LISTENER = "poll://uni@g/p"
NEVER = 10**9  # ms from now: longer than a history


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
    actions = [
        {"kind": "promise.register_callback", "head": {}, "data": {"awaited": a, "awaiter": task}} for a in awaited
    ]
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
        (2, "task.create", {**lease, "action": {"kind": "promise.create", "head": {}, "data": own}}),
        (3, "task.acquire", {"id": task, "version": held, **lease}),
        (3, "task.fence", {"id": task, "version": held, "action": {"kind": inner[0], "head": {}, "data": inner[1]}}),
        (1, "task.heartbeat", {"pid": "p", "tasks": [{"id": task, "version": held}]}),
        (4, "task.suspend", {"id": task, "version": held, "actions": actions}),
        (
            0.4,
            "task.fulfill",
            {"id": task, "version": held, "action": {"kind": "promise.settle", "head": {}, "data": finish}},
        ),
        (1, "task.release", {"id": task, "version": held}),
        (0.4, "task.halt", {"id": task}),
        (1, "task.continue", {"id": task}),
    ]
    weights = [choice[0] for choice in choices]
    _, kind, data = chance.choices(choices, weights)[0]
    return kind, data


def history(machine: Machine, judge: Postgres | Server, seed: int, length: int) -> int:
    """Play one history; how many of its requests were answered with yes."""
    chance = random.Random(seed)
    differ, held_against, excused = RULES[judge.name]
    machine.join()
    now, done = 1_000_000, 0
    for step in range(length):
        if chance.random() < 0.15:
            now += chance.choice((1, 600, 5_000, 60_000))
            machine.tick(now)
            judge.tick(now)
            what: Any = ("tick", now)
        else:
            versions = dict(machine.db.all("SELECT id, version FROM tasks"))
            kind, data = requests(chance, now, versions)
            if excused(kind, data, machine, now):
                continue
            ours, theirs = machine.apply(now, kind, **data), judge.apply(now, kind, **data)
            what = (kind, data, ours, theirs)
            assert not differ(kind, ours, theirs), (seed, step, what)
            done += ours[0] == 200
        held_against(machine, judge, now, (seed, step, what))
    return done


# -- answers --------------------------------------------------------------------------------


def normal(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what is only spelling: absent, null and empty are one."""
    full = {key: normal(value) if isinstance(value, dict) else value for key, value in record.items()}
    return {key: value for key, value in full.items() if value not in (None, {}, 0, [])}


def differs(kind: str, ours: tuple[int, Any], theirs: tuple[int, Any]) -> bool:
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


# -- what is held against Postgres ------------------------------------------------------------


def same_messages(machine: Machine, judge: Any, _now: int, what: Any) -> None:
    """What this store sends is what the judge has put in its outbox."""
    sent = {("execute", task) for task in machine.messages.executes}
    sent |= {("unblock", promise.id) for promise in machine.messages.unblocks}
    assert sent == judge.messages(), what


def unlike_postgres(kind: str, data: dict[str, Any], machine: Machine, now: int) -> bool:
    """Requests that Postgres answers differently on purpose."""
    if kind == "task.create":
        # A promise past its timeout whose task is still open: the server calls the task done, Postgres hands it out.
        row = machine.db.one("SELECT state, timeout_at FROM promises WHERE id = ?", (data["action"]["data"]["id"],))
        return row is not None and row[0] == "pending" and row[1] <= now
    return False


# -- what is held against a server --------------------------------------------------------------


def same_contents(machine: Machine, judge: Any, now: int, what: Any) -> None:
    """Promises, tasks with their deadlines, callbacks and listeners are the same in both."""
    theirs = judge.snapshot(now)
    promises = machine.apply(now, "promise.search", limit=1000)[1]["promises"]
    assert list(map(normal, promises)) == list(map(normal, theirs["promises"])), what
    tasks = machine.apply(now, "task.search", limit=1000)[1]["tasks"]
    assert list(map(normal, tasks)) == list(map(normal, theirs["tasks"])), what
    deadlines = machine.db.all("SELECT id, timeout_at FROM tasks WHERE timeout_at IS NOT NULL ORDER BY id")
    assert deadlines == [(task["id"], task["timeout"]) for task in theirs["taskTimeouts"]], what
    callbacks = machine.db.all("SELECT awaited_id, awaiter_id FROM callbacks ORDER BY 1, 2")
    assert callbacks == [(found["awaited"], found["awaiter"]) for found in theirs["callbacks"]], what
    listeners = machine.db.all("SELECT awaited_id, address FROM listeners ORDER BY 1, 2")
    assert listeners == [(found["id"], found["address"]) for found in theirs["listeners"]], what


def unlike_server(kind: str, data: dict[str, Any], machine: Machine, now: int) -> bool:
    """Requests that a server answers differently, where this store goes by Postgres."""

    def column(name: str, id: str) -> Any:
        row = machine.db.one(f"SELECT {name} FROM promises WHERE id = ?", (id,))  # noqa: S608 - names of ours
        return None if row is None else row[0]

    inner = data.get("action", {}).get("data", data)
    if kind.endswith(("create", "fence")) and "timeoutAt" in inner and "resonate:target" not in inner["tags"]:
        return bool(
            now < inner["timeoutAt"] < now + NEVER
        )  # it enforces no timeout but those of promises with a target
    awaited = [action["data"]["awaited"] for action in data.get("actions", [])] or [data.get("awaited", "")]
    if kind == "task.suspend" and any(column("external", id) == 0 for id in awaited):
        return True  # it lets internal promises be awaited
    if kind == "promise.register_callback":
        # The same; and it resumes a suspended task by what had settled before.
        return bool(column("external", awaited[0]) == 0 or column("state", awaited[0]) != "pending")
    return False


type Differ = Callable[[str, tuple[int, Any], tuple[int, Any]], bool]
type Held = Callable[[Machine, Any, int, Any], None]
type Excused = Callable[[str, dict[str, Any], Machine, int], bool]

RULES: dict[str, tuple[Differ, Held, Excused]] = {
    Postgres.name: (differs, same_messages, unlike_postgres),
    Server.name: (differs, same_contents, unlike_server),
}
