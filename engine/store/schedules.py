"""Schedules: the protocol's four actions on them, and what one does when its time comes."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Raw

from . import wire
from .cron import InvalidCron, next_run
from .database import Database
from .delivery import UNDELIVERABLE, Messages, deliverable
from .promises import ORIGIN_SEPARATOR, columns_of, find_promise, insert_promise, insert_task, origin_of, value_of
from .search import page, tag_filter
from .wire import Reply, ScheduleRecord, bad, json_text, missing

SCHEDULE: Final = (
    "id, cron, promise_id, promise_timeout, param_headers, param_data, tags, created_at, next_run_at, last_run_at"
)


def schedule_record(row: Any) -> ScheduleRecord:
    schedule_id, cron, promise_id, timeout, headers, data, tags, created_at, next_run_at, last_run_at = row
    return ScheduleRecord(
        schedule_id,
        cron,
        promise_id,
        timeout,
        value_of(headers, data),
        Raw(tags.encode()),
        created_at,
        next_run_at,
        last_run_at,
    )


def find_schedule(db: Database, schedule_id: str) -> ScheduleRecord | None:
    row = db.one(f"SELECT {SCHEDULE} FROM schedules WHERE id = ?", (schedule_id,))
    return None if row is None else schedule_record(row)


def schedule_get(db: Database, _now: int, request: wire.ScheduleGet, _messages: Messages) -> Reply:
    found = find_schedule(db, request.id)
    return missing("schedule") if found is None else Reply(200, {"schedule": found})


def schedule_create(db: Database, now: int, request: wire.ScheduleCreate, messages: Messages) -> Reply:
    if ORIGIN_SEPARATOR in request.id:
        return bad(f"a schedule's id must not contain {ORIGIN_SEPARATOR!r}")
    target = request.promise_tags.get("resonate:target")
    if target is None:
        return bad("promiseTags must include a resonate:target tag")
    if not deliverable(target):
        return bad(UNDELIVERABLE)
    found = find_schedule(db, request.id)
    if found is not None:
        return Reply(200, {"schedule": found})
    try:
        next_run_at = next_run(request.cron, now)
    except InvalidCron as error:
        return bad(str(error))
    headers, data = columns_of(request.promise_param)
    row = (
        request.id, request.cron, request.promise_id, request.promise_timeout, headers, data,
        json_text(request.promise_tags), now, next_run_at, None,
    )  # fmt: skip
    db.execute(f"INSERT INTO schedules ({SCHEDULE}) VALUES (?,?,?,?,?,?,?,?,?,?)", row)
    messages.wake(next_run_at)
    return Reply(200, {"schedule": schedule_record(row)})


def schedule_delete(db: Database, _now: int, request: wire.ScheduleDelete, _messages: Messages) -> Reply:
    gone = db.execute("DELETE FROM schedules WHERE id = ?", (request.id,))
    return Reply(200, {}) if gone else missing("schedule")


def schedule_search(db: Database, _now: int, request: wire.ScheduleSearch, _messages: Messages) -> Reply:
    parameters: list[Any] = [request.cursor or ""]
    condition = "id > ?" + tag_filter("tags", request.tags, parameters)
    rows = db.all(
        f"SELECT {SCHEDULE} FROM schedules WHERE {condition} ORDER BY id LIMIT ?", (*parameters, request.limit + 1)
    )
    kept, cursor = page(rows, request.limit, lambda row: str(row[0]))
    return Reply(200, {"schedules": [schedule_record(row) for row in kept], **cursor})


def fire_schedule(db: Database, now: int, schedule_id: str, messages: Messages) -> None:
    """Create the promise of a schedule's next time; a missed time is made up for, one after the other."""
    row = db.one(
        "SELECT cron, promise_id, promise_timeout, param_headers, param_data, tags, next_run_at"
        " FROM schedules WHERE id = ?",
        (schedule_id,),
    )
    cron, template, timeout, headers, data, tags, time = row
    promise_id = template.replace("{{.timestamp}}", str(time)).replace("{{.id}}", schedule_id)
    if find_promise(db, promise_id) is None:
        lineage = dict.fromkeys(("resonate:branch", "resonate:parent"), promise_id)
        own = {"resonate:schedule": schedule_id, "resonate:origin": origin_of(promise_id), **lineage}
        param = wire.Value(None if headers is None else wire.json_object(headers), data)
        request = wire.PromiseCreate(promise_id, time + timeout, param, wire.json_object(tags) | own)
        promise = insert_promise(db, time if request.timeout_at > now else now, request, messages)
        assert promise is not None  # noqa: S101 - it was looked for
        insert_task(db, now, promise, 0, messages)
    db.execute(
        "UPDATE schedules SET last_run_at = ?, next_run_at = ? WHERE id = ?", (time, next_run(cron, time), schedule_id)
    )
