"""Searches: a page of what matches, in the order of ids, and a cursor that stays valid whatever changes meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from . import wire
from .database import Database
from .delivery import Messages
from .promises import PROMISE, Promise
from .wire import Reply, json_text

_SEEN_STATE: Final = (
    "CASE WHEN state <> 'pending' OR timeout_at > ? THEN state WHEN timer THEN 'resolved' ELSE 'rejected_timedout' END"
)


def tag_filter(column: str, tags: dict[str, str] | None, parameters: list[Any]) -> str:
    """The condition that a row carries all these tags."""
    if not tags:
        return ""
    parameters.append(json_text(tags))
    return f" AND NOT EXISTS (SELECT key, value FROM json_each(?) EXCEPT SELECT key, value FROM json_each({column}))"


def page(rows: list[Any], limit: int, identify: Callable[[Any], str]) -> tuple[list[Any], dict[str, str]]:
    """The rows of a page, and the cursor of the next if there is one."""
    kept = rows[:limit]
    return kept, ({"cursor": identify(kept[-1])} if len(rows) > limit else {})


def promise_search(db: Database, now: int, request: wire.PromiseSearch, _messages: Messages) -> Reply:
    parameters: list[Any] = [request.cursor or ""]
    condition = "id > ?"
    if request.state is not None:
        condition += f" AND {_SEEN_STATE} = ?"
        parameters += [now, request.state]
    condition += tag_filter("tags", request.tags, parameters)
    rows = db.all(
        f"SELECT {PROMISE} FROM promises WHERE {condition} ORDER BY id LIMIT ?", (*parameters, request.limit + 1)
    )
    kept, cursor = page([Promise(*row) for row in rows], request.limit, lambda promise: promise.id)
    return Reply(200, {"promises": [promise.seen(now) for promise in kept], **cursor})


def task_search(db: Database, now: int, request: wire.TaskSearch, _messages: Messages) -> Reply:
    parameters: list[Any] = [now, request.cursor or ""]
    condition = "id > ?"
    if request.state is not None:
        condition += " AND seen = ?"
        parameters.append(request.state)
    rows = db.all(
        "SELECT id, seen, version, ttl, pid, resumes FROM (SELECT t.id, t.version, t.ttl, t.pid,"
        " CASE WHEN p.state = 'pending' AND p.timeout_at > ? THEN t.state ELSE 'fulfilled' END AS seen,"
        " (SELECT count(*) FROM resumes r WHERE r.task_id = t.id) AS resumes"
        f" FROM tasks t JOIN promises p ON p.id = t.id) WHERE {condition} ORDER BY id LIMIT ?",
        (*parameters, request.limit + 1),
    )
    kept, cursor = page(rows, request.limit, lambda row: str(row[0]))
    tasks = [
        wire.TaskRecord(task_id, seen, version, resumes, ttl, pid) for task_id, seen, version, ttl, pid, resumes in kept
    ]
    return Reply(200, {"tasks": tasks, **cursor})
