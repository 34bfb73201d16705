"""The protocol's actions on tasks.

Only acquiring raises a task's version, so whoever acts under an older one is refused.
"""

from __future__ import annotations

from typing import Any, Final

from . import wire
from .database import Database
from .delivery import Messages
from .promise_actions import create, promise_settle, refuse_create
from .promises import (
    PROMISE,
    TASK,
    Promise,
    Task,
    find_promise,
    find_task,
    insert_promise,
    offer,
    origin_of,
    settle,
)
from .wire import Reply, TaskState, bad, conflict, missing, unprocessable

PRELOAD_LIMIT: Final = 100  # promises a reply carries beside its own; a reply's cost must not follow the tree's size


def count_resumes(db: Database, task_id: str) -> int:
    return int(db.one("SELECT count(*) FROM resumes WHERE task_id = ?", (task_id,))[0])


def task_get(db: Database, now: int, request: wire.TaskGet, _messages: Messages) -> Reply:
    task, promise = find_task(db, request.id), find_promise(db, request.id)
    if task is None or promise is None:
        return missing("task")
    if promise.open(now):
        return Reply(200, {"task": task.seen(count_resumes(db, task.id))})
    return Reply(200, {"task": task._replace(state="fulfilled", ttl=None, pid=None).seen()})


def preload(db: Database, now: int, task_id: str) -> list[Any]:
    """What settled since the task was last acquired, so that going on costs by what was answered."""
    rows = db.all(
        f"SELECT {PROMISE} FROM promises WHERE id IN"
        " (SELECT awaited_id FROM resumes WHERE task_id = ? LIMIT ?) ORDER BY id",
        (task_id, PRELOAD_LIMIT),
    )
    return [Promise(*row).seen(now) for row in rows]


def acquire(
    db: Database, now: int, task: Task, promise: Promise, lease: wire.TaskAcquire | wire.TaskCreate, messages: Messages
) -> Reply:
    """Give a pending task to a process, under a version nobody had before."""
    settled = preload(db, now, task.id)
    db.execute("DELETE FROM resumes WHERE task_id = ?", (task.id,))
    db.execute(
        "UPDATE tasks SET state = 'acquired', version = version + 1, ttl = ?, pid = ?, member = ?, timeout_at = ?"
        " WHERE id = ?",
        (lease.ttl, lease.pid, db.member, later(now, lease.ttl), task.id),
    )
    messages.wake(later(now, lease.ttl))
    acquired = task._replace(state="acquired", version=task.version + 1, ttl=lease.ttl, pid=lease.pid)
    return Reply(200, {"task": acquired.seen(), "promise": promise.seen(now), "preload": settled})


def later(now: int, ttl: int) -> int:
    """A deadline; SQLite's integers end where a lease of 292 million years does."""
    return min(now + ttl, 2**63 - 1)


def task_create(db: Database, now: int, request: wire.TaskCreate, messages: Messages) -> Reply:
    create = request.action.data
    tags = create.tags or {}
    refusal = refuse_create(create)
    if refusal is None and "resonate:target" not in tags:
        refusal = "a task needs a resonate:target"
    if refusal is None and "resonate:delay" in tags:
        refusal = "a task that is created acquired cannot have a resonate:delay"
    if refusal is not None:
        return bad(refusal)
    promise = find_promise(db, create.id)
    if promise is None:
        return create_acquired(db, now, request, messages)
    if promise.target is None:
        return unprocessable(f"{promise.id} has no target")
    task = find_task(db, promise.id)
    if task is None:
        return conflict(f"{promise.id} exists without a task")
    if task.state == "fulfilled" or not promise.open(now):
        done = task._replace(state="fulfilled", ttl=None, pid=None)
        return Reply(200, {"task": done.seen(), "promise": promise.seen(now), "preload": []})
    if task.state == "pending":
        return acquire(db, now, task, promise, request, messages)
    return conflict(f"{promise.id} exists")


