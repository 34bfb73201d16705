"""Rows of promises and tasks, and what follows when a promise settles.

A pending promise past its timeout reads as settled from that moment on, whether or not anything has
written so yet: every read goes through `Promise.seen`, which is where that rule lives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Raw

from . import delivery
from .wire import PromiseRecord, PromiseState, TaskRecord, TaskState, Value, json_object, json_text

if TYPE_CHECKING:
    from .database import Database
    from .delivery import Messages
    from .wire import PromiseCreate, SettleState

RETRY: Final = 5_000  # ms until an offered task nobody acquired is offered again; the reference's number
ORIGIN_SEPARATOR: Final = ":"
LINEAGE_SEPARATORS: Final = (":", ".")

PROMISE: Final = (
    "id, state, param_headers, param_data, value_headers, value_data, tags, target, timer, external,"
    " timeout_at, created_at, settled_at"
)
TASK: Final = "id, state, version, target, ttl, pid, member"

_INSERT: Final = (
    f"INSERT INTO promises ({PROMISE}, head) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING"
)


def origin_of(promise_id: str) -> str:
    """The root of an id's tree: what stands before its first colon."""
    return promise_id.split(ORIGIN_SEPARATOR, 1)[0]


class Promise(NamedTuple):
    """A row of `promises`."""

    id: str
    state: PromiseState
    param_headers: str | None
    param_data: str | None
    value_headers: str | None
    value_data: str | None
    tags: str
    target: str | None
    timer: int
    external: int
    timeout_at: int
    created_at: int
    settled_at: int | None

    def open(self, now: int) -> bool:
        """Whether it can still be settled."""
        return self.state == "pending" and self.timeout_at > now

    def seen(self, now: int) -> PromiseRecord:
        """The promise as anybody may see it at `now`."""
        state, settled_at = self.state, self.settled_at
        if state == "pending" and self.timeout_at <= now:
            state, settled_at = timed_out(self.timer), self.timeout_at
        return PromiseRecord(
            self.id,
            state,
            value_of(self.param_headers, self.param_data),
            value_of(self.value_headers, self.value_data),
            Raw(self.tags.encode()),
            self.timeout_at,
            self.created_at,
            settled_at,
        )


class Task(NamedTuple):
    """A row of `tasks`."""

    id: str
    state: TaskState
    version: int
    target: str
    ttl: int | None
    pid: str | None
    member: int | None

    def seen(self, resumes: int = 0) -> TaskRecord:
        """The task as replies carry it."""
        return TaskRecord(self.id, self.state, self.version, resumes, self.ttl, self.pid)


def timed_out(timer: int) -> PromiseState:
    """What a promise becomes at its timeout."""
    return "resolved" if timer else "rejected_timedout"


def value_of(headers: str | None, data: str | None) -> Value:
    """A value from its two columns."""
    return Value(None if headers is None else json_object(headers), data)


def columns_of(value: Value | None) -> tuple[str | None, str | None]:
    """The two columns of a value."""
    if value is None:
        return None, None
    return (json_text(value.headers) if value.headers else None), value.data


def find_promise(db: Database, promise_id: str) -> Promise | None:
    """The row of one promise."""
    row = db.one(f"SELECT {PROMISE} FROM promises WHERE id = ?", (promise_id,))
    return None if row is None else Promise(*row)


def find_task(db: Database, task_id: str) -> Task | None:
    """The row of one task."""
    row = db.one(f"SELECT {TASK} FROM tasks WHERE id = ?", (task_id,))
    return None if row is None else Task(*row)


def is_head(db: Database, promise_id: str) -> bool:
    """Whether a new promise is the first of its tree: a root, or a child whose root is not here."""
    origin = origin_of(promise_id)
    return origin == promise_id or db.one("SELECT 1 FROM promises WHERE id = ?", (origin,)) is None


def insert_promise(
    db: Database, now: int, request: PromiseCreate, messages: Messages, *, root: str = ""
) -> Promise | None:
    """Write a new promise, already settled if its timeout has passed; None if there is one.

    Tasks are the caller's part. `root` is a promise known to be there, so that it need not be looked for.
    """
    tags = request.tags or {}
    timer = tags.get("resonate:timer") == "true"
    target = tags.get("resonate:target")
    external = target is not None or timer or tags.get("resonate:external") == "true"
    late = request.timeout_at <= now
    headers, data = columns_of(request.param)
    promise = Promise(
        request.id,
        timed_out(timer) if late else "pending",
        headers,
        data,
        None,
        None,
        json_text(tags),
        target,
        int(timer),
        int(external),
        request.timeout_at,
        request.timeout_at if late else now,
        request.timeout_at if late else None,
    )
    head = 0 if root and origin_of(request.id) == root else int(is_head(db, request.id))
    if not db.execute(_INSERT, (*promise, head)):
        return None
    if external and not late:
        messages.wake(promise.timeout_at)
    return promise


