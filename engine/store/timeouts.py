"""What happens when time passes: promises expire, leases lapse, offers are repeated, schedules fire.

Nothing here looks at a clock and nothing polls: `nearest` says when to come back, from indexes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .promises import PROMISE, TASK, Promise, Task, expire, offer
from .schedules import fire_schedule

if TYPE_CHECKING:
    from .database import Database
    from .delivery import Messages

BATCH: Final = 500  # of each kind in one transaction, so that a request never waits long behind a burst of timeouts

#: A timer's task that would be offered this short before the timer resolves (ms) is not: whoever took it would find it
#: done. The SDK sleeps with such a task, one millisecond before the end.
TOO_LATE: Final = 2

_DUE_PROMISES: Final = f"SELECT {PROMISE} FROM promises WHERE state = 'pending' AND external = 1"
_DUE_TASKS: Final = f"SELECT {TASK} FROM tasks WHERE state IN ('pending', 'acquired') AND timeout_at IS NOT NULL"
_RESOLVES: Final = "SELECT timeout_at FROM promises WHERE id = ? AND timer = 1 AND timeout_at > ? AND timeout_at <= ?"
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
        end = db.one(_RESOLVES, (task.id, now, now + TOO_LATE)) if task.state == "pending" else None
        if end is not None:
            db.execute("UPDATE tasks SET timeout_at = ? WHERE id = ?", (*end, task.id))
            continue
        # Whoever let a lease or an offer lapse is stopped, lost or busy: somebody else first, if there is anybody.
        offer(db, now, task, messages, avoid=task.member)
    for (schedule_id,) in db.all("SELECT id FROM schedules WHERE next_run_at <= ? ORDER BY next_run_at, id", (now,)):
        fire_schedule(db, now, schedule_id, messages)