def create_acquired(db: Database, now: int, request: wire.TaskCreate, messages: Messages) -> Reply:
    """A new promise whose task its creator holds from the start."""
    promise = insert_promise(db, now, request.action.data, messages)
    assert promise is not None  # noqa: S101 - the caller has looked
    target = promise.target or ""
    if promise.state == "pending":
        task = Task(promise.id, "acquired", 1, target, request.ttl, request.pid, db.member)
        deadline = later(now, request.ttl)
        messages.wake(deadline)
    else:
        task = Task(promise.id, "fulfilled", 0, target, None, None, None)
        deadline = None
    db.execute(f"INSERT INTO tasks ({TASK}, timeout_at) VALUES (?,?,?,?,?,?,?,?)", (*task, deadline))
    return Reply(200, {"task": task.seen(), "promise": promise.seen(now), "preload": []})


def held(db: Database, now: int, task_id: str, version: int) -> tuple[Task, Promise] | Reply:
    """The task and promise of a request that only the holder of the lease may make, or the refusal."""
    task = find_task(db, task_id)
    if task is None:
        return missing("task")
    promise = find_promise(db, task_id)
    if promise is None:
        return conflict("the task's promise is gone")
    refusal = refuse_holder(task.state, task.version, version, opened=promise.open(now))
    return (task, promise) if refusal is None else refusal


def refuse_holder(state: TaskState, held_version: int, version: int, *, opened: bool) -> Reply | None:
    """Why somebody may not act for a task under a version, if so."""
    if state != "acquired":
        return conflict(f"the task is {state}")
    if not opened:
        return conflict("the task's promise has settled")
    if held_version != version:
        return conflict(f"the task is held under version {held_version}")
    return None


def task_acquire(db: Database, now: int, request: wire.TaskAcquire, messages: Messages) -> Reply:
    task = find_task(db, request.id)
    if task is None:
        return missing("task")
    promise = find_promise(db, request.id)
    if promise is None:
        return conflict("the task's promise is gone")
    if task.state != "pending":
        return conflict(f"the task is {task.state}")
    if not promise.open(now):
        return conflict("the task's promise has settled")
    if task.version != request.version:
        return conflict(f"the task has version {task.version}")
    return acquire(db, now, task, promise, request, messages)


def task_fence(db: Database, now: int, request: wire.TaskFence, messages: Messages) -> Reply:
    inner: wire.PromiseCreate | wire.PromiseSettle
    if request.action.kind == "promise.create":
        inner = wire.read_data(request.action.data, wire.PromiseCreate)
    else:
        inner = wire.read_data(request.action.data, wire.PromiseSettle)
    reply = fence(db, now, request.id, request.version, inner, messages)
    if reply.status != 200:  # noqa: PLR2004 - the protocol's own number
        return reply
    return Reply(
        200, {"action": {"kind": request.action.kind, "head": {"status": 200}, "data": reply.data}, "preload": []}
    )


_HOLDER: Final = (
    "SELECT t.state, t.version, p.state = 'pending' AND p.timeout_at > ?"
    " FROM tasks t LEFT JOIN promises p ON p.id = t.id WHERE t.id = ?"
)


def fence(
    db: Database,
    now: int,
    task_id: str,
    version: int,
    inner: wire.PromiseCreate | wire.PromiseSettle,
    messages: Messages,
) -> Reply:
    """Create or settle a promise if a task is held under a version; every durable call goes through here."""
    if inner.id == task_id:
        return bad("a task cannot fence its own promise; fulfill it")
    malformed = refuse_create(inner) if isinstance(inner, wire.PromiseCreate) else None
    if malformed is not None:
        return bad(malformed)
    holder = db.one(_HOLDER, (now, task_id))
    if holder is None:
        return missing("task")
    state, held_version, opened = holder
    if opened is None:
        return conflict("the task's promise is gone")
    refusal = refuse_holder(state, held_version, version, opened=bool(opened))
    if refusal is not None:
        return refusal
    if isinstance(inner, wire.PromiseSettle):
        return promise_settle(db, now, inner, messages)
    return Reply(200, {"promise": create(db, now, inner, messages, root=task_id).seen(now)})


def task_heartbeat(db: Database, now: int, request: wire.TaskHeartbeat, _messages: Messages) -> Reply:
    for held_task in request.tasks:
        db.execute(
            "UPDATE tasks SET timeout_at = min(? + ttl, 9223372036854775807)"
            " WHERE id = ? AND state = 'acquired' AND version = ? AND pid = ?"
            " AND EXISTS (SELECT 1 FROM promises p WHERE p.id = tasks.id AND p.state = 'pending' AND p.timeout_at > ?)",
            (now, held_task.id, held_task.version, request.pid, now),
        )
    return Reply(200, {})