def offer(db: Database, now: int, task: Task, messages: Messages, *, avoid: int | None = None) -> None:
    """Make a task pending and address it to one member, or park it until one comes that can take it."""
    member = delivery.choose(db, task, avoid=avoid)
    db.execute(
        "UPDATE tasks SET state = 'pending', pid = NULL, ttl = NULL, member = ?, timeout_at = ? WHERE id = ?",
        (member, None if member is None else now + RETRY, task.id),
    )
    if member is not None:
        messages.execute(member, task.id, task.version)
        messages.wake(now + RETRY)


def insert_task(db: Database, now: int, promise: Promise, delay: int, messages: Messages) -> None:
    """Write the pending task of a new promise, offered now or when its delay is over."""
    if promise.target is None:
        return
    if promise.state != "pending":
        db.execute(
            "INSERT INTO tasks (id, state, version, target) VALUES (?, 'fulfilled', 0, ?)", (promise.id, promise.target)
        )
        return
    task = Task(promise.id, "pending", 0, promise.target, None, None, None)
    deferred = delay > now
    member = None if deferred else delivery.choose(db, task)
    timeout_at = delay if deferred else None if member is None else now + RETRY
    db.execute(
        "INSERT INTO tasks (id, state, version, target, member, timeout_at) VALUES (?, 'pending', 0, ?, ?, ?)",
        (promise.id, promise.target, member, timeout_at),
    )
    if timeout_at is not None:
        messages.wake(timeout_at)
    if member is not None:
        messages.execute(member, task.id, 0)


def settle(
    db: Database, now: int, promise: Promise, state: SettleState, value: Value | None, messages: Messages
) -> Promise:
    """Settle an open promise, and all that follows."""
    headers, data = columns_of(value)
    db.execute(
        "UPDATE promises SET state = ?, value_headers = ?, value_data = ?, settled_at = ? WHERE id = ?",
        (state, headers, data, now, promise.id),
    )
    settled = promise._replace(state=state, value_headers=headers, value_data=data, settled_at=now)
    cascade(db, now, settled, messages)
    return settled


def expire(db: Database, now: int, promise: Promise, messages: Messages) -> None:
    """Write down that an external promise has reached its timeout, and all that follows."""
    state = timed_out(promise.timer)
    db.execute(
        "UPDATE promises SET state = ?, settled_at = timeout_at WHERE id = ? AND state = 'pending'", (state, promise.id)
    )
    cascade(db, now, promise._replace(state=state, settled_at=promise.timeout_at), messages)


def cascade(db: Database, now: int, promise: Promise, messages: Messages) -> None:
    """What follows a settlement: its own task is done, its listeners are told, its awaiters resume."""
    if promise.target is not None:
        db.execute(
            "UPDATE tasks SET state = 'fulfilled', pid = NULL, ttl = NULL, member = NULL, timeout_at = NULL"
            " WHERE id = ?",
            (promise.id,),
        )
        db.execute("DELETE FROM resumes WHERE task_id = ?", (promise.id,))
        db.execute("DELETE FROM callbacks WHERE awaiter_id = ?", (promise.id,))
        messages.withdraw(promise.id)
    tell_listeners(db, now, promise, messages)
    if not promise.external:  # nobody can await it
        return
    awaiters = db.all("SELECT awaiter_id FROM callbacks WHERE awaited_id = ? ORDER BY awaiter_id", (promise.id,))
    if awaiters:
        db.execute("DELETE FROM callbacks WHERE awaited_id = ?", (promise.id,))
    for (awaiter,) in awaiters:
        resume(db, now, promise.id, awaiter, messages)


def tell_listeners(db: Database, now: int, promise: Promise, messages: Messages) -> None:
    """Send the settled promise to each of its listeners, once."""
    addresses = db.all("SELECT address FROM listeners WHERE awaited_id = ? ORDER BY address", (promise.id,))
    if not addresses:
        return
    db.execute("DELETE FROM listeners WHERE awaited_id = ?", (promise.id,))
    for (address,) in addresses:
        delivery.unblock(db, address, promise.seen(now), messages)


def resume(db: Database, now: int, awaited: str, awaiter: str, messages: Messages) -> None:
    """Note for a task that something it awaited has settled; a suspended one goes back to work."""
    task = find_task(db, awaiter)
    if task is None or task.state == "fulfilled":
        return
    if task.state == "suspended":
        db.execute("DELETE FROM resumes WHERE task_id = ?", (awaiter,))
        offer(db, now, task, messages)
    db.execute("INSERT OR IGNORE INTO resumes (task_id, awaited_id) VALUES (?, ?)", (awaiter, awaited))


def fetch(db: Database, now: int, address: str) -> list[PromiseRecord]:
    """Take from the outbox what waits for an address."""
    rows = db.all(
        f"SELECT {PROMISE} FROM promises WHERE id IN (SELECT promise_id FROM outbox WHERE address = ?)", (address,)
    )
    db.execute("DELETE FROM outbox WHERE address = ?", (address,))
    return [Promise(*row).seen(now) for row in rows]
