"""What happens when time passes: promises expire, leases lapse, offers are repeated, schedules fire.

Nothing here looks at a clock and nothing polls: `nearest` says when to come back, from indexes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import wire
from .cron import next_run
from .promises import PROMISE, TASK, Promise, Task, expire, find_promise, insert_promise, insert_task, offer, origin_of

if TYPE_CHECKING:
    from .database import Database
    from .delivery import Messages

BATCH: Final = 500  # of each kind in one transaction, so that a request never waits long behind a burst of timeouts

_DUE_PROMISES: Final = f"SELECT {PROMISE} FROM promises WHERE state = 'pending' AND external = 1"
_DUE_TASKS: Final = f"SELECT {TASK} FROM tasks WHERE state IN ('pending', 'acquired') AND timeout_at IS NOT NULL"
_NEAREST: Final = (
    "SELECT min(timeout_at) FROM promises WHERE state = 'pending' AND external = 1",
    "SELECT min(timeout_at) FROM tasks WHERE state IN ('pending', 'acquired') AND timeout_at IS NOT NULL",
    "SELECT min(next_run_at) FROM schedules",
)


def nearest(db: Database) -> int | None:
    """When the next thing is due, or None."""
    found = [row[0] for row in map(db.one, _NEAREST) if row[0] is not None]
    return min(found, default=None)


def fire(db: Database, now: int, messages: Messages) -> None:
    """Do what is due, a bounded amount of it; what is left is due still."""
    for row in db.all(f"{_DUE_PROMISES} AND timeout_at <= ? ORDER BY timeout_at, id LIMIT ?", (now, BATCH)):
        expire(db, now, Promise(*row), messages)
    for row in db.all(f"{_DUE_TASKS} AND timeout_at <= ? ORDER BY timeout_at, id LIMIT ?", (now, BATCH)):
        task = Task(*row)
        # Whoever let a lease or an offer lapse is stopped, lost or busy: somebody else first, if there is anybody.
        offer(db, now, task, messages, avoid=task.member)
    for (schedule_id,) in db.all("SELECT id FROM schedules WHERE next_run_at <= ? ORDER BY next_run_at, id", (now,)):
        fire_schedule(db, now, schedule_id, messages)


def fire_schedule(db: Database, now: int, schedule_id: str, messages: Messages) -> None:
    """Create the promise of a schedule's next time; a missed time is made up for, one after the other."""
    row = db.one(
        "SELECT cron, promise_id, promise_timeout, param_headers, param_data, tags, next_run_at FROM schedules WHERE id = ?",
        (schedule_id,),
    )
    cron, template, timeout, headers, data, tags, time = row
    promise_id = template.replace("{{.timestamp}}", str(time)).replace("{{.id}}", schedule_id)
    if find_promise(db, promise_id) is None:
        lineage = dict.fromkeys(("resonate:branch", "resonate:parent"), promise_id)
        defaults = {"resonate:schedule": schedule_id, "resonate:origin": origin_of(promise_id), **lineage}
        param = wire.Value(None if headers is None else wire.json_object(headers), data)
        request = wire.PromiseCreate(promise_id, time + timeout, param, defaults | wire.json_object(tags))
        promise = insert_promise(db, time if request.timeout_at > now else now, request)
        insert_task(db, now, promise, 0, messages)
    db.execute(
        "UPDATE schedules SET last_run_at = ?, next_run_at = ? WHERE id = ?", (time, next_run(cron, time), schedule_id)
    )