def rest(db: Database, task: Task, state: TaskState) -> None:
    """Take a task out of everybody's hands, with no deadline."""
    db.execute("UPDATE tasks SET state = ?, pid = NULL, ttl = NULL, timeout_at = NULL WHERE id = ?", (state, task.id))


def refuse_suspend(request: wire.TaskSuspend) -> str | None:
    """What is malformed about a suspension."""
    origin = origin_of(request.id)
    seen: set[str] = set()
    for action in request.actions:
        awaited = action.data.awaited
        if awaited == request.id:
            return "a task cannot await its own promise"
        if action.data.awaiter != request.id:
            return "every awaiter must be the task itself"
        if origin_of(awaited) != origin:
            return "awaiter and awaited must have the same origin"
        if awaited in seen:
            return f"{awaited} is awaited twice"
        seen.add(awaited)
    return None


_AWAITED: Final = (
    "SELECT a.value, p.external, p.state <> 'pending' OR p.timeout_at <= ?,"
    " EXISTS (SELECT 1 FROM callbacks c WHERE c.awaited_id = a.value AND c.awaiter_id = ?)"
    " FROM json_each(?) a LEFT JOIN promises p ON p.id = a.value"
)


def task_suspend(db: Database, now: int, request: wire.TaskSuspend, _messages: Messages) -> Reply:
    refusal = refuse_suspend(request)
    if refusal is not None:
        return bad(refusal)
    guarded = held(db, now, request.id, request.version)
    if isinstance(guarded, Reply):
        return guarded
    task, _ = guarded
    awaited = wire.encode([action.data.awaited for action in request.actions])
    rows = db.all(_AWAITED, (now, task.id, awaited))
    for promise_id, external, _, _ in rows:
        if external is None:
            return unprocessable(f"awaited promise {promise_id} not found")
    for promise_id, external, _, _ in rows:
        if not external:
            return unprocessable(f"{promise_id} is internal and cannot be awaited")
    settled = [promise_id for promise_id, _, done, _ in rows if done]
    db.execute("DELETE FROM resumes WHERE task_id = ?", (task.id,))
    if settled:
        found = (find_promise(db, promise_id) for promise_id in settled[:PRELOAD_LIMIT])
        return Reply(300, {"preload": [promise.seen(now) for promise in found if promise is not None]})
    new = [(promise_id, task.id) for promise_id, _, _, registered in rows if not registered]
    db.executemany("INSERT INTO callbacks VALUES (?, ?)", new)
    rest(db, task, "suspended")
    return Reply(200, {"preload": []})


def task_fulfill(db: Database, now: int, request: wire.TaskFulfill, messages: Messages) -> Reply:
    action = request.action.data
    if action.id != request.id:
        return bad("a task fulfills its own promise only")
    guarded = held(db, now, request.id, request.version)
    if isinstance(guarded, Reply):
        return guarded
    _, promise = guarded
    return Reply(200, {"promise": settle(db, now, promise, action.state, action.value, messages).seen(now)})


def task_release(db: Database, now: int, request: wire.TaskRelease, messages: Messages) -> Reply:
    guarded = held(db, now, request.id, request.version)
    if isinstance(guarded, Reply):
        return guarded
    offer(db, now, guarded[0], messages)
    return Reply(200, {})


def task_halt(db: Database, _now: int, request: wire.TaskHalt, messages: Messages) -> Reply:
    task = find_task(db, request.id)
    if task is None:
        return missing("task")
    if task.state == "fulfilled":
        return conflict("the task is fulfilled")
    if task.state != "halted":
        rest(db, task, "halted")
        messages.withdraw(task.id)
    return Reply(200, {})


def task_continue(db: Database, now: int, request: wire.TaskContinue, messages: Messages) -> Reply:
    task = find_task(db, request.id)
    if task is None:
        return missing("task")
    if task.state != "halted":
        return conflict(f"the task is {task.state}")
    offer(db, now, task, messages)
    return Reply(200, {})
